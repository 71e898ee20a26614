//! The end of a stream: whose fault it was, and when the next is opened.

use bellwire_proto::stream::ByeReason;

use super::{
    BYE_PAUSE_MAX_MS, Farewell, HEARTBEAT_S_MIN, Live, Path, REOPEN_MAX_MS,
    SHORT_STREAM_HEARTBEATS, SHORT_STREAMS_MAX, SUSPENSION_MS, StreamEnd, StreamState,
};

impl Path {
    /// The hub is about to end the stream. `reason` is `None` for one of a later version.
    pub fn handle_bye(&mut self, now: u64, reason: Option<ByeReason>, pause_ms: Option<u64>) {
        if let StreamState::Live(live) = &mut self.streamer.state {
            live.last = now;
            let pause_ms = pause_ms.map(|pause| pause.min(BYE_PAUSE_MAX_MS));
            live.bye.get_or_insert(Farewell { reason, pause_ms, at: now });
            if reason == Some(ByeReason::Rotate) && live.is_good {
                self.cover_gap(now, true);
            }
        }
        // Who polls during the pause of a hub that drains is refused: nothing is due until the end, at most a second away.
        if !matches!(reason, Some(ByeReason::Rotate | ByeReason::Unconfirmed)) {
            self.poller.next_at = self.poller.next_at.max(now + super::BYE_END_MS);
        }
        self.advance(now);
    }

    /// The stream has ended, or could not be made. It is closed.
    pub fn handle_stream_end(&mut self, now: u64, end: StreamEnd) {
        self.stream_ended(now, end);
        self.advance(now);
    }

    pub(super) fn stream_ended(&mut self, now: u64, end: StreamEnd) {
        match std::mem::replace(&mut self.streamer.state, StreamState::Due) {
            StreamState::Live(live) if live.bye.is_some() => self.ended_by_bye(now, *live),
            StreamState::Live(live) if live.is_good => self.cut(now, &live, &end),
            StreamState::Opening { .. } | StreamState::Headed { .. } | StreamState::Live(_) => {
                match end {
                    StreamEnd::RefusedByHub { pause_ms, why } => {
                        self.streamer.why = Some(why);
                        self.pause_stream(now, pause_ms);
                    }
                    StreamEnd::Ended => self.failed(now, "the stream was cut at once".to_owned()),
                    StreamEnd::Broken { why } | StreamEnd::NotOurs { why } => self.failed(now, why),
                }
                self.lose_if_alone(now);
            }
            other => self.streamer.state = other,
        }
    }

    fn ended_by_bye(&mut self, now: u64, live: Live) {
        let Some(Farewell { reason, pause_ms, .. }) = live.bye else { return };
        match reason {
            // A hub that ends each stream at once must not be connected to without a pause.
            Some(ByeReason::Rotate) if !live.is_good => {
                self.pause_stream(now, pause_ms);
                self.lose_if_alone(now);
            }
            Some(ByeReason::Rotate) => {
                let pause_ms = self.next_delay_ms.take().or(pause_ms).unwrap_or_default();
                let until = now + pause_ms;
                self.streamer.state = StreamState::Waiting { until, is_suspension: false };
                self.cover_gap(now, true);
            }
            Some(ByeReason::Unconfirmed) => {
                self.failed(now, "the hub received no confirmation of the stream".to_owned());
            }
            // It ended on the hub's side, and a poll would fare the same.
            _ => {
                if self.poller.drop_in_flight() {
                    self.outputs.push_back(super::Output::DropPoll);
                }
                self.lose(now, pause_ms, false);
            }
        }
    }

    /// A good stream was cut.
    fn cut(&mut self, now: u64, live: &Live, end: &StreamEnd) {
        let in_order = *end == StreamEnd::Ended;
        // An end in order has arrived.
        self.silent_since = if in_order { None } else { self.silent_since.or(Some(live.last)) };
        self.cover_gap(now, in_order);
        let lasted_ms = now.saturating_sub(live.sent);
        let streamer = &mut self.streamer;
        let how = match end {
            StreamEnd::Broken { why }
            | StreamEnd::NotOurs { why }
            | StreamEnd::RefusedByHub { why, .. } => why.clone(),
            StreamEnd::Ended => "a middlebox or the hub ended it".to_owned(),
        };
        streamer.why = Some(format!("the last stream was cut after {} s: {how}", lasted_ms / 1000));
        if lasted_ms >= SHORT_STREAM_HEARTBEATS * live.heartbeat_ms {
            (streamer.short_streams, streamer.suspension_ms) = (0, SUSPENSION_MS);
        } else {
            streamer.short_streams += 1;
        }
        if streamer.short_streams >= SHORT_STREAMS_MAX {
            streamer.short_streams = 0;
            let silence_s = (now.saturating_sub(live.last)).min(live.heartbeat_ms) / 1000;
            let shorter_s = (silence_s / 2).max(HEARTBEAT_S_MIN);
            if streamer.negotiated_s.is_some() || shorter_s * 1000 >= live.heartbeat_ms {
                streamer.negotiated_s = None;
                return self.suspend_stream(now);
            }
            (streamer.negotiated_s, streamer.negotiated_since) = (Some(shorter_s), now);
        }
        if !in_order {
            let until = now + self.random.below(REOPEN_MAX_MS);
            self.streamer.state = StreamState::Waiting { until, is_suspension: false };
        }
    }

    /// While polls fail the stream was the last way.
    fn lose_if_alone(&mut self, now: u64) {
        if !self.is_lost() && self.poller.fails() && !self.poller.is_in_flight() {
            self.lose(now, None, true);
        }
    }
}
