//! The typed streams against a server of raw bytes: a device's signals, a command's changes, the hub's
//! events; and when each reconnects.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is the failure message")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bellwire_client::api::{
    CommandChange, CommandQuery, Error, HubChange, HubState, ListenOptions, Listener, PollOptions,
    Signal,
};
use bellwire_client::event_source::{self, Loss};
use bellwire_client::transport::{HttpTransport, Request, ResponseFuture, Transport};
use bellwire_client::{Controller, SendOptions};
use bellwire_proto::stream::ByeReason;
use bellwire_proto::{Code, DeliveryState, DeviceChange, Seconds, Seq};
use support::hub::{
    ID, command, command_event, delivery, device, exchange, hello, hub, id, kiosk, problem, reboot,
};
use support::{Exchange, Server, within};

fn stream_only() -> ListenOptions {
    ListenOptions::default().stream_only(true)
}

fn nonce_of(request: &Exchange) -> String {
    let (_, query) = request.path_and_query();
    let nonce = query.split('&').find_map(|pair| pair.strip_prefix("nonce="));
    nonce.expect("every stream is requested with a nonce").to_owned()
}

#[tokio::test]
async fn a_listener_yields_each_signal_and_reconnects_when_requested() {
    let server = Server::start().await;
    let name = kiosk();
    let options = stream_only()
        .heartbeat(Seconds::new(5))
        .prelude_bytes(0)
        .probes(true)
        .confirm(true)
        .compat(true)
        .last_event_id(Seq::new(3));
    let mut listener = hub(&server).listen(&name, &options).unwrap();
    let (signal, mut request) = tokio::join!(listener.next(), async {
        let mut request = server.request().await;
        let (path, query) = request.path_and_query();
        assert_eq!(path, format!("/v1/devices/{name}/stream"));
        let expected = "heartbeat=5s&prelude=0&probes=1&confirm=1&compat=1&nonce=";
        assert!(query.starts_with(expected), "{query}");
        assert_eq!(request.header("last-event-id"), Some("3"));
        let hello = hello(name.as_str(), &nonce_of(&request));
        request.open_stream().await;
        // The prelude is no heartbeat: it precedes the hello.
        request.send(format!(": prelude\n\nevent: hello\nretry: 2000\ndata: {hello}\n\n")).await;
        request
    });
    assert!(matches!(signal, Some(Ok(Signal::Hello(hello))) if hello.session == "s1"));
    let command = command_event();
    request
        .send(format!(
            "event: command\nid: 9\ndata: {command}\n\n: 1763841600000\n\n:\n\n\
             event: of_a_later_version\ndata: x\n\n\
             event: cancel\ndata: {{\"id\":\"{ID}\",\"seq\":9}}\n\n\
             event: bye\ndata: {{\"reason\":\"draining\",\"reconnect_s\":0.001}}\n\n"
        ))
        .await;
    let first_nonce = nonce_of(&request);
    request.end().await;
    let mut signals = Vec::new();
    for _ in 0..6 {
        signals.push(within("a signal", listener.next()).await.unwrap().unwrap());
    }
    assert!(matches!(&signals[0], Signal::Command(c) if c.seq == Seq::new(9)), "{signals:?}");
    assert!(matches!(signals[1], Signal::Heartbeat { time_ms: Some(1_763_841_600_000) }));
    assert!(matches!(signals[2], Signal::Heartbeat { time_ms: None }));
    assert!(matches!(signals[3], Signal::Cancel(_)));
    assert!(matches!(&signals[4], Signal::Bye(bye) if bye.reason == ByeReason::Draining));
    assert!(
        matches!(&signals[5], Signal::Lost { loss: Loss::Ended, retry_in }
            if *retry_in == Duration::from_millis(1)),
        "{signals:?}"
    );
    let (signal, ()) = tokio::join!(listener.next(), async {
        let mut request = server.request().await;
        assert_ne!(nonce_of(&request), first_nonce, "a cache could answer a nonce of before");
        assert_eq!(request.header("last-event-id"), Some("9"));
        request.open_stream().await;
        let hello = hello(name.as_str(), &nonce_of(&request));
        request.send(format!("event: hello\ndata: {hello}\n\n")).await;
    });
    assert!(matches!(signal, Some(Ok(Signal::Hello(_)))), "{signal:?}");
}

/// The hub's side of a stream that has sent a hello, and then this `bye`.
async fn after_hello(server: &Server, listener: &mut Listener, bye: &str) -> Exchange {
    let (signal, request) = tokio::join!(listener.next(), async {
        let mut request = server.request().await;
        let hello = hello(kiosk().as_str(), &nonce_of(&request));
        request.open_stream().await;
        request.send(format!("event: hello\ndata: {hello}\n\nevent: bye\ndata: {bye}\n\n")).await;
        request
    });
    assert!(matches!(signal, Some(Ok(Signal::Hello(_)))), "{signal:?}");
    request
}

/// A `bye` with a reason of a later version was taken for the page of a captive portal.
#[tokio::test]
async fn a_bye_with_an_unknown_reason_has_its_pause_too() {
    let server = Server::start().await;
    let mut listener = hub(&server).listen(&kiosk(), &stream_only()).unwrap();
    let request =
        after_hello(&server, &mut listener, r#"{"reason":"sunset","reconnect_s":4.2}"#).await;
    request.end().await;
    let signal = within("the end", listener.next()).await;
    assert!(
        matches!(signal, Some(Ok(Signal::Lost { loss: Loss::Ended, retry_in }))
            if retry_in == Duration::from_millis(4200)),
        "{signal:?}"
    );
}

/// A hub that sent `bye` and then hung held its device until the watchdog, and that was reported as a dead stream.
#[tokio::test]
async fn after_a_bye_the_stream_ends_even_if_the_connection_stays_open() {
    let server = Server::start().await;
    let mut listener = hub(&server).listen(&kiosk(), &stream_only()).unwrap();
    let mut request = after_hello(&server, &mut listener, "{}").await;
    // What still arrives on it, also a command, is ignored: the next stream has it.
    let goes_on = async {
        loop {
            request.send(format!("event: command\nid: 9\ndata: {}\n\n", command_event())).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let signal = tokio::select! {
        signal = within("the end", listener.next()) => signal,
        () = goes_on => unreachable!("it goes on for ever"),
    };
    assert!(matches!(signal, Some(Ok(Signal::Lost { loss: Loss::Ended, .. }))), "{signal:?}");
    request.dropped().await;
}

#[tokio::test]
async fn a_listener_rejects_a_stream_for_another_device_or_request() {
    for (device, nonce, first) in [
        ("kiosk:7@lyon~2", "of another", "hello"),
        ("another", "", "hello"),
        ("kiosk:7@lyon~2", "", "command"),
    ] {
        let server = Server::start().await;
        let mut listener = hub(&server).listen(&kiosk(), &stream_only()).unwrap();
        let (signal, ()) = tokio::join!(listener.next(), async {
            let mut request = server.request().await;
            let nonce = if nonce.is_empty() { nonce_of(&request) } else { nonce.to_owned() };
            let data = if first == "hello" { hello(device, &nonce) } else { command_event() };
            request.open_stream().await;
            request.send(format!("event: {first}\ndata: {data}\n\n")).await;
            request.dropped().await;
        });
        assert!(
            matches!(
                &signal,
                Some(Ok(Signal::Lost {
                    loss: Loss::Failed(event_source::Error::Rejected { .. }),
                    ..
                }))
            ),
            "{device} {first}: {signal:?}"
        );
    }
}

#[tokio::test]
async fn a_listener_that_the_hub_refuses_gets_the_reason() {
    let server = Server::start().await;
    let mut listener = hub(&server).listen(&kiosk(), &stream_only()).unwrap();
    let not_found = "404 Not Found\ncontent-type: application/problem+json";
    let (signal, ..) =
        exchange(&server, listener.next(), not_found, &problem("unknown_device")).await;
    let error = signal.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(Code::UnknownDevice), "{error}");
    assert!(listener.next().await.is_none());
}

#[tokio::test]
async fn a_command_is_watched_until_its_end_across_a_lost_connection() {
    let server = Server::start().await;
    let mut changes = hub(&server).watch(id()).unwrap();
    let side = async {
        let mut request = server.request().await;
        assert_eq!(request.target, format!("/v1/commands/{ID}/events"));
        request.open_stream().await;
        let queued = delivery("queued");
        request.send(format!("retry: 0\nevent: delivery\ndata: {queued}\n\n")).await;
        request.end().await;
        let mut request = server.request().await;
        request.open_stream().await;
        let (ended, done) = (delivery("succeeded"), command(ID, true));
        request
            .send(format!("event: delivery\ndata: {ended}\n\nevent: done\ndata: {done}\n\n"))
            .await;
        request.dropped().await;
    };
    let watch = async {
        let mut seen = Vec::new();
        while let Some(change) = changes.next().await {
            seen.push(change.unwrap());
        }
        seen
    };
    let (seen, ()) = within("the end", async { tokio::join!(watch, side) }).await;
    assert!(matches!(&seen[0], CommandChange::Delivery(d) if d.state == DeliveryState::Queued));
    assert!(matches!(&seen[1], CommandChange::Delivery(d) if d.state == DeliveryState::Succeeded));
    assert!(matches!(&seen[2], CommandChange::Done(c) if c.done));
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn a_hub_that_was_never_reached_is_an_error() {
    let server = Server::start().await;
    let hub = hub(&server);
    drop(server);
    let mut changes = hub.watch(id()).unwrap();
    let error = within("the error", changes.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(changes.next().await.is_none());
}

#[tokio::test]
async fn the_hubs_events_are_typed() {
    let server = Server::start().await;
    let mut changes = hub(&server).events().unwrap();
    let side = async {
        let mut request = server.request().await;
        assert_eq!(request.target, "/v1/events");
        request.open_stream().await;
        let online = device("a").replacen('{', r#"{"change":"online","#, 1);
        let running = delivery("running");
        request
            .send(format!(
                "event: hub\ndata: {{\"hub\":\"bellwire/0.1.0\",\"state\":\"ready\"}}\n\n\
                 event: device\ndata: {online}\n\nevent: delivery\ndata: {running}\n\n"
            ))
            .await;
        request
    };
    let watch = async {
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(changes.next().await.unwrap().unwrap());
        }
        seen
    };
    let (seen, _request) = within("the changes", async { tokio::join!(watch, side) }).await;
    assert!(matches!(&seen[0], HubChange::Hub { state: HubState::Ready, .. }));
    assert!(matches!(&seen[1], HubChange::Device(d)
        if d.change == DeviceChange::Online && d.device.facts.as_str() == r#"{"os":"deb12"}"#));
    assert!(matches!(&seen[2], HubChange::Delivery(d) if d.state == DeliveryState::Running));
}

/// Counts the changes of the network that it is informed of.
#[derive(Clone)]
struct Informed(HttpTransport, Arc<AtomicUsize>);

impl Transport for Informed {
    fn send(&self, request: Request) -> ResponseFuture {
        self.0.send(request)
    }

    fn network_changed(&self) {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.network_changed();
    }
}

/// A stream alone went on over the connections of the network before, and through its base.
#[tokio::test]
async fn a_change_of_the_network_reaches_the_transport_however_a_device_listens() {
    let server = Server::start().await;
    for options in [stream_only(), ListenOptions::default()] {
        let changes = Arc::new(AtomicUsize::new(0));
        let transport = Informed(HttpTransport::new().unwrap(), Arc::clone(&changes));
        let hub = Controller::builder(server.url("")).transport(transport).build().unwrap();
        let mut listener = hub.listen(&kiosk(), &options).unwrap();
        listener.network_changed();
        assert_eq!(changes.load(Ordering::Relaxed), 1, "{options:?}");
    }
}

/// A program that runs the client in tasks of its own needs this to compile.
#[tokio::test]
async fn calls_and_streams_can_move_between_threads() {
    fn moves<T: Send>(value: T) -> T {
        value
    }
    let server = Server::start().await;
    let hub = hub(&server);
    let (name, action, options) = (kiosk(), reboot(), SendOptions::default());
    drop(moves(hub.send(&name, &action, &options)));
    drop(moves(hub.poll(&name, PollOptions::default())));
    drop(moves(hub.report_batch(&name, &[])));
    drop(moves(hub.all_commands(CommandQuery::default())));
    let mut listener = moves(hub.listen(&name, &ListenOptions::default()).unwrap());
    drop(moves(listener.next()));
    let mut changes = moves(hub.watch(id()).unwrap());
    drop(moves(changes.next()));
}
