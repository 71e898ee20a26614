//! The wire format of the Python library `eventsource` 1.1.1, for its existing clients
//! (`docs/protocol.md`, section 10): `GET /poll/{token}` listens, `POST /{action}/{token}` sends.
//!
//! It shares only the [`plane`](crate::plane) and the accept loop with the rest of the hub: a token is not a device, nothing
//! is stored on disk, and events for a token that is not connected are lost. The listeners are in `registry.rs`, the
//! conversion of bodies in `format.rs`, the encoding of events in `event.rs`, the events for replay in `history.rs`. Here
//! requests are checked, in the order of the contract.

mod body;
mod event;
mod format;
mod history;
mod page;
mod registry;

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bellwire_proto::limits::{CLASSIC_LOCKED_GRACE, CLASSIC_UNSENT_BYTES_MAX};
use bellwire_sse::{EventName, InvalidValue};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_decode_str;

use super::browsers::{self, Browsers, Effect};
use crate::plane::{Heartbeat, HeartbeatForm, Plane, PlaneConfig, StreamHead, StreamOptions};
use body::BadBody;
pub use format::{EventFormat, Json, Text, WithIds};
use page::page;
use registry::{Listen, Posted, Registry};

/// The action that listens. It cannot be sent only because it is in no list of actions.
const LISTEN: &str = "poll";
/// The actions that every server has; with ids there is also `retry`.
const PING: &str = "ping";
const CLOSE: &str = "close";
const RETRY: &str = "retry";

/// How a classic server behaves. `Default` is a server without flags: text, no ids, no keepalive.
#[derive(Debug, Clone)]
pub struct ClassicConfig {
    /// The format of bodies, and whether events have ids.
    pub format: Arc<dyn EventFormat>,
    /// Milliseconds between keepalive comments; 0 for none.
    pub keepalive_ms: u32,
    /// Actions beside `ping`, `close` and, with ids, `retry`.
    pub actions: Vec<String>,
    /// Threads that hold streams; 0 is one per core.
    pub shards: usize,
}

impl ClassicConfig {
    /// A server of this format, otherwise as `Default`.
    pub fn new(format: impl EventFormat) -> Self {
        Self { format: Arc::new(format), keepalive_ms: 0, actions: Vec::new(), shards: 0 }
    }

    /// Adds actions.
    #[must_use]
    pub fn actions<S: Into<String>>(mut self, actions: impl IntoIterator<Item = S>) -> Self {
        self.actions.extend(actions.into_iter().map(Into::into));
        self
    }
}

impl Default for ClassicConfig {
    fn default() -> Self {
        Self::new(Text)
    }
}

/// Why a classic server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClassicError {
    /// The operator configured an action that cannot be the name of an event: it contains a line
    /// break.
    #[error("the action {action:?} cannot be the name of an event: {source}")]
    Action {
        /// The action.
        action: String,
        /// The character that is not allowed.
        source: InvalidValue,
    },
    /// The system refused a thread or an epoll; raise its limits.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A classic server, to be mounted. Clones are the same server.
///
/// ```no_run
/// use bellwire_hub::http::classic::{Classic, ClassicConfig};
/// use bellwire_hub::listen::{ListenConfig, Listener};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let classic = Classic::start(ClassicConfig::default())?;
/// let listener = Listener::bind(&["127.0.0.1:8888".parse()?], ListenConfig::default())?;
/// let server = listener.serve(classic.router());
/// # server.shutdown(std::time::Duration::from_secs(5)).await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Classic {
    shared: Arc<Shared>,
    browsers: Option<Arc<Browsers>>,
}

struct Shared {
    plane: Plane,
    registry: Arc<Registry>,
    options: StreamOptions,
    format: Arc<dyn EventFormat>,
    actions: Vec<Action>,
}

/// An action that can be posted.
struct Action {
    name: EventName,
    kind: ActionKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ActionKind {
    Event,
    Close,
    Retry,
}

impl Classic {
    /// Starts the streams of a classic server, separate from those of a hub.
    ///
    /// # Errors
    /// When an action cannot be the name of an event, or the system refuses a thread.
    pub fn start(config: ClassicConfig) -> Result<Self, ClassicError> {
        let ClassicConfig { format, keepalive_ms, actions, shards } = config;
        let ids = format.ids();
        let known = [PING, CLOSE].into_iter().chain(ids.then_some(RETRY)).map(str::to_owned);
        let actions = known.chain(actions).map(Action::new).collect::<Result<_, _>>()?;
        let registry = Arc::new(Registry::new(ids));
        let plane = PlaneConfig {
            shards,
            unsent_bytes_max: CLASSIC_UNSENT_BYTES_MAX,
            ..PlaneConfig::default()
        };
        let keepalive = Heartbeat { every_ms: keepalive_ms, form: HeartbeatForm::Classic };
        let options = StreamOptions {
            heartbeat: (keepalive_ms > 0).then_some(keepalive),
            ..StreamOptions::default()
        };
        let plane = Plane::start(plane, registry.clone())?;
        let shared = Arc::new(Shared { plane, registry, options, format, actions });
        Ok(Self { shared, browsers: None })
    }

    /// Checks which web pages may use it (contract, section 6, "Browsers"). Without this every page may.
    #[must_use]
    pub fn for_browsers(self, browsers: Browsers) -> Self {
        Self { browsers: Some(Arc::new(browsers)), ..self }
    }

    /// The router of a separate server: it answers every path.
    pub fn router(&self) -> Router {
        let classic = self.clone();
        Router::new().fallback(move |request| classic.answer(request))
    }

    /// Whether a path of a hub belongs to the classic format: at least two segments, and not below
    /// `/v1`.
    pub fn serves(path: &str) -> bool {
        !path.starts_with("/v1/") && Target::of(path).is_some()
    }

    /// Ends every stream and waits up to `grace_ms` for their last bytes. It blocks.
    pub fn shutdown(&self, grace_ms: u64) {
        self.shared.plane.shutdown(grace_ms);
    }

    /// The answer to any request.
    pub async fn answer(self, request: Request) -> Response {
        let (mut head, body) = request.into_parts();
        let Some(browsers) = self.browsers.clone() else {
            return self.checked_answer(head, body).await;
        };
        browsers.note(&mut head);
        let origin = browsers::listed_origin(&head);
        let mut response = self.checked_answer(head, body).await;
        browsers.share(origin, &mut response);
        response
    }

    async fn checked_answer(self, head: Parts, body: Body) -> Response {
        let Some(target) = Target::of(head.uri.path()) else {
            return page(StatusCode::NOT_FOUND, None);
        };
        if let Some(refused) = self.refused(&head, &target) {
            return refused;
        }
        match head.method {
            Method::GET | Method::HEAD => self.listen(&head, &target).await,
            Method::POST => self.post(&head, &target, body).await,
            Method::OPTIONS => browsers::preflight(&head, METHODS)
                .unwrap_or_else(|| allow(page::empty(StatusCode::NO_CONTENT))),
            _ => allow(page(StatusCode::METHOD_NOT_ALLOWED, None)),
        }
    }

    /// The page of a request that a web page may not cause. Listening has an effect: it takes the token.
    fn refused(&self, head: &Parts, target: &Target) -> Option<Response> {
        let browsers = self.browsers.as_ref()?;
        let listens = target.action == LISTEN.as_bytes();
        let effect = match head.method {
            Method::OPTIONS if browsers::listed_origin(head).is_some() => Effect::None,
            Method::GET | Method::HEAD | Method::OPTIONS if !listens => Effect::None,
            _ => Effect::Acts,
        };
        let refusal = browsers.check(head, effect).err()?;
        let detail = page::escaped(&refusal.detail);
        Some(page(StatusCode::FORBIDDEN, Some(&detail)))
    }

    async fn listen(&self, head: &Parts, target: &Target) -> Response {
        let Shared { plane, registry, options, .. } = &*self.shared;
        if target.action != LISTEN.as_bytes() {
            let mut response = page::empty(StatusCode::MOVED_PERMANENTLY);
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/"));
            return response;
        }
        let last_id = last_event_id(head);
        let mut listening = registry.listen(plane, *options, &target.token, last_id);
        if let Listen::InUse(end) = listening {
            // Whether the listener has ended by then is checked again.
            let _ = tokio::time::timeout(CLASSIC_LOCKED_GRACE, end.reached()).await;
            listening = registry.listen(plane, *options, &target.token, last_id);
        }
        let Listen::Reserved(stream) = listening else {
            return page(StatusCode::LOCKED, Some("Target is already connected"));
        };
        tracing::debug!(token = %target, ?stream, "listening");
        let fields = StreamHead::new()
            .field("Content-Type", HeaderValue::from_static("text/event-stream"))
            .field("Cache-Control", HeaderValue::from_static("no-cache"));
        plane.respond(head, stream, browsers::shared_stream(head, fields)).await
    }

    async fn post(&self, head: &Parts, target: &Target, body: Body) -> Response {
        let mut response = match self.send(head, target, body).await {
            Ok(()) => page::empty(StatusCode::OK),
            Err(refusal) => refusal.page(),
        };
        response.headers_mut().insert(header::ACCEPT, self.shared.format.media_type());
        response
    }

    async fn send(&self, head: &Parts, target: &Target, body: Body) -> Result<(), Refusal> {
        let Shared { plane, registry, format, actions, .. } = &*self.shared;
        // Before any check: a client that still writes when the answer comes may get a reset
        // instead of it.
        let body = body::read(head, body).await;
        if !registry.is_connected(&target.token) {
            return Err(Refusal::NotConnected);
        }
        let mut known = actions.iter();
        let action = known
            .find(|action| action.name.as_str().as_bytes() == target.action)
            .ok_or(Refusal::UnknownAction)?;
        let data = format.data(&body?).map_err(Refusal::Malformed)?;
        tracing::debug!(token = %target, bytes = data.len(), "posted");
        let posted = match (action.kind, event::whole_number(&data)) {
            (ActionKind::Close, _) => registry.end(plane, &target.token),
            (ActionKind::Retry, Some(retry_ms)) => registry.set_retry(&target.token, retry_ms),
            _ => registry.send(plane, &target.token, &action.name, &data),
        };
        match posted {
            Posted::Done => Ok(()),
            Posted::Absent => Err(Refusal::NotConnected),
            // The sender is dropped when the stream ends before it buffers the event.
            Posted::Enqueued(buffered) => buffered.await.map_err(|_| Refusal::NotConnected),
            Posted::Ending(end) => {
                end.reached().await;
                Ok(())
            }
        }
    }
}

impl std::fmt::Debug for Classic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Classic").finish_non_exhaustive()
    }
}

impl Action {
    fn new(action: String) -> Result<Self, ClassicError> {
        let kind = match action.as_str() {
            CLOSE => ActionKind::Close,
            RETRY => ActionKind::Retry,
            _ => ActionKind::Event,
        };
        match EventName::new(action.as_str()) {
            Ok(name) => Ok(Self { name, kind }),
            Err(source) => Err(ClassicError::Action { action, source }),
        }
    }
}

/// Why an event was not sent.
enum Refusal {
    NotConnected,
    UnknownAction,
    Malformed(String),
    Body(BadBody),
}

impl From<BadBody> for Refusal {
    fn from(fault: BadBody) -> Self {
        Self::Body(fault)
    }
}

impl Refusal {
    fn page(self) -> Response {
        match self {
            Self::NotConnected => page(StatusCode::NOT_FOUND, Some("Target is not connected")),
            Self::UnknownAction => page(StatusCode::NOT_FOUND, Some("Unknown action requested")),
            Self::Malformed(reason) => {
                let reason = page::escaped(&reason);
                let message = format!("Data is not properly formatted: <br />{reason}");
                page(StatusCode::BAD_REQUEST, Some(&message))
            }
            Self::Body(BadBody::TooLarge) => page(StatusCode::PAYLOAD_TOO_LARGE, None),
            Self::Body(BadBody::TooSlow) => page(StatusCode::REQUEST_TIMEOUT, None),
            Self::Body(BadBody::Broken) => page(StatusCode::BAD_REQUEST, None),
        }
    }
}

/// The action and the token of a path: as in the original, the last slash divides it, and both
/// parts are decoded.
struct Target {
    action: Vec<u8>,
    token: Arc<[u8]>,
}

impl Target {
    fn of(path: &str) -> Option<Self> {
        let (action, token) = path.strip_prefix('/')?.rsplit_once('/')?;
        let decoded = |part| percent_decode_str(part).collect::<Vec<u8>>();
        Some(Self { action: decoded(action), token: decoded(token).into() })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.token.escape_ascii())
    }
}

/// The id of the last event that the client has; `None` when it is not an id of this server.
fn last_event_id(head: &Parts) -> Option<u64> {
    head.headers.get("last-event-id")?.to_str().ok()?.trim().parse().ok()
}

/// The methods of every path.
const METHODS: &str = "GET, HEAD, OPTIONS, POST";

fn allow(mut response: Response) -> Response {
    let methods = HeaderValue::from_static(METHODS);
    response.headers_mut().insert(header::ALLOW, methods);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_slash_divides_a_path_but_an_escaped_one_does_not() {
        for (path, expected) in [
            ("/poll/kiosk", Some(("poll", "kiosk"))),
            ("/poll/a%2Fb%20c%", Some(("poll", "a/b c%"))),
            ("/x/poll/a", Some(("x/poll", "a"))),
            ("/poll/", Some(("poll", ""))),
            ("/poll/%zz%2", Some(("poll", "%zz%2"))),
            ("/poll", None),
            ("/", None),
        ] {
            let target = Target::of(path);
            assert_eq!(Classic::serves(path), target.is_some(), "of {path}");
            let parts = target.as_ref().map(|t| (&t.action[..], &t.token[..]));
            assert_eq!(parts, expected.map(|(a, t)| (a.as_bytes(), t.as_bytes())), "of {path}");
        }
        assert!(!Classic::serves("/v1/") && !Classic::serves("/v1/nothing"), "/v1 wins");
    }

    #[test]
    fn an_action_that_would_break_a_line_is_refused() {
        let config = ClassicConfig { actions: vec!["a\nb".to_owned()], ..ClassicConfig::default() };
        let error = Classic::start(config).unwrap_err().to_string();
        assert!(
            error.starts_with(r#"the action "a\nb" cannot be the name of an event"#),
            "{error}"
        );
    }
}
