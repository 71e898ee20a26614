//! The coding of a response's body, where it has one though none was requested: a middlebox, or a server that compresses
//! everything.
//!
//! Every request has `Accept-Encoding: identity`, unless its caller sets another. gzip and deflate that are applied all the
//! same are decoded chunk by chunk, so that an event is not held back: 47 KiB of the small program. Brotli (175 KiB) and Zstandard
//! (90 KiB) would exceed its target, and are an error that names them.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use futures_util::StreamExt as _;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, HeaderValue, Response};

use super::{ByteStream, TransportError, TransportStage};

/// Compressed bytes that are decoded at once: they become 4 MiB at most, a thousand times as many.
const STEP_BYTES: usize = 4 * 1024;

/// Requests a body without a coding, if the caller requests none.
pub(super) fn request_identity(headers: &mut HeaderMap) {
    headers.entry(ACCEPT_ENCODING).or_insert(HeaderValue::from_static("identity"));
}

/// The response with its body decoded. One that cannot be decoded is an error; of a refusal, which says enough by its status,
/// the body is left out.
pub(super) fn decoded(
    mut response: Response<ByteStream>,
) -> Result<Response<ByteStream>, TransportError> {
    let codings = codings(response.headers());
    let decoder: Box<dyn Decode> = match codings.as_slice() {
        [] => return Ok(response),
        [one] if matches!(one.as_str(), "gzip" | "x-gzip") => {
            Box::new(MultiGzDecoder::new(Vec::new()))
        }
        [one] if one == "deflate" => Box::new(ZlibDecoder::new(Vec::new())),
        _ if !response.status().is_success() => {
            *response.body_mut() = Box::pin(futures_util::stream::empty());
            return Ok(response);
        }
        _ => {
            let coding = codings.join(", ");
            return Err(TransportError::new(TransportStage::Encoding, Unsupported { coding }));
        }
    };
    response.headers_mut().remove(CONTENT_ENCODING);
    response.headers_mut().remove(CONTENT_LENGTH);
    Ok(response.map(|body| decode(body, decoder)))
}

/// The codings of a body, lower case; `identity` is none.
fn codings(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let names = values.flat_map(|value| {
        let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        text.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>()
    });
    names.filter(|name| !name.is_empty() && name != "identity").collect()
}

/// A coding that this program has no decoder for.
#[derive(Debug, thiserror::Error)]
#[error("Content-Encoding: {coding}, though the request has Accept-Encoding: identity")]
struct Unsupported {
    coding: String,
}

/// A decoder of flate2: bytes in, and out into its vector.
trait Decode: Write + Send {
    fn output(&mut self) -> &mut Vec<u8>;
}

impl Decode for MultiGzDecoder<Vec<u8>> {
    fn output(&mut self) -> &mut Vec<u8> {
        self.get_mut()
    }
}

impl Decode for ZlibDecoder<Vec<u8>> {
    fn output(&mut self) -> &mut Vec<u8> {
        self.get_mut()
    }
}

/// A body on its way through a decoder.
struct Coded {
    body: ByteStream,
    decoder: Box<dyn Decode>,
    /// Received, and not decoded yet.
    rest: Bytes,
}

fn decode(body: ByteStream, decoder: Box<dyn Decode>) -> ByteStream {
    let coded = Coded { body, decoder, rest: Bytes::new() };
    Box::pin(futures_util::stream::unfold(Some(coded), async |coded| {
        let mut coded = coded?;
        match coded.next().await {
            Some(Ok(bytes)) => Some((Ok(bytes), Some(coded))),
            Some(Err(error)) => Some((Err(error), None)),
            None => None,
        }
    }))
}

impl Coded {
    /// The next bytes, never empty.
    async fn next(&mut self) -> Option<Result<Bytes, TransportError>> {
        loop {
            if self.rest.is_empty() {
                self.rest = match self.body.next().await? {
                    Ok(chunk) => chunk,
                    Err(error) => return Some(Err(error)),
                };
            }
            let step = self.rest.split_to(self.rest.len().min(STEP_BYTES));
            match self.step(&step) {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Some(Ok(bytes)),
                Err(error) => {
                    let error = format!("its Content-Encoding cannot be decoded: {error}");
                    return Some(Err(TransportError::new(TransportStage::Body, error)));
                }
            }
        }
    }

    /// Decodes as much as has arrived: an event is complete before the compressed stream is.
    fn step(&mut self, bytes: &[u8]) -> io::Result<Bytes> {
        self.decoder.write_all(bytes)?;
        self.decoder.flush()?;
        Ok(std::mem::take(self.decoder.output()).into())
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use futures_util::TryStreamExt as _;

    use super::*;

    fn response(status: u16, coding: &str, chunks: Vec<Vec<u8>>) -> Response<ByteStream> {
        let chunks = chunks.into_iter().map(|chunk| Ok(Bytes::from(chunk)));
        let body: ByteStream = Box::pin(futures_util::stream::iter(chunks));
        Response::builder().status(status).header(CONTENT_ENCODING, coding).body(body).unwrap()
    }

    async fn text(response: Response<ByteStream>) -> String {
        let parts: Vec<Bytes> = response.into_body().try_collect().await.unwrap();
        String::from_utf8(parts.concat()).unwrap()
    }

    #[tokio::test]
    async fn gzip_and_deflate_are_decoded_in_any_chunks() {
        let plain = "data: hello\n\n".repeat(1000);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(plain.as_bytes()).unwrap();
        // Two members, as a server writes that ends one after each event.
        let gzip = gzip.finish().unwrap().repeat(2);
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(plain.as_bytes()).unwrap();
        let zlib = zlib.finish().unwrap();
        for size in [1, 7, 1 << 20] {
            let cut = |bytes: &[u8]| bytes.chunks(size).map(<[u8]>::to_vec).collect::<Vec<_>>();
            for (coding, bytes, times) in
                [("GZip", &gzip, 2), ("x-gzip", &gzip, 2), ("deflate", &zlib, 1)]
            {
                let decoded = decoded(response(200, coding, cut(bytes))).unwrap();
                assert!(!decoded.headers().contains_key(CONTENT_ENCODING));
                assert_eq!(text(decoded).await, plain.repeat(times), "{coding} by {size}");
            }
        }
        assert_eq!(
            text(decoded(response(200, "identity", vec![b"x".to_vec()])).unwrap()).await,
            "x"
        );
    }

    #[tokio::test]
    async fn an_unknown_coding_is_named_and_a_refusal_keeps_its_status() {
        for coding in ["br", "zstd", "gzip, br"] {
            let error = decoded(response(200, coding, Vec::new())).err().unwrap();
            assert_eq!(error.stage(), TransportStage::Encoding);
            assert!(error.to_string().contains(coding), "{error}");
        }
        let refused = decoded(response(403, "br", vec![b"\x0b".to_vec()])).unwrap();
        assert_eq!((refused.status().as_u16(), text(refused).await.as_str()), (403, ""));
    }

    #[tokio::test]
    async fn a_body_that_is_not_what_its_header_says_is_an_error() {
        let decoded = decoded(response(200, "gzip", vec![b"data: plain\n\n".to_vec()])).unwrap();
        let error = decoded.into_body().try_collect::<Vec<_>>().await.unwrap_err();
        assert!(error.to_string().contains("Content-Encoding cannot be decoded"), "{error}");
    }

    /// A small body that becomes huge must not be in memory as a whole.
    #[tokio::test]
    async fn a_bomb_is_decoded_in_bounded_steps() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&vec![0; 32 << 20]).unwrap();
        let decoded = decoded(response(200, "gzip", vec![gzip.finish().unwrap()])).unwrap();
        let parts: Vec<Bytes> = decoded.into_body().try_collect().await.unwrap();
        assert!(parts.iter().all(|part| part.len() <= 5 << 20));
        assert_eq!(parts.iter().map(Bytes::len).sum::<usize>(), 32 << 20);
    }
}
