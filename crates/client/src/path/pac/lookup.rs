//! Names and addresses for a PAC file, each within its limit: `dnsResolve` and `myIpAddress`.
//!
//! It blocks, on the thread of the evaluation. The system's resolver takes as long as it likes, so each of its calls has a thread
//! of its own, which is not waited for beyond the limit.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::sync::mpsc;
use std::time::Instant;

use bellwire_proto::limits::{PAC_LOOKUP_TIMEOUT, PAC_LOOKUPS_MAX};

use crate::transport::Slots;

/// Bytes of a name that is looked up (RFC 1035, section 2.3.4, as text with a last dot).
const NAME_BYTES_MAX: usize = 254;
/// Addresses of a name that count.
const ADDRESSES_MAX: usize = 16;

/// The lookups at a time in this process, with those that are not waited for any more.
static UNDER_WAY: Slots = Slots::new(16);

/// Finds the addresses of a name; blocks.
pub(super) type ResolveFn = fn(&str) -> Vec<IpAddr>;

/// The addresses of a name by the system's resolver.
pub(super) fn of_system(name: &str) -> Vec<IpAddr> {
    let found = (name, 0).to_socket_addrs().map(|found| found.map(|address| address.ip()));
    found.map(|found| found.take(ADDRESSES_MAX).collect()).unwrap_or_default()
}

/// The lookups of one evaluation. A name is looked up once.
pub(super) struct Lookups {
    slots: &'static Slots,
    resolver: ResolveFn,
    deadline: Instant,
    known: RefCell<HashMap<String, Vec<IpAddr>>>,
    remaining: Cell<usize>,
}

/// Why a name is not looked up to the end.
#[derive(Debug, thiserror::Error)]
enum LookupFault {
    #[error("{names} other names wait for the DNS server already")]
    Busy { names: usize },
    #[error("the DNS server did not answer in time")]
    Silent,
    #[error("there is no thread for a lookup: {0}")]
    NoThread(#[from] std::io::Error),
}

impl Lookups {
    /// Lookups that end at `deadline`.
    pub(super) fn new(resolver: ResolveFn, deadline: Instant) -> Self {
        let (known, remaining) = (RefCell::default(), Cell::new(PAC_LOOKUPS_MAX));
        Self { slots: &UNDER_WAY, resolver, deadline, known, remaining }
    }

    /// The addresses of a host, IPv4 first; of an address, itself. Empty when there are none or the limits are reached.
    pub(super) fn addresses(&self, host: &str) -> Vec<IpAddr> {
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if let Ok(address) = literal.unwrap_or(host).parse() {
            return vec![address];
        }
        if host.is_empty() || host.len() > NAME_BYTES_MAX || host.contains('\0') {
            return Vec::new();
        }
        if let Some(known) = self.known.borrow().get(host) {
            return known.clone();
        }
        let Some(remaining) = self.remaining.get().checked_sub(1) else {
            tracing::warn!(
                "the PAC file looks up more than {PAC_LOOKUPS_MAX} names: {host:?} counts as unknown"
            );
            return Vec::new();
        };
        self.remaining.set(remaining);
        let mut found = self.look_up(host).unwrap_or_else(|fault| {
            tracing::warn!("{fault}: for the PAC file, {host:?} counts as unknown");
            Vec::new()
        });
        found.sort_by_key(IpAddr::is_ipv6);
        self.known.borrow_mut().insert(host.to_owned(), found.clone());
        found
    }

    fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, LookupFault> {
        let slot = self.slots.take().ok_or(LookupFault::Busy { names: self.slots.max() })?;
        let (sender, found) = mpsc::sync_channel(1);
        let (resolver, name) = (self.resolver, host.to_owned());
        let lookup = move || {
            let _slot = slot;
            // The receiver may have been dropped.
            sender.send(resolver(&name)).ok();
        };
        std::thread::Builder::new().name("pac-lookup".to_owned()).spawn(lookup)?;
        let until_deadline = self.deadline.saturating_duration_since(Instant::now());
        let within = PAC_LOOKUP_TIMEOUT.min(until_deadline);
        found.recv_timeout(within).map_err(|_| LookupFault::Silent)
    }
}

/// The addresses that this machine sends from: to the internet first, else to private networks. Nothing is sent to find them.
/// 127.0.0.1 without a network.
pub(super) fn own_addresses() -> Vec<IpAddr> {
    // Addresses for documentation (RFC 5737, RFC 3849), to which default routes lead as to any other.
    let elsewhere = ["192.0.2.1:53", "[2001:db8::1]:53"];
    // Private networks (RFC 1918, RFC 4193), for machines without a default route.
    let private = ["10.0.0.1:53", "172.16.0.1:53", "192.168.0.1:53", "[fc00::1]:53"];
    for targets in [&elsewhere[..], &private[..]] {
        let found: Vec<IpAddr> =
            targets.iter().filter_map(|target| address_towards(target)).collect();
        if !found.is_empty() {
            return found;
        }
    }
    vec![Ipv4Addr::LOCALHOST.into()]
}

/// The address from which packets to `target` would be sent: connecting UDP sends nothing.
fn address_towards(target: &str) -> Option<IpAddr> {
    let target: SocketAddr = target.parse().ok()?;
    let any = match target {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn lookups(resolver: ResolveFn) -> Lookups {
        Lookups::new(resolver, Instant::now() + Duration::from_secs(60))
    }

    #[test]
    fn addresses_need_no_lookup_and_ipv4_is_first() {
        let none = lookups(|name| panic!("{name} is looked up"));
        for (host, expected) in
            [("10.0.0.7", "10.0.0.7"), ("::1", "::1"), ("[2001:db8::7]", "2001:db8::7")]
        {
            assert_eq!(none.addresses(host), [expected.parse::<IpAddr>().unwrap()]);
        }
        assert!(none.addresses("").is_empty() && none.addresses(&"x".repeat(300)).is_empty());
        let both = lookups(|_| vec!["::1".parse().unwrap(), "10.0.0.7".parse().unwrap()]);
        assert_eq!(both.addresses("hub.test")[0], "10.0.0.7".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn a_name_is_looked_up_once_and_not_more_than_32_are() {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        let counted = lookups(|_| {
            CALLS.fetch_add(1, Ordering::Relaxed);
            vec![Ipv4Addr::LOCALHOST.into()]
        });
        for n in 0..100 {
            counted.addresses("hub.test");
            counted.addresses(&format!("hub-{n}.test"));
        }
        assert_eq!(CALLS.load(Ordering::Relaxed), PAC_LOOKUPS_MAX);
    }

    #[test]
    fn a_silent_dns_server_makes_a_name_unknown_at_the_deadline_of_the_evaluation() {
        fn silent(_: &str) -> Vec<IpAddr> {
            loop {
                std::thread::park();
            }
        }
        let lookups = Lookups::new(silent, Instant::now() + Duration::from_millis(20));
        assert!(lookups.addresses("hub.test").is_empty());
    }

    /// A busy process was logged as a silent DNS server.
    #[test]
    fn a_lookup_that_has_to_wait_for_others_is_not_blamed_on_the_dns_server() {
        static NONE: Slots = Slots::new(0);
        let busy = Lookups { slots: &NONE, ..lookups(|name| panic!("{name} is looked up")) };
        let fault = busy.look_up("hub.test").unwrap_err();
        assert!(matches!(fault, LookupFault::Busy { .. }), "{fault}");
        assert!(busy.addresses("hub.test").is_empty());
        let silent = Lookups::new(
            |_| loop {
                std::thread::park()
            },
            Instant::now(),
        );
        let fault = silent.look_up("hub.test").unwrap_err();
        assert!(matches!(fault, LookupFault::Silent), "{fault}");
    }

    #[test]
    fn own_addresses_are_never_unspecified_and_never_none() {
        let own = own_addresses();
        assert!(!own.is_empty() && own.iter().all(|address| !address.is_unspecified()), "{own:?}");
    }
}
