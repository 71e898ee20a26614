//! What a request's head must not be, beside what hyper refuses: too long, or such that another server could read it otherwise.
//!
//! Of a head with several codings hyper takes the last, and of several hosts none is its concern. A proxy that takes the first has
//! another request, or another host, in hand.
//!
//! hyper bounds the buffer in which it waits for the end of a head, and accepts one that came whole by a single read,
//! up to twice as long. So that the bound is one number, each head that it accepted is measured here.

use axum::body::Body;
use bellwire_proto::limits::URI_BYTES_MAX;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};

/// The answer to a head that is refused.
pub(super) fn refusal<B>(request: &Request<B>, bytes_max: usize) -> Option<Response<Body>> {
    if request.version() < Version::HTTP_2 && is_ambiguous(request) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return Some(response);
    }
    too_large(request, bytes_max)
}

/// Whether a request of HTTP/1 has another coding than chunked once (RFC 9112, section 6.1), or several hosts (section 3.2). One
/// without a host can be read in one way only, and simple clients of appliances send none, so it is served.
fn is_ambiguous<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let is_chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let codings_fit = codings.next().is_none_or(is_chunked) && codings.next().is_none();
    !codings_fit || headers.get_all(header::HOST).iter().nth(1).is_some()
}

/// 431, if the head is longer than `bytes_max`. The answer to a target that is too long by itself is another one (414),
/// and is not given here.
fn too_large<B>(request: &Request<B>, bytes_max: usize) -> Option<Response<Body>> {
    let target = target_bytes(request);
    if target > URI_BYTES_MAX || target + fields_bytes(request) <= bytes_max {
        return None;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    if request.version() < Version::HTTP_2 {
        // As after every head that hyper itself refuses.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Some(response)
}

fn target_bytes<B>(request: &Request<B>) -> usize {
    request.uri().path_and_query().map_or(0, |target| target.as_str().len())
}

/// The request line without its target, and each field with `: ` and CRLF. White space beyond that is not counted.
fn fields_bytes<B>(request: &Request<B>) -> usize {
    let line = request.method().as_str().len() + "  HTTP/1.1\r\n".len();
    let fields = request.headers().iter();
    line + fields.map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>() + 2
}
