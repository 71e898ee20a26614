//! The audit log, for admins. Contract, section 6, "Audit".

use bellwire_proto::limits::{EVENT_BYTES_MAX, WATCHER_SILENCE_MAX};
use bellwire_proto::{AuditEntry, DeviceId, Page, Timestamp};
use futures_core::Stream;
use http::Method;

use super::{Controller, Error, Events, add_query, page};
use crate::event_source::{Event, EventSource, InvalidRequest, Retry};

/// Which entries of the audit log.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// By the holder of the token with this id.
    pub actor: Option<String>,
    /// That concern this device.
    pub device: Option<DeviceId>,
    /// Of this kind, as `send`.
    pub verb: Option<String>,
    /// From this time on, by the hub's clock.
    pub since: Option<Timestamp>,
    /// Items per page: 1 to 1,000, the hub's default is 100.
    pub limit: Option<u32>,
}

/// The audit log.
impl Controller {
    /// All matching entries, newest first, fetched page by page. An error is the last item.
    pub fn all_audit(
        &self,
        query: AuditQuery,
    ) -> impl Stream<Item = Result<AuditEntry, Error>> + Send + use<> {
        let hub = self.clone();
        page::items(None, move |after| {
            let (hub, query) = (hub.clone(), query.clone());
            async move {
                let call = hub.call(Method::GET, ["v1", "audit"]);
                let call = call.query("actor", query.actor).query("device", query.device);
                let call = call.query("verb", query.verb).query("since", query.since);
                let call = call.query("limit", query.limit).query("after", after);
                call.fetch::<Page<AuditEntry>>().await
            }
        })
    }

    /// Matching entries as they are written: those after the one with this number, or from now on. Over lost connections
    /// none is missed and none comes twice.
    ///
    /// # Errors
    /// When TLS cannot be set up; a refusal of the hub is an item of the stream.
    pub fn follow_audit(
        &self,
        query: AuditQuery,
        after: Option<u64>,
    ) -> Result<Events<AuditEntry>, InvalidRequest> {
        let mut url = self.resource(["v1", "audit"]);
        add_query(&mut url, "actor", query.actor);
        add_query(&mut url, "device", query.device);
        add_query(&mut url, "verb", query.verb);
        add_query(&mut url, "since", query.since);
        let source = EventSource::builder(url.as_str())
            .transport(self.shared.transport.clone())
            .headers(&self.shared.headers)
            .authorize(self.shared.authorize.clone())
            .read_timeout(WATCHER_SILENCE_MAX)
            .event_bytes_max(EVENT_BYTES_MAX)
            .last_event_id(after.map(|id| id.to_string()).unwrap_or_default())
            .retry(Retry::resilient());
        Ok(self.events_of(source.build()?, read, |_| false))
    }
}

fn read(event: &Event) -> Option<Result<AuditEntry, serde_json::Error>> {
    (event.name() == "audit").then(|| serde_json::from_str(event.data()))
}
