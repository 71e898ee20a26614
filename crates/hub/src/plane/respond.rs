//! How a handler answers with a stream: with the connection itself where it can be taken over, with
//! an ordinary response body where it cannot.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Version};

use super::takeover::TakeoverRequest;
use super::{CloseReason, Frame, Framing, Plane, Sink, StreamBody, StreamId, Takeover};

/// The head of a 200 answer that is a stream: its header fields, in their order, and a first frame.
///
/// `Date` and the field that frames the body are added; the caller gives everything else.
#[derive(Debug, Clone, Default)]
pub struct StreamHead {
    fields: Vec<(&'static str, HeaderValue)>,
    first: Option<Frame>,
}

impl StreamHead {
    /// A head without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// The head of an event stream (contract, section 4): `Content-Type`, `Cache-Control` and
    /// `X-Accel-Buffering`.
    pub fn event_stream() -> Self {
        Self::new()
            .field("Content-Type", HeaderValue::from_static("text/event-stream"))
            .field("Cache-Control", HeaderValue::from_static("no-store, no-transform"))
            .field("X-Accel-Buffering", HeaderValue::from_static("no"))
    }

    /// Adds a field. The name is sent as it is spelled here.
    ///
    /// # Panics
    /// If `name` is not a field name (RFC 9110 section 5.1): names are literals of the program.
    #[must_use]
    pub fn field(mut self, name: &'static str, value: HeaderValue) -> Self {
        assert!(HeaderName::from_bytes(name.as_bytes()).is_ok(), "{name:?} is no field name");
        self.fields.push((name, value));
        self
    }

    /// Puts a frame before all that was sent to the stream while it was reserved: for data that is
    /// only known when the stream begins.
    #[must_use]
    pub fn first(mut self, frame: Frame) -> Self {
        self.first = Some(frame);
        self
    }

    /// The bytes of the first frame.
    fn first_bytes(&self, framing: Framing) -> Bytes {
        self.first.as_ref().map(|frame| frame.bytes(framing)).unwrap_or_default()
    }

    /// The bytes of the head on a connection taken over, and of the first frame.
    fn bytes(&self, framing: Framing, unix_ms: u64) -> Bytes {
        let mut head = Vec::with_capacity(320);
        head.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        for (name, value) in &self.fields {
            push_field(&mut head, name, value.as_bytes());
        }
        push_field(&mut head, "Date", http_date(unix_ms).as_bytes());
        if framing == Framing::Chunked {
            push_field(&mut head, "Transfer-Encoding", b"chunked");
        }
        // The plane closes the socket when the stream ends. Without this field (RFC 9112, section 9.6) a
        // client may have sent its next request on it by then, and cannot know what became of it.
        push_field(&mut head, "Connection", b"close");
        head.extend_from_slice(b"\r\n");
        head.extend_from_slice(&self.first_bytes(framing));
        head.into()
    }

    fn response<B>(self, body: B) -> Response<B> {
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::OK;
        for (name, value) in self.fields {
            if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                response.headers_mut().append(name, value);
            }
        }
        response
    }
}

fn push_field(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

/// RFC 9110 section 5.6.7.
fn http_date(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&time)
        .unwrap_or_else(|_| String::from("Thu, 01 Jan 1970 00:00:00 GMT"))
}

impl Plane {
    /// Answers a request with the reserved stream `id`. The last thing that a handler does.
    ///
    /// Where the request came through a [`Listener`](crate::listen::Listener) as HTTP/1, the
    /// connection is taken over: the plane writes the head and owns the socket, and this future is
    /// dropped while it waits. Elsewhere it returns an ordinary response whose body is the stream.
    /// To a `HEAD` request it returns the head alone, and closes the stream.
    ///
    /// If the client disconnects before the stream has its sink, the stream is closed.
    pub async fn respond(
        &self,
        request: &Parts,
        id: StreamId,
        head: StreamHead,
    ) -> Response<axum::body::Body> {
        if request.method == Method::HEAD {
            self.close(id, None, CloseReason::Ended);
            return head.response(axum::body::Body::empty());
        }
        let takeover = request.extensions.get::<Takeover>();
        if let Some(takeover) = takeover.filter(|_| request.version <= Version::HTTP_11) {
            let framing = Framing::of(request.version);
            let head = head.bytes(framing, self.inner.clock.unix_ms());
            takeover.request(TakeoverRequest::new(self.clone(), id, framing, head));
            return std::future::pending().await;
        }
        let (sink, body) = Sink::body();
        self.attach(id, sink, Framing::UntilClose, head.first_bytes(Framing::UntilClose));
        head.response(axum::body::Body::new(body))
    }

    /// Attaches the stream to a response body, for servers that want the body alone.
    pub fn respond_with_body(&self, id: StreamId) -> StreamBody {
        let (sink, body) = Sink::body();
        self.attach(id, sink, Framing::UntilClose, Bytes::new());
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_exactly_that_of_the_contract() {
        let head = StreamHead::event_stream();
        let expected = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
            Cache-Control: no-store, no-transform\r\nX-Accel-Buffering: no\r\n\
            Date: Tue, 14 Nov 2023 22:13:20 GMT\r\n";
        let chunked = format!("{expected}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
        assert_eq!(head.bytes(Framing::Chunked, 1_700_000_000_000), chunked);
        let close = format!("{expected}Connection: close\r\n\r\n");
        assert_eq!(head.bytes(Framing::UntilClose, 1_700_000_000_000), close);
    }
}
