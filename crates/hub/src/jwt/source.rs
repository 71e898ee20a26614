//! Where the keys of JWTs come from, and which are in use: a file that is read again when it changes, or a URL that is fetched
//! when that is due (`schedule.rs`).
//!
//! One task follows the source ([`Keys::follow`]); requests use what it found, and wait for it only if their token names a
//! key that is not known and a fetch is under way. What is of no use leaves the keys as they are.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bellwire_proto::limits::{
    JWT_FETCH_TIMEOUT, JWT_KEYS_BYTES_MAX, JWT_KEYS_LOOK_EVERY, JWT_KEYS_STALE_MAX, JWT_WAITING_MAX,
};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::fetch::{Fetch, Fetched};
use super::keys::{KeySet, KeySetError, KeyTag, KeysError};
use super::schedule::{KeysState, Schedule};
use crate::config::JwtConfig;

/// The keys in use.
#[derive(Debug)]
pub(super) struct Keys {
    source: Source,
    set: Mutex<KeySet>,
}

#[derive(Debug)]
enum Source {
    Nowhere,
    File { path: PathBuf, mark: Mutex<Option<Mark>> },
    Url(Box<Url>),
}

/// What shows that a file has changed.
type Mark = (Option<SystemTime>, u64);

#[derive(Debug)]
struct Url {
    fetch: Fetch,
    schedule: Mutex<Schedule>,
    /// Wakes the task that fetches.
    wanted: Notify,
    /// Rises with the end of each fetch.
    fetched: watch::Sender<u64>,
    waiting: AtomicUsize,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

/// What the keys are and were, for `/readyz` and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeysCounts {
    pub(crate) state: KeysState,
    pub(crate) keys: usize,
    pub(crate) fetched: u64,
    pub(crate) failed: u64,
}

impl Keys {
    /// Reads the file, or prepares to fetch from the URL: nothing is fetched before [`Keys::follow`].
    pub(super) fn load(config: &JwtConfig) -> Result<Self, KeysError> {
        // A program that embeds the hub sets them without `Config::read`.
        if let Some(fault) = config.contradictions().first() {
            return Err(KeysError::Contradiction(fault.to_string()));
        }
        let Some(url) = &config.keys_url else {
            let path = config.keys.clone();
            let mark = Mutex::new(mark(&path));
            let set = Mutex::new(read(&path)?);
            return Ok(Self { source: Source::File { path, mark }, set });
        };
        let fetch = Fetch::of(url, config.keys_ca.as_deref()).map_err(KeysError::Authorities)?;
        let url = Url {
            fetch,
            schedule: Mutex::new(Schedule::new(Instant::now())),
            wanted: Notify::new(),
            fetched: watch::Sender::new(0),
            waiting: AtomicUsize::new(0),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        };
        Ok(Self { source: Source::Url(Box::new(url)), set: Mutex::new(KeySet::empty()) })
    }

    pub(super) fn none() -> Self {
        Self { source: Source::Nowhere, set: Mutex::new(KeySet::empty()) }
    }

    /// Those in use.
    pub(super) fn set(&self) -> KeySet {
        self.lock().clone()
    }

    pub(super) fn counts(&self) -> KeysCounts {
        let keys = self.lock().len();
        match &self.source {
            Source::Url(url) => KeysCounts {
                state: lock(&url.schedule).state(),
                keys,
                fetched: url.succeeded.load(Ordering::Relaxed),
                failed: url.failed.load(Ordering::Relaxed),
            },
            _ => KeysCounts { state: KeysState::Ready, keys, fetched: 0, failed: 0 },
        }
    }

    /// Follows the source for ever, and reports the keys that are not in use any more.
    pub(super) async fn follow(&self, gone: impl Fn(&[KeyTag])) {
        match &self.source {
            Source::Nowhere => std::future::pending().await,
            Source::File { path, mark } => loop {
                sleep(JWT_KEYS_LOOK_EVERY).await;
                self.look_at(path, mark, &gone);
            },
            Source::Url(url) => loop {
                let due_at = lock(&url.schedule).due_at();
                tokio::select! {
                    () = sleep_until(due_at) => {}
                    () = url.wanted.notified() => {}
                }
                if lock(&url.schedule).begins(Instant::now()) {
                    let fetched = url.fetch.fetch().await;
                    self.take(url, fetched, &gone);
                }
                self.end_if_stale(url, &gone);
            },
        }
    }

    /// After a token whose key is not known: whether it is to be judged again, because the keys may be others by now.
    pub(super) async fn refreshed(&self) -> bool {
        let Source::Url(url) = &self.source else { return false };
        let mut fetched = url.fetched.subscribe();
        if !lock(&url.schedule).wanted(Instant::now()) {
            return false;
        }
        let _waiting = match KeyWaiters::one_more(&url.waiting) {
            Some(waiting) => waiting,
            None => return false,
        };
        url.wanted.notify_one();
        // A fetch ends in its time; without the task that fetches, so does this.
        matches!(timeout(JWT_FETCH_TIMEOUT, fetched.changed()).await, Ok(Ok(())))
    }

    fn look_at(&self, path: &Path, last: &Mutex<Option<Mark>>, gone: &impl Fn(&[KeyTag])) {
        let now = mark(path);
        if std::mem::replace(&mut *lock(last), now) == now {
            return;
        }
        match read(path) {
            Ok(set) => {
                tracing::info!(keys = set.len(), "the keys of JWTs were read again");
                self.replace(set, gone);
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "the keys of JWTs stay as they are");
            }
        }
    }

    fn take(&self, url: &Url, fetched: Result<Fetched, String>, gone: &impl Fn(&[KeyTag])) {
        let keys = fetched.and_then(|fetched| {
            let set = KeySet::of_answer(&fetched.body).map_err(|why| said(why).to_owned())?;
            Ok((set, fetched.max_age))
        });
        let now = Instant::now();
        match keys {
            Ok((set, max_age)) => {
                let before = {
                    let mut schedule = lock(&url.schedule);
                    let before = schedule.state();
                    schedule.succeeded(max_age, now);
                    before
                };
                url.succeeded.fetch_add(1, Ordering::Relaxed);
                if before != KeysState::Ready {
                    tracing::info!(keys = set.len(), url = %url.fetch.url(), "fetched the keys of JWTs");
                }
                self.replace(set, gone);
            }
            Err(why) => {
                url.failed.fetch_add(1, Ordering::Relaxed);
                let (pause, state) = {
                    let mut schedule = lock(&url.schedule);
                    (schedule.failed(now), schedule.state())
                };
                report(url, &why, state, pause.as_secs());
            }
        }
        url.fetched.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn end_if_stale(&self, url: &Url, gone: &impl Fn(&[KeyTag])) {
        if lock(&url.schedule).ends(Instant::now()) {
            tracing::error!(
                url = %url.fetch.url(),
                "the keys of JWTs could not be fetched for {} h and are not used any more: no JWT works until they can",
                JWT_KEYS_STALE_MAX.as_secs() / 3600
            );
            self.replace(KeySet::empty(), gone);
        }
    }

    /// From now on these are used; what was verified by others ends.
    fn replace(&self, set: KeySet, gone: &impl Fn(&[KeyTag])) {
        let missing = {
            let mut present = self.lock();
            let missing = present.missing_in(&set);
            *present = set;
            missing
        };
        if !missing.is_empty() {
            gone(&missing);
        }
    }

    fn lock(&self) -> MutexGuard<'_, KeySet> {
        lock(&self.set)
    }
}

/// One of the requests that wait.
struct KeyWaiters<'a>(&'a AtomicUsize);

impl<'a> KeyWaiters<'a> {
    fn one_more(waiting: &'a AtomicUsize) -> Option<Self> {
        let more = |n| (n < JWT_WAITING_MAX).then_some(n + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(waiting))
    }
}

impl Drop for KeyWaiters<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn report(url: &Url, why: &str, state: KeysState, pause_s: u64) {
    let used = match state {
        KeysState::Missing => "there are none, and no JWT works",
        KeysState::Ready | KeysState::Stale => "those of before are used",
    };
    tracing::error!(
        url = %url.fetch.url(),
        "the keys of JWTs cannot be fetched: {why}; {used}; tried again in {pause_s} s"
    );
}

/// What an issuer's answer lacks.
fn said(why: KeySetError) -> &'static str {
    match why {
        KeySetError::Form => "the answer is no JWK Set ({\"keys\":[…]})",
        KeySetError::Unusable => {
            "the answer has no public key that signs with RS, PS, ES (256, 384) or EdDSA, too many of them, or two with one kid"
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn mark(path: &Path) -> Option<Mark> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok(), metadata.len()))
}

fn read(path: &Path) -> Result<KeySet, KeysError> {
    use std::io::Read;
    let unreadable = |source| KeysError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(JWT_KEYS_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > JWT_KEYS_BYTES_MAX {
        return Err(KeysError::Form { path: path.to_owned() });
    }
    KeySet::of_file(&bytes).map_err(|why| match why {
        KeySetError::Form => KeysError::Form { path: path.to_owned() },
        KeySetError::Unusable => KeysError::NoKey { path: path.to_owned() },
    })
}

#[cfg(test)]
mod tests;
