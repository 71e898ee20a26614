//! Watchers of a command and observers of the hub: the snapshot, each change once and in order, the end.

use bellwire_hub::driver::Driver;
use bellwire_hub::plane::StreamOptions;
use bellwire_hub::store::Visible;
use bellwire_proto::{Code, CommandId, Labels, ReportState};

use crate::support::{Stream, hub, ping, report, soon};

#[tokio::test]
async fn a_watcher_gets_the_snapshot_then_each_change_then_done_then_the_end() {
    let (hub, _folder) = hub().await;
    let driver = hub.driver();
    let sent = driver.send(ping("kiosk", 0)).await.unwrap();
    let mut events = Stream::watch(driver, sent.command).await;
    assert_eq!(events.expect("delivery").await["state"], "queued");

    let mut kiosk = Stream::listen(driver, "kiosk").await;
    kiosk.expect("command").await;
    assert_eq!(events.expect("delivery").await["state"], "sent");
    report(driver, &sent, ReportState::Accepted).await;
    assert_eq!(events.expect("delivery").await["state"], "accepted");
    report(driver, &sent, ReportState::Failed).await;
    assert_eq!(events.expect("delivery").await["state"], "failed");

    let done = events.expect("done").await;
    assert_eq!((&done["done"], &done["counts"]["failed"]), (&true.into(), &1.into()));
    assert!(events.next().await.is_none(), "the end");
    hub.close().await;
}

#[tokio::test]
async fn watching_a_command_that_has_ended_gives_its_deliveries_and_done() {
    let (hub, _folder) = hub().await;
    let driver = hub.driver();
    let sent = driver.send(ping("kiosk", 0)).await.unwrap();
    report(driver, &sent, ReportState::Succeeded).await;
    let mut events = Stream::watch(driver, sent.command).await;
    assert_eq!(events.expect("delivery").await["state"], "succeeded");
    events.expect("done").await;
    assert!(events.next().await.is_none());
    hub.close().await;
}

#[tokio::test]
async fn a_command_that_is_not_known_has_no_events() {
    let (hub, _folder) = hub().await;
    let nobody = CommandId::from_parts(1, [7; 10]);
    let refused = hub.driver().watch(nobody, StreamOptions::default(), Visible::all(), None);
    let refused = soon("an answer", refused).await.unwrap_err();
    assert_eq!(refused.code, Code::UnknownCommand);
    hub.close().await;
}

#[tokio::test]
async fn no_change_between_the_snapshot_and_the_stream_is_lost_or_sent_twice() {
    let (hub, _folder) = hub().await;
    let driver = hub.driver();
    for round in 0..40 {
        let sent = driver.send(ping("kiosk", 0)).await.unwrap();
        let (mut events, _) = tokio::join!(Stream::watch(driver, sent.command), async {
            report(driver, &sent, ReportState::Accepted).await;
            report(driver, &sent, ReportState::Running).await;
            report(driver, &sent, ReportState::Succeeded).await;
        });
        let order = ["queued", "accepted", "running", "succeeded"];
        let mut states = Vec::new();
        while let Some(event) = events.next().await {
            if event.name == "delivery" {
                states.push(event.data["state"].as_str().unwrap().to_owned());
            }
        }
        // It begins somewhere, and from there on misses and repeats nothing.
        let from = order.iter().position(|state| *state == states[0]).unwrap();
        assert_eq!(states, &order[from..], "round {round}");
    }
    hub.close().await;
}

#[tokio::test]
async fn a_change_on_its_way_to_the_disk_is_sent_to_a_new_watcher() {
    // What was decided just before the watcher connected was not reported to it, and the snapshot was read
    // before it was on disk: `bellwire watch` showed `sent` for ever of a command that had succeeded.
    let (hub, _folder) = hub().await;
    let driver = hub.driver();
    for round in 0..40 {
        let sent = driver.send(ping("kiosk", 0)).await.unwrap();
        // Most often the report is with the core, and not yet on disk, when the watcher connects.
        let ((), mut events) = tokio::join!(
            async { drop(report(driver, &sent, ReportState::Succeeded).await) },
            Stream::watch(driver, sent.command)
        );
        let mut states = Vec::new();
        while let Some(event) = events.next().await {
            states.push(event.data["state"].as_str().unwrap_or("done").to_owned());
        }
        assert!(
            states.ends_with(&["succeeded".into(), "done".into()]),
            "round {round}: {states:?}"
        );
    }
    hub.close().await;
}

#[tokio::test]
async fn an_observer_sees_the_hub_devices_with_their_rows_and_deliveries_in_order() {
    let (hub, _folder) = hub().await;
    let driver = hub.driver();
    let mut events = Stream::observe(driver);
    assert_eq!(events.expect("hub").await["state"], "ready");

    let kiosk: bellwire_proto::DeviceId = "kiosk".parse().unwrap();
    let labels = Labels::from([("site".into(), "lyon".into())]);
    assert!(driver.put_device(kiosk.clone(), labels).await.unwrap(), "it is new");
    let created = events.expect("device").await;
    assert_eq!((&created["change"], &created["online"]), (&"created".into(), &false.into()));

    let stream = Stream::listen(driver, "kiosk").await;
    let online = events.expect("device").await;
    assert_eq!((&online["change"], &online["online"]), (&"online".into(), &true.into()));
    assert_eq!(online["labels"]["site"], "lyon");

    let sent = driver.send(ping("kiosk", 0)).await.unwrap();
    let queued = events.expect("delivery").await;
    assert_eq!(queued["command"], sent.command.to_string());
    drop(stream);
    loop {
        let event = events.next().await.unwrap();
        if event.name == "device" {
            assert_eq!(event.data["change"], "offline");
            break;
        }
    }

    driver.delete_device(kiosk).await.unwrap();
    loop {
        let event = events.next().await.unwrap();
        if event.name == "device" {
            assert_eq!(event.data["change"], "removed");
            assert_eq!(event.data["labels"]["site"], "lyon", "reported as it was");
            break;
        }
        assert_eq!(event.data["command"], sent.command.to_string());
    }
    hub.close().await;
}

#[tokio::test]
async fn a_hub_that_drains_notifies_observers_and_ends_every_stream() {
    let (hub, _folder) = hub().await;
    let driver = hub.driver().clone();
    let sent = driver.send(ping("kiosk", 0)).await.unwrap();
    let mut command = Stream::watch(&driver, sent.command).await;
    command.expect("delivery").await;
    let mut events = Stream::observe(&driver);
    events.expect("hub").await;

    hub.drain();
    assert_eq!(events.expect("hub").await["state"], "draining");
    assert!(events.next().await.is_none());
    let bye = command.expect("bye").await;
    assert_eq!(bye["reason"], "draining");
    assert!((1.0..=10.0).contains(&bye["reconnect_s"].as_f64().unwrap()), "{bye}");
    assert!(command.next().await.is_none());
    let refused = driver.observe(StreamOptions::default(), Visible::all(), None).unwrap_err();
    assert_eq!(refused.code, Code::Draining);
    let refused = driver
        .watch(sent.command, StreamOptions::default(), Visible::all(), None)
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::Draining);
    hub.close().await;
}

async fn ping_new_devices(driver: &Driver, count: usize) -> bellwire_proto::Command {
    let devices = (0..count).map(|n| format!("d{n}").parse().unwrap()).collect();
    let ping = bellwire_core::Send::to(
        bellwire_core::Target::of(devices).unwrap(),
        "ping".parse().unwrap(),
        bellwire_proto::Json::null(),
    );
    driver.send_to_many(ping, Visible::all()).await.unwrap()
}

#[tokio::test]
async fn one_command_to_many_new_devices_is_observed_whole() {
    // All their events are within what a stream may have unsent, 1 MiB: however slowly this reads, it is not cut off.
    const DEVICES: usize = 1000;
    let (hub, _folder) = hub().await;
    let driver = hub.driver();
    let mut events = Stream::observe(driver);
    events.expect("hub").await;

    let command = ping_new_devices(driver, DEVICES).await;
    let (mut created, mut queued) = (0, 0);
    while created < DEVICES || queued < DEVICES {
        let event = events.next().await.expect("no end before the last event");
        match event.name.as_str() {
            "device" => {
                assert_eq!(event.data["change"], "created");
                created += 1;
            }
            "delivery" => {
                assert_eq!(event.data["command"], command.id.to_string());
                queued += 1;
            }
            _ => panic!("{event:?}"),
        }
    }
    assert_eq!((created, queued), (DEVICES, DEVICES));
    hub.close().await;
}

#[tokio::test]
async fn one_command_to_very_many_new_devices_ends_no_watcher_of_another() {
    // (100,000 once cut off every watcher.)
    let (hub, _folder) = hub().await;
    let driver = hub.driver();
    let lone = driver.send(ping("lone", 0)).await.unwrap();
    let mut watcher = Stream::watch(driver, lone.command).await;
    watcher.expect("delivery").await;

    ping_new_devices(driver, 20_000).await;
    report(driver, &lone, ReportState::Succeeded).await;
    assert_eq!(watcher.expect("delivery").await["state"], "succeeded");
    watcher.expect("done").await;
    hub.close().await;
}
