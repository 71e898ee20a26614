//! What each watcher was sent, so that it misses no change and gets none twice: by delivery its version,
//! and whether it had ended. And how much memory that may take.
//!
//! The names of a command's devices are held once for all its watchers that see everything, which number them; each
//! watcher then holds one word for each delivery, 800 KB of a command to 100,000. One that sees a part holds its names too.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bellwire_proto::limits::WATCHER_BYTES_MAX;
use bellwire_proto::{Code, DeviceId, Problem};

/// About what a name takes in a table that is half full.
const NAME_BYTES: usize = 128;
/// What a watcher takes for a delivery.
const WORD_BYTES: usize = size_of::<u64>();

/// What all watchers hold together.
#[derive(Default)]
pub(super) struct Memory {
    held_bytes: AtomicUsize,
}

/// A part of the memory, until it is dropped.
struct MemoryReservation {
    memory: Arc<Memory>,
    bytes: usize,
}

/// The devices of one command, numbered as its watchers met them: all who see everything share them.
pub(super) struct Names {
    numbers: Mutex<HashMap<DeviceId, usize>>,
    _held: MemoryReservation,
}

/// What one watcher has been sent.
pub(crate) struct Progress {
    names: Arc<Names>,
    /// By the number of the device: nothing yet (0), or twice its version plus 2, plus 1 if it had ended.
    sent: Vec<u64>,
    ended: u64,
    /// Bytes sent since its reader was last waited for.
    unpaced_bytes: usize,
    _held: MemoryReservation,
}

impl Memory {
    /// The names of a command with so many deliveries, none yet.
    pub(super) fn names(self: &Arc<Self>, total: u64) -> Result<Names, Problem> {
        let held = self.hold(total, NAME_BYTES)?;
        Ok(Names { numbers: Mutex::default(), _held: held })
    }

    /// What one of its watchers was sent: nothing yet.
    pub(super) fn progress(
        self: &Arc<Self>,
        names: Arc<Names>,
        total: u64,
    ) -> Result<Progress, Problem> {
        let held = self.hold(total, WORD_BYTES)?;
        let sent = vec![0; usize::try_from(total).unwrap_or_default()];
        Ok(Progress { names, sent, ended: 0, unpaced_bytes: 0, _held: held })
    }

    fn hold(self: &Arc<Self>, total: u64, each: usize) -> Result<MemoryReservation, Problem> {
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        let bytes = total.saturating_mul(each);
        let hold = |held: usize| held.checked_add(bytes).filter(|held| *held <= WATCHER_BYTES_MAX);
        match self.held_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, hold) {
            Ok(_) => Ok(MemoryReservation { memory: self.clone(), bytes }),
            Err(_) => Err(Problem::new(
                Code::RateLimited,
                "the hub has as many watchers of commands to many devices as it has memory for; try \
                 again later",
            )),
        }
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.memory.held_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Names {
    fn number(&self, device: &DeviceId) -> usize {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let next = numbers.len();
        *numbers.entry(device.clone()).or_insert(next)
    }
}

impl Progress {
    /// Notes a delivery; false when it is not newer than what was sent.
    pub(super) fn take(&mut self, device: &DeviceId, version: u64, ended: bool) -> bool {
        let number = self.names.number(device);
        // There are no more devices than deliveries.
        let Some(sent) = self.sent.get_mut(number) else { return false };
        let version = version.saturating_add(1).min(u64::MAX / 2);
        if version <= *sent / 2 {
            return false;
        }
        self.ended = self.ended + u64::from(ended) - *sent % 2;
        *sent = version * 2 + u64::from(ended);
        true
    }

    /// Whether there are slots for so many deliveries.
    pub(super) fn holds(&self, total: u64) -> bool {
        usize::try_from(total).is_ok_and(|total| total <= self.sent.len())
    }

    /// Deliveries that had ended when they were last sent.
    pub(super) fn ended(&self) -> u64 {
        self.ended
    }

    /// So many bytes are about to be sent; with them, how many there are since the reader was waited for.
    pub(super) fn sends(&mut self, bytes: usize) -> usize {
        self.unpaced_bytes += bytes;
        self.unpaced_bytes
    }

    /// The reader is waited for.
    pub(super) fn was_read(&mut self) {
        self.unpaced_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(n: usize) -> DeviceId {
        format!("d{n}").parse().unwrap()
    }

    #[test]
    fn what_is_newer_is_taken_once_by_each_watcher_whatever_the_others_took() {
        let memory = Arc::new(Memory::default());
        let names = Arc::new(memory.names(3).unwrap());
        let mut one = memory.progress(names.clone(), 3).unwrap();
        let mut other = memory.progress(names, 3).unwrap();
        assert!(one.take(&device(1), 0, false) && one.take(&device(2), 7, true));
        assert!(!one.take(&device(1), 0, false) && !one.take(&device(2), 6, false));
        assert!(one.take(&device(1), 1, true) && one.take(&device(2), 8, true));
        assert_eq!((one.ended(), other.ended()), (2, 0));
        assert!(other.take(&device(2), 6, false) && other.take(&device(3), 0, true));
        assert_eq!((one.ended(), other.ended()), (2, 1));
    }

    #[test]
    fn watchers_share_the_names_hold_a_word_for_each_delivery_and_no_more_than_the_bound() {
        // Each held 9 MB of a command to 100,000 devices, and 1,000 of them were admitted.
        const DEVICES: usize = 100_000;
        let total = DEVICES as u64;
        let memory = Arc::new(Memory::default());
        let names = Arc::new(memory.names(total).unwrap());
        let mut watchers = Vec::new();
        let refused = loop {
            match memory.progress(names.clone(), total) {
                Ok(progress) => watchers.push(progress),
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused.code, Code::RateLimited);
        let remaining = WATCHER_BYTES_MAX - DEVICES * NAME_BYTES;
        assert_eq!(watchers.len(), remaining / (DEVICES * WORD_BYTES));
        assert!(memory.names(total).is_err(), "nothing remains for another command either");

        drop((watchers, names));
        assert_eq!(memory.held_bytes.load(Ordering::Acquire), 0);
    }
}
