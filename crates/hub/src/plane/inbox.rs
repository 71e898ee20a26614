//! The way to a shard: one list under a lock, and a waker that is used only while the shard sleeps.
//!
//! The inbox also gives the slots out, so that a stream has its id before its shard has heard of
//! it. The lock is held to push or to take, never over a system call other than the wake.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::frame::{Frame, Framing};
use super::sink::Sink;
use super::{CloseReason, Notify, StreamOptions};

/// The frames that may wait in one inbox, in bytes. A shard takes everything at each turn, so this
/// is reached only when the machine cannot keep up; then the streams written to end as
/// [`CloseReason::Overloaded`], like those whose readers cannot.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Names one stream of a plane, for ever: an id that has been closed is never given out again while
/// anyone could still remember it, and does nothing wherever it is used.
///
/// From the top: 8 bits shard, 24 bits generation (from 1), 32 bits slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(NonZeroU64);

const GENERATION_MAX: u32 = (1 << 24) - 1;

impl StreamId {
    pub(crate) fn new(shard: u8, key: Key) -> Self {
        let generation = u64::from(key.generation.clamp(1, GENERATION_MAX));
        let id = u64::from(shard) << 56 | generation << 32 | u64::from(key.slot);
        Self(NonZeroU64::new(id).unwrap_or(NonZeroU64::MIN))
    }

    /// The id as a number, to log or to keep in a map.
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The id that [`Self::get`] gave; `None` for 0, which is no stream's.
    pub fn from_number(id: u64) -> Option<Self> {
        NonZeroU64::new(id).map(Self)
    }

    pub(crate) fn shard(self) -> usize {
        (self.get() >> 56) as usize
    }

    pub(crate) fn key(self) -> Key {
        let id = self.get();
        Key { slot: id as u32, generation: (id >> 32) as u32 & GENERATION_MAX }
    }
}

impl std::fmt::Debug for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Key { slot, generation } = self.key();
        write!(f, "StreamId({}/{slot}#{generation})", self.shard())
    }
}

/// A stream on its shard: the slot, and which of its users is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl Key {
    /// The same slot for its next user.
    pub(crate) fn next(self) -> Self {
        let generation = if self.generation >= GENERATION_MAX { 1 } else { self.generation + 1 };
        Self { generation, ..self }
    }
}

pub(crate) enum Command {
    Reserve {
        key: Key,
        options: StreamOptions,
    },
    Attach {
        key: Key,
        sink: Sink,
        framing: Framing,
        head: Bytes,
    },
    Send {
        key: Key,
        frame: Frame,
        notify: Notify,
    },
    SendMany {
        keys: Box<[Key]>,
        frame: Frame,
    },
    Close {
        key: Key,
        last: Option<Frame>,
        reason: CloseReason,
    },
    /// A response body was read from: there may be room again, and what it held is written.
    BodyRead(Key),
    /// The owner of a response body let go of it.
    BodyGone(Key),
    /// Ends every stream, and the shard `grace_ms` later or as soon as all are gone.
    Stop {
        grace_ms: u64,
    },
    #[cfg(test)]
    Panic,
}

/// What a shard and everyone who writes to it share.
pub(crate) struct Inbox {
    shard: u8,
    waker: mio::Waker,
    state: Mutex<State>,
}

struct State {
    commands: Vec<Command>,
    waiting_bytes: usize,
    asleep: bool,
    /// The shard is gone: what is pushed is dropped.
    closed: bool,
    /// Slots that had a stream, with the generation of the next. Taken from the front, so that a
    /// slot rests as long as possible and its generations last.
    free: VecDeque<Key>,
    fresh: u32,
}

impl State {
    fn send(&mut self, key: Key, frame: Frame, notify: Notify) {
        if self.waiting_bytes > WAITING_BYTES_MAX {
            let reason = CloseReason::Overloaded;
            self.commands.push(Command::Close { key, last: None, reason });
            return;
        }
        self.waiting_bytes += frame.len(Framing::Chunked);
        self.commands.push(Command::Send { key, frame, notify });
    }
}

impl Inbox {
    pub(crate) fn new(shard: u8, waker: mio::Waker) -> Self {
        let state = State {
            commands: Vec::new(),
            waiting_bytes: 0,
            asleep: false,
            closed: false,
            free: VecDeque::new(),
            fresh: 0,
        };
        Self { shard, waker, state: Mutex::new(state) }
    }

    pub(crate) fn shard(&self) -> u8 {
        self.shard
    }

    pub(crate) fn reserve(&self, options: StreamOptions) -> StreamId {
        self.with(|state| {
            let key = state.free.pop_front().unwrap_or_else(|| {
                let slot = state.fresh;
                state.fresh += 1;
                Key { slot, generation: 1 }
            });
            state.commands.push(Command::Reserve { key, options });
            StreamId::new(self.shard, key)
        })
    }

    pub(crate) fn send(&self, key: Key, frame: Frame, notify: Notify) {
        self.with(|state| state.send(key, frame, notify));
    }

    /// Empties `commands` into the inbox, in their order, with one wake-up.
    pub(crate) fn push_all(&self, commands: &mut Vec<Command>) {
        self.with(|state| {
            for command in commands.drain(..) {
                match command {
                    Command::Send { key, frame, notify } => state.send(key, frame, notify),
                    command => state.commands.push(command),
                }
            }
        });
    }

    pub(crate) fn send_many(&self, keys: Box<[Key]>, frame: Frame) {
        self.with(|state| {
            if state.waiting_bytes > WAITING_BYTES_MAX {
                let reason = CloseReason::Overloaded;
                state.commands.extend(keys.iter().map(|&key| Command::Close {
                    key,
                    last: None,
                    reason,
                }));
                return;
            }
            state.waiting_bytes += frame.len(Framing::Chunked) + size_of_val(&*keys);
            state.commands.push(Command::SendMany { keys, frame });
        });
    }

    pub(crate) fn push(&self, command: Command) {
        self.with(|state| state.commands.push(command));
    }

    /// Makes the shard take a turn even though nothing was sent.
    pub(crate) fn wake(&self) {
        self.with(|_| ());
    }

    /// Gives slots back, takes what has gathered in exchange for the empty `commands`.
    pub(crate) fn take(&self, commands: &mut Vec<Command>, freed: &mut Vec<Key>) {
        let mut state = self.lock();
        state.asleep = false;
        state.waiting_bytes = 0;
        state.free.extend(freed.drain(..));
        std::mem::swap(&mut state.commands, commands);
    }

    /// The shard ends: from now on everything pushed is dropped.
    pub(crate) fn close(&self) {
        self.with(|state| state.closed = true);
    }

    /// Whether the shard may sleep: false when there is something to take. From true on, whoever
    /// pushes wakes it.
    pub(crate) fn may_sleep(&self) -> bool {
        let mut state = self.lock();
        state.asleep = state.commands.is_empty();
        state.asleep
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let answer = act(&mut state);
        let unheard = if state.closed { std::mem::take(&mut state.commands) } else { Vec::new() };
        let asleep = std::mem::replace(&mut state.asleep, false);
        drop(state);
        // A sink that is dropped may talk to the inbox itself: never under the lock.
        drop(unheard);
        if asleep {
            // It fails only when the shard's epoll is gone, and then nobody listens.
            let _ = self.waker.wake();
        }
        answer
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while the lock is held, and a list of commands is whole at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_keeps_its_parts() {
        let key = Key { slot: u32::MAX, generation: GENERATION_MAX };
        let id = StreamId::new(255, key);
        assert_eq!((id.shard(), id.key()), (255, key));
        assert_eq!(key.next(), Key { slot: u32::MAX, generation: 1 });
        assert_eq!(size_of::<Option<StreamId>>(), 8);
    }
}
