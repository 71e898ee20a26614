//! URLs of users: http or https, without a fragment, their credentials as a header.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderValue;
use percent_encoding::percent_decode_str;
use url::Url;

/// The text is not an absolute `http` or `https` URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{redacted:?} is not an http or https URL, as in http://127.0.0.1:8888")]
pub struct InvalidUrl {
    redacted: String,
}

impl InvalidUrl {
    /// The text, without what may be a password.
    pub fn redacted(&self) -> &str {
        &self.redacted
    }
}

/// An http or https URL with its user and password, which neither `Display` nor `Debug` shows.
///
/// ```
/// use bellwire_client::Address;
/// let hub: Address = "https://kiosk:s3cret@hub.example.com".parse()?;
/// assert_eq!(hub.to_string(), "https://hub.example.com/");
/// let typo = "htps://kiosk:s3cret@hub.example.com".parse::<Address>().unwrap_err();
/// assert_eq!(typo.redacted(), "hub.example.com");
/// # Ok::<(), bellwire_client::InvalidUrl>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    written: String,
    pub(crate) url: Url,
    pub(crate) authorization: Option<HeaderValue>,
}

impl Address {
    /// The whole URL, with user and password, for connecting.
    pub(crate) fn with_credentials(&self) -> &str {
        &self.written
    }

    /// The value of `Authorization` for its user and password, if it has them. It is hidden in `Debug`.
    pub fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    pub(crate) fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let invalid = || InvalidUrl {
            // The text before an @ may be a password.
            redacted: text.rsplit('@').next().unwrap_or_default().to_owned(),
        };
        let mut url = Url::parse(text).map_err(|_| invalid())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid());
        }
        let mut authorization = None;
        if !url.username().is_empty() || url.password().is_some() {
            let user: Vec<u8> = percent_decode_str(url.username()).collect();
            let password: Vec<u8> =
                percent_decode_str(url.password().unwrap_or_default()).collect();
            authorization = Some(basic(&user, &password));
            url.set_username("").map_err(|()| invalid())?;
            url.set_password(None).map_err(|()| invalid())?;
        }
        url.set_fragment(None);
        Ok(Self { written: text.to_owned(), url, authorization })
    }
}

impl FromStr for Address {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        Self::parse(text)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_str())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.url.as_str())
    }
}

/// Returns the value of `Authorization` for the next request; `None` for the one that was configured.
pub(crate) type Authorize = std::sync::Arc<dyn Fn() -> Option<HeaderValue> + Send + Sync>;

/// The value of `Authorization: Basic` (RFC 7617), hidden in `Debug`.
pub(crate) fn basic(user: &[u8], password: &[u8]) -> HeaderValue {
    let encoded = BASE64.encode([user, b":", password].concat());
    let value = HeaderValue::from_str(&format!("Basic {encoded}"));
    let mut value = value.unwrap_or_else(|_| unreachable!("base64 is ASCII"));
    value.set_sensitive(true);
    value
}

/// The value of `Authorization: Bearer` (RFC 6750), hidden in `Debug`; `None` when the token has characters that a header
/// may not have.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}
