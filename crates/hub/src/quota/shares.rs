//! Counts of what is open: a share is taken and given back when it is dropped. There is an entry as long as something of
//! its key is open, so the entries are bounded by what is open in all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Maps with a lock each, so that callers with different keys seldom wait for each other.
const STRIPES: usize = 32;

/// What is open, by key.
#[derive(Debug)]
pub(super) struct Shares {
    stripes: [Mutex<HashMap<u128, u64>>; STRIPES],
}

/// A part of what one key may have open; the default is of a key without a limit, and counts nothing. Dropped, it is
/// given back.
#[derive(Debug, Default)]
pub(crate) struct Share(
    #[expect(dead_code, reason = "it is held until it is dropped")] Option<Box<Reservation>>,
);

#[derive(Debug)]
struct Reservation {
    shares: Arc<Shares>,
    key: u128,
    amount: u64,
}

/// What is open in all.
#[derive(Debug, Default)]
pub(super) struct Total(AtomicU64);

/// A part of the total. Dropped, it is given back.
#[derive(Debug)]
pub(super) struct TotalReservation {
    of: Arc<Total>,
    amount: u64,
}

impl Total {
    /// Takes so much, unless more than `most` would then be open.
    pub(super) fn take(self: &Arc<Self>, amount: u64, most: u64) -> Option<TotalReservation> {
        let more = |open: u64| open.checked_add(amount).filter(|open| *open <= most);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(TotalReservation { of: self.clone(), amount })
    }
}

impl Drop for TotalReservation {
    fn drop(&mut self) {
        self.of.0.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

impl Default for Shares {
    fn default() -> Self {
        Self { stripes: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Shares {
    /// Takes so much, unless more than `most` would then be open.
    pub(super) fn take(self: &Arc<Self>, key: u128, amount: u64, most: u64) -> Option<Share> {
        let mut stripe = self.stripe(key)?;
        let open = stripe.get(&key).copied().unwrap_or_default().saturating_add(amount);
        if open > most {
            return None;
        }
        stripe.insert(key, open);
        drop(stripe);
        Some(Share(Some(Box::new(Reservation { shares: self.clone(), key, amount }))))
    }

    fn stripe(&self, key: u128) -> Option<MutexGuard<'_, HashMap<u128, u64>>> {
        let stripe = self.stripes.get(key as usize % STRIPES)?;
        // Nothing panics while it is held.
        Some(stripe.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.stripes.iter().map(|stripe| stripe.lock().unwrap().len()).sum()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(mut stripe) = self.shares.stripe(self.key) else { return };
        if let Some(open) = stripe.get_mut(&self.key) {
            *open = open.saturating_sub(self.amount);
            if *open == 0 {
                stripe.remove(&self.key);
            }
        }
    }
}
