//! What the last run has found out about the network, in `network.json` of the state directory: a hint, so that a fleet that
//! reboots does not try everything again. It counts for a day, at the same gateway.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::clock;
use crate::path::Verdict;
use crate::path::deadlines::VERDICT_S;
use crate::path::wake::default_gateways;
use crate::transport::Transport;

const FILE: &str = "network.json";
/// What replaces it.
const NEW_FILE: &str = "network.json.new";
/// The longest file that is read.
const BYTES_MAX: u64 = 64 * 1024;

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// The device's clock in Unix milliseconds.
    at_ms: u64,
    /// The gateways in the kernel's notation; empty if there is none.
    gateway: String,
    /// Since when the heartbeat is a shorter one, by the same clock.
    #[serde(default)]
    heartbeat_since_ms: Option<u64>,
    #[serde(flatten)]
    pub(super) found: Found,
}

/// What was found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Found {
    /// The URL of the hub.
    pub(super) hub: String,
    /// The proxy through which it was reached.
    pub(super) proxy: String,
    pub(super) verdict: Verdict,
}

impl Found {
    /// Whether it was found out with this hub and the base in use; where none is yet, with one that may be.
    pub(super) fn is_of(&self, hub: &str, transport: &dyn Transport) -> bool {
        match transport.base() {
            Some(base) => (&self.hub, &self.proxy) == (&base.hub, &base.proxy),
            None => self.hub == hub && transport.may_use(&self.hub, &self.proxy),
        }
    }

    /// Whether the next run would do something else with the other one: the reason is for people alone.
    fn differs_from(&self, other: &Self) -> bool {
        let hints = |found: &Self| {
            let Verdict { rung, hold_s, heartbeat_s, why: _ } = found.verdict;
            (rung, hold_s, heartbeat_s)
        };
        (&self.hub, &self.proxy) != (&other.hub, &other.proxy) || hints(self) != hints(other)
    }
}

impl Known {
    /// What is known now, after what was known before. Blocks while the kernel lists its routes.
    fn now(found: Found, before: Option<&Self>) -> Self {
        Self::at(clock::device_ms(), default_gateways(), found, before)
    }

    fn at(at_ms: u64, gateway: String, found: Found, before: Option<&Self>) -> Self {
        let heartbeat_s = found.verdict.heartbeat_s;
        let before = before.filter(|before| before.found.verdict.heartbeat_s == heartbeat_s);
        let since_ms = before.and_then(|before| before.heartbeat_since_ms).unwrap_or(at_ms);
        let heartbeat_since_ms = heartbeat_s.map(|_| since_ms.min(at_ms));
        Self { at_ms, gateway, heartbeat_since_ms, found }
    }

    /// What is known here and now. A file that cannot be read is none.
    pub(super) fn read(dir: &Path) -> Option<Found> {
        Self::load(dir)?.now_known(clock::device_ms(), &default_gateways())
    }

    fn load(dir: &Path) -> Option<Self> {
        let path = dir.join(FILE);
        let length = std::fs::metadata(&path).ok()?.len();
        let text = (length <= BYTES_MAX).then(|| std::fs::read(&path).ok()).flatten()?;
        serde_json::from_slice(&text).ok()
    }

    /// What counts of it. A shorter heartbeat does for a day, however often it was written: else it would be requested for ever.
    fn now_known(mut self, now_ms: u64, gateway: &str) -> Option<Found> {
        let age_ms = self.heartbeat_since_ms.and_then(|since_ms| now_ms.checked_sub(since_ms));
        if age_ms.is_none_or(|age_ms| age_ms > VERDICT_S * 1000) {
            self.found.verdict.heartbeat_s = None;
        }
        self.counts(now_ms, gateway).then_some(self.found)
    }

    fn counts(&self, now_ms: u64, gateway: &str) -> bool {
        self.age_ms(now_ms).is_some_and(|age_ms| age_ms <= VERDICT_S * 1000)
            && self.gateway == gateway
    }

    /// `None` for one from the future: it was written before the clock was set.
    fn age_ms(&self, now_ms: u64) -> Option<u64> {
        now_ms.checked_sub(self.at_ms)
    }

    /// Whether it is to be written, after `written` was: flash wears out, so only what the next run needs is. Halfway to its
    /// end the same is written again.
    fn replaces(&self, written: Option<&Self>) -> bool {
        written.is_none_or(|written| {
            self.found.differs_from(&written.found)
                || self.gateway != written.gateway
                || written.age_ms(self.at_ms).is_none_or(|age_ms| age_ms > VERDICT_S * 500)
        })
    }

    /// Replaces the file. Without it the next run tries everything again. Only one agent uses a state directory.
    fn write(&self, dir: &Path) -> io::Result<()> {
        let new = dir.join(NEW_FILE);
        let write = || {
            std::fs::write(&new, serde_json::to_vec(self)?)?;
            std::fs::rename(&new, dir.join(FILE))
        };
        // On a full disk it would occupy what the journal needs.
        write().inspect_err(|_| drop(std::fs::remove_file(&new)))
    }
}

/// Writes what is found out, beside the event loop: a disk may be slow. One write at a time; of what is found out meanwhile, the
/// last is written.
pub(super) struct KnownWriter(watch::Sender<Option<Found>>);

impl KnownWriter {
    pub(super) fn new(dir: PathBuf) -> Self {
        let (sender, found) = watch::channel(None);
        drop(tokio::spawn(write_each(dir, found)));
        Self(sender)
    }

    pub(super) fn write(&self, found: Found) {
        self.0.send_replace(Some(found));
    }
}

/// Ends with the writer, after its last write.
async fn write_each(dir: PathBuf, mut found: watch::Receiver<Option<Found>>) {
    let mut file = KnownFile { dir, written: None, fails: false };
    while found.changed().await.is_ok() {
        let Some(found) = found.borrow_and_update().clone() else { continue };
        file.write(found).await;
    }
}

struct KnownFile {
    dir: PathBuf,
    /// By this run, last.
    written: Option<Known>,
    /// The last write failed, and that was logged.
    fails: bool,
}

impl KnownFile {
    async fn write(&mut self, found: Found) {
        let (dir, before) = (self.dir.clone(), self.written.take());
        let write = tokio::task::spawn_blocking(move || {
            let of_last_run = if before.is_none() { Known::load(&dir) } else { None };
            let known = Known::now(found, before.as_ref().or(of_last_run.as_ref()));
            match known.replaces(before.as_ref()) {
                true => known.write(&dir).map(|()| Some(known)),
                false => Ok(before),
            }
        });
        match write.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(known) => (self.written, self.fails) = (known, false),
            // Once, and again after one that succeeded; what is found out next is written anyway.
            Err(error) if !std::mem::replace(&mut self.fails, true) => tracing::warn!(
                "what is known of the network cannot be stored, so that the next start tries everything again: {}: {error}; make \
                 room on its disk, or let the agent's user write there",
                self.dir.join(FILE).display()
            ),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::path::Rung;

    fn found() -> Found {
        let verdict = Verdict { rung: Rung::Rest, hold_s: 12, heartbeat_s: None, why: None };
        Found { hub: "http://h/".to_owned(), proxy: "none".to_owned(), verdict }
    }

    /// A log, and its text so far.
    fn log() -> (impl tracing::Subscriber, impl Fn() -> String) {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        let text = move || String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        (log.finish(), text)
    }

    fn known() -> Known {
        Known::at(1_000_000, "0101A8C0".to_owned(), found(), None)
    }

    #[test]
    fn a_verdict_counts_for_a_day_at_the_same_gateway() {
        let known = known();
        let day_ms = VERDICT_S * 1000;
        assert!(known.counts(1_000_000 + day_ms, "0101A8C0"));
        assert!(!known.counts(1_000_001 + day_ms, "0101A8C0"), "too old");
        assert!(!known.counts(999_999, "0101A8C0"), "from the future");
        assert!(!known.counts(1_000_001, "0201A8C0"), "another network");
    }

    /// It was a line of the level debug, and its copy stayed behind.
    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_one_warning_and_leaves_no_copy() {
        let dir = tempfile::tempdir().unwrap();
        // No file replaces a directory.
        std::fs::create_dir(dir.path().join(FILE)).unwrap();
        let (log, text) = log();
        let _guard = tracing::subscriber::set_default(log);
        let mut file = KnownFile { dir: dir.path().to_owned(), written: None, fails: false };
        for hold_s in [10, 11, 12] {
            let verdict = Verdict { hold_s, ..found().verdict };
            file.write(Found { verdict, ..found() }).await;
        }
        let text = text();
        assert_eq!(text.matches("make room on its disk").count(), 1, "{text}");
        assert!(text.contains("WARN") && text.contains(FILE), "{text}");
        assert!(!dir.path().join(NEW_FILE).exists(), "the copy is left behind");
    }

    /// The file was written again twice a day, and with it the heartbeat, for as long as the device lived.
    #[test]
    fn a_shorter_heartbeat_counts_for_a_day_although_the_rest_is_written_again() {
        let day_ms = VERDICT_S * 1000;
        let found =
            Found { verdict: Verdict { heartbeat_s: Some(7), ..found().verdict }, ..found() };
        let first = Known::at(1_000_000, String::new(), found.clone(), None);
        let again = Known::at(1_000_000 + day_ms, String::new(), found.clone(), Some(&first));
        let known = |known: &Known, now_ms| known.clone().now_known(now_ms, "").unwrap();
        assert_eq!(known(&again, 1_000_000 + day_ms), found);
        let later = known(&again, 1_000_001 + day_ms);
        assert_eq!(later.verdict, Verdict { heartbeat_s: None, ..found.verdict.clone() });
        let shorter = Verdict { heartbeat_s: Some(5), ..found.verdict.clone() };
        let shorter = Found { verdict: shorter, ..found };
        let shorter = Known::at(1_000_000 + day_ms, String::new(), shorter, Some(&again));
        assert_eq!(known(&shorter, 1_000_001 + day_ms).verdict.heartbeat_s, Some(5), "a new one");
    }

    #[test]
    fn what_was_written_is_read_and_a_broken_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Known::read(dir.path()), None);
        Known::now(found(), None).write(dir.path()).unwrap();
        assert_eq!(Known::read(dir.path()), Some(found()));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Known::read(dir.path()), None);
    }

    /// Each reason with its seconds was a write to the flash, within the event loop.
    #[test]
    fn only_what_the_next_run_needs_is_written_again() {
        let written = known();
        let is_written = |change: fn(&mut Known)| {
            let mut known = written.clone();
            change(&mut known);
            known.replaces(Some(&written))
        };
        assert!(written.replaces(None));
        assert!(!is_written(|_| {}));
        let reason = Some("a write was 1.3 s late".to_owned());
        assert!(!written.replaces(Some(&Known {
            found: Found { verdict: Verdict { why: reason, ..found().verdict }, ..found() },
            ..known()
        })));
        assert!(is_written(|known| known.found.verdict.rung = Rung::Plain));
        assert!(is_written(|known| known.found.verdict.hold_s = 8));
        assert!(is_written(|known| known.found.verdict.heartbeat_s = Some(5)));
        assert!(is_written(|known| known.found.hub = "http://i/".to_owned()));
        assert!(is_written(|known| known.found.proxy = "http://p:1/".to_owned()));
        assert!(is_written(|known| known.gateway = "0201A8C0".to_owned()), "another network");
        assert!(
            !is_written(|known| known.at_ms += VERDICT_S * 500),
            "it counts for half a day yet"
        );
        assert!(is_written(|known| known.at_ms += VERDICT_S * 500 + 1), "soon too old");
        assert!(is_written(|known| known.at_ms = 0), "the clock was set back");
    }

    #[tokio::test]
    async fn the_last_that_was_found_out_is_written_although_the_agent_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, receiver) = watch::channel(None);
        let writes = tokio::spawn(write_each(dir.path().to_owned(), receiver));
        let writer = KnownWriter(sender);
        writer.write(found());
        let last = Found { hub: "http://i/".to_owned(), ..found() };
        writer.write(last.clone());
        drop(writer);
        writes.await.unwrap();
        assert_eq!(Known::read(dir.path()), Some(last));
    }
}
