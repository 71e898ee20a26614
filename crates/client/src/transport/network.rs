//! Requests over the network: reqwest, and every setting that Bellwire makes of it.
//!
//! TLS is rustls with ring, the roots are the platform's ([`trust`](super::trust)). Proxies come from the environment by
//! default ([`proxy`](super::proxy)). No other file names reqwest's client.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::proxy::{self, Proxies};
use super::resolve::Resolver;
use super::{ByteStream, Request, ResponseFuture, Transport, TransportError, TransportStage};
use super::{coding, trust};

/// How long connecting may take, with name lookup, proxy and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection stays in the pool: shorter than in servers and middleboxes, so that a request seldom uses one
/// that is about to close.
const POOL_IDLE: Duration = Duration::from_secs(15);
/// Interval and timeout of pings on a connection that many requests share: one that is silently dropped blocks all of them,
/// and those that follow.
#[cfg(feature = "http2")]
const SHARED_PING_EVERY: Duration = Duration::from_secs(10);
#[cfg(feature = "http2")]
const SHARED_PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The network, by HTTP/1.1 or HTTP/2, with or without TLS, through a proxy where one is set.
///
/// `HTTP_PROXY` (lower case: also under CGI), `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are
/// honoured in either case; a proxy's user and password stand in its URL. There is no limit on
/// the time that a response takes, since a stream has no end: the caller sets that.
///
/// ```
/// use bellwire_client::{EventSource, transport::HttpTransport};
///
/// let transport = HttpTransport::builder().ca_file("/etc/ssl/our-ca.pem").build();
/// // There is no such file here, and the error names it.
/// assert!(transport.unwrap_err().to_string().contains("/etc/ssl/our-ca.pem"));
///
/// let transport = HttpTransport::builder().proxy("http://proxy.lan:3128").build()?;
/// let source = EventSource::builder("https://example.com/events").transport(transport).build()?;
/// # drop(source);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct HttpTransport {
    client: reqwest::Client,
    proxies: Arc<Proxies>,
}

/// The settings of an [`HttpTransport`].
#[derive(Debug, Clone)]
pub struct HttpTransportBuilder {
    connect_timeout: Duration,
    user_agent: String,
    proxy: ProxyChoice,
    ca_file: Option<PathBuf>,
    accept_invalid_certs: bool,
    http1: bool,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSetting {
    /// The file with certificate authorities cannot be read, or contains none.
    #[error("the CA file {} cannot be used: {source}", .path.display())]
    CaFile {
        /// Its path.
        path: PathBuf,
        /// Why it cannot be read or parsed.
        source: Cause,
    },
    /// The URL of the proxy is invalid.
    #[error("the proxy cannot be used: {0}")]
    Proxy(#[source] Cause),
    /// The user agent is not a valid header value.
    #[error("the user agent has characters that a header may not have")]
    UserAgent,
    /// TLS could not be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[source] Cause),
}

/// The error of a library below.
pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
enum ProxyChoice {
    Environment,
    Direct,
    Url { url: String, except: String },
}

/// A proxy's URL may hold a password.
impl fmt::Debug for ProxyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "Environment",
            Self::Direct => "Direct",
            Self::Url { .. } => "Url(***)",
        })
    }
}

impl HttpTransport {
    /// The settings, to be changed and built.
    pub fn builder() -> HttpTransportBuilder {
        HttpTransportBuilder {
            connect_timeout: CONNECT_TIMEOUT,
            user_agent: concat!("bellwire-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            proxy: ProxyChoice::Environment,
            ca_file: None,
            accept_invalid_certs: false,
            http1: false,
        }
    }

    /// A transport with the default settings.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new() -> Result<Self, InvalidSetting> {
        Self::builder().build()
    }
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpTransport")
    }
}

impl HttpTransportBuilder {
    /// How long connecting may take. Default: 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The header `User-Agent`. Default: `bellwire-client/` and the version.
    #[must_use]
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = user_agent.into();
        self
    }

    /// Uses this proxy in place of the environment's: `http://[user:password@]host:port`.
    #[must_use]
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = ProxyChoice::Url { url: url.into(), except: String::new() };
        self
    }

    /// As [`HttpTransportBuilder::proxy`], except for the hosts in `except`, in the syntax of `NO_PROXY`: hosts, domains,
    /// addresses and networks, separated by commas.
    #[must_use]
    pub fn proxy_except(mut self, url: impl Into<String>, except: impl Into<String>) -> Self {
        self.proxy = ProxyChoice::Url { url: url.into(), except: except.into() };
        self
    }

    /// Uses no proxy, whatever the environment sets.
    #[must_use]
    pub fn no_proxy(mut self) -> Self {
        self.proxy = ProxyChoice::Direct;
        self
    }

    /// Also trusts the authorities in this PEM file, beside the platform's.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Whether any certificate is accepted. Everyone on the network path can then read and change what is sent: warn the
    /// user. Default: no.
    #[must_use]
    pub fn danger_accept_invalid_certs(mut self, accept: bool) -> Self {
        self.accept_invalid_certs = accept;
        self
    }

    /// Whether to use HTTP/1.1 alone. Each request in flight then has a connection of its own, and one that is silently
    /// dropped blocks no other; at most one idle connection stays in the pool. Default: no.
    #[must_use]
    pub fn http1(mut self, http1: bool) -> Self {
        self.http1 = http1;
        self
    }

    /// The transport.
    ///
    /// # Errors
    /// [`InvalidSetting`] names the setting that cannot be used.
    pub fn build(self) -> Result<HttpTransport, InvalidSetting> {
        install_crypto();
        let authorities = self.authorities()?;
        let proxies = self.proxies()?;
        let mut client = self.client()?;
        if !self.accept_invalid_certs {
            let protocols: &[&str] = match self.http1 || cfg!(not(feature = "http2")) {
                true => &["http/1.1"],
                false => &["h2", "http/1.1"],
            };
            let tls = trust::config(authorities, protocols).map_err(InvalidSetting::Tls)?;
            client = client.tls_backend_preconfigured(tls);
        }
        let client = client.build().map_err(|error| InvalidSetting::Tls(error.into()))?;
        Ok(HttpTransport { client, proxies: Arc::new(proxies) })
    }

    /// The same proxies as [`HttpTransportBuilder::client`] sets, to be named in errors.
    fn proxies(&self) -> Result<Proxies, InvalidSetting> {
        Ok(match &self.proxy {
            ProxyChoice::Environment if environment_excepts_all() => Proxies::none(),
            ProxyChoice::Environment => Proxies::of_environment(),
            ProxyChoice::Direct => Proxies::none(),
            ProxyChoice::Url { url, except } => {
                if let Some(problem) = proxy::problem_of(url) {
                    return Err(InvalidSetting::Proxy(format!("it {problem}").into()));
                }
                Proxies::of_setting(url, except)
            }
        })
    }

    fn client(&self) -> Result<reqwest::ClientBuilder, InvalidSetting> {
        let user_agent =
            HeaderValue::from_str(&self.user_agent).map_err(|_| InvalidSetting::UserAgent)?;
        let client = reqwest::Client::builder()
            .user_agent(user_agent)
            .connect_timeout(self.connect_timeout)
            .pool_idle_timeout(POOL_IDLE)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .dns_resolver(Resolver::of_system())
            .tls_danger_accept_invalid_certs(self.accept_invalid_certs);
        #[cfg(feature = "http2")]
        let client = client
            .http2_keep_alive_interval(SHARED_PING_EVERY)
            .http2_keep_alive_timeout(SHARED_PING_TIMEOUT)
            .http2_keep_alive_while_idle(true);
        let client = match self.http1 {
            true => client.http1_only().pool_max_idle_per_host(1),
            false => client,
        };
        Ok(match &self.proxy {
            ProxyChoice::Environment if environment_excepts_all() => client.no_proxy(),
            ProxyChoice::Environment => client,
            ProxyChoice::Direct => client.no_proxy(),
            ProxyChoice::Url { url, except } => {
                let proxy = reqwest::Proxy::all(url.as_str())
                    .map_err(|error| InvalidSetting::Proxy(error.without_url().into()))?
                    .no_proxy(reqwest::NoProxy::from_string(except));
                client.no_proxy().proxy(proxy)
            }
        })
    }

    fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, InvalidSetting> {
        let Some(path) = &self.ca_file else {
            return Ok(Vec::new());
        };
        let unusable = |source: Cause| InvalidSetting::CaFile { path: path.clone(), source };
        let pem = std::fs::read(path).map_err(|error| unusable(error.into()))?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| unusable(error.into()))?;
        if certificates.is_empty() {
            return Err(unusable("it has no certificate in PEM form".into()));
        }
        trust::check(&certificates).map_err(unusable)?;
        Ok(certificates)
    }
}

impl Transport for HttpTransport {
    fn send(&self, mut request: Request) -> ResponseFuture {
        let Self { client, proxies } = self.clone();
        coding::request_identity(request.headers_mut());
        Box::pin(async move {
            let uri = request.uri().clone();
            let mut request = reqwest::Request::try_from(request).map_err(|error| {
                TransportError::new(TransportStage::Connect, error.without_url())
            })?;
            // Without a body, so that a GET has no `Content-Length`.
            if request.body().and_then(reqwest::Body::as_bytes) == Some(&[]) {
                *request.body_mut() = None;
            }
            let response: http::Response<reqwest::Body> = client
                .execute(request)
                .await
                .map_err(|error| {
                    let stage = stage(&error);
                    let unreachable = stage == TransportStage::Connect
                        && (proxies.forwards(&uri) || is_without_connection(&error));
                    let cause = error.without_url().into();
                    TransportError::new(stage, proxies.explain(&uri, unreachable, cause))
                })?
                .into();
            coding::decoded(response.map(|body| -> ByteStream {
                let chunks = http_body_util::BodyDataStream::new(body);
                Box::pin(chunks.map_err(|error: reqwest::Error| {
                    TransportError::new(TransportStage::Body, error.without_url())
                }))
            }))
        })
    }
}

/// Whether there was no connection to the first machine on the way, its name not found or its port refused: hyper-util's
/// errors of that have no public type, and a test with a dead proxy notices when their text changes.
fn is_without_connection(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if text.starts_with("tcp connect error") || text.starts_with("dns error") {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The point at which a request failed.
fn stage(error: &reqwest::Error) -> TransportStage {
    if !error.is_connect() {
        return TransportStage::Response;
    }
    // hyper-util's error for a proxy's answer to CONNECT has no public type: only its text can be compared, and a test with a
    // real proxy notices when that changes.
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if is_untrusted(error) {
            return TransportStage::Untrusted;
        }
        match error.to_string().as_str() {
            "tunnel error: proxy authorization required" => {
                return TransportStage::ProxyAuthentication;
            }
            "tunnel error: unsuccessful"
            | "tunnel error: unexpected end of file"
            | "tunnel error: proxy response headers too long" => {
                return TransportStage::ProxyRefused;
            }
            _ => cause = error.source(),
        }
    }
    TransportStage::Connect
}

/// Whether TLS refused the peer. Its error is inside an I/O error, or inside one nested in that, which return it by `get_ref`
/// and not by `source`.
fn is_untrusted(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref()) {
        return is_untrusted(inner);
    }
    matches!(
        error.downcast_ref(),
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidMessage(_))
    )
}

/// Whether `NO_PROXY` is `*`, which excepts every host; reqwest takes it for a name.
fn environment_excepts_all() -> bool {
    let set = ["NO_PROXY", "no_proxy"].into_iter().find_map(|name| std::env::var(name).ok());
    set.is_some_and(|hosts| hosts.trim() == "*")
}

/// Makes ring the TLS provider of this process, unless the program has installed one.
fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // It fails only when there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn an_invalid_setting_has_its_cause_as_its_source() {
        let missing = HttpTransport::builder().ca_file("/no/such/ca.pem").build().unwrap_err();
        let cause = missing.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
        assert_eq!(cause.map(std::io::Error::kind), Some(std::io::ErrorKind::NotFound));
        assert!(missing.to_string().contains("/no/such/ca.pem cannot be used: No such file"));
        let proxy = HttpTransport::builder().proxy("http://kiosk:s3cret@").build().unwrap_err();
        assert!(proxy.source().is_some() && !format!("{proxy} {proxy:?}").contains("s3cret"));
    }
}
