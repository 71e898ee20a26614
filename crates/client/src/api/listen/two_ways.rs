//! Carries out the decisions of [`Path`]: one stream at a time, and polls, pings and confirmations beside it.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bellwire_proto::stream::{CommandEvent, Hello, PollAnswer};
use bellwire_proto::{DeviceId, Seconds};
use futures_core::future::BoxFuture;
use tokio::time::{Instant, Sleep};

use super::poll::{confirm, ping, poll, poll_failure};
use super::{Controller, Error, ListenOptions, Signal, Way};
use crate::event_source::{EventSource, Loss};
use crate::path::{Carrier, Output, Path as NetworkPath, PathHint, PathSettings};

mod stream;

/// A caller that returns later than this after a signal was busy: what waits in the socket since then is not late.
const CALLER_BUSY: Duration = Duration::from_millis(100);
/// The least time between two timeouts that change nothing.
const TIMEOUT_EVERY: Duration = Duration::from_millis(10);

pub(super) struct TwoWays {
    hub: Controller,
    device: DeviceId,
    options: ListenOptions,
    path: NetworkPath,
    /// The zero of the path's clock.
    epoch: Instant,
    is_started: bool,
    stream: Option<OpenStream>,
    /// The answer, and when the request was sent.
    poll: Option<BoxFuture<'static, Result<(PollAnswer, Instant), Loss>>>,
    ping: Option<BoxFuture<'static, Option<Duration>>>,
    confirmation: Option<BoxFuture<'static, bool>>,
    /// To be yielded. Bounded by one answer to a poll.
    signals: VecDeque<Signal>,
    /// The last one.
    loss: Loss,
    /// The hub's clock in Unix milliseconds, and when it was received.
    hub_clock: Option<(u64, Instant)>,
    /// Hub and `max_in_flight` of the last hello that was yielded.
    known_hub: Option<(String, usize)>,
    /// What the last signal was about.
    shown: Shown,
    timer: Option<Pin<Box<Sleep>>>,
    timed_out: Option<Instant>,
    returned: Option<Instant>,
    /// Whether everything that had arrived when the caller was busy is read.
    caught_up: bool,
    /// A final loss, to be yielded.
    error: Option<Error>,
    is_closed: bool,
}

/// What an operator and the next run need to know of the way.
#[derive(Default, PartialEq)]
struct Shown {
    carrier: Option<Carrier>,
    why: Option<String>,
    suspended_until_ms: Option<u64>,
    /// Without its reason, which is for people.
    path_hint: Option<PathHint>,
}

struct OpenStream {
    source: EventSource,
    nonce: String,
    is_open: bool,
    hello_received: bool,
    bye_received: bool,
    /// The generation of the base that it goes through.
    generation: Option<u64>,
}

impl TwoWays {
    pub(super) fn new(hub: &Controller, device: &DeviceId, options: &ListenOptions) -> Self {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let mut settings = PathSettings {
            heartbeat_s: options.heartbeat.map(Seconds::get),
            cursor: options.last_event_id,
            hint: options.path_hint.clone(),
            ..PathSettings::default()
        };
        if let Some(delay_max) = options.reconnect_delay_max {
            settings.backoff_max_ms = ms(delay_max);
        }
        if let Some(healthy_after) = options.healthy_after {
            settings.healthy_after_ms = ms(healthy_after);
        }
        // Without randomness all devices wait alike.
        let seed = getrandom::u64().unwrap_or_default();
        Self {
            hub: hub.clone(),
            device: device.clone(),
            options: options.clone(),
            path: NetworkPath::new(0, settings, seed),
            epoch: Instant::now(),
            is_started: false,
            stream: None,
            poll: None,
            ping: None,
            confirmation: None,
            signals: VecDeque::new(),
            loss: Loss::Ended,
            hub_clock: None,
            known_hub: None,
            shown: Shown::default(),
            timer: None,
            timed_out: None,
            returned: None,
            caught_up: true,
            error: None,
            is_closed: false,
        }
    }

    pub(super) fn network_changed(&mut self) {
        self.hub.shared.transport.network_changed();
        let now = self.now();
        self.path.network_changed(now);
    }

    pub(super) fn close(&mut self) {
        self.is_closed = true;
        (self.stream, self.poll, self.ping, self.confirmation) = (None, None, None, None);
        self.signals.clear();
    }

    pub(super) fn set_next_delay(&mut self, delay: Duration) {
        self.path.set_next_delay(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
    }

    pub(super) fn way(&self) -> Way {
        let status = self.path.status();
        let suspended_for = status
            .suspended_until_ms
            .map(|until| Duration::from_millis(until.saturating_sub(self.now())));
        Way {
            carrier: status.carrier,
            since: self.epoch + Duration::from_millis(status.since_ms),
            why: status.why.clone(),
            suspended_for,
            silent_for: status
                .silent_since_ms
                .map(|since| Duration::from_millis(self.now().saturating_sub(since))),
        }
    }

    pub(super) fn path_hint(&self) -> PathHint {
        self.path.hint()
    }

    /// The generation of the base in use.
    fn generation(&self) -> Option<u64> {
        Some(self.hub.shared.transport.base()?.generation)
    }

    /// The hub's clock now, for a `Retry-After` without a `Date`.
    fn hub_clock_ms(&self) -> Option<u64> {
        let (shown_ms, at) = self.hub_clock?;
        shown_ms.checked_add(u64::try_from(at.elapsed().as_millis()).ok()?)
    }

    fn now(&self) -> u64 {
        self.since_epoch(Instant::now())
    }

    fn since_epoch(&self, at: Instant) -> u64 {
        u64::try_from((at - self.epoch).as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Signal, Error>>> {
        if !std::mem::replace(&mut self.is_started, true) {
            // A caller may build it long before it begins to listen.
            self.epoch = Instant::now();
        }
        if self.returned.take().is_some_and(|returned| returned.elapsed() > CALLER_BUSY) {
            self.caught_up = false;
        }
        loop {
            if self.is_closed {
                return Poll::Ready(None);
            }
            self.act();
            if let Some(signal) = self.signals.pop_front() {
                self.returned = Some(Instant::now());
                return Poll::Ready(Some(Ok(signal)));
            }
            if let Some(error) = self.error.take() {
                self.close();
                return Poll::Ready(Some(Err(error)));
            }
            if self.poll_requests(cx).is_ready() || self.poll_stream(cx).is_ready() {
                continue;
            }
            if self.poll_timer(cx).is_ready() {
                let now = self.now();
                self.timed_out = Some(Instant::now());
                self.path.handle_timeout(now);
                continue;
            }
            self.caught_up = true;
            return Poll::Pending;
        }
    }

    // --- Outputs of the path ---

    fn act(&mut self) {
        while let Some(output) = self.path.poll_output() {
            match output {
                Output::OpenStream { compat, heartbeat_s } => self.open(compat, heartbeat_s),
                Output::CloseStream => (self.stream, self.confirmation) = (None, None),
                Output::Poll { wait_s, timeout_ms } => {
                    let (hub, device) = (self.hub.clone(), self.device.clone());
                    let (wait, cursor) = (Seconds::new(wait_s), self.path.cursor());
                    let (within, clock_ms) =
                        (Duration::from_millis(timeout_ms), self.hub_clock_ms());
                    self.poll = Some(Box::pin(poll(hub, device, wait, cursor, clock_ms, within)));
                }
                Output::DropPoll => self.poll = None,
                Output::Ping { timeout_ms } => {
                    let within = Duration::from_millis(timeout_ms);
                    self.ping = Some(Box::pin(ping(self.hub.clone(), within)));
                }
                Output::Confirm { session, timeout_ms } => {
                    let (hub, device) = (self.hub.clone(), self.device.clone());
                    let within = Duration::from_millis(timeout_ms);
                    self.confirmation = Some(Box::pin(confirm(hub, device, session, within)));
                }
                Output::Lost { retry_in_ms } => {
                    self.hub.shared.transport.reconsider();
                    let retry_in = Duration::from_millis(retry_in_ms);
                    self.signals.push_back(Signal::Lost { loss: self.loss.clone(), retry_in });
                }
                Output::Changed => {
                    let status = self.path.status();
                    let (carrier, why) = (status.carrier, status.why.clone());
                    let path_hint = PathHint { why: None, ..self.path.hint() };
                    let shown = Shown {
                        carrier,
                        why: why.clone(),
                        suspended_until_ms: status.suspended_until_ms,
                        path_hint: Some(path_hint),
                    };
                    if self.shown != shown {
                        self.shown = shown;
                        self.signals.push_back(Signal::Carrier { carrier, why });
                    }
                }
            }
        }
    }

    // --- Requests ---

    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(poll) = &mut self.poll
            && let Poll::Ready(outcome) = poll.as_mut().poll(cx)
        {
            self.poll = None;
            self.polled(outcome);
            return Poll::Ready(());
        }
        if let Some(ping) = &mut self.ping
            && let Poll::Ready(took) = ping.as_mut().poll(cx)
        {
            self.ping = None;
            let now = self.now();
            match took {
                Some(took) => {
                    self.path.handle_pong(now, u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
                }
                None => self.path.handle_ping_failure(now),
            }
            return Poll::Ready(());
        }
        if let Some(confirmation) = &mut self.confirmation
            && let Poll::Ready(is_accepted) = confirmation.as_mut().poll(cx)
        {
            self.confirmation = None;
            let now = self.now();
            self.path.handle_confirmation(now, is_accepted);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn polled(&mut self, outcome: Result<(PollAnswer, Instant), Loss>) {
        let now = self.now();
        match outcome {
            Ok((PollAnswer { hello, commands, cancels }, sent)) => {
                let took_ms = now.saturating_sub(self.since_epoch(sent));
                let exchange_ms = took_ms.saturating_sub(hello.up_ms);
                self.handle_hello(hello);
                let before = self.signals.len();
                for command in commands {
                    let CommandEvent { id, seq, attempt, .. } = command;
                    if self.path.receive_polled(now, id, seq, attempt) {
                        self.signals.push_back(Signal::Command(command));
                    }
                }
                self.signals.extend(cancels.into_iter().map(Signal::Cancel));
                self.path.handle_poll_answer(now, exchange_ms, self.signals.len() > before);
            }
            Err(loss) => {
                let failure = poll_failure(&self.options.retry, &loss);
                let has_stream = self.stream.as_ref().is_some_and(|stream| stream.hello_received);
                if !has_stream && !self.options.retry.tries_again_after(&loss) {
                    self.error = Some(match loss {
                        Loss::Failed(error) => Error::of_stream(self.hub.url(), error),
                        Loss::Ended => self.hub.foreign("it ended a poll without an answer"),
                    });
                    return;
                }
                self.loss = loss;
                self.path.handle_poll_failure(now, failure);
            }
        }
    }

    /// Yields a hello if the hub was lost, or is another one now.
    fn handle_hello(&mut self, hello: Hello) {
        self.hub_clock = Some((hello.time_ms, Instant::now()));
        let hub = (hello.hub.clone(), hello.max_in_flight);
        if self.path.is_lost() || self.known_hub.as_ref() != Some(&hub) {
            self.known_hub = Some(hub);
            self.signals.push_back(Signal::Hello(hello));
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.path.poll_timeout() else { return Poll::Pending };
        let mut at = self.epoch + Duration::from_millis(at);
        if let Some(timed_out) = self.timed_out {
            at = at.max(timed_out + TIMEOUT_EVERY);
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx)
    }
}

impl fmt::Debug for TwoWays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TwoWays")
            .field("hub", &self.hub)
            .field("device", &self.device)
            .field("status", self.path.status())
            .finish_non_exhaustive()
    }
}
