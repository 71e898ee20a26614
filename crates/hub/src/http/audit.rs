//! The audit log: `GET /v1/audit`, and what is written of each request. Contract, section 6, "Audit".
//!
//! Of a request that is carried out the driver has the core write an entry with the change. Here are the refusals: of
//! credentials and limits on every route, of anything else where an operator wanted to change something. What devices
//! report is in the history of commands, and is in this log only when their credentials are refused.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bellwire_proto::limits::{AUDIT_FOLLOW_PAUSE, AUDIT_FOLLOWED_ROWS};
use bellwire_proto::stream::ByeReason;
use bellwire_proto::{Actor, AuditObject, Code, Problem, RoleName, Seconds, Timestamp};
use bytes::Bytes;
use futures_util::stream;
use http::header::{self, HeaderMap};
use http::request::Parts;
use http::{Method, Uri};

use super::browsers::Effect;
use super::caller::Caller;
use super::params::{Query, last_event_id};
use super::request::{Request, segment};
use super::rules::Rule;
use super::{Served, page, stream as streams};
use crate::audit::verb;
use crate::driver::{AuditFollower, Driver, Principal, Readiness};
use crate::frames;
use crate::store::{AuditFilter, Cursor};

/// `GET /v1/audit`: newest first; with `Accept: text/event-stream`, what is written from now on.
pub(super) async fn list(request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let filter = AuditFilter {
        actor: query.text("actor"),
        device: query.value("device")?,
        verb: query.text("verb"),
        since: since(&mut query, request.driver.now())?,
    };
    if accepts_stream(&request.head.headers) {
        let after = last_event_id(&request.head.headers, &mut query)?;
        query.finish()?;
        return follow(request, filter, after.map(|seq| seq.get())).await;
    }
    let page = super::page_request(&mut query)?;
    query.finish()?;
    request.driver.settle_audit().await?;
    let entries = request.driver.store().audit(filter, page).await?;
    page::page(entries, |last| Cursor::after_audit(last.id))
}

/// `since`: a time, or how long ago.
fn since(query: &mut Query, now: Timestamp) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = query.text("since") else { return Ok(None) };
    if let Ok(ago) = text.parse::<Seconds>() {
        return Ok(Some(now.before(ago.duration())));
    }
    let at = text.parse().map_err(|_| {
        Problem::bad_request(
            "parameter since is a time as 2026-01-31T08:00:00Z, or a duration as 24h",
        )
    })?;
    Ok(Some(at))
}

/// Whether a stream is wanted, and not a page.
fn accepts_stream(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut ranges = values.flat_map(|value| value.split(','));
    ranges.any(|range| {
        range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream")
    })
}

/// What a stream of the log has sent.
struct Following {
    driver: Driver,
    caller: Caller,
    filter: AuditFilter,
    follower: AuditFollower,
    last: u64,
    ended: bool,
}

async fn follow(
    request: Request,
    filter: AuditFilter,
    after: Option<u64>,
) -> Result<Response, Problem> {
    let mut response = streams::head_only();
    if request.is_head() {
        return Ok(response);
    }
    request.caller.stays(&request.driver).await?;
    let follower = request.driver.follow_audit()?;
    let last = match after {
        Some(after) => after,
        None => {
            request.driver.settle_audit().await?;
            request.driver.store().audit_after(AuditFilter::default(), None, 0).await?.1
        }
    };
    let Request { driver, caller, .. } = request;
    let following = Following { driver, caller, filter, follower, last, ended: false };
    // So that the head is sent, and a proxy sees that it is a stream, before there is an entry.
    let begin = stream::iter([Ok(Bytes::from_static(b":\n\n"))]);
    let entries = stream::unfold(following, async |mut following| {
        let bytes = following.next().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes), following))
    });
    *response.body_mut() = Body::from_stream(futures_util::StreamExt::chain(begin, entries));
    Ok(response)
}

impl Following {
    /// The next bytes; `None` after the last.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        loop {
            if self.driver.readiness() == Readiness::Draining {
                return Some(self.end(ByeReason::Draining));
            }
            if self.caller.still(&self.driver).await.is_err() {
                return Some(self.end(ByeReason::Revoked));
            }
            let store = self.driver.store();
            let rows = AUDIT_FOLLOWED_ROWS;
            let read = store.audit_after(self.filter.clone(), Some(self.last), rows).await;
            let Ok((entries, last)) = read else { return Some(self.end(ByeReason::Rotate)) };
            let more = last > self.last;
            self.last = last;
            if !entries.is_empty() {
                return Some(entries.iter().flat_map(frames::audit).collect());
            }
            // Others than those that were asked for: there may be more of them.
            if !more && self.wait().await {
                return Some(Bytes::from_static(b":\n\n"));
            }
        }
    }

    /// Waits for something new, and not much longer than its token lives; whether a heartbeat is due.
    async fn wait(&mut self) -> bool {
        let heartbeat = self.driver.config().heartbeat;
        let expires_at = self.caller.token_use().and_then(|used| used.expires_at);
        let lives =
            expires_at.map(|at| at.since(self.driver.expiry_time()) + Duration::from_millis(1));
        tokio::select! {
            () = self.follower.look() => {
                // What is written in a burst is read together.
                tokio::time::sleep(AUDIT_FOLLOW_PAUSE).await;
                false
            }
            () = tokio::time::sleep(heartbeat.min(lives.unwrap_or(heartbeat))) => {
                lives.is_none_or(|lives| lives > heartbeat)
            }
        }
    }

    fn end(&mut self, reason: ByeReason) -> Bytes {
        self.ended = true;
        Bytes::from(frames::bye_alone(reason))
    }
}

/// A request as the log names it. What that is, is found when it is to be written: most requests are not, or have been by
/// the core.
#[derive(Clone)]
pub(super) struct LoggedRequest {
    served: &'static Served,
    route: &'static str,
    uri: Uri,
}

impl LoggedRequest {
    pub(super) fn of(served: &'static Served, route: &'static str, head: &Parts) -> Self {
        Self { served, route, uri: head.uri.clone() }
    }

    /// Whether it was to change something, and not as a device.
    fn changes(&self) -> bool {
        self.served.effect == Effect::Acts && self.served.rule != Rule::Device
    }

    /// Writes it, if it is one that the log has.
    pub(super) fn refused(&self, driver: &Driver, problem: &Problem) {
        let of_caller = matches!(
            problem.code,
            Code::Unauthenticated | Code::Forbidden | Code::Pending | Code::RateLimited
        );
        if self.changes() || of_caller {
            driver.refused(verb_of(self.served, self.route), self.object(), problem);
        }
    }

    /// Writes it, if the core has not.
    pub(super) fn answered(&self, driver: &Driver, response: &Response) {
        if !self.changes() {
            return;
        }
        let (verb, status) = (verb_of(self.served, self.route), response.status());
        if let Some(code) = response.extensions().get::<Code>() {
            driver.refused_with(verb, self.object(), status.as_u16(), *code);
        } else if !driver.is_recorded() {
            driver.done_for(verb, self.object(), status.as_u16());
        }
    }

    /// What the path names, as far as it is well-formed.
    fn object(&self) -> AuditObject {
        let named = |which: &str| segment(self.route, self.uri.path(), which).ok();
        AuditObject {
            device: named("device").and_then(|name| name.parse().ok()),
            command: named("command").and_then(|name| name.parse().ok()),
            action: named("action").and_then(|name| name.parse().ok()),
            token: named("token").and_then(|name| name.parse().ok()),
            schedule: named("schedule").and_then(|name| name.parse().ok()),
        }
    }
}

/// What the audit log says of a caller.
pub(super) fn principal(caller: &Caller) -> Principal {
    static UNAUTHENTICATED_ADMIN: LazyLock<Arc<Actor>> =
        LazyLock::new(|| Arc::new(Actor { token: None, role: Some(RoleName::Admin) }));
    match caller {
        Caller::Anonymous | Caller::OfOpenListener => {
            Principal::Named(UNAUTHENTICATED_ADMIN.clone())
        }
        Caller::Holder(found) => Principal::Token(found.grant.clone()),
        Caller::Certified(..) => Principal::Named(Arc::new(Actor {
            token: caller.name().map(Cow::into_owned),
            role: Some(caller.role_name()),
        })),
    }
}

fn verb_of(served: &Served, route: &str) -> &'static str {
    let device = served.rule == Rule::Device;
    match (&served.method, route) {
        (&Method::POST, "/v1/commands" | "/v1/send/{device}/{action}") => verb::SEND,
        (&Method::DELETE, "/v1/commands/{command}") => verb::CANCEL,
        (&Method::POST, "/v1/commands/{command}/retry") => verb::RETRY,
        (&Method::POST, "/v1/commands/{command}/pause") => verb::PAUSE,
        (&Method::POST, "/v1/commands/{command}/resume") => verb::RESUME,
        (&Method::POST, "/v1/commands/{command}/abort") => verb::ABORT,
        (&Method::PUT | &Method::PATCH, "/v1/devices/{device}") => verb::DEVICE_PUT,
        (&Method::DELETE, "/v1/devices/{device}") => verb::DEVICE_DELETE,
        (&Method::POST, "/v1/devices/{device}/approve") => verb::DEVICE_APPROVE,
        (&Method::POST, "/v1/enroll") => verb::DEVICE_ENROLL,
        (&Method::POST, "/v1/schedules") => verb::SCHEDULE_CREATE,
        (&Method::PATCH, "/v1/schedules/{schedule}") => verb::SCHEDULE_CHANGE,
        (&Method::DELETE, "/v1/schedules/{schedule}") => verb::SCHEDULE_DELETE,
        (&Method::POST, "/v1/schedules/{schedule}/pause") => verb::SCHEDULE_PAUSE,
        (&Method::POST, "/v1/schedules/{schedule}/resume") => verb::SCHEDULE_RESUME,
        (&Method::POST, "/v1/tokens") => verb::TOKEN_CREATE,
        (&Method::DELETE, "/v1/tokens/{token}") => verb::TOKEN_REVOKE,
        (&Method::GET, _) if device => verb::LISTEN,
        _ if device => verb::REPORT,
        (&Method::GET, _) => verb::READ,
        _ => verb::CHANGE,
    }
}
