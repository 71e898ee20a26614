//! The listeners of a device: its stream, a stream that has yet to be confirmed, a poll.
//!
//! The newest stream replaces the older, so that a half-open socket never locks a device out; a
//! poll and a stream live side by side. Contract, section 4. Streams end by `listeners/ends.rs`, by plan or not; what
//! a stream has missed is replayed by `listeners/replay.rs`; polls are answered, and cancellations sent, by
//! `listeners/polls.rs`.

mod ends;
mod polls;
mod replay;
mod revoked;

use bellwire_proto::limits::{CONFIRM_TIMEOUT, PACED_BYTES, POLL_PRESENCE};
use bellwire_proto::stream::{CancelEvent, CommandEvent};
use bellwire_proto::{Code, DeliveryState, Json, Problem, Seq, TokenId, Transport};
use thin_vec::ThinVec;

use crate::context::unknown_device;
use crate::delivery::Carriers;
use crate::device::Device;
use crate::ids::{RequestId, SessionId};
use crate::io::{Answer, Frame, Listen, NotifyOn, Output, TokenUse};
use crate::record::DeliveryRecord;
use crate::time::{Instant, Now};
use crate::txn::TxnBuilder;
use ends::planned_end;

/// Everything that listens for a device.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// The stream that counts: plain, or confirmed.
    stream: Option<Box<Listener>>,
    /// The stream that has yet to be confirmed.
    unconfirmed: Option<Box<Listener>>,
    /// The poll that waits for commands.
    poll: Option<Box<WaitingPoll>>,
    /// Cancellations for the next poll: of commands that have ended by force.
    cancels_for_poll: ThinVec<CancelEvent>,
    /// When the latest poll began or was answered.
    polled_at: Option<Instant>,
    /// The page of a replay that is being loaded: for which stream, and after which command.
    loading_page: Option<(SessionId, Seq)>,
}

/// A stream.
#[derive(Debug)]
struct Listener {
    session: SessionId,
    /// The device sends no reports: what was written is `delivered`.
    ack_none: bool,
    /// No byte passed for too long: it does not count as presence.
    stalled: bool,
    /// The device polled after this stream had begun to count: it doubts the stream, and uses the polls as long as
    /// there are any.
    doubted: bool,
    /// It must be confirmed, by [`Self::ends_at`].
    unconfirmed: bool,
    /// When the hub ends it: unconfirmed, or at its planned end, if it has one.
    ends_at: Option<Instant>,
    /// How far it has caught up.
    catching_up: CatchingUp,
    /// Bytes of backlog sent since its reader was last waited for.
    unpaced_bytes: usize,
    /// The command that must have been written before more of the backlog is sent.
    paced_at: Option<Seq>,
}

/// How far a stream is with what came before it. Only `ack=none` streams replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CatchingUp {
    /// Replays what was delivered after this command; the next page is being loaded.
    Loading(Seq),
    /// A page has been sent; the next is loaded once its last frame was written.
    Writing(Seq),
    /// Sends what is queued, at the pace of its reader.
    Backlog,
    /// All caught up.
    Live,
}

/// A long poll that waits for commands.
#[derive(Debug)]
struct WaitingPoll {
    request: RequestId,
    until: Instant,
    /// With which token it came.
    token: Option<TokenId>,
    commands: Vec<CommandEvent>,
    cancels: Vec<CancelEvent>,
    /// One of the commands was sent on a stream too: the poll is answered in the same call, so that both
    /// carry the same attempt.
    has_copies: bool,
}

impl Listener {
    /// Whether a command may be written to it now.
    fn takes_commands(&self) -> bool {
        let caught_up = matches!(self.catching_up, CatchingUp::Backlog | CatchingUp::Live);
        let ready = !self.ack_none || (caught_up && !self.unconfirmed);
        ready && self.paced_at.is_none()
    }

    /// Counts a command that is sent to it, and returns the receipt that the core needs. A window of great
    /// commands would end the stream as overloaded each time that it is opened, so the backlog waits
    /// for its reader after every [`PACED_BYTES`].
    fn count(&mut self, seq: Seq, data_bytes: usize) -> NotifyOn {
        if self.catching_up == CatchingUp::Live {
            return if self.ack_none { NotifyOn::Taken(seq) } else { NotifyOn::Nothing };
        }
        self.unpaced_bytes += data_bytes;
        if self.unpaced_bytes >= PACED_BYTES {
            self.paced_at = Some(seq);
        }
        let needed = self.ack_none || self.paced_at.is_some();
        if needed { NotifyOn::Written(seq) } else { NotifyOn::Nothing }
    }

    /// A command was written to it: if the backlog waited for that, more of it may follow.
    fn wrote(&mut self, seq: Seq) {
        if self.paced_at == Some(seq) {
            self.paced_at = None;
            self.unpaced_bytes = 0;
        }
    }
}

impl Listeners {
    /// Whether there is a stream, whatever its state, or a poll that counts.
    pub(crate) fn is_empty(&self, now: Instant) -> bool {
        self.stream.is_none() && self.unconfirmed.is_none() && !self.polls(now)
    }

    /// Whether the page of a replay is being loaded.
    pub(crate) fn is_loading(&self) -> bool {
        self.loading_page.is_some()
    }

    /// How the device is connected, as far as it counts as presence. Beside a stream that it doubts it uses its polls.
    pub(crate) fn transport(&self, now: Instant) -> Option<Transport> {
        let doubted = self.stream.as_ref().is_some_and(|stream| stream.doubted);
        match (self.streams(), self.polls(now)) {
            (true, polls) if !(polls && doubted) => Some(Transport::Stream),
            (_, true) => Some(Transport::Poll),
            (_, false) => None,
        }
    }

    /// Whether bytes pass on a stream that counts.
    fn streams(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| !stream.stalled)
    }

    /// Whether the device polls: the latest poll counts for a while as presence and as a listener.
    fn polls(&self, now: Instant) -> bool {
        self.poll.is_some() || self.poll_counts_until().is_some_and(|until| now < until)
    }

    fn poll_counts_until(&self) -> Option<Instant> {
        self.polled_at.map(|at| at.after(POLL_PRESENCE))
    }

    /// What the end of a lease means: whether a listener could have answered.
    pub(crate) fn could_answer(&self, carriers: Carriers, now: Instant) -> LeaseRule {
        // On an `ack=none` stream a command is delivered once it is written: no lease runs until then.
        let ack_none = self.stream.as_ref().is_some_and(|stream| stream.ack_none);
        if ack_none && carriers == Carriers::STREAM {
            LeaseRule::None
        } else if self.is_empty(now) {
            LeaseRule::Uncounted
        } else {
            LeaseRule::Counted
        }
    }

    /// Whether there is a listener that a command can be sent to now.
    pub(crate) fn take_commands(&self) -> bool {
        let streams = [&self.stream, &self.unconfirmed];
        self.poll.is_some() || streams.into_iter().flatten().any(|stream| stream.takes_commands())
    }

    /// Sends a command to all listeners, and returns those that carry it.
    pub(crate) fn carry(&mut self, event: CommandEvent, txn: &mut TxnBuilder<'_>) -> Carriers {
        let mut carriers = Carriers::NONE;
        let streams =
            [(&mut self.stream, Carriers::STREAM), (&mut self.unconfirmed, Carriers::UNCONFIRMED)];
        for (listener, carrier) in streams {
            let Some(listener) = listener.as_mut().filter(|stream| stream.takes_commands()) else {
                continue;
            };
            carriers.add(carrier);
            let notify_on = listener.count(event.seq, event.data.as_str().len());
            let frame = Frame::Command(event.clone());
            txn.output(Output::Send { session: listener.session, frame, notify_on });
        }
        if let Some(poll) = &mut self.poll {
            poll.has_copies |= carriers != Carriers::NONE;
            carriers.add(Carriers::POLL);
            poll.commands.push(event);
        }
        carriers
    }

    /// The queue is empty: streams that had a backlog are live from here on.
    pub(crate) fn caught_up(&mut self) {
        for listener in [&mut self.stream, &mut self.unconfirmed].into_iter().flatten() {
            if listener.catching_up == CatchingUp::Backlog && listener.takes_commands() {
                listener.catching_up = CatchingUp::Live;
            }
        }
    }

    /// The deadlines of a poll and of the streams; they may have elapsed.
    pub(crate) fn deadlines(&self) -> [Option<Instant>; 3] {
        let poll = self.poll.as_ref().map(|poll| poll.until).or(self.poll_counts_until());
        let [stream, unconfirmed] =
            [&self.stream, &self.unconfirmed].map(|l| l.as_ref().and_then(|stream| stream.ends_at));
        [poll, stream, unconfirmed]
    }

    /// The client of a poll has disconnected: it is gone, as with a stream.
    pub(crate) fn abandon_poll(&mut self, request: RequestId) {
        if self.poll.take_if(|poll| poll.request == request).is_some() {
            self.polled_at = None;
        }
    }
}

/// What the end of a lease means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseRule {
    /// Nothing: no report is expected.
    None,
    /// There is no listener: queued again, uncounted.
    Uncounted,
    /// A failed attempt.
    Counted,
}

impl Device {
    /// A stream opens.
    pub(crate) fn listen(
        &mut self,
        request: RequestId,
        session: SessionId,
        listen: Listen,
        txn: &mut TxnBuilder<'_>,
    ) {
        if !txn.ctx.sessions.contains_key(&session) {
            return; // It closed while the device was being loaded.
        }
        let may = self.may_listen(txn);
        let may = may.and_then(|()| self.may_have_a_stream_more(listen.token, txn));
        let known = may.and_then(|()| {
            self.contacts.seen(txn.now.wall);
            self.contacts.set_peer(listen.peer);
            self.ensure_known(txn)
        });
        if let Err(problem) = known {
            txn.ctx.end_session(session);
            return txn.refuse(request, problem);
        }
        let listener = Box::new(Listener {
            session,
            ack_none: listen.ack_none,
            stalled: false,
            doubted: false,
            unconfirmed: listen.confirm,
            ends_at: if listen.confirm {
                Some(txn.now.instant.after(CONFIRM_TIMEOUT))
            } else {
                planned_end(txn.now.instant, txn)
            },
            catching_up: match listen.last_event_id {
                Some(after) if listen.ack_none => CatchingUp::Loading(after),
                _ => CatchingUp::Backlog,
            },
            unpaced_bytes: 0,
            paced_at: None,
        });
        let older = self.listeners.unconfirmed.take();
        self.replace(older, Carriers::UNCONFIRMED, txn);
        if listen.confirm {
            self.listeners.unconfirmed = Some(listener);
        } else {
            let older = self.listeners.stream.replace(listener);
            self.replace(older, Carriers::STREAM, txn);
        }
        txn.reply(request, Answer::Listening);
        self.resync(session, txn);
    }

    fn may_listen(&self, txn: &TxnBuilder<'_>) -> Result<(), Problem> {
        if !self.known && !txn.ctx.creates_on_sight() {
            return Err(unknown_device(&self.id));
        }
        if txn.ctx.draining {
            return Err(Problem::draining());
        }
        Ok(())
    }

    /// Those of this token are counted with the new one, and without those that it replaces.
    fn may_have_a_stream_more(
        &self,
        token: Option<TokenUse>,
        txn: &TxnBuilder<'_>,
    ) -> Result<(), Problem> {
        // A device's own token has this stream alone: it replaces every other.
        let token = token.filter(|token| !token.own);
        let Some((token, most)) = token.zip(txn.ctx.config.streams_per_token) else {
            return Ok(());
        };
        let mut streams = txn.ctx.grants.streams(token.id);
        let open = [&self.listeners.stream, &self.listeners.unconfirmed];
        for open in open.into_iter().flatten() {
            let session = txn.ctx.sessions.get(&open.session);
            streams -= u64::from(session.is_some_and(|session| session.token == Some(token.id)));
        }
        if streams <= most {
            return Ok(());
        }
        let detail = format!(
            "this token has {most} streams, which is streams_per_token of the hub; close one, or give each device a token \
             of its own"
        );
        Err(Problem::new(Code::RateLimited, detail))
    }

    /// Brings a new stream up to date: queues again what was sent and may be lost, repeats the
    /// cancellations under way, and begins the replay where there is one.
    fn resync(&mut self, session: SessionId, txn: &mut TxnBuilder<'_>) {
        for seq in self.deliveries.sent() {
            self.deliveries.with(seq, |live| live.requeue(txn.now));
        }
        for seq in self.deliveries.cancelling() {
            if let Some(live) = self.deliveries.get(seq) {
                txn.send(session, cancel_frame(&live.record));
            }
        }
        self.load_page(txn);
    }

    /// A stream is confirmed and replaces the one before.
    ///
    /// # Errors
    /// `gone` when it is not, or no longer, a stream of this device.
    pub(crate) fn confirm(
        &mut self,
        session: SessionId,
        txn: &mut TxnBuilder<'_>,
    ) -> Result<(), Problem> {
        if let Some(stream) = self.listeners.stream.as_mut().filter(|s| s.session == session) {
            stream.doubted = false;
            return Ok(());
        }
        let unconfirmed = &mut self.listeners.unconfirmed;
        let Some(mut confirmed) = unconfirmed.take_if(|l| l.session == session) else {
            return Err(session_gone());
        };
        confirmed.unconfirmed = false;
        // Its age counts from its beginning.
        let begun = confirmed.ends_at.map(|until| until.before(CONFIRM_TIMEOUT));
        confirmed.ends_at = planned_end(begun.unwrap_or(txn.now.instant), txn);
        self.contacts.seen(txn.now.wall);
        // The commands that it carried are now carried by the stream that counts; what the older
        // stream alone had carried is lost with it.
        let older = self.listeners.stream.replace(confirmed);
        for seq in self.deliveries.sent() {
            self.deliveries.with(seq, |live| {
                live.carriers.remove(Carriers::STREAM);
                if live.carriers.has(Carriers::UNCONFIRMED) {
                    live.carriers.remove(Carriers::UNCONFIRMED);
                    live.carriers.add(Carriers::STREAM);
                }
            });
        }
        self.replace(older, Carriers::NONE, txn);
        self.load_page(txn);
        Ok(())
    }

    /// Whether bytes pass on a stream.
    pub(crate) fn set_stalled(&mut self, session: SessionId, stalled: bool, now: Now) {
        self.seen_until_now(now);
        if let Some(stream) = self.listeners.stream.as_mut().filter(|s| s.session == session) {
            stream.stalled = stalled;
        }
    }

    /// A stream that counts as presence is about to end: bytes passed on it until now, give or take the
    /// silence after which it would have stalled.
    fn seen_until_now(&mut self, now: Now) {
        if self.listeners.streams() {
            self.contacts.seen(now.wall);
        }
    }

    /// A frame was taken by the stream, or written: with `ack=none` that is the delivery.
    pub(crate) fn taken(&mut self, session: SessionId, seq: Seq, txn: &mut TxnBuilder<'_>) {
        let streams = [&mut self.listeners.stream, &mut self.listeners.unconfirmed];
        for listener in streams.into_iter().flatten().filter(|l| l.session == session) {
            listener.wrote(seq);
        }
        let stream = self.listeners.stream.as_mut();
        let Some(stream) = stream.filter(|s| s.session == session && s.ack_none) else {
            return;
        };
        if stream.catching_up == CatchingUp::Writing(seq) {
            stream.catching_up = CatchingUp::Loading(seq);
            return self.load_page(txn);
        }
        self.deliveries.with(seq, |live| {
            if live.carriers.has(Carriers::STREAM) {
                live.transition(DeliveryState::Delivered, txn.now);
            }
        });
    }
}

/// The event of a sending, as of now.
pub(super) fn command_event(record: &DeliveryRecord, data: Json, now: Instant) -> CommandEvent {
    let head = &record.head;
    let remaining = record.expires.since(now).as_millis();
    CommandEvent {
        id: head.id,
        seq: head.seq,
        action: head.action.clone(),
        data,
        attempt: record.attempt,
        created_at: head.created_at,
        expires_at: record.expires_at(),
        ttl_s: u64::try_from(remaining).unwrap_or(u64::MAX).div_ceil(1000),
        run_timeout_s: head.run_timeout.as_secs(),
    }
}

fn cancel_event(record: &DeliveryRecord) -> CancelEvent {
    CancelEvent { id: record.head.id, seq: record.head.seq }
}

fn cancel_frame(record: &DeliveryRecord) -> Frame {
    Frame::Cancel(cancel_event(record))
}

/// The refusal of a session that is no stream of the device.
pub(crate) fn session_gone() -> Problem {
    Problem::new(
        Code::Gone,
        "this stream has ended; open a new one and confirm the session of its hello",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hub holds very many streams that only wait.
    #[test]
    fn an_idle_stream_is_small() {
        assert!(size_of::<Listener>() <= 72, "{} bytes", size_of::<Listener>());
        assert!(size_of::<Listeners>() <= 80, "{} bytes", size_of::<Listeners>());
    }
}
