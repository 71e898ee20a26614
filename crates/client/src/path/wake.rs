//! Notices that the network may be another than before: so that what failed is tried again at once, and not after a pause.
//!
//! The kernel announces changes (`announcements`); what they amount to is found by comparing a `Snapshot` with the one
//! before, for routes and addresses are also announced when they only last longer. Where nothing is announced, snapshots are
//! compared every 30 s. It decides nothing about connections.

use std::future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bellwire_proto::limits::{NETWORK_COMPARE_EVERY, NETWORK_QUIET, NETWORK_QUIET_WAIT_MAX};
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

mod announcements;
mod snapshot;

use announcements::Announcements;
use snapshot::Snapshot;
pub(crate) use snapshot::default_gateways;

/// How often the clocks are compared. A suspension shows only after it.
const CLOCKS_EVERY: Duration = Duration::from_secs(5);
/// A shorter suspension is ignored: connections survive it.
const ASLEEP_MS_MIN: u64 = 2000;
/// Files that are watched at most.
const FILES_MAX: usize = 16;

/// Why the network may be another than before. Of several at once, the first of this list is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WakeReason {
    /// The machine was suspended, and runs again.
    Resumed,
    /// A file that names proxies has another content, appeared or disappeared.
    Proxy,
    /// There is another default route than before.
    Route,
    /// An interface has an address that it did not have.
    Address,
}

impl WakeReason {
    /// The rest of the sentence "trying everything again: …", for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resumed => "the machine was suspended",
            Self::Proxy => "the proxy settings have changed",
            Self::Route => "there is another default route",
            Self::Address => "there is a new address",
        }
    }
}

/// Waits for changes of the network; there is no task or thread behind it.
///
/// ```no_run
/// use bellwire_client::path::wake::Wake;
///
/// # async fn example() {
/// let mut wake = Wake::new(["/etc/proxy.pac".into()]);
/// loop {
///     let reason = wake.changed().await;
///     println!("trying everything again: {}", reason.as_str());
/// }
/// # }
/// ```
pub struct Wake {
    probes: Probes,
    announcements: Option<Announcements>,
    before: Snapshot,
    asleep_ms: u64,
    resumed: bool,
    /// The next snapshot, which is being taken.
    next: Option<JoinHandle<Snapshot>>,
    next_at: Instant,
    /// When the first change since the last snapshot was announced.
    changing_since: Option<Instant>,
    clocks_at: Instant,
}

/// Where the state of the machine comes from.
#[derive(Clone)]
struct Probes {
    /// Milliseconds that the machine was suspended since its boot.
    asleep_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Takes a snapshot; blocks for as long as a disk may.
    snapshot: Arc<dyn Fn() -> Snapshot + Send + Sync>,
    compare_every: Duration,
}

impl Wake {
    /// Watches the network, the clocks, and the content of `files`, which name proxies: a PAC file; the first 16 of them.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time and I/O.
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let files: Vec<PathBuf> = files.into_iter().take(FILES_MAX).collect();
        let announcements = Announcements::new()
            .inspect_err(|error| tracing::debug!(%error, "the kernel announces no changes"));
        Self::of(announcements.ok(), Probes::of_machine(files))
    }

    fn of(announcements: Option<Announcements>, probes: Probes) -> Self {
        let now = Instant::now();
        Self {
            announcements,
            before: (probes.snapshot)(),
            asleep_ms: (probes.asleep_ms)(),
            resumed: false,
            next: None,
            next_at: now + probes.compare_every,
            changing_since: None,
            clocks_at: now + CLOCKS_EVERY,
            probes,
        }
    }

    /// Waits for the next change and returns its reason, once the network is quiet. What changes while no call waits is
    /// reported by the next call. Cancel safe.
    pub async fn changed(&mut self) -> WakeReason {
        loop {
            tokio::select! {
                snapshot = of(&mut self.next) => {
                    self.next = None;
                    if let Some(reason) = self.compare(snapshot) {
                        return reason;
                    }
                }
                lost = announced(&mut self.announcements) => {
                    if let Err(error) = lost {
                        tracing::warn!(%error, "the kernel announces no more changes of the network");
                        self.announcements = None;
                    }
                    self.expect_changes();
                }
                () = sleep_until(self.clocks_at) => {
                    self.clocks_at = Instant::now() + CLOCKS_EVERY;
                    if self.was_suspended() {
                        self.resumed = true;
                        self.expect_changes();
                    }
                }
                () = sleep_until(self.next_at), if self.next.is_none() => {
                    self.changing_since = None;
                    self.next_at = Instant::now() + self.probes.compare_every;
                    let snapshot = Arc::clone(&self.probes.snapshot);
                    self.next = Some(tokio::task::spawn_blocking(move || snapshot()));
                }
            }
        }
    }

    /// Whether the machine was suspended since the call before.
    fn was_suspended(&mut self) -> bool {
        let before = std::mem::replace(&mut self.asleep_ms, (self.probes.asleep_ms)());
        self.asleep_ms >= before.saturating_add(ASLEEP_MS_MIN)
    }

    /// Puts the next snapshot to when the network has been quiet.
    fn expect_changes(&mut self) {
        let now = Instant::now();
        let since = *self.changing_since.get_or_insert(now);
        self.next_at = (now + NETWORK_QUIET).min(since + NETWORK_QUIET_WAIT_MAX);
    }

    /// What a snapshot amounts to; it is the one to compare the next with. `None` if it could not be taken.
    fn compare(&mut self, snapshot: Option<Snapshot>) -> Option<WakeReason> {
        // Asked again, so that a suspension and what it changed are one change.
        let resumed = self.was_suspended() | std::mem::take(&mut self.resumed);
        let resumed = resumed.then_some(WakeReason::Resumed);
        let Some(snapshot) = snapshot else { return resumed };
        let before = std::mem::replace(&mut self.before, snapshot);
        resumed.or_else(|| self.before.news_since(&before))
    }
}

impl std::fmt::Debug for Wake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wake")
    }
}

impl Probes {
    fn of_machine(files: Vec<PathBuf>) -> Self {
        Self {
            asleep_ms: Arc::new(asleep_ms),
            snapshot: Arc::new(move || Snapshot::take(&files)),
            compare_every: NETWORK_COMPARE_EVERY,
        }
    }
}

/// Milliseconds that the machine was suspended since its boot: what `CLOCK_BOOTTIME` counts and `CLOCK_MONOTONIC` does not.
fn asleep_ms() -> u64 {
    let ms = |clock| {
        let time = clock_gettime(clock);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        seconds.saturating_mul(1000) + u64::try_from(time.tv_nsec).unwrap_or_default() / 1_000_000
    };
    // In this order, so that a pause between the two readings hides a suspension and invents none.
    let boot = ms(ClockId::Boottime);
    boot.saturating_sub(ms(ClockId::Monotonic))
}

/// The snapshot that is being taken; `None` when its thread panicked. Pending if there is none.
async fn of(next: &mut Option<JoinHandle<Snapshot>>) -> Option<Snapshot> {
    match next {
        Some(next) => next.await.ok(),
        None => future::pending().await,
    }
}

/// Ends when something is announced. Pending without announcements.
async fn announced(announcements: &mut Option<Announcements>) -> std::io::Result<()> {
    match announcements {
        Some(announcements) => announcements.next().await,
        None => future::pending().await,
    }
}

#[cfg(test)]
mod tests;
