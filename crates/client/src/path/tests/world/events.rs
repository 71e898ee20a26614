//! What happens at the hub and at the middlebox.

use bellwire_proto::stream::ByeReason;

use super::*;

impl World {
    // --- The hub and the middlebox ---

    pub(super) fn flush(&mut self) {
        for (n, attempt) in std::mem::take(&mut self.hub.leases) {
            self.at(self.now + 30_000, Event::Lease { n, attempt });
        }
        for (id, frame) in std::mem::take(&mut self.hub.writes) {
            let is_comment = frame == Frame::Comment;
            if let Some(stream) = self.hub.streams.get_mut(&id) {
                stream.last_write = self.now;
                if stream.compat && !is_comment {
                    self.at(self.now + 100, Event::CompatDue { id });
                }
            }
            self.pass(id, frame);
        }
        for id in std::mem::take(&mut self.hub.ended) {
            self.end_at_hub(id);
        }
        for (id, commands) in std::mem::take(&mut self.hub.answers) {
            let (latency, middlebox_now) = (self.latency(), self.middlebox_now());
            if !self.pipes[&id].is_dead && !middlebox_now.is_down(self.now) {
                self.at(self.now + latency, Event::Answer { id, commands });
            }
        }
    }

    /// A write on its way to the device.
    fn pass(&mut self, id: u64, frame: Frame) {
        let (latency, middlebox_now) = (self.latency(), self.middlebox_now());
        let now = self.now;
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        if pipe.is_dead || middlebox_now.is_down(now) {
            pipe.is_dead = true;
            return;
        }
        pipe.last_byte = now;
        let mut released = vec![frame];
        match middlebox_now {
            Middlebox::FullBuffer | Middlebox::FirstByte { streams: false, .. } => {
                pipe.held.append(&mut released);
                return;
            }
            Middlebox::Trickle => {
                let head = !std::mem::replace(&mut pipe.head_passed, true);
                if head {
                    self.at(now + latency, Event::Head { id });
                }
                return;
            }
            Middlebox::OneBehind => std::mem::swap(&mut pipe.held, &mut released),
            Middlebox::IdleLimit { ms } => self.at(now + ms, Event::Idle { id }),
            _ => {}
        }
        for frame in released {
            self.at(now + latency, Event::Arrives { id, frame });
        }
    }

    /// The hub has ended a response: a buffer releases what it holds.
    fn end_at_hub(&mut self, id: u64) {
        let latency = self.latency();
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        if pipe.is_dead {
            return;
        }
        for frame in std::mem::take(&mut pipe.held) {
            self.at(self.now + latency, Event::Arrives { id, frame });
        }
        self.at(self.now + latency + 1, Event::StreamEnds { id, end: StreamEnd::Ended });
    }

    /// The middlebox ends a stream in order, towards both sides.
    fn cut(&mut self, id: u64) {
        if self.pipes[&id].is_dead || !self.hub.streams.contains_key(&id) {
            return;
        }
        self.hub.closed(id);
        let end = StreamEnd::Ended;
        if self.bug != Some(InjectedBug::IgnoresCuts) {
            self.at(self.now + 1, Event::StreamEnds { id, end });
        }
    }

    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Create
            | Event::OpenAtHub { .. }
            | Event::Probe { .. }
            | Event::HeartbeatDue { .. }
            | Event::CompatDue { .. }
            | Event::Unconfirmed { .. }
            | Event::Lease { .. }
            | Event::ClosedAtHub { .. }
            | Event::PollAtHub { .. }
            | Event::PollEnds { .. }
            | Event::ConfirmAtHub { .. }
            | Event::ReportAtHub { .. } => self.handle_at_hub(event),
            Event::Age { .. }
            | Event::Idle { .. }
            | Event::FirstByte { .. }
            | Event::Forgets
            | Event::Cuts => self.handle_at_middlebox(event),
            Event::Confirmed { .. }
            | Event::Head { .. }
            | Event::Arrives { .. }
            | Event::StreamEnds { .. }
            | Event::Answer { .. }
            | Event::PollTimesOut { .. }
            | Event::PollFails { .. }
            | Event::Pong { .. } => self.handle_at_device(event),
        }
    }

    /// The hub's timers, and what has arrived there. One of a stream or a poll that has ended has no effect.
    fn handle_at_hub(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Create if now + NO_COMMAND < self.end => {
                self.next_command += 1;
                self.hub.create(now, self.next_command);
                let pause = self.random.below(self.pause_max_ms);
                self.at(now + pause, Event::Create);
            }
            Event::OpenAtHub { id, compat, heartbeat_s } => {
                self.hub.open(now, id, compat, heartbeat_s);
                for at in [1000, 2000, 3000] {
                    self.at(now + at, Event::Probe { id });
                }
                let heartbeat_s = self.hub.streams[&id].heartbeat_s;
                self.at(now + heartbeat_s * 1000, Event::HeartbeatDue { id });
                self.at(now + 10_000, Event::Unconfirmed { id });
                if let Middlebox::MaxAge { ms } = self.middlebox_now() {
                    self.at(now + ms, Event::Age { id });
                }
            }
            Event::Probe { id } if self.hub.streams.contains_key(&id) => {
                let time_ms = self.hub.clock_ms + now;
                self.hub.writes.push((id, Frame::Beat { time_ms }));
            }
            Event::HeartbeatDue { id } => {
                let Some(stream) = self.hub.streams.get(&id) else { return };
                let due = stream.last_write + stream.heartbeat_s * 1000;
                if due <= now {
                    let time_ms = self.hub.clock_ms + now;
                    self.at(now + stream.heartbeat_s * 1000, Event::HeartbeatDue { id });
                    self.hub.writes.push((id, Frame::Beat { time_ms }));
                } else {
                    self.at(due, Event::HeartbeatDue { id });
                }
            }
            Event::CompatDue { id } if self.hub.streams.contains_key(&id) => {
                self.hub.writes.push((id, Frame::Comment));
            }
            Event::Unconfirmed { id }
                if self.hub.streams.get(&id).is_some_and(|stream| !stream.is_confirmed) =>
            {
                self.hub.end(id);
            }
            Event::Lease { n, attempt } => self.hub.end_lease(n, attempt),
            Event::ClosedAtHub { id } => self.hub.closed(id),
            Event::PollAtHub { id, wait_s, cursor } => {
                self.hub.begin_poll(id, wait_s, cursor);
                if wait_s > 0 {
                    self.at(now + wait_s * 1000, Event::PollEnds { id });
                }
            }
            Event::PollEnds { id } => self.hub.end_poll(id),
            Event::ConfirmAtHub { stream } => {
                let (is_accepted, latency) = (self.hub.confirm(stream), self.latency());
                self.at(now + latency, Event::Confirmed { stream, is_accepted });
            }
            Event::ReportAtHub { n } => {
                if self.middlebox_now().is_down(now) || self.middlebox_now().is_portal(now) {
                    self.at(now + 1000, Event::ReportAtHub { n });
                } else {
                    self.hub.accept(n);
                }
            }
            _ => {}
        }
    }

    /// What the middlebox does by itself.
    fn handle_at_middlebox(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Age { id } => self.cut(id),
            Event::Idle { id } => {
                let idle = now.saturating_sub(self.pipes[&id].last_byte);
                if let Middlebox::IdleLimit { ms } = self.middlebox_now()
                    && idle >= ms
                {
                    self.cut(id);
                }
            }
            Event::FirstByte { id } if self.hub.poll == Some(id) => {
                self.hub.poll = None;
                let kind = PollFailureKind::TimedOut;
                self.at(now + 1, Event::PollFails { id, kind });
            }
            Event::Forgets => {
                self.pipes.values_mut().for_each(|pipe| pipe.is_dead = true);
                if let Middlebox::SilentLoss { every_ms } = self.middlebox {
                    self.at(now + every_ms, Event::Forgets);
                }
            }
            Event::Cuts => {
                let open: Vec<u64> = self.hub.streams.keys().copied().collect();
                open.into_iter().for_each(|id| self.cut(id));
                if let Some((id, _)) = self.poll {
                    self.at(now + 1, Event::PollFails { id, kind: PollFailureKind::TimedOut });
                }
                if matches!(self.middlebox, Middlebox::Changing) {
                    self.at(now + 10 * MINUTE, Event::Cuts);
                    if self.seed.is_multiple_of(3) {
                        self.path.network_changed(now);
                    }
                }
            }
            _ => {}
        }
    }

    /// What arrives at the device. One of a stream or a poll that was given up has no effect.
    fn handle_at_device(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Confirmed { stream, is_accepted } if self.stream == Some(stream) => {
                self.path.handle_confirmation(now, is_accepted);
            }
            Event::Head { id } if self.stream == Some(id) => {
                self.path.handle_stream_head(now, self.stream_sent)
            }
            Event::Arrives { id, frame } if self.stream == Some(id) && !self.pipes[&id].is_dead => {
                self.stream_byte = now;
                self.arrives(frame);
            }
            Event::StreamEnds { id, end } if self.stream == Some(id) => {
                self.stream = None;
                self.path.handle_stream_end(now, end);
            }
            Event::Answer { id, commands } => {
                let Some((_, sent)) = self.poll.take_if(|(poll, _)| *poll == id) else { return };
                let is_new = |(n, attempt): &&(u64, u32)| self.deliver(*n, *attempt, Carrier::Poll);
                let news = commands.iter().filter(is_new).count();
                let exchange_ms = (now - sent).min(2 * self.middlebox_now().latency_ms());
                self.path.handle_poll_answer(now, exchange_ms, news > 0);
            }
            Event::PollTimesOut { id } => self.poll_fails(id, PollFailureKind::TimedOut),
            Event::PollFails { id, kind } => self.poll_fails(id, kind),
            Event::Pong { sent, is_ok: true } => self.path.handle_pong(now, now - sent),
            Event::Pong { is_ok: false, .. } => self.path.handle_ping_failure(now),
            _ => {}
        }
    }

    fn poll_fails(&mut self, id: u64, kind: PollFailureKind) {
        if self.poll.take_if(|(poll, _)| *poll == id).is_some() {
            let failure = PollFailure { kind, pause_ms: None, why: "it failed".to_owned() };
            self.path.handle_poll_failure(self.now, failure);
        }
    }

    fn arrives(&mut self, frame: Frame) {
        let now = self.now;
        match frame {
            Frame::Hello { time_ms, up_ms, heartbeat_s } => {
                self.path.handle_stream_head(now, self.stream_sent);
                let session = "s".to_owned();
                let times = HelloTimes { time_ms, up_ms, heartbeat_s, session };
                self.path.handle_hello(now, times);
            }
            Frame::Beat { time_ms } => self.path.handle_heartbeat(now, time_ms),
            Frame::Comment => self.path.handle_stream_activity(now),
            Frame::Command { n, attempt } => {
                self.deliver(n, attempt, Carrier::Stream);
                self.path.handle_stream_activity(now);
            }
            Frame::Bye => self.path.handle_bye(now, Some(ByeReason::Unconfirmed), Some(500)),
        }
    }
}
