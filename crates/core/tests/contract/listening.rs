//! Section 4: streams, how one takes the place of another, confirmation, presence, the end.

use bellwire_core::{Config, HubEvent, Listen};
use bellwire_proto::ReportState as R;
use bellwire_proto::{Code, DeliveryState, DeviceChange, Seconds, Seq, Transport};

use crate::stage::{Stage, device};

const NOTHING: [&str; 0] = [];

#[test]
fn on_connect_the_hub_sends_what_is_queued_or_sent_and_unaccepted_oldest_first() {
    let mut stage = Stage::with(Config { max_in_flight: 3, ..Config::default() });
    let [_, accepted, _, _] = [(); 4].map(|()| stage.send("kiosk"));
    let stream = stage.listen("kiosk");
    assert_eq!(stage.hears(stream), ["command 1 #1", "command 2 #1", "command 3 #1"]);
    stage.report("kiosk", accepted, R::Accepted);
    let newer = stage.listen("kiosk");
    assert_eq!(stage.hears(newer), ["command 1 #2", "command 3 #2"]);
}

#[test]
fn last_event_id_never_makes_it_skip_something_unaccepted() {
    let mut stage = Stage::new();
    stage.send("kiosk");
    let listen = Listen { last_event_id: Some(Seq::new(1000)), ..Listen::default() };
    let stream = stage.listen_with("kiosk", listen);
    assert_eq!(stage.hears(stream), ["command 1 #1"]);
}

#[test]
fn on_connect_cancel_is_repeated_for_what_is_cancelling() {
    let mut stage = Stage::new();
    stage.listen("kiosk");
    let command = stage.send("kiosk");
    stage.cancel(command, false).unwrap();
    for _ in 0..2 {
        let stream = stage.listen("kiosk");
        assert_eq!(stage.hears(stream), ["cancel 1"]);
    }
}

#[test]
fn ttl_s_is_the_time_left_rounded_up() {
    let mut stage = Stage::new();
    stage.try_send("kiosk", |send| send.ttl = Some(Seconds::new(10))).unwrap();
    stage.pass(2.3);
    stage.listen("kiosk");
    assert_eq!(stage.frames[0].ttl_s, 8);
}

#[test]
fn a_new_stream_replaces_the_old_one() {
    let mut stage = Stage::new();
    let older = stage.listen("kiosk");
    let newer = stage.listen("kiosk");
    assert_eq!(stage.hears(older), ["bye replaced"]);
    stage.send("kiosk");
    assert_eq!((stage.hears(older), stage.hears(newer)), (vec![], vec!["command 1 #1".into()]));
}

#[test]
fn a_late_word_that_the_replaced_stream_has_ended_ends_nothing() {
    let mut stage = Stage::new();
    let older = stage.listen("kiosk");
    let newer = stage.listen("kiosk");
    stage.close(older);
    assert!(stage.online("kiosk"));
    stage.send("kiosk");
    assert_eq!(stage.hears(newer), ["command 1 #1"]);
}

#[test]
fn the_end_of_a_stream_makes_the_device_offline_at_once() {
    let mut stage = Stage::new();
    let stream = stage.listen("kiosk");
    assert!(stage.online("kiosk"));
    stage.close(stream);
    assert!(!stage.online("kiosk"));
    let changes = stage.events.iter().filter_map(|event| match event {
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
    let mut stage = Stage::new();
    let stream = stage.listen("kiosk");
    stage.hub.handle_stalled(stream, stage.now);
    assert!(!stage.online("kiosk"));
    stage.hub.handle_resumed(stream, stage.now);
    assert!(stage.online("kiosk"));
}

#[test]
fn presence_tells_how_and_since_when() {
    let mut stage = Stage::new();
    let begun = stage.now;
    stage.poll("kiosk");
    stage.pass(10.0);
    let presence = stage.hub.presence(&device("kiosk"), stage.now);
    assert_eq!((presence.transport, presence.connected_at), (Some(Transport::Poll), Some(begun)));
    stage.listen("kiosk");
    let presence = stage.hub.presence(&device("kiosk"), stage.now);
    assert_eq!(presence.transport, Some(Transport::Stream));
}

// --- confirm=1 ---

#[test]
fn an_unconfirmed_stream_ends_after_10_s() {
    let mut stage = Stage::new();
    let stream = stage.listen_unconfirmed("kiosk");
    stage.pass(9.999);
    assert_eq!(stage.hears(stream), NOTHING);
    stage.pass(0.001);
    assert_eq!(stage.hears(stream), ["bye unconfirmed"]);
    assert_eq!(stage.confirm("kiosk", stream).unwrap_err().code, Code::Gone);
}

#[test]
fn a_confirmed_stream_stays_and_may_be_confirmed_again() {
    let mut stage = Stage::new();
    let stream = stage.listen_unconfirmed("kiosk");
    stage.confirm("kiosk", stream).unwrap();
    stage.pass(1000.0);
    assert_eq!(stage.hears(stream), NOTHING);
    stage.confirm("kiosk", stream).unwrap();
}

#[test]
fn a_stream_of_another_device_cannot_be_confirmed() {
    let mut stage = Stage::new();
    let stream = stage.listen_unconfirmed("kiosk");
    stage.listen("till");
    assert_eq!(stage.confirm("till", stream).unwrap_err().code, Code::Gone);
    assert_eq!(stage.confirm("nobody", stream).unwrap_err().code, Code::Gone);
}

#[test]
fn with_confirm_the_older_stream_is_replaced_only_once_it_is_confirmed() {
    let mut stage = Stage::new();
    let older = stage.listen("kiosk");
    let newer = stage.listen_unconfirmed("kiosk");
    stage.send("kiosk");
    assert_eq!(stage.hears(older), ["command 1 #1"], "both hear, with the same attempt");
    assert_eq!(stage.hears(newer), ["command 1 #1"]);
    stage.confirm("kiosk", newer).unwrap();
    assert_eq!((stage.hears(older), stage.hears(newer)), (vec!["bye replaced".into()], vec![]));
}

#[test]
fn a_stream_that_is_never_confirmed_leaves_the_older_alone() {
    let mut stage = Stage::new();
    let older = stage.listen("kiosk");
    let newer = stage.listen_unconfirmed("kiosk");
    let command = stage.send("kiosk");
    stage.pass(10.0);
    assert_eq!(stage.hears(newer), ["command 1 #1", "bye unconfirmed"]);
    assert_eq!(stage.hears(older), ["command 1 #1"], "it carried the command too");
    assert_eq!(stage.state(command), DeliveryState::Sent);
}

#[test]
fn what_only_an_unconfirmed_stream_carried_is_queued_again_uncounted_when_it_ends() {
    for by_itself in [true, false] {
        let mut stage = Stage::new();
        let command = stage.send("kiosk");
        let stream = stage.listen_unconfirmed("kiosk");
        assert_eq!(stage.hears(stream), ["command 1 #1"]);
        if by_itself {
            stage.close(stream)
        } else {
            stage.pass(10.0)
        }
        assert_eq!((stage.state(command), stage.row(command).counted), (DeliveryState::Queued, 0));
    }
}

#[test]
fn a_second_unconfirmed_stream_replaces_the_first() {
    let mut stage = Stage::new();
    let plain = stage.listen("kiosk");
    let first = stage.listen_unconfirmed("kiosk");
    let second = stage.listen_unconfirmed("kiosk");
    assert_eq!(stage.hears(first), ["bye replaced"]);
    assert_eq!((stage.hears(plain), stage.hears(second)), (vec![], vec![]));
}

#[test]
fn a_plain_stream_replaces_both() {
    let mut stage = Stage::new();
    let plain = stage.listen("kiosk");
    let unconfirmed = stage.listen_unconfirmed("kiosk");
    let newest = stage.listen("kiosk");
    assert_eq!([plain, unconfirmed].map(|s| stage.hears(s)), [["bye replaced"], ["bye replaced"]]);
    stage.pass(100.0);
    assert_eq!(stage.hears(newest), NOTHING);
}

#[test]
fn an_unconfirmed_stream_does_not_make_the_device_online() {
    let mut stage = Stage::new();
    let stream = stage.listen_unconfirmed("kiosk");
    assert!(!stage.online("kiosk"));
    stage.confirm("kiosk", stream).unwrap();
    assert!(stage.online("kiosk"));
}

// --- The end ---

#[test]
fn a_draining_hub_says_bye_to_all_with_spread_out_times_and_takes_nobody_in() {
    let mut stage = Stage::new();
    let streams: Vec<_> = (0..50).map(|n| stage.listen(&format!("kiosk-{n}"))).collect();
    let poll = stage.poll("till");
    stage.drain();
    for stream in streams {
        assert_eq!(stage.hears(stream), ["bye draining"]);
    }
    assert_eq!(stage.polled(poll), NOTHING);
    let mut times: Vec<f64> = stage.byes.iter().map(|bye| bye.reconnect_s).collect();
    times.sort_by(f64::total_cmp);
    times.dedup();
    assert!(times[0] >= 1.0 && times[times.len() - 1] <= 10.0 && times.len() > 20, "{times:?}");
    let (request, _) = stage.ask_to_listen("kiosk-1", Listen::default());
    assert_eq!(stage.delivery(request).unwrap_err().code, Code::Draining);
    let request = stage.poll("till");
    assert_eq!(stage.delivery(request).unwrap_err().code, Code::Draining);
}

#[test]
fn any_other_bye_asks_for_half_a_second_to_five() {
    let mut stage = Stage::new();
    for _ in 0..50 {
        stage.listen("kiosk");
    }
    assert_eq!(stage.byes.len(), 49);
    assert!(stage.byes.iter().all(|bye| (0.5..=5.0).contains(&bye.reconnect_s)));
}

#[test]
fn a_removed_device_hears_bye_revoked_and_its_live_deliveries_are_cancelled() {
    let mut stage = Stage::new();
    let [ended, running, queued] = [(); 3].map(|()| stage.send("kiosk"));
    stage.report("kiosk", ended, R::Succeeded);
    stage.report("kiosk", running, R::Running);
    let streams = [stage.listen("kiosk"), stage.listen_unconfirmed("kiosk")];
    stage.delete("kiosk");
    assert_eq!(streams.map(|s| stage.hears(s)), [["bye revoked"], ["bye revoked"]]);
    let states = [ended, running, queued].map(|command| stage.state(command));
    assert_eq!(
        states,
        [DeliveryState::Succeeded, DeliveryState::Cancelled, DeliveryState::Cancelled]
    );
    for command in [ended, running, queued] {
        let problem = stage.try_report("kiosk", command, R::Succeeded).unwrap_err();
        assert_eq!(problem.code, Code::UnknownCommand, "later reports are 404");
    }
    assert!(stage.store.disk.devices.is_empty());
}

#[test]
fn on_a_closed_hub_an_unknown_device_may_not_listen() {
    let mut stage = Stage::with(Config { create_on_sight: false, ..Config::default() });
    let (request, _) = stage.ask_to_listen("kiosk", Listen::default());
    assert_eq!(stage.delivery(request).unwrap_err().code, Code::UnknownDevice);
    let request = stage.poll("kiosk");
    assert_eq!(stage.delivery(request).unwrap_err().code, Code::UnknownDevice);
    stage.put("kiosk");
    stage.listen("kiosk");
}

#[test]
fn an_unknown_device_is_created_when_it_first_listens() {
    let mut stage = Stage::new();
    stage.listen_unconfirmed("kiosk");
    stage.poll("till");
    assert_eq!(stage.store.disk.devices.len(), 2);
}
