//! Requests on a connection that the server closes instead of answering: those that do no harm twice are sent once more.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is the failure message")]

mod support;

use bellwire_client::transport::{
    HttpTransport, Request, Transport as _, TransportError, TransportStage,
};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use support::{Exchange, within};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server that answers the first `answered` requests of its first connection, closes that on the next one, and answers
/// everything later. Returns the methods that it received, by connection.
async fn serve(listener: TcpListener, answered: usize, connections: usize) -> Vec<Vec<String>> {
    let mut received = Vec::new();
    for connection in 0..connections {
        let (mut socket, _) = within("a connection", listener.accept()).await.unwrap();
        let mut methods = Vec::new();
        loop {
            methods.push(next_method(&mut socket).await);
            let is_last = if connection == 0 { methods.len() > answered } else { true };
            if connection > 0 || !is_last {
                socket.write_all(ANSWER).await.unwrap();
            }
            if is_last {
                break;
            }
        }
        received.push(methods);
    }
    received
}

async fn next_method(socket: &mut TcpStream) -> String {
    within("a request", Exchange::read(socket)).await.method.clone()
}

async fn send(
    transport: &HttpTransport,
    url: &str,
    method: &str,
    key: Option<&'static str>,
) -> Result<(), TransportError> {
    let mut request = Request::new(Bytes::from_static(b"x"));
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = url.parse().unwrap();
    if let Some(key) = key {
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
    }
    let response = within("an answer", transport.send(request)).await?;
    // To its end, so that the connection returns to the pool.
    let parts: Vec<Bytes> = within("a body", response.into_body().try_collect()).await?;
    assert_eq!(parts.concat(), b"ok");
    Ok(())
}

#[tokio::test]
async fn what_a_pooled_connection_left_unanswered_is_sent_once_more_if_it_does_no_harm() {
    for (method, key, repeated) in [
        ("GET", None, true),
        ("PUT", None, true),
        ("DELETE", None, true),
        ("POST", None, false),
        ("PATCH", None, false),
        ("POST", Some("k-1"), true),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(serve(listener, 1, if repeated { 2 } else { 1 }));
        let transport = HttpTransport::builder().no_proxy().build().unwrap();
        send(&transport, &url, "GET", None).await.unwrap();
        let outcome = send(&transport, &url, method, key).await;
        let received = within("the server", server).await.unwrap();
        if repeated {
            outcome.unwrap_or_else(|error| panic!("{method} {key:?}: {error}"));
            assert_eq!(received, [vec!["GET", method], vec![method]], "{key:?}");
        } else {
            let error = outcome.expect_err(method);
            assert_eq!(error.stage(), TransportStage::Response, "{method}: {error}");
            assert_eq!(received, [["GET", method]]);
        }
    }
}

/// A server that closes every connection unanswered received each request again and again.
#[tokio::test]
async fn on_a_new_connection_nothing_is_sent_twice() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = tokio::spawn(serve(listener, 0, 1));
    let transport = HttpTransport::builder().no_proxy().build().unwrap();
    let error = send(&transport, &url, "GET", None).await.unwrap_err();
    assert_eq!(error.stage(), TransportStage::Response, "{error}");
    assert_eq!(within("the server", server).await.unwrap(), [["GET"]]);
}
