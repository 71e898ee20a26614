//! Which proxy a request takes, who set it, and what it refused: so that a failure names the proxy and not the server behind it.
//!
//! What the environment sets and cannot be used is a warning here, once, when the transport is built.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use http::Uri;
use percent_encoding::percent_decode_str;

use super::no_proxy::NoProxy;
use super::proxy_auth::{Credentials, ProxyAuth};
use super::settings::Cause;
use super::{TransportError, TransportStage};

/// The variables with a proxy, by the scheme of the request: the first that is set counts, even if it is empty.
const OF_HTTP: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
const OF_HTTPS: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const OF_ALL: [&str; 2] = ["ALL_PROXY", "all_proxy"];
const OF_NONE: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// Set in a CGI program (RFC 3875, section 4.1.12), where a client sets `HTTP_PROXY` by a header `Proxy`.
const OF_CGI: &str = "REQUEST_METHOD";

/// The proxies of a transport.
pub(super) struct Proxies {
    http: Option<Arc<Proxy>>,
    https: Option<Arc<Proxy>>,
    except: NoProxy,
    /// Who set `except`.
    excepted_by: &'static str,
    /// Why there is no proxy, where there is none.
    without: &'static str,
}

/// One proxy.
pub(super) struct Proxy {
    /// Without credentials.
    pub(super) url: String,
    pub(super) host: String,
    pub(super) port: u16,
    /// Whether it is spoken to over TLS.
    pub(super) is_tls: bool,
    pub(super) set_by: &'static str,
    pub(super) auth: ProxyAuth,
}

/// Which way requests to a URL take, and why: [`HttpTransport::route`](super::HttpTransport::route).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// The URL of the proxy, without credentials; `None` for the direct way.
    pub proxy: Option<String>,
    /// What decided it: a setting, a variable, an entry of `NO_PROXY`.
    pub reason: String,
}

/// A proxy in an error's chain.
#[derive(Debug)]
pub(super) struct ProxyFault {
    /// Without credentials.
    url: String,
    set_by: &'static str,
    /// Whether the failure is surely between here and the proxy.
    unreachable: bool,
    source: Cause,
}

impl Proxies {
    /// None, whatever the environment sets.
    pub(super) fn none() -> Self {
        Self {
            http: None,
            https: None,
            except: NoProxy::default(),
            excepted_by: "",
            without: "the setting is to use no proxy",
        }
    }

    /// The one that is set.
    ///
    /// # Errors
    /// What is wrong with it, as the rest of a sentence.
    pub(super) fn of_setting(url: &str, except: &str) -> Result<Self, String> {
        let proxy = Some(Arc::new(Proxy::parse(url, "the setting proxy")?));
        Ok(Self {
            http: proxy.clone(),
            https: proxy,
            except: NoProxy::parse(except),
            excepted_by: "the setting proxy",
            ..Self::none()
        })
    }

    /// Those of the environment. Each variable that cannot be used is a warning.
    pub(super) fn of_environment() -> Self {
        Self::of_variables(|name| std::env::var(name).ok())
    }

    fn of_variables(get: impl Fn(&str) -> Option<String>) -> Self {
        let is_cgi = get(OF_CGI).is_some();
        let set = |names: [&'static str; 2]| {
            let mut names = names.into_iter().filter(|name| !is_cgi || *name != "HTTP_PROXY");
            names.find_map(|name| Some((name, get(name)?))).filter(|(_, value)| !value.is_empty())
        };
        let usable = |names| {
            let (name, value) = set(names)?;
            match Proxy::parse(&value, name) {
                Ok(proxy) => Some(Arc::new(proxy)),
                Err(problem) => {
                    tracing::warn!("{name} {problem}; correct it or unset it");
                    None
                }
            }
        };
        let (excepted_by, except) = set(OF_NONE).unwrap_or_default();
        let all = usable(OF_ALL);
        Self {
            http: usable(OF_HTTP).or_else(|| all.clone()),
            https: usable(OF_HTTPS).or(all),
            except: NoProxy::parse(&except),
            excepted_by,
            without: "neither a setting nor the environment has a proxy",
        }
    }

    /// The proxy of requests to `uri`; `None` for the direct way.
    pub(super) fn of(&self, uri: &Uri) -> Option<&Proxy> {
        self.choose(uri).ok()
    }

    /// The way of requests to `uri`, and why.
    pub(super) fn route(&self, uri: &Uri) -> Route {
        match self.choose(uri) {
            Ok(proxy) => Route { proxy: Some(proxy.url.clone()), reason: proxy.set_by.to_owned() },
            Err(reason) => Route { proxy: None, reason },
        }
    }

    fn choose(&self, uri: &Uri) -> Result<&Proxy, String> {
        let is_tls = is_tls(uri);
        let proxy = if is_tls { &self.https } else { &self.http };
        let proxy = proxy.as_deref().ok_or_else(|| self.without.to_owned())?;
        match self.except.excepts(uri.host().unwrap_or_default(), port(uri)) {
            Some(entry) => Err(format!("{entry} is among the exceptions of {}", self.excepted_by)),
            None => Ok(proxy),
        }
    }
}

/// The variable that names the proxy of requests to `uri`, if it cannot be used, and why: without it they take the direct way.
#[cfg(feature = "agent")]
pub(crate) fn unusable_variable(uri: &Uri) -> Option<(&'static str, String)> {
    let set = |names: [&'static str; 2]| {
        let first = names.into_iter().find_map(|name| Some((name, std::env::var_os(name)?)));
        first.filter(|(_, value)| !value.is_empty())
    };
    let of_scheme = if is_tls(uri) { OF_HTTPS } else { OF_HTTP };
    let (name, value) = set(of_scheme).or_else(|| set(OF_ALL))?;
    let except = set(OF_NONE).and_then(|(_, value)| value.into_string().ok()).unwrap_or_default();
    if NoProxy::parse(&except).excepts(uri.host().unwrap_or_default(), port(uri)).is_some() {
        return None;
    }
    match value.into_string() {
        Err(_) => Some((name, "is not UTF-8".to_owned())),
        Ok(url) => Some((name, Proxy::parse(&url, name).err()?)),
    }
}

/// Why the URL of a proxy cannot be used, as the rest of a sentence without what may be a password.
#[cfg(feature = "agent")]
pub(crate) fn proxy_problem(url: &str) -> Option<String> {
    Proxy::parse(url, "").err()
}

/// Whether it is an `https` URL.
pub(super) fn is_tls(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}

/// The port of an http or https URL.
pub(super) fn port(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if is_tls(uri) { 443 } else { 80 })
}

impl Proxy {
    /// Reads `[http[s]://][user:password@]host[:port]`.
    ///
    /// # Errors
    /// What is wrong with it, as the rest of a sentence that does not contain what may be a password.
    pub(super) fn parse(url: &str, set_by: &'static str) -> Result<Self, String> {
        let shown = url.rsplit('@').next().unwrap_or_default();
        if url.contains('\\') {
            return Err(format!(
                "has a backslash: in the URL of a proxy DOMAIN\\user is DOMAIN%5Cuser, as in \
                 http://DOMAIN%5Cuser:password@{}",
                shown.rsplit('\\').next().unwrap_or_default()
            ));
        }
        let wrong = || {
            format!(
                "is {shown:?}, which is not the URL of a proxy, as in http://proxy.example.com:3128"
            )
        };
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let is_tls = match uri.scheme_str() {
            None | Some("http") => false,
            Some("https") => true,
            Some(scheme) if scheme.starts_with("socks") => {
                return Err(format!(
                    "is {shown:?}, a SOCKS proxy, and only HTTP proxies are supported"
                ));
            }
            Some(_) => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        let host = authority.host();
        if host.is_empty() {
            return Err(wrong());
        }
        let bare = authority.as_str().rsplit('@').next().unwrap_or_default();
        // A port that is too great would be read as none.
        let written = bare.strip_prefix(host).and_then(|rest| rest.strip_prefix(':'));
        if written.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
            return Err(format!("is {shown:?}, and a port is a number from 1 to 65535"));
        }
        let credentials = authority.as_str().rsplit_once('@').map(|(info, _)| {
            let (user, password) = info.split_once(':').unwrap_or((info, ""));
            let decoded = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
            Credentials { user: decoded(user), password: decoded(password) }
        });
        let scheme = if is_tls { "https" } else { "http" };
        Ok(Self {
            url: format!("{scheme}://{bare}/"),
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            is_tls,
            set_by,
            auth: ProxyAuth::new(credentials),
        })
    }

    /// An error on the way through this proxy. `unreachable` says that the proxy itself could not be reached, so that nothing is
    /// known of the server.
    pub(super) fn error(
        &self,
        stage: TransportStage,
        unreachable: bool,
        source: impl Into<Cause>,
    ) -> TransportError {
        let Self { url, set_by, .. } = self;
        let fault = ProxyFault { url: url.clone(), set_by, unreachable, source: source.into() };
        TransportError::new(stage, fault)
    }
}

/// An error on the way to the server, through `proxy` if there is one. `unreachable` as in [`Proxy::error`].
pub(super) fn error_of_way(
    proxy: Option<&Proxy>,
    stage: TransportStage,
    unreachable: bool,
    source: impl Into<Cause>,
) -> TransportError {
    match proxy {
        Some(proxy) => proxy.error(stage, unreachable, source),
        None => TransportError::new(stage, source),
    }
}

impl ProxyFault {
    /// What to do about it, if the proxy is the cause.
    pub(super) fn advice(&self) -> Option<String> {
        let Self { set_by, unreachable, .. } = self;
        unreachable.then(|| format!("is the proxy running, and is {set_by} right?"))
    }
}

impl fmt::Display for ProxyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, set_by, unreachable, .. } = self;
        match unreachable {
            true => write!(f, "the proxy {url} (from {set_by}) cannot be reached"),
            false => write!(f, "through the proxy {url} (from {set_by})"),
        }
    }
}

impl StdError for ProxyFault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_is_no_proxys_is_described_without_its_password() {
        let problem = |url: &str| Proxy::parse(url, "a test").err();
        for good in ["http://p:3128", "p:3128", "https://u:s3cret@p", "http://[::1]:1/"] {
            assert_eq!(problem(good), None, "{good}");
        }
        for bad in [
            "http://",
            "ftp://u:s3cret@p:1",
            "http://u:s3cret@p p:1",
            "socks5h://p:1080",
            "",
            "http://LAN\\u:s3cret@p:1",
            "http://u:s3cret@p:99999",
            "p:0",
            "http://[::1]:65536/",
        ] {
            let problem = problem(bad).unwrap();
            assert!(!problem.contains("s3cret"), "{problem}");
        }
        assert!(problem("socks5://p").unwrap().contains("SOCKS"));
        assert!(problem("p:99999").unwrap().contains("a port is a number from 1 to 65535"));
        assert!(problem("http://LAN\\u:p@p:1").unwrap().contains("DOMAIN%5Cuser:password@p:1"));
    }

    #[test]
    fn a_proxys_port_is_that_of_its_scheme_unless_it_has_one() {
        for (url, host, port, shown) in [
            ("http://p", "p", 80, "http://p/"),
            ("https://p", "p", 443, "https://p/"),
            ("u:s3cret@p:3128", "p", 3128, "http://p:3128/"),
            ("http://[::1]:1/", "[::1]", 1, "http://[::1]:1/"),
        ] {
            let proxy = Proxy::parse(url, "a test").ok().unwrap();
            assert_eq!((proxy.host.as_str(), proxy.port, proxy.url.as_str()), (host, port, shown));
        }
    }

    #[test]
    fn each_url_takes_the_proxy_of_its_scheme_and_the_reason_is_named() {
        let of = |variables: &'static [(&str, &str)], url: &str| {
            let get = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let Route { proxy, reason } = Proxies::of_variables(get).route(&url.parse().unwrap());
            format!("{} because {reason}", proxy.as_deref().unwrap_or("direct"))
        };
        for (variables, url, expected) in [
            (&[][..], "http://hub.test/", "direct because neither"),
            (&[("HTTP_PROXY", "a:1")], "http://hub.test/", "http://a:1/ because HTTP_PROXY"),
            (&[("HTTP_PROXY", "a:1")], "https://hub.test/", "direct because neither"),
            (
                &[("https_proxy", "a:1"), ("ALL_PROXY", "b:1")],
                "https://hub.test/",
                "http://a:1/ because https_proxy",
            ),
            (
                &[("https_proxy", "a:1"), ("ALL_PROXY", "b:1")],
                "http://hub.test/",
                "http://b:1/ because ALL_PROXY",
            ),
            // The first that is set counts, even if it is empty; then the one for all.
            (
                &[("HTTP_PROXY", ""), ("http_proxy", "a:1")],
                "http://hub.test/",
                "direct because neither",
            ),
            (
                &[("HTTP_PROXY", ""), ("all_proxy", "b:1")],
                "http://hub.test/",
                "http://b:1/ because all_proxy",
            ),
            (
                &[("HTTP_PROXY", "ftp://a:1"), ("all_proxy", "b:1")],
                "http://hub.test/",
                "http://b:1/ because all_proxy",
            ),
            // A client of a CGI program sets HTTP_PROXY.
            (
                &[("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "a:1")],
                "http://hub.test/",
                "direct because neither",
            ),
            (
                &[("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "a:1"), ("http_proxy", "b:1")],
                "http://hub.test/",
                "http://b:1/ because http_proxy",
            ),
            (
                &[("REQUEST_METHOD", "GET"), ("HTTPS_PROXY", "a:1")],
                "https://hub.test/",
                "http://a:1/ because HTTPS_PROXY",
            ),
            (
                &[("ALL_PROXY", "a:1"), ("no_proxy", "x.test, .test:8080")],
                "http://hub.test:8080/",
                "direct because .test:8080 is among the exceptions of no_proxy",
            ),
            (
                &[("ALL_PROXY", "a:1"), ("no_proxy", "x.test, .test:8080")],
                "http://hub.test/",
                "http://a:1/ because ALL_PROXY",
            ),
            (
                &[("ALL_PROXY", "a:1"), ("NO_PROXY", "*")],
                "https://hub.test/",
                "direct because * is among",
            ),
        ] {
            let found = of(variables, url);
            assert!(found.starts_with(expected), "{variables:?} {url}: {found}");
        }
        assert_eq!(Proxies::none().route(&"http://a/".parse().unwrap()).proxy, None);
    }
}
