//! Which proxy a request goes through, and who set it: so that its failure names the proxy and not the server behind it.
//!
//! reqwest chooses the proxy by the same matcher, and does not report its choice. What the environment sets and that
//! matcher cannot read is a warning here; it skips it in silence.

use std::error::Error as StdError;
use std::fmt;

use http::Uri;
use hyper_util_proxy::client::proxy::matcher::Matcher;

use super::network::Cause;

/// The variables with a proxy, by the scheme of the request: the first that is set counts, even if it is empty.
const OF_HTTP: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
const OF_HTTPS: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const OF_ALL: [&str; 2] = ["ALL_PROXY", "all_proxy"];

/// The proxies of a transport.
pub(super) struct Proxies {
    matcher: Option<Matcher>,
    source: Source,
}

/// Who set the proxies.
enum Source {
    Setting,
    /// The variable for `http` and for `https`.
    Environment {
        http: &'static str,
        https: &'static str,
    },
}

/// A proxy in an error's chain.
#[derive(Debug)]
pub(super) struct ProxyFault {
    /// Without credentials.
    url: String,
    set_by: String,
    /// Whether the failure is surely between here and the proxy.
    unreachable: bool,
    source: Cause,
}

impl Proxies {
    /// None, whatever the environment sets.
    pub(super) fn none() -> Self {
        Self { matcher: None, source: Source::Setting }
    }

    /// The one that is set.
    pub(super) fn of_setting(url: &str, except: &str) -> Self {
        let matcher = Matcher::builder().all(url.to_owned()).no(except.to_owned()).build();
        Self { matcher: Some(matcher), source: Source::Setting }
    }

    /// Those of the environment. Each variable that cannot be used is a warning.
    pub(super) fn of_environment() -> Self {
        let set = |names: [&'static str; 2]| {
            let first = names.into_iter().find_map(|name| Some((name, std::env::var(name).ok()?)));
            first.filter(|(_, value)| !value.is_empty())
        };
        let usable = |names| {
            let (name, value) = set(names)?;
            if let Some(problem) = problem_of(&value) {
                tracing::warn!("{name} {problem}; correct it or unset it");
                return None;
            }
            Some(name)
        };
        let all = usable(OF_ALL);
        let of = |names| usable(names).or(all).unwrap_or(OF_ALL[0]);
        let source = Source::Environment { http: of(OF_HTTP), https: of(OF_HTTPS) };
        Self { matcher: Some(Matcher::from_env()), source }
    }

    /// The proxy of a failed request to `uri` as a cause between the two; `unreachable` as in [`ProxyFault`].
    pub(super) fn explain(&self, uri: &Uri, unreachable: bool, source: Cause) -> Cause {
        let Some(proxy) = self.matcher.as_ref().and_then(|matcher| matcher.intercept(uri)) else {
            return source;
        };
        let set_by = match &self.source {
            Source::Setting => "the setting proxy",
            Source::Environment { https, .. } if uri.scheme_str() == Some("https") => https,
            Source::Environment { http, .. } => http,
        };
        let url = proxy.uri().to_string();
        Box::new(ProxyFault { url, set_by: set_by.to_owned(), unreachable, source })
    }

    /// Whether a request to `uri` goes through a proxy that receives it as it is, without a tunnel.
    pub(super) fn forwards(&self, uri: &Uri) -> bool {
        let proxy = self.matcher.as_ref().and_then(|matcher| matcher.intercept(uri));
        proxy.is_some() && uri.scheme_str() == Some("http")
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

/// Why the URL of a proxy cannot be used, as the rest of a sentence; it does not contain what may be a password.
pub(super) fn problem_of(url: &str) -> Option<String> {
    let shown = url.rsplit('@').next().unwrap_or_default();
    let probe = Uri::from_static("http://hub.invalid/");
    match Matcher::builder().all(url.to_owned()).build().intercept(&probe) {
        None => Some(format!(
            "is {shown:?}, which is not the URL of a proxy, as in http://proxy.example.com:3128"
        )),
        Some(proxy)
            if proxy.uri().scheme_str().is_some_and(|scheme| scheme.starts_with("socks")) =>
        {
            Some(format!("is {shown:?}, a SOCKS proxy, and only HTTP proxies are supported"))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_is_no_proxys_is_described_without_its_password() {
        for good in ["http://p:3128", "p:3128", "https://u:s3cret@p", "http://[::1]:1/"] {
            assert_eq!(problem_of(good), None, "{good}");
        }
        for bad in
            ["http://", "ftp://u:s3cret@p:1", "http://u:s3cret@p p:1", "socks5h://p:1080", ""]
        {
            let problem = problem_of(bad).unwrap();
            assert!(!problem.contains("s3cret"), "{problem}");
        }
        assert!(problem_of("socks5://p").unwrap().contains("SOCKS"));
    }
}
