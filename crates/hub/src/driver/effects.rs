//! The outputs of the core that are yet to be carried out, in the order of the decisions.
//!
//! Effects are appended under the core's lock and carried out outside of it: to encode a frame or to
//! wake a client, a shard or the store's writer takes longer than most decisions. The thread that
//! appends carries out as well, unless another thread is doing so; then that thread continues with
//! these. So effects leave one queue from its front, one thread at a time, and every stream, the
//! store and the feed get theirs in the order in which the core decided, whichever threads called.
//!
//! Bound: an effect belongs to a request in flight, to a delivery under way or to a stream that
//! ends, and the core bounds all of these. An idle stream has none and costs nothing here.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Buffers that a burst has grown are cut back to this many effects, of some 200 bytes each. Commits
/// under load fill half of it, and would otherwise pay for growing it each time.
const BUFFER_EFFECTS_MAX: usize = 4096;

/// A queue whose items are carried out in the order in which they were appended.
pub(super) struct Effects<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    waiting: Vec<T>,
    /// An empty buffer for the thread that carries out next.
    spare: Vec<T>,
    /// A thread is carrying out and will look for more.
    busy: bool,
}

impl<T> Effects<T> {
    pub(super) fn new() -> Self {
        let state = State { waiting: Vec::new(), spare: Vec::new(), busy: false };
        Self { state: Mutex::new(state) }
    }

    /// Appends effects. True when the caller has to call [`Effects::carry_out`].
    #[must_use = "no other thread carries these out"]
    pub(super) fn append(&self, effects: impl Iterator<Item = T>) -> bool {
        let mut state = self.lock();
        let before = state.waiting.len();
        state.waiting.extend(effects);
        state.waiting.len() > before && !std::mem::replace(&mut state.busy, true)
    }

    /// Carries out all that was appended, and what is appended meanwhile, with no lock held: `one` is called
    /// with each effect, and with `None` whenever the queue is empty.
    pub(super) fn carry_out(&self, mut one: impl FnMut(Option<T>)) {
        let mut effects = std::mem::take(&mut self.lock().spare);
        loop {
            {
                let mut state = self.lock();
                if state.waiting.is_empty() {
                    state.spare = effects;
                    state.busy = false;
                    return;
                }
                std::mem::swap(&mut state.waiting, &mut effects);
            }
            effects.drain(..).for_each(|effect| one(Some(effect)));
            one(None);
            effects.shrink_to(BUFFER_EFFECTS_MAX);
        }
    }

    /// Drops what waits.
    pub(super) fn discard(&self) {
        let discarded = std::mem::take(&mut self.lock().waiting);
        // A reply that is dropped wakes its client: not under the lock.
        drop(discarded);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // The iterator that is appended may panic; the list is whole at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_are_carried_out_once_and_in_the_order_in_which_threads_decided_them() {
        const THREADS: usize = 4;
        const CALLS: u64 = 5_000;
        let (core, effects) = (Mutex::new(0_u64), Effects::new());
        let carried_out = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..CALLS {
                        let carries_out = {
                            let mut decided = core.lock().unwrap();
                            *decided += 2;
                            effects.append(*decided - 2..*decided)
                        };
                        if carries_out {
                            // `try_lock`: no other thread is carrying out.
                            effects.carry_out(|n| carried_out.try_lock().unwrap().extend(n));
                        }
                    }
                });
            }
        });
        let all: Vec<u64> = (0..THREADS as u64 * CALLS * 2).collect();
        assert_eq!(carried_out.into_inner().unwrap(), all);
    }

    #[test]
    fn what_an_effect_leads_to_is_carried_out_after_it_by_the_same_thread() {
        let effects = Effects::new();
        let mut order = Vec::new();
        assert!(effects.append(1..=2));
        effects.carry_out(|n| {
            order.extend(n);
            if n == Some(1) {
                assert!(!effects.append(std::iter::once(3)), "the outer call continues with it");
            }
        });
        assert_eq!(order, [1, 2, 3]);
    }

    #[test]
    fn appending_nothing_needs_no_carrying_out_and_discarded_effects_are_dropped() {
        let effects = Effects::<u8>::new();
        assert!(!effects.append(std::iter::empty()));
        assert!(effects.append(std::iter::once(1)));
        effects.discard();
        effects.carry_out(|_| panic!("it was discarded"));
    }
}
