//! A request as its handler gets it: names, query, headers, body, each to be read in the order of
//! the checks.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Instant;

use axum::body::Body;
use axum::extract::OriginalUri;
use bellwire_core::Peer;
use bellwire_proto::limits::AGENT_CHARS_MAX;
use bellwire_proto::{InvalidName, Problem};
use bytes::Bytes;
use http::request::Parts;
use http::{Method, header};

use super::caller::Caller;
use super::{body, is_name, params};
use crate::driver::Driver;
use crate::listen::RequestOrigin;
use crate::quota::HeldBytes;

/// A request that has a route, a method and a caller.
pub(super) struct Request {
    /// The hub.
    pub(super) driver: Driver,
    /// The caller.
    pub(super) caller: Caller,
    /// Everything but the body.
    pub(super) head: Parts,
    /// When it arrived.
    pub(super) arrived: Instant,
    /// The route's path, with its names in braces.
    route: &'static str,
    body: Body,
    /// The part of the bytes that may be received.
    held: HeldBytes,
}

/// The text in a path at the position of `{which}` in its route.
pub(super) fn segment(route: &str, path: &str, which: &str) -> Result<String, Problem> {
    let segments = route.split('/').zip(path.split('/'));
    let given = segments
        .filter(|(pattern, _)| is_name(pattern))
        .find(|(pattern, _)| pattern.trim_matches(['{', '}']) == which)
        .map_or("", |(_, given)| given);
    params::decode_segment(given)
}

/// The address of the client: the one place that decides what that is, for the log, for limits and for what a device shows.
pub(super) fn address(head: &Parts) -> Option<IpAddr> {
    head.extensions.get::<RequestOrigin>().map(|from| from.client.to_canonical())
}

impl Request {
    pub(super) fn new(
        driver: Driver,
        caller: Caller,
        route: &'static str,
        head: Parts,
        body: Body,
    ) -> Self {
        let arrived = Instant::now();
        Self { driver, caller, head, arrived, route, body, held: HeldBytes::default() }
    }

    /// The name in the path at the position of `{which}` in the route.
    ///
    /// # Errors
    /// `bad_request` when it breaks its rule.
    pub(super) fn name<T: FromStr<Err = InvalidName>>(&self, which: &str) -> Result<T, Problem> {
        let name = self.segment(which)?;
        name.parse().map_err(|e: InvalidName| Problem::bad_request(e.to_string()))
    }

    /// The text in the path at the position of `{which}` in the route.
    ///
    /// # Errors
    /// `bad_request` when it cannot be decoded.
    pub(super) fn segment(&self, which: &str) -> Result<String, Problem> {
        segment(self.route, self.head.uri.path(), which)
    }

    /// A path of the API as the client reaches it: where the router is nested in another program's, below that
    /// program's prefix.
    pub(super) fn location(&self, path: &str) -> String {
        let original = self.head.extensions.get::<OriginalUri>().map(|uri| uri.0.path());
        let prefix = original.and_then(|whole| whole.strip_suffix(self.head.uri.path()));
        format!("{}{path}", prefix.unwrap_or_default())
    }

    /// The parameters of the query.
    ///
    /// # Errors
    /// `bad_request` when it cannot be decoded or has a parameter twice.
    pub(super) fn query(&self) -> Result<params::Query, Problem> {
        params::Query::parse(self.head.uri.query().unwrap_or_default())
    }

    /// Refuses a query: for paths that take no parameters.
    ///
    /// # Errors
    /// `unknown_field`, or `bad_request` when it cannot be decoded.
    pub(super) fn no_query(&self) -> Result<(), Problem> {
        self.query()?.finish()
    }

    /// The whole body; to be read once. A body may take its time, so its sender must still be allowed what it was when the
    /// head came.
    ///
    /// # Errors
    /// `payload_too_large`, `request_timeout`, `unsupported_media_type`; `unauthenticated` when the token ended meanwhile.
    pub(super) async fn body(&mut self, bytes_max: usize) -> Result<Bytes, Problem> {
        let within = self.driver.config().body_timeout;
        let body = std::mem::take(&mut self.body);
        let bytes = body::announced(&body, bytes_max);
        let token = self.caller.name();
        let held = self.driver.quota().body(address(&self.head), token.as_deref(), bytes);
        // Until the request is answered: what was read is in memory as long.
        self.held = held.map_err(|exceeded| exceeded.problem)?;
        let body = body::read(&self.head.headers, body, bytes_max, within).await?;
        self.caller.still(&self.driver).await?;
        Ok(body)
    }

    /// Whether this is a HEAD request, which must not change anything.
    pub(super) fn is_head(&self) -> bool {
        self.head.method == Method::HEAD
    }

    /// The address and agent of the client: the other end of the connection, or what the trusted proxies of the listener
    /// say of it.
    pub(super) fn peer(&self) -> Peer {
        let agent = self.head.headers.get(header::USER_AGENT);
        Peer {
            address: address(&self.head).map(|ip| ip.to_string()),
            agent: agent.map(|agent| {
                let agent = String::from_utf8_lossy(agent.as_bytes());
                agent.chars().take(AGENT_CHARS_MAX).collect()
            }),
        }
    }
}
