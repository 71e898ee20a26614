//! The settings of an [`HttpTransport`](super::HttpTransport), checked when it is built.

use std::fmt;
use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;

use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::connector::Connector;
use super::network::HttpTransport;
use super::pin::KeyPin;
use super::proxy::Proxies;
use super::trust::{self, Trust};

/// How long connecting may take, with name lookup, proxy and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings of an [`HttpTransport`].
#[derive(Debug, Clone)]
pub struct HttpTransportBuilder {
    connect_timeout: Duration,
    user_agent: String,
    proxy: ProxyChoice,
    ca_file: Option<PathBuf>,
    accept_invalid_certs: bool,
    http1: bool,
    pins: Vec<String>,
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
    /// A pin is not the SHA-256 of a key.
    #[error(
        "the pin {pin:?} is not the SHA-256 of a key in Base64, as in sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    )]
    Pin {
        /// As it was set.
        pin: String,
    },
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

impl Default for HttpTransportBuilder {
    fn default() -> Self {
        Self {
            connect_timeout: CONNECT_TIMEOUT,
            user_agent: concat!("bellwire-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            proxy: ProxyChoice::Environment,
            ca_file: None,
            accept_invalid_certs: false,
            http1: false,
            pins: Vec::new(),
        }
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

    /// Uses this proxy in place of the environment's: `http://[user:password@]host:port`. User and password are percent-encoded,
    /// a domain's user as `DOMAIN%5Cuser`; they answer Basic, Digest and NTLM.
    #[must_use]
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = ProxyChoice::Url { url: url.into(), except: String::new() };
        self
    }

    /// As [`HttpTransportBuilder::proxy`], except for the hosts in `except`, in the syntax of `NO_PROXY`: hosts, domains,
    /// addresses and networks, each with `:port` or without, separated by commas; `*` is all.
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

    /// Also requires that the key of the server's certificate is this one, or another that is set so: the SHA-256 of its
    /// SubjectPublicKeyInfo in Base64 (RFC 7469, section 2.4), as curl writes it, `sha256//…`. The certificate must be trusted
    /// all the same. Set the key of the next certificate too, before it is used.
    #[must_use]
    pub fn pin_sha256(mut self, pin: impl Into<String>) -> Self {
        self.pins.push(pin.into());
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
        let user_agent =
            HeaderValue::from_str(&self.user_agent).map_err(|_| InvalidSetting::UserAgent)?;
        let proxies = self.proxies()?;
        let mut trust = Trust {
            authorities: self.authorities()?,
            pins: Vec::new(),
            accept_any: self.accept_invalid_certs,
        };
        // A proxy's key is not that of the server.
        let proxy_tls = trust::config(&trust, &["http/1.1"]).map_err(InvalidSetting::Tls)?;
        trust.pins = self.pins()?;
        let protocols: &[&str] = match self.http1 || cfg!(not(feature = "http2")) {
            true => &["http/1.1"],
            false => &["h2", "http/1.1"],
        };
        let tls = trust::config(&trust, protocols).map_err(InvalidSetting::Tls)?;
        let connector = Connector::new(proxies, tls, proxy_tls, self.connect_timeout, user_agent);
        Ok(HttpTransport::of(connector, self.http1))
    }

    fn proxies(&self) -> Result<Proxies, InvalidSetting> {
        match &self.proxy {
            ProxyChoice::Environment => Ok(Proxies::of_environment()),
            ProxyChoice::Direct => Ok(Proxies::none()),
            ProxyChoice::Url { url, except } => Proxies::of_setting(url, except)
                .map_err(|problem| InvalidSetting::Proxy(format!("it {problem}").into())),
        }
    }

    fn pins(&self) -> Result<Vec<KeyPin>, InvalidSetting> {
        let parsed =
            |pin: &String| pin.parse().map_err(|_| InvalidSetting::Pin { pin: pin.clone() });
        self.pins.iter().map(parsed).collect()
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
