//! How much one address, one token and all together may ask for: requests per second, connections, bytes; and how
//! failed credentials slow down the address that sends them. `docs/config.md` says how to size it.
//!
//! - An IPv6 address counts by its /64, which is what one customer is given. A loopback address is not limited unless that
//!   is set: it is this machine, or a proxy on it that is not listed as trusted.
//! - A credential that works is never slowed down by others that do not, from the same address: one appliance with an old
//!   token must not lock out those behind the same NAT. A guesser gains nothing by that, since a secret has 256 bits. Who
//!   sends one that does not work is answered 429 instead of 401 after some, whatever the reason is.
//!
//! Memory is bounded: the rates are in a table of fixed size (`quota/rates.rs`), the counts have an entry for what is
//! open (`quota/shares.rs`), which is bounded by the connections.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use bellwire_core::Instant;
use bellwire_proto::limits::{FAILED_CREDENTIALS, RATE_BURST_S, RETRY_AFTER_FAILED_S_MAX};
use bellwire_proto::{Code, Problem, RoleName};

use crate::config::Quotas;

mod rates;
mod shares;

use rates::{Rates, Table};
pub(crate) use shares::Share;
use shares::{Shares, Total, TotalReservation};

/// The quotas of a hub, and what is used of them.
#[derive(Debug)]
pub(crate) struct Quota {
    quotas: Quotas,
    rates: Rates,
    connections: Arc<Shares>,
    body_bytes: Arc<Shares>,
    all_body_bytes: Arc<Total>,
}

/// Too much was asked for.
#[derive(Debug)]
pub(crate) struct Exceeded {
    pub(crate) problem: Problem,
    /// When it is worth another try, in seconds.
    pub(crate) retry_after_s: u64,
}

/// Bytes of a body. Dropped, they are given back.
#[derive(Debug, Default)]
pub(crate) struct HeldBytes {
    address: Share,
    token: Share,
    all: Option<TotalReservation>,
}

/// Whose part it is. The number is never shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Everybody,
    Address(IpAddr),
    Token(u128),
}

impl Quota {
    pub(crate) fn new(quotas: Quotas) -> Self {
        Self {
            quotas,
            rates: Rates::default(),
            connections: Arc::default(),
            body_bytes: Arc::default(),
            all_body_bytes: Arc::default(),
        }
    }

    /// A request of this address, before it is looked at.
    pub(crate) fn request(&self, address: Option<IpAddr>, now: Instant) -> Result<(), Exceeded> {
        let Quotas { requests_per_address, requests_max, .. } = self.quotas;
        if let Some(address) = self.limited(address) {
            self.take(Key::Address(address), requests_per_address, now, "of this address")?;
        }
        self.take(Key::Everybody, requests_max, now, "of all together")
    }

    /// A request with this token, which works.
    pub(crate) fn request_with(
        &self,
        token: &str,
        role: RoleName,
        now: Instant,
    ) -> Result<(), Exceeded> {
        let per_second = match role {
            RoleName::Device => self.quotas.requests_per_device,
            _ => self.quotas.requests_per_token,
        };
        if per_second == 0 {
            return Ok(());
        }
        self.take(Key::Token(self.rates.hash(token)), per_second, now, "with this token")
    }

    fn take(&self, key: Key, per_second: u64, now: Instant, whose: &str) -> Result<(), Exceeded> {
        if per_second == 0 {
            return Ok(());
        }
        let taken =
            self.rates.take(Table::Requests, &key, per_second, per_second * RATE_BURST_S, now);
        taken.map_err(|wait_ms| Exceeded {
            problem: Problem::new(
                Code::RateLimited,
                format!(
                    "too many requests {whose}: {per_second} a second are allowed; try again later"
                ),
            ),
            retry_after_s: wait_ms.div_ceil(1000).max(1),
        })
    }

    /// A credential of this address does not work: how long it is to wait, once there were more than some.
    pub(crate) fn failed_credential(
        &self,
        address: Option<IpAddr>,
        now: Instant,
    ) -> Option<Exceeded> {
        let address = self.limited(address)?;
        let (free, one_in_s) = FAILED_CREDENTIALS;
        let excess = self.rates.fail(&Key::Address(address), free, one_in_s, now)?;
        let retry_after_s = (1_u64 << excess.min(16)).min(RETRY_AFTER_FAILED_S_MAX);
        let detail = "too many credentials of this address did not work; put a valid one in place, and try again later";
        Some(Exceeded { problem: Problem::new(Code::RateLimited, detail), retry_after_s })
    }

    /// A connection of this address, or a request on one that carries many; `None` when there are too many.
    pub(crate) fn connection(&self, address: IpAddr) -> Option<Share> {
        let most = self.quotas.connections_per_address;
        match self.limited(Some(address)) {
            Some(address) if most > 0 => {
                let key = self.rates.hash(Key::Address(address));
                self.connections.take(key, 1, most)
            }
            _ => Some(Share::default()),
        }
    }

    /// One more stream of an observer or a watcher with a token that has so many.
    pub(crate) fn watcher(&self, watching: usize) -> Result<(), Problem> {
        let most = self.quotas.watchers_per_token;
        if most > 0 && watching as u64 >= most {
            let detail = format!(
                "a token may have {most} streams of events, and this one has; close one first"
            );
            return Err(Problem::new(Code::RateLimited, detail));
        }
        Ok(())
    }

    /// Another command of a sender whose commands take so many bytes in the store.
    pub(crate) fn stored(&self, bytes: u64) -> Result<(), Problem> {
        let most = self.quotas.store_bytes_per_token;
        if most > 0 && bytes >= most {
            let detail = format!(
                "the commands with this token take the {most} bytes that they may (store_bytes_per_token); try again when the \
                 retention of older ones has elapsed (history)"
            );
            return Err(Problem::new(Code::QueueFull, detail));
        }
        Ok(())
    }

    /// The bytes of a body that is about to be read; they are held until it has been acted upon.
    pub(crate) fn body(
        &self,
        address: Option<IpAddr>,
        token: Option<&str>,
        bytes: u64,
    ) -> Result<HeldBytes, Exceeded> {
        let Quotas { body_bytes_per_address, body_bytes_per_token, body_bytes_max, .. } =
            self.quotas;
        let refused = |whose: &str, most: u64| {
            let detail = format!(
                "bodies {whose} of more than {most} bytes are being received; try again later"
            );
            Exceeded { problem: Problem::new(Code::RateLimited, detail), retry_after_s: 1 }
        };
        let mut held = HeldBytes::default();
        if bytes == 0 {
            return Ok(held);
        }
        let take = |key: Key, most: u64| self.body_bytes.take(self.rates.hash(key), bytes, most);
        if let Some(address) = self.limited(address).filter(|_| body_bytes_per_address > 0) {
            let taken = take(Key::Address(address), body_bytes_per_address);
            held.address =
                taken.ok_or_else(|| refused("of this address", body_bytes_per_address))?;
        }
        if let Some(token) = token.filter(|_| body_bytes_per_token > 0) {
            let taken = take(Key::Token(self.rates.hash(token)), body_bytes_per_token);
            held.token = taken.ok_or_else(|| refused("with this token", body_bytes_per_token))?;
        }
        if body_bytes_max > 0 {
            let taken = self.all_body_bytes.take(bytes, body_bytes_max);
            held.all = Some(taken.ok_or_else(|| refused("in all", body_bytes_max))?);
        }
        Ok(held)
    }

    /// The address as it counts; `None` for one that is not limited.
    fn limited(&self, address: Option<IpAddr>) -> Option<IpAddr> {
        let address = address?.to_canonical();
        if address.is_loopback() && !self.quotas.limit_loopback {
            return None;
        }
        Some(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(set: impl FnOnce(&mut Quotas)) -> Quota {
        let mut quotas = Quotas::default();
        set(&mut quotas);
        Quota::new(quotas)
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn at(ms: u64) -> Instant {
        Instant::from_ms(1_000_000 + ms)
    }

    #[test]
    fn an_address_has_its_rate_with_a_burst_and_no_other_address_suffers() {
        let quota = quota(|quotas| quotas.requests_per_address = 10);
        let passed = |address: &str, ms| quota.request(ip(address), at(ms)).is_ok();
        let burst = (0..1000).filter(|_| passed("192.0.2.1", 0)).count() as u64;
        assert_eq!(burst, 10 * RATE_BURST_S);
        let refused = quota.request(ip("192.0.2.1"), at(0)).unwrap_err();
        assert_eq!((refused.problem.code, refused.retry_after_s), (Code::RateLimited, 1));
        assert!(passed("192.0.2.2", 0));
        assert!(
            passed("192.0.2.1", 100) && !passed("192.0.2.1", 100),
            "one each tenth of a second"
        );
        assert!(passed("::ffff:192.0.2.1", 200) && !passed("192.0.2.1", 200), "the same address");
    }

    #[test]
    fn of_ipv6_a_64_counts_and_loopback_only_if_that_is_set() {
        let mut of_64 = quota(|quotas| quotas.requests_per_address = 1);
        let passed = |quota: &Quota, address: &str| {
            (0..100)
                .filter(|n| quota.request(ip(&address.replace('N', &n.to_string())), at(0)).is_ok())
                .count()
        };
        assert_eq!(passed(&of_64, "2001:db8::N") as u64, RATE_BURST_S);
        assert_eq!(passed(&of_64, "2001:db8:0:1::N") as u64, RATE_BURST_S, "another /64");
        assert_eq!((passed(&of_64, "127.0.0.1"), passed(&of_64, "::1")), (100, 100));
        of_64.quotas.limit_loopback = true;
        assert_eq!(passed(&of_64, "127.0.0.1") as u64, RATE_BURST_S);
    }

    #[test]
    fn a_token_has_its_rate_by_its_role_and_all_together_have_one() {
        let limits = quota(|quotas| {
            (quotas.requests_per_device, quotas.requests_per_token) = (1, 0);
        });
        let passed = |token: &str, role| {
            (0..100).filter(|_| limits.request_with(token, role, at(0)).is_ok()).count()
        };
        assert_eq!(passed("a", RoleName::Device) as u64, RATE_BURST_S);
        assert_eq!(passed("b", RoleName::Device) as u64, RATE_BURST_S);
        assert_eq!(passed("c", RoleName::Operator), 100, "0 is no limit");
        let limits = quota(|quotas| quotas.requests_max = 2);
        let all = (0..100u8).filter(|n| limits.request(ip(&format!("192.0.2.{n}")), at(0)).is_ok());
        assert_eq!(all.count() as u64, 2 * RATE_BURST_S);
    }

    #[test]
    fn failed_credentials_make_their_address_wait_longer_and_longer_and_it_recovers() {
        let quota = quota(|_| {});
        let fail = |ms| quota.failed_credential(ip("192.0.2.1"), at(ms)).map(|e| e.retry_after_s);
        let (free, one_in_s) = FAILED_CREDENTIALS;
        assert!((0..free).all(|_| fail(0).is_none()));
        let waits: Vec<u64> = (0..12).filter_map(|_| fail(0)).collect();
        assert_eq!(waits[..5], [2, 4, 8, 16, 32]);
        assert_eq!(*waits.last().unwrap(), RETRY_AFTER_FAILED_S_MAX);
        assert!(quota.failed_credential(ip("192.0.2.2"), at(0)).is_none());
        assert_eq!(fail(1_000 * one_in_s * (free + 20)), None, "after a pause");
    }

    #[test]
    fn what_is_open_counts_until_it_is_dropped() {
        let quota = quota(|quotas| {
            quotas.connections_per_address = 2;
            (quotas.body_bytes_per_address, quotas.body_bytes_max) = (100, 150);
        });
        let (a, b) = (ip("192.0.2.1").unwrap(), ip("192.0.2.2").unwrap());
        let open = [quota.connection(a), quota.connection(a)];
        assert!(open.iter().all(Option::is_some));
        assert!(quota.connection(a).is_none() && quota.connection(b).is_some());
        drop(open);
        assert!(quota.connection(a).is_some());
        assert_eq!(quota.connections.len(), 0, "nothing is kept of what is closed");
        let held = quota.body(Some(a), None, 100).unwrap();
        assert!(quota.body(Some(a), None, 1).is_err());
        assert!(quota.body(Some(b), None, 51).is_err(), "in all");
        assert_eq!(quota.body_bytes.len(), 1, "what was refused holds nothing");
        drop(held);
        assert!(quota.body(Some(b), None, 51).is_ok());
    }
}
