//! How commands get to a shard: one list under a lock, and a waker that is used only while the
//! shard sleeps.
//!
//! The inbox also assigns the slots, so that a stream has its id before its shard knows it. The
//! lock is held to push or to take, and never across a system call.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bellwire_proto::limits::SHARD_INBOX_BYTES_MAX;
use bytes::Bytes;

use super::frame::{Frame, Framing};
use super::sink::Sink;
use super::stream_id::{Key, StreamId};
use super::{CloseReason, Receipt, StreamOptions};

pub(crate) enum ShardCommand {
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
        receipt: Receipt,
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
    /// The reader of a response body emptied it, or dropped it.
    BodyReady(Key),
    /// Ends every stream, and the shard `grace_ms` later or as soon as all are released.
    Stop {
        grace_ms: u64,
    },
    #[cfg(test)]
    Panic,
}

/// What a shard shares with the handles of its plane.
pub(crate) struct Inbox {
    shard: u8,
    waker: mio::Waker,
    state: Mutex<InboxState>,
}

struct InboxState {
    commands: Vec<ShardCommand>,
    waiting_bytes: usize,
    asleep: bool,
    /// The shard has ended: what is pushed is dropped.
    closed: bool,
    /// Free slots with the generation of their next use. Reused from the front, so that a slot is
    /// idle as long as possible and its generations last.
    free: VecDeque<Key>,
    fresh: u32,
}

impl InboxState {
    fn send(&mut self, key: Key, frame: Frame, receipt: Receipt) {
        if self.waiting_bytes > SHARD_INBOX_BYTES_MAX {
            let reason = CloseReason::Overloaded;
            self.commands.push(ShardCommand::Close { key, last: None, reason });
            return;
        }
        self.waiting_bytes += frame.len(Framing::Chunked);
        self.commands.push(ShardCommand::Send { key, frame, receipt });
    }
}

impl Inbox {
    pub(crate) fn new(shard: u8, waker: mio::Waker) -> Self {
        let state = InboxState {
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
            state.commands.push(ShardCommand::Reserve { key, options });
            StreamId::new(self.shard, key)
        })
    }

    pub(crate) fn send(&self, key: Key, frame: Frame, receipt: Receipt) {
        self.with(|state| state.send(key, frame, receipt));
    }

    /// Empties `commands` into the inbox, in their order, with one wake-up.
    pub(crate) fn push_all(&self, commands: &mut Vec<ShardCommand>) {
        self.with(|state| {
            for command in commands.drain(..) {
                match command {
                    ShardCommand::Send { key, frame, receipt } => state.send(key, frame, receipt),
                    command => state.commands.push(command),
                }
            }
        });
    }

    pub(crate) fn send_many(&self, keys: Box<[Key]>, frame: Frame) {
        self.with(|state| {
            if state.waiting_bytes > SHARD_INBOX_BYTES_MAX {
                let reason = CloseReason::Overloaded;
                state.commands.extend(keys.iter().map(|&key| ShardCommand::Close {
                    key,
                    last: None,
                    reason,
                }));
                return;
            }
            state.waiting_bytes += frame.len(Framing::Chunked) + size_of_val(&*keys);
            state.commands.push(ShardCommand::SendMany { keys, frame });
        });
    }

    pub(crate) fn push(&self, command: ShardCommand) {
        self.with(|state| state.commands.push(command));
    }

    /// Wakes the shard although nothing was sent.
    pub(crate) fn wake(&self) {
        self.with(|_| ());
    }

    /// Returns free slots, and swaps the commands that have gathered with the empty `commands`.
    pub(crate) fn take(&self, commands: &mut Vec<ShardCommand>, freed: &mut Vec<Key>) {
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

    /// Whether the shard may sleep: false when there is something to take. After true, the next
    /// push wakes it.
    pub(crate) fn may_sleep(&self) -> bool {
        let mut state = self.lock();
        state.asleep = state.commands.is_empty();
        state.asleep
    }

    fn with<T>(&self, act: impl FnOnce(&mut InboxState) -> T) -> T {
        let mut state = self.lock();
        let answer = act(&mut state);
        let dropped = if state.closed { std::mem::take(&mut state.commands) } else { Vec::new() };
        let asleep = std::mem::replace(&mut state.asleep, false);
        drop(state);
        // A dropped sink may call the inbox itself: never under the lock.
        drop(dropped);
        if asleep {
            // It fails only when the shard's epoll is closed, and then the shard has ended.
            let _ = self.waker.wake();
        }
        answer
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, InboxState> {
        // Nothing panics while the lock is held, and a list of commands is whole at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
