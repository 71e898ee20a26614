//! A queue into a thread of the store: many put in, one or several take out.
//!
//! To put something in takes a short lock and never waits for space. The caller gives the bound, where
//! there is one, and handles a full queue.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    ready: Condvar,
}

#[derive(Debug)]
struct Inner<T> {
    items: VecDeque<T>,
    closed: bool,
    woken: bool,
    /// Threads that wait for an item. To notify costs a system call even when none does, and
    /// under load none does.
    waiting: usize,
}

/// Why something was not put in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PutError {
    Full,
    Closed,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                items: VecDeque::new(),
                closed: false,
                woken: false,
                waiting: 0,
            }),
            ready: Condvar::new(),
        }
    }
}

impl<T> Queue<T> {
    /// Puts one in, unless `items_max` wait already or the queue is closed.
    pub(super) fn put(&self, item: T, items_max: usize) -> Result<(), PutError> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(PutError::Closed);
        }
        if inner.items.len() >= items_max {
            return Err(PutError::Full);
        }
        inner.items.push_back(item);
        let awaited = inner.waiting > 0;
        drop(inner);
        if awaited {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Waits for one; `None` once the queue is closed and empty.
    pub(super) fn take(&self) -> Option<T> {
        let mut inner = self.lock();
        loop {
            if let Some(item) = inner.items.pop_front() {
                return Some(item);
            }
            if inner.closed {
                return None;
            }
            inner.waiting += 1;
            inner = self.ready.wait(inner).unwrap_or_else(PoisonError::into_inner);
            inner.waiting -= 1;
        }
    }

    /// Moves all that wait into `taken`. Waits for there to be one, for a [`Queue::wake`], or for
    /// `wait_max` to pass; `false` once the queue is closed and empty.
    pub(super) fn take_all(&self, taken: &mut Vec<T>, wait_max: Option<Duration>) -> bool {
        let idle = |inner: &mut Inner<T>| inner.items.is_empty() && !inner.closed && !inner.woken;
        let mut inner = self.lock();
        inner.waiting += 1;
        let mut inner = match wait_max {
            None => self.ready.wait_while(inner, idle).unwrap_or_else(PoisonError::into_inner),
            Some(wait_max) => {
                let waited = self.ready.wait_timeout_while(inner, wait_max, idle);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        inner.waiting -= 1;
        inner.woken = false;
        taken.extend(inner.items.drain(..));
        !(taken.is_empty() && inner.closed)
    }

    /// Makes [`Queue::take_all`] return, even with nothing.
    pub(super) fn wake(&self) {
        self.lock().woken = true;
        self.ready.notify_all();
    }

    /// Refuses items from now on; those that wait can still be taken.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    /// Refuses items from now on, and returns those that wait.
    pub(super) fn close_and_clear(&self) -> VecDeque<T> {
        let remaining = {
            let mut inner = self.lock();
            inner.closed = true;
            std::mem::take(&mut inner.items)
        };
        self.ready.notify_all();
        remaining
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // No code of others runs under the lock, so a panic cannot leave it half-changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_and_a_closed_one_refuse_with_different_errors() {
        let queue = Queue::<u32>::default();
        assert_eq!(queue.put(1, 2), Ok(()));
        assert_eq!(queue.put(2, 2), Ok(()));
        assert_eq!(queue.put(3, 2), Err(PutError::Full));
        assert_eq!(queue.take(), Some(1));
        assert_eq!(queue.put(4, 2), Ok(()));
        queue.close();
        assert_eq!(queue.put(5, 2), Err(PutError::Closed));
        assert_eq!((queue.take(), queue.take(), queue.take()), (Some(2), Some(4), None));
    }

    #[test]
    fn what_waits_is_taken_at_once_in_order_and_a_nudge_takes_nothing() {
        let queue = Queue::<u32>::default();
        let mut taken = Vec::new();
        queue.wake();
        assert!(queue.take_all(&mut taken, None));
        assert!(taken.is_empty());
        (1..=3).for_each(|n| assert_eq!(queue.put(n, usize::MAX), Ok(())));
        assert!(queue.take_all(&mut taken, None));
        assert_eq!(taken, [1, 2, 3]);
        taken.clear();
        assert_eq!(queue.put(4, usize::MAX), Ok(()));
        queue.close();
        assert!(queue.take_all(&mut taken, None), "what is in a closed queue is still taken");
        taken.clear();
        assert!(!queue.take_all(&mut taken, None));
    }
}
