//! Who has subscribed: the observers and watchers of the feed, and the streams that are theirs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use bellwire_proto::limits::WATCHERS_MAX;
use bellwire_proto::{Code, CommandId, Labels, Problem};
use tokio::sync::{Notify as Wake, mpsc};

use super::DeliveryChange;
use super::progress::Names;
use super::readers::{Reader, WatchedScope};
use crate::frames;
use crate::plane::{CloseReason, Plane, StreamEvent, StreamId};
use crate::store::Visible;

#[derive(Default)]
pub(super) struct State {
    /// Those who see everything.
    pub(super) observers: Vec<StreamId>,
    /// Those who see a part of the fleet.
    pub(super) scoped: Vec<(StreamId, Visible)>,
    pub(super) watchers: HashMap<CommandId, Vec<Watcher>>,
    /// The names that the watchers of a command share.
    pub(super) names: HashMap<CommandId, Weak<Names>>,
    /// What each stream of the feed is for, and who reads it.
    pub(super) streams: HashMap<StreamId, (Role, Reader)>,
    pub(super) draining: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    Observer,
    Watcher(CommandId),
}

/// The feed's end of a [`Mailbox`].
pub(super) struct Watcher {
    pub(super) stream: StreamId,
    pub(super) changes: mpsc::Sender<DeliveryChange>,
    pub(super) signals: Arc<MailboxSignals>,
    pub(super) scope: Arc<WatchedScope>,
}

/// The changes for one watcher, until its stream is closed. Dropped before that, it closes the stream.
pub(crate) struct Mailbox {
    pub(super) plane: Plane,
    pub(super) stream: StreamId,
    pub(super) changes: mpsc::Receiver<DeliveryChange>,
    pub(super) signals: Arc<MailboxSignals>,
    pub(super) scope: Arc<WatchedScope>,
}

/// What a watcher waits for beside changes.
#[derive(Default)]
pub(super) struct MailboxSignals {
    /// Wakes it when the frame that was sent with [`Receipt::Written`] is written, or never will be.
    pub(super) settled: Wake,
    /// Its stream is closed.
    pub(super) closed: AtomicBool,
    /// A queue was full: changes are missing in the mailbox.
    pub(super) missed: AtomicBool,
    /// Wakes a watcher whose mailbox is empty when changes are missing in it.
    pub(super) misses: Wake,
}

impl MailboxSignals {
    pub(super) fn miss(&self) {
        self.missed.store(true, Ordering::Release);
        self.misses.notify_one();
    }
}

/// Whether an event was about a stream of the feed.
pub(super) enum EventOwner {
    Not,
    Yes,
    ObserverClosed,
}

impl State {
    pub(super) fn is_observed(&self) -> bool {
        !self.observers.is_empty() || !self.scoped.is_empty()
    }

    pub(super) fn take_observers(&mut self) -> Vec<StreamId> {
        let mut all = std::mem::take(&mut self.observers);
        all.extend(self.scoped.drain(..).map(|(stream, _)| stream));
        all
    }

    /// Of those who see a part of the fleet, those who see a device with these labels.
    pub(super) fn scoped_who_see(&self, labels: &Labels) -> Vec<StreamId> {
        let seeing = self.scoped.iter().filter(|(_, visible)| visible.sees(labels));
        seeing.map(|(stream, _)| *stream).collect()
    }

    pub(super) fn admit(
        &mut self,
        stream: StreamId,
        role: Role,
        reader: Reader,
    ) -> Result<(), Problem> {
        if self.draining {
            return Err(Problem::draining());
        }
        if self.streams.len() >= WATCHERS_MAX {
            return Err(Problem::new(
                Code::RateLimited,
                "the hub has as many watchers as it allows; try again later",
            ));
        }
        self.streams.insert(stream, (role, reader));
        Ok(())
    }

    pub(super) fn stream_event(&mut self, event: StreamEvent) -> EventOwner {
        let (StreamEvent::Buffered { stream, .. }
        | StreamEvent::Written { stream, .. }
        | StreamEvent::Closed { stream, .. }
        | StreamEvent::Stalled { stream }
        | StreamEvent::Resumed { stream }) = event;
        let Some(role) = self.streams.get(&stream).map(|(role, _)| *role) else {
            return EventOwner::Not;
        };
        match event {
            StreamEvent::Closed { .. } => {
                self.streams.remove(&stream);
                self.remove(stream, role);
                if matches!(role, Role::Observer) {
                    return EventOwner::ObserverClosed;
                }
            }
            StreamEvent::Written { .. } => {
                if let Role::Watcher(command) = role {
                    let mut watchers = self.watchers.get(&command).into_iter().flatten();
                    if let Some(watcher) = watchers.find(|watcher| watcher.stream == stream) {
                        watcher.signals.settled.notify_one();
                    }
                }
            }
            _ => {}
        }
        EventOwner::Yes
    }

    pub(super) fn remove(&mut self, stream: StreamId, role: Role) {
        match role {
            Role::Observer => {
                self.observers.retain(|observer| *observer != stream);
                self.scoped.retain(|(observer, _)| *observer != stream);
            }
            Role::Watcher(command) => {
                if let Some(watchers) = self.watchers.get_mut(&command) {
                    watchers.retain(|watcher| watcher.stream != stream);
                    if !watchers.is_empty() {
                        return;
                    }
                }
                self.watchers.remove(&command);
                self.names.remove(&command);
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.signals.closed.store(true, Ordering::Release);
        self.signals.settled.notify_one();
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        // Ignored once the stream is closed. Else its task could not read what it needs, or panicked.
        let last = Some(frames::overloaded());
        self.plane.close(self.stream, last, CloseReason::Overloaded);
    }
}
