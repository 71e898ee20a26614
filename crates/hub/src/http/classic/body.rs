//! Reads posted bodies, bounded in bytes and in time.

use axum::body::Body;
use bellwire_proto::limits::{
    CLASSIC_BODY_BYTES_MAX, CLASSIC_BODY_TIMEOUT, REFUSED_BODY_BYTES_MAX,
};
use bytes::{Bytes, BytesMut};
use http::header;
use http::request::Parts;
use http_body::Body as _;
use http_body_util::BodyExt as _;

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadBody {
    TooLarge,
    TooSlow,
    Broken,
}

pub(super) async fn read(head: &Parts, body: Body) -> Result<Bytes, BadBody> {
    let body_bytes = body.size_hint().lower();
    let is_too_large =
        usize::try_from(body_bytes).map_or(true, |bytes| bytes > CLASSIC_BODY_BYTES_MAX);
    if is_too_large && head.headers.contains_key(header::EXPECT) {
        // It waits for `100 Continue`, which reading would send.
        return Err(BadBody::TooLarge);
    }
    tokio::time::timeout(CLASSIC_BODY_TIMEOUT, read_all(body))
        .await
        .unwrap_or(Err(BadBody::TooSlow))
}

async fn read_all(mut body: Body) -> Result<Bytes, BadBody> {
    let (mut collected, mut read_bytes) = (BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BadBody::Broken)?.into_data() else { continue };
        read_bytes += data.len();
        if read_bytes <= CLASSIC_BODY_BYTES_MAX {
            collected.extend_from_slice(&data);
        } else if read_bytes > REFUSED_BODY_BYTES_MAX {
            break;
        }
    }
    if read_bytes > CLASSIC_BODY_BYTES_MAX {
        Err(BadBody::TooLarge)
    } else {
        Ok(collected.freeze())
    }
}
