//! What is sent over a stream: bytes encoded once and shared by every stream that gets them.
//!
//! A frame knows nothing of events; `bellwire-sse` makes its text. It must be cheap to clone: a
//! fan-out clones it once for each shard.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes for one or many streams, encoded once and shared.
///
/// The buffer holds the chunked form (RFC 9112 section 7.1), `"{len:x}\r\n" body "\r\n"`, and the
/// bare body is a slice of its middle: streams to HTTP/1.1 and to HTTP/1.0 clients share one
/// allocation.
///
/// ```
/// use bellwire_hub::plane::{Frame, Framing};
///
/// let frame = Frame::new(b"data: hi\n\n");
/// assert_eq!(frame.bytes(Framing::Chunked), "a\r\ndata: hi\n\n\r\n");
/// assert_eq!(frame.bytes(Framing::UntilClose), "data: hi\n\n");
/// ```
#[derive(Debug, Clone)]
pub struct Frame {
    chunked: Bytes,
    /// Where the body begins in `chunked`.
    body_at: u32,
    body_len: u32,
}

/// How the client recognizes the end of the body (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `Transfer-Encoding: chunked`, to HTTP/1.1 clients.
    Chunked,
    /// Bare bytes until the connection closes, to HTTP/1.0 clients; also right for a sink that does
    /// its own framing.
    UntilClose,
}

impl Framing {
    /// The framing for the version of the request that is answered.
    pub fn of(version: http::Version) -> Self {
        if version == http::Version::HTTP_11 { Self::Chunked } else { Self::UntilClose }
    }
}

impl Frame {
    /// Wraps `body`, whole events or comments as they stand on the wire.
    ///
    /// An empty body makes a frame without bytes, since an empty chunk would end the stream.
    ///
    /// # Panics
    /// If `body` is longer than `u32::MAX - 16` bytes, four thousand times the bound of a stream.
    pub fn new(body: &[u8]) -> Self {
        if body.is_empty() {
            return Self { chunked: Bytes::new(), body_at: 0, body_len: 0 };
        }
        assert!(body.len() <= u32::MAX as usize - 16, "a frame of {} bytes", body.len());
        let size = format!("{:x}\r\n", body.len());
        let mut chunked = BytesMut::with_capacity(size.len() + body.len() + 2);
        chunked.put_slice(size.as_bytes());
        chunked.put_slice(body);
        chunked.put_slice(b"\r\n");
        Self { chunked: chunked.freeze(), body_at: size.len() as u32, body_len: body.len() as u32 }
    }

    /// The last chunk, which ends a chunked body; no bytes at all in the other framing.
    pub(crate) fn end() -> Self {
        Self { chunked: Bytes::from_static(b"0\r\n\r\n"), body_at: 0, body_len: 0 }
    }

    /// The bytes for a stream of this framing; shares the frame's buffer.
    pub fn bytes(&self, framing: Framing) -> Bytes {
        match framing {
            Framing::Chunked => self.chunked.clone(),
            Framing::UntilClose => {
                let start = self.body_at as usize;
                self.chunked.slice(start..start + self.body_len as usize)
            }
        }
    }

    /// How many bytes [`Self::bytes`] holds.
    pub(crate) fn len(&self, framing: Framing) -> usize {
        match framing {
            Framing::Chunked => self.chunked.len(),
            Framing::UntilClose => self.body_len as usize,
        }
    }

    /// Whether both are clones of one frame.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.chunked.as_ptr() == other.chunked.as_ptr() && self.chunked.len() == other.chunked.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_body_is_never_the_chunk_that_ends_the_stream() {
        assert!(Frame::new(b"").bytes(Framing::Chunked).is_empty());
    }

    #[test]
    fn the_end_is_a_zero_chunk_or_nothing() {
        assert_eq!(Frame::end().bytes(Framing::Chunked), "0\r\n\r\n");
        assert!(Frame::end().bytes(Framing::UntilClose).is_empty());
    }

    #[test]
    fn both_framings_share_one_buffer() {
        let frame = Frame::new(&[b'x'; 300]);
        let (chunked, bare) = (frame.bytes(Framing::Chunked), frame.bytes(Framing::UntilClose));
        assert!(chunked.starts_with(b"12c\r\n") && chunked.ends_with(b"x\r\n"));
        assert_eq!(bare.as_ptr() as usize - chunked.as_ptr() as usize, 5);
        assert_eq!(bare.len(), 300);
    }
}
