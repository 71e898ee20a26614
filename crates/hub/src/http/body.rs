//! Reading a request's body: bounded in bytes and in time.
//!
//! Order of checks (contract, section 1): size 413, then `Content-Encoding` 415. [`super::bodies`]
//! parses the bytes.

use std::time::Duration;

use axum::body::Body;
use bellwire_proto::limits::{REFUSED_BODY_BYTES_MAX, REFUSED_BODY_TIMEOUT};
use bellwire_proto::{Code, Problem};
use bytes::Bytes;
use http::header::{self, HeaderMap};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;

use super::params;

/// How many bytes a body holds in memory when it is read: what its head announces, or else as many as it may have.
pub(super) fn announced(body: &Body, bytes_max: usize) -> u64 {
    let bytes_max = bytes_max as u64;
    body.size_hint().upper().unwrap_or(bytes_max).min(bytes_max)
}

/// The whole body.
///
/// # Errors
/// `payload_too_large` beyond `bytes_max`, at once if the head announces it and else when so many
/// were read; `request_timeout` when it did not end `within`; `unsupported_media_type` when it is
/// compressed; `bad_request` when the connection failed.
pub(super) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    bytes_max: usize,
    within: Duration,
) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(Code::PayloadTooLarge, format!("the body is longer than {bytes_max} bytes"))
    };
    let size = body.size_hint().lower();
    if usize::try_from(size).map_or(true, |size| size > bytes_max) {
        linger(headers, body);
        return Err(too_large());
    }
    let limited = Limited::new(&mut body, bytes_max).collect();
    let bytes = match tokio::time::timeout(within, limited).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(e)) if e.is::<LengthLimitError>() => {
            linger(headers, body);
            return Err(too_large());
        }
        Ok(Err(_)) => return Err(Problem::bad_request("the body broke off")),
        Err(_) => {
            let detail = format!("the body did not arrive within {} s", within.as_secs());
            return Err(Problem::new(Code::RequestTimeout, detail));
        }
    };
    if params::is_plain(headers) {
        Ok(bytes)
    } else {
        Err(Problem::new(
            Code::UnsupportedMediaType,
            "the body has a Content-Encoding; send it as it is",
        ))
    }
}

/// Reads and drops the rest of a refused body while the answer is sent. Bounded in bytes and time, and
/// one per connection, which takes no other request meanwhile. A client that waits for `100 Continue`
/// has not begun to send, and reading would make it send.
fn linger(headers: &HeaderMap, mut body: Body) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let run_dry = async move {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > REFUSED_BODY_BYTES_MAX {
                break;
            }
        }
    };
    tokio::spawn(tokio::time::timeout(REFUSED_BODY_TIMEOUT, run_dry));
}
