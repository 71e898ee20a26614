//! Whether a command can be sent while its maintenance window is open. Contract, section 3, "Maintenance windows".
//!
//! When a window is open, the core decides again, each time that it would send.

use std::time::Duration;

use bellwire_proto::limits::TTL_S;
use bellwire_proto::{Problem, Seconds, Timestamp, Window};

use crate::calendar::{self, Calendar};

/// Checks a window, and that it opens before the time to live has passed, which counts from `not_before` or now; that of a
/// rollout counts from when a batch begins, while it is open.
///
/// # Errors
/// `bad_request`, with what to do.
pub(super) fn check(
    window: &Window,
    is_rollout: bool,
    not_before: Option<Timestamp>,
    ttl: Option<Seconds>,
    now: Timestamp,
) -> Result<(), Problem> {
    let refuse = |detail: String| Err(Problem::bad_request(detail));
    if let Err(problem) = Calendar::parse(&window.cron, &window.timezone) {
        return refuse(format!("member \"window\": {}", problem.detail));
    }
    let ttl_s = ttl.map_or(TTL_S.default, Seconds::get);
    if ttl_s == 0 && !is_rollout {
        return refuse(
            "a ttl_s of 0 is now or never, and a window may have to be waited for; leave one of them out".to_owned(),
        );
    }
    let from = not_before.map_or(now, |at| at.max(now));
    let Some(opening) = bellwire_core::Calendar(calendar::next).opening(window, from) else {
        return refuse("the window is of a time that never comes: see its \"cron\"".to_owned());
    };
    let expires = from.after(Duration::from_secs(ttl_s));
    if opening < expires || is_rollout {
        return Ok(());
    }
    let needed_s = opening.since(from).as_secs() + 1;
    refuse(if needed_s <= TTL_S.max {
        format!(
            "the window opens at {opening}, when the ttl of {ttl_s} s has passed; a ttl_s of {needed_s} or more reaches it"
        )
    } else {
        format!(
            "the window opens at {opening}, further ahead than any ttl_s reaches ({} at most); set not_before to then",
            TTL_S.max
        )
    })
}

/// The same of a retry, whose request names neither a ttl nor a time.
pub(super) fn of_retry(problem: Problem) -> Problem {
    Problem::bad_request(format!(
        "{}. A retry has the window and the ttl of its command: retry it while the window is open, or send a new command",
        problem.detail
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_that_ends_before_the_window_opens_is_refused_and_says_what_reaches_it() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2026-03-02T12:00:00Z");
        let opens = |cron: &str, ttl_s: Option<u64>, not_before: Option<&str>| {
            let cron = cron.to_owned();
            let window = Window { cron, minutes: 120, timezone: "Europe/Paris".to_owned() };
            check(&window, false, not_before.map(at), ttl_s.map(Seconds::new), now)
                .map_err(|e| e.detail)
        };
        // 02:00 in Paris is 01:00 UTC, in 13 hours.
        let refused = opens("0 2 * * *", None, None).unwrap_err();
        assert!(
            refused.contains("2026-03-03T01:00:00.000Z") && refused.contains("46801"),
            "{refused}"
        );
        assert_eq!(opens("0 2 * * *", Some(46_801), None), Ok(()));
        assert!(opens("0 2 * * *", Some(46_800), None).is_err());
        assert_eq!(opens("0 2 * * *", None, Some("2026-03-03T00:30:00Z")), Ok(()));
        assert_eq!(opens("0 2 * * *", None, Some("2026-03-03T02:59:59Z")), Ok(()), "open then");
        assert!(opens("0 2 * * *", None, Some("2026-03-03T03:00:00Z")).is_err(), "closed then");
        assert_eq!(opens("0 12 * * *", Some(1), None), Ok(()), "open now");
        let window =
            Window { cron: "0 2 1 * *".to_owned(), minutes: 1, timezone: "UTC".to_owned() };
        assert!(check(&window, true, None, Some(Seconds::new(0)), now).is_ok(), "a rollout");
        for (cron, ttl_s, says) in [
            ("0 2 1 * *", None, "not_before"),
            ("0 0 30 2 *", None, "never"),
            ("0 12 * * *", Some(0), "ttl_s of 0"),
            ("0 25 * * *", None, "hour"),
        ] {
            let refused = opens(cron, ttl_s, None).unwrap_err();
            assert!(refused.contains(says), "{cron}: {refused}");
        }
    }
}
