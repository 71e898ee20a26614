//! The plane alone: streams and events, nothing stored. What the hub costs beyond this is the price
//! of its promises.
//!
//! ```text
//! cargo run --release -p bellwire-hub --example plane_floor -- 127.0.0.1:8900
//! curl -N http://127.0.0.1:8900/7 &                   # opens a stream on channel 7
//! curl -d 'hello' http://127.0.0.1:8900/7             # sends an event to its streams
//! ```

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use bellwire_hub::listen::{ListenConfig, Listener};
use bellwire_hub::plane::{
    Frame, Heartbeat, HeartbeatForm, Plane, PlaneConfig, Receipt, StreamEvent, StreamEvents,
    StreamHead, StreamId, StreamOptions,
};

#[derive(Default)]
struct Channels {
    streams: HashMap<u32, Vec<StreamId>>,
    channel_of: HashMap<StreamId, u32>,
}

type Shared = Arc<Mutex<Channels>>;

/// Takes closed streams out of their channels.
struct Closing(Shared);

impl StreamEvents for Closing {
    fn on_events(&self, batch: &mut Vec<StreamEvent>) {
        let mut channels = self.0.lock().expect("nothing panics under this lock");
        for event in batch.drain(..) {
            let StreamEvent::Closed { stream, .. } = event else {
                continue;
            };
            let Some(channel) = channels.channel_of.remove(&stream) else {
                continue;
            };
            if let Some(streams) = channels.streams.get_mut(&channel) {
                streams.retain(|id| *id != stream);
            }
        }
    }
}

async fn listen(
    State((plane, channels)): State<(Plane, Shared)>,
    Path(channel): Path<u32>,
    request: Request,
) -> Response {
    let heartbeat = Heartbeat { every_ms: 15_000, form: HeartbeatForm::V1 };
    let id = {
        let mut channels = channels.lock().expect("nothing panics under this lock");
        let id = plane.reserve(StreamOptions { heartbeat: Some(heartbeat), ..Default::default() });
        channels.streams.entry(channel).or_default().push(id);
        channels.channel_of.insert(id, channel);
        id
    };
    plane.send(id, Frame::new(b"event: hello\ndata: {}\n\n"), Receipt::None);
    plane.respond(&request.into_parts().0, id, StreamHead::event_stream()).await
}

async fn publish(
    State((plane, channels)): State<(Plane, Shared)>,
    Path(channel): Path<u32>,
    body: Bytes,
) -> StatusCode {
    let frame = Frame::new(&[b"data: ", &*body, b"\n\n"].concat());
    let channels = channels.lock().expect("nothing panics under this lock");
    match channels.streams.get(&channel) {
        Some(streams) => plane.send_many(streams, &frame),
        None => return StatusCode::NOT_FOUND,
    }
    StatusCode::OK
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:8900".into()).parse()?;
    let shards = args.next().map_or(Ok(0), |count| count.parse())?;
    let channels = Shared::default();
    let config = PlaneConfig { shards, ..PlaneConfig::default() };
    let plane = Plane::start(config, Arc::new(Closing(channels.clone())))?;
    let router =
        Router::new().route("/{channel}", get(listen).post(publish)).with_state((plane, channels));

    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = Listener::bind(&[addr], ListenConfig::default())?;
        let bound: Vec<_> = listener.listeners().iter().map(|listener| listener.address).collect();
        writeln!(std::io::stdout(), "listening on {bound:?}")?;
        let _server = listener.serve(router);
        std::future::pending::<()>().await;
        Ok(())
    })
}
