//! When to reconnect after which loss, and how the loss is explained to an operator.
//!
//! `bellwire_sse::Reconnect` implements the backoff. This file adds what an unattended appliance needs: it retries
//! after every loss, and after some of them with a longer pause, where an early retry would be useless.

use std::time::Duration;

use bellwire_proto::limits::{
    AGENT_HEALTHY_AFTER, AGENT_LOCKED_PAUSE, AGENT_PENDING_PAUSE, AGENT_PORTAL_PAUSE,
    AGENT_RECONNECT_MAX, AGENT_REFUSED_PAUSE, AGENT_REMOVED_PAUSE, AGENT_REPLACED_PAUSE_MS,
};
use bellwire_proto::stream::{Bye, ByeReason};
use bellwire_proto::{Code, Problem, Seconds};
use http::StatusCode;

use super::network_finding::NetworkFinding;
use crate::api::{self, ListenOptions};
use crate::event_source::{Error, Loss, Refusal, Retry, SERVER_WAIT_MAX};
use crate::transport::{TransportError, TransportStage};

/// The agent's options for listening.
pub(super) fn options(
    heartbeat: Option<Seconds>,
    finding: Option<NetworkFinding>,
) -> ListenOptions {
    let mut options = ListenOptions::default()
        .retry(Retry::always().delays(pause_after))
        .healthy_after(AGENT_HEALTHY_AFTER)
        .same_origin(true)
        .reconnect_delay_max(AGENT_RECONNECT_MAX);
    if let Some(heartbeat) = heartbeat {
        options = options.heartbeat(heartbeat);
    }
    match finding {
        Some(finding) => options.path_hint(finding.hint),
        None => options,
    }
}

/// The pause after a loss; `None` leaves it to the backoff. Where an early retry is useless, a shorter `Retry-After`
/// does not shorten it.
fn pause_after(loss: &Loss) -> Option<Duration> {
    let requested = loss.retry_after().map(|requested| requested.min(SERVER_WAIT_MAX));
    let pause_min = match loss {
        Loss::Failed(Error::Refused(refusal)) if is_pending(refusal) => AGENT_PENDING_PAUSE,
        Loss::Failed(Error::Refused(refusal)) if !api::Error::is_hubs(refusal) => {
            match refusal.status.as_u16() {
                // A proxy before the hub may require the credential.
                401 | 407 => AGENT_REFUSED_PAUSE,
                423 => AGENT_LOCKED_PAUSE,
                // The hub is down, or too many requests passed by.
                429 | 500.. if refusal.status.as_u16() != 511 => return requested,
                _ => AGENT_PORTAL_PAUSE,
            }
        }
        Loss::Failed(Error::Refused(refusal)) => match refusal.status.as_u16() {
            401 | 403 | 404 => AGENT_REFUSED_PAUSE,
            410 => AGENT_REMOVED_PAUSE,
            _ => return requested,
        },
        Loss::Failed(Error::Transport(error))
            if error.stage() == TransportStage::ProxyAuthentication =>
        {
            AGENT_REFUSED_PAUSE
        }
        Loss::Failed(Error::Transport(error))
            if matches!(error.stage(), TransportStage::Untrusted | TransportStage::Encoding) =>
        {
            AGENT_PORTAL_PAUSE
        }
        Loss::Failed(
            Error::NotAStream { .. }
            | Error::Elsewhere { .. }
            | Error::Redirect(_)
            | Error::Rejected { .. },
        ) => AGENT_PORTAL_PAUSE,
        Loss::Ended
        | Loss::Failed(Error::Transport(_) | Error::Silent { .. } | Error::NotBegun { .. }) => {
            return None;
        }
    };
    Some(spread(pause_min).max(requested.unwrap_or_default()))
}

/// Whether an operator has yet to approve this device. Contract, section 6, "Enrolment".
fn is_pending(refusal: &Refusal) -> bool {
    refusal.status == StatusCode::FORBIDDEN
        && serde_json::from_slice::<Problem>(&refusal.body)
            .is_ok_and(|problem| problem.code == Code::Pending)
}

/// Adds up to a quarter, so that devices that lost their hub together do not reconnect together.
fn spread(pause_min: Duration) -> Duration {
    let share = (getrandom::u32().unwrap_or(u32::MAX) >> 16) as u16;
    pause_min + pause_min / 4 * u32::from(share) / u32::from(u16::MAX)
}

/// The pause after a `bye`, where the hub does not name it.
pub(super) fn pause_after_bye(bye: &Bye) -> Option<Duration> {
    let (least_ms, most_ms) = AGENT_REPLACED_PAUSE_MS;
    let random = getrandom::u64().unwrap_or(u64::MAX);
    (bye.reason == ByeReason::Replaced)
        .then(|| Duration::from_millis(least_ms + random % (most_ms - least_ms + 1)))
}

/// What a refusal with 401 means to an agent without a token.
pub(super) const NO_TOKEN: &str = "the hub requires a token and this agent has none: bellwire agent enroll gets one, or set \
                                   credential_file (status 401)";

/// What a loss means, for the log. `proxy` is the proxy that requests go through.
pub(super) fn explain(loss: &Loss, proxy: Option<&str>) -> String {
    let status = match loss {
        Loss::Failed(Error::Refused(refusal)) if is_pending(refusal) => {
            return "this device has enrolled, and an operator has yet to approve it: bellwire devices approve".to_owned();
        }
        Loss::Failed(Error::Refused(refusal)) if !api::Error::is_hubs(refusal) => {
            return explain_foreign(refusal, proxy);
        }
        Loss::Failed(Error::Refused(refusal)) => refusal.status.as_u16(),
        Loss::Failed(Error::Transport(error)) if error.gateway_status().is_some() => {
            return outage(error);
        }
        Loss::Failed(Error::Transport(error)) if error.is_refused_by_server() => {
            return format!("{loss}; is the hub running?");
        }
        Loss::Failed(
            error @ (Error::NotAStream { .. } | Error::Redirect(_) | Error::Rejected { .. }),
        ) => {
            return format!(
                "the answer comes from a middlebox and not from the hub, such as the sign-in page \
                 of a guest network ({error})"
            );
        }
        Loss::Failed(error @ Error::Elsewhere { .. }) => {
            return format!(
                "the answer redirects to another server, as the sign-in page of a guest network does \
                 ({error}); if that is the hub, set it as hub"
            );
        }
        Loss::Failed(error @ Error::NotBegun { .. }) => {
            return format!(
                "the stream is connected but sends no hello: a middlebox may buffer it ({error})"
            );
        }
        Loss::Ended | Loss::Failed(Error::Transport(_) | Error::Silent { .. }) => {
            return match loss.advice() {
                Some(advice) => format!("{loss}; {advice}"),
                None => loss.to_string(),
            };
        }
    };
    let meaning = match status {
        401 => "the hub does not know this credential: check credential_file",
        403 => {
            "the credential is not for this device (check device and credential_file), or the hub does not know the host \
             in its URL (list it in the hub's setting allowed_hosts)"
        }
        404 => {
            "the hub does not know this device, or the URL is not a hub's: enrol it, or check hub"
        }
        410 => "this device was removed from the hub",
        429 => "the hub requests fewer connections",
        503 => "the hub is stopping, or cannot write",
        _ => return loss.to_string(),
    };
    format!("{meaning} (status {status})")
}

/// What a refusal means that is not the hub's.
fn explain_foreign(refusal: &Refusal, proxy: Option<&str>) -> String {
    let status = refusal.status.as_u16();
    let meaning = match status {
        407 => "the proxy requires a user and password: set them in the proxy's URL",
        511 => "the network requires a sign-in",
        401 => {
            "a proxy before the hub, or a middlebox in place of it, asks for a credential: check credential_file"
        }
        403 => {
            "a middlebox answers in place of the hub, as with a block page; or a proxy before the hub refuses the credential: \
             check credential_file"
        }
        404 => "a middlebox answers in place of the hub, or the URL is not a hub's: check hub",
        423 => "another listener has this device's stream",
        429 => "a proxy before the hub, or a middlebox in place of it, requests fewer connections",
        502..=504 => {
            return match proxy {
                Some(proxy) => format!(
                    "the proxy does not reach the hub (status {status}): is the hub running? ({proxy} answered)"
                ),
                None => format!(
                    "what answers does not reach the hub (status {status}): is the hub running?"
                ),
            };
        }
        500.. => "a proxy before the hub, or a middlebox in place of it, has failed",
        _ => "a middlebox answers in place of the hub, as with a sign-in or block page",
    };
    format!("{meaning} (status {status})")
}

/// A proxy, or a server before the hub, does not reach the hub.
fn outage(error: &TransportError) -> String {
    let status = error.gateway_status().map_or(0, |status| status.as_u16());
    match error.proxy_refusal() {
        Some(refusal) => format!(
            "the proxy does not reach the hub (status {status}): is the hub running? ({refusal})"
        ),
        None => format!("{error}: is the hub running?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_source::RedirectFault;

    fn refused(status: u16, retry_after: Option<Duration>) -> Loss {
        let code = bellwire_proto::Code::ALL.iter().copied().find(|code| code.status() == status);
        let problem = bellwire_proto::Problem::new(code.unwrap(), "no");
        with_body(status, retry_after, serde_json::to_vec(&problem).unwrap())
    }

    fn page(status: u16) -> Loss {
        with_body(status, None, b"<html><title>Blocked</title>".to_vec())
    }

    fn with_body(status: u16, retry_after: Option<Duration>, body: Vec<u8>) -> Loss {
        let status = http::StatusCode::from_u16(status).unwrap();
        Loss::Failed(Error::Refused(Box::new(Refusal { status, retry_after, body: body.into() })))
    }

    /// A block page with 410 kept an agent away for 19 minutes, since "this device was removed".
    #[test]
    fn a_page_with_the_status_of_a_refusal_is_not_the_hubs_refusal() {
        for status in [204, 400, 403, 404, 410, 511] {
            let (pause, meaning) = (pause_after(&page(status)), explain(&page(status), None));
            let pause = pause.unwrap_or_default();
            let most = AGENT_PORTAL_PAUSE + AGENT_PORTAL_PAUSE / 4;
            assert!(AGENT_PORTAL_PAUSE <= pause && pause <= most, "{status}: {pause:?}");
            assert!(meaning.contains("in place of") || meaning.contains("sign-in"), "{meaning}");
            assert!(!meaning.contains("was removed"), "{meaning}");
        }
        assert!(pause_after(&page(401)).unwrap() >= AGENT_REFUSED_PAUSE, "a proxy before the hub");
        assert!(explain(&page(401), None).contains("credential_file"));
    }

    /// A hub that was down behind a proxy was a captive portal for its agents, which came back half a minute late.
    #[test]
    fn a_gateway_that_does_not_reach_the_hub_is_an_outage_of_the_hub() {
        for status in [502, 503, 504] {
            assert_eq!(pause_after(&page(status)), None, "{status}: the backoff applies");
            let meaning = explain(&page(status), Some("http://p.test:3128/"));
            let said =
                format!("the proxy does not reach the hub (status {status}): is the hub running?");
            assert!(meaning.contains(&said), "{meaning}");
            assert!(explain(&page(status), None).contains("is the hub running?"));
        }
        assert!(explain(&refused(503, None), None).contains("the hub is stopping"));
    }

    #[test]
    fn each_refusal_has_its_pause_with_up_to_a_quarter_more() {
        for (status, least_s) in [(401, 60), (403, 60), (404, 60), (410, 900)] {
            let least = Duration::from_secs(least_s);
            for _ in 0..100 {
                let pause = pause_after(&refused(status, None)).unwrap();
                assert!(least <= pause && pause <= least + least / 4, "{status}: {pause:?}");
            }
        }
        assert_eq!(pause_after(&refused(500, None)), None, "the backoff applies");
        assert_eq!(pause_after(&Loss::Ended), None, "the backoff applies");
    }

    #[test]
    fn a_device_that_waits_for_approval_says_so_and_asks_again_soon() {
        // The log said to check the credential, and the agent connected a minute after the approval.
        let problem = Problem::new(Code::Pending, "an operator has yet to approve it");
        let body = serde_json::to_vec(&problem).unwrap().into();
        let status = StatusCode::FORBIDDEN;
        let loss = Refusal { status, retry_after: None, body };
        let loss = Loss::Failed(Error::Refused(Box::new(loss)));
        let meaning = explain(&loss, None);
        assert!(meaning.contains("bellwire devices approve"), "{meaning}");
        let pause = pause_after(&loss).unwrap();
        assert!(pause < AGENT_REFUSED_PAUSE / 2, "{pause:?}");
    }

    #[test]
    fn a_portal_causes_a_pause_of_30_seconds() {
        let page = Error::NotAStream { content_type: Some("text/html".into()) };
        let reject = Error::Rejected { reason: "the hello is for another device".into() };
        let away = "http://portal.example/login".to_owned();
        let away = Error::Elsewhere { to: away, reason: "that is another server".to_owned() };
        let untrusted = TransportError::new(TransportStage::Untrusted, "invalid peer certificate");
        let untrusted = Error::Transport(untrusted);
        assert!(explain(&Loss::Failed(away.clone()), None).contains("http://portal.example/login"));
        for error in [untrusted, page, reject, away, RedirectFault::TooMany.into()] {
            let loss = Loss::Failed(error);
            let pause = pause_after(&loss).unwrap();
            assert!(
                AGENT_PORTAL_PAUSE <= pause && pause <= AGENT_PORTAL_PAUSE + AGENT_PORTAL_PAUSE / 4,
                "{pause:?}"
            );
            assert!(explain(&loss, None).contains("sign-in page"), "{}", explain(&loss, None));
        }
    }

    #[test]
    fn a_requested_pause_replaces_the_default() {
        let requested = Some(Duration::from_secs(7));
        assert_eq!(pause_after(&refused(503, requested)), requested);
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(pause_after(&refused(401, hour)), hour);
    }

    /// A hub that refused a credential with `Retry-After: 0` received thousands of requests a second.
    #[test]
    fn a_shorter_retry_after_does_not_shorten_the_pause_after_a_refusal() {
        for status in [401, 403, 404, 410] {
            let pause = pause_after(&refused(status, Some(Duration::ZERO))).unwrap();
            assert!(pause >= pause_after(&refused(status, None)).unwrap() * 4 / 5, "{status}");
        }
    }

    #[test]
    fn a_proxy_that_requires_a_password_is_distinguished_from_one_that_refuses_the_tunnel() {
        let of = |stage| Loss::Failed(TransportError::new(stage, "tunnel error: …").into());
        let (login, refused) =
            (of(TransportStage::ProxyAuthentication), of(TransportStage::ProxyRefused));
        assert!(pause_after(&login).unwrap() >= AGENT_REFUSED_PAUSE);
        assert!(explain(&login, None).contains("user and password"), "{}", explain(&login, None));
        assert_eq!(pause_after(&refused), None, "the backoff applies");
        assert!(
            explain(&refused, None).contains("refuses to connect"),
            "{}",
            explain(&refused, None)
        );
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
