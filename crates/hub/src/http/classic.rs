//! The wire format of the Python library `eventsource` 1.1.1, for those who still speak it
//! (`docs/protocol.md`, section 10): `GET /poll/{token}` listens, `POST /{action}/{token}` sends.
//!
//! It has nothing in common with the rest of the hub but the [`plane`](crate::plane) and the accept
//! loop: a token is no device, nothing is stored on disk, and who is not connected misses what is
//! sent. Who listens stands in `registry.rs`, what a body becomes in `format.rs`, what an event looks
//! like in `event.rs`, what was sent lately in `history.rs`. Here requests are checked, in the order that the contract gives.

mod body;
mod event;
mod format;
mod history;
mod page;
mod registry;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bellwire_sse::{EventName, InvalidValue};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_decode_str;

use crate::plane::{Heartbeat, HeartbeatForm, Plane, PlaneConfig, StreamHead, StreamOptions};
use body::BadBody;
pub use format::{EventFormat, Json, Text, WithIds};
use page::page;
use registry::{Hand, Listen, Registry};

/// The action that listens. That it cannot be sent is only because no list has it.
const LISTEN: &str = "poll";
/// The actions that every server has. With ids there is `retry` beside them.
const PING: &str = "ping";
const CLOSE: &str = "close";
const RETRY: &str = "retry";

/// Bytes that a stream may have unsent: two of the longest events, whose every line end became a
/// line of its own.
const UNSENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a listener waits whose token is taken. One that has just hung up and comes back must
/// not find itself there, though the two connections are not heard of in order.
const TAKEN_GRACE: Duration = Duration::from_millis(100);

/// How a classic server behaves. `Default` is a server without flags: text, no ids, no keepalive.
#[derive(Debug, Clone)]
pub struct ClassicConfig {
    /// What bodies are, and whether events have ids.
    pub format: Arc<dyn EventFormat>,
    /// Milliseconds between keepalive comments; 0 for none.
    pub keepalive_ms: u32,
    /// Actions beside `ping`, `close` and, with ids, `retry`.
    pub actions: Vec<String>,
    /// Threads that hold streams; 0 is one per core.
    pub shards: usize,
}

impl ClassicConfig {
    /// A server of this format; else as `Default`.
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

/// Why there is no classic server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClassicError {
    /// An action that cannot be the name of an event.
    #[error("the action {action:?} cannot be the name of an event: {source}")]
    Action {
        /// Which.
        action: String,
        /// Why.
        source: InvalidValue,
    },
    /// The system refused a thread or an epoll.
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
}

struct Shared {
    plane: Plane,
    registry: Arc<Registry>,
    options: StreamOptions,
    format: Arc<dyn EventFormat>,
    actions: Vec<Action>,
}

/// What can be posted.
struct Action {
    name: EventName,
    does: Does,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Event,
    Close,
    Retry,
}

impl Classic {
    /// Starts the streams of a classic server. They are its own, also in a hub that has others.
    ///
    /// # Errors
    /// When an action is no name for an event, or the system refuses a thread.
    pub fn start(config: ClassicConfig) -> Result<Self, ClassicError> {
        let ClassicConfig { format, keepalive_ms, actions, shards } = config;
        let ids = format.ids();
        let known = [PING, CLOSE].into_iter().chain(ids.then_some(RETRY)).map(str::to_owned);
        let actions = known.chain(actions).map(Action::new).collect::<Result<_, _>>()?;
        let registry = Arc::new(Registry::new(ids));
        let plane =
            PlaneConfig { shards, unsent_bytes_max: UNSENT_BYTES_MAX, ..PlaneConfig::default() };
        let keepalive = Heartbeat { every_ms: keepalive_ms, form: HeartbeatForm::Classic };
        let options = StreamOptions {
            heartbeat: (keepalive_ms > 0).then_some(keepalive),
            ..StreamOptions::default()
        };
        let plane = Plane::start(plane, registry.clone())?;
        Ok(Self { shared: Arc::new(Shared { plane, registry, options, format, actions }) })
    }

    /// A server of its own: it answers every path.
    pub fn router(&self) -> Router {
        let classic = self.clone();
        Router::new().fallback(move |request| classic.answer(request))
    }

    /// Whether a path is one of the classic format in a hub that has others: two parts at least,
    /// and not below `/v1`.
    pub fn serves(path: &str) -> bool {
        !path.starts_with("/v1/") && Target::of(path).is_some()
    }

    /// Ends every stream and waits up to `grace_ms` for their last bytes. It blocks.
    pub fn shutdown(&self, grace_ms: u64) {
        self.shared.plane.shutdown(grace_ms);
    }

    /// The answer to any request.
    pub async fn answer(self, request: Request) -> Response {
        let (head, body) = request.into_parts();
        let Some(target) = Target::of(head.uri.path()) else {
            return page(StatusCode::NOT_FOUND, None);
        };
        match head.method {
            Method::GET | Method::HEAD => self.listen(&head, &target).await,
            Method::POST => self.post(&head, &target, body).await,
            Method::OPTIONS => allow(page::empty(StatusCode::NO_CONTENT)),
            _ => allow(page(StatusCode::METHOD_NOT_ALLOWED, None)),
        }
    }

    async fn listen(&self, head: &Parts, target: &Target) -> Response {
        let Shared { plane, registry, options, .. } = &*self.shared;
        if target.action != LISTEN.as_bytes() {
            let mut response = page::empty(StatusCode::MOVED_PERMANENTLY);
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/"));
            return response;
        }
        let last_id = last_event_id(head);
        let mut listens = registry.listen(plane, *options, &target.token, last_id);
        if let Listen::Taken(end) = listens {
            // Whether it ended in that time is asked anew.
            let _ = tokio::time::timeout(TAKEN_GRACE, end.reached()).await;
            listens = registry.listen(plane, *options, &target.token, last_id);
        }
        let Listen::Reserved(stream) = listens else {
            return page(StatusCode::LOCKED, Some("Target is already connected"));
        };
        tracing::debug!(token = %target, ?stream, "listening");
        let fields = StreamHead::new()
            .field("Content-Type", HeaderValue::from_static("text/event-stream"))
            .field("Cache-Control", HeaderValue::from_static("no-cache"));
        plane.respond(head, stream, fields).await
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
        // Before anything is judged: a client that still writes when the answer comes may be told
        // of a reset and not of the answer.
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
        let hand = match (action.does, event::whole_number(&data)) {
            (Does::Close, _) => registry.end(plane, &target.token),
            (Does::Retry, Some(retry_ms)) => registry.set_retry(&target.token, retry_ms),
            _ => registry.send(plane, &target.token, &action.name, &data),
        };
        match hand {
            Hand::Done => Ok(()),
            Hand::Absent => Err(Refusal::NotConnected),
            // The sender is dropped unheard when the stream ends before it takes the event.
            Hand::Over(taken) => taken.await.map_err(|_| Refusal::NotConnected),
            Hand::Ending(end) => {
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
        let does = match action.as_str() {
            CLOSE => Does::Close,
            RETRY => Does::Retry,
            _ => Does::Event,
        };
        match EventName::new(action.as_str()) {
            Ok(name) => Ok(Self { name, does }),
            Err(source) => Err(ClassicError::Action { action, source }),
        }
    }
}

/// Why nothing was sent.
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

/// What a path names: as in the original, the last slash divides it, and both parts are decoded.
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

/// The number of the last event that the client has; what is none of ours is no event at all.
fn last_event_id(head: &Parts) -> Option<u64> {
    head.headers.get("last-event-id")?.to_str().ok()?.trim().parse().ok()
}

fn allow(mut response: Response) -> Response {
    let methods = HeaderValue::from_static("GET, HEAD, OPTIONS, POST");
    response.headers_mut().insert(header::ALLOW, methods);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_slash_divides_a_path_and_escapes_do_not() {
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
