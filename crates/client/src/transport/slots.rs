//! A bound on what goes on at a time in this process: threads that wait for the system's resolver.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Slots of one kind: a static.
#[derive(Debug)]
pub(crate) struct Slots {
    taken: AtomicUsize,
    max: usize,
}

/// One of [`Slots`], until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot(&'static Slots);

impl Slots {
    pub(crate) const fn new(max: usize) -> Self {
        Self { taken: AtomicUsize::new(0), max }
    }

    /// How many there are.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// `None` while all are taken.
    pub(crate) fn take(&'static self) -> Option<Slot> {
        let taken = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
            (taken < self.max).then_some(taken + 1)
        });
        taken.ok().map(|_| Slot(self))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_again_once_it_is_dropped() {
        static SLOTS: Slots = Slots::new(2);
        let (first, second) = (SLOTS.take(), SLOTS.take());
        assert!(first.is_some() && second.is_some() && SLOTS.take().is_none());
        drop(first);
        assert!(SLOTS.take().is_some());
    }
}
