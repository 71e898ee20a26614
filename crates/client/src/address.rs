//! URLs as users give them: of HTTP, without a fragment, their credentials turned into a header.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderValue;
use percent_encoding::percent_decode_str;
use reqwest::Url;

/// Text that is no absolute `http` or `https` URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{shown:?} is not an http or https URL, as in http://127.0.0.1:8888")]
pub struct InvalidUrl {
    shown: String,
}

/// Where to, and the `Authorization` that stood in it.
pub(crate) struct Address {
    pub(crate) url: Url,
    pub(crate) authorization: Option<HeaderValue>,
}

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let invalid = || InvalidUrl {
            // What stands before an @ may be a password.
            shown: text.rsplit('@').next().unwrap_or_default().to_owned(),
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
        Ok(Self { url, authorization })
    }
}

/// Gives the value of `Authorization` for the next request; `None` sends what was set once.
pub(crate) type Authorize = std::sync::Arc<dyn Fn() -> Option<HeaderValue> + Send + Sync>;

/// The value of `Authorization: Basic` (RFC 7617), kept out of `Debug`.
pub(crate) fn basic(user: &[u8], password: &[u8]) -> HeaderValue {
    let encoded = BASE64.encode([user, b":", password].concat());
    let value = HeaderValue::from_str(&format!("Basic {encoded}"));
    let mut value = value.unwrap_or_else(|_| unreachable!("base64 is ASCII"));
    value.set_sensitive(true);
    value
}

/// The value of `Authorization: Bearer` (RFC 6750), kept out of `Debug`; `None` when no header can
/// carry the token.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}
