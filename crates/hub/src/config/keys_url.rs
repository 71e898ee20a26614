//! Where the keys of another issuer's tokens are fetched.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// The URL of a JWK Set: `https`, or `http`.
///
/// ```
/// use bellwire_hub::config::KeysUrl;
///
/// let url: KeysUrl = "https://id.example.com/jwks".parse()?;
/// assert!(url.is_safe());
/// let url: KeysUrl = "http://127.0.0.1:8080/jwks".parse()?;
/// assert!(url.is_safe(), "there is no network between");
/// let url: KeysUrl = "http://id.example.com/jwks".parse()?;
/// assert!(!url.is_safe());
/// assert!("https://user:password@id.example.com/".parse::<KeysUrl>().is_err());
/// # Ok::<(), bellwire_hub::config::InvalidKeysUrl>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysUrl(Uri);

/// The text is not a URL of http or https, or has a user in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is a URL, as in https://id.example.com/jwks, without a user or password")]
pub struct InvalidKeysUrl;

impl KeysUrl {
    /// As it is requested.
    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }

    /// Whether no one on the way could replace the keys: TLS, or this machine.
    pub fn is_safe(&self) -> bool {
        self.0.scheme_str() == Some("https") || self.0.host().is_some_and(is_loopback)
    }

    /// Whether a redirect may lead there: no other host is trusted for it, and TLS is not left.
    pub(crate) fn allows(&self, to: &Uri) -> bool {
        let authority = |uri: &Uri| uri.authority().map(|a| a.as_str().to_ascii_lowercase());
        to.scheme() == self.0.scheme() && authority(to) == authority(&self.0)
    }
}

impl FromStr for KeysUrl {
    type Err = InvalidKeysUrl;

    fn from_str(text: &str) -> Result<Self, InvalidKeysUrl> {
        let uri: Uri = text.parse().map_err(|_| InvalidKeysUrl)?;
        let authority = uri.authority().ok_or(InvalidKeysUrl)?;
        let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        let plain = !authority.as_str().contains('@') && !authority.host().is_empty();
        // A port that is no number is none.
        let port = authority.as_str().ends_with(authority.host()) || authority.port_u16().is_some();
        (scheme && plain && port).then_some(Self(uri)).ok_or(InvalidKeysUrl)
    }
}

impl fmt::Display for KeysUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']);
    match address.parse::<std::net::IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host.trim_end_matches('.').eq_ignore_ascii_case("localhost"),
    }
}
