//! What a proxy answered in place of passing a request on: the status, what it offers or shows, and which setting helps.

use std::error::Error as StdError;
use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::proxy::Proxy;
use super::proxy_auth::{Denial, DenialReason};
use super::{TransportError, TransportStage};

/// Characters of a page that are shown.
const SHOWN_MAX: usize = 100;

/// The answer of a proxy that did not let a request pass, in [`TransportError::proxy_refusal`](super::TransportError::proxy_refusal).
/// Its text is one line, for the end of a sentence.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProxyRefusal {
    /// The URL of the proxy, without credentials.
    pub proxy: String,
    /// What set it: a setting or a variable.
    pub set_by: String,
    /// Its answer. After a 502, 503 or 504 it could not reach the server; 407 requires authentication; anything else is its policy.
    pub status: StatusCode,
    /// The schemes of authentication that it offers with a 407, in its words.
    pub schemes: Vec<String>,
    /// The title of the page that it sent, or the beginning of its text.
    pub page: Option<String>,
    denial: Option<DenialReason>,
}

impl ProxyRefusal {
    /// The answer to CONNECT.
    pub(super) fn of_answer(
        proxy: &Proxy,
        status: StatusCode,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Self {
        Self {
            proxy: proxy.url.clone(),
            set_by: proxy.set_by.to_owned(),
            status,
            schemes: Vec::new(),
            page: page(headers, body),
            denial: None,
        }
    }

    /// A 407 that cannot be answered.
    pub(super) fn of_denial(proxy: &Proxy, denial: Denial) -> Self {
        Self {
            proxy: proxy.url.clone(),
            set_by: proxy.set_by.to_owned(),
            status: StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            schemes: denial.offered,
            page: None,
            denial: Some(denial.reason),
        }
    }

    pub(super) fn into_error(self) -> TransportError {
        let stage = match self.denial {
            Some(_) => TransportStage::ProxyAuthentication,
            None => TransportStage::ProxyRefused,
        };
        TransportError::new(stage, self)
    }

    /// What to do about it: the rest of a sentence.
    pub fn advice(&self) -> String {
        let bare = self.proxy.split("://").last().unwrap_or_default().trim_end_matches('/');
        let scheme = if self.proxy.starts_with("https:") { "https" } else { "http" };
        let example = format!("{scheme}://user:password@{bare}");
        let setting = match self.set_by.strip_prefix("the setting ") {
            Some(key) => format!("{key} = \"{example}\""),
            None => format!("{}={example}", self.set_by),
        };
        match self.denial {
            Some(DenialReason::NoCredentials) => format!(
                "set user and password in the proxy's URL: {setting} (a domain's user is DOMAIN%5Cuser)"
            ),
            Some(DenialReason::Refused) => {
                format!(
                    "check user and password in the proxy's URL: {setting} (a domain's user is DOMAIN%5Cuser)"
                )
            }
            Some(DenialReason::NoScheme) => format!(
                "run a helper on this machine that speaks it, such as cntlm or px, and set {} to that",
                self.set_by
            ),
            None if self.is_unavailable() => {
                "is the server running? Else check the URL, or ask who runs the proxy".to_owned()
            }
            None => "ask who runs the proxy to allow this server".to_owned(),
        }
    }

    /// Whether the proxy would have let the request pass, but did not reach the server.
    pub fn is_unavailable(&self) -> bool {
        matches!(self.status.as_u16(), 502..=504)
    }
}

impl fmt::Display for ProxyRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { proxy, set_by, status, schemes, page, denial } = self;
        write!(f, "{proxy} (from {set_by}) answered {status}")?;
        match (denial, schemes.join(", ")) {
            (None, _) => {}
            (Some(DenialReason::Refused), offered) => {
                write!(f, " to the user and password in its URL, and offers {offered}")?;
            }
            (Some(_), offered) if offered.is_empty() => f.write_str(" and offers no scheme")?,
            (Some(_), offered) => write!(f, " and offers {offered}")?,
        }
        match page {
            Some(page) => write!(f, " with the page {page:?}"),
            None => Ok(()),
        }
    }
}

impl StdError for ProxyRefusal {}

/// The title of an HTML page, or the beginning of a text.
fn page(headers: &HeaderMap, body: &Bytes) -> Option<String> {
    let kind = headers.get(http::header::CONTENT_TYPE).map(|kind| kind.as_bytes());
    let text = String::from_utf8_lossy(body);
    let lower = text.to_ascii_lowercase();
    let title = || {
        let begin = lower.find("<title")?;
        let begin = begin + lower.get(begin..)?.find('>')? + 1;
        text.get(begin..begin + lower.get(begin..)?.find("</title")?)
    };
    let is_text = kind.is_some_and(|kind| kind.to_ascii_lowercase().starts_with(b"text/plain"));
    let shown = title().or_else(|| is_text.then_some(&*text))?;
    let words = shown.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let shown: String = words.join(" ").chars().take(SHOWN_MAX).collect();
    (!shown.is_empty()).then_some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(set_by: &'static str) -> Proxy {
        Proxy::parse("http://u:s3cret@proxy.test:3128", set_by).ok().unwrap()
    }

    #[test]
    fn a_page_is_shown_by_its_title_in_one_line() {
        for (kind, body, expected) in [
            ("text/html", "<html><TITLE>\n Access\r\n Denied </TITLE>x", Some("Access Denied")),
            ("text/html; charset=utf-8", "<p>none</p>", None),
            ("text/plain", "no\x1b[31m way\n", Some("no [31m way")),
            ("text/html", "<title>open", None),
            ("text/html", "<title", None),
            ("application/json", "{}", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::CONTENT_TYPE, kind.parse().unwrap());
            let found = page(&headers, &Bytes::from_static(body.as_bytes()));
            assert_eq!(found.as_deref(), expected, "{body:?}");
        }
    }

    #[test]
    fn a_refusal_names_status_offer_proxy_and_the_setting_that_helps() {
        let denial = |reason| Denial { offered: vec!["NTLM".into(), "Basic".into()], reason };
        for (set_by, reason, said, advised) in [
            (
                "the setting proxy",
                DenialReason::NoCredentials,
                "and offers NTLM, Basic",
                "proxy = \"http://user:password@proxy.test:3128\"",
            ),
            (
                "HTTPS_PROXY",
                DenialReason::NoCredentials,
                "(from HTTPS_PROXY)",
                "HTTPS_PROXY=http://user:password@proxy.test:3128",
            ),
            (
                "HTTPS_PROXY",
                DenialReason::Refused,
                "to the user and password in its URL",
                "check user and password in the proxy's URL: HTTPS_PROXY=http://user:password@proxy.test:3128 (a domain's user is DOMAIN%5Cuser)",
            ),
            ("the setting proxy", DenialReason::NoScheme, "offers", "cntlm or px"),
        ] {
            let error = ProxyRefusal::of_denial(&proxy(set_by), denial(reason)).into_error();
            let text = error.to_string();
            assert!(
                text.contains("http://proxy.test:3128/ (from") && text.contains("407"),
                "{text}"
            );
            assert!(text.contains(said) && !text.contains("s3cret"), "{text}");
            let advice = error.advice().unwrap();
            assert!(advice.contains(advised), "{advice}");
            assert_eq!(error.stage(), TransportStage::ProxyAuthentication);
        }
        for (status, unavailable) in
            [(403, false), (302, false), (502, true), (503, true), (504, true)]
        {
            let status = StatusCode::from_u16(status).unwrap();
            let refusal = ProxyRefusal::of_answer(
                &proxy("ALL_PROXY"),
                status,
                &HeaderMap::new(),
                &Bytes::new(),
            );
            assert_eq!(refusal.is_unavailable(), unavailable, "{status}");
            assert_eq!(refusal.into_error().stage(), TransportStage::ProxyRefused);
        }
    }
}
