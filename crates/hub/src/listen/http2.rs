//! One HTTP/2 connection, from its handshake to its end.
//!
//! hyper serves it whole: many streams share the socket, so none of them can be taken over, and
//! each is an ordinary response body of the plane. Only TLS connections are served here; the client
//! chose by ALPN. Pings are answered, and sent to detect a dead peer.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use bellwire_proto::limits::{
    HTTP2_PING_INTERVAL, HTTP2_PING_TIMEOUT, HTTP2_STREAMS_MAX, RETRY_AFTER_QUEUE_S,
};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::connection::{BusyBody, ConnectionOrigin, Shared};
use super::{ListenConfig, ServerStage, head};
use crate::plane::ConnectionGuard;
use crate::quota::Share;

/// Serves a connection to its end.
pub(super) async fn serve(
    transport: TlsStream<TcpStream>,
    from: ConnectionOrigin,
    _guard: ConnectionGuard,
    shared: Shared,
    router: Router,
) {
    let (config, mut stage) = (shared.config.clone(), shared.stage.clone());
    let in_flight = Arc::new(AtomicUsize::new(0));
    let requests = service_fn(|mut request: Request<Incoming>| {
        // Each counts as the connection that it would be with HTTP/1.1.
        let share = shared.connection_share(from.client);
        let too_many = share.is_none().then(too_many);
        let busy = Busy::new(&in_flight, share.unwrap_or_default());
        from.note(&mut request, &shared);
        let refused = too_many.or_else(|| head::refusal(&request, config.head_bytes_max));
        let answer = tower::ServiceExt::oneshot(router.clone(), request);
        async move {
            let answer = match refused {
                Some(refused) => refused,
                None => answer.await?,
            };
            Ok::<Response<_>, Infallible>(answer.map(|body| BusyBody::new(body, busy)))
        }
    });
    let connection = builder(&config).serve_connection(TokioIo::new(transport), requests);
    let mut connection = pin!(connection);
    let mut aborting = stage.clone();
    let mut draining = pin!(stage.wait_for(|stage| *stage != ServerStage::Serving));
    let mut ends = false;
    loop {
        tokio::select! {
            // With or without an error, the connection has ended.
            _ = connection.as_mut() => return,
            _ = draining.as_mut(), if !ends => {}
            () = idle(&in_flight, &config), if !ends => {}
            _ = aborting.wait_for(|stage| *stage == ServerStage::Aborting) => return,
        }
        // Requests in flight are finished, and no more are accepted.
        ends = true;
        connection.as_mut().graceful_shutdown();
    }
}

/// The answer to a request beyond what an address may have open.
fn too_many() -> Response<axum::body::Body> {
    let mut response = Response::new(axum::body::Body::empty());
    *response.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
    response
        .headers_mut()
        .insert(http::header::RETRY_AFTER, http::HeaderValue::from(RETRY_AFTER_QUEUE_S));
    response
}

fn builder(config: &ListenConfig) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(u32::try_from(config.head_bytes_max).unwrap_or(u32::MAX))
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_TIMEOUT);
    builder
}

/// Waits until nothing was in flight at two checks in a row, one idle timeout apart.
async fn idle(in_flight: &AtomicUsize, config: &ListenConfig) {
    let time = Duration::from_millis(config.idle_ms);
    let mut was_idle = false;
    loop {
        tokio::time::sleep(time).await;
        let is_idle = in_flight.load(Relaxed) == 0;
        if was_idle && is_idle {
            return;
        }
        was_idle = is_idle;
    }
}

/// A request in flight, until this is dropped with its answer's body.
struct Busy(Arc<AtomicUsize>, #[expect(dead_code, reason = "it is held")] Share);

impl Busy {
    fn new(in_flight: &Arc<AtomicUsize>, share: Share) -> Self {
        in_flight.fetch_add(1, Relaxed);
        Self(in_flight.clone(), share)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
