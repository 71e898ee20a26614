//! One HTTP/1.1 connection, from its first byte until it is closed or taken over by the plane.
//!
//! hyper parses and answers; this file has the timeouts, because hyper's one timeout does not
//! distinguish a slow head from an idle connection, and takes the socket from hyper when a handler
//! requests it.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use bellwire_proto::limits::{HALF_CLOSE_GRACE, HEAD_REFUSAL_TIMEOUT};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use super::connection::{BusyBody, ConnectionOrigin, Shared};
use super::{ListenConfig, ServerStage, Tally, head};
use crate::plane::{ConnectionGuard, Sink, Takeover};

/// How hyper's part of a connection ended.
enum ConnectionEnd {
    /// hyper has finished, or the connection is idle or of no use.
    Done,
    /// A handler requested it for a stream.
    Takeover,
    /// A head took too long.
    HeadTimeout,
}

/// Serves a connection to its end.
pub(super) async fn serve<T: Transport>(
    transport: T,
    from: ConnectionOrigin,
    guard: ConnectionGuard,
    shared: Shared,
    router: Router,
) {
    let (config, tally) = (shared.config.clone(), shared.tally.clone());
    let mut stage = shared.stage.clone();
    let activity = Arc::new(Activity::new());
    let takeover = Takeover::default();
    let _closing = CloseOnDrop(&takeover);
    let head_bytes_max = config.head_bytes_max.max(8192);
    let requests = Requests {
        router,
        from,
        shared,
        takeover: takeover.clone(),
        activity: activity.clone(),
        head_bytes_max,
    };
    let io = TokioIo::new(MonitoredTransport {
        transport,
        activity: activity.clone(),
        half_closed: None,
    });
    let mut connection = http1::Builder::new()
        // `Timer` has the timeouts.
        .header_read_timeout(None)
        .max_headers(config.headers_max)
        .max_buf_size(head_bytes_max)
        .serve_connection(io, requests);

    let mut aborting = stage.clone();
    let life = async {
        let mut timer = Timer::new(&config);
        let mut draining = pin!(stage.wait_for(|stage| *stage != ServerStage::Serving));
        let mut drains = false;
        poll_fn(|context| {
            if !drains && draining.as_mut().poll(context).is_ready() {
                drains = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            if Pin::new(&mut connection).poll(context).is_ready() {
                return Poll::Ready(ConnectionEnd::Done);
            }
            if takeover.is_requested(context.waker()) && activity.is_flushed() {
                return Poll::Ready(ConnectionEnd::Takeover);
            }
            timer.poll(context, activity.phase())
        })
        .await
    };
    let end = tokio::select! {
        end = life => end,
        _ = aborting.wait_for(|stage| *stage == ServerStage::Aborting) => ConnectionEnd::Done,
    };
    match end {
        ConnectionEnd::Done => (),
        ConnectionEnd::Takeover => hand_over(connection.into_parts(), &takeover, guard, &tally),
        ConnectionEnd::HeadTimeout => {
            tally.header_timeouts.fetch_add(1, Relaxed);
            refuse(connection.into_parts().io.into_inner().transport).await;
        }
    }
}

/// Gives the connection to the plane. The handler that requested it is dropped with hyper's part.
fn hand_over<T: Transport, S>(
    parts: http1::Parts<TokioIo<MonitoredTransport<T>>, S>,
    takeover: &Takeover,
    guard: ConnectionGuard,
    tally: &Tally,
) {
    let Some(request) = takeover.take() else { return };
    // A pipelined request behind a stream that never ends cannot be answered.
    tally.pipelined_bytes_dropped.fetch_add(parts.read_buf.len() as u64, Relaxed);
    match parts.io.into_inner().transport.into_sink(guard) {
        Ok(sink) => {
            tally.taken_over.fetch_add(1, Relaxed);
            request.fulfil(sink);
        }
        Err(error) => tracing::warn!(%error, "a connection cannot be taken from the runtime"),
    }
}

const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// Sends why the connection ends, if the client accepts it at once.
async fn refuse<T: Transport>(mut transport: T) {
    let response = async {
        transport.write_all(REQUEST_TIMEOUT).await?;
        transport.shutdown().await
    };
    // With or without success, the connection ends here.
    let _ = tokio::time::timeout(HEAD_REFUSAL_TIMEOUT, response).await;
}

/// A takeover request must not wait for a connection that has ended.
struct CloseOnDrop<'a>(&'a Takeover);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A connection that can leave the runtime.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn into_sink(self, guard: ConnectionGuard) -> io::Result<Sink>;
}

impl Transport for TcpStream {
    fn into_sink(self, guard: ConnectionGuard) -> io::Result<Sink> {
        Ok(Sink::plain(self.into_std()?, guard))
    }
}

impl Transport for TlsStream<TcpStream> {
    fn into_sink(self, guard: ConnectionGuard) -> io::Result<Sink> {
        let (socket, session) = self.into_inner();
        Ok(Sink::tls(socket.into_std()?, session, guard))
    }
}

/// What a connection is doing, which decides its timeout.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Reading a head. The first counts from the accept, before any byte of it has come.
    Head { since: Instant, begun: bool },
    /// A request is being answered; the handler has its own timeouts.
    Busy,
    /// Between two requests.
    Idle { since: Instant },
}

/// What the parts of a connection report to its task. All of them run within that task, so the lock
/// is never contended.
struct Activity(Mutex<ActivityState>);

struct ActivityState {
    phase: Phase,
    /// hyper wrote something that has not reached the socket.
    unflushed: bool,
}

impl Activity {
    fn new() -> Self {
        let phase = Phase::Head { since: Instant::now(), begun: false };
        Self(Mutex::new(ActivityState { phase, unflushed: false }))
    }

    fn phase(&self) -> Phase {
        self.lock().phase
    }

    fn is_flushed(&self) -> bool {
        !self.lock().unflushed
    }

    fn lock(&self) -> MutexGuard<'_, ActivityState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a connection whose phase takes too long.
struct Timer {
    sleep: Pin<Box<Sleep>>,
    header_read: Duration,
    idle: Duration,
}

impl Timer {
    fn new(config: &ListenConfig) -> Self {
        let header_read = Duration::from_millis(config.header_read_ms);
        let idle = Duration::from_millis(config.idle_ms);
        Self { sleep: Box::pin(tokio::time::sleep(header_read)), header_read, idle }
    }

    fn poll(&mut self, context: &mut Context<'_>, phase: Phase) -> Poll<ConnectionEnd> {
        let (deadline, end) = match phase {
            Phase::Busy => return Poll::Pending,
            Phase::Head { since, begun: true } => {
                (since + self.header_read, ConnectionEnd::HeadTimeout)
            }
            Phase::Head { since, begun: false } => (since + self.header_read, ConnectionEnd::Done),
            Phase::Idle { since } => (since + self.idle, ConnectionEnd::Done),
        };
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        ready!(self.sleep.as_mut().poll(context));
        Poll::Ready(end)
    }
}

/// The transport as hyper uses it.
struct MonitoredTransport<T> {
    transport: T,
    activity: Arc<Activity>,
    /// The client has sent FIN; hyper does not see it before this time while a request is answered.
    /// A client that has only closed its half of the connection (`nc -N`) still gets its answer,
    /// and one that has disconnected must not be waited for: hyper takes every FIN for the latter,
    /// and would drop a handler between its commit and its answer.
    half_closed: Option<Pin<Box<Sleep>>>,
}

impl<T> MonitoredTransport<T> {
    /// Reports the FIN to hyper when it is due.
    fn poll_half_closed(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let (Some(half_closed), Phase::Busy) = (&mut self.half_closed, self.activity.phase()) {
            ready!(half_closed.as_mut().poll(context));
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Transport> AsyncRead for MonitoredTransport<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.half_closed.is_some() {
            return self.poll_half_closed(context);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.transport).poll_read(context, buffer))?;
        if buffer.filled().len() == before && buffer.remaining() > 0 {
            self.half_closed = Some(Box::pin(tokio::time::sleep(HALF_CLOSE_GRACE)));
            return self.poll_half_closed(context);
        }
        if buffer.filled().len() > before {
            let mut state = self.activity.lock();
            match state.phase {
                Phase::Head { since, .. } => state.phase = Phase::Head { since, begun: true },
                Phase::Idle { .. } => {
                    state.phase = Phase::Head { since: Instant::now(), begun: true };
                }
                Phase::Busy => (),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Transport> AsyncWrite for MonitoredTransport<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.activity.lock().unflushed = true;
        Pin::new(&mut self.transport).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.activity.lock().unflushed = true;
        Pin::new(&mut self.transport).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    /// hyper flushes once it has written all that it had.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.transport).poll_flush(context))?;
        self.activity.lock().unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(context)
    }
}

/// The router as a service of hyper.
struct Requests {
    router: Router,
    from: ConnectionOrigin,
    shared: Shared,
    takeover: Takeover,
    activity: Arc<Activity>,
    head_bytes_max: usize,
}

impl hyper::service::Service<Request<Incoming>> for Requests {
    type Response = Response<BusyBody<Busy>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.activity.lock().phase = Phase::Busy;
        let busy = Busy(self.activity.clone());
        self.from.note(&mut request, &self.shared);
        request.extensions_mut().insert(self.takeover.clone());
        if let Some(refused) = head::refusal(&request, self.head_bytes_max) {
            return Box::pin(async move { Ok(refused.map(|body| BusyBody::new(body, busy))) });
        }
        let answer = tower::ServiceExt::oneshot(self.router.clone(), request);
        Box::pin(async move { Ok(answer.await?.map(|body| BusyBody::new(body, busy))) })
    }
}

/// The connection is busy until this is dropped with the answer's body.
struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.lock().phase = Phase::Idle { since: Instant::now() };
    }
}
