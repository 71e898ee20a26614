//! Counts of what is open: a share is taken and given back when it is dropped. There is an entry as long as something of
//! its key is open, so the entries are bounded by what is open in all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Parts with a lock each, so that those who count do not wait for each other.
const PARTS: usize = 32;

/// What is open, by key.
#[derive(Debug)]
pub(super) struct Shares {
    parts: [Mutex<HashMap<u128, u64>>; PARTS],
}

/// A part of what may be open. Dropped, it is given back.
#[derive(Debug)]
pub(crate) struct Share(#[expect(dead_code, reason = "it is held until it is dropped")] Box<Taken>);

#[derive(Debug)]
struct Taken {
    shares: Arc<Shares>,
    key: u128,
    amount: u64,
}

/// What is open in all.
#[derive(Debug, Default)]
pub(super) struct Total(AtomicU64);

/// A part of that. Dropped, it is given back.
#[derive(Debug)]
pub(super) struct Part {
    of: Arc<Total>,
    amount: u64,
}

impl Total {
    /// Takes so much, unless more than `most` would then be open.
    pub(super) fn take(self: &Arc<Self>, amount: u64, most: u64) -> Option<Part> {
        let more = |open: u64| open.checked_add(amount).filter(|open| *open <= most);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Part { of: self.clone(), amount })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.of.0.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

impl Default for Shares {
    fn default() -> Self {
        Self { parts: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Shares {
    /// Takes so much, unless more than `most` would then be open.
    pub(super) fn take(self: &Arc<Self>, key: u128, amount: u64, most: u64) -> Option<Share> {
        let mut part = self.part(key)?;
        let open = part.get(&key).copied().unwrap_or_default().saturating_add(amount);
        if open > most {
            return None;
        }
        part.insert(key, open);
        drop(part);
        Some(Share(Box::new(Taken { shares: self.clone(), key, amount })))
    }

    fn part(&self, key: u128) -> Option<MutexGuard<'_, HashMap<u128, u64>>> {
        let part = self.parts.get(key as usize % PARTS)?;
        // Nothing panics while it is held.
        Some(part.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().unwrap().len()).sum()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Some(mut part) = self.shares.part(self.key) else { return };
        if let Some(open) = part.get_mut(&self.key) {
            *open = open.saturating_sub(self.amount);
            if *open == 0 {
                part.remove(&self.key);
            }
        }
    }
}
