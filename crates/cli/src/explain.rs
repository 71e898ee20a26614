//! How an error ends the program: its line for people or for machines, what to do about it, its exit code.

use std::time::Duration;

use bellwire::advice;
use bellwire_client::Controller;
use bellwire_client::api::Error;
use bellwire_client::event_source::{self, Loss};
use bellwire_client::transport::{CertificateFault, TransportError, TransportStage};
use bellwire_proto::{Code, Delivery, Problem};
use serde::Serialize;

use crate::connect;
use crate::exit;
use crate::out::{self, Form};
use crate::short_id::Ambiguous;

const SET_TOKEN: &str = "pass --token-file FILE, set BELLWIRE_TOKEN, or store one with: bellwire context add NAME URL \
                         --token-file FILE";
/// For a token that was sent, to an open hub too.
const UNKNOWN_TOKEN: &str = "the one that was sent is another hub's, or was revoked or has expired: pass --token-file FILE \
                             with the hub's own, or none to an open hub";
/// The hub names it where it refuses a host.
const ALLOWED_HOSTS: &str = "allowed_hosts";
const OTHER_TOKEN: &str = "use another with --token-file, BELLWIRE_TOKEN or --context";

/// The line that reports an error to machines.
#[derive(Serialize)]
struct ErrorLine<'a> {
    error: ErrorBody<'a>,
}

/// The error in that line.
#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'a str,
    message: &'a str,
    status: Option<u16>,
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<&'a Delivery>,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidates: Option<Vec<String>>,
}

/// Prints an error and returns its exit code.
pub(crate) fn explain(error: &anyhow::Error, form: Form) -> u8 {
    let known = error.downcast_ref::<Error>();
    let ambiguous = error.downcast_ref::<Ambiguous>();
    let (code, exit_code) = match known {
        Some(Error::Refused { problem, .. }) => (problem.code.as_str(), exit::for_problem(problem)),
        Some(Error::Unreachable { .. }) => ("unreachable", exit::UNREACHABLE),
        Some(Error::Foreign { .. }) => ("not_a_hub", exit::UNREACHABLE),
        None if ambiguous.is_some() => ("ambiguous_id", exit::USAGE),
        None if error.is::<exit::Usage>() => ("usage", exit::USAGE),
        Some(_) | None => ("failed", exit::FAILED),
    };
    let mut message = in_options(&error_chain(error));
    if let Some(advice) = known.and_then(advice) {
        message = format!("{message}; {advice}");
    }
    if let Some(Error::Unreachable { hub, source }) = known {
        message.push_str(&next_steps(hub, source));
    }
    if form == Form::Text {
        out::error(&message);
        return exit_code;
    }
    let mut shown = ErrorBody {
        code,
        message: &message,
        status: None,
        exit_code,
        retry_after_s: None,
        delivery: None,
        candidates: ambiguous.map(Ambiguous::ids),
    };
    match known {
        Some(Error::Refused { problem, retry_after }) => {
            shown.status = Some(problem.code.status());
            shown.retry_after_s = retry_after.map(|pause| pause.as_secs_f64());
            shown.delivery = problem.delivery.as_deref();
        }
        Some(Error::Foreign { status, retry_after, .. }) => {
            shown.status = status.map(|status| status.as_u16());
            shown.retry_after_s = retry_after.map(|pause| pause.as_secs_f64());
        }
        _ => {}
    }
    out::json_error(&ErrorLine { error: shown });
    exit_code
}

/// A mistake on the command line, for machines; the parser of the command line has its own text for people.
pub(crate) fn usage_as_json(error: &clap::Error) -> u8 {
    let text = error.render().to_string();
    let message = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
    out::json_error(&ErrorLine {
        error: ErrorBody {
            code: "usage",
            message,
            status: None,
            exit_code: exit::USAGE,
            retry_after_s: None,
            delivery: None,
            candidates: None,
        },
    });
    exit::USAGE
}

/// What to do about it, where that is a setting.
fn advice(error: &Error) -> Option<&'static str> {
    match error {
        Error::Refused { problem, .. } if problem.code == Code::Forbidden => {
            advice_for_forbidden(problem)
        }
        Error::Refused { problem, .. } => advice_for_status(problem.code.status()),
        Error::Foreign { status: Some(status), .. } => advice_for_status(status.as_u16()),
        Error::Unreachable { source, .. } => match source.stage() {
            TransportStage::ProxyAuthentication if source.advice().is_none() => {
                Some(advice::SET_PROXY)
            }
            _ => match source.certificate_fault() {
                Some(CertificateFault::UnknownIssuer { .. }) => {
                    Some("for this program ca_file is --ca-file FILE, or BELLWIRE_CA_FILE")
                }
                _ => None,
            },
        },
        _ => None,
    }
}

/// The losses of a connection that returns by itself, for people: what to do about one is printed once, until a connection
/// has succeeded.
#[derive(Default)]
pub(crate) struct Losses {
    last_advice: Option<String>,
}

impl Losses {
    /// The text for a loss.
    pub(crate) fn text(&mut self, loss: &Loss) -> String {
        let advice = loss.advice().or_else(|| advice_for_refusal(loss));
        match advice {
            Some(advice) if self.last_advice.as_ref() != Some(&advice) => {
                let text = format!("{loss} ({advice})");
                self.last_advice = Some(advice);
                text
            }
            _ => loss.to_string(),
        }
    }

    /// A connection has succeeded.
    pub(crate) fn connected(&mut self) {
        self.last_advice = None;
    }
}

/// Prints a note for each lost connection of a stream of changes, which returns by itself.
pub(crate) fn note_losses(hub: &Controller) -> impl FnMut(&Loss, Duration) + Send + 'static {
    let (url, mut losses) = (hub.url().to_owned(), Losses::default());
    move |loss, retry_in| {
        let loss = losses.text(loss);
        out::note(&format!("{url}: {loss}; again in {}", out::span(retry_in)));
    }
}

/// What to do about a status that the hub, or what is in its place, answered a listener.
fn advice_for_refusal(loss: &Loss) -> Option<String> {
    let Loss::Failed(event_source::Error::Refused(refusal)) = loss else { return None };
    if refusal.status.as_u16() != 403 {
        return advice_for_status(refusal.status.as_u16()).map(str::to_owned);
    }
    let problem: Problem = serde_json::from_slice(&refusal.body).ok()?;
    Some(match advice_for_forbidden(&problem) {
        Some(advice) => format!("{}; {advice}", problem.detail),
        None => problem.detail,
    })
}

/// What to do about a status that the hub, or what is in its place, answered.
fn advice_for_status(status: u16) -> Option<&'static str> {
    match status {
        401 if connect::sends_token() => Some(UNKNOWN_TOKEN),
        401 => Some(SET_TOKEN),
        status => advice::for_network_status(status),
    }
}

/// What to do where the hub does not allow it. What it says of a page or a host is advice itself, and no token changes it.
fn advice_for_forbidden(problem: &Problem) -> Option<&'static str> {
    (connect::sends_token() && !problem.detail.contains(ALLOWED_HOSTS)).then_some(OTHER_TOKEN)
}

/// For a hub that cannot be reached: what named it, and where there may be none, how to start one.
fn next_steps(hub: &str, source: &TransportError) -> String {
    if source.stage() != TransportStage::Connect || source.is_of_proxy() {
        return String::new();
    }
    let mut steps = String::new();
    if let Some(named_by) = connect::named_by() {
        steps.push_str(&format!("; its URL is that of {named_by}"));
    }
    let authority = hub.split_once("://").map_or(hub, |(_, rest)| rest);
    if ["127.", "localhost", "[::1]"].iter().any(|here| authority.starts_with(here)) {
        steps.push_str("; start a hub on this machine with: bellwire serve");
    }
    steps
}

/// The hub's words about members of a request with the options that set them.
fn in_options(message: &str) -> String {
    const TTL: &str = "a ttl_s of ";
    let mut message = message.to_owned();
    for (member, option) in [("cron", "<CRON>"), ("timezone", "--timezone"), ("window", "--window")]
    {
        message = message.replace(&format!("member \"{member}\""), option);
    }
    let seconds = message
        .split_once(TTL)
        .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
    match seconds {
        Some(seconds) if !seconds.is_empty() && seconds != "0" => {
            let or_more = format!("{TTL}{seconds} or more reaches it");
            message.replacen(&or_more, &format!("{or_more} (--ttl {seconds}s)"), 1)
        }
        _ => message,
    }
}

/// The error and its causes, without those that the text before them contains.
fn error_chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for source in error.chain() {
        let cause = source.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        // Its text has its causes, in other words than the system's.
        if source.is::<Error>() {
            break;
        }
    }
    text
}
