//! Requests to a [`tower`] service in the same process.

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http_body::Body;
use http_body_util::{BodyDataStream, Full};
use tower::ServiceExt as _;

use super::coding;
use super::{ByteStream, Request, ResponseFuture, Transport, TransportError, TransportStage};

/// Passes each request to a service: an axum `Router`, a hyper client, a layer around either.
///
/// With it an [`EventSource`](crate::EventSource) listens to a hub in the same process without a socket, and a test runs
/// hours of reconnecting at once, since no socket prevents tokio from advancing its paused clock.
///
/// ```
/// use bellwire_client::{EventSource, transport::ServiceTransport};
/// use http_body_util::Full;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let service = tower::service_fn(async |_request: http::Request<Full<bytes::Bytes>>| {
///     http::Response::builder()
///         .header("content-type", "text/event-stream")
///         .body(Full::new(bytes::Bytes::from_static(b"data: hello\n\n")))
/// });
/// let mut source = EventSource::builder("http://in-process/")
///     .transport(ServiceTransport::new(service))
///     .build()?;
/// let event = source.next_event().await?.expect("an event");
/// assert_eq!(event.data(), "hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ServiceTransport<S> {
    service: S,
}

impl<S> ServiceTransport<S> {
    /// A transport to `service`.
    pub fn new(service: S) -> Self {
        Self { service }
    }
}

impl<S, B> Transport for ServiceTransport<S>
where
    S: tower::Service<http::Request<Full<Bytes>>, Response = http::Response<B>>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn send(&self, request: Request) -> ResponseFuture {
        let response = self.service.clone().oneshot(request.map(Full::new));
        Box::pin(async move {
            let response = response
                .await
                .map_err(|error| TransportError::new(TransportStage::Response, error))?;
            coding::decoded(response.map(|body| -> ByteStream {
                let chunks = BodyDataStream::new(body);
                Box::pin(chunks.map_err(|error| TransportError::new(TransportStage::Body, error)))
            }))
        })
    }
}
