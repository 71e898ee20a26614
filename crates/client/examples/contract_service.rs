//! The test service around [`EventSource`] for LaunchDarkly's SSE contract tests.
//!
//! ```sh
//! cargo run --release -p bellwire-client --example contract_service -- --listen 127.0.0.1:8000
//! sse-contract-tests -url http://127.0.0.1:8000
//! ```
//!
//! The harness (github.com/launchdarkly/sse-contract-tests) requests this service to open streams to it, and checks what the
//! service reports. The service claims all capabilities.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bellwire_client::EventSource;
use bellwire_client::event_source::{InvalidRequest, Item, Loss};
use bellwire_client::transport::{HttpTransport, Transport as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

const CAPABILITIES: [&str; 10] = [
    "bom",
    "comments",
    "event-type-listeners",
    "headers",
    "last-event-id",
    "post",
    "read-timeout",
    "report",
    "restart",
    "server-directed-shutdown-request",
];

/// The biggest event that the harness sends is 14 MB.
const EVENT_BYTES_MAX: usize = 64 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let address = match (args.next().as_deref(), args.next(), args.next()) {
        (None, ..) => "127.0.0.1:8000".to_owned(),
        (Some("--listen"), Some(address), None) => address,
        _ => return Err("usage: contract_service [--listen ADDRESS:PORT]".into()),
    };
    let service = Arc::new(Service {
        transport: HttpTransport::new()?,
        streams: Mutex::default(),
        next_stream: AtomicU64::new(1),
    });
    let routes = Router::new()
        .route("/", get(describe).post(create).delete(stop))
        .route("/streams/{id}", post(command).delete(remove))
        .with_state(service);
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    serve(listener, routes).await?;
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "its one peer is the harness, on loopback; the hub's accept loop is out of reach here"
)]
async fn serve(listener: tokio::net::TcpListener, routes: Router) -> std::io::Result<()> {
    axum::serve(listener, routes).await
}

struct Service {
    transport: HttpTransport,
    streams: Mutex<HashMap<u64, Stream>>,
    next_stream: AtomicU64,
}

/// A stream under test: how to restart it, and how to end it.
struct Stream {
    restarts: mpsc::Sender<()>,
    task: AbortHandle,
}

/// A request of the harness.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StreamOptions {
    stream_url: String,
    callback_url: String,
    initial_delay_ms: Option<u64>,
    read_timeout_ms: Option<u64>,
    last_event_id: Option<String>,
    headers: Option<HashMap<String, String>>,
    method: Option<String>,
    body: Option<String>,
}

#[derive(Deserialize)]
struct Command {
    command: String,
}

async fn describe() -> String {
    json!({"name": "bellwire-client", "capabilities": CAPABILITIES}).to_string()
}

async fn create(State(service): State<Arc<Service>>, body: Bytes) -> Response {
    let opened = serde_json::from_slice::<StreamOptions>(&body)
        .map_err(|error| error.to_string())
        .and_then(|options| open(&options, &service.transport).map_err(|e| e.to_string()));
    let (source, callbacks) = match opened {
        Ok(opened) => opened,
        Err(error) => return (StatusCode::BAD_REQUEST, error).into_response(),
    };
    let (restarts, restarted) = mpsc::channel(1);
    let task = tokio::spawn(run(source, callbacks, restarted)).abort_handle();
    let id = service.next_stream.fetch_add(1, Ordering::Relaxed);
    let mut streams = service.streams.lock().expect("no holder panics");
    streams.insert(id, Stream { restarts, task });
    (StatusCode::CREATED, [(header::LOCATION, format!("/streams/{id}"))]).into_response()
}

async fn command(
    State(service): State<Arc<Service>>,
    Path(id): Path<u64>,
    body: Bytes,
) -> StatusCode {
    let streams = service.streams.lock().expect("no holder panics");
    let Some(stream) = streams.get(&id) else {
        return StatusCode::NOT_FOUND;
    };
    match serde_json::from_slice::<Command>(&body) {
        // One pending restart is enough.
        Ok(Command { command }) if command == "restart" => {
            let _ = stream.restarts.try_send(());
            StatusCode::ACCEPTED
        }
        // Events of every name are reported anyway.
        Ok(Command { command }) if command == "listen" => StatusCode::NO_CONTENT,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// Drops the source, which closes the connection.
async fn remove(State(service): State<Arc<Service>>, Path(id): Path<u64>) -> StatusCode {
    let stream = service.streams.lock().expect("no holder panics").remove(&id);
    match stream {
        Some(stream) => {
            stream.task.abort();
            StatusCode::NO_CONTENT
        }
        None => StatusCode::NOT_FOUND,
    }
}

async fn stop() -> StatusCode {
    std::process::exit(0)
}

fn open(
    options: &StreamOptions,
    transport: &HttpTransport,
) -> Result<(EventSource, Callbacks), InvalidRequest> {
    let mut builder = EventSource::builder(&options.stream_url)
        .transport(transport.clone())
        .comments(true)
        .event_bytes_max(EVENT_BYTES_MAX);
    if let Some(ms) = options.initial_delay_ms {
        builder = builder.reconnect_delay(Duration::from_millis(ms));
    }
    if let Some(ms) = options.read_timeout_ms {
        builder = builder.read_timeout(Duration::from_millis(ms));
    }
    if let Some(id) = &options.last_event_id {
        builder = builder.last_event_id(id);
    }
    for (name, value) in options.headers.iter().flatten() {
        builder = builder.header(name, value);
    }
    if let Some(method) = options.method.as_deref() {
        builder = builder.method(Method::from_bytes(method.as_bytes()).unwrap_or_default());
    }
    if let Some(body) = &options.body {
        builder = builder.body(body.clone());
    }
    let callbacks =
        Callbacks { transport: transport.clone(), url: options.callback_url.clone(), sent: 0 };
    Ok((builder.build()?, callbacks))
}

/// Reports the items of the source until the last one.
async fn run(mut source: EventSource, mut callbacks: Callbacks, mut restarts: mpsc::Receiver<()>) {
    loop {
        let item = tokio::select! {
            Some(()) = restarts.recv() => {
                source.restart();
                continue;
            }
            item = source.next_item() => item,
        };
        let report = match item {
            None => break,
            Some(Ok(Item::Event(event))) => json!({
                "kind": "event",
                "event": {"type": event.name(), "data": event.data(), "id": event.id()},
            }),
            Some(Ok(Item::Comment(text))) => json!({"kind": "comment", "comment": text}),
            Some(Ok(Item::Lost { loss: Loss::Failed(error), .. }) | Err(error)) => {
                json!({"kind": "error", "error": error.to_string()})
            }
            Some(Ok(_)) => continue,
        };
        callbacks.post(&report).await;
    }
}

/// Sends the reports one after the other, numbered from 1.
struct Callbacks {
    transport: HttpTransport,
    url: String,
    sent: u64,
}

impl Callbacks {
    async fn post(&mut self, report: &Value) {
        self.sent += 1;
        let request = Request::post(format!("{}/{}", self.url, self.sent))
            .header(header::CONTENT_TYPE, "application/json")
            .body(report.to_string().into());
        // The harness answers 404 once its test has ended; the report is not needed then.
        match request {
            Ok(request) => drop(self.transport.send(request).await),
            Err(error) => eprintln!("the callback URL is none: {error}"),
        }
    }
}
