//! Section 4: the planned end of a stream, `bye` `rotate`.

use std::time::Duration;

use bellwire_core::{Config, Listen};
use bellwire_proto::ReportState as R;
use bellwire_proto::{DeliveryState, Seq, Transport};

use crate::harness::{Harness, device};

const NOTHING: [&str; 0] = [];
const STREAM_MAX_S: f64 = 1800.0;

fn rotating() -> Harness {
    let stream_max = Some(Duration::from_secs_f64(STREAM_MAX_S));
    Harness::with(Config { stream_max, max_in_flight: 2, ..Config::default() })
}

#[test]
fn without_stream_max_no_stream_has_a_planned_end_or_a_timer() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    assert_eq!(harness.hub.footprint().timers, 0);
    harness.pass(30.0 * 86_400.0);
    assert_eq!(harness.received(stream), NOTHING);
}

#[test]
fn each_stream_ends_with_rotate_after_stream_max_give_or_take_a_fifth() {
    let mut harness = rotating();
    let streams: Vec<_> = (0..200).map(|n| harness.listen(&format!("kiosk-{n}"))).collect();
    let count_ended = |harness: &mut Harness| {
        let ended = streams.iter().filter(|stream| !harness.received(**stream).is_empty());
        ended.count()
    };
    harness.pass(STREAM_MAX_S * 0.8 - 0.001);
    assert_eq!(count_ended(&mut harness), 0);
    let mut by_quarter = Vec::new();
    for _ in 0..4 {
        harness.pass(STREAM_MAX_S * 0.1);
        by_quarter.push(count_ended(&mut harness));
    }
    harness.pass(0.001);
    by_quarter.push(count_ended(&mut harness));
    assert_eq!(by_quarter.iter().sum::<usize>(), 200, "{by_quarter:?}");
    assert!(by_quarter.iter().take(4).all(|ended| (25..=75).contains(ended)), "{by_quarter:?}");
    assert_eq!(harness.byes.len(), 200);
    for bye in &harness.byes {
        assert_eq!(serde_json::to_value(bye.reason).unwrap(), "rotate");
        assert!((0.5..=5.0).contains(&bye.reconnect_s), "{bye:?}");
    }
    assert_eq!((harness.hub.footprint().sessions, harness.hub.footprint().timers), (0, 0));
}

#[test]
fn a_rotated_stream_makes_the_device_offline_and_the_next_one_gets_a_planned_end_of_its_own() {
    let mut harness = rotating();
    let first = harness.listen("kiosk");
    harness.pass(STREAM_MAX_S * 1.2);
    assert_eq!(harness.received(first), ["bye rotate"]);
    assert!(!harness.online("kiosk"));
    let next = harness.listen("kiosk");
    assert!(harness.online("kiosk"));
    harness.pass(STREAM_MAX_S * 0.8 - 0.001);
    assert_eq!(harness.received(next), NOTHING);
    harness.pass(STREAM_MAX_S * 0.4 + 0.001);
    assert_eq!(harness.received(next), ["bye rotate"]);
}

/// The stream ends between the sending and the report: nothing is lost, and nothing counts as a failure.
#[test]
fn what_was_sent_and_not_accepted_comes_again_on_the_next_stream_uncounted() {
    let stream_max = Some(Duration::from_secs(60));
    let lease = Duration::from_secs(600);
    let config = Config { stream_max, lease, max_in_flight: 2, ..Config::default() };
    let mut harness = Harness::with(config);
    let stream = harness.listen("kiosk");
    let [accepted, sent] = [(); 2].map(|()| harness.send("kiosk"));
    harness.report("kiosk", accepted, R::Accepted);
    harness.pass(72.0);
    assert_eq!(harness.received(stream), ["command 1 #1", "command 2 #1", "bye rotate"]);
    assert_eq!((harness.state(sent), harness.row(sent).counted), (DeliveryState::Queued, 0));
    let next = harness.listen("kiosk");
    assert_eq!(harness.received(next), ["command 2 #2"]);
    assert_eq!(
        harness.state(accepted),
        DeliveryState::Accepted,
        "it runs on, and is not sent again"
    );
}

#[test]
fn an_unconfirmed_stream_has_no_planned_end_and_its_age_counts_from_its_beginning() {
    // Shorter than the time for a confirmation: the confirmation comes first.
    let stream_max = Some(Duration::from_secs(10));
    let mut harness = Harness::with(Config { stream_max, ..Config::default() });
    let never = harness.listen_unconfirmed("till");
    let stream = harness.listen_unconfirmed("kiosk");
    harness.pass(9.0);
    assert_eq!(harness.received(stream), NOTHING);
    harness.confirm("kiosk", stream).unwrap();
    harness.pass(3.0);
    assert_eq!(harness.received(stream), ["bye rotate"]);
    assert_eq!(harness.received(never), ["bye unconfirmed"]);
}

#[test]
fn a_poll_and_an_ack_none_stream_lose_nothing_by_a_rotation() {
    let mut harness = rotating();
    let stream = harness.listen("kiosk");
    let printer = harness.listen_ack_none("printer", None);
    let command = harness.send("printer");
    assert_eq!(harness.received(printer), ["command 1 #1"]);
    assert_eq!(harness.state(command), DeliveryState::Delivered);
    harness.pass(STREAM_MAX_S * 1.2);
    assert_eq!([stream, printer].map(|s| harness.received(s)), [["bye rotate"], ["bye rotate"]]);
    assert!(!harness.online("kiosk"));
    let poll = harness.poll("kiosk");
    harness.send("kiosk");
    assert_eq!(harness.polled(poll), ["command 2 #1"]);
    let later = harness.send("printer");
    let listen = Listen { ack_none: true, last_event_id: Some(Seq::new(1)), ..Listen::default() };
    let next = harness.listen_with("printer", listen);
    assert_eq!(harness.received(next), ["command 3 #1"]);
    assert_eq!(harness.state(later), DeliveryState::Delivered);
}

#[test]
fn beside_a_poll_the_device_stays_online_over_a_rotation() {
    let mut harness = rotating();
    let stream = harness.listen("kiosk");
    harness.pass(STREAM_MAX_S * 0.79);
    let mut poll = harness.poll("kiosk");
    let until_latest_end_s = STREAM_MAX_S * 0.43;
    for _ in 0..(until_latest_end_s / 25.0) as usize {
        harness.pass(25.0);
        assert!(harness.online("kiosk"));
        poll = harness.poll("kiosk");
    }
    assert_eq!(harness.received(stream), ["bye rotate"]);
    let presence = harness.hub.presence(&device("kiosk"), harness.now);
    assert_eq!(presence.transport, Some(Transport::Poll));
    harness.send("kiosk");
    assert_eq!(harness.polled(poll), ["command 1 #1"]);
}
