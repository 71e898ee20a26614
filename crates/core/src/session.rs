//! Who listens for a device: its stream, a stream that has yet to be confirmed, a poll.
//!
//! The newest stream takes the place of the older, so that a half-open socket never locks a device
//! out; a poll and a stream live side by side. When a listener goes, what it alone had carried is
//! queued again at once. Contract, section 4.

use bellwire_proto::limits::{CONFIRM_TIMEOUT, PACED_BYTES, QUEUE_MAX};
use bellwire_proto::stream::{Bye, ByeReason, CancelEvent, CommandEvent};
use bellwire_proto::{Code, DeliveryState, Json, Problem, Seq, Timestamp};

use crate::delivery::Carriers;
use crate::device::Device;
use crate::io::{Answer, Frame, Listen, Output, Poll, RequestId, SessionId, Wanted};
use crate::record::{DeliveryRecord, Load};
use crate::work::Work;

/// Rows of a replay that are loaded at once; their data is bounded by [`PACED_BYTES`].
const REPLAY_ROWS: usize = 64;

/// A stream.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) session: SessionId,
    /// What was written is delivered; nobody answers.
    pub(crate) ack_none: bool,
    /// Nothing came or went for too long: it does not count as presence.
    pub(crate) stalled: bool,
    /// Until when it must be confirmed; `None` when it need not, or is.
    pub(crate) confirm_until: Option<Timestamp>,
    /// How far it has caught up.
    pub(crate) catching_up: CatchingUp,
    /// Bytes of backlog sent since its reader was last waited for.
    pub(crate) unpaced_bytes: usize,
    /// The command that its reader must have been written before more of the backlog is sent.
    pub(crate) paced_at: Option<Seq>,
}

/// How far a stream is with what came before it. Only `ack=none` streams replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CatchingUp {
    /// Replays what was delivered after this command; the next page is being loaded.
    Loading(Seq),
    /// A page has been sent; the next is loaded once its last frame was written.
    Writing(Seq),
    /// Sends what is queued, at the pace of its reader.
    Backlog,
    /// All caught up.
    Live,
}

/// A long poll that waits for something to tell.
#[derive(Debug)]
pub(crate) struct WaitingPoll {
    pub(crate) request: RequestId,
    pub(crate) until: Timestamp,
    pub(crate) commands: Vec<CommandEvent>,
    pub(crate) cancels: Vec<CancelEvent>,
}

impl Listener {
    /// Whether a command may be written to it now.
    pub(crate) fn takes_commands(&self) -> bool {
        let caught_up = matches!(self.catching_up, CatchingUp::Backlog | CatchingUp::Live);
        let ready = !self.ack_none || (caught_up && self.confirm_until.is_none());
        ready && self.paced_at.is_none()
    }

    /// Counts a command that is sent to it; what must be heard of it. A window of great commands
    /// would end the stream as overloaded, each time that it is opened, so backlog waits for its
    /// reader after every [`PACED_BYTES`].
    pub(crate) fn sends(&mut self, seq: Seq, data_bytes: usize) -> Wanted {
        if self.catching_up == CatchingUp::Live {
            return if self.ack_none { Wanted::Taken(seq) } else { Wanted::Nothing };
        }
        self.unpaced_bytes += data_bytes;
        if self.unpaced_bytes >= PACED_BYTES {
            self.paced_at = Some(seq);
        }
        let must_hear = self.ack_none || self.paced_at.is_some();
        if must_hear { Wanted::Written(seq) } else { Wanted::Nothing }
    }

    /// A command was written to it: if it was waited for, more of the backlog may follow.
    fn wrote(&mut self, seq: Seq) {
        if self.paced_at == Some(seq) {
            self.paced_at = None;
            self.unpaced_bytes = 0;
        }
    }
}

impl Device {
    /// A stream opens.
    pub(crate) fn listen(
        &mut self,
        request: RequestId,
        session: SessionId,
        listen: Listen,
        work: &mut Work<'_>,
    ) {
        if !work.is_open(session) {
            return; // It closed while the device was being loaded.
        }
        if let Err(problem) = self.may_listen(work) {
            work.forget_session(session);
            return work.refuse(request, problem);
        }
        self.heard(work.now);
        self.peer = listen.peer;
        let listener = Box::new(Listener {
            session,
            ack_none: listen.ack_none,
            stalled: false,
            confirm_until: listen.confirm.then(|| work.now.after(CONFIRM_TIMEOUT)),
            catching_up: match listen.last_event_id {
                Some(after) if listen.ack_none => CatchingUp::Loading(after),
                _ => CatchingUp::Backlog,
            },
            unpaced_bytes: 0,
            paced_at: None,
        });
        if let Err(problem) = self.ensure_known(work) {
            work.forget_session(session);
            return work.refuse(request, problem);
        }
        let older = self.unconfirmed.take();
        self.replace(older, Carriers::UNCONFIRMED, work);
        if listen.confirm {
            self.unconfirmed = Some(listener);
        } else {
            let older = self.stream.replace(listener);
            self.replace(older, Carriers::STREAM, work);
        }
        work.reply(request, Answer::Listening);
        self.greet(session, work);
    }

    fn may_listen(&self, work: &Work<'_>) -> Result<(), Problem> {
        if !self.known && !work.config().create_on_sight {
            let detail = format!("no device is named {}; register it first", self.id);
            return Err(Problem::new(Code::UnknownDevice, detail));
        }
        if work.draining() {
            return Err(draining());
        }
        Ok(())
    }

    /// A new stream hears again what may have been lost, and what is to be stopped.
    fn greet(&mut self, session: SessionId, work: &mut Work<'_>) {
        for live in self.live.iter_mut() {
            match live.state() {
                DeliveryState::Sent => live.requeue(work.now),
                DeliveryState::Cancelling => work.send(session, cancel_frame(&live.record)),
                _ => {}
            }
        }
        self.load_page(work);
    }

    /// A stream is confirmed and takes the place of the one before.
    ///
    /// # Errors
    /// `gone` when it is not, or no longer, a stream of this device.
    pub(crate) fn confirm(
        &mut self,
        session: SessionId,
        work: &mut Work<'_>,
    ) -> Result<(), Problem> {
        if self.stream.as_ref().is_some_and(|s| s.session == session) {
            return Ok(());
        }
        let Some(mut confirmed) = self.unconfirmed.take_if(|l| l.session == session) else {
            return Err(Problem::new(
                Code::Gone,
                "this stream has ended; open a new one and confirm the session of its hello",
            ));
        };
        confirmed.confirm_until = None;
        self.heard(work.now);
        // The commands that it carried are now carried by the stream that counts; what the older
        // stream alone had carried is lost with it.
        let older = self.stream.replace(confirmed);
        for live in &mut self.live {
            live.carriers.remove(Carriers::STREAM);
            if live.carriers.has(Carriers::UNCONFIRMED) {
                live.carriers.remove(Carriers::UNCONFIRMED);
                live.carriers.add(Carriers::STREAM);
            }
        }
        self.replace(older, Carriers::NONE, work);
        self.load_page(work);
        Ok(())
    }

    /// Ends a stream that another takes the place of.
    fn replace(&mut self, older: Option<Box<Listener>>, carried: Carriers, work: &mut Work<'_>) {
        if let Some(older) = older {
            work.bye(older.session, ByeReason::Replaced);
        }
        self.lost(carried, work.now);
    }

    /// Queues again, uncounted, what was sent and is now carried by nobody.
    fn lost(&mut self, carrier: Carriers, now: Timestamp) {
        for live in self.live.iter_mut().filter(|l| l.state() == DeliveryState::Sent) {
            live.carriers.remove(carrier);
            if live.carriers == Carriers::NONE {
                live.requeue(now);
            }
        }
    }

    /// A stream has ended. Compares and removes in one step: a late word about an older stream
    /// ends nothing.
    pub(crate) fn closed(&mut self, session: SessionId, work: &mut Work<'_>) {
        let counted = self.streams();
        if self.stream.take_if(|s| s.session == session).is_some() {
            if counted {
                self.heard(work.now);
            }
            self.lost(Carriers::STREAM, work.now);
        }
        if self.unconfirmed.take_if(|s| s.session == session).is_some() {
            self.lost(Carriers::UNCONFIRMED, work.now);
        }
    }

    /// Whether bytes pass on a stream.
    pub(crate) fn set_stalled(&mut self, session: SessionId, stalled: bool, now: Timestamp) {
        self.heard_until_now(now);
        if let Some(stream) = self.stream.as_mut().filter(|s| s.session == session) {
            stream.stalled = stalled;
        }
    }

    /// Ends a stream that was not confirmed in time.
    pub(crate) fn unconfirmed_in_time(&mut self, work: &mut Work<'_>) {
        let late = |l: &mut Box<Listener>| l.confirm_until.is_some_and(|until| until <= work.now);
        if let Some(listener) = self.unconfirmed.take_if(late) {
            work.bye(listener.session, ByeReason::Unconfirmed);
            self.lost(Carriers::UNCONFIRMED, work.now);
        }
    }

    /// Ends everything that listens.
    pub(crate) fn end_streams(&mut self, reason: ByeReason, work: &mut Work<'_>) {
        self.heard_until_now(work.now);
        let streams = [self.stream.take(), self.unconfirmed.take()];
        for listener in streams.into_iter().flatten() {
            work.bye(listener.session, reason);
        }
        self.answer_poll(work);
        self.polled_at = None;
        for live in self.live.iter_mut().filter(|l| l.state() == DeliveryState::Sent) {
            live.requeue(work.now);
        }
    }

    /// A frame was taken by the stream, or written: with `ack=none` that is the delivery.
    pub(crate) fn taken(&mut self, session: SessionId, seq: Seq, work: &mut Work<'_>) {
        let listeners = [&mut self.stream, &mut self.unconfirmed].into_iter().flatten();
        for listener in listeners.filter(|l| l.session == session) {
            listener.wrote(seq);
        }
        let Some(stream) = self.stream.as_mut().filter(|s| s.session == session && s.ack_none)
        else {
            return;
        };
        if stream.catching_up == CatchingUp::Writing(seq) {
            stream.catching_up = CatchingUp::Loading(seq);
            return self.load_page(work);
        }
        let found = self.live.iter_mut().find(|l| l.record.head.seq == seq);
        if let Some(live) = found.filter(|l| l.carriers.has(Carriers::STREAM)) {
            live.go(DeliveryState::Delivered, work.now);
        }
    }

    // --- Replay ---

    /// Asks for the next page of what the stream has missed. One page at a time: an answer does not
    /// say for which stream it was asked.
    fn load_page(&mut self, work: &mut Work<'_>) {
        if let Some(stream) = &self.stream
            && let CatchingUp::Loading(after) = stream.catching_up
            && self.loading_page.is_none()
        {
            self.loading_page = Some((stream.session, after));
            // Withheld as an answer is: what the stream before was told last may be on its way to the
            // disk, and a page that is read too early would lack it for ever.
            work.output(Output::Load(Load::Delivered {
                device: self.id.clone(),
                after,
                now: work.now,
                rows_max: REPLAY_ROWS,
                bytes_max: PACED_BYTES,
            }));
        }
    }

    /// The stream that the page was loaded for, if it still is the one that listens. If another
    /// waits for a page, that one is loaded.
    fn page_came(&mut self, work: &mut Work<'_>) -> Option<&mut Listener> {
        let (session, after) = self.loading_page.take()?;
        let waits =
            |s: &Listener| s.session == session && s.catching_up == CatchingUp::Loading(after);
        if !self.stream.as_deref().is_some_and(waits) {
            self.load_page(work);
            return None;
        }
        self.stream.as_deref_mut()
    }

    /// A page of what was delivered before, with the attempts of then.
    pub(crate) fn replay(&mut self, page: Vec<(DeliveryRecord, Json)>, work: &mut Work<'_>) {
        let now = work.now;
        let Some(stream) = self.page_came(work) else {
            return;
        };
        let Some(last) = page.last().map(|(record, _)| record.head.seq) else {
            stream.catching_up = CatchingUp::Backlog;
            return;
        };
        stream.catching_up = CatchingUp::Writing(last);
        let session = stream.session;
        for (record, data) in page {
            let seq = record.head.seq;
            let wanted = if seq == last { Wanted::Written(seq) } else { Wanted::Nothing };
            let frame = Frame::Command(command_event(&record, data, now));
            work.output(Output::Send { session, frame, wanted });
        }
    }

    /// The replay cannot be read: the stream ends, and the device asks again.
    pub(crate) fn replay_failed(&mut self, work: &mut Work<'_>) {
        if self.page_came(work).is_none() {
            return;
        }
        self.heard_until_now(work.now);
        if let Some(stream) = self.stream.take() {
            work.bye(stream.session, ByeReason::Rotate);
            self.lost(Carriers::STREAM, work.now);
        }
    }

    // --- Polls ---

    /// A poll begins. A waiting older one ends with nothing.
    pub(crate) fn poll(&mut self, request: RequestId, poll: Poll, work: &mut Work<'_>) {
        if !work.is_waiting(request) {
            return; // Its client went away while the device was being loaded.
        }
        let may = self.may_listen(work).and_then(|()| {
            self.heard(work.now);
            if self.stream.is_none() {
                self.peer = poll.peer.clone();
            }
            self.ensure_known(work)
        });
        if let Err(problem) = may {
            work.answered(request);
            return work.refuse(request, problem);
        }
        self.answer_poll(work);
        let now = work.now;
        for live in self.live.iter_mut().filter(|l| l.state() == DeliveryState::Sent) {
            let bearer_lost = poll.last_event_id.is_some_and(|id| live.record.head.seq > id);
            if bearer_lost || live.carriers == Carriers::UNCONFIRMED {
                live.requeue(now);
            }
        }
        let lease = work.config().lease;
        let mut cancels = std::mem::take(&mut self.cancels_for_poll);
        for live in self.live.iter_mut().filter(|l| l.state() == DeliveryState::Cancelling) {
            if live.cancel_polled_at.is_none_or(|at| at.after(lease) <= now) {
                live.cancel_polled_at = Some(now);
                cancels.push(cancel_event(&live.record));
            }
        }
        self.polled_at = Some(now);
        let until = now.after(poll.wait.duration());
        self.poll = Some(Box::new(WaitingPoll { request, until, commands: Vec::new(), cancels }));
    }

    /// Answers the poll if it has something to tell or has waited long enough.
    pub(crate) fn settle_poll(&mut self, work: &mut Work<'_>) {
        let Some(poll) = &self.poll else { return };
        let something = !poll.commands.is_empty() || !poll.cancels.is_empty();
        // What is being loaded for it is part of the answer.
        let over = poll.until <= work.now && !self.loading_data;
        if something || over {
            self.answer_poll(work);
        }
    }

    /// Answers the poll with what there is.
    pub(crate) fn answer_poll(&mut self, work: &mut Work<'_>) {
        if let Some(poll) = self.poll.take() {
            self.polled_at = Some(work.now);
            work.answered(poll.request);
            let WaitingPoll { request, commands, cancels, .. } = *poll;
            work.reply(request, Answer::Poll { commands, cancels });
        }
    }

    /// Tells listeners of what is to be stopped.
    pub(crate) fn tell_cancels(&mut self, work: &mut Work<'_>) {
        // A live listener is a poll of the last 40 s: the next one is told.
        let polls = self.polls(work.now);
        if !polls {
            self.cancels_for_poll = Vec::new();
        }
        let mut kept = self.cancels_for_poll.len();
        for live in &mut self.live {
            if !std::mem::take(&mut live.tell_cancel) {
                continue;
            }
            for listener in [&self.stream, &self.unconfirmed].into_iter().flatten() {
                work.send(listener.session, cancel_frame(&live.record));
            }
            if let Some(poll) = &mut self.poll {
                poll.cancels.push(cancel_event(&live.record));
                live.cancel_polled_at = Some(work.now);
            } else if polls && live.state().is_terminal() && kept < QUEUE_MAX {
                kept += 1;
                self.cancels_for_poll.push(cancel_event(&live.record));
            }
        }
    }
}

/// The event of a sending, as of now.
pub(crate) fn command_event(record: &DeliveryRecord, data: Json, now: Timestamp) -> CommandEvent {
    let head = &record.head;
    let left_ms = u64::try_from(head.expires_at.since(now).as_millis()).unwrap_or(u64::MAX);
    CommandEvent {
        id: head.id,
        seq: head.seq,
        action: head.action.clone(),
        data,
        attempt: record.attempt,
        created_at: head.created_at,
        expires_at: head.expires_at,
        ttl_s: left_ms.div_ceil(1000),
        run_timeout_s: head.run_timeout.as_secs(),
    }
}

fn cancel_event(record: &DeliveryRecord) -> CancelEvent {
    CancelEvent { id: record.head.id, seq: record.head.seq }
}

fn cancel_frame(record: &DeliveryRecord) -> Frame {
    Frame::Cancel(cancel_event(record))
}

/// The refusal of a hub that is about to stop.
pub(crate) fn draining() -> Problem {
    Problem::new(Code::Draining, "the hub is about to stop; try again in a few seconds")
}

/// The last event of a stream.
pub(crate) fn bye(reason: ByeReason, spread: f64) -> Bye {
    // Contract, section 4: 0.5 to 5 s, draining 1 to 10 s, so that a fleet does not come back at once.
    let (least, most) = if reason == ByeReason::Draining { (1.0, 10.0) } else { (0.5, 5.0) };
    let tenths = ((least + (most - least) * spread) * 10.0).round();
    Bye { reason, reconnect_s: tenths / 10.0 }
}
