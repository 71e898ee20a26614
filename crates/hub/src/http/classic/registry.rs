//! The stream of each token: at most one, from its reservation until the plane reports that it is
//! closed. Lookup, insertion and removal are one step each, under one lock, and so is numbering an
//! event and sending it: ids are in the order of writing.
//!
//! The lock is held at most as long as encoding an event takes, also on the plane's threads.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bellwire_sse::EventName;
use tokio::sync::{oneshot, watch};

use super::event;
use super::history::History;
use crate::plane::{
    CloseReason, Frame, Plane, Receipt, StreamEvent, StreamEvents, StreamId, StreamOptions,
};

type Token = Arc<[u8]>;

pub(super) struct Registry {
    ids: bool,
    state: Mutex<RegistryState>,
}

#[derive(Default)]
struct RegistryState {
    listeners: HashMap<Token, Listener>,
    tokens: HashMap<StreamId, Token>,
    next_id: u64,
    next_tag: u64,
    history: History,
}

struct Listener {
    stream: StreamId,
    /// The `retry` of the next event.
    retry_ms: Option<u64>,
    /// Events that the stream has not buffered yet, in order.
    enqueued: VecDeque<Enqueued>,
    /// Its end was requested: nothing more is sent to it.
    ending: bool,
    /// Dropped with the listener, which wakes those that wait for its end.
    end: watch::Sender<()>,
}

struct Enqueued {
    tag: u64,
    buffered: oneshot::Sender<()>,
    /// What is added to the history when it is buffered.
    record: Option<(u64, Frame)>,
}

/// The end of a listener, to be waited for.
pub(super) struct ListenerEnd(watch::Receiver<()>);

impl ListenerEnd {
    pub(super) async fn reached(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

/// The outcome of a request to listen.
pub(super) enum Listen {
    Reserved(StreamId),
    InUse(ListenerEnd),
}

/// The outcome of a post to a listener.
pub(super) enum Posted {
    Absent,
    Done,
    /// The receiver completes when the event is buffered, and fails when the stream ends before.
    Enqueued(oneshot::Receiver<()>),
    Ending(ListenerEnd),
}

impl Registry {
    pub(super) fn new(ids: bool) -> Self {
        Self { ids, state: Mutex::default() }
    }

    /// Reserves a stream for the token and replays what is retained after `last_id`.
    pub(super) fn listen(
        &self,
        plane: &Plane,
        options: StreamOptions,
        token: &Token,
        last_id: Option<u64>,
    ) -> Listen {
        let mut state = self.lock();
        if let Some(listener) = state.listeners.get(token) {
            return Listen::InUse(ListenerEnd(listener.end.subscribe()));
        }
        let stream = plane.reserve(options);
        let listener = Listener {
            stream,
            retry_ms: None,
            enqueued: VecDeque::new(),
            ending: false,
            end: watch::Sender::new(()),
        };
        state.listeners.insert(token.clone(), listener);
        state.tokens.insert(stream, token.clone());
        if let Some(last_id) = last_id {
            for frame in state.history.after(token, last_id) {
                plane.send(stream, frame.clone(), Receipt::None);
            }
        }
        Listen::Reserved(stream)
    }

    pub(super) fn is_connected(&self, token: &[u8]) -> bool {
        self.lock().find(token).is_some()
    }

    /// Sends an event.
    pub(super) fn send(
        &self,
        plane: &Plane,
        token: &Token,
        name: &EventName,
        data: &str,
    ) -> Posted {
        let mut state = self.lock();
        let (id, tag) = (state.next_id, state.next_tag);
        let Some(listener) = state.find(token) else { return Posted::Absent };
        let id = self.ids.then_some(id);
        let retry_ms = listener.retry_ms.take();
        let frame = event::frame(id, retry_ms, name, data);
        // A replayed event has no `retry`: it was meant for the time of its sending.
        let record = id.map(|id| match retry_ms {
            None => (id, frame.clone()),
            Some(_) => (id, event::frame(Some(id), None, name, data)),
        });
        let (buffered, is_buffered) = oneshot::channel();
        listener.enqueued.push_back(Enqueued { tag, buffered, record });
        plane.send(listener.stream, frame, Receipt::Buffered(tag));
        state.next_tag += 1;
        state.next_id += 1;
        Posted::Enqueued(is_buffered)
    }

    /// Has the next event carry `retry`.
    pub(super) fn set_retry(&self, token: &[u8], retry_ms: u64) -> Posted {
        match self.lock().find(token) {
            Some(listener) => {
                listener.retry_ms = Some(retry_ms);
                Posted::Done
            }
            None => Posted::Absent,
        }
    }

    /// Ends the stream after what was sent.
    pub(super) fn end(&self, plane: &Plane, token: &[u8]) -> Posted {
        match self.lock().find(token) {
            Some(listener) => {
                listener.ending = true;
                plane.close(listener.stream, None, CloseReason::Ended);
                Posted::Ending(ListenerEnd(listener.end.subscribe()))
            }
            None => Posted::Absent,
        }
    }

    fn lock(&self) -> MutexGuard<'_, RegistryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RegistryState {
    /// The listener, unless its end was requested.
    fn find(&mut self, token: &[u8]) -> Option<&mut Listener> {
        self.listeners.get_mut(token).filter(|listener| !listener.ending)
    }

    fn buffered(&mut self, stream: StreamId, tag: u64) {
        let Some(token) = self.tokens.get(&stream) else { return };
        let Some(listener) = self.listeners.get_mut(token) else { return };
        if listener.enqueued.front().is_some_and(|enqueued| enqueued.tag == tag)
            && let Some(enqueued) = listener.enqueued.pop_front()
        {
            if let Some((id, frame)) = enqueued.record {
                self.history.push(token, id, frame);
            }
            // The client that posted it may have disconnected.
            let _ = enqueued.buffered.send(());
        }
    }

    fn closed(&mut self, stream: StreamId) {
        if let Some(token) = self.tokens.remove(&stream) {
            self.listeners.remove(&token);
        }
    }
}

impl StreamEvents for Registry {
    fn on_events(&self, batch: &mut Vec<StreamEvent>) {
        let mut state = self.lock();
        for event in batch.drain(..) {
            match event {
                StreamEvent::Buffered { stream, tag } => state.buffered(stream, tag),
                StreamEvent::Closed { stream, reason } => {
                    tracing::debug!(?stream, reason = reason.as_str(), "closed");
                    state.closed(stream);
                }
                // A classic listener is connected until its connection ends.
                StreamEvent::Written { .. }
                | StreamEvent::Stalled { .. }
                | StreamEvent::Resumed { .. } => {}
            }
        }
    }
}
