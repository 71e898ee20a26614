//! EventSource against a server of raw bytes: the rules of HTML, section 9.2, that LaunchDarkly's contract tests do not cover.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is the failure message")]

mod support;

use std::time::Duration;

use bellwire_client::EventSource;
use bellwire_client::event_source::{Builder, Error, Item, Loss, RedirectFault, Retry};
use support::{Server, Tail};

fn builder(server: &Server) -> Builder {
    EventSource::builder(server.url("/events")).reconnect_delay(Duration::ZERO)
}

#[tokio::test]
async fn the_request_is_as_in_the_standard() {
    let server = Server::start().await;
    let mut tail = Tail::start(builder(&server).header("x-own", "1"));
    let mut request = server.request().await;
    assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/events"));
    assert_eq!(request.header("accept"), Some("text/event-stream"));
    assert_eq!(request.header("cache-control"), Some("no-cache"));
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert_eq!(request.header("x-own"), Some("1"));
    assert_eq!(request.header("last-event-id"), None);
    assert_eq!(request.header("content-length"), None, "a GET says nothing of a body");
    request.open_stream().await;
    request.send("data: a\n\n").await;
    assert_eq!(tail.data().await, "a");
}

#[tokio::test]
async fn a_content_type_may_have_parameters_and_capitals_but_is_required() {
    for good in ["text/event-stream", "Text/Event-Stream", "text/event-stream ; charset=UTF-8"] {
        let server = Server::start().await;
        let mut tail = Tail::start(builder(&server));
        let mut request = server.request().await;
        request.send(format!("HTTP/1.1 200 OK\r\ncontent-type: {good}\r\n\r\ndata: a\n\n")).await;
        assert_eq!(tail.data().await, "a", "{good}");
    }
    for bad in [
        "content-type: text/html\r\n",
        "content-type: text/event-streams\r\n",
        "content-type: application/text/event-stream\r\n",
        "content-type: \r\n",
        "",
    ] {
        let server = Server::start().await;
        let mut tail = Tail::start(builder(&server));
        let mut request = server.request().await;
        request.send(format!("HTTP/1.1 200 OK\r\n{bad}\r\ndata: a\n\n")).await;
        let error = tail.gave_up().await;
        assert!(matches!(error, Error::NotAStream { .. }), "{bad:?}: {error}");
    }
}

#[tokio::test]
async fn a_status_other_than_200_is_final_and_has_its_body() {
    for status in [201, 206, 300, 304, 400, 401, 403, 404, 410, 429, 500, 503] {
        let server = Server::start().await;
        let mut tail = Tail::start(builder(&server));
        // 304 has no body (RFC 9110, section 15.4.5).
        let body = if status == 304 { "" } else { "not now" };
        let head = format!("{status} Other\ncontent-type: text/event-stream\nretry-after: 7");
        server.request().await.answer(&head, body).await;
        let Error::Refused(refusal) = tail.gave_up().await else {
            panic!("{status} should be a refusal");
        };
        assert_eq!(refusal.status.as_u16(), status);
        assert_eq!(refusal.body, body, "{status}");
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(7)), "{status}");
    }
}

#[tokio::test]
async fn a_204_is_the_end_under_every_retry_rule() {
    for retry in [Retry::standard(), Retry::resilient(), Retry::always(), Retry::never()] {
        let server = Server::start().await;
        let mut tail = Tail::start(builder(&server).retry(retry));
        server.request().await.answer("204 No Content", "").await;
        tail.ended().await;
    }
}

#[tokio::test]
async fn resilient_retry_reconnects_after_server_errors_and_not_after_refusals() {
    let server = Server::start().await;
    let mut tail = Tail::start(builder(&server).retry(Retry::resilient()));
    for status in [500, 502, 503, 504, 408, 425, 429] {
        server.request().await.answer(&format!("{status} Trouble"), "").await;
        assert!(matches!(tail.lost().await, Loss::Failed(Error::Refused(_))), "{status}");
    }
    server.request().await.answer("200 OK\ncontent-type: text/html", "sign in").await;
    assert!(matches!(tail.lost().await, Loss::Failed(Error::NotAStream { .. })));
    server.request().await.answer("403 Forbidden", "").await;
    assert!(matches!(tail.gave_up().await, Error::Refused(_)));
}

#[tokio::test]
async fn redirects_are_followed_and_the_next_connection_requests_the_first_url() {
    for status in [301, 302, 303, 307, 308] {
        let server = Server::start().await;
        let mut tail = Tail::start(builder(&server));
        for _ in 0..2 {
            let request = server.request().await;
            assert_eq!(request.target, "/events", "{status}");
            request.answer(&format!("{status} Moved\nlocation: other?a=1"), "").await;
            let mut request = server.request().await;
            assert_eq!(request.target, "/other?a=1", "{status}: Location is relative to the URL");
            assert_eq!(request.header("accept"), Some("text/event-stream"));
            request.open_stream().await;
            request.send("data: a\n\n").await;
            request.end().await;
            assert_eq!(tail.data().await, "a");
            assert!(matches!(tail.lost().await, Loss::Ended));
        }
    }
}

#[tokio::test]
async fn a_redirected_post_becomes_a_get_where_fetch_says_so() {
    for (status, method) in [(301, "GET"), (302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")]
    {
        let server = Server::start().await;
        let builder = builder(&server)
            .method(http::Method::POST)
            .header("content-type", "application/json")
            .body("{}");
        let _tail = Tail::start(builder);
        let request = server.request().await;
        assert_eq!((request.method.as_str(), request.body.as_slice()), ("POST", b"{}".as_slice()));
        request.answer(&format!("{status} Moved\nlocation: /other"), "").await;
        let request = server.request().await;
        assert_eq!(request.method, method, "{status}");
        let keeps_body = method == "POST";
        assert_eq!(request.body == b"{}", keeps_body, "{status}");
        assert_eq!(request.header("content-type").is_some(), keeps_body, "{status}");
    }
}

#[tokio::test]
async fn credentials_are_sent_to_their_server_alone() {
    let (server, other) = (Server::start().await, Server::start().await);
    let _tail = Tail::start(builder(&server).bearer_auth("secret").header("x-own", "1"));
    let request = server.request().await;
    assert_eq!(request.header("authorization"), Some("Bearer secret"));
    request.answer("307 Moved\nlocation: /next", "").await;
    let request = server.request().await;
    assert_eq!(request.header("authorization"), Some("Bearer secret"), "the same server");
    request.answer(&format!("307 Moved\nlocation: {}", other.url("/")), "").await;
    let request = other.request().await;
    assert_eq!(request.header("authorization"), None, "another server");
    assert_eq!(request.header("x-own"), Some("1"));
}

#[tokio::test]
async fn an_invalid_redirect_is_an_error() {
    for (location, fault) in [
        ("", RedirectFault::NoLocation),
        ("\nlocation: ", RedirectFault::NoLocation),
        ("\nlocation: http://", RedirectFault::InvalidLocation),
        ("\nlocation: file:///etc/passwd", RedirectFault::InvalidLocation),
        ("\nlocation: data:text/event-stream,data:a", RedirectFault::InvalidLocation),
    ] {
        let server = Server::start().await;
        let mut tail = Tail::start(builder(&server));
        server.request().await.answer(&format!("302 Found{location}"), "").await;
        let error = tail.gave_up().await;
        assert!(matches!(error, Error::Redirect(f) if f == fault), "{location:?}: {error}");
    }
}

/// A device that a captive portal redirected to its page reported the page alone, or a server that could not be reached.
#[tokio::test]
async fn same_origin_reports_where_a_redirect_leads() {
    let same_origin = |server: &Server| builder(server).same_origin(true);
    let server = Server::start().await;
    let mut tail = Tail::start(same_origin(&server));
    let away = "302 Found\nlocation: http://user:secret@portal.test/login?back=1";
    server.request().await.answer(away, "").await;
    let error = tail.gave_up().await;
    assert!(
        matches!(&error, Error::Elsewhere { to, .. } if to == "http://portal.test/login?back=1"),
        "not requested, and its password not shown: {error}"
    );

    let mut tail = Tail::start(same_origin(&server));
    server.request().await.answer("302 Found\nlocation: /login", "").await;
    server.request().await.answer("200 OK\ncontent-type: text/html", "<html>").await;
    let (error, login) = (tail.gave_up().await, server.url("/login"));
    assert!(matches!(&error, Error::Elsewhere { to, .. } if *to == login), "{error}");
    assert!(error.to_string().contains("text/html"), "{error}");

    let mut tail = Tail::start(same_origin(&server));
    server.request().await.answer("307 Temporary Redirect\nlocation: /next", "").await;
    let mut request = server.request().await;
    request.open_stream().await;
    request.send("data: a\n\n").await;
    assert_eq!(tail.data().await, "a");
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let server = Server::start().await;
    let mut tail = Tail::start(builder(&server));
    for _ in 0..21 {
        server.request().await.answer("302 Found\nlocation: /events", "").await;
    }
    let error = tail.gave_up().await;
    assert!(matches!(error, Error::Redirect(RedirectFault::TooMany)), "{error}");
}

#[tokio::test]
async fn invalid_utf8_is_replaced_and_breaks_nothing() {
    let server = Server::start().await;
    let mut tail = Tail::start(builder(&server).comments(true));
    let mut request = server.request().await;
    request.open_stream().await;
    request.send(b":\xFF\ndata: a\xC3\x28\xE2\x82\n\ndata: b\n\n").await;
    assert!(matches!(tail.item().await, Some(Ok(Item::Comment(text))) if text == "\u{FFFD}"));
    assert_eq!(tail.data().await, "a\u{FFFD}(\u{FFFD}");
    assert_eq!(tail.data().await, "b");
}

#[tokio::test]
async fn an_id_without_data_counts_and_survives_a_connection_without_ids() {
    let server = Server::start().await;
    let mut tail = Tail::start(builder(&server));
    let mut request = server.request().await;
    request.open_stream().await;
    request.send("id: 7\n\n").await;
    request.end().await;
    assert!(matches!(tail.lost().await, Loss::Ended));
    for _ in 0..2 {
        let mut request = server.request().await;
        assert_eq!(request.header("last-event-id"), Some("7"));
        request.open_stream().await;
        request.send("data: no id\n\n").await;
        request.end().await;
        let event = tail.event().await;
        assert_eq!((event.id(), event.own_id()), ("7", None));
        assert!(matches!(tail.lost().await, Loss::Ended));
    }
}

#[tokio::test]
async fn an_event_distinguishes_its_own_id_from_an_inherited_one() {
    let server = Server::start().await;
    let mut tail = Tail::start(builder(&server).last_event_id("before"));
    let mut request = server.request().await;
    assert_eq!(request.header("last-event-id"), Some("before"));
    request.open_stream().await;
    request
        .send("data: a\n\nid: 1\ndata: b\n\ndata: c\n\nid\ndata: d\n\nid: x\0\ndata: e\n\n")
        .await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let event = tail.event().await;
        ids.push((event.id().to_owned(), event.own_id().map(str::to_owned)));
    }
    let id = |last: &str, own: Option<&str>| (last.to_owned(), own.map(str::to_owned));
    assert_eq!(
        ids,
        [id("before", None), id("1", Some("1")), id("1", None), id("", Some("")), id("", None)]
    );
}

/// A client that put such an id into the header crashed at the next reconnect (undici, GHSA-q9qx-47rg-rhc7).
#[tokio::test]
async fn an_id_that_is_no_valid_header_is_not_sent() {
    let server = Server::start().await;
    let mut tail = Tail::start(builder(&server));
    let mut request = server.request().await;
    request.open_stream().await;
    request.send("id: good \u{20AC}\ndata: a\n\nid: b\x01d\ndata: b\n\n").await;
    request.end().await;
    assert_eq!(tail.event().await.id(), "good \u{20AC}");
    assert_eq!(tail.event().await.id(), "b\x01d");
    assert!(matches!(tail.lost().await, Loss::Ended));
    // The header is UTF-8; the raw server reads it as such.
    let mut request = server.request().await;
    assert_eq!(request.header("last-event-id"), Some("good \u{20AC}"));
    request.open_stream().await;
    request.send("data: c\n\n").await;
    assert_eq!(tail.event().await.id(), "b\x01d");
}

#[tokio::test]
async fn an_event_over_the_limit_is_dropped_and_the_stream_continues() {
    let server = Server::start().await;
    let mut tail = Tail::start(builder(&server).event_bytes_max(100));
    let mut request = server.request().await;
    request.open_stream().await;
    request.send(format!("id: 1\ndata: {}\n\ndata: b\n\n", "x".repeat(200))).await;
    let item = tail.item().await;
    assert!(matches!(item, Some(Ok(Item::Skipped { limit_bytes: 100 }))), "{item:?}");
    let event = tail.event().await;
    assert_eq!((event.data(), event.id()), ("b", ""), "the id went with its event");
}

#[tokio::test]
async fn a_broken_transfer_is_one_loss_and_an_orderly_end_is_no_error() {
    let server = Server::start().await;
    let mut tail = Tail::start(builder(&server));
    let chunked = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                   transfer-encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n";
    let mut request = server.request().await;
    request.send(chunked).await;
    request.send("6\r\ndata: ").await;
    request.end().await;
    assert_eq!(tail.data().await, "a");
    let loss = tail.lost().await;
    assert!(matches!(loss, Loss::Failed(Error::Transport(_))), "{loss}");

    let mut request = server.request().await;
    request.send(chunked).await;
    request.send("0\r\n\r\n").await;
    assert_eq!(tail.data().await, "a");
    assert!(matches!(tail.lost().await, Loss::Ended));
}

#[tokio::test]
async fn dropping_closing_or_restarting_a_source_closes_its_connection() {
    let server = Server::start().await;
    let tail = Tail::start(builder(&server));
    let mut request = server.request().await;
    request.open_stream().await;
    tail.drop_source();
    request.dropped().await;

    let mut source = builder(&server).build().unwrap();
    let (item, request) = tokio::join!(source.next_item(), async {
        let mut request = server.request().await;
        request.open_stream().await;
        request
    });
    assert!(matches!(item, Some(Ok(Item::Open))));
    source.restart();
    let (item, again) = tokio::join!(source.next_item(), async {
        let mut again = server.request().await;
        again.open_stream().await;
        again
    });
    assert!(matches!(item, Some(Ok(Item::Open))), "no report of the restart, but {item:?}");
    request.dropped().await;
    source.close();
    again.dropped().await;
    assert!(source.next_item().await.is_none());
    source.restart();
    assert!(source.next_item().await.is_none(), "closed is for good");
}

#[tokio::test]
async fn user_and_password_in_the_url_become_a_header_and_are_never_shown() {
    let server = Server::start().await;
    let url = server.url("/events").replace("http://", "http://us%40r:p%3Ass@");
    let source = EventSource::get(url).unwrap();
    assert!(!format!("{source:?}").contains("p%3Ass"));
    let _tail = Tail::of(source);
    let request = server.request().await;
    // "us@r:p:ss" in Base64.
    assert_eq!(request.header("authorization"), Some("Basic dXNAcjpwOnNz"));
    assert!(!request.header("host").unwrap().contains('@'));
}

#[tokio::test]
async fn an_invalid_setting_is_named_when_the_source_is_built() {
    for url in ["", "hub", "/events", "ftp://hub/", "http://", "file:///etc/passwd"] {
        let error = EventSource::get(url).unwrap_err();
        assert!(error.to_string().contains("not an http or https URL"), "{url}: {error}");
    }
    let error = EventSource::get("ws://u:secret@hub/").unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
    for (name, value) in [("a b", "c"), ("", "c"), ("x-good", "a\r\nb: c")] {
        let error = EventSource::builder("http://hub/").header(name, value).build().unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[tokio::test]
async fn a_failure_is_one_line() {
    let server = Server::start().await;
    let url = server.url("/");
    drop(server);
    let mut tail = Tail::start(EventSource::builder(url).retry(Retry::never()));
    let error = tail.gave_up().await.to_string();
    assert!(error.starts_with("cannot connect to 127.0.0.1:"), "{error}");
    assert!(error.contains("refused"), "the cause is reported: {error}");
    assert!(!error.contains('\n'), "{error}");
}
