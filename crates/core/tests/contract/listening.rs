//! Section 4: streams, how one replaces another, confirmation, presence, the end.

use bellwire_core::{Config, HubEvent, Listen};
use bellwire_proto::ReportState as R;
use bellwire_proto::{Code, DeliveryState, DeviceChange, Seconds, Seq, Transport};

use crate::harness::{Harness, device};

const NOTHING: [&str; 0] = [];

#[test]
fn on_connect_the_hub_sends_what_is_queued_or_sent_and_unaccepted_oldest_first() {
    let mut harness = Harness::with(Config { max_in_flight: 3, ..Config::default() });
    let [_, accepted, _, _] = [(); 4].map(|()| harness.send("kiosk"));
    let stream = harness.listen("kiosk");
    assert_eq!(harness.received(stream), ["command 1 #1", "command 2 #1", "command 3 #1"]);
    harness.report("kiosk", accepted, R::Accepted);
    let newer = harness.listen("kiosk");
    assert_eq!(harness.received(newer), ["command 1 #2", "command 3 #2"]);
}

#[test]
fn last_event_id_never_makes_it_skip_something_unaccepted() {
    let mut harness = Harness::new();
    harness.send("kiosk");
    let listen = Listen { last_event_id: Some(Seq::new(1000)), ..Listen::default() };
    let stream = harness.listen_with("kiosk", listen);
    assert_eq!(harness.received(stream), ["command 1 #1"]);
}

#[test]
fn on_connect_cancel_is_repeated_for_what_is_cancelling() {
    let mut harness = Harness::new();
    harness.listen("kiosk");
    let command = harness.send("kiosk");
    harness.cancel(command, false).unwrap();
    for _ in 0..2 {
        let stream = harness.listen("kiosk");
        assert_eq!(harness.received(stream), ["cancel 1"]);
    }
}

#[test]
fn ttl_s_is_the_time_left_rounded_up() {
    let mut harness = Harness::new();
    harness.try_send("kiosk", |send| send.ttl = Some(Seconds::new(10))).unwrap();
    harness.pass(2.3);
    harness.listen("kiosk");
    assert_eq!(harness.frames[0].ttl_s, 8);
}

#[test]
fn a_new_stream_replaces_the_old_one() {
    let mut harness = Harness::new();
    let older = harness.listen("kiosk");
    let newer = harness.listen("kiosk");
    assert_eq!(harness.received(older), ["bye replaced"]);
    harness.send("kiosk");
    assert_eq!(
        (harness.received(older), harness.received(newer)),
        (vec![], vec!["command 1 #1".into()])
    );
}

#[test]
fn a_late_report_that_the_replaced_stream_has_ended_ends_nothing() {
    let mut harness = Harness::new();
    let older = harness.listen("kiosk");
    let newer = harness.listen("kiosk");
    harness.close(older);
    assert!(harness.online("kiosk"));
    harness.send("kiosk");
    assert_eq!(harness.received(newer), ["command 1 #1"]);
}

#[test]
fn the_end_of_a_stream_makes_the_device_offline_at_once() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    assert!(harness.online("kiosk"));
    harness.close(stream);
    assert!(!harness.online("kiosk"));
    let changes = harness.events.iter().filter_map(|event| match event {
        HubEvent::Device { change, .. } => Some(*change),
        HubEvent::Delivery { .. } => None,
    });
    assert_eq!(
        changes.collect::<Vec<_>>(),
        [DeviceChange::Created, DeviceChange::Online, DeviceChange::Offline]
    );
}

#[test]
fn a_stalled_stream_is_offline_until_there_is_life_again() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    harness.hub.handle_stalled(stream, harness.now);
    assert!(!harness.online("kiosk"));
    harness.hub.handle_resumed(stream, harness.now);
    assert!(harness.online("kiosk"));
}

#[test]
fn presence_shows_how_and_since_when() {
    let mut harness = Harness::new();
    let begun = harness.now.wall;
    harness.poll("kiosk");
    harness.pass(10.0);
    let presence = harness.hub.presence(&device("kiosk"), harness.now);
    assert_eq!((presence.transport, presence.connected_at), (Some(Transport::Poll), Some(begun)));
    harness.listen("kiosk");
    let presence = harness.hub.presence(&device("kiosk"), harness.now);
    assert_eq!(presence.transport, Some(Transport::Stream));
}

// --- confirm=1 ---

#[test]
fn an_unconfirmed_stream_ends_after_10_s() {
    let mut harness = Harness::new();
    let stream = harness.listen_unconfirmed("kiosk");
    harness.pass(9.999);
    assert_eq!(harness.received(stream), NOTHING);
    harness.pass(0.001);
    assert_eq!(harness.received(stream), ["bye unconfirmed"]);
    assert_eq!(harness.confirm("kiosk", stream).unwrap_err().code, Code::Gone);
}

#[test]
fn a_confirmed_stream_stays_and_may_be_confirmed_again() {
    let mut harness = Harness::new();
    let stream = harness.listen_unconfirmed("kiosk");
    harness.confirm("kiosk", stream).unwrap();
    harness.pass(1000.0);
    assert_eq!(harness.received(stream), NOTHING);
    harness.confirm("kiosk", stream).unwrap();
}

#[test]
fn a_stream_of_another_device_cannot_be_confirmed() {
    let mut harness = Harness::new();
    let stream = harness.listen_unconfirmed("kiosk");
    harness.listen("till");
    assert_eq!(harness.confirm("till", stream).unwrap_err().code, Code::Gone);
    assert_eq!(harness.confirm("nobody", stream).unwrap_err().code, Code::Gone);
}

#[test]
fn with_confirm_the_older_stream_is_replaced_only_once_it_is_confirmed() {
    let mut harness = Harness::new();
    let older = harness.listen("kiosk");
    let newer = harness.listen_unconfirmed("kiosk");
    harness.send("kiosk");
    assert_eq!(harness.received(older), ["command 1 #1"], "both receive it, with the same attempt");
    assert_eq!(harness.received(newer), ["command 1 #1"]);
    harness.confirm("kiosk", newer).unwrap();
    assert_eq!(
        (harness.received(older), harness.received(newer)),
        (vec!["bye replaced".into()], vec![])
    );
}

#[test]
fn a_stream_that_is_never_confirmed_leaves_the_older_alone() {
    let mut harness = Harness::new();
    let older = harness.listen("kiosk");
    let newer = harness.listen_unconfirmed("kiosk");
    let command = harness.send("kiosk");
    harness.pass(10.0);
    assert_eq!(harness.received(newer), ["command 1 #1", "bye unconfirmed"]);
    assert_eq!(harness.received(older), ["command 1 #1"], "it carried the command too");
    assert_eq!(harness.state(command), DeliveryState::Sent);
}

#[test]
fn what_only_an_unconfirmed_stream_carried_is_queued_again_uncounted_when_it_ends() {
    for by_itself in [true, false] {
        let mut harness = Harness::new();
        let command = harness.send("kiosk");
        let stream = harness.listen_unconfirmed("kiosk");
        assert_eq!(harness.received(stream), ["command 1 #1"]);
        if by_itself {
            harness.close(stream)
        } else {
            harness.pass(10.0)
        }
        assert_eq!(
            (harness.state(command), harness.row(command).counted),
            (DeliveryState::Queued, 0)
        );
    }
}

#[test]
fn a_second_unconfirmed_stream_replaces_the_first() {
    let mut harness = Harness::new();
    let plain = harness.listen("kiosk");
    let first = harness.listen_unconfirmed("kiosk");
    let second = harness.listen_unconfirmed("kiosk");
    assert_eq!(harness.received(first), ["bye replaced"]);
    assert_eq!((harness.received(plain), harness.received(second)), (vec![], vec![]));
}

#[test]
fn a_plain_stream_replaces_both() {
    let mut harness = Harness::new();
    let plain = harness.listen("kiosk");
    let unconfirmed = harness.listen_unconfirmed("kiosk");
    let newest = harness.listen("kiosk");
    assert_eq!(
        [plain, unconfirmed].map(|s| harness.received(s)),
        [["bye replaced"], ["bye replaced"]]
    );
    harness.pass(100.0);
    assert_eq!(harness.received(newest), NOTHING);
}

#[test]
fn an_unconfirmed_stream_does_not_make_the_device_online() {
    let mut harness = Harness::new();
    let stream = harness.listen_unconfirmed("kiosk");
    assert!(!harness.online("kiosk"));
    harness.confirm("kiosk", stream).unwrap();
    assert!(harness.online("kiosk"));
}

// --- The end ---

#[test]
fn a_draining_hub_sends_bye_to_all_with_spread_out_times_and_accepts_no_listener() {
    let mut harness = Harness::new();
    let streams: Vec<_> = (0..50).map(|n| harness.listen(&format!("kiosk-{n}"))).collect();
    let poll = harness.poll("till");
    harness.drain();
    for stream in streams {
        assert_eq!(harness.received(stream), ["bye draining"]);
    }
    assert_eq!(harness.polled(poll), NOTHING);
    let mut times: Vec<f64> = harness.byes.iter().map(|bye| bye.reconnect_s).collect();
    times.sort_by(f64::total_cmp);
    times.dedup();
    assert!(times[0] >= 1.0 && times[times.len() - 1] <= 10.0 && times.len() > 20, "{times:?}");
    let (request, _) = harness.ask_to_listen("kiosk-1", Listen::default());
    assert_eq!(harness.delivery(request).unwrap_err().code, Code::Draining);
    let request = harness.poll("till");
    assert_eq!(harness.delivery(request).unwrap_err().code, Code::Draining);
}

#[test]
fn any_other_bye_asks_for_half_a_second_to_five() {
    let mut harness = Harness::new();
    for _ in 0..50 {
        harness.listen("kiosk");
    }
    assert_eq!(harness.byes.len(), 49);
    assert!(harness.byes.iter().all(|bye| (0.5..=5.0).contains(&bye.reconnect_s)));
}

#[test]
fn a_removed_device_receives_bye_revoked_and_its_live_deliveries_are_cancelled() {
    let mut harness = Harness::new();
    let [ended, running, queued] = [(); 3].map(|()| harness.send("kiosk"));
    harness.report("kiosk", ended, R::Succeeded);
    harness.report("kiosk", running, R::Running);
    let streams = [harness.listen("kiosk"), harness.listen_unconfirmed("kiosk")];
    harness.delete("kiosk");
    assert_eq!(streams.map(|s| harness.received(s)), [["bye revoked"], ["bye revoked"]]);
    let states = [ended, running, queued].map(|command| harness.state(command));
    assert_eq!(
        states,
        [DeliveryState::Succeeded, DeliveryState::Cancelled, DeliveryState::Cancelled]
    );
    for command in [ended, running, queued] {
        let problem = harness.try_report("kiosk", command, R::Succeeded).unwrap_err();
        assert_eq!(problem.code, Code::UnknownCommand, "later reports are 404");
    }
    assert!(harness.store.disk.devices.is_empty());
}

#[test]
fn on_a_closed_hub_an_unknown_device_may_not_listen() {
    let mut harness = Harness::with(Config { create_on_sight: false, ..Config::default() });
    let (request, _) = harness.ask_to_listen("kiosk", Listen::default());
    assert_eq!(harness.delivery(request).unwrap_err().code, Code::UnknownDevice);
    let request = harness.poll("kiosk");
    assert_eq!(harness.delivery(request).unwrap_err().code, Code::UnknownDevice);
    harness.put("kiosk");
    harness.listen("kiosk");
}

#[test]
fn an_unknown_device_is_created_when_it_first_listens() {
    let mut harness = Harness::new();
    harness.listen_unconfirmed("kiosk");
    harness.poll("till");
    assert_eq!(harness.store.disk.devices.len(), 2);
}

// --- A poll beside a stream ---

#[test]
fn a_device_that_polls_beside_its_stream_is_shown_as_what_it_uses() {
    for confirms in [false, true] {
        let mut harness = Harness::new();
        let shown =
            |harness: &Harness| harness.hub.presence(&device("kiosk"), harness.now).transport;
        // It polls first, and proves the stream beside.
        harness.poll("kiosk");
        let stream = if confirms {
            let stream = harness.listen_unconfirmed("kiosk");
            assert_eq!(shown(&harness), Some(Transport::Poll));
            harness.confirm("kiosk", stream).unwrap();
            stream
        } else {
            harness.listen("kiosk")
        };
        assert_eq!(shown(&harness), Some(Transport::Stream), "the last poll only comes to its end");
        harness.pass(25.0);
        assert_eq!(shown(&harness), Some(Transport::Stream));
        // In doubt it polls again.
        harness.poll("kiosk");
        assert_eq!(shown(&harness), Some(Transport::Poll), "confirmed before: {confirms}");
        harness.pass(25.0 + 39.9);
        assert_eq!(shown(&harness), Some(Transport::Poll));
        harness.pass(0.1);
        assert_eq!(shown(&harness), Some(Transport::Stream), "it has stopped polling");
        // A confirmation says at once that the stream is good.
        harness.poll("kiosk");
        harness.confirm("kiosk", stream).unwrap();
        assert_eq!(shown(&harness), Some(Transport::Stream));
        // A stream that passes no bytes is not used at all.
        harness.poll("kiosk");
        harness.hub.handle_stalled(stream, harness.now);
        assert_eq!(shown(&harness), Some(Transport::Poll));
        harness.pass(100.0);
        assert_eq!(shown(&harness), None);
    }
}
