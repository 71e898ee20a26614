//! User and password for a proxy: which scheme it is offered with, and the answers to its challenges.
//!
//! A password is sent only in answer to a challenge, by the strongest scheme that the proxy offers and that has not failed:
//! Digest, NTLM, Basic. What worked is remembered per proxy, so that later requests and connections need no refusal
//! first. Kerberos (`Negotiate`) is for a helper on this machine, such as cntlm or px, since it needs tickets, and a library that is
//! larger than the rest of the client.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderValue};

use self::challenge::Challenge;
use self::digest::Digest;

mod challenge;
mod digest;
mod ntlm;

/// Fresh answers to stale nonces in one exchange: our choice. A proxy that calls each of them stale refuses.
const STALE_MAX: u8 = 2;
/// New connections for one request, each of which is to be authenticated by itself: our choice. More than one where
/// several requests began at once.
const CONNECTIONS_MAX: u8 = 4;
/// Schemes that an error names.
const SHOWN_MAX: usize = 6;

/// User and password, in the clear.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(***)")
    }
}

/// What is known of one proxy.
pub(super) struct ProxyAuth {
    credentials: Option<Credentials>,
    remembered: Mutex<RememberedScheme>,
}

/// What worked last.
enum RememberedScheme {
    Nothing,
    Basic,
    Digest(Digest),
    Ntlm,
}

/// The strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Digest,
    Ntlm,
    Basic,
}

/// What a request may do after a challenge.
#[derive(Debug)]
pub(super) enum Step {
    /// Be sent again with this header; on the same connection, if the exchange is bound to one.
    Answer(HeaderValue),
    /// Be sent again on a new connection, which is authenticated when it is made.
    NewConnection,
}

/// No answer to a challenge is possible any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Denial {
    /// The schemes that the proxy offers, in its words.
    pub(super) offered: Vec<String>,
    pub(super) reason: DenialReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DenialReason {
    /// There is no user and password in its URL.
    NoCredentials,
    /// It does not accept those in its URL.
    Refused,
    /// It offers nothing that is spoken here.
    NoScheme,
}

impl ProxyAuth {
    pub(super) fn new(credentials: Option<Credentials>) -> Self {
        Self { credentials, remembered: Mutex::new(RememberedScheme::Nothing) }
    }

    /// Whether each connection is to be authenticated before its first request.
    pub(super) fn authenticates_connections(&self) -> bool {
        matches!(*self.remembered(), RememberedScheme::Ntlm)
    }

    /// The scheme by which it authenticated this machine last.
    pub(super) fn scheme(&self) -> Option<&'static str> {
        match *self.remembered() {
            RememberedScheme::Nothing => None,
            RememberedScheme::Basic => Some("Basic"),
            RememberedScheme::Digest(_) => Some("Digest"),
            RememberedScheme::Ntlm => Some("NTLM"),
        }
    }

    /// The exchange of a request. `bound` says that all of it is on one connection, as NTLM needs it.
    pub(super) fn exchange<'a>(
        &'a self,
        method: &'a str,
        target: &'a str,
        bound: bool,
    ) -> Exchange<'a> {
        Exchange {
            auth: self,
            method,
            target,
            bound,
            sent: None,
            fresh: None,
            ntlm_begun: false,
            failed: Vec::new(),
            stale: 0,
            connections: 0,
        }
    }

    fn remembered(&self) -> MutexGuard<'_, RememberedScheme> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request, with the answers to its challenges.
pub(super) struct Exchange<'a> {
    auth: &'a ProxyAuth,
    method: &'a str,
    /// As it stands in the request line.
    target: &'a str,
    bound: bool,
    /// The scheme of the last header.
    sent: Option<Scheme>,
    /// The nonce that is answered for the first time.
    fresh: Option<Digest>,
    /// NTLM's first message is sent, and its last one is not.
    ntlm_begun: bool,
    failed: Vec<Scheme>,
    stale: u8,
    connections: u8,
}

impl Exchange<'_> {
    /// The header of the first request, if it is known what the proxy will demand.
    pub(super) fn first(&mut self) -> Option<HeaderValue> {
        let credentials = self.auth.credentials.as_ref()?;
        let (scheme, header) = match &mut *self.auth.remembered() {
            RememberedScheme::Basic => (Scheme::Basic, basic(credentials)?),
            RememberedScheme::Digest(digest) => {
                (Scheme::Digest, digest.header(credentials, self.method, self.target)?)
            }
            RememberedScheme::Ntlm if self.bound => {
                (Scheme::Ntlm, ntlm_header(&ntlm::negotiate())?)
            }
            RememberedScheme::Ntlm | RememberedScheme::Nothing => return None,
        };
        self.ntlm_begun = scheme == Scheme::Ntlm;
        self.sent = Some(scheme);
        Some(header)
    }

    /// What to do after a 407 with these headers.
    pub(super) fn next(&mut self, headers: &HeaderMap) -> Result<Step, Denial> {
        let offered = challenge::all(headers);
        if let Some(last) = self.sent {
            match self.again(last, &offered) {
                Some(header) => return Ok(Step::Answer(header)),
                None => self.failed.push(last),
            }
        }
        (self.sent, self.fresh, self.ntlm_begun) = (None, None, false);
        for scheme in [Scheme::Digest, Scheme::Ntlm, Scheme::Basic] {
            if self.failed.contains(&scheme) {
                continue;
            }
            if let Some(step) = self.answer(scheme, &offered) {
                return Ok(step);
            }
        }
        Err(self.denial(&offered))
    }

    /// Whether the last header is of use on the same connection alone.
    pub(super) fn stays(&self) -> bool {
        self.sent == Some(Scheme::Ntlm) && !self.ntlm_begun
    }

    /// The proxy let the last request pass.
    pub(super) fn accepted(&mut self) {
        *self.auth.remembered() = match (self.sent, self.fresh.take()) {
            (Some(Scheme::Basic), _) => RememberedScheme::Basic,
            (Some(Scheme::Ntlm), _) => RememberedScheme::Ntlm,
            (Some(Scheme::Digest), Some(fresh)) => RememberedScheme::Digest(fresh),
            (Some(Scheme::Digest) | None, _) => return,
        };
    }

    /// The next header of the scheme whose last header was not enough, if that was no refusal of the password.
    fn again(&mut self, scheme: Scheme, offered: &[Challenge]) -> Option<HeaderValue> {
        let credentials = self.auth.credentials.as_ref()?;
        match scheme {
            Scheme::Basic => None,
            Scheme::Digest => {
                let mut challenges = offered.iter().filter(|one| one.is("Digest"));
                // A nonce of earlier requests may have been forgotten, which not every proxy calls stale.
                let is_stale = self.fresh.is_none() || challenges.any(Digest::is_stale);
                if !is_stale || self.stale >= STALE_MAX {
                    return None;
                }
                self.stale += 1;
                self.begin_digest(credentials, offered)
            }
            Scheme::Ntlm => {
                let token = offered.iter().find(|one| one.is("NTLM"))?.token.as_ref()?;
                if !std::mem::take(&mut self.ntlm_begun) {
                    return None;
                }
                let challenge = ntlm::ChallengeMessage::parse(&BASE64.decode(token).ok()?)?;
                ntlm_header(&challenge.authenticate(credentials, random()?)?)
            }
        }
    }

    /// The first answer of a scheme, if the proxy offers it.
    fn answer(&mut self, scheme: Scheme, offered: &[Challenge]) -> Option<Step> {
        let credentials = self.auth.credentials.as_ref()?;
        let is_offered = |name| offered.iter().any(|one| one.is(name));
        let header = match scheme {
            Scheme::Digest => self.begin_digest(credentials, offered)?,
            Scheme::Ntlm if !is_offered("NTLM") => return None,
            Scheme::Ntlm if self.bound => {
                self.ntlm_begun = true;
                ntlm_header(&ntlm::negotiate())?
            }
            Scheme::Ntlm => {
                if self.connections >= CONNECTIONS_MAX {
                    return None;
                }
                self.connections += 1;
                *self.auth.remembered() = RememberedScheme::Ntlm;
                return Some(Step::NewConnection);
            }
            Scheme::Basic if !is_offered("Basic") => return None,
            Scheme::Basic => basic(credentials)?,
        };
        self.sent = Some(scheme);
        Some(Step::Answer(header))
    }

    fn begin_digest(
        &mut self,
        credentials: &Credentials,
        offered: &[Challenge],
    ) -> Option<HeaderValue> {
        let mut digest = Digest::strongest(offered.iter().filter(|one| one.is("Digest")))?;
        let header = digest.header(credentials, self.method, self.target);
        self.fresh = Some(digest);
        header
    }

    fn denial(&self, offered: &[Challenge]) -> Denial {
        let speaks = |one: &Challenge| {
            one.is("Basic")
                || one.is("NTLM")
                || one.is("Digest") && Digest::strongest(std::iter::once(one)).is_some()
        };
        let reason = if !offered.is_empty() && !offered.iter().any(speaks) {
            DenialReason::NoScheme
        } else if self.auth.credentials.is_none() {
            DenialReason::NoCredentials
        } else {
            DenialReason::Refused
        };
        let mut names: Vec<String> = Vec::new();
        for challenge in offered.iter().take(SHOWN_MAX) {
            let name: String =
                challenge.scheme.chars().filter(char::is_ascii_graphic).take(32).collect();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Denial { offered: names, reason }
    }
}

/// Basic (RFC 7617), in UTF-8.
fn basic(credentials: &Credentials) -> Option<HeaderValue> {
    let Credentials { user, password } = credentials;
    hidden(&format!("Basic {}", BASE64.encode(format!("{user}:{password}"))))
}

fn ntlm_header(message: &[u8]) -> Option<HeaderValue> {
    hidden(&format!("NTLM {}", BASE64.encode(message)))
}

/// A header whose value `Debug` does not show.
fn hidden(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use http::header::PROXY_AUTHENTICATE;

    use super::*;

    fn auth() -> ProxyAuth {
        ProxyAuth::new(Some(Credentials { user: "user".into(), password: "secret".into() }))
    }

    fn offers(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (PROXY_AUTHENTICATE, line.parse().unwrap())).collect()
    }

    /// The scheme of the answer.
    fn answered(step: Result<Step, Denial>) -> String {
        match step.unwrap() {
            Step::Answer(header) => header.to_str().unwrap().split(' ').next().unwrap().to_owned(),
            Step::NewConnection => "a new connection".to_owned(),
        }
    }

    const ALL: &[&str] =
        &["Basic realm=\"r\"", "NTLM", "Negotiate", "Digest realm=\"r\", nonce=\"n\""];

    #[test]
    fn nothing_is_sent_before_a_challenge_and_what_worked_is_sent_with_the_next_request() {
        for (lines, scheme) in [
            (&["Basic realm=r"], "Basic"),
            (&["Digest realm=r, nonce=n"], "Digest"),
            (&["NTLM"], "NTLM"),
        ] {
            let auth = auth();
            let mut exchange = auth.exchange("CONNECT", "hub.test:443", true);
            assert!(exchange.first().is_none(), "{scheme}");
            assert_eq!(answered(exchange.next(&offers(lines))), scheme);
            assert!(auth.exchange("CONNECT", "hub.test:443", true).first().is_none(), "not yet");
            exchange.accepted();
            let again = auth.exchange("CONNECT", "hub.test:443", true).first().unwrap();
            assert!(again.to_str().unwrap().starts_with(scheme), "{again:?}");
            assert!(again.is_sensitive());
        }
    }

    #[test]
    fn the_strongest_scheme_is_first_and_each_one_that_fails_leaves_the_next() {
        let auth = auth();
        let mut exchange = auth.exchange("CONNECT", "hub.test:443", true);
        for scheme in ["Digest", "NTLM", "Basic"] {
            assert_eq!(answered(exchange.next(&offers(ALL))), scheme);
        }
        let denial = exchange.next(&offers(ALL)).unwrap_err();
        assert_eq!(denial.reason, DenialReason::Refused);
        assert_eq!(denial.offered, ["Basic", "NTLM", "Negotiate", "Digest"]);
    }

    #[test]
    fn a_stale_nonce_is_no_refusal_and_a_proxy_that_says_nothing_else_is_given_up() {
        let auth = auth();
        let mut exchange = auth.exchange("GET", "http://hub.test/", false);
        let stale = offers(&["Digest realm=r, nonce=n, stale=true"]);
        for _ in 0..=STALE_MAX {
            assert_eq!(answered(exchange.next(&stale)), "Digest");
        }
        assert_eq!(exchange.next(&stale).unwrap_err().reason, DenialReason::Refused);
        // With a nonce of an earlier request the proxy may say so or not.
        let mut first = auth.exchange("GET", "http://hub.test/", false);
        answered(first.next(&offers(&["Digest realm=r, nonce=old"])));
        first.accepted();
        let mut later = auth.exchange("GET", "http://hub.test/", false);
        assert!(later.first().unwrap().to_str().unwrap().contains("nonce=\"old\""));
        assert_eq!(answered(later.next(&offers(&["Digest realm=r, nonce=new"]))), "Digest");
        let refused = later.next(&offers(&["Digest realm=r, nonce=newer"]));
        assert_eq!(refused.unwrap_err().reason, DenialReason::Refused);
    }

    #[test]
    fn ntlm_needs_a_connection_of_its_own_where_the_request_is_not_bound_to_one() {
        let auth = auth();
        assert!(!auth.authenticates_connections());
        let mut exchange = auth.exchange("GET", "http://hub.test/", false);
        for _ in 0..CONNECTIONS_MAX {
            assert_eq!(answered(exchange.next(&offers(&["NTLM"]))), "a new connection");
            assert!(auth.authenticates_connections());
            assert!(exchange.first().is_none(), "the connection is what is authenticated");
        }
        assert_eq!(exchange.next(&offers(&["NTLM"])).unwrap_err().reason, DenialReason::Refused);
    }

    #[test]
    fn a_denial_says_why() {
        let none = ProxyAuth::new(None);
        let mut exchange = none.exchange("GET", "http://hub.test/", false);
        let denial = exchange.next(&offers(ALL)).unwrap_err();
        assert_eq!(denial.reason, DenialReason::NoCredentials);
        let auth = auth();
        let mut exchange = auth.exchange("GET", "http://hub.test/", false);
        let denial = exchange.next(&offers(&["Negotiate", "Kerberos"])).unwrap_err();
        assert_eq!(denial.reason, DenialReason::NoScheme);
        assert_eq!(denial.offered, ["Negotiate", "Kerberos"]);
    }
}
