//! What the last run has found out about the network, in `network.json` of the state directory: a hint, so that a fleet that
//! reboots does not try everything again. It counts for a day, at the same gateway.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::clock;
use crate::path::PathHint;
use crate::path::deadlines::HINT_S;
use crate::path::wake::default_gateways;
use crate::transport::Transport;

const FILE: &str = "network.json";
/// What replaces it.
const NEW_FILE: &str = "network.json.new";
/// The longest file that is read.
const BYTES_MAX: u64 = 64 * 1024;

/// A finding as it is stored, with the time and the network at which it counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredFinding {
    /// The device's clock in Unix milliseconds.
    at_ms: u64,
    /// The gateways in the kernel's notation; empty if there is none.
    gateway: String,
    /// Since when the heartbeat is a shorter one, by the same clock.
    #[serde(default)]
    heartbeat_since_ms: Option<u64>,
    #[serde(flatten)]
    finding: NetworkFinding,
}

/// What a run has found out about the network: a hint for the path, and the base that it was found out with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetworkFinding {
    /// The URL of the hub.
    pub(super) hub: String,
    /// The proxy through which it was reached.
    pub(super) proxy: String,
    /// `verdict` in the file, as earlier versions named it.
    #[serde(rename = "verdict")]
    pub(super) hint: PathHint,
}

impl NetworkFinding {
    /// Whether it was found out with this hub and the base in use; where none is yet, with one that may be.
    pub(super) fn matches_base(&self, hub: &str, transport: &dyn Transport) -> bool {
        match transport.base() {
            Some(base) => (&self.hub, &self.proxy) == (&base.hub, &base.proxy),
            None => self.hub == hub && transport.may_use(&self.hub, &self.proxy),
        }
    }

    /// Whether the next run would do something else with the other one: the reason is for people alone.
    fn differs_from(&self, other: &Self) -> bool {
        let hints = |finding: &Self| {
            let PathHint { mode, hold_s, heartbeat_s, why: _ } = finding.hint;
            (mode, hold_s, heartbeat_s)
        };
        (&self.hub, &self.proxy) != (&other.hub, &other.proxy) || hints(self) != hints(other)
    }
}

impl StoredFinding {
    /// The finding as it is stored now, after `before` was stored. Blocks while the kernel lists its routes.
    fn now(finding: NetworkFinding, before: Option<&Self>) -> Self {
        Self::at(clock::device_ms(), default_gateways(), finding, before)
    }

    fn at(at_ms: u64, gateway: String, finding: NetworkFinding, before: Option<&Self>) -> Self {
        let heartbeat_s = finding.hint.heartbeat_s;
        let before = before.filter(|before| before.finding.hint.heartbeat_s == heartbeat_s);
        let since_ms = before.and_then(|before| before.heartbeat_since_ms).unwrap_or(at_ms);
        let heartbeat_since_ms = heartbeat_s.map(|_| since_ms.min(at_ms));
        Self { at_ms, gateway, heartbeat_since_ms, finding }
    }

    /// The stored finding that counts here and now. A file that cannot be read is none.
    pub(super) fn read(dir: &Path) -> Option<NetworkFinding> {
        Self::load(dir)?.into_current(clock::device_ms(), &default_gateways())
    }

    fn load(dir: &Path) -> Option<Self> {
        let path = dir.join(FILE);
        let length = std::fs::metadata(&path).ok()?.len();
        let text = (length <= BYTES_MAX).then(|| std::fs::read(&path).ok()).flatten()?;
        serde_json::from_slice(&text).ok()
    }

    /// What counts of it. A shorter heartbeat does for a day, however often it was written: else it would be requested for ever.
    fn into_current(mut self, now_ms: u64, gateway: &str) -> Option<NetworkFinding> {
        let age_ms = self.heartbeat_since_ms.and_then(|since_ms| now_ms.checked_sub(since_ms));
        if age_ms.is_none_or(|age_ms| age_ms > HINT_S * 1000) {
            self.finding.hint.heartbeat_s = None;
        }
        self.counts(now_ms, gateway).then_some(self.finding)
    }

    fn counts(&self, now_ms: u64, gateway: &str) -> bool {
        self.age_ms(now_ms).is_some_and(|age_ms| age_ms <= HINT_S * 1000) && self.gateway == gateway
    }

    /// `None` for one from the future: it was written before the clock was set.
    fn age_ms(&self, now_ms: u64) -> Option<u64> {
        now_ms.checked_sub(self.at_ms)
    }

    /// Whether it is to be written, after `written` was: flash wears out, so only what the next run needs is. Halfway to its
    /// end the same is written again.
    fn replaces(&self, written: Option<&Self>) -> bool {
        written.is_none_or(|written| {
            self.finding.differs_from(&written.finding)
                || self.gateway != written.gateway
                || written.age_ms(self.at_ms).is_none_or(|age_ms| age_ms > HINT_S * 500)
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
pub(super) struct FindingWriter(watch::Sender<Option<NetworkFinding>>);

impl FindingWriter {
    pub(super) fn new(dir: PathBuf) -> Self {
        let (sender, finding) = watch::channel(None);
        drop(tokio::spawn(write_each(dir, finding)));
        Self(sender)
    }

    pub(super) fn write(&self, finding: NetworkFinding) {
        self.0.send_replace(Some(finding));
    }
}

/// Ends with the writer, after its last write.
async fn write_each(dir: PathBuf, mut finding: watch::Receiver<Option<NetworkFinding>>) {
    let mut file = FindingFile { dir, written: None, fails: false };
    while finding.changed().await.is_ok() {
        let Some(finding) = finding.borrow_and_update().clone() else { continue };
        file.write(finding).await;
    }
}

struct FindingFile {
    dir: PathBuf,
    /// By this run, last.
    written: Option<StoredFinding>,
    /// The last write failed, and that was logged.
    fails: bool,
}

impl FindingFile {
    async fn write(&mut self, finding: NetworkFinding) {
        let (dir, before) = (self.dir.clone(), self.written.take());
        let write = tokio::task::spawn_blocking(move || {
            let of_last_run = if before.is_none() { StoredFinding::load(&dir) } else { None };
            let stored = StoredFinding::now(finding, before.as_ref().or(of_last_run.as_ref()));
            match stored.replaces(before.as_ref()) {
                true => stored.write(&dir).map(|()| Some(stored)),
                false => Ok(before),
            }
        });
        match write.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(written) => (self.written, self.fails) = (written, false),
            // Once, and again after one that succeeded; what is found out next is written anyway.
            Err(error) if !std::mem::replace(&mut self.fails, true) => tracing::warn!(
                "what is known of the network cannot be stored, so that the next start tries everything again: {}: {error}; free \
                 space on its disk, or let the agent's user write there",
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
    use crate::path::StreamMode;

    fn finding() -> NetworkFinding {
        let hint =
            PathHint { mode: StreamMode::Suspended, hold_s: 12, heartbeat_s: None, why: None };
        NetworkFinding { hub: "http://h/".to_owned(), proxy: "none".to_owned(), hint }
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

    fn stored() -> StoredFinding {
        StoredFinding::at(1_000_000, "0101A8C0".to_owned(), finding(), None)
    }

    #[test]
    fn a_finding_counts_for_a_day_at_the_same_gateway() {
        let stored = stored();
        let day_ms = HINT_S * 1000;
        assert!(stored.counts(1_000_000 + day_ms, "0101A8C0"));
        assert!(!stored.counts(1_000_001 + day_ms, "0101A8C0"), "too old");
        assert!(!stored.counts(999_999, "0101A8C0"), "from the future");
        assert!(!stored.counts(1_000_001, "0201A8C0"), "another network");
    }

    /// It was a line of the level debug, and its copy stayed behind.
    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_one_warning_and_leaves_no_copy() {
        let dir = tempfile::tempdir().unwrap();
        // No file replaces a directory.
        std::fs::create_dir(dir.path().join(FILE)).unwrap();
        let (log, text) = log();
        let _guard = tracing::subscriber::set_default(log);
        let mut file = FindingFile { dir: dir.path().to_owned(), written: None, fails: false };
        for hold_s in [10, 11, 12] {
            let hint = PathHint { hold_s, ..finding().hint };
            file.write(NetworkFinding { hint, ..finding() }).await;
        }
        let text = text();
        assert_eq!(text.matches("free space on its disk").count(), 1, "{text}");
        assert!(text.contains("WARN") && text.contains(FILE), "{text}");
        assert!(!dir.path().join(NEW_FILE).exists(), "the copy is left behind");
    }

    /// The file was written again twice a day, and with it the heartbeat, for as long as the device lived.
    #[test]
    fn a_shorter_heartbeat_counts_for_a_day_although_it_is_written_again() {
        let day_ms = HINT_S * 1000;
        let finding = NetworkFinding {
            hint: PathHint { heartbeat_s: Some(7), ..finding().hint },
            ..finding()
        };
        let first = StoredFinding::at(1_000_000, String::new(), finding.clone(), None);
        let again =
            StoredFinding::at(1_000_000 + day_ms, String::new(), finding.clone(), Some(&first));
        let current =
            |stored: &StoredFinding, now_ms| stored.clone().into_current(now_ms, "").unwrap();
        assert_eq!(current(&again, 1_000_000 + day_ms), finding);
        let later = current(&again, 1_000_001 + day_ms);
        assert_eq!(later.hint, PathHint { heartbeat_s: None, ..finding.hint.clone() });
        let shorter = PathHint { heartbeat_s: Some(5), ..finding.hint.clone() };
        let shorter = NetworkFinding { hint: shorter, ..finding };
        let shorter = StoredFinding::at(1_000_000 + day_ms, String::new(), shorter, Some(&again));
        assert_eq!(current(&shorter, 1_000_001 + day_ms).hint.heartbeat_s, Some(5), "a new one");
    }

    #[test]
    fn what_was_written_is_read_and_a_broken_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(StoredFinding::read(dir.path()), None);
        StoredFinding::now(finding(), None).write(dir.path()).unwrap();
        assert_eq!(StoredFinding::read(dir.path()), Some(finding()));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(StoredFinding::read(dir.path()), None);
    }

    /// An agent of an earlier version has written it, and may read it again.
    #[test]
    fn the_file_has_the_names_of_earlier_versions() {
        let text = r#"{"at_ms":1000000,"gateway":"0101A8C0","heartbeat_since_ms":null,"hub":"http://h/","proxy":"none","verdict":{"rung":"rest","hold_s":12,"heartbeat_s":null,"why":null}}"#;
        assert_eq!(serde_json::from_str::<StoredFinding>(text).unwrap(), stored());
        assert_eq!(serde_json::to_string(&stored()).unwrap(), text);
    }

    /// Each reason with its seconds was a write to the flash, within the event loop.
    #[test]
    fn only_what_the_next_run_needs_is_written_again() {
        let written = stored();
        let is_written = |change: fn(&mut StoredFinding)| {
            let mut stored = written.clone();
            change(&mut stored);
            stored.replaces(Some(&written))
        };
        assert!(written.replaces(None));
        assert!(!is_written(|_| {}));
        let reason = Some("a write was 1.3 s late".to_owned());
        assert!(!written.replaces(Some(&StoredFinding {
            finding: NetworkFinding {
                hint: PathHint { why: reason, ..finding().hint },
                ..finding()
            },
            ..stored()
        })));
        assert!(is_written(|stored| stored.finding.hint.mode = StreamMode::Plain));
        assert!(is_written(|stored| stored.finding.hint.hold_s = 8));
        assert!(is_written(|stored| stored.finding.hint.heartbeat_s = Some(5)));
        assert!(is_written(|stored| stored.finding.hub = "http://i/".to_owned()));
        assert!(is_written(|stored| stored.finding.proxy = "http://p:1/".to_owned()));
        assert!(is_written(|stored| stored.gateway = "0201A8C0".to_owned()), "another network");
        assert!(!is_written(|stored| stored.at_ms += HINT_S * 500), "it counts for half a day yet");
        assert!(is_written(|stored| stored.at_ms += HINT_S * 500 + 1), "soon too old");
        assert!(is_written(|stored| stored.at_ms = 0), "the clock was set back");
    }

    #[tokio::test]
    async fn the_last_that_was_found_out_is_written_although_the_agent_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, receiver) = watch::channel(None);
        let writes = tokio::spawn(write_each(dir.path().to_owned(), receiver));
        let writer = FindingWriter(sender);
        writer.write(finding());
        let last = NetworkFinding { hub: "http://i/".to_owned(), ..finding() };
        writer.write(last.clone());
        drop(writer);
        writes.await.unwrap();
        assert_eq!(StoredFinding::read(dir.path()), Some(last));
    }
}
