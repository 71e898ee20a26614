//! Fetches a JWK Set from its URL, within [`JWT_FETCH_TIMEOUT`]: redirects stay on the host, and the body is bounded.

use std::path::Path;
use std::time::Duration;

use bellwire_proto::limits::{JWT_FETCH_REDIRECTS_MAX, JWT_FETCH_TIMEOUT, JWT_KEYS_BYTES_MAX};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;

use crate::config::KeysUrl;
use crate::tls::{Cause, Outgoing};

/// Where keys are fetched.
#[derive(Debug)]
pub(super) struct Fetch {
    url: KeysUrl,
    outgoing: Outgoing,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fetched {
    pub(super) body: Bytes,
    /// How long it is good for, if the answer says so.
    pub(super) max_age: Option<Duration>,
}

impl Fetch {
    /// Of this URL, whose server these authorities vouch for, or those of the system.
    pub(super) fn of(url: &KeysUrl, authorities: Option<&Path>) -> Result<Self, String> {
        Ok(Self { url: url.clone(), outgoing: Outgoing::new(authorities)? })
    }

    pub(super) fn url(&self) -> &KeysUrl {
        &self.url
    }

    /// Fetches it, or says why not: for the log alone.
    pub(super) async fn fetch(&self) -> Result<Fetched, String> {
        let fetched = tokio::time::timeout(JWT_FETCH_TIMEOUT, self.exchange()).await;
        let late = |_| format!("no answer within {} s", JWT_FETCH_TIMEOUT.as_secs());
        fetched.map_err(late)?.map_err(|cause| cause.to_string())
    }

    async fn exchange(&self) -> Result<Fetched, Cause> {
        let mut uri = self.url.uri().clone();
        for _ in 0..=JWT_FETCH_REDIRECTS_MAX {
            let response = self.outgoing.send(request(&uri)?).await?;
            if response.status().is_redirection() {
                uri = self.redirected(&uri, response.headers())?;
                continue;
            }
            return read(response).await;
        }
        Err(format!("more than {JWT_FETCH_REDIRECTS_MAX} redirects").into())
    }

    fn redirected(&self, from: &Uri, headers: &HeaderMap) -> Result<Uri, Cause> {
        let location = headers.get(header::LOCATION).ok_or("a redirect without Location")?;
        let location = location.to_str()?;
        let to: Uri = location.parse()?;
        let mut parts = to.into_parts();
        if parts.authority.is_none() && location.starts_with('/') && !location.starts_with("//") {
            let from = from.clone().into_parts();
            (parts.scheme, parts.authority) = (from.scheme, from.authority);
        }
        let to = Uri::from_parts(parts)
            .map_err(|_| format!("a redirect to {location:?}, which is no path and no URL"))?;
        if !self.url.allows(&to) {
            return Err(format!(
                "a redirect to {to}, which is another server; set jwt_keys_url to that if it is right"
            )
            .into());
        }
        Ok(to)
    }
}

fn request(uri: &Uri) -> Result<Request<Empty<Bytes>>, Cause> {
    let request = Request::get(uri)
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::CONNECTION, "close")
        .header(header::USER_AGENT, concat!("bellwire/", env!("CARGO_PKG_VERSION")));
    Ok(request.body(Empty::new())?)
}

async fn read(response: Response<Incoming>) -> Result<Fetched, Cause> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("the server answered {}", head.status).into());
    }
    let encoding = head.headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        return Err("the answer is compressed, which was not asked for".into());
    }
    let most = usize::try_from(JWT_KEYS_BYTES_MAX).unwrap_or(usize::MAX);
    let body = Limited::new(body, most).collect().await.map_err(|cause| {
        let long = cause.is::<http_body_util::LengthLimitError>();
        if long { format!("the answer is longer than {most} bytes").into() } else { cause }
    })?;
    Ok(Fetched { body: body.to_bytes(), max_age: max_age(&head.headers) })
}

/// How long an answer is good for: its `max-age`, without the time that it lay in a cache (RFC 9111, section 4.2); nothing
/// if it is not to be cached.
pub(super) fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let seconds = |text: &str| text.trim().trim_matches('"').parse::<u64>().ok();
    let mut found = None;
    for value in headers.get_all(header::CACHE_CONTROL) {
        for directive in value.to_str().unwrap_or_default().split(',') {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            let name = name.trim().to_ascii_lowercase();
            match name.as_str() {
                "no-store" | "no-cache" => return Some(Duration::ZERO),
                "max-age" => found = found.or(seconds(value)),
                _ => {}
            }
        }
    }
    let age = headers.get(header::AGE).and_then(|age| seconds(age.to_str().ok()?)).unwrap_or(0);
    found.map(|max_age| Duration::from_secs(max_age.saturating_sub(age)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn an_answer_is_good_for_its_max_age_without_the_time_in_a_cache() {
        let of = |fields: &[(http::HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(name, HeaderValue::from_static(value));
            }
            max_age(&headers).map(|age| age.as_secs())
        };
        let (control, age) = (header::CACHE_CONTROL, header::AGE);
        for (value, expected) in [
            ("max-age=600", Some(600)),
            ("public, MAX-AGE=\"600\" , must-revalidate", Some(600)),
            ("max-age=600, no-cache", Some(0)),
            ("no-store", Some(0)),
            ("max-age=-1", None),
            ("max-age", None),
            ("max-age=99999999999999999999", None),
            ("s-maxage=9", None),
            ("", None),
        ] {
            assert_eq!(of(&[(control.clone(), value)]), expected, "{value}");
        }
        assert_eq!(of(&[]), None);
        let two = [(control.clone(), "private"), (control.clone(), "max-age=60"), (age, "45")];
        assert_eq!(of(&two), Some(15));
    }

    #[test]
    fn a_redirect_leads_to_no_other_server_and_does_not_leave_tls() {
        let fetch = Fetch::of(&"https://id.example:8443/a".parse().unwrap(), None).unwrap();
        let to = |location: &'static str| {
            let headers =
                HeaderMap::from_iter([(header::LOCATION, HeaderValue::from_static(location))]);
            fetch.redirected(fetch.url.uri(), &headers).map(|uri| uri.to_string())
        };
        assert_eq!(to("/keys?x=1").unwrap(), "https://id.example:8443/keys?x=1");
        assert_eq!(
            to("https://ID.example:8443/b").unwrap().to_lowercase(),
            "https://id.example:8443/b"
        );
        for elsewhere in [
            "https://other.example/keys",
            "https://id.example/keys",
            "http://id.example:8443/keys",
            "//other.example/keys",
            "keys",
            "https://id.example:8443@other.example/",
            "file:///etc/passwd",
        ] {
            assert!(to(elsewhere).is_err(), "{elsewhere}");
        }
    }
}
