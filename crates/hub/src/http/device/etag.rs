//! `ETag` and `If-Match` of a device (RFC 9110, sections 8.8.3 and 13.1.1).
//!
//! The tag is of what a client can change, the labels: whether a device is online, and what waits for it, change all the
//! time, and a tag of those would never fit. So a device is not answered 304 by it.

use std::sync::Arc;

use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bellwire_proto::{Code, Device, Labels, Problem};
use http::{HeaderMap, StatusCode, header};
use ring::digest::{SHA256, digest};

use super::super::problem;

/// The answer with a device, and its tag.
pub(in crate::http) fn shown(status: StatusCode, device: &Device) -> Response {
    problem::with(problem::json(status, device), header::ETAG, &tag(&device.labels))
}

/// Bytes of the digest in a tag: 96 bits, which no two labels share by chance.
const DIGEST_BYTES: usize = 12;

fn tag(labels: &Labels) -> String {
    // Keys and values have no control characters, so no two labels are the same text.
    let text: String = labels.iter().map(|(key, value)| format!("{key}\0{value}\0")).collect();
    let digest = digest(&SHA256, text.as_bytes());
    let digest = digest.as_ref().get(..DIGEST_BYTES).unwrap_or_default();
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(digest))
}

/// What a request says that the labels must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IfMatch {
    /// It has no `If-Match`: the labels may be any.
    Anything,
    /// The device is there (`*`).
    Exists,
    /// They have one of these tags.
    Tags(Arc<[String]>),
}

impl IfMatch {
    /// # Errors
    /// `bad_request` when it is neither `*` nor a list of tags.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut tags = Vec::new();
        for value in headers.get_all(header::IF_MATCH) {
            let value = value.to_str().map_err(|_| invalid())?;
            if value.trim() == "*" {
                return Ok(Self::Exists);
            }
            for tag in value.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
                let opaque = tag.strip_prefix("W/").unwrap_or(tag);
                let inner = opaque.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
                if inner.is_none_or(|inner| inner.contains('"')) {
                    return Err(invalid());
                }
                // A weak tag fits nothing here, and is in the list all the same.
                tags.push(tag.to_owned());
            }
        }
        match tags.is_empty() {
            true if headers.contains_key(header::IF_MATCH) => Err(invalid()),
            true => Ok(Self::Anything),
            false => Ok(Self::Tags(tags.into())),
        }
    }

    /// Whether it allows labels; `None` is a device that is not there.
    pub(super) fn fits(&self, labels: Option<&Labels>) -> bool {
        match self {
            Self::Anything => true,
            Self::Exists => labels.is_some(),
            Self::Tags(tags) => labels.map(tag).is_some_and(|tag| tags.contains(&tag)),
        }
    }
}

fn invalid() -> Problem {
    Problem::bad_request("If-Match is * or the ETag of an answer, with its quotes")
}

/// 412: the labels are not those on which the change rests.
pub(super) fn unexpected() -> Response {
    let detail = "the device's labels have changed, or it is not there: read it again, and send its new ETag";
    let conflict = Problem::new(Code::Conflict, detail);
    problem::problem_as(StatusCode::PRECONDITION_FAILED, "Precondition failed", &conflict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn if_match(values: &[&str]) -> Result<IfMatch, Problem> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::IF_MATCH, HeaderValue::from_str(value).unwrap());
        }
        IfMatch::of(&headers)
    }

    #[test]
    fn a_condition_fits_the_labels_whose_tag_it_names() {
        let lyon = Labels::from([("site".into(), "lyon".into())]);
        let (lyons, nones) = (tag(&lyon), tag(&Labels::new()));
        let fits = |values: &[&str], labels| if_match(values).unwrap().fits(labels);
        assert!(fits(&[], None) && fits(&[], Some(&lyon)));
        assert!(fits(&["*"], Some(&lyon)) && !fits(&["*"], None));
        assert!(fits(&[&lyons], Some(&lyon)) && !fits(&[&nones], Some(&lyon)));
        assert!(!fits(&[&nones], None));
        assert!(fits(&[&format!("{nones} , {lyons}")], Some(&lyon)));
        assert!(fits(&[&nones, &lyons], Some(&lyon)));
        assert!(!fits(&[&format!("W/{lyons}")], Some(&lyon)), "a weak tag fits nothing");
        for bad in ["", "abc", "\"a", "a\"", "\"a\" \"b\"", "\"a\",b"] {
            assert!(if_match(&[bad]).is_err(), "{bad}");
        }
    }
}
