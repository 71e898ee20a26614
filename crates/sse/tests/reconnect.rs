//! When an event source reconnects, by a table and by random sequences, in virtual time.

use bellwire_sse::{Ended, Jitter, Next, Policy, ReadyState, Reconnect};
use proptest::prelude::*;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Waits exactly its ceiling: 1 s doubling to 60 s, healthy after 10 s.
fn steady() -> Reconnect {
    Reconnect::new(Policy { jitter: Jitter::None, ..Policy::default() })
}

fn wait_secs(next: Next) -> u64 {
    match next {
        Next::Wait(wait) => wait.as_secs(),
        Next::Stop => panic!("it stopped"),
    }
}

#[test]
fn the_wait_doubles_up_to_the_cap() {
    let mut source = steady();
    let waits: Vec<u64> =
        (0..9).map(|_| wait_secs(source.handle_end(Ended::Failed, SECOND, 0))).collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    for _ in 0..100 {
        assert_eq!(wait_secs(source.handle_end(Ended::Failed, SECOND, 0)), 60);
    }
}

/// reqwest-eventsource 0.6 came back ten times a second to a server that accepts and then closes.
#[test]
fn only_a_healthy_stream_starts_the_backoff_afresh() {
    let mut source = steady();
    let mut now = Duration::ZERO;
    let mut open_for = |source: &mut Reconnect, secs: u64| {
        source.handle_connecting();
        source.handle_open(now);
        now += Duration::from_secs(secs);
        wait_secs(source.handle_end(Ended::Eof, now, 0))
    };
    assert_eq!(open_for(&mut source, 0), 1);
    assert_eq!(open_for(&mut source, 9), 2);
    assert_eq!(open_for(&mut source, 10), 1);
    assert_eq!(open_for(&mut source, 1), 2);
}

#[test]
fn a_try_that_never_opened_is_not_healthy_however_long_it_took() {
    let mut source = steady();
    assert_eq!(wait_secs(source.handle_end(Ended::Failed, SECOND, 0)), 1);
    source.handle_connecting();
    assert_eq!(wait_secs(source.handle_end(Ended::Failed, SECOND * 1000, 0)), 2);
}

#[test]
fn retry_replaces_the_base_and_may_exceed_the_cap() {
    let mut source = steady();
    source.handle_retry(3_000);
    assert_eq!(wait_secs(source.handle_end(Ended::Eof, SECOND, 0)), 3);
    assert_eq!(wait_secs(source.handle_end(Ended::Eof, SECOND, 0)), 6);
    source.handle_retry(600_000);
    assert_eq!(wait_secs(source.handle_end(Ended::Eof, SECOND, 0)), 600);
    source.handle_retry(0);
    assert_eq!(source.handle_end(Ended::Eof, SECOND, 0), Next::Wait(Duration::ZERO));
    source.handle_retry(u64::MAX);
    assert!(matches!(source.handle_end(Ended::Eof, SECOND, 0), Next::Wait(_)));
}

#[test]
fn a_stop_is_for_good() {
    let mut source = steady();
    assert_eq!(source.handle_end(Ended::Stopped, SECOND, 0), Next::Stop);
    source.handle_connecting();
    source.handle_open(SECOND);
    assert_eq!(source.ready_state(), ReadyState::Closed);
    assert_eq!(source.handle_end(Ended::Eof, SECOND, 0), Next::Stop);
    assert_eq!(source.poll_timeout(), None);

    let mut closed = steady();
    closed.handle_close();
    assert_eq!(closed.handle_end(Ended::Failed, SECOND, 0), Next::Stop);
}

#[test]
fn any_byte_puts_off_the_death_of_a_silent_stream() {
    let policy =
        Policy { silence_max: Some(SECOND * 40), jitter: Jitter::None, ..Policy::default() };
    let mut source = Reconnect::new(policy);
    assert_eq!(source.poll_timeout(), None, "connecting has a deadline of its owner's");
    source.handle_open(SECOND);
    assert_eq!(source.poll_timeout(), Some(SECOND * 41));
    source.handle_bytes(SECOND * 20);
    assert_eq!(source.poll_timeout(), Some(SECOND * 60));
    assert_eq!(wait_secs(source.handle_end(Ended::Silent, SECOND * 60, 0)), 1);
    assert_eq!(source.ready_state(), ReadyState::Waiting { until: SECOND * 61 });
    assert_eq!(source.poll_timeout(), Some(SECOND * 61));
}

#[test]
fn a_stream_may_be_silent_for_ever_unless_a_bound_is_set() {
    let mut source = steady();
    source.handle_open(SECOND);
    assert_eq!(source.poll_timeout(), None);
}

#[test]
fn full_jitter_reaches_from_nothing_to_the_ceiling() {
    let wait = |random| {
        let Next::Wait(wait) =
            Reconnect::new(Policy::default()).handle_end(Ended::Eof, SECOND, random)
        else {
            panic!("it stopped");
        };
        wait
    };
    assert_eq!(wait(0), Duration::ZERO);
    assert_eq!(wait(u64::MAX / 2), SECOND / 2);
    assert_eq!(wait(u64::MAX), SECOND);
}

proptest! {
    /// In any sequence of events, no wait exceeds its ceiling and nothing overflows.
    #[test]
    fn a_wait_is_never_longer_than_its_ceiling(
        randoms in prop::collection::vec(any::<u64>(), 1..100),
        retry_ms in any::<Option<u64>>(),
        base_ms in any::<u64>(),
        cap_ms in any::<u64>(),
    ) {
        let base = Duration::from_millis(base_ms);
        let cap = Duration::from_millis(cap_ms);
        let mut source = Reconnect::new(Policy { base, cap, ..Policy::default() });
        if let Some(retry_ms) = retry_ms {
            source.handle_retry(retry_ms);
        }
        let ceiling = cap.max(retry_ms.map_or(base, Duration::from_millis));
        for random in randoms {
            let Next::Wait(wait) = source.handle_end(Ended::Failed, Duration::MAX, random) else {
                panic!("it stopped");
            };
            prop_assert!(wait <= ceiling, "{wait:?} is past {ceiling:?}");
        }
    }
}
