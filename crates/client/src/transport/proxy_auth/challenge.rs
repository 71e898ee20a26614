//! What a proxy offers in `Proxy-Authenticate`: schemes with parameters (RFC 9110, section 11.3), or with one token, as NTLM has it.
//!
//! Proxies write this header loosely: a part that cannot be read is skipped, and the others count.

use http::HeaderMap;
use http::header::PROXY_AUTHENTICATE;

/// Challenges of one answer that are looked at: our choice, far beyond what a proxy offers.
const CHALLENGES_MAX: usize = 16;
/// Parameters of one challenge: our choice; Digest has nine.
const PARAMS_MAX: usize = 32;

/// One offered scheme.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Challenge {
    /// As written by the proxy.
    pub(super) scheme: String,
    /// In place of parameters: what NTLM puts its messages into.
    pub(super) token: Option<String>,
    params: Vec<(String, String)>,
}

impl Challenge {
    pub(super) fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    /// A parameter without its quotes.
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        let found = self.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// The challenges in these headers, in the order of the proxy.
pub(super) fn all(headers: &HeaderMap) -> Vec<Challenge> {
    let mut found = Vec::new();
    for value in headers.get_all(PROXY_AUTHENTICATE) {
        parse(&String::from_utf8_lossy(value.as_bytes()), &mut found);
    }
    found
}

fn parse(text: &str, found: &mut Vec<Challenge>) {
    for item in items(text) {
        let item = item.trim();
        let (word, rest) = match item.find([' ', '\t', '=']) {
            Some(at) => item.split_at(at),
            None => (item, ""),
        };
        if word.is_empty() {
            continue;
        }
        // `name = value` continues the last scheme; everything else begins one.
        if rest.trim_start().starts_with('=') {
            add(found.last_mut(), item);
        } else if found.len() < CHALLENGES_MAX {
            let mut challenge = Challenge { scheme: word.to_owned(), ..Challenge::default() };
            let rest = rest.trim();
            if is_token(rest) {
                challenge.token = Some(rest.to_owned());
            } else if !rest.is_empty() {
                add(Some(&mut challenge), rest);
            }
            found.push(challenge);
        }
    }
}

/// Adds `name=value` to a challenge.
fn add(challenge: Option<&mut Challenge>, param: &str) {
    let (Some(challenge), Some((name, value))) = (challenge, param.split_once('=')) else {
        return;
    };
    if challenge.params.len() < PARAMS_MAX {
        challenge.params.push((name.trim().to_owned(), unquoted(value.trim())));
    }
}

/// Whether it is Base64 and no parameter: `=` only at its end.
fn is_token(text: &str) -> bool {
    let bare = text.trim_end_matches('=');
    let legal = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
    !bare.is_empty() && bare.chars().all(legal)
}

/// The parts between commas that are outside of quotes.
fn items(text: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let ends = c == ',' && !quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        ends
    })
}

/// The content of a quoted string (RFC 9110, section 5.6.4), or the token as it is.
fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"') else {
        return value.to_owned();
    };
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.extend(chars.next()),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&'static str]) -> Vec<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(PROXY_AUTHENTICATE, http::HeaderValue::from_static(line));
        }
        all(&headers)
    }

    #[test]
    fn schemes_are_found_in_several_lines_and_in_one() {
        for lines in [
            &["Negotiate", "NTLM", "Basic realm=\"a, b\""][..],
            &["Negotiate, NTLM, Basic realm=\"a, b\""],
            &["negotiate,ntlm ,, basic  realm = \"a, b\" , charset=\"UTF-8\""],
        ] {
            let found = of(lines);
            assert_eq!(found.len(), 3, "{lines:?}: {found:?}");
            assert!(found[0].is("Negotiate") && found[1].is("NTLM"), "{found:?}");
            assert_eq!(found[2].param("Realm"), Some("a, b"), "{found:?}");
        }
    }

    #[test]
    fn a_token_is_no_parameter() {
        let found = of(&["NTLM TlRMTVNTUAACAAAA+/8==", "Digest nonce=abc, qop=\"auth,auth-int\""]);
        assert_eq!(found[0].token.as_deref(), Some("TlRMTVNTUAACAAAA+/8=="));
        assert_eq!(found[1].param("nonce"), Some("abc"));
        assert_eq!(found[1].param("qop"), Some("auth,auth-int"));
    }

    #[test]
    fn quotes_may_be_escaped_and_may_be_missing() {
        let found = of(&[r#"Digest realm="the \"inner\\ realm", nonce="open"#]);
        assert_eq!(found[0].param("realm"), Some(r#"the "inner\ realm"#));
        assert_eq!(found[0].param("nonce"), Some("open"));
        assert_eq!(of(&["", " , ", "=x", "realm=\"no scheme\""]), []);
    }

    #[test]
    fn what_a_proxy_offers_is_bounded() {
        let many = "Basic a=b, ".repeat(1000);
        let mut headers = HeaderMap::new();
        headers.append(PROXY_AUTHENTICATE, many.parse().unwrap());
        assert_eq!(all(&headers).len(), CHALLENGES_MAX);
    }
}
