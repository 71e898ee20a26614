//! A listener as it is configured: an address, and the scheme that is spoken there.
//!
//! `listen` names each as one text; a table `[[listener]]` of the file (`tables.rs`) has the other members of
//! [`ListenerConfig`] too. What all listeners share is in [`Config`](super::Config).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::{ClientCertificates, Networks};

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP/1.
    Http,
    /// HTTP/2 or HTTP/1 over TLS.
    Https,
}

/// Where a hub listens, and how.
///
/// ```
/// use bellwire_hub::config::{ListenerConfig, Scheme};
///
/// let plain: ListenerConfig = "http://[::1]".parse()?;
/// assert_eq!((plain.address.port(), plain.scheme), (80, Some(Scheme::Http)));
/// let either: ListenerConfig = "127.0.0.1:8888".parse()?;
/// assert_eq!(either.scheme, None);
/// # Ok::<(), bellwire_hub::config::InvalidListener>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerConfig {
    /// The address; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// What is spoken there; `None` is TLS when the hub has a certificate, and plain HTTP otherwise.
    pub scheme: Option<Scheme>,
    /// Whether callers without a credential may do everything here, also on a hub that has tokens. Default false.
    pub open: bool,
    /// The proxies that are believed what they say of their clients' addresses. Default none.
    pub trusted_proxies: Networks,
    /// Whether connections of the trusted proxies begin with a header of the PROXY protocol. Default false.
    pub proxy_protocol: bool,
    /// Where the trusted proxies say it in HTTP. Default `None`: in `X-Forwarded-For`, or if that is not there in
    /// `Forwarded`.
    pub forwarded: Option<ForwardedHeader>,
    /// Which certificates its clients may or must have, where it speaks TLS. Default none.
    pub client_certificates: Option<ClientCertificates>,
}

/// A field in which a proxy names its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, as most proxies have it.
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}

/// A text that names no listener: neither `address:port` nor `http://address[:port]` or `https://address[:port]`, with
/// an IPv6 address in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address with a port, as in 127.0.0.1:8888, http://0.0.0.0 or https://[::]:443")]
pub struct InvalidListener;

impl Scheme {
    /// As in a URL, without `://`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port of a URL that names none (RFC 9110, sections 4.2.1 and 4.2.2).
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl ListenerConfig {
    /// A listener on this address; what is spoken there depends on whether the hub has a certificate.
    pub const fn on(address: SocketAddr) -> Self {
        Self {
            address,
            scheme: None,
            open: false,
            trusted_proxies: Networks::none(),
            proxy_protocol: false,
            forwarded: None,
            client_certificates: None,
        }
    }

    /// Whether `listen` can say all that is set of it.
    pub fn is_short(&self) -> bool {
        *self == Self { scheme: self.scheme, ..Self::on(self.address) }
    }

    /// What is spoken on it, by a hub that has a certificate or has none.
    pub fn scheme(&self, has_certificate: bool) -> Scheme {
        let by_certificate = if has_certificate { Scheme::Https } else { Scheme::Http };
        self.scheme.unwrap_or(by_certificate)
    }

    /// Whether only this machine reaches it.
    pub fn is_loopback(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }

    /// Whether it is every address of this machine, the loopback ones among them.
    pub fn is_unspecified(&self) -> bool {
        self.address.ip().to_canonical().is_unspecified()
    }
}

impl ForwardedHeader {
    /// The name of the field in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }
}

impl From<SocketAddr> for ListenerConfig {
    fn from(address: SocketAddr) -> Self {
        Self::on(address)
    }
}

impl FromStr for ListenerConfig {
    type Err = InvalidListener;

    fn from_str(text: &str) -> Result<Self, InvalidListener> {
        let Some((scheme, authority)) = text.split_once("://") else {
            return text.parse().map(Self::on).map_err(|_| InvalidListener);
        };
        let schemes = [Scheme::Http, Scheme::Https];
        let scheme = schemes.into_iter().find(|known| known.name().eq_ignore_ascii_case(scheme));
        let scheme = scheme.ok_or(InvalidListener)?;
        // As people copy a URL.
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let address = match authority.parse() {
            Ok(address) => address,
            Err(_) => SocketAddr::new(host(authority)?, scheme.default_port()),
        };
        Ok(Self { scheme: Some(scheme), ..Self::on(address) })
    }
}

/// An address without a port; IPv6 in brackets (RFC 3986, section 3.2.2).
fn host(text: &str) -> Result<IpAddr, InvalidListener> {
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let host = match bracketed {
        Some(text) => text.parse().ok().map(IpAddr::V6),
        None => text.parse().ok().map(IpAddr::V4),
    };
    host.ok_or(InvalidListener)
}

/// The text that it was parsed from, with its port.
impl fmt::Display for ListenerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Some(scheme) => write!(f, "{scheme}://{}", self.address),
            None => self.address.fmt(f),
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_an_address_with_or_without_a_scheme() {
        for (text, shown) in [
            ("127.0.0.1:8888", "127.0.0.1:8888"),
            ("[::1]:0", "[::1]:0"),
            ("http://0.0.0.0", "http://0.0.0.0:80"),
            ("https://0.0.0.0", "https://0.0.0.0:443"),
            ("https://[::]", "https://[::]:443"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("HTTPS://192.0.2.1:8443/", "https://192.0.2.1:8443"),
        ] {
            let listener: ListenerConfig = text.parse().unwrap();
            assert_eq!(listener.to_string(), shown);
            assert_eq!(shown.parse(), Ok(listener));
        }
    }

    #[test]
    fn whatever_else_is_refused() {
        for text in [
            "",
            "127.0.0.1",
            "localhost:80",
            "http://localhost",
            "http://",
            "http://::1",
            "http://[192.0.2.1]",
            "http://0.0.0.0:80/path",
            "http://0.0.0.0:65536",
            "ftp://0.0.0.0:80",
            "://0.0.0.0:80",
            "http://a@0.0.0.0:80",
        ] {
            assert_eq!(text.parse::<ListenerConfig>(), Err(InvalidListener), "{text}");
        }
    }

    #[test]
    fn without_a_scheme_the_certificate_decides() {
        for (text, with, without) in [
            ("127.0.0.1:1", Scheme::Https, Scheme::Http),
            ("http://127.0.0.1:1", Scheme::Http, Scheme::Http),
            ("https://127.0.0.1:1", Scheme::Https, Scheme::Https),
        ] {
            let listener: ListenerConfig = text.parse().unwrap();
            assert_eq!((listener.scheme(true), listener.scheme(false)), (with, without), "{text}");
        }
    }
}
