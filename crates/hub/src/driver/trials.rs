//! Streams and held answers by which a network is tried (`GET /v1/ping?stream=1` and `?wait=`). They belong to no device and
//! carry nothing but the hub's time; the core does not know them.
//!
//! Bound: [`PING_TRIALS_MAX`] at once, and each ends by itself: a stream after [`PING_STREAM_LIFE`] and one heartbeat, an answer
//! after its `wait`. When the hub drains all of them end at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bellwire_proto::limits::{
    BYE_RECONNECT_DRAINING_S, BYE_RECONNECT_S, PING_STREAM_LIFE, PING_TRIALS_MAX,
};
use bellwire_proto::stream::{Bye, ByeReason};
use bellwire_proto::{Code, Problem};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::frames;
use crate::plane::{CloseReason, Plane, StreamEvent, StreamId};

pub(super) struct Trials {
    plane: Plane,
    slots: Arc<Semaphore>,
    open: Mutex<HashMap<StreamId, Trial>>,
    draining: watch::Sender<bool>,
}

/// A stream that is open.
struct Trial {
    _slot: OwnedSemaphorePermit,
    /// Of the task that ends it.
    end: AbortHandle,
}

impl Trials {
    pub(super) fn new(plane: Plane) -> Self {
        Self {
            plane,
            slots: Arc::new(Semaphore::new(PING_TRIALS_MAX)),
            open: Mutex::default(),
            draining: watch::Sender::new(false),
        }
    }

    /// Has a reserved stream end in its time.
    ///
    /// # Errors
    /// `rate_limited` when there are too many, `draining`.
    pub(super) fn open(&self, stream: StreamId, heartbeat: Duration) -> Result<(), Problem> {
        let slot = self.slot()?;
        let (plane, mut draining) = (self.plane.clone(), self.draining.subscribe());
        // Held until the stream is listed: its end may come before.
        let mut streams = self.streams();
        let end = tokio::spawn(async move {
            let drains = draining.wait_for(|draining| *draining);
            let drains = timeout(PING_STREAM_LIFE + heartbeat, drains).await.is_ok();
            let (reason, close, reconnect_s) = match drains {
                true => (ByeReason::Draining, CloseReason::Draining, BYE_RECONNECT_DRAINING_S.0),
                false => (ByeReason::Rotate, CloseReason::Rotate, BYE_RECONNECT_S.0),
            };
            plane.close(stream, Some(frames::bye(&Bye { reason, reconnect_s })), close);
        });
        streams.insert(stream, Trial { _slot: slot, end: end.abort_handle() });
        Ok(())
    }

    /// Holds an answer back for `wait`, or until the hub drains.
    ///
    /// # Errors
    /// As [`Trials::open`].
    pub(super) async fn hold(&self, wait: Duration) -> Result<(), Problem> {
        let _slot = self.slot()?;
        let mut draining = self.draining.subscribe();
        tokio::select! {
            () = sleep(wait) => {}
            _ = draining.wait_for(|draining| *draining) => {}
        }
        Ok(())
    }

    /// Takes what is about these streams out of `batch`.
    pub(super) fn take_own(&self, batch: &mut Vec<StreamEvent>) {
        let mut streams = self.streams();
        if streams.is_empty() {
            return;
        }
        batch.retain(|event| match event {
            StreamEvent::Closed { stream, .. } => match streams.remove(stream) {
                Some(trial) => {
                    trial.end.abort();
                    false
                }
                None => true,
            },
            StreamEvent::Stalled { stream }
            | StreamEvent::Resumed { stream }
            | StreamEvent::Buffered { stream, .. }
            | StreamEvent::Written { stream, .. } => !streams.contains_key(stream),
        });
    }

    /// Ends all of them, and refuses new ones.
    pub(super) fn drain(&self) {
        self.draining.send_replace(true);
    }

    fn slot(&self) -> Result<OwnedSemaphorePermit, Problem> {
        if *self.draining.borrow() {
            return Err(Problem::draining());
        }
        Arc::clone(&self.slots).try_acquire_owned().map_err(|_| {
            let detail =
                format!("{PING_TRIALS_MAX} tests of networks are under way; try again later");
            Problem::new(Code::RateLimited, detail)
        })
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<StreamId, Trial>> {
        // Each change is one call of the map.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::plane::{PlaneConfig, StreamEvents, StreamOptions};

    /// Passes the events of the plane on.
    struct Reported(mpsc::SyncSender<StreamEvent>);

    impl StreamEvents for Reported {
        fn on_events(&self, batch: &mut Vec<StreamEvent>) {
            batch.drain(..).for_each(|event| self.0.send(event).unwrap_or_default());
        }
    }

    fn trials() -> (Trials, mpsc::Receiver<StreamEvent>) {
        let (sender, events) = mpsc::sync_channel(1000);
        let config = PlaneConfig { shards: 1, ..PlaneConfig::default() };
        (Trials::new(Plane::start(config, Arc::new(Reported(sender))).unwrap()), events)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_a_minute_and_one_heartbeat_later_without_its_client() {
        let (trials, events) = trials();
        let stream = trials.plane.reserve(StreamOptions::default());
        trials.open(stream, Duration::from_secs(5)).unwrap();
        sleep(Duration::from_secs(64)).await;
        assert!(!trials.streams()[&stream].end.is_finished(), "it ended early");
        sleep(Duration::from_secs(2)).await;
        let reason = CloseReason::Rotate;
        assert_eq!(events.recv().unwrap(), StreamEvent::Closed { stream, reason });
    }

    #[tokio::test(start_paused = true)]
    async fn one_more_than_the_bound_is_refused_until_one_has_closed() {
        let (trials, _events) = trials();
        let reserve = || trials.plane.reserve(StreamOptions::default());
        let first = reserve();
        trials.open(first, Duration::ZERO).unwrap();
        for _ in 1..PING_TRIALS_MAX {
            trials.open(reserve(), Duration::ZERO).unwrap();
        }
        let refused = trials.open(reserve(), Duration::ZERO).unwrap_err();
        assert_eq!(refused.code, Code::RateLimited);
        assert_eq!(trials.hold(Duration::ZERO).await.unwrap_err().code, Code::RateLimited);

        let (closed, foreign) = (first, reserve());
        let reason = CloseReason::PeerClosed;
        let of_another = StreamEvent::Closed { stream: foreign, reason };
        let mut batch = vec![StreamEvent::Closed { stream: closed, reason }, of_another];
        trials.take_own(&mut batch);
        assert_eq!(batch, [of_another], "the core is not asked about what it does not know");
        trials.hold(Duration::ZERO).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_hub_that_drains_ends_what_is_held_and_refuses_more() {
        let (trials, _events) = trials();
        let held = trials.hold(Duration::from_secs(60));
        let begun = tokio::time::Instant::now();
        let (held, ()) = tokio::join!(held, async { trials.drain() });
        held.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(trials.hold(Duration::ZERO).await.unwrap_err().code, Code::Draining);
    }
}
