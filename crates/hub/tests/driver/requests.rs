//! Requests of senders and devices: each has one reply, after what it promises is on disk.

use bellwire_core::{Listen, Poll};
use bellwire_hub::plane::StreamOptions;
use bellwire_hub::store::Visible;
use bellwire_proto::{Code, DeliveryState, ReportState, Seconds};
use tokio::sync::oneshot;

use crate::support::{Stream, hub, ping, report, soon};

#[tokio::test]
async fn a_send_is_answered_with_what_a_read_then_finds() {
    let (hub, _folder) = hub().await;
    let driver = hub.driver();
    let sent = soon("the answer", driver.send(ping("kiosk", 0))).await.unwrap();
    assert_eq!((sent.state, sent.attempt), (DeliveryState::Queued, 0));

    let found = driver.store().command(sent.command, Visible::all()).await.unwrap();
    assert_eq!(found.map(|command| command.seq), Some(sent.seq));
    let device = driver.device(sent.device).await.unwrap().unwrap();
    assert_eq!((device.queued, device.online), (1, false));
    hub.close().await;
}

#[tokio::test]
async fn a_sender_that_waits_is_answered_when_the_device_has_ended_the_command() {
    let (hub, _folder) = hub().await;
    let driver = hub.driver().clone();
    let mut kiosk = Stream::listen(&driver, "kiosk").await;
    let sending = driver.clone();
    let waiting = tokio::spawn(async move { sending.send(ping("kiosk", 300)).await });

    let command = kiosk.expect("command").await;
    let id = command["id"].as_str().unwrap().parse().unwrap();
    let report = bellwire_proto::Report::of(ReportState::Succeeded);
    driver.report("kiosk".parse().unwrap(), id, report).await.unwrap();
    let answer = soon("the answer", waiting).await.unwrap().unwrap();
    assert_eq!(answer.state, DeliveryState::Succeeded);
    hub.close().await;
}

#[tokio::test]
async fn a_ttl_that_elapses_ends_the_command_and_answers_its_sender() {
    let (hub, _folder) = hub().await;
    let driver = hub.driver();
    // Its deadline is an hour away: the second one must set the timer earlier.
    soon("the answer", driver.send(ping("asleep", 0))).await.unwrap();
    let mut send = ping("asleep", 300);
    send.ttl = Some(Seconds::new(1));
    let answer = soon("the end", driver.send(send)).await.unwrap();
    assert_eq!(answer.state, DeliveryState::Expired);
    hub.close().await;
}

#[tokio::test]
async fn a_poll_whose_client_has_disconnected_takes_no_command() {
    let (hub, _folder) = hub().await;
    let driver = hub.driver().clone();
    let polling = driver.clone();
    let (started, has_started) = oneshot::channel();
    let poll = tokio::spawn(async move {
        let poll = Poll {
            wait: Seconds::new(60),
            last_event_id: None,
            peer: bellwire_core::Peer::default(),
            token: None,
        };
        let waiting = polling.poll("kiosk".parse().unwrap(), poll);
        tokio::pin!(waiting);
        // Polled once, it has called the core; then it waits.
        let first = std::future::poll_fn(|context| {
            std::task::Poll::Ready(waiting.as_mut().poll(context).is_ready())
        });
        started.send(first.await).unwrap();
        waiting.await
    });
    assert!(!has_started.await.unwrap(), "there was nothing to report");
    // The device exists once the poll was let in.
    soon("the device", async {
        while driver.device("kiosk".parse().unwrap()).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    poll.abort();
    assert!(poll.await.unwrap_err().is_cancelled());

    let sent = driver.send(ping("kiosk", 0)).await.unwrap();
    let stored =
        driver.store().deliveries(sent.command, None, crate::support::first_page(), Visible::all());
    let delivery = stored.await.unwrap().unwrap().items.remove(0);
    assert_eq!(
        (delivery.state, delivery.attempt),
        (DeliveryState::Queued, 0),
        "it was sent to no listener"
    );
    hub.close().await;
}

#[tokio::test]
async fn a_stream_that_is_never_attached_is_closed_and_its_device_offline() {
    let (hub, _folder) = hub().await;
    let driver = hub.driver();
    let mut events = Stream::observe(driver);
    events.expect("hub").await;
    let kiosk: bellwire_proto::DeviceId = "kiosk".parse().unwrap();
    let reserved = driver.listen(kiosk.clone(), Listen::default(), StreamOptions::default());
    let reserved = soon("a stream", reserved).await.unwrap();
    assert!(driver.presences([&kiosk]).unwrap()[0].online());

    drop(reserved);
    for change in ["created", "online", "offline"] {
        assert_eq!(events.expect("device").await["change"], change);
    }
    assert!(!driver.presences([&kiosk]).unwrap()[0].online());
    hub.close().await;
}

#[tokio::test]
async fn a_session_of_another_start_of_the_hub_cannot_be_confirmed() {
    let (hub, _folder) = hub().await;
    let driver = hub.driver();
    let kiosk: bellwire_proto::DeviceId = "kiosk".parse().unwrap();
    let listen = Listen { confirm: true, ..Listen::default() };
    let reserved = driver.listen(kiosk.clone(), listen, StreamOptions::default()).await.unwrap();
    let session = reserved.session();
    let (epoch, number) = session.split_once('-').unwrap();
    let other = u32::from_str_radix(epoch, 16).unwrap() ^ 1;
    for wrong in [format!("{other:08x}-{number}"), driver.no_session(), "x".into(), "".into()] {
        let refused = driver.confirm(kiosk.clone(), &wrong).await.unwrap_err();
        assert_eq!(refused.code, Code::Gone, "{wrong:?}");
    }
    driver.confirm(kiosk, &session).await.unwrap();
    hub.close().await;
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let (hub, folder) = hub().await;
    let sent = hub.driver().send(ping("kiosk", 0)).await.unwrap();
    hub.close().await;

    let hub = bellwire_hub::app::Hub::open(crate::support::config(&folder)).await.unwrap();
    let mut kiosk = Stream::listen(hub.driver(), "kiosk").await;
    let command = kiosk.expect("command").await;
    assert_eq!(command["id"], sent.command.to_string());
    let ended = report(hub.driver(), &sent, ReportState::Succeeded).await;
    assert_eq!(ended.state, DeliveryState::Succeeded);
    let next = hub.driver().send(ping("kiosk", 0)).await.unwrap();
    assert!(next.seq > sent.seq, "{:?} after {:?}", next.seq, sent.seq);
    hub.close().await;
}
