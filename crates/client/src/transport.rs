//! How a request gets to its server: one trait, and the ways that it is really used.
//!
//! [`HttpTransport`] goes over the network: TLS, proxies, connection reuse.
//! [`ServiceTransport`] hands requests to a [`tower`] service in the same process: a mounted hub, a
//! test in virtual time. `event_source` and `api` see only [`Transport`]. Redirects, retries and
//! the meaning of an answer are theirs; nothing here looks past one request and its answer.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use futures_util::StreamExt as _;

mod network;
mod service;

pub use network::{HttpTransport, HttpTransportBuilder, InvalidSetting};
pub use service::ServiceTransport;

/// A request with its whole body. The URI is absolute.
pub type Request = http::Request<Bytes>;

/// An answer whose head is there and whose body comes as it comes.
pub type Response = http::Response<ByteStream>;

/// The body of an answer. To drop it is to give up the transfer, and over HTTP/1.1 the connection.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, TransportError>> + Send>>;

/// An answer on its way.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response, TransportError>> + Send>>;

/// One request, one answer.
///
/// An implementation follows no redirects, sets no limit on the time that a body takes, and
/// neither caches nor decompresses: its users do that, or must not have it.
///
/// ```
/// use bellwire_client::transport::{ByteStream, Request, ResponseFuture, Transport};
/// use bytes::Bytes;
///
/// /// Answers every request with the same events.
/// struct Canned(&'static str);
///
/// impl Transport for Canned {
///     fn send(&self, _request: Request) -> ResponseFuture {
///         let chunk = Ok(Bytes::from_static(self.0.as_bytes()));
///         let body: ByteStream = Box::pin(futures_util::stream::iter([chunk]));
///         let answer = http::Response::builder().header("content-type", "text/event-stream");
///         Box::pin(async move { Ok(answer.body(body).expect("a legal answer")) })
///     }
/// }
/// # let _: Box<dyn Transport> = Box::new(Canned("data: hello\n\n"));
/// ```
pub trait Transport: Send + Sync + 'static {
    /// Sends the request. The future ends when the head of the answer is there.
    fn send(&self, request: Request) -> ResponseFuture;
}

impl<T: Transport + ?Sized> Transport for Arc<T> {
    fn send(&self, request: Request) -> ResponseFuture {
        (**self).send(request)
    }
}

/// At which point a transfer failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportStage {
    /// No connection: name not found, refused, TLS failed, or too slow.
    Connect,
    /// The proxy asks for a user and password before it opens a way to the server.
    ProxyAuthentication,
    /// The proxy does not open a way to the server.
    ProxyRefused,
    /// What answers shows a certificate that is not trusted, or speaks no TLS.
    Untrusted,
    /// There was a connection, but no answer.
    Answer,
    /// The answer broke off.
    Body,
}

/// Why there is no answer, or no more of it.
///
/// Its text is one line with every cause that is known.
#[derive(Debug, Clone)]
pub struct TransportError {
    stage: TransportStage,
    source: Arc<dyn StdError + Send + Sync>,
}

impl TransportError {
    /// An error at `stage`, with its cause.
    pub fn new(stage: TransportStage, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { stage, source: Arc::from(source.into()) }
    }

    /// At which point it failed.
    pub fn stage(&self) -> TransportStage {
        self.stage
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.stage {
            TransportStage::Connect => "cannot connect",
            TransportStage::Untrusted => "cannot connect safely",
            TransportStage::ProxyAuthentication => "the proxy asks for a user and password",
            TransportStage::ProxyRefused => "the proxy opens no way to the server",
            TransportStage::Answer => "no answer",
            TransportStage::Body => "the answer broke off",
        })?;
        // The outer errors of a chain often repeat the inner ones, or say nothing: the innermost
        // is what a person can act on, so only what adds to the line before it is shown.
        let mut shown = String::new();
        let mut cause: Option<&(dyn StdError + 'static)> = Some(&*self.source);
        while let Some(error) = cause {
            let text = error.to_string();
            if !shown.contains(&text) {
                write!(f, ": {text}")?;
                shown.push_str(&text);
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for TransportError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}

/// A body that is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is longer than {bytes_max} bytes")]
pub(crate) struct TooLong {
    bytes_max: usize,
}

/// Reads a body of at most `bytes_max` to its end.
pub(crate) async fn read_body(
    mut body: ByteStream,
    bytes_max: usize,
) -> Result<Bytes, TransportError> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        if whole.len() + chunk.len() > bytes_max {
            return Err(TransportError::new(TransportStage::Body, TooLong { bytes_max }));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}
