//! Digest (RFC 7616): `MD5`, `SHA-256` and `SHA-512-256`, with `-sess`, for `qop=auth` and for proxies that know none.
//!
//! One [`Digest`] is one nonce of the proxy. It answers every request until the proxy calls the nonce stale, and counts
//! them. `auth-int` is not spoken: it needs the body, and no proxy demands it.

use std::fmt::Write as _;

use http::HeaderValue;
use md5::{Digest as _, Md5};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ring::digest::{SHA256, SHA512_256};

use super::challenge::Challenge;
use super::{Credentials, hidden};

/// What the proxy prescribed, and how often it was answered.
#[derive(Clone)]
pub(super) struct Digest {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    hash: Hash,
    session: bool,
    /// Whether it speaks RFC 2617 and later: `qop=auth`.
    counted: bool,
    hash_user: bool,
    utf8: bool,
    requests: u32,
    cnonce: String,
}

/// In the order of their strength.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hash {
    Md5,
    Sha256,
    Sha512By256,
}

impl Hash {
    fn of(self, text: &[u8]) -> String {
        match self {
            Self::Md5 => hex(&Md5::digest(text)),
            Self::Sha256 => hex(ring::digest::digest(&SHA256, text).as_ref()),
            Self::Sha512By256 => hex(ring::digest::digest(&SHA512_256, text).as_ref()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
            Self::Sha512By256 => "SHA-512-256",
        }
    }
}

impl Digest {
    /// The strongest of these challenges that can be answered.
    pub(super) fn strongest<'a>(challenges: impl Iterator<Item = &'a Challenge>) -> Option<Self> {
        let cnonce = hex(&super::random::<16>()?);
        challenges.filter_map(|one| Self::of(one, cnonce.clone())).max_by_key(|one| one.hash)
    }

    fn of(challenge: &Challenge, cnonce: String) -> Option<Self> {
        let algorithm = challenge.param("algorithm").unwrap_or("MD5").to_ascii_uppercase();
        let (name, session) = match algorithm.strip_suffix("-SESS") {
            Some(name) => (name, true),
            None => (algorithm.as_str(), false),
        };
        let hash = match name {
            "MD5" => Hash::Md5,
            "SHA-256" => Hash::Sha256,
            "SHA-512-256" => Hash::Sha512By256,
            _ => return None,
        };
        let counted = match challenge.param("qop") {
            None => false,
            Some(offered) => offered
                .split(',')
                .any(|one| one.trim().eq_ignore_ascii_case("auth"))
                .then_some(true)?,
        };
        let owned = |name| challenge.param(name).map(str::to_owned);
        let flag =
            |name, value| challenge.param(name).is_some_and(|set| set.eq_ignore_ascii_case(value));
        Some(Self {
            realm: owned("realm").unwrap_or_default(),
            nonce: owned("nonce")?,
            opaque: owned("opaque"),
            hash,
            session,
            counted,
            hash_user: flag("userhash", "true"),
            utf8: flag("charset", "UTF-8"),
            requests: 0,
            cnonce,
        })
    }

    /// Whether the proxy refuses only the nonce: the password may be right.
    pub(super) fn is_stale(challenge: &Challenge) -> bool {
        challenge.param("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true"))
    }

    /// The header for the next request, to this target as it stands in the request line (RFC 7616, section 3.4).
    pub(super) fn header(
        &mut self,
        credentials: &Credentials,
        method: &str,
        target: &str,
    ) -> Option<HeaderValue> {
        self.requests = self.requests.checked_add(1)?;
        let Self { realm, nonce, cnonce, .. } = &*self;
        let Credentials { user, password } = credentials;
        let hash = |text: String| self.hash.of(text.as_bytes());
        let mut secret = hash(format!("{user}:{realm}:{password}"));
        if self.session {
            secret = hash(format!("{secret}:{nonce}:{cnonce}"));
        }
        let request = hash(format!("{method}:{target}"));
        let count = format!("{:08x}", self.requests);
        let response = match self.counted {
            true => hash(format!("{secret}:{nonce}:{count}:{cnonce}:auth:{request}")),
            false => hash(format!("{secret}:{nonce}:{request}")),
        };
        let mut text = "Digest ".to_owned();
        let mut add = |written: std::fmt::Arguments<'_>| text.write_fmt(written).ok();
        if self.hash_user {
            add(format_args!("username=\"{}\", userhash=true", hash(format!("{user}:{realm}"))))?;
        } else if self.utf8 && !user.is_ascii() {
            // RFC 8187, as section 3.4 of RFC 7616 prescribes it.
            let encoded = utf8_percent_encode(user, NON_ALPHANUMERIC);
            add(format_args!("username*=UTF-8''{encoded}"))?;
        } else {
            add(format_args!("username={}", quoted(user)))?;
        }
        add(format_args!(", realm={}, nonce={}", quoted(realm), quoted(nonce)))?;
        add(format_args!(", uri={}, response=\"{response}\"", quoted(target)))?;
        let suffix = if self.session { "-sess" } else { "" };
        add(format_args!(", algorithm={}{suffix}", self.hash.name()))?;
        if self.counted {
            add(format_args!(", qop=auth, nc={count}"))?;
        }
        if self.counted || self.session {
            add(format_args!(", cnonce=\"{cnonce}\""))?;
        }
        if let Some(opaque) = &self.opaque {
            add(format_args!(", opaque={}", quoted(opaque)))?;
        }
        hidden(&text)
    }
}

/// A quoted string (RFC 9110, section 5.6.4).
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a string cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::super::challenge;
    use super::*;

    fn digest(challenge: &str, cnonce: &str) -> Digest {
        let mut headers = http::HeaderMap::new();
        headers.append(http::header::PROXY_AUTHENTICATE, challenge.parse().unwrap());
        Digest::of(&challenge::all(&headers)[0], cnonce.to_owned()).unwrap()
    }

    fn header(digest: &mut Digest, user: &str, password: &str, target: &str) -> String {
        let credentials = Credentials { user: user.to_owned(), password: password.to_owned() };
        let header = digest.header(&credentials, "GET", target).unwrap();
        assert!(header.is_sensitive());
        header.to_str().unwrap().to_owned()
    }

    /// RFC 7616, section 3.9.1.
    #[test]
    fn the_examples_of_the_standard_for_md5_and_sha_256() {
        const REST: &str = r#"realm="http-auth@example.org", qop="auth, auth-int", nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS""#;
        for (algorithm, response) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let mut digest = digest(
                &format!("Digest algorithm={algorithm}, {REST}"),
                "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
            );
            let sent = header(&mut digest, "Mufasa", "Circle of Life", "/dir/index.html");
            for part in [
                format!("response=\"{response}\""),
                format!("algorithm={algorithm}"),
                "username=\"Mufasa\"".to_owned(),
                "uri=\"/dir/index.html\"".to_owned(),
                "qop=auth, nc=00000001".to_owned(),
                "opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"".to_owned(),
            ] {
                assert!(sent.contains(&part), "{part} in {sent}");
            }
        }
    }

    /// RFC 7616, section 3.9.2, as erratum 4897 corrects it.
    #[test]
    fn the_example_of_the_standard_for_sha_512_256_hides_the_user() {
        let mut digest = digest(
            r#"Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS", charset=UTF-8, userhash=true"#,
            "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v",
        );
        let sent = header(&mut digest, "J\u{e4}s\u{f8}n Doe", "Secret, or not?", "/doe.json");
        for part in [
            "username=\"793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b\"",
            "userhash=true",
            "response=\"3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5\"",
        ] {
            assert!(sent.contains(part), "{part} in {sent}");
        }
    }

    /// RFC 2617, section 3.5, and what older proxies speak: no `qop`.
    #[test]
    fn the_older_forms_are_spoken_too() {
        let rest = r#"realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093""#;
        let mut counted = digest(&format!("Digest {rest}, qop=\"auth,auth-int\""), "0a4f113b");
        let sent = header(&mut counted, "Mufasa", "Circle Of Life", "/dir/index.html");
        assert!(sent.contains("response=\"6629fae49393a05397450978507c4ef1\""), "{sent}");
        let mut oldest = digest(&format!("Digest {rest}"), "0a4f113b");
        let sent = header(&mut oldest, "Mufasa", "Circle Of Life", "/dir/index.html");
        assert!(sent.contains("response=\"670fd8c2df070c60b045671b8b24ff02\""), "{sent}");
        assert!(!sent.contains("qop") && !sent.contains("cnonce"), "{sent}");
    }

    #[test]
    fn each_request_is_counted_and_a_session_holds_its_cnonce() {
        let text = r#"Digest realm="r", nonce="n", qop=auth, algorithm=SHA-256-sess"#;
        let mut digest = digest(text, "c");
        let (first, second) =
            (header(&mut digest, "u", "p", "/"), header(&mut digest, "u", "p", "/"));
        assert!(
            first.contains("nc=00000001") && first.contains("algorithm=SHA-256-sess"),
            "{first}"
        );
        assert!(second.contains("nc=00000002") && second.contains("cnonce=\"c\""), "{second}");
        let response = |sent: &str| sent.split("response=").nth(1).unwrap()[..66].to_owned();
        assert_ne!(response(&first), response(&second));
    }

    #[test]
    fn what_cannot_be_answered_is_left_and_the_strongest_is_taken() {
        let mut headers = http::HeaderMap::new();
        for text in [
            "Digest nonce=a, algorithm=MD5",
            "Digest nonce=b, algorithm=SHA-256",
            "Digest nonce=c, algorithm=SHA-1",
            "Digest nonce=d, algorithm=SHA-256, qop=auth-int",
            "Digest algorithm=SHA-256",
        ] {
            headers.append(http::header::PROXY_AUTHENTICATE, text.parse().unwrap());
        }
        let all = challenge::all(&headers);
        assert_eq!(Digest::strongest(all.iter()).unwrap().nonce, "b");
        assert!(Digest::strongest(all[2..].iter()).is_none());
    }

    #[test]
    fn no_value_of_the_proxy_can_end_its_quotes() {
        let mut digest = digest(r#"Digest realm="a\"b\\c", nonce=n"#, "c");
        let sent = header(&mut digest, "do\\main\"user", "p", "/");
        assert!(sent.contains(r#"realm="a\"b\\c""#), "{sent}");
        assert!(sent.contains(r#"username="do\\main\"user""#), "{sent}");
    }
}
