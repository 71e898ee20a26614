//! What the last run has found out about the network, in `network.json` of the state directory: a hint, so that a fleet that
//! reboots does not try everything again. It counts for a day, at the same gateway.

use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::clock;
use crate::path::Verdict;
use crate::path::deadlines::VERDICT_S;
use crate::transport::BaseStatus;

const FILE: &str = "network.json";
const ROUTES: &str = "/proc/net/route";
/// The longest file that is read.
const BYTES_MAX: u64 = 64 * 1024;

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// The device's clock in Unix milliseconds.
    at_ms: u64,
    /// The gateway in the kernel's notation; empty if there is none.
    gateway: String,
    /// The URL of the hub.
    pub(super) hub: String,
    /// The proxy through which it was reached.
    pub(super) proxy: String,
    /// The position of the base that worked.
    pub(super) base: usize,
    pub(super) verdict: Verdict,
}

impl Known {
    pub(super) fn new(hub: String, proxy: String, base: usize, verdict: Verdict) -> Self {
        Self { at_ms: clock::device_ms(), gateway: gateway(), hub, proxy, base, verdict }
    }

    /// Whether it was found out with this hub and base.
    pub(super) fn is_of(&self, hub: &str, base: Option<&BaseStatus>) -> bool {
        match base {
            Some(base) => (&self.hub, &self.proxy) == (&base.hub, &base.proxy),
            None => self.hub == hub,
        }
    }

    /// What is known here and now. A file that cannot be read is none.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        let path = dir.join(FILE);
        let length = std::fs::metadata(&path).ok()?.len();
        let text = (length <= BYTES_MAX).then(|| std::fs::read(&path).ok()).flatten()?;
        let known: Self = serde_json::from_slice(&text).ok()?;
        known.counts(clock::device_ms(), &gateway()).then_some(known)
    }

    fn counts(&self, now_ms: u64, gateway: &str) -> bool {
        // One from the future was written before the clock was set.
        let age_ms = now_ms.checked_sub(self.at_ms);
        age_ms.is_some_and(|age_ms| age_ms <= VERDICT_S * 1000) && self.gateway == gateway
    }

    /// Replaces the file. Without it the next run tries everything again.
    pub(super) fn write(&self, dir: &Path) {
        let write = || {
            let mut file = tempfile_in(dir)?;
            file.1.write_all(&serde_json::to_vec(self)?)?;
            std::fs::rename(&file.0, dir.join(FILE))
        };
        if let Err(error) = write() {
            tracing::debug!(%error, "{FILE} cannot be written");
        }
    }
}

/// The file that replaces the other one. Only one agent uses a state directory.
fn tempfile_in(dir: &Path) -> std::io::Result<(std::path::PathBuf, std::fs::File)> {
    let path = dir.join("network.json.new");
    let file = std::fs::File::create(&path)?;
    Ok((path, file))
}

/// The default gateways of IPv4, as the kernel writes them: which network this is.
fn gateway() -> String {
    let routes = std::fs::read_to_string(ROUTES).unwrap_or_default();
    default_gateways(&routes)
}

fn default_gateways(routes: &str) -> String {
    let mut gateways: Vec<&str> = routes
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (_interface, destination, gateway) =
                (fields.next()?, fields.next()?, fields.next()?);
            (destination == "00000000").then_some(gateway)
        })
        .collect();
    gateways.sort_unstable();
    gateways.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Rung;

    fn known() -> Known {
        let verdict = Verdict { rung: Rung::Rest, hold_s: 12, heartbeat_s: None, why: None };
        Known::new("http://h/".to_owned(), "none".to_owned(), 1, verdict)
    }

    #[test]
    fn a_verdict_counts_for_a_day_at_the_same_gateway() {
        let known = Known { at_ms: 1_000_000, gateway: "0101A8C0".to_owned(), ..known() };
        let day_ms = VERDICT_S * 1000;
        assert!(known.counts(1_000_000 + day_ms, "0101A8C0"));
        assert!(!known.counts(1_000_001 + day_ms, "0101A8C0"), "too old");
        assert!(!known.counts(999_999, "0101A8C0"), "from the future");
        assert!(!known.counts(1_000_001, "0201A8C0"), "another network");
    }

    #[test]
    fn what_was_written_is_read_and_a_broken_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Known::read(dir.path()), None);
        let known = known();
        known.write(dir.path());
        assert_eq!(Known::read(dir.path()), Some(known));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Known::read(dir.path()), None);
    }

    #[test]
    fn the_gateway_is_that_of_the_default_route() {
        let routes = "Iface\tDestination\tGateway \tFlags\n\
                      eth0\t00000000\t0101A8C0\t0003\neth0\t0001A8C0\t00000000\t0001\n";
        assert_eq!(default_gateways(routes), "0101A8C0");
    }
}
