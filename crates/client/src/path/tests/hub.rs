//! A hub for one device, as the contract says: queue, attempts, leases, one confirmed stream, polls.

use std::collections::BTreeMap;

/// What the hub writes into a stream at once.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Frame {
    Hello { time_ms: u64, up_ms: u64, heartbeat_s: u64 },
    Beat { time_ms: u64 },
    Comment,
    Command { n: u64, attempt: u32 },
    Bye,
}

#[derive(Debug)]
pub(super) struct Command {
    pub(super) created: u64,
    attempt: u32,
    pub(super) is_accepted: bool,
    /// Sent, and the lease is not over.
    is_sent: bool,
    /// Only an unconfirmed stream carried it.
    only_unconfirmed: bool,
}

#[derive(Debug)]
pub(super) struct HubStream {
    pub(super) is_confirmed: bool,
    /// A poll came after the confirmation: it shows `poll`.
    pub(super) is_doubted: bool,
    pub(super) compat: bool,
    pub(super) heartbeat_s: u64,
    pub(super) last_write: u64,
}

#[derive(Debug, Default)]
pub(super) struct Hub {
    /// Its clock is another one than the device's.
    pub(super) clock_ms: u64,
    pub(super) commands: BTreeMap<u64, Command>,
    pub(super) streams: BTreeMap<u64, HubStream>,
    /// The poll that waits: there is one at most.
    pub(super) poll: Option<u64>,
    /// Frames to write, and polls to answer with these commands.
    pub(super) writes: Vec<(u64, Frame)>,
    pub(super) answers: Vec<(u64, Vec<(u64, u32)>)>,
    /// Leases that begin.
    pub(super) leases: Vec<(u64, u32)>,
    pub(super) ended: Vec<u64>,
}

impl Hub {
    pub(super) fn create(&mut self, now: u64, n: u64) {
        let command = Command {
            created: now,
            attempt: 0,
            is_accepted: false,
            is_sent: false,
            only_unconfirmed: false,
        };
        self.commands.insert(n, command);
        self.send();
    }

    /// Sends what is queued on every listener.
    fn send(&mut self) {
        if self.streams.is_empty() && self.poll.is_none() {
            return;
        }
        let mut polled = Vec::new();
        for (n, command) in &mut self.commands {
            if command.is_accepted || command.is_sent {
                continue;
            }
            command.attempt += 1;
            command.is_sent = true;
            command.only_unconfirmed =
                self.poll.is_none() && self.streams.values().all(|stream| !stream.is_confirmed);
            let frame = Frame::Command { n: *n, attempt: command.attempt };
            self.writes.extend(self.streams.keys().map(|id| (*id, frame.clone())));
            self.leases.push((*n, command.attempt));
            polled.push((*n, command.attempt));
        }
        if !polled.is_empty()
            && let Some(poll) = self.poll.take()
        {
            self.answers.push((poll, polled));
        }
    }

    pub(super) fn open(&mut self, now: u64, id: u64, compat: bool, heartbeat_s: Option<u64>) {
        // A second unconfirmed stream replaces the first.
        let unconfirmed: Vec<u64> =
            self.streams.iter().filter(|(_, s)| !s.is_confirmed).map(|(id, _)| *id).collect();
        for old in unconfirmed {
            self.end(old);
        }
        let heartbeat_s = heartbeat_s.unwrap_or(15);
        let stream = HubStream {
            is_confirmed: false,
            is_doubted: false,
            compat,
            heartbeat_s,
            last_write: now,
        };
        self.streams.insert(id, stream);
        let hello = Frame::Hello { time_ms: self.clock_ms + now, up_ms: 0, heartbeat_s };
        self.writes.push((id, hello));
        // What was sent on a lost stream is queued again when that is noticed, or sent again on this one.
        for command in self.commands.values_mut().filter(|c| !c.is_accepted) {
            command.is_sent = false;
        }
        self.send();
    }

    pub(super) fn confirm(&mut self, id: u64) -> bool {
        if !self.streams.contains_key(&id) {
            return false;
        }
        let others: Vec<u64> = self.streams.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            self.end(other);
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            (stream.is_confirmed, stream.is_doubted) = (true, false);
        }
        true
    }

    /// Ends a stream with a `bye`.
    pub(super) fn end(&mut self, id: u64) {
        if self.streams.contains_key(&id) {
            self.writes.push((id, Frame::Bye));
            self.ended.push(id);
            self.closed(id);
        }
    }

    /// A stream is closed: what it carried is queued again.
    pub(super) fn closed(&mut self, id: u64) {
        if self.streams.remove(&id).is_some() {
            if self.streams.is_empty() {
                for command in self.commands.values_mut().filter(|c| !c.is_accepted) {
                    command.is_sent = false;
                }
            }
            self.send();
        }
    }

    pub(super) fn begin_poll(&mut self, id: u64, wait_s: u64, cursor: Option<u64>) {
        for stream in self.streams.values_mut().filter(|stream| stream.is_confirmed) {
            stream.is_doubted = true;
        }
        if let Some(older) = self.poll.replace(id) {
            self.answers.push((older, Vec::new()));
        }
        for (n, command) in self.commands.iter_mut().filter(|(_, c)| !c.is_accepted) {
            let bearer_lost = cursor.is_some_and(|cursor| *n > cursor);
            if bearer_lost || command.only_unconfirmed {
                command.is_sent = false;
                command.only_unconfirmed = false;
            }
        }
        self.send();
        if wait_s == 0 {
            self.end_poll(id);
        }
    }

    pub(super) fn end_poll(&mut self, id: u64) {
        if self.poll == Some(id) {
            self.poll = None;
            self.answers.push((id, Vec::new()));
        }
    }

    pub(super) fn accept(&mut self, n: u64) {
        if let Some(command) = self.commands.get_mut(&n) {
            command.is_accepted = true;
        }
    }

    pub(super) fn end_lease(&mut self, n: u64, attempt: u32) {
        if let Some(command) = self.commands.get_mut(&n)
            && !command.is_accepted
            && command.attempt == attempt
        {
            command.is_sent = false;
            self.send();
        }
    }
}
