//! What a web page may make a browser send. Contract, section 6, "Browsers".
//!
//! A browser sends requests for any page that its user opens, from where the user is in the network: a hub that checks no
//! credentials would obey every page. This is the one place that decides which pages count. It is called where
//! credentials are checked, by the API and by the classic format, and looks at the head of a request alone.
//!
//! - `Origin` and `Sec-Fetch-Site` are set by the browser, and no page can change them. A request without them is not of
//!   a browser, or is one that a page could not have caused with an effect (`Effect`).
//! - `Host` is what protects against DNS rebinding: a name of the attacker's that resolves to a loopback address makes a
//!   page of the attacker's the hub's own origin.

use std::net::IpAddr;

use axum::response::Response;
use bellwire_proto::{Code, Problem};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::Authority;

use super::problem;
use crate::config::{Config, ListenerConfig, PageOrigin};
use crate::listen::RequestOrigin;
use crate::plane::StreamHead;

/// What a request does beside being answered. Every entry of a route states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing: it reads.
    None,
    /// Something changes, as with every method but GET; and a GET that listens as a device takes that device's stream or
    /// commands.
    Acts,
}

/// The pages and the hosts that a hub accepts requests for.
#[derive(Debug, Clone)]
pub struct Browsers {
    cors_origins: Vec<PageOrigin>,
    allowed_hosts: Vec<String>,
    host_rule: HostRule,
}

/// Of which requests the `Host` is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HostRule {
    /// Of none: the hub is not reachable by a loopback address.
    None,
    /// Of every request of a client on this machine: the hub is open and listens on a loopback address.
    Loopback,
    /// Of every request that is known to come from this machine: the hub is open and listens on every address, those of the
    /// loopback interface among them.
    Unspecified,
    /// Of every request that a browser has sent: a classic server has clients that send any `Host` or none.
    Browsers,
}

/// The listed origin of a request's page, in the request's extensions, for the head of a stream.
#[derive(Debug, Clone)]
struct ListedOrigin(HeaderValue);

/// What a page of a listed origin may send and read, beside what the Fetch standard always allows.
const REQUEST_HEADERS: &str =
    "Authorization, Content-Type, Idempotency-Key, If-Match, Last-Event-ID, Prefer";
const RESPONSE_HEADERS: &str = "Allow, ETag, Location, Retry-After";
/// For how long a browser may remember the answer to a preflight, in seconds.
const PREFLIGHT_MAX_AGE_S: &str = "600";

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Whether a browser shows the answer to its user, who can then be asked for a token (RFC 7617). Of a request that a page's
/// script makes, or a program, that is false: the script would have a dialog opened before it could say what it needs, and
/// a program gets the scheme that it should use alone.
pub(super) fn shows_answers(head: &Parts) -> bool {
    let value = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let reads = matches!(head.method, http::Method::GET | http::Method::HEAD);
    let shown = match value(SEC_FETCH_MODE) {
        Some(mode) => mode == "navigate",
        // A browser from before 2023 says that it wants a page, and nothing else does.
        None => value(header::ACCEPT).is_some_and(|accept| accept.contains("text/html")),
    };
    reads && shown
}

impl Browsers {
    /// The rule of a hub with these settings.
    pub fn new(config: &Config) -> Self {
        let listens = |on: fn(&ListenerConfig) -> bool| config.listen.iter().any(on);
        Self {
            cors_origins: config.cors_origins.clone(),
            allowed_hosts: config.allowed_hosts.clone(),
            // Asked for on an open hub alone.
            host_rule: if listens(ListenerConfig::is_loopback) {
                HostRule::Loopback
            } else if listens(ListenerConfig::is_unspecified) {
                HostRule::Unspecified
            } else {
                HostRule::None
            },
        }
    }

    /// The rule of a classic server by itself: pages of its own origin alone, and browsers by an address, by `localhost` or
    /// by one of these names. Programs may send any `Host`, or none as in HTTP/1.0.
    pub fn own_pages(allowed_hosts: Vec<String>) -> Self {
        Self { cors_origins: Vec::new(), allowed_hosts, host_rule: HostRule::Browsers }
    }

    /// Checks a request that has a route and a method.
    ///
    /// # Errors
    /// `forbidden`, naming the setting that would allow it.
    pub(super) fn check(&self, head: &Parts, effect: Effect) -> Result<(), Problem> {
        self.check_host(head)?;
        self.check_page_of(head, effect)
    }

    /// The same on a closed hub, whose tokens no page has: the host matters for open ones alone.
    ///
    /// # Errors
    /// `forbidden`, naming the setting that would allow it.
    pub(super) fn check_page_of(&self, head: &Parts, effect: Effect) -> Result<(), Problem> {
        match effect {
            Effect::None => Ok(()),
            Effect::Acts => self.check_page(head),
        }
    }

    /// Checks the host alone: for `OPTIONS`.
    ///
    /// # Errors
    /// `forbidden`, naming the setting.
    pub(super) fn check_host(&self, head: &Parts) -> Result<(), Problem> {
        let setting = match self.host_rule {
            HostRule::Loopback if is_from_here(head).unwrap_or(true) => "the setting allowed_hosts",
            HostRule::Unspecified if is_from_here(head).unwrap_or(false) => {
                "the setting allowed_hosts"
            }
            HostRule::Browsers if is_of_browser(head) => "the option --allowed-host",
            _ => return Ok(()),
        };
        match hosts(head).find(|host| !self.is_allowed(host)) {
            None => Ok(()),
            Some(host) => Err(forbidden(format!(
                "the host {} is not known here: add its name to {setting}, or let the reverse proxy send the hub's own \
                 address as Host",
                shown(host)
            ))),
        }
    }

    fn check_page(&self, head: &Parts) -> Result<(), Problem> {
        let is_page = head.headers.contains_key(header::ORIGIN);
        for site in head.headers.get_all(SEC_FETCH_SITE) {
            let is = |name: &str| site.as_bytes().eq_ignore_ascii_case(name.as_bytes());
            // The site is a domain: every port of this machine belongs to it. What the page of one of them sends with its
            // origin is judged by that.
            if is("same-origin") || is("none") || (is_page && !is("cross-site")) {
                continue;
            }
            let listing = match self.host_rule {
                HostRule::Browsers => "",
                _ => {
                    ", and the setting cors_origins allows only other origins of the same site more"
                }
            };
            return Err(forbidden(format!(
                "a web page of another origin made a browser send this (Sec-Fetch-Site: {}); such a page may only \
                 read{listing}",
                shown(site.as_bytes()).trim_matches('"')
            )));
        }
        let mut origins = head.headers.get_all(header::ORIGIN).iter();
        match origins.find(|origin| !self.is_own(head, origin) && self.listed(origin).is_none()) {
            None => Ok(()),
            Some(origin) => {
                let page = shown(origin.as_bytes());
                // A classic server by itself has no list.
                Err(forbidden(match self.host_rule {
                    HostRule::Browsers => format!(
                        "a web page at {page} may not do this: its origin is not the server's own"
                    ),
                    _ => format!(
                        "a web page at {page} may not do this: its origin is neither the hub's own nor in the setting \
                         cors_origins"
                    ),
                }))
            }
        }
    }

    /// Whether a `Host` names this machine, or a listed host. Of an IP address no name was resolved.
    fn is_allowed(&self, host: &[u8]) -> bool {
        let Some(host) = authority(host) else { return false };
        let name = host.host().trim_end_matches('.');
        name.eq_ignore_ascii_case("localhost")
            || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
            || self.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
    }

    /// Whether it is the origin of the hub's own pages: the scheme of the listener, and `Host`.
    fn is_own(&self, head: &Parts, origin: &HeaderValue) -> bool {
        let Some(origin) = origin.to_str().ok().and_then(|text| text.parse::<PageOrigin>().ok())
        else {
            return false;
        };
        // In another program's server the scheme may be unknown: that of the page counts then.
        let scheme = match head.extensions.get::<RequestOrigin>() {
            Some(from) => from.listener.scheme.name(),
            None => head.uri.scheme_str().unwrap_or_else(|| origin.scheme()),
        };
        let mut own = hosts(head).filter_map(|host| std::str::from_utf8(host).ok());
        let is_origin = |host: &str| {
            format!("{scheme}://{host}").parse::<PageOrigin>().is_ok_and(|own| own == origin)
        };
        own.next().is_some_and(is_origin) && own.all(is_origin)
    }

    fn listed(&self, origin: &HeaderValue) -> Option<()> {
        let origin: PageOrigin = origin.to_str().ok()?.parse().ok()?;
        self.cors_origins.contains(&origin).then_some(())
    }

    /// Notes in a request whether the origin of its page is listed: for the answer, also where that is the head of a
    /// stream.
    pub(super) fn note(&self, head: &mut Parts) {
        let mut origins = head.headers.get_all(header::ORIGIN).iter();
        if let (Some(origin), None) = (origins.next(), origins.next())
            && self.listed(origin).is_some()
        {
            let listed = ListedOrigin(origin.clone());
            head.extensions.insert(listed);
        }
    }

    /// Adds what a browser needs to let the page of the request read the answer, if its origin is listed.
    pub(super) fn share(&self, origin: Option<HeaderValue>, response: &mut Response) {
        if !self.cors_origins.is_empty() {
            response.headers_mut().insert(header::VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(origin) = origin {
            share(origin, response.headers_mut());
        }
    }
}

/// The answer to a preflight of a listed origin: 204. `None` when the request is none.
pub(super) fn preflight(head: &Parts, allow: &str) -> Option<Response> {
    listed_origin(head)?;
    head.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let response = problem::with(problem::empty(), header::ALLOW, allow);
    let response = problem::with(response, header::ACCESS_CONTROL_ALLOW_METHODS, allow);
    let response = problem::with(response, header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
    Some(problem::with(response, header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE_S))
}

/// The origin of the page, if it is listed.
pub(super) fn listed_origin(head: &Parts) -> Option<HeaderValue> {
    head.extensions.get::<ListedOrigin>().map(|listed| listed.0.clone())
}

/// The head of a stream that the page of this request may read: it is not always an ordinary answer.
pub(super) fn shared_stream(request: &Parts, head: StreamHead) -> StreamHead {
    match listed_origin(request) {
        None => head,
        Some(origin) => head
            .field("Access-Control-Allow-Origin", origin)
            .field("Vary", HeaderValue::from_static("Origin")),
    }
}

fn share(origin: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let exposed = HeaderValue::from_static(RESPONSE_HEADERS);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
}

/// Whether the client is on this machine, and came by a loopback address. In another program's server the address is unknown.
fn is_from_here(head: &Parts) -> Option<bool> {
    let from = head.extensions.get::<RequestOrigin>()?;
    Some(from.peer.ip().to_canonical().is_loopback())
}

/// Whether a browser sent it for a page: by the fields that browsers add and a page cannot remove. A page may replace the
/// value of `User-Agent` and `Accept-Language`; over plain HTTP, a GET of the page's own origin bears no other of these.
fn is_of_browser(head: &Parts) -> bool {
    let names = [header::ORIGIN, header::ACCEPT_LANGUAGE];
    names.iter().any(|name| head.headers.contains_key(name))
        || head.headers.keys().any(|name| name.as_str().starts_with("sec-fetch-"))
        || head.headers.get_all(header::USER_AGENT).iter().any(|agent| {
            agent.as_bytes().get(..8).is_some_and(|start| start.eq_ignore_ascii_case(b"Mozilla/"))
        })
}

/// What the request names as the host: in its target, as HTTP/2 does, and in `Host`.
fn hosts(head: &Parts) -> impl Iterator<Item = &[u8]> {
    let target = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    let fields = head.headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes);
    target.into_iter().chain(fields)
}

/// A host with or without a port, and nothing else.
fn authority(host: &[u8]) -> Option<Authority> {
    let authority = Authority::try_from(host).ok()?;
    (!authority.as_str().contains('@')).then_some(authority)
}

fn forbidden(detail: String) -> Problem {
    Problem::new(Code::Forbidden, detail)
}

/// A value of the client's as a part of a text: visible, and short.
fn shown(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    format!("{:?}", text.chars().take(200).collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::Scheme;
    use crate::listen::ListenerAddr;

    /// A request that this listener has accepted from this peer.
    fn from(scheme: Scheme, peer: &str) -> RequestOrigin {
        let peer: SocketAddr = peer.parse().unwrap();
        let listener = ListenerAddr { scheme, address: "127.0.0.1:8888".parse().unwrap() };
        RequestOrigin { peer, client: peer.ip(), listener, open: false, identity: None }
    }

    /// A name of the attacker's that resolves to this machine made a page of the attacker's the server's own origin.
    #[test]
    fn a_classic_server_checks_the_host_of_browsers_alone() {
        let browsers = Browsers::own_pages(vec!["ops.example".to_owned()]);
        let allowed = |fields: &[(&str, &str)]| browsers.check(&head(fields), Effect::Acts).is_ok();
        for marker in [
            ("origin", "http://evil.example:8888"),
            ("accept-language", "en"),
            ("sec-fetch-mode", "cors"),
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"),
        ] {
            assert!(!allowed(&[("host", "evil.example:8888"), marker]), "{marker:?}");
        }
        let language = ("accept-language", "en");
        for host in ["127.0.0.1:8888", "[::1]", "192.0.2.7", "localhost:8888", "ops.example"] {
            assert!(allowed(&[("host", host), language]), "{host}");
        }
        assert!(!allowed(&[("host", "a b"), language]));
        // Clients of the time of the Python library, HTTP/1.0 without a Host among them.
        for fields in [
            &[("host", "evil.example")][..],
            &[("host", "a b")],
            &[],
            &[("user-agent", "PycURL/7")],
        ] {
            assert!(allowed(fields), "{fields:?}");
        }
        assert!(allowed(&[language]), "HTTP/1.0");
    }

    fn head(fields: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().uri("/v1/ping");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn rule(set: impl FnOnce(&mut Config)) -> Browsers {
        let mut config = Config::default();
        set(&mut config);
        Browsers::new(&config)
    }

    #[test]
    fn a_host_is_this_machine_an_address_or_listed() {
        let browsers = rule(|config| config.allowed_hosts = vec!["hub.example.com".to_owned()]);
        let allowed = |host| browsers.check(&head(&[("host", host)]), Effect::None).is_ok();
        for host in ["localhost", "LOCALHOST:8888", "localhost.:1", "127.0.0.1", "127.0.0.1:8888"] {
            assert!(allowed(host), "{host}");
        }
        for host in ["[::1]:8888", "192.0.2.7", "[2001:db8::1]:80", "Hub.Example.com:8888"] {
            assert!(allowed(host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:8888", "localhost.evil.example", "", "::1", "a b"]
        {
            assert!(!allowed(host), "{host}");
        }
        for host in ["localhost@evil.example", "evil@localhost", "127.1", "xhub.example.com"] {
            assert!(!allowed(host), "{host}");
        }
        assert!(browsers.check(&head(&[]), Effect::None).is_ok(), "HTTP/1.0 needs no Host");
        let two = head(&[("host", "localhost"), ("host", "evil.example")]);
        assert!(browsers.check(&two, Effect::None).is_err());
    }

    #[test]
    fn the_host_is_checked_where_a_hub_listens_on_loopback() {
        let evil = head(&[("host", "evil.example")]);
        for (listen, checked) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("192.0.2.1:1", false),
            ("0.0.0.0:1", false),
        ] {
            let browsers = rule(|config| config.listen = vec![listen.parse().unwrap()]);
            assert_eq!(browsers.check(&evil, Effect::None).is_err(), checked, "{listen}");
        }
        // An unspecified address is reached by the loopback address too.
        for listen in ["0.0.0.0:1", "[::]:1", "[::ffff:0.0.0.0]:1"] {
            let browsers = rule(|config| config.listen = vec![listen.parse().unwrap()]);
            for (client, checked) in
                [("127.0.0.1:5", true), ("[::ffff:127.0.0.1]:5", true), ("192.0.2.9:5", false)]
            {
                let mut evil = evil.clone();
                evil.extensions.insert(from(Scheme::Http, client));
                let refused = browsers.check(&evil, Effect::None).is_err();
                assert_eq!(refused, checked, "{client} at {listen}");
            }
        }
        // Of several addresses, those connections that came to a loopback one.
        let both = rule(|config| config.listen.push("192.0.2.1:1".parse().unwrap()));
        for (client, checked) in [("127.0.0.1:5", true), ("192.0.2.9:5", false)] {
            let mut evil = evil.clone();
            evil.extensions.insert(from(Scheme::Http, client));
            assert_eq!(both.check(&evil, Effect::None).is_err(), checked, "{client}");
        }
    }

    #[test]
    fn a_page_is_the_hubs_own_by_scheme_and_host() {
        // Of a hub with several listeners, by the scheme of the one that the request came by.
        let browsers = rule(|_| {});
        let ok = |scheme, host, origin| {
            let mut head = head(&[("host", host), ("origin", origin)]);
            head.extensions.insert(from(scheme, "127.0.0.1:5"));
            browsers.check(&head, Effect::Acts).is_ok()
        };
        assert!(ok(Scheme::Http, "localhost:8888", "http://localhost:8888"));
        assert!(ok(Scheme::Http, "LOCALHOST:80", "http://localhost"), "80 is the port of http");
        for origin in [
            "http://127.0.0.1:8888",
            "http://localhost",
            "https://localhost:8888",
            "http://localhost:8888/",
            "http://localhost:88888",
            "http://a@localhost:8888",
            "null",
            "",
        ] {
            assert!(!ok(Scheme::Http, "localhost:8888", origin), "{origin}");
        }
        assert!(ok(Scheme::Https, "localhost:8888", "https://localhost:8888"));
        assert!(!ok(Scheme::Https, "localhost:8888", "http://localhost:8888"));
        assert!(ok(Scheme::Https, "localhost", "https://localhost:443"));
    }

    #[test]
    fn only_what_has_an_effect_depends_on_the_page() {
        let browsers =
            rule(|config| config.cors_origins = vec!["https://ops.example".parse().unwrap()]);
        let host = ("host", "localhost");
        for (fields, acts) in [
            (&[host][..], true),
            (&[host, ("origin", "https://ops.example")], true),
            (&[host, ("origin", "https://ops.example"), ("origin", "https://evil.example")], false),
            (&[host, ("origin", "https://evil.example")], false),
            (&[host, ("sec-fetch-site", "none")], true),
            (&[host, ("sec-fetch-site", "same-origin")], true),
            // Another port of the same machine is the same site: an image of its page has no Origin.
            (&[host, ("sec-fetch-site", "same-site")], false),
            (&[host, ("sec-fetch-site", "a value of later")], false),
            (&[host, ("sec-fetch-site", "same-site"), ("origin", "https://ops.example")], true),
            (&[host, ("sec-fetch-site", "Same-Site"), ("origin", "http://evil.example")], false),
            (&[host, ("sec-fetch-site", "cross-site")], false),
            (&[host, ("origin", "http://localhost"), ("sec-fetch-site", "Cross-Site")], false),
        ] {
            let head = head(fields);
            assert_eq!(browsers.check(&head, Effect::Acts).is_ok(), acts, "{fields:?}");
            assert!(browsers.check(&head, Effect::None).is_ok(), "{fields:?}");
        }
    }
}
