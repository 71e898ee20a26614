//! Staying connected: when to come back after which loss, and what a person is told of it.
//!
//! The growing wait itself is `bellwire_sse::Reconnect`'s. Here is what an appliance that nobody
//! looks after adds: every loss is followed by another try, and some by a longer pause, since to ask
//! again at once would help nobody.

use std::time::Duration;

use bellwire_proto::Seconds;
use bellwire_proto::stream::{Bye, ByeReason};

use crate::api::ListenOptions;
use crate::event_source::{Error, Loss, Retry, SERVER_WAIT_MAX};
use crate::transport::TransportStage;

/// How long a connection must last for the wait to begin afresh.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// The longest wait while no connection is healthy.
const DELAY_MAX: Duration = Duration::from_secs(60);
/// The pause after a refusal that somebody has to mend.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// The pause after an answer that says nothing better: a portal, or 204.
pub(super) const PORTAL_PAUSE: Duration = Duration::from_secs(30);
/// The shortest and the longest pause after another agent of this name took the stream.
const REPLACED_PAUSE_MS: (u64, u64) = (5000, 30_000);

/// How the agent listens.
pub(super) fn options(heartbeat: Option<Seconds>) -> ListenOptions {
    let options = ListenOptions::default()
        .retry(Retry::always().delays(pause_after))
        .healthy_after(HEALTHY_AFTER)
        .same_origin(true)
        .reconnect_delay_max(DELAY_MAX);
    match heartbeat {
        Some(heartbeat) => options.heartbeat(heartbeat),
        None => options,
    }
}

/// How long to stay away after a loss; `None` leaves it to the growing wait. Where asking again soon
/// would help nobody, a shorter `Retry-After` does not make it sooner.
fn pause_after(loss: &Loss) -> Option<Duration> {
    let asked = loss.retry_after().map(|asked| asked.min(SERVER_WAIT_MAX));
    let least = match loss {
        Loss::Failed(Error::Refused(refusal)) => match refusal.status.as_u16() {
            401 | 403 | 404 | 407 => REFUSED_PAUSE,
            423 => Duration::from_secs(30),
            410 => Duration::from_secs(15 * 60),
            // Neither a stream nor a refusal: 202, or 300 without a place to go to.
            200..=399 | 511 => PORTAL_PAUSE,
            _ => return asked,
        },
        Loss::Failed(Error::Transport(error))
            if error.stage() == TransportStage::ProxyAuthentication =>
        {
            REFUSED_PAUSE
        }
        Loss::Failed(Error::Transport(error)) if error.stage() == TransportStage::Untrusted => {
            PORTAL_PAUSE
        }
        Loss::Failed(
            Error::NotAStream { .. }
            | Error::Elsewhere { .. }
            | Error::Redirect(_)
            | Error::Rejected { .. },
        ) => PORTAL_PAUSE,
        Loss::Ended
        | Loss::Failed(Error::Transport(_) | Error::Silent { .. } | Error::NotBegun { .. }) => {
            return None;
        }
    };
    Some(spread(least).max(asked.unwrap_or_default()))
}

/// Up to a quarter more, so that what a crowd lost together it does not ask for together.
pub(super) fn spread(least: Duration) -> Duration {
    let share = (getrandom::u32().unwrap_or(u32::MAX) >> 16) as u16;
    least + least / 4 * u32::from(share) / u32::from(u16::MAX)
}

/// How long to stay away after a `bye`, where it is not the hub that says so.
pub(super) fn pause_after_bye(bye: &Bye) -> Option<Duration> {
    let (least_ms, most_ms) = REPLACED_PAUSE_MS;
    let random = getrandom::u64().unwrap_or(u64::MAX);
    (bye.reason == ByeReason::Replaced)
        .then(|| Duration::from_millis(least_ms + random % (most_ms - least_ms + 1)))
}

/// What a loss means, for the person who reads the log.
pub(super) fn explain(loss: &Loss) -> String {
    let status = match loss {
        Loss::Failed(Error::Refused(refusal)) => refusal.status.as_u16(),
        Loss::Failed(Error::Transport(error))
            if error.stage() == TransportStage::ProxyAuthentication =>
        {
            407
        }
        Loss::Failed(
            error @ (Error::NotAStream { .. } | Error::Redirect(_) | Error::Rejected { .. }),
        ) => {
            return format!(
                "what answers is not the hub but a box on the way, such as the sign-in page of a \
                 guest network ({error})"
            );
        }
        Loss::Failed(Error::Transport(error)) if error.stage() == TransportStage::Untrusted => {
            return format!(
                "what answers is not the hub but a box on the way, such as the sign-in page of a \
                 guest network, or the hub's authority is not known here: set ca_file ({error})"
            );
        }
        Loss::Failed(error @ Error::Elsewhere { .. }) => {
            return format!(
                "what answers leads elsewhere, as the sign-in page of a guest network does \
                 ({error}); if that is the hub, set it as hub"
            );
        }
        Loss::Failed(error @ Error::NotBegun { .. }) => {
            return format!(
                "the stream is there but its hello is not: a box on the way may hold it back \
                 ({error})"
            );
        }
        Loss::Ended | Loss::Failed(Error::Transport(_) | Error::Silent { .. }) => {
            return loss.to_string();
        }
    };
    let meaning = match status {
        401 => "the hub does not know this credential: check credential_file",
        403 => "the credential is not for this device: check device and credential_file",
        404 => {
            "the hub does not know this device, or the URL is not a hub's: enrol it, or check hub"
        }
        407 => "the proxy asks for a user and password: set them in the proxy's URL",
        410 => "this device was removed from the hub",
        423 => "another listener holds this device's place",
        429 => "the hub asks to come less often",
        503 => "the hub is about to stop, or cannot write",
        511 => "the network asks for a sign-in before it lets anything through",
        _ => return loss.to_string(),
    };
    format!("{meaning} (status {status})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_source::{RedirectFault, Refusal};
    use crate::transport::TransportError;

    fn refused(status: u16, retry_after: Option<Duration>) -> Loss {
        let status = http::StatusCode::from_u16(status).unwrap();
        let refusal = Refusal { status, retry_after, body: bytes::Bytes::new() };
        Loss::Failed(Error::Refused(Box::new(refusal)))
    }

    #[test]
    fn each_refusal_has_its_pause_with_up_to_a_quarter_more() {
        for (status, least_s) in [(401, 60), (403, 60), (404, 60), (407, 60), (423, 30), (410, 900)]
        {
            let least = Duration::from_secs(least_s);
            for _ in 0..100 {
                let pause = pause_after(&refused(status, None)).unwrap();
                assert!(least <= pause && pause <= least + least / 4, "{status}: {pause:?}");
            }
        }
        assert_eq!(pause_after(&refused(500, None)), None, "the growing wait stands");
        assert_eq!(pause_after(&Loss::Ended), None, "the growing wait stands");
    }

    #[test]
    fn a_portal_is_given_half_a_minute() {
        let page = Error::NotAStream { content_type: Some("text/html".into()) };
        let reject = Error::Rejected { reason: "the hello is for another device".into() };
        let away = "http://portal.example/login".to_owned();
        let away = Error::Elsewhere { to: away, reason: "that is another server".to_owned() };
        let untrusted = TransportError::new(TransportStage::Untrusted, "invalid peer certificate");
        let untrusted = Error::Transport(untrusted);
        assert!(explain(&Loss::Failed(away.clone())).contains("http://portal.example/login"));
        for error in [untrusted, page, reject, away, RedirectFault::TooMany.into()] {
            let loss = Loss::Failed(error);
            let pause = pause_after(&loss).unwrap();
            assert!(PORTAL_PAUSE <= pause && pause <= PORTAL_PAUSE + PORTAL_PAUSE / 4, "{pause:?}");
            assert!(explain(&loss).contains("sign-in page"), "{}", explain(&loss));
        }
    }

    #[test]
    fn what_the_server_asks_for_replaces_the_pause() {
        let asked = Some(Duration::from_secs(7));
        assert_eq!(pause_after(&refused(503, asked)), asked);
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(pause_after(&refused(401, hour)), hour);
    }

    /// A hub that refused a credential with `Retry-After: 0` was asked thousands of times a second.
    #[test]
    fn a_shorter_retry_after_does_not_shorten_the_pause_after_a_refusal() {
        for status in [401, 403, 404, 407, 410, 423, 511] {
            let pause = pause_after(&refused(status, Some(Duration::ZERO))).unwrap();
            assert!(pause >= pause_after(&refused(status, None)).unwrap() * 4 / 5, "{status}");
        }
    }

    #[test]
    fn a_proxy_that_asks_for_a_password_is_told_apart_from_one_that_opens_no_way() {
        let of = |stage| Loss::Failed(TransportError::new(stage, "tunnel error: …").into());
        let (login, refused) =
            (of(TransportStage::ProxyAuthentication), of(TransportStage::ProxyRefused));
        assert!(pause_after(&login).unwrap() >= REFUSED_PAUSE);
        assert!(explain(&login).contains("user and password"), "{}", explain(&login));
        assert_eq!(pause_after(&refused), None, "the growing wait stands");
        assert!(explain(&refused).contains("refuses to connect"), "{}", explain(&refused));
    }

    #[test]
    fn an_agent_that_was_replaced_stays_away_from_5_to_30_seconds() {
        let bye = Bye { reason: ByeReason::Replaced, reconnect_s: 1.0 };
        for _ in 0..100 {
            let pause = pause_after_bye(&bye).unwrap();
            assert!((5000..=30_000).contains(&pause.as_millis()), "{pause:?}");
        }
        let bye = Bye { reason: ByeReason::Draining, ..bye };
        assert_eq!(pause_after_bye(&bye), None, "the hub says how long");
    }
}
