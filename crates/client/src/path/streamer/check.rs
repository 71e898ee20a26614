//! What time and the last bytes say of a stream: whether it is good, suspect, dead, or at fault.

use super::super::lag::copy_limit_ms;
use super::{
    BACKOFF_BASE_MS, BYE_END_MS, CONFIRM_MS, Confirmation, DEAD_TENTHS, HEAD_MS, HELLO_MS, Live,
    Output, PING_MS, PROBES_MIN, PROBES_MS, Path, SUSPECT_TENTHS, SUSPENSION_MAX_MS, StreamEnd,
    StreamMode, StreamState,
};

impl Path {
    /// Tries again in the same mode, after a pause.
    pub(super) fn pause_stream(&mut self, now: u64, pause_ms: Option<u64>) {
        let failed = self.streamer.failed_pings.saturating_add(1);
        self.streamer.failed_pings = failed;
        let ceiling = (BACKOFF_BASE_MS << failed.min(10)).min(self.settings.backoff_max_ms);
        let until = now + pause_ms.unwrap_or_default().max(self.random.spread(ceiling));
        self.streamer.state = StreamState::Waiting { until, is_suspension: false };
    }

    /// Opens no stream for some time: neither mode passes.
    pub(super) fn suspend_stream(&mut self, now: u64) {
        let streamer = &mut self.streamer;
        let until = now + self.random.spread(streamer.suspension_ms);
        streamer.suspension_ms = (streamer.suspension_ms * 2).min(SUSPENSION_MAX_MS);
        (streamer.mode, streamer.settled, streamer.short_streams) =
            (StreamMode::Plain, StreamMode::Suspended, 0);
        streamer.state = StreamState::Waiting { until, is_suspension: true };
    }

    /// When the stream needs attention.
    pub(in crate::path) fn stream_timeout(&self) -> Option<u64> {
        let is_lost = self.is_lost();
        match &self.streamer.state {
            StreamState::Due | StreamState::Checking => None,
            StreamState::Waiting { until, .. } => (!is_lost).then_some(*until),
            StreamState::Opening { sent } => Some(sent + HEAD_MS),
            StreamState::Headed { head, .. } => Some(head + HELLO_MS),
            StreamState::Live(live) => Some(live.timeout(self.exchanges.median_ms())),
        }
    }

    /// Acts on what time and the last bytes say of the stream.
    pub(in crate::path) fn check_stream(&mut self, now: u64) {
        let exchange_ms = self.exchanges.median_ms();
        let live = match &mut self.streamer.state {
            StreamState::Opening { sent } if now >= *sent + HEAD_MS => {
                return self
                    .fail(now, format!("no response to the stream within {} s", HEAD_MS / 1000));
            }
            StreamState::Headed { head, .. } if now >= *head + HELLO_MS => {
                return self
                    .fail(now, "a middlebox holds the stream back: it sends no hello".to_owned());
            }
            StreamState::Live(live) => live,
            _ => return,
        };
        if live.bye.is_some() {
            if now >= live.timeout(exchange_ms) {
                self.outputs.push_back(Output::CloseStream);
                self.stream_ended(now, StreamEnd::Ended);
            }
            return;
        }
        live.lags.check_copy(now, exchange_ms);
        if live.lags.is_lagging() {
            return self.fail(now, "a middlebox delays what is on the stream".to_owned());
        }
        if !live.is_good {
            if live.on_time >= PROBES_MIN {
                live.is_good = now >= live.proven_at(exchange_ms) && !live.lags.awaits_copy();
            } else if now >= live.timeout(exchange_ms) {
                return self.fail(now, "a middlebox holds back what is on the stream".to_owned());
            }
        }
        if live.is_good
            && let Confirmation::DueAt(at) = live.confirmation
            && at <= now
        {
            live.confirmation = Confirmation::InFlight;
            live.polled_beside = self.poller.is_in_flight();
            let session = live.session.clone();
            self.outputs.push_back(Output::Confirm { session, timeout_ms: CONFIRM_MS });
        }
        if live.is_good && now >= live.last + live.silence(DEAD_TENTHS) {
            let silent_s = now.saturating_sub(live.last) / 1000;
            self.outputs.push_back(Output::CloseStream);
            let why = format!("the stream was silent for {silent_s} s");
            return self.stream_ended(now, StreamEnd::Broken { why });
        }
        if live.is_good && !live.is_suspect && now >= live.last + live.silence(SUSPECT_TENTHS) {
            live.is_suspect = true;
            self.silent_since = Some(live.last);
            let silent_s = now.saturating_sub(live.last) / 1000;
            self.streamer.why = Some(format!("the stream has been silent for {silent_s} s"));
            self.poller.next_at = now;
        }
    }

    /// Notes that a poll begins beside the stream.
    pub(in crate::path) fn note_poll(&mut self) {
        if let StreamState::Live(live) = &mut self.streamer.state
            && !matches!(live.confirmation, Confirmation::DueAt(_))
        {
            live.polled_beside = true;
        }
    }

    /// Confirms a stream again that carries, once the poll beside it has ended: for the hub a poll after the confirmation
    /// says that the device doubts the stream, and it would show `poll` for as long as that counts.
    pub(in crate::path) fn confirm_again(&mut self) {
        if self.poller.is_in_flight() || !self.streamer.carries() {
            return;
        }
        if let StreamState::Live(live) = &mut self.streamer.state
            && std::mem::take(&mut live.polled_beside)
        {
            let session = live.session.clone();
            self.outputs.push_back(Output::Confirm { session, timeout_ms: CONFIRM_MS });
        }
    }

    /// The stream is at fault, or the network: a ping shows which.
    fn fail(&mut self, now: u64, why: String) {
        if self.streamer.is_open() {
            self.outputs.push_back(Output::CloseStream);
        }
        self.failed(now, why);
    }

    /// As [`Path::fail`], of a stream that is closed.
    pub(super) fn failed(&mut self, now: u64, why: String) {
        self.streamer.why = Some(why);
        if self.is_lost() {
            self.streamer.state = StreamState::Due;
            return;
        }
        self.streamer.state = StreamState::Checking;
        self.poller.next_at = self.poller.next_at.min(now);
        self.outputs.push_back(Output::Ping { timeout_ms: PING_MS });
    }
}

impl Live {
    fn silence(&self, tenths: u64) -> u64 {
        self.heartbeat_ms.saturating_mul(tenths) / 10
    }

    /// When it is good, after enough probes on time: a command right behind the last one is late by then if that pushed it.
    fn proven_at(&self, exchange_ms: Option<u64>) -> u64 {
        self.on_time_at + copy_limit_ms(exchange_ms)
    }

    /// When it needs attention.
    fn timeout(&self, exchange_ms: Option<u64>) -> u64 {
        if let Some(bye) = &self.bye {
            return bye.at + BYE_END_MS;
        }
        let copy_due_at = self.lags.copy_due_at(exchange_ms);
        if !self.is_good && self.on_time >= PROBES_MIN {
            return copy_due_at.unwrap_or(self.proven_at(exchange_ms));
        }
        let copy_due_at = copy_due_at.unwrap_or(u64::MAX);
        if !self.is_good {
            let proof_ends_at = self.hello + PROBES_MS + self.lags.limit_ms(exchange_ms);
            return proof_ends_at.min(copy_due_at);
        }
        let tenths = if self.is_suspect { DEAD_TENTHS } else { SUSPECT_TENTHS };
        let silent = (self.last + self.silence(tenths)).min(copy_due_at);
        match self.confirmation {
            Confirmation::DueAt(at) => silent.min(at),
            Confirmation::InFlight | Confirmation::Done => silent,
        }
    }
}
