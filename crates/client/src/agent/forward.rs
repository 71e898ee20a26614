//! Forwards a command to a web service on this machine: one POST, whose response is the outcome.
//!
//! No proxy, no redirects, a connection for each request. A refused connection is tried again until the limit; a request
//! that may have arrived is never sent twice.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bellwire_proto::limits::{AGENT_FORWARD_RETRY_MAX, RESULT_BYTES_MAX};
use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{CommandId, Json, Outcome, codes};
use bytes::{Bytes, BytesMut};
use futures_core::future::BoxFuture;
use futures_util::StreamExt as _;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use tokio::time::{Instant, sleep_until, timeout_at};
use url::Url;

use super::run::{
    Completion, CompletionState, Run, RunContext, RunEnd, Stop, error, input_of, until_stopped,
};
use crate::address::Address;
use crate::transport::{
    ByteStream, HttpTransport, InvalidSetting, Request, Transport as _, TransportError,
    TransportStage,
};

/// The shortest one: pauses become shorter towards the limit.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(100);
/// Bytes of a result beside the body: `{"status":…,"body":…,"time_ms":…}` with the longest numbers.
const RESULT_FRAME_BYTES: usize = 64;

/// A web service that commands are forwarded to.
#[derive(Clone)]
pub struct Forward {
    url: Url,
    authorization: Option<HeaderValue>,
}

/// Why commands cannot be forwarded to a URL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidForward {
    /// It is no http or https URL.
    #[error(transparent)]
    Url(#[from] crate::InvalidUrl),
    /// Its host is another machine, which only `remote` allows.
    #[error("{host} is another machine; if that is intended, set remote = true")]
    Remote {
        /// The host of the URL.
        host: String,
    },
}

impl Forward {
    /// Forwards to `url`: `http` or `https`, on this machine unless `remote`. A user and password in it are sent as
    /// `Authorization`.
    ///
    /// # Errors
    /// [`InvalidForward`] says what is wrong with the URL.
    pub fn new(url: &str, remote: bool) -> Result<Self, InvalidForward> {
        let Address { url, authorization, .. } = Address::parse(url)?;
        let host = url.host_str().unwrap_or_default();
        if !remote && !is_loopback(host) {
            return Err(InvalidForward::Remote { host: host.to_owned() });
        }
        Ok(Self { url, authorization })
    }

    /// The URL, without credentials.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    async fn run(self, context: RunContext) -> RunEnd {
        let until = context.until();
        let RunContext { command, limit, mut stop, .. } = context;
        match until_stopped(&mut stop, self.exchange(&command, until, limit)).await {
            Ok(outcome) => RunEnd::Finished(outcome),
            Err(Stop::Cancel) => RunEnd::Stopped(Completion::of(CompletionState::Cancelled)),
            Err(Stop::Shutdown | Stop::Kill) => RunEnd::Stopped(Completion::failed(
                codes::INTERRUPTED,
                "the agent stopped before the service responded",
            )),
        }
    }

    async fn exchange(
        &self,
        command: &CommandEvent,
        until: Instant,
        limit: Duration,
    ) -> Completion {
        let transport = match transport() {
            Ok(transport) => transport,
            Err(error) => return Completion::failed(codes::INTERNAL, error.to_string()),
        };
        let mut refused = None;
        let (started, response) = loop {
            let started = Instant::now();
            match timeout_at(until, transport.send(self.request(command))).await {
                Ok(Ok(response)) => break (started, response),
                Ok(Err(error)) if is_refusal(&error) => {
                    if refused.is_none() {
                        refused = Some(Refused::note(command.id));
                        let CommandEvent { action, id, .. } = command;
                        let url = self.url();
                        tracing::warn!(%action, %id, url, "connection refused; tried again until the limit: {error}");
                    }
                    let remaining = until.saturating_duration_since(Instant::now());
                    if remaining <= RETRY_DELAY_MIN {
                        sleep_until(until).await;
                        let message = format!("it was tried for {limit:?}: {error}");
                        return Completion::failed(codes::FORWARD_FAILED, message);
                    }
                    // Shorter towards the limit, so that a service that has just started has time to respond.
                    let pause = (remaining / 2).clamp(RETRY_DELAY_MIN, AGENT_FORWARD_RETRY_MAX);
                    sleep_until(Instant::now() + pause).await;
                }
                Ok(Err(error)) => return forward_failed(&error),
                Err(_) => return timed_out(limit),
            }
        };
        drop(refused);
        let (head, body) = response.into_parts();
        let body = match timeout_at(until, read_head(body)).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return forward_failed(&error),
            Err(_) => return timed_out(limit),
        };
        completion(head.status, &body, started.elapsed())
    }

    fn request(&self, command: &CommandEvent) -> Request {
        let body = input_of(&command.data);
        let body_bytes = HeaderValue::from(body.len());
        let mut request = Request::new(Bytes::from(body));
        *request.method_mut() = Method::POST;
        if let Ok(uri) = self.url.as_str().parse() {
            *request.uri_mut() = uri;
        }
        let headers = request.headers_mut();
        // The service may close an idle connection just when the next command uses it, and then it is not known
        // whether that command was received.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        // For an empty body too, which the library sends without (RFC 9110, section 8.6).
        headers.insert(CONTENT_LENGTH, body_bytes);
        let content_type = match command.data.as_str() {
            "null" => None,
            text if text.starts_with('"') => Some("text/plain; charset=utf-8"),
            _ => Some("application/json"),
        };
        headers.extend(content_type.map(|t| (CONTENT_TYPE, HeaderValue::from_static(t))));
        headers.extend(self.authorization.clone().map(|value| (AUTHORIZATION, value)));
        for (name, value) in [
            ("bellwire-command", command.id.to_string()),
            ("bellwire-action", command.action.to_string()),
            ("bellwire-attempt", command.attempt.to_string()),
        ] {
            // Names by the contract's section 1: all of them are legal in a header.
            headers.extend(
                HeaderValue::try_from(value)
                    .ok()
                    .map(|value| (http::HeaderName::from_static(name), value)),
            );
        }
        request
    }
}

impl Run for Forward {
    fn start(&self, context: RunContext) -> BoxFuture<'static, RunEnd> {
        Box::pin(self.clone().run(context))
    }
}

/// A URL may have had a password.
impl std::fmt::Debug for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Forward").field(&self.url()).finish()
    }
}

/// The transport of all forwards, created for the first one: the trusted authorities of a machine take much memory, and
/// most appliances forward nothing.
fn transport() -> Result<Arc<HttpTransport>, InvalidSetting> {
    static SHARED: OnceLock<Arc<HttpTransport>> = OnceLock::new();
    if let Some(shared) = SHARED.get() {
        return Ok(Arc::clone(shared));
    }
    let user_agent = concat!("bellwire-agent/", env!("CARGO_PKG_VERSION"));
    let transport = HttpTransport::builder().no_proxy().user_agent(user_agent).http1(true);
    let made = Arc::new(transport.build()?);
    Ok(Arc::clone(SHARED.get_or_init(|| made)))
}

/// Whether the host of a URL is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<std::net::IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host.trim_end_matches('.').eq_ignore_ascii_case("localhost"),
    }
}

/// The commands whose service refuses connections, and which are tried again: for `agent status`. As many at most as
/// commands run.
static REFUSED: Mutex<BTreeSet<CommandId>> = Mutex::new(BTreeSet::new());

/// One of [`REFUSED`], as long as it is held.
struct Refused(CommandId);

impl Refused {
    fn note(id: CommandId) -> Self {
        refused().insert(id);
        Self(id)
    }
}

impl Drop for Refused {
    fn drop(&mut self) {
        refused().remove(&self.0);
    }
}

fn refused() -> MutexGuard<'static, BTreeSet<CommandId>> {
    // No code of others runs under the lock, so a panic cannot leave it half-changed.
    REFUSED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a command that runs has not begun at its service; `None` if it has, or it is no forward.
pub(crate) fn waits(id: CommandId) -> Option<String> {
    let is_refused = refused().contains(&id);
    is_refused.then(|| "connection refused; tried again until the limit".to_owned())
}

/// Whether the connection was refused: the one failure after which the service has surely received nothing.
fn is_refusal(error: &TransportError) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if kind == Some(io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn forward_failed(error: &TransportError) -> Completion {
    let message = match error.stage() {
        TransportStage::Connect => error.to_string(),
        _ => format!("{error}; whether the service acted on it is not known"),
    };
    Completion::failed(codes::FORWARD_FAILED, message)
}

fn timed_out(limit: Duration) -> Completion {
    Completion::failed(codes::TIMEOUT, format!("the service took longer than {limit:?}"))
}

/// The beginning of a body: enough to fill a result and to show that there was more.
async fn read_head(mut body: ByteStream) -> Result<Bytes, TransportError> {
    let mut head = BytesMut::new();
    while head.len() <= RESULT_BYTES_MAX {
        match body.next().await {
            Some(chunk) => head.extend_from_slice(&chunk?),
            None => break,
        }
    }
    Ok(head.freeze())
}

/// The completion for a response.
fn completion(status: StatusCode, body: &[u8], time: Duration) -> Completion {
    let (body, truncated) = body_as_json(body);
    let result = format!(
        r#"{{"status":{},"body":{},"time_ms":{}}}"#,
        status.as_u16(),
        body.as_str(),
        time.as_millis()
    );
    let good = status.is_success();
    let error = error(codes::HTTP_STATUS, format!("the service responded with {status}"));
    let outcome = Outcome {
        result: Json::from_checked(result).ok(),
        truncated: Some(truncated),
        error: (!good).then_some(error),
        ..Outcome::default()
    };
    Completion {
        state: if good { CompletionState::Succeeded } else { CompletionState::Failed },
        outcome,
    }
}

/// For the fuzz target: the completion for a response with this status and body.
#[doc(hidden)]
pub fn completion_of(status: StatusCode, body: &[u8]) -> Completion {
    completion(status, body, Duration::MAX)
}

/// A body as part of a result, and whether it was cut: JSON that fits stays JSON, an empty body is `null`, and of everything
/// else the beginning becomes a JSON string.
fn body_as_json(body: &[u8]) -> (Json, bool) {
    const BODY_BYTES_MAX: usize = RESULT_BYTES_MAX - RESULT_FRAME_BYTES;
    if body.is_empty() {
        return (Json::null(), false);
    }
    let parsed = std::str::from_utf8(body).ok().and_then(|text| Json::parse(text).ok());
    // The result adds a level of nesting to it.
    let fits = |json: &Json| {
        json.as_str().len() <= BODY_BYTES_MAX
            && Json::parse(&format!("[{}]", json.as_str())).is_ok()
    };
    if let Some(json) = parsed.filter(fits) {
        return (json, false);
    }
    let text = String::from_utf8_lossy(body);
    let whole = Json::text(&text);
    if whole.as_str().len() <= BODY_BYTES_MAX {
        return (whole, false);
    }
    // The length of each character with its escape comes from the writer of JSON itself.
    let mut capacity = BODY_BYTES_MAX - 2;
    let mut end = 0;
    for c in text.chars() {
        let escaped_bytes = Json::text(c.encode_utf8(&mut [0; 4])).as_str().len() - 2;
        if escaped_bytes > capacity {
            break;
        }
        capacity -= escaped_bytes;
        end += c.len_utf8();
    }
    (Json::text(text.get(..end).unwrap_or_default()), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_machine_needs_remote() {
        for here in [
            "http://localhost:1/x",
            "http://127.9.9.9",
            "http://[::1]:80/",
            "http://LOCALHOST.",
            "http://[::ffff:127.0.0.1]",
        ] {
            assert!(Forward::new(here, false).is_ok(), "{here}");
        }
        for there in [
            "http://10.0.0.1",
            "http://localhost.example.com",
            "http://127.0.0.1.example",
            "http://[fe80::1]",
        ] {
            let refused = Forward::new(there, false).unwrap_err();
            assert!(matches!(refused, InvalidForward::Remote { .. }), "{there}: {refused}");
            assert!(Forward::new(there, true).is_ok(), "{there}");
        }
        assert!(matches!(Forward::new("unix:/x", true), Err(InvalidForward::Url(_))));
    }

    #[test]
    fn a_body_stays_json_or_becomes_the_head_of_a_text() {
        assert_eq!(body_as_json(b"{\"a\": 1.0}\n").0.as_str(), "{\"a\": 1.0}");
        assert_eq!(body_as_json(b"").0.as_str(), "null");
        assert_eq!(body_as_json(b"not json").0.as_str(), "\"not json\"");
        assert_eq!(body_as_json(b"\xff").0.as_str(), "\"\u{fffd}\"");
        for long in [
            "x".repeat(70_000),
            "\u{1}".repeat(70_000),
            "é".repeat(40_000),
            format!("\"{}\"", "y".repeat(70_000)),
        ] {
            let Completion { outcome, .. } =
                completion(StatusCode::OK, long.as_bytes(), Duration::MAX);
            let result = outcome.result.unwrap();
            assert_eq!(outcome.truncated, Some(true));
            let spare = RESULT_BYTES_MAX - result.as_str().len();
            assert!(spare < RESULT_FRAME_BYTES, "{spare} bytes are unused");
        }
    }
}
