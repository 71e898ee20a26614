//! The rules of a path, one by one.

use bellwire_proto::stream::ByeReason;

use super::super::*;

fn outputs(path: &mut Path) -> Vec<Output> {
    std::iter::from_fn(|| path.poll_output()).filter(|output| *output != Output::Changed).collect()
}

fn times(now: u64) -> HelloTimes {
    HelloTimes { time_ms: 1_000_000 + now, up_ms: 0, heartbeat_s: 15, session: "s".to_owned() }
}

fn open() -> Output {
    Output::OpenStream { compat: false, heartbeat_s: None }
}

/// Nothing more arrives until the stream is good.
fn prove(path: &mut Path) {
    path.handle_timeout(path.poll_timeout().unwrap());
}

/// A path whose stream is confirmed at 2.3 s, with a poll under way.
fn streaming() -> Path {
    let mut path = Path::new(0, PathSettings::default(), 1);
    assert_eq!(outputs(&mut path), [Output::Poll { wait_s: 0, timeout_ms: 5000 }]);
    path.handle_poll_answer(20, 20, false);
    assert_eq!(outputs(&mut path), [Output::Poll { wait_s: 25, timeout_ms: 30_000 }, open()]);
    path.handle_stream_head(40, 20);
    path.handle_hello(40, times(30));
    path.handle_heartbeat(1030, 1_001_030);
    path.handle_heartbeat(2030, 1_002_030);
    prove(&mut path);
    let [Output::Confirm { session, .. }] = &outputs(&mut path)[..] else { panic!("{path:?}") };
    assert_eq!(session, "s");
    assert_eq!(path.status().carrier, Some(Carrier::Poll), "until it is confirmed");
    path.handle_confirmation(2320, true);
    path
}

fn id(n: u64) -> CommandId {
    format!("01930000-0000-7000-8000-{n:012x}").parse().unwrap()
}

/// Each command pushed the probe before it through, and waited for the next: the stream was good, and the last command of all
/// waited for the next heartbeat.
#[test]
fn a_stream_is_not_good_while_its_copies_of_polled_commands_are_late() {
    let mut path = Path::new(0, PathSettings::default(), 1);
    path.handle_poll_answer(20, 20, false);
    path.handle_stream_head(140, 20);
    path.handle_hello(140, times(30));
    for n in 1..=2 {
        let probe = 1000 * n + 30;
        path.handle_timeout(probe + 90);
        path.handle_heartbeat(probe + 100, 1_000_000 + probe);
        path.receive_polled(probe + 110, id(n), Seq::new(n), 1);
        path.handle_poll_answer(probe + 110, 20, true);
        if let Some(due) = path.poll_timeout().filter(|due| *due < probe + 1000) {
            path.handle_timeout(due);
        }
        outputs(&mut path);
    }
    let why = path.status().why.clone().unwrap_or_default();
    assert!(why.contains("delays"), "{path:?}");
    assert_eq!(path.status().carrier, Some(Carrier::Poll));
}

#[test]
fn a_stream_whose_copies_arrive_with_the_polls_is_good() {
    let mut path = Path::new(0, PathSettings::default(), 1);
    path.handle_poll_answer(20, 20, false);
    path.handle_hello(40, times(30));
    for n in 1..=2 {
        let probe = 1000 * n + 30;
        path.handle_heartbeat(probe, 1_000_000 + probe);
        path.receive_polled(probe + 10, id(n), Seq::new(n), 1);
        path.handle_poll_answer(probe + 10, 20, true);
        assert!(!path.receive_streamed(probe + 200, id(n), Seq::new(n), 1), "a copy");
        path.handle_stream_activity(probe + 200);
    }
    outputs(&mut path);
    path.handle_timeout(2300);
    assert!(matches!(outputs(&mut path)[..], [Output::Confirm { .. }]), "{path:?}");
}

/// A busy device took 900 ms for TLS: its stream was late for ever, since everything counts from the request.
#[test]
fn what_connecting_takes_is_no_lag() {
    let mut path = Path::new(0, PathSettings::default(), 1);
    path.handle_poll_answer(20, 20, false);
    path.handle_stream_head(940, 920);
    path.handle_hello(940, times(930));
    path.handle_heartbeat(1930, 1_001_930);
    path.handle_heartbeat(2930, 1_002_930);
    prove(&mut path);
    let is_confirmed = |output: &Output| matches!(output, Output::Confirm { .. });
    assert!(outputs(&mut path).iter().any(is_confirmed), "{path:?}");
}

/// As [`streaming`], and the poll has ended.
fn streaming_alone() -> Path {
    let mut path = streaming();
    path.handle_poll_answer(25_020, 20, false);
    assert!(matches!(outputs(&mut path)[..], [Output::Confirm { .. }]), "{path:?}");
    path
}

#[test]
fn a_good_stream_carries_and_the_poller_is_idle() {
    let path = streaming();
    assert_eq!((path.status().carrier, &path.status().why), (Some(Carrier::Stream), &None));
    let mut path = streaming_alone();
    assert_eq!((path.status().carrier, &path.status().why), (Some(Carrier::Stream), &None));
    assert_eq!(outputs(&mut path), []);
}

/// A poll crossed the confirmation: for the hub the device doubted its stream, and it showed `poll` for 40 s.
#[test]
fn a_stream_is_confirmed_again_once_the_poll_beside_it_has_ended() {
    let mut path = streaming_alone();
    // Suspect, with a poll beside it that says so to the hub; then bytes again.
    path.handle_timeout(25_041);
    assert!(matches!(outputs(&mut path)[..], [Output::Poll { .. }]), "{path:?}");
    path.handle_heartbeat(26_000, 1_026_000);
    assert_eq!(outputs(&mut path), [], "the poll is still under way");
    path.handle_poll_answer(27_000, 20, false);
    let confirmed = outputs(&mut path);
    assert!(matches!(confirmed[..], [Output::Confirm { .. }]), "{confirmed:?}");
    assert_eq!(path.status().carrier, Some(Carrier::Stream), "meanwhile too");
    path.handle_confirmation(27_020, true);
    assert_eq!(outputs(&mut path), [], "once");
}

#[test]
fn a_silent_stream_is_suspect_then_dead() {
    let mut path = streaming_alone();
    let at = path.poll_timeout().unwrap();
    assert_eq!(at, 2030 + 19_500);
    path.handle_timeout(25_021);
    assert_eq!(outputs(&mut path).len(), 1, "a poll beside it");
    assert_eq!(path.status().carrier, Some(Carrier::Poll));
    path.handle_heartbeat(26_000, 1_026_000);
    assert_eq!(path.status().carrier, Some(Carrier::Stream), "data again");
    path.handle_timeout(26_000 + 19_500);
    path.handle_timeout(26_000 + 37_500);
    let outputs = outputs(&mut path);
    assert!(outputs.contains(&Output::CloseStream), "{outputs:?}");
    assert!(path.status().why.as_ref().unwrap().contains("silent"), "{:?}", path.status());
}

/// Behind a proxy that had frozen, an agent was connected by a stream for ten seconds on which nothing could arrive.
#[test]
fn a_suspect_stream_is_not_the_way_again_before_something_has_arrived_on_it() {
    let failure = || PollFailure {
        kind: PollFailureKind::TimedOut,
        pause_ms: None,
        why: "no answer".to_owned(),
    };
    let mut path = streaming_alone();
    path.handle_timeout(25_021);
    assert_eq!(path.status().silent_since_ms, Some(2030), "nothing since the last heartbeat");
    path.handle_poll_failure(30_021, failure());
    assert_eq!(path.status().carrier, Some(Carrier::Poll), "{:?}", path.status());
    assert_eq!(path.status().why.as_deref(), Some("nothing received for 27 s"));
    outputs(&mut path);
    let mut other = streaming_alone();
    other.handle_timeout(25_021);
    other.handle_poll_failure(30_021, failure());
    other.handle_heartbeat(31_000, 1_031_000);
    assert_eq!(
        (other.status().carrier, other.status().silent_since_ms),
        (Some(Carrier::Stream), None)
    );
    path.handle_timeout(2030 + 37_500);
    assert!(outputs(&mut path).contains(&Output::CloseStream), "it is dead");
    assert_eq!(path.status().silent_since_ms, Some(2030), "{:?}", path.status());
    path.handle_timeout(path.poll_timeout().unwrap());
    path.handle_poll_answer(45_000, 20, false);
    assert_eq!((path.status().carrier, path.status().silent_since_ms), (Some(Carrier::Poll), None));
}

#[test]
fn an_orderly_cut_costs_nothing() {
    let mut path = streaming_alone();
    path.handle_heartbeat(60_000, 1_060_000);
    outputs(&mut path);
    path.handle_stream_end(62_000, StreamEnd::Ended);
    let poll = Output::Poll { wait_s: 25, timeout_ms: 30_000 };
    assert_eq!(outputs(&mut path), [poll, open()], "at once, both of them");
}

#[test]
fn a_planned_end_is_covered_by_a_poll_and_one_of_the_hub_is_not() {
    for (reason, covered) in
        [(ByeReason::Rotate, true), (ByeReason::Draining, false), (ByeReason::Replaced, false)]
    {
        let mut path = streaming_alone();
        path.handle_bye(26_000, Some(reason), Some(4200));
        let polls = outputs(&mut path).len();
        assert_eq!(polls, usize::from(covered), "{reason:?}");
        path.handle_stream_end(26_010, StreamEnd::Ended);
        let after = outputs(&mut path);
        if covered {
            assert_eq!(after, [], "the stream after the pause");
            assert_eq!(path.poll_timeout(), Some(30_210));
        } else {
            assert_eq!(after, [Output::Lost { retry_in_ms: 4200 }], "{reason:?}");
        }
    }
}

#[test]
fn a_caller_may_set_the_pause_after_a_bye() {
    let mut path = streaming_alone();
    path.handle_bye(26_000, Some(ByeReason::Replaced), Some(1000));
    path.set_next_delay(17_000);
    path.handle_stream_end(26_010, StreamEnd::Ended);
    assert_eq!(outputs(&mut path), [Output::Lost { retry_in_ms: 17_000 }]);
}

#[test]
fn a_refused_poll_pauses_both_ways() {
    let mut path = Path::new(0, PathSettings::default(), 1);
    outputs(&mut path);
    let failure = PollFailure {
        kind: PollFailureKind::Unreachable,
        pause_ms: Some(60_000),
        why: "401".to_owned(),
    };
    path.handle_poll_failure(10, failure);
    assert_eq!(outputs(&mut path), [Output::Lost { retry_in_ms: 60_000 }]);
    assert_eq!((path.poll_timeout(), path.status().carrier), (Some(60_010), None));
    path.handle_timeout(60_010);
    assert_eq!(outputs(&mut path).len(), 1, "one poll, and no stream before it is answered");
}

#[test]
fn a_buffered_stream_is_tried_with_comments_and_then_suspended_for_minutes() {
    let mut path = Path::new(0, PathSettings::default(), 1);
    outputs(&mut path);
    path.handle_poll_answer(20, 20, false);
    outputs(&mut path);
    path.handle_timeout(10_020);
    let ping = Output::Ping { timeout_ms: deadlines::PING_MS };
    assert_eq!(outputs(&mut path), [Output::CloseStream, ping.clone()]);
    path.handle_pong(10_040, 20);
    let compat = Output::OpenStream { compat: true, heartbeat_s: None };
    assert_eq!(outputs(&mut path), [compat]);
    path.handle_timeout(20_040);
    assert_eq!(outputs(&mut path), [Output::CloseStream, ping]);
    path.handle_pong(20_060, 20);
    let suspended_ms = path.status().suspended_until_ms.unwrap() - 20_060;
    assert!((240_000..=360_000).contains(&suspended_ms), "{suspended_ms}");
    assert_eq!(path.hint().mode, StreamMode::Suspended);
    path.network_changed(30_000);
    let again = outputs(&mut path);
    assert!(again.contains(&open()) && again.contains(&Output::DropPoll), "{again:?}");
}

#[test]
fn a_stream_is_not_blamed_for_a_network_that_is_down() {
    let mut path = Path::new(0, PathSettings::default(), 1);
    path.handle_poll_answer(20, 20, false);
    outputs(&mut path);
    path.handle_timeout(10_020);
    path.handle_ping_failure(20_000);
    outputs(&mut path);
    path.handle_timeout(path.poll_timeout().unwrap());
    assert_eq!(outputs(&mut path), [open()], "the same mode");
}

/// A connection that was dropped silently taught the agent to poll every 30 s, although no limit to a hold was there.
#[test]
fn a_poll_that_failed_while_held_shortens_the_hold_only_if_the_network_is_there() {
    let failure = || PollFailure {
        kind: PollFailureKind::TimedOut,
        pause_ms: None,
        why: "no answer".to_owned(),
    };
    let mut path = Path::new(0, PathSettings::default(), 1);
    path.handle_poll_answer(20, 20, false);
    outputs(&mut path);
    path.handle_poll_failure(30_020, failure());
    assert!(outputs(&mut path).contains(&Output::Poll { wait_s: 0, timeout_ms: 10_000 }));
    let mut other = Path::new(0, PathSettings::default(), 1);
    other.handle_poll_answer(20, 20, false);
    other.handle_poll_failure(30_020, failure());
    path.handle_poll_answer(30_040, 20, false);
    assert!(matches!(outputs(&mut path)[..], [Output::Poll { wait_s: 12, .. }]), "{path:?}");
    outputs(&mut other);
    other.handle_poll_failure(40_020, failure());
    assert!(matches!(outputs(&mut other)[..], [Output::Lost { .. }]), "{other:?}");
    assert_eq!(other.hint().hold_s, 25);
}

#[test]
fn a_hint_is_where_the_next_run_begins_and_keeps_nothing_from_it() {
    let hint = PathHint {
        mode: StreamMode::Suspended,
        hold_s: 12,
        heartbeat_s: Some(7),
        why: Some("a middlebox holds the stream back".to_owned()),
    };
    let settings = PathSettings { hint: Some(hint.clone()), ..PathSettings::default() };
    let mut path = Path::new(0, settings, 1);
    path.handle_poll_answer(20, 20, false);
    let [_, Output::Poll { wait_s: 12, .. }] = outputs(&mut path)[..] else { panic!("{path:?}") };
    assert_eq!(path.status().why, hint.why);
    path.handle_poll_answer(12_020, 20, false);
    outputs(&mut path);
    path.handle_timeout(path.status().suspended_until_ms.unwrap());
    let opened = outputs(&mut path);
    assert!(
        opened.contains(&Output::OpenStream { compat: false, heartbeat_s: Some(7) }),
        "{opened:?}"
    );
}

/// After a stream carried again, `why` of the earlier failure was still stored for the next run, and shown to the operator while
/// the stream of that run was being proven.
#[test]
fn a_stream_that_carries_clears_the_reason_why_it_did_not() {
    let mut path = streaming_alone();
    path.handle_heartbeat(60_000, 1_060_000);
    path.handle_stream_end(62_000, StreamEnd::Ended);
    assert!(path.hint().why.unwrap().contains("was cut"));
    path.handle_hello(62_030, times(62_030));
    path.handle_heartbeat(63_030, 1_063_030);
    path.handle_heartbeat(64_030, 1_064_030);
    prove(&mut path);
    path.handle_confirmation(64_320, true);
    assert_eq!((path.status().carrier, path.hint().why), (Some(Carrier::Stream), None));
    path.handle_stream_end(200_000, StreamEnd::Ended);
    assert!(path.hint().why.unwrap().contains("was cut"), "anew");
}

/// One from a damaged file was requested for ever, and written to the file again.
#[test]
fn the_heartbeat_of_a_hint_is_within_its_limits_and_requested_for_a_day() {
    for (stored_s, requested_s) in [(0, 5), (7, 7), (u64::MAX, 15)] {
        let hint = PathHint {
            mode: StreamMode::Plain,
            hold_s: 25,
            heartbeat_s: Some(stored_s),
            why: None,
        };
        let settings = PathSettings { hint: Some(hint), ..PathSettings::default() };
        let mut path = Path::new(0, settings, 1);
        path.handle_poll_answer(20, 20, false);
        let opened = outputs(&mut path);
        let wanted = Output::OpenStream { compat: false, heartbeat_s: Some(requested_s) };
        assert!(opened.contains(&wanted), "{stored_s}: {opened:?}");
        assert_eq!(path.hint().heartbeat_s, Some(requested_s), "{stored_s}");
        path.handle_hello(30, times(30));
        path.handle_heartbeat(1030, 1_001_030);
        path.handle_heartbeat(2030, 1_002_030);
        prove(&mut path);
        outputs(&mut path);
        path.handle_stream_activity(deadlines::SHORT_HEARTBEAT_MS);
        path.handle_stream_end(deadlines::SHORT_HEARTBEAT_MS, StreamEnd::Ended);
        let opened = outputs(&mut path);
        assert!(opened.contains(&open()), "{stored_s}, a day later: {opened:?}");
        assert_eq!(path.hint().heartbeat_s, None, "{stored_s}");
    }
}

/// A command that the stream had carried a moment before made the next poll wait.
#[test]
fn one_early_answer_without_news_is_in_order_and_more_are_paced() {
    let mut path = Path::new(0, PathSettings::default(), 1);
    path.handle_poll_answer(20, 20, false);
    outputs(&mut path);
    path.handle_poll_answer(1000, 20, false);
    assert_eq!(outputs(&mut path).len(), 1, "the next one at once");
    let mut now = 1000;
    for _ in 0..20 {
        path.handle_poll_answer(now, 20, false);
        now = path.next_poll_at().unwrap();
        path.handle_timeout(now);
    }
    assert!((300_000..700_000).contains(&now), "{now}: half a minute apart at last");
}
