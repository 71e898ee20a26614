//! The origin of a web page, as browsers send it in `Origin` (RFC 6454, section 6.2).

use std::fmt;
use std::str::FromStr;

use http::uri::Authority;

/// `scheme://host[:port]`, in lower case and without the scheme's own port.
///
/// ```
/// use bellwire_hub::config::PageOrigin;
///
/// let origin: PageOrigin = "https://Ops.example.com:443".parse()?;
/// assert_eq!(origin.to_string(), "https://ops.example.com");
/// assert!("https://ops.example.com/".parse::<PageOrigin>().is_err(), "that is a page, not an origin");
/// assert!("*".parse::<PageOrigin>().is_err());
/// # Ok::<(), bellwire_hub::config::InvalidOrigin>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageOrigin {
    text: String,
    scheme_bytes: usize,
}

/// The text is not an origin: it has a path, no scheme, or no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an origin is scheme://host or scheme://host:port, as in https://ops.example.com")]
pub struct InvalidOrigin;

impl PageOrigin {
    /// As in `https`.
    pub fn scheme(&self) -> &str {
        self.text.get(..self.scheme_bytes).unwrap_or_default()
    }
}

impl FromStr for PageOrigin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let (scheme, rest) = text.split_once("://").ok_or(InvalidOrigin)?;
        let scheme = scheme.to_ascii_lowercase();
        let of_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let authority: Authority = rest.parse().map_err(|_| InvalidOrigin)?;
        let host = authority.host().to_ascii_lowercase();
        // A port that is no number leaves a rest that is neither host nor port.
        let port = authority.port_u16();
        let whole = match authority.as_str().get(host.len()..) {
            Some("") => true,
            Some(rest) => port.is_some() && rest.starts_with(':'),
            None => false,
        };
        let at_host = authority.as_str().to_ascii_lowercase().starts_with(&host);
        if scheme.is_empty()
            || !scheme.chars().all(of_scheme)
            || host.is_empty()
            || !whole
            || !at_host
        {
            return Err(InvalidOrigin);
        }
        let usual = match scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        let scheme_bytes = scheme.len();
        let text = match port.filter(|port| Some(*port) != usual) {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        };
        Ok(Self { text, scheme_bytes })
    }
}

impl fmt::Display for PageOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
