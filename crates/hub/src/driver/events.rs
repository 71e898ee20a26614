//! What the store and the plane report, passed to the core on their own threads.

use std::sync::{Arc, OnceLock, Weak};

use bellwire_core::record::{Committed, Loaded};
use bellwire_core::{Hub, Now, SessionId};
use bellwire_proto::Seq;

use super::runtime::Runtime;
use crate::plane::{StreamEvent, StreamEvents};
use crate::store::{StoreError, StoreEvents};

/// The receiver of what the store and the plane report. Its reference to the runtime is weak, so that the
/// hub ends with its last handle.
#[derive(Default)]
pub(super) struct Events(OnceLock<Weak<Runtime>>);

impl Events {
    /// From now on, reports are passed to this runtime.
    pub(super) fn connect(&self, runtime: &Arc<Runtime>) {
        // Connected once, before there is anything to report.
        let _ = self.0.set(Arc::downgrade(runtime));
    }

    fn runtime(&self) -> Option<Arc<Runtime>> {
        self.0.get().and_then(Weak::upgrade)
    }
}

impl StoreEvents for Events {
    fn committed(&self, committed: Vec<Committed>) {
        let Some(runtime) = self.runtime() else { return };
        runtime.metrics.committed(&committed);
        runtime.with_each(committed.into_iter(), Hub::handle_committed);
        runtime.audit.wake();
    }

    fn loaded(&self, loaded: Vec<Loaded>) {
        let Some(runtime) = self.runtime() else { return };
        runtime.with_each(loaded.into_iter(), Hub::handle_loaded);
    }

    fn failed(&self, error: StoreError) {
        let error: &dyn std::error::Error = &error;
        tracing::error!(error, "the store failed: nothing more is promised until a restart");
        let Some(runtime) = self.runtime() else { return };
        runtime.metrics.store_failed();
        runtime.with_core(|core, now| core.hub.handle_store_failed(now));
    }
}

impl StreamEvents for Events {
    fn on_events(&self, batch: &mut Vec<StreamEvent>) {
        let Some(runtime) = self.runtime() else { return };
        runtime.trials.take_own(batch);
        if runtime.feed.take_own(batch) {
            runtime.observers_changed();
        }
        runtime.with_each(batch.drain(..), stream_event);
    }
}

fn stream_event(hub: &mut Hub, event: StreamEvent, now: Now) {
    match event {
        StreamEvent::Buffered { stream, tag } | StreamEvent::Written { stream, tag } => {
            hub.handle_taken(SessionId(stream.get()), Seq::new(tag), now);
        }
        StreamEvent::Closed { stream, .. } => hub.handle_closed(SessionId(stream.get()), now),
        StreamEvent::Stalled { stream } => hub.handle_stalled(SessionId(stream.get()), now),
        StreamEvent::Resumed { stream } => hub.handle_resumed(SessionId(stream.get()), now),
    }
}
