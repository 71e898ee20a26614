//! How an error ends the program: its line for people or for machines, what to do about it, its exit code.

use bellwire_client::api::Error;
use bellwire_client::transport::{CertificateFault, TransportStage};
use bellwire_proto::{Code, Delivery};
use serde::Serialize;

use crate::exit;
use crate::out::{self, Form};
use crate::short_id::Ambiguous;

const SET_TOKEN: &str = "the hub requires a token that it knows: pass --token-file FILE, set BELLWIRE_TOKEN, or store it \
                         with: bellwire context add NAME URL --token-file FILE";
const SET_PROXY: &str = "set user and password in the proxy's URL, as in http://user:password@proxy:3128: HTTPS_PROXY \
                         for a hub at https://, HTTP_PROXY for one at http://";

/// An error for machines.
#[derive(Serialize)]
struct Report<'a> {
    error: Shown<'a>,
}

#[derive(Serialize)]
struct Shown<'a> {
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
        Some(Error::Refused { problem, .. }) => (problem.code.as_str(), exit::of_problem(problem)),
        Some(Error::Unreachable { .. }) => ("unreachable", exit::UNREACHABLE),
        Some(Error::Foreign { .. }) => ("not_a_hub", exit::UNREACHABLE),
        None if ambiguous.is_some() => ("ambiguous_id", exit::USAGE),
        None if error.is::<exit::Usage>() => ("usage", exit::USAGE),
        Some(_) | None => ("failed", exit::FAILED),
    };
    let mut message = error_chain(error);
    if let Some(advice) = known.and_then(advice) {
        message = format!("{message}; {advice}");
    }
    if form == Form::Text {
        out::error(&message);
        return exit_code;
    }
    let mut shown = Shown {
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
    out::json_error(&Report { error: shown });
    exit_code
}

/// A mistake on the command line, for machines; the parser of the command line has its own text for people.
pub(crate) fn usage_as_json(error: &clap::Error) -> u8 {
    let text = error.render().to_string();
    let message = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
    out::json_error(&Report {
        error: Shown {
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
        Error::Refused { problem, .. } if problem.code == Code::Unauthenticated => Some(SET_TOKEN),
        Error::Refused { problem, .. } if problem.code == Code::Forbidden => Some(
            "the token does not allow it: use another with --token-file, BELLWIRE_TOKEN or --context",
        ),
        Error::Foreign { status: Some(status), .. } => match status.as_u16() {
            401 => Some(SET_TOKEN),
            407 => Some(SET_PROXY),
            511 => Some("the network requires a sign-in"),
            _ => None,
        },
        Error::Unreachable { source, .. } => match source.stage() {
            TransportStage::ProxyAuthentication if source.advice().is_none() => Some(SET_PROXY),
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

/// The error and its causes, without those that the text before them contains.
fn error_chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
