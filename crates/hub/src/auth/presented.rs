//! What credential a request came with: the one token in its `Authorization`. Whether that works is in `auth.rs`.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bellwire_proto::Credential;
use http::HeaderMap;
use http::header::AUTHORIZATION;

/// What a request came with. Without `Debug`: either is a secret.
pub(crate) enum Presented {
    /// A token of this hub.
    Token(Credential),
    /// Maybe one of another issuer.
    Jwt(String),
}

/// The one token of a request: `Authorization: Bearer`, or Basic with any user and the token as password (RFC 6750,
/// section 2.1; RFC 7617).
pub(crate) fn credential(headers: &HeaderMap) -> Option<Presented> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    let rest = rest.trim_matches(' ');
    if scheme.eq_ignore_ascii_case("bearer") {
        Some(presented(rest))
    } else if scheme.eq_ignore_ascii_case("basic") {
        let pair = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        Some(presented(pair.split_once(':')?.1))
    } else {
        None
    }
}

/// Whether a request has a user and password, and the password is no token: of this hub, or, where it knows another issuer, a JWT.
pub(crate) fn is_for_another_server(headers: &HeaderMap, knows_jwts: bool) -> bool {
    let is_basic =
        headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).is_some_and(|text| {
            text.split_once(' ').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        });
    let is_token = match credential(headers) {
        Some(Presented::Token(_)) => true,
        Some(Presented::Jwt(text)) => knows_jwts && looks_like_jwt(&text),
        None => false,
    };
    is_basic && !is_token
}

/// Whether a text has the three parts of a JWT, the first of them JSON (RFC 7519, section 3; RFC 7515, section 3.1).
fn looks_like_jwt(text: &str) -> bool {
    let mut parts = text.split('.');
    let (Some(header), Some(_), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let header = URL_SAFE_NO_PAD.decode(header).ok();
    header.is_some_and(|json| serde_json::from_slice::<serde_json::Map<_, _>>(&json).is_ok())
}

fn presented(text: &str) -> Presented {
    text.parse().map_or_else(|_| Presented::Jwt(text.to_owned()), Presented::Token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn parsed(values: &[&str]) -> Option<Credential> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        match credential(&headers)? {
            Presented::Token(token) => Some(token),
            Presented::Jwt(_) => None,
        }
    }

    #[test]
    fn a_token_comes_as_bearer_or_as_the_password_of_any_user_and_in_no_other_way() {
        let token = Credential::from_random([1; 10], [2; 32]);
        let text = token.expose();
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for good in [
            format!("Bearer {text}"),
            format!("bearer  {text} "),
            basic(&format!("anyone:{text}")),
            basic(&format!(":{text}")).replace("Basic", "BASIC"),
        ] {
            assert_eq!(parsed(&[&good]), Some(token.clone()), "{good}");
        }
        for bad in [
            text.clone(),
            format!("Token {text}"),
            format!("Bearer {text}x"),
            "Bearer".to_owned(),
            "Basic !".to_owned(),
            basic(&text),
            basic(&format!("a:b:{text}")),
        ] {
            assert_eq!(parsed(&[&bad]), None, "{bad}");
        }
        let bearer = format!("Bearer {text}");
        assert_eq!(parsed(&[&bearer, &bearer]), None, "twice is none");
    }
}
