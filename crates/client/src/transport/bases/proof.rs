//! Whether the hub answers at a base, and which of several is the best that does.
//!
//! It decides and changes no state: `bases` uses what it finds.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::header::{ACCEPT, CACHE_CONTROL, LOCATION};
use http::{HeaderValue, Method, StatusCode};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until, timeout};

use super::Base;
use crate::transport::{TooLong, TransportError, TransportStage, read_body};

/// How long a base may take to answer a ping: connecting to it is a part of it.
const PROOF: Duration = Duration::from_secs(5);
/// When the next base is tried beside one that does not answer: a silent one costs no more than this for each.
const NEXT_AFTER: Duration = Duration::from_secs(2);
/// How long better bases are waited for once a worse one has answered: with [`NEXT_AFTER`] it is less than a poll waits.
const BETTER_WITHIN: Duration = Duration::from_secs(2);
/// The longest answer to a ping that is read.
const PROOF_BYTES_MAX: usize = 64 * 1024;

/// The best base that answers.
pub(super) struct Best {
    pub(super) index: usize,
    pub(super) base: Base,
    /// Why not the preferred one.
    pub(super) why: Option<String>,
}

/// Tries the bases in order: the next one once an earlier one has failed or is silent. The best one that has answered wins,
/// when all better ones have failed or had their time.
///
/// # Errors
/// That of the preferred base, unless that of another one says more: see [`reason`].
pub(super) async fn best(bases: &[Base]) -> Result<Best, TransportError> {
    let mut outcomes: Vec<Option<Result<(), TransportError>>> = Vec::new();
    outcomes.resize_with(bases.len(), || None);
    let (mut under_way, mut remaining) = (FuturesUnordered::new(), bases.iter().enumerate());
    let (mut next_at, mut decided_at) = (Instant::now(), None::<Instant>);
    loop {
        let answered = outcomes.iter().position(|outcome| matches!(outcome, Some(Ok(()))));
        if let Some(index) = answered {
            let decided_at = *decided_at.get_or_insert(Instant::now() + BETTER_WITHIN);
            let is_best = outcomes.iter().take(index).all(Option::is_some);
            if is_best || decided_at <= Instant::now() {
                return found(bases, outcomes, index);
            }
        } else if outcomes.iter().all(Option::is_some) {
            return Err(reason(bases, outcomes));
        }
        let decided_at = decided_at.unwrap_or(next_at);
        tokio::select! {
            Some((index, outcome)) = under_way.next() => {
                let outcome: Result<(), TransportError> = outcome;
                if outcome.is_err() {
                    next_at = Instant::now();
                }
                if let Some(slot) = outcomes.get_mut(index) {
                    *slot = Some(outcome);
                }
            }
            () = sleep_until(next_at), if answered.is_none() && remaining.len() > 0 => {
                next_at = Instant::now() + NEXT_AFTER;
                under_way.extend(remaining.next().map(async |(index, base)| (index, prove(base).await)));
            }
            () = sleep_until(decided_at), if answered.is_some() => {}
        }
    }
}

fn found(
    bases: &[Base],
    outcomes: Vec<Option<Result<(), TransportError>>>,
    index: usize,
) -> Result<Best, TransportError> {
    let Some(base) = bases.get(index).cloned() else { return Err(reason(bases, outcomes)) };
    let why = match outcomes.into_iter().next() {
        Some(Some(Err(error))) => Some(error.to_string()),
        Some(None) => Some(no_answer().to_string()),
        _ => None,
    };
    Ok(Best { index, base, why: why.filter(|_| index > 0) })
}

/// Why no base works: one reason for all. A sign-in page says most; then that the hub's own machine refuses, which was reached;
/// then that a proxy does not reach the hub; then what the preferred base says.
fn reason(bases: &[Base], outcomes: Vec<Option<Result<(), TransportError>>>) -> TransportError {
    let mut errors = outcomes
        .into_iter()
        .enumerate()
        .filter_map(|(index, outcome)| Some((index, outcome?.err()?)));
    let Some((_, first)) = errors.next() else {
        return TransportError::new(TransportStage::Connect, "there is no base of the hub");
    };
    if ForeignAnswer::of(&first).is_some() {
        return first;
    }
    let others: Vec<TransportError> = errors.map(|(_, error)| error).collect();
    for error in &others {
        if let Some(portal) = ForeignAnswer::of(error) {
            let preferred = bases.first().map(|base| format!("{}: {first}", base.hub));
            let portal = ForeignAnswer { beside: preferred, ..portal.clone() };
            return TransportError::new(TransportStage::Untrusted, portal);
        }
    }
    let says_most = others.iter().find(|error| error.is_refused_by_server());
    let says_most =
        says_most.or_else(|| others.iter().find(|error| error.gateway_status().is_some()));
    says_most.cloned().unwrap_or(first)
}

/// Whether the hub answers at a base.
pub(super) async fn prove(base: &Base) -> Result<(), TransportError> {
    #[derive(Deserialize)]
    struct Pong {
        nonce: Option<String>,
    }
    let outcome = async {
        let nonce = format!("{:016x}", getrandom::u64().unwrap_or_default());
        let url = format!("{}/v1/ping?nonce={nonce}", base.hub.url.as_str().trim_end_matches('/'));
        let request = http::Request::builder()
            .method(Method::GET)
            .uri(url)
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .header(CACHE_CONTROL, HeaderValue::from_static("no-store"))
            .body(Bytes::new())
            .map_err(|error| TransportError::new(TransportStage::Connect, error))?;
        let (head, body) = base.transport.send(request).await?.into_parts();
        let elsewhere = head.headers.get(LOCATION).filter(|_| head.status.is_redirection());
        let elsewhere = elsewhere.map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
        let not_the_hub = ForeignAnswer {
            hub: base.hub.to_string(),
            status: head.status,
            elsewhere,
            beside: None,
        };
        let body = match read_body(body, PROOF_BYTES_MAX).await {
            Ok(body) => body,
            // A page is a page, however it ends.
            Err(error) if head.status != StatusCode::OK || error.source.is::<TooLong>() => {
                tracing::debug!(%error, "the page in place of a ping is not read to its end");
                Bytes::new()
            }
            Err(error) => return Err(error),
        };
        let pong = serde_json::from_slice::<Pong>(&body).ok().and_then(|pong| pong.nonce);
        match (head.status, pong) {
            (StatusCode::OK, Some(echoed)) if echoed == nonce => Ok(()),
            (status, _) if is_gateway_status(status) => {
                let uri = base.hub.url.as_str().parse::<http::Uri>();
                let proxy = uri.ok().and_then(|uri| base.transport.proxy(&uri));
                let behind = GatewayError { hub: base.hub.to_string(), proxy, status };
                Err(TransportError::new(TransportStage::Connect, behind))
            }
            _ => Err(TransportError::new(TransportStage::Untrusted, not_the_hub)),
        }
    };
    let outcome = timeout(PROOF, outcome).await.unwrap_or_else(|_| Err(no_answer()));
    if let Err(error) = &outcome {
        let Base { hub, proxy, .. } = base;
        tracing::debug!(%hub, proxy, %error, "a way to the hub does not work");
    }
    outcome
}

fn no_answer() -> TransportError {
    let within = format!("no answer to a ping within {} s", PROOF.as_secs());
    TransportError::new(TransportStage::Response, within)
}

/// Whether a proxy, or a server before the hub, says that it does not reach the hub: RFC 9110, sections 15.6.3 to 15.6.5.
fn is_gateway_status(status: StatusCode) -> bool {
    matches!(status.as_u16(), 502..=504)
}

/// What answers a ping does not reach the hub: an outage of the hub, and no captive portal.
#[derive(Debug, Clone)]
pub(in crate::transport) struct GatewayError {
    hub: String,
    /// The proxy that requests go through, if one is set.
    proxy: Option<String>,
    pub(in crate::transport) status: StatusCode,
}

impl GatewayError {
    pub(in crate::transport) fn of(error: &TransportError) -> Option<&Self> {
        error.source.downcast_ref()
    }
}

impl fmt::Display for GatewayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hub, proxy, status } = self;
        match proxy {
            Some(proxy) => {
                write!(f, "the proxy does not reach the hub: {proxy} answered {status} for {hub}")
            }
            None => write!(f, "what answers at {hub} does not reach the hub (status {status})"),
        }
    }
}

impl std::error::Error for GatewayError {}

/// What answers a ping is not the hub.
#[derive(Debug, Clone)]
pub(in crate::transport) struct ForeignAnswer {
    hub: String,
    status: StatusCode,
    /// Where it redirects to.
    elsewhere: Option<String>,
    /// What is wrong with the preferred base.
    beside: Option<String>,
}

impl ForeignAnswer {
    pub(in crate::transport) fn of(error: &TransportError) -> Option<&Self> {
        error.source.downcast_ref()
    }

    /// The rest of a sentence.
    pub(in crate::transport) fn advice(&self) -> String {
        match (&self.elsewhere, self.status.as_u16()) {
            (Some(_), _) => {
                "sign in there, or have the hub exempted from it; if that is the hub, set it as hub"
            }
            (None, 404) => "the URL is not a hub's: check hub",
            (None, _) => "sign in to the network, or have the hub exempted from it",
        }
        .to_owned()
    }
}

impl fmt::Display for ForeignAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hub, status, elsewhere, beside } = self;
        match elsewhere {
            Some(to) => write!(
                f,
                "what answers at {hub} is not the hub but a captive portal: it redirects to its sign-in page {to} (status {status})"
            ),
            None => write!(
                f,
                "what answers at {hub} is not the hub, as with the sign-in page of a captive portal (status {status})"
            ),
        }?;
        match beside {
            Some(beside) => write!(f, "; {beside}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ForeignAnswer {}
