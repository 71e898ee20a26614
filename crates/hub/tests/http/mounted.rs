//! The router in another program's axum server: no connection can be taken over there.

use axum::Router;
use axum::routing::get;
use bellwire_hub::http;

use crate::support::{Connection, Hub};

#[test]
fn a_stream_is_an_ordinary_body_in_another_server() {
    let hub = Hub::start();
    let router = http::router(hub.driver.clone())
        .merge(Router::new().route("/", get(async || "another program")));
    let addr = hub.serve_by_axum(router);

    let mut connection = Connection::to(addr);
    connection.request("GET /", "", b"");
    assert_eq!(connection.answer_to("GET").text(), "another program");
    connection.request("POST /v1/send/d/ping", "", b"");
    assert_eq!(connection.answer_to("POST").status, 202);
    connection.request("HEAD /v1/devices/d/stream", "", b"");
    assert_eq!(connection.answer_to("HEAD /").status, 200);

    let mut stream = connection.into_stream("/v1/devices/d/stream?prelude=100", "");
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream"));
    assert_eq!(stream.head.header("cache-control"), Some("no-store, no-transform"));
    assert_eq!(stream.head.header("x-accel-buffering"), Some("no"));
    let first = stream.block().unwrap();
    assert_eq!(first.fields(), ["", "event", "retry", "data"]);
    assert_eq!(first.lines[0].len(), 99);
    stream.expect("command");
    hub.driver.drain();
    assert_eq!(stream.expect("bye")["reason"], "draining");
    assert_eq!(stream.block(), None);
}
