//! A certificate by ACME (RFC 8555): obtained when there is none, renewed at two thirds of its life, kept in the data folder.
//!
//! The authority checks that the hub answers under each name: over plain HTTP (`http-01`), or in a TLS handshake
//! (`tls-alpn-01`, RFC 8737). Whichever the listeners allow is tried, the other one after a failure. A failure changes nothing
//! of what is served: the old certificate stays, and another attempt follows with a growing pause. `order.rs` is one
//! attempt, `files.rs` what is kept, `exchange.rs` the requests to the authority.

mod exchange;
mod files;
mod order;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bellwire_proto::Timestamp;
use bellwire_proto::limits::{ACME_ATTEMPT_TIMEOUT, ACME_RETRY_MAX, ACME_RETRY_MIN};
use rustls::sign::CertifiedKey;

use super::pair::{Pair, now};
use crate::config::{AcmeConfig, Config, Scheme};
use files::Files;

/// The protocol of a handshake in which an authority checks a name (RFC 8737, section 3).
pub(crate) const ACME_TLS_ALPN: &[u8] = b"acme-tls/1";
/// The longest sleep: the wall clock, by which certificates expire, may be set.
const LOOK: Duration = Duration::from_secs(60);

/// The certificate of these settings, and what its authority may ask for at the moment.
#[derive(Debug)]
pub(crate) struct Acme {
    config: AcmeConfig,
    files: Files,
    kinds: Vec<Kind>,
    current: RwLock<Option<Current>>,
    challenges: RwLock<Challenges>,
    issued: AtomicU64,
    failed: AtomicU64,
}

/// How the authority checks that the hub is behind a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http01,
    TlsAlpn01,
}

/// What answers the authority: the texts of `http-01` by token, the certificates of `tls-alpn-01` by name.
#[derive(Debug, Default)]
struct Challenges {
    texts: HashMap<String, String>,
    certificates: HashMap<String, Arc<CertifiedKey>>,
}

#[derive(Debug)]
struct Current {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    expires_at: Timestamp,
    renew_at: Timestamp,
    /// The same by the monotonic clock: a wall clock that is set back would put it off, and clients go by theirs.
    renew_by: Instant,
}

/// How the certificate by ACME stands, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcmeCounts {
    /// Certificates obtained since the start.
    pub issued: u64,
    /// Attempts that failed since the start.
    pub failed: u64,
    /// When the present one expires; `None` without one.
    pub expires_at: Option<Timestamp>,
}

impl Acme {
    /// Nothing is read and nothing asked yet.
    pub(super) fn new(config: &Config, acme: &AcmeConfig) -> Self {
        Self {
            config: acme.clone(),
            files: Files::in_folder(config.data_dir.join("acme")),
            kinds: kinds(config),
            current: RwLock::default(),
            challenges: RwLock::default(),
            issued: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// The text with which `http-01` is answered (RFC 8555, section 8.3).
    pub(crate) fn text(&self, token: &str) -> Option<String> {
        let challenges = self.challenges.read().unwrap_or_else(PoisonError::into_inner);
        challenges.texts.get(token).cloned()
    }

    /// The certificate with which `tls-alpn-01` is answered.
    pub(super) fn challenge(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let challenges = self.challenges.read().unwrap_or_else(PoisonError::into_inner);
        challenges.certificates.get(name).cloned()
    }

    /// The certificate, for one of its names or for any.
    pub(super) fn certificate(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let of_name = |current: &&Current| {
            name.is_none_or(|name| current.names.iter().any(|known| known == name))
        };
        current.as_ref().filter(of_name).map(|current| current.key.clone())
    }

    /// The first name of the certificate, and when it expires; `None` without one.
    pub(super) fn expiry(&self) -> Option<(String, Timestamp)> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let current = current.as_ref()?;
        Some((current.names.first().cloned().unwrap_or_default(), current.expires_at))
    }

    pub(crate) fn counts(&self) -> AcmeCounts {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        AcmeCounts {
            issued: self.issued.load(Relaxed),
            failed: self.failed.load(Relaxed),
            expires_at: current.as_ref().map(|current| current.expires_at),
        }
    }

    /// Uses the certificate of the folder, and obtains another whenever that is due. Ends only when it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        match self.files.certificate() {
            Ok(Some(pair)) => self.put(pair),
            Ok(None) => {}
            Err(error) => tracing::warn!("the certificate by ACME is obtained anew: {error}"),
        }
        let mut failures = 0;
        loop {
            let due_in = self.due_in();
            if !due_in.is_zero() {
                tokio::time::sleep(due_in.min(LOOK)).await;
                continue;
            }
            let attempt = tokio::time::timeout(ACME_ATTEMPT_TIMEOUT, self.obtain(failures)).await;
            self.forget_challenges();
            let Err(reason) = attempt.unwrap_or_else(|_| Err("it took too long".to_owned())) else {
                failures = 0;
                continue;
            };
            failures += 1;
            self.failed.fetch_add(1, Relaxed);
            let pause = pause(failures, random());
            self.report(&reason, failures, pause);
            tokio::time::sleep(pause).await;
        }
    }

    async fn obtain(&self, failures: u32) -> Result<(), String> {
        let kinds = self.kinds.len().max(1);
        let kind = self.kinds.get(failures as usize % kinds).copied();
        let kind = kind.ok_or("the hub has no listener that an authority could reach")?;
        let pair = order::obtain(self, kind).await?;
        let expires_at = pair.expires_at;
        self.put(pair);
        self.issued.fetch_add(1, Relaxed);
        tracing::info!(%expires_at, domains = self.config.domains.join(","), "obtained a certificate by ACME");
        Ok(())
    }

    fn put(&self, pair: Pair) {
        let renew_at = renew_at(pair.begins_at, pair.expires_at, random());
        let Pair { key, names, expires_at, .. } = pair;
        let renew_by = Instant::now() + renew_at.since(now());
        let current = Current { key, names, expires_at, renew_at, renew_by };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(current);
    }

    /// Zero when a certificate is to be obtained.
    fn due_in(&self) -> Duration {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let covers = |current: &&Current| {
            self.config.domains.iter().all(|domain| current.names.contains(domain))
        };
        let current = current.as_ref().filter(covers);
        let due_in = |current: &Current| {
            let remains = current.renew_by.saturating_duration_since(Instant::now());
            remains.min(current.renew_at.since(now()))
        };
        current.map_or(Duration::ZERO, due_in)
    }

    fn forget_challenges(&self) {
        *self.challenges.write().unwrap_or_else(PoisonError::into_inner) = Challenges::default();
    }

    fn report(&self, reason: &str, failures: u32, pause: Duration) {
        let served = match self.counts().expires_at {
            Some(at) if at > now() => format!("the present one is valid until {at}"),
            Some(at) => format!("the present one EXPIRED at {at}, and clients refuse it"),
            None => "there is none, and TLS cannot be spoken".to_owned(),
        };
        tracing::error!(
            failures,
            "no certificate by ACME for {} from {}: {reason}; {served}; tried again in {} s. The names must resolve to this hub, \
             which the authority must reach on port 80 by plain HTTP or on port 443 by TLS",
            self.config.domains.join(", "),
            self.config.directory,
            pause.as_secs()
        );
    }
}

/// What the listeners allow, the likeliest first: an authority connects to port 80 or 443, which may be mapped to others.
fn kinds(config: &Config) -> Vec<Kind> {
    let mut listeners: Vec<_> = config.listeners().collect();
    listeners.sort_by_key(|(listener, scheme)| listener.address.port() != scheme.default_port());
    let mut kinds = Vec::new();
    for (_, scheme) in listeners {
        let kind = if scheme == Scheme::Http { Kind::Http01 } else { Kind::TlsAlpn01 };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

/// Two thirds of the life, 3 % of it earlier or later, so that hubs that began together do not renew together.
fn renew_at(begins_at: Timestamp, expires_at: Timestamp, random: u16) -> Timestamp {
    let life_ms = u64::try_from(expires_at.since(begins_at).as_millis()).unwrap_or(u64::MAX);
    let spread = life_ms / 100 * 6;
    let jitter = spread / u64::from(u16::MAX) * u64::from(random)
        + spread % u64::from(u16::MAX) * u64::from(random) / u64::from(u16::MAX);
    begins_at.after(Duration::from_millis(life_ms / 3 * 2 - spread / 2 + jitter))
}

/// The pause after so many failures in a row, a fifth more or less.
fn pause(failures: u32, random: u16) -> Duration {
    let grown = ACME_RETRY_MIN.saturating_mul(4_u32.saturating_pow(failures.saturating_sub(1)));
    let pause = grown.min(ACME_RETRY_MAX);
    pause * 4 / 5 + pause * 2 / 5 * u32::from(random) / u32::from(u16::MAX)
}

fn random() -> u16 {
    let mut bytes = [0; 2];
    // Without entropy there is no jitter.
    let _ = getrandom::fill(&mut bytes);
    u16::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_more_or_less() {
        let (begin, day) = (Timestamp::from_unix_ms(1_000_000), 86_400_000);
        for life_ms in [90 * day, day, 300_000, 0] {
            let end = Timestamp::from_unix_ms(1_000_000 + life_ms);
            for random in [0, 1, 30_000, u16::MAX] {
                let at = renew_at(begin, end, random).since(begin).as_millis() as u64;
                let (earliest, latest) = (life_ms * 63 / 100, life_ms * 70 / 100);
                assert!((earliest..=latest).contains(&at), "{life_ms} {random}: {at}");
            }
        }
        let end = Timestamp::from_unix_ms(1_000_000 + 90 * day);
        assert!(renew_at(begin, end, 0) < renew_at(begin, end, u16::MAX));
    }

    #[test]
    fn the_pauses_between_attempts_grow_to_an_hour() {
        let pauses: Vec<u64> = (1..8).map(|n| pause(n, u16::MAX / 2).as_secs()).collect();
        assert_eq!(pauses, [9, 39, 159, 639, 2559, 3599, 3599]);
        assert!(pause(u32::MAX, u16::MAX) <= ACME_RETRY_MAX * 6 / 5);
    }

    #[test]
    fn the_likelier_way_for_the_authority_is_tried_first() {
        let kinds = |listen: &str| {
            let file = format!("listen = [{listen}]\n[acme]\ndomains = ['a.example']\n");
            super::kinds(&Config::read(Some(&file), [], []).unwrap())
        };
        assert_eq!(kinds("'http://0.0.0.0', 'https://0.0.0.0'"), [Kind::Http01, Kind::TlsAlpn01]);
        assert_eq!(
            kinds("'http://0.0.0.0:8080', 'https://0.0.0.0'"),
            [Kind::TlsAlpn01, Kind::Http01]
        );
        assert_eq!(kinds("'https://0.0.0.0:8443'"), [Kind::TlsAlpn01]);
    }
}
