//! Sends a request to its server: one trait, and its implementations.
//!
//! [`HttpTransport`] goes over the network: TLS, proxies, connection reuse.
//! [`ServiceTransport`] hands requests to a [`tower`] service in the same process: a mounted hub, a
//! test in virtual time. [`BaseTransport`] chooses among several URLs and proxies of one hub. `event_source` and `api` know [`Transport`] alone. Redirects, retries and the meaning of a
//! response belong to them; everything here is about one request and its response.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use futures_util::StreamExt as _;

mod bases;
mod coding;
mod connector;
mod dial;
mod examine;
mod network;
mod no_proxy;
mod pin;
mod proxy;
mod proxy_auth;
mod refusal;
mod resolve;
mod service;
mod settings;
mod slots;
mod trust;
mod tunnel;

pub use bases::{Base, BaseSource, BaseStatus, BaseTransport};
pub use examine::{Examination, ExaminedStep};
pub use network::HttpTransport;
#[cfg(feature = "agent")]
pub(crate) use pin::KeyPin;
pub use proxy::Route;
#[cfg(feature = "agent")]
pub(crate) use proxy::{proxy_problem, unusable_variable};
pub use refusal::ProxyRefusal;
pub use service::ServiceTransport;
pub use settings::{HttpTransportBuilder, InvalidSetting};
#[cfg(feature = "pac")]
pub(crate) use slots::Slots;
pub use trust::CertificateFault;

/// A request with its whole body. The URI is absolute.
pub type Request = http::Request<Bytes>;

/// A response: its head, and its body as a stream.
pub type Response = http::Response<ByteStream>;

/// The body of a response. Dropping it aborts the transfer, and over HTTP/1.1 closes the connection.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, TransportError>> + Send>>;

/// When a request was given to its connection, which was ready: what came before was the connecting. In the extensions of a
/// response, where the transport knows it. [`HttpTransport`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestSent(pub Instant);

/// A response to come.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response, TransportError>> + Send>>;

/// Sends one request and returns its response.
///
/// An implementation follows no redirects, limits only the time to connect, and does not cache: its users do that themselves,
/// or rely on its absence. The body that it returns has no content coding any more.
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
    /// Sends the request. The future resolves with the head of the response.
    fn send(&self, request: Request) -> ResponseFuture;

    /// What was chosen for requests may be wrong: the network is another one, or the hub does not answer. Only
    /// [`BaseTransport`] has a choice.
    fn reconsider(&self) {}

    /// The network is another one than before: connections may be dead, and another base may be the best.
    fn network_changed(&self) {}

    /// Which base of the hub is in use, where there are several.
    fn base(&self) -> Option<BaseStatus> {
        None
    }

    /// Whether requests may come to go to this hub through this proxy, each named as in [`BaseStatus`].
    fn may_use(&self, _hub: &str, _proxy: &str) -> bool {
        true
    }

    /// The URL of the proxy that requests to `uri` go through, without credentials. Of several bases it is that of the last one.
    fn proxy(&self, _uri: &http::Uri) -> Option<String> {
        None
    }
}

impl<T: Transport + ?Sized> Transport for Arc<T> {
    fn send(&self, request: Request) -> ResponseFuture {
        (**self).send(request)
    }

    fn reconsider(&self) {
        (**self).reconsider();
    }

    fn network_changed(&self) {
        (**self).network_changed();
    }

    fn base(&self) -> Option<BaseStatus> {
        (**self).base()
    }

    fn may_use(&self, hub: &str, proxy: &str) -> bool {
        (**self).may_use(hub, proxy)
    }

    fn proxy(&self, uri: &http::Uri) -> Option<String> {
        (**self).proxy(uri)
    }
}

/// The point at which a transfer failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportStage {
    /// Connecting: the name was not found, the connection refused or too slow, or TLS failed. The server has received
    /// nothing.
    Connect,
    /// The proxy requires a user and password (407), and there are none, or others. The server has received nothing.
    /// [`TransportError::proxy_refusal`] has the details.
    ProxyAuthentication,
    /// The proxy refused the tunnel to the server, which has received nothing: by its policy, or for it does not reach the server.
    /// [`TransportError::proxy_refusal`] has the details, unless it closed the connection.
    ProxyRefused,
    /// The certificate is not trusted, or the peer does not speak TLS. The server has received nothing.
    Untrusted,
    /// The response has a content coding that was not requested and cannot be decoded: a middlebox compresses it. The server may
    /// have acted on the request.
    Encoding,
    /// Connected, but no response came. The server may have acted on the request.
    Response,
    /// The response broke off. The server may have acted on the request.
    Body,
}

/// Why there is no response, or not all of it. Its text is one line with every known cause.
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

    /// What is wrong with the server's certificate, if that is the reason.
    pub fn certificate_fault(&self) -> Option<&CertificateFault> {
        CertificateFault::in_chain(&*self.source)
    }

    /// What to do about it, where the error itself says enough to know: the rest of a sentence.
    pub fn advice(&self) -> Option<String> {
        if let Some(fault) = self.certificate_fault() {
            return Some(fault.advice());
        }
        if let Some(other) = bases::ForeignAnswer::of(self) {
            return Some(other.advice());
        }
        if bases::GatewayError::of(self).is_some() {
            return Some("is the hub running?".to_owned());
        }
        match self.stage {
            TransportStage::Untrusted => Some(
                "a middlebox answers in place of the server, such as the sign-in page of a guest network, or the server \
                 has no TLS on this port"
                    .to_owned(),
            ),
            TransportStage::Encoding => Some(
                "a middlebox compresses it: exempt this server there, or use https".to_owned(),
            ),
            _ if self.source.is::<network::NotHttp>() => Some(network::NotHttp::ADVICE.to_owned()),
            _ if let Some(refusal) = self.proxy_refusal() => Some(refusal.advice()),
            _ => self.source.downcast_ref::<proxy::ProxyFault>()?.advice(),
        }
    }

    /// What the proxy answered, if that is the reason.
    pub fn proxy_refusal(&self) -> Option<&ProxyRefusal> {
        self.source.downcast_ref()
    }

    /// Whether the server's own address was reached, not through a proxy, and refused the connection.
    pub fn is_refused_by_server(&self) -> bool {
        let unreachable = self.source.downcast_ref::<dial::Unreachable>();
        unreachable.is_some_and(dial::Unreachable::is_refused)
    }

    /// Whether the time to connect was over.
    pub fn is_timeout(&self) -> bool {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(&*self.source);
        while let Some(error) = cause {
            if error.is::<connector::TooSlow>() {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// The status with which a proxy, or a server before the hub, says that it does not reach the hub.
    pub(crate) fn gateway_status(&self) -> Option<http::StatusCode> {
        match self.proxy_refusal() {
            Some(refusal) => refusal.is_unavailable().then_some(refusal.status),
            None => bases::GatewayError::of(self).map(|behind| behind.status),
        }
    }

    /// Whether the proxy is what cannot be reached, so that nothing is known of the server behind it.
    pub fn is_of_proxy(&self) -> bool {
        let proxy = self.source.downcast_ref::<proxy::ProxyFault>();
        proxy.is_some_and(|proxy| proxy.advice().is_some())
    }

    /// At which point it failed.
    pub fn stage(&self) -> TransportStage {
        self.stage
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(other) = bases::ForeignAnswer::of(self) {
            return other.fmt(f);
        }
        if let Some(behind) = bases::GatewayError::of(self) {
            return behind.fmt(f);
        }
        let is_unavailable = self.proxy_refusal().is_some_and(ProxyRefusal::is_unavailable);
        f.write_str(match self.stage {
            TransportStage::ProxyRefused if is_unavailable => "the proxy does not reach the server",
            TransportStage::Connect => "cannot connect",
            TransportStage::Untrusted => "cannot connect securely",
            TransportStage::Encoding => "the response cannot be decoded",
            TransportStage::ProxyAuthentication => "the proxy requires a user and password",
            TransportStage::ProxyRefused => "the proxy refuses to connect to the server",
            TransportStage::Response => "no response",
            TransportStage::Body => "the response broke off",
        })?;
        // The errors around it say less, and in the words of the libraries.
        if let Some(fault) = self.certificate_fault() {
            return write!(f, ": {fault}");
        }
        // The outer errors of a chain often repeat the inner ones: a cause is shown only if it adds to the line.
        let mut shown = String::new();
        let mut cause: Option<&(dyn StdError + 'static)> = Some(&*self.source);
        while let Some(error) = cause {
            // Its source is the first of the failures that it lists.
            if self.stage == TransportStage::Connect && error.is::<dial::Unreachable>() {
                // After the name of a proxy it is the proxy's address.
                return write!(f, " {} {error}", if shown.is_empty() { "to" } else { "at" });
            }
            if error.is::<resolve::NotFound>() {
                return write!(f, ": {error}");
            }
            let text = error.to_string();
            // The words of rustls are for its users.
            if self.stage == TransportStage::Body && text.contains("close_notify") {
                return f.write_str(": the connection was cut");
            }
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
        // As in the text: the errors around a certificate's fault say less.
        match self.certificate_fault() {
            Some(fault) => Some(fault),
            None => Some(&*self.source),
        }
    }
}

/// A body exceeds its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response is longer than {bytes_max} bytes")]
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A status line ended in the address of a page of the manual of rustls.
    #[test]
    fn a_connection_of_tls_that_was_cut_is_described_without_the_words_of_a_library() {
        let eof = "peer closed connection without sending TLS close_notify: https://docs.rs/rustls";
        let eof = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, eof);
        let error = TransportError::new(TransportStage::Body, eof);
        assert_eq!(error.to_string(), "the response broke off: the connection was cut");
    }
}
