//! Reading what is posted: bounded in bytes and in time.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::header;
use http::request::Parts;
use http_body::Body as _;
use http_body_util::BodyExt as _;

/// Bytes of a body. The original has no limit of its own; Tornado's was 100 MiB.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// What is read of a body that is too large, so that a client that writes all of it before it
/// reads finds the answer and not a reset connection (RFC 9112 section 9.6).
const DRAINED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadBody {
    TooLarge,
    TooSlow,
    Broken,
}

pub(super) async fn read(head: &Parts, body: Body) -> Result<Bytes, BadBody> {
    let told_bytes = body.size_hint().lower();
    let is_too_large = usize::try_from(told_bytes).map_or(true, |told| told > BODY_BYTES_MAX);
    if is_too_large && head.headers.contains_key(header::EXPECT) {
        // It waits for `100 Continue` and must not be told to.
        return Err(BadBody::TooLarge);
    }
    tokio::time::timeout(BODY_TIMEOUT, read_all(body)).await.unwrap_or(Err(BadBody::TooSlow))
}

async fn read_all(mut body: Body) -> Result<Bytes, BadBody> {
    let (mut kept, mut came_bytes) = (BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BadBody::Broken)?.into_data() else { continue };
        came_bytes += data.len();
        if came_bytes <= BODY_BYTES_MAX {
            kept.extend_from_slice(&data);
        } else if came_bytes > DRAINED_BYTES_MAX {
            break;
        }
    }
    if came_bytes > BODY_BYTES_MAX { Err(BadBody::TooLarge) } else { Ok(kept.freeze()) }
}
