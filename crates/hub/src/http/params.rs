//! The parameters of a request outside its body: names in the path, query parameters, headers.
//!
//! Pure functions from text to checked values, so that they can be fuzzed: there is no connection,
//! clock or hub here. Bodies are parsed in [`super::bodies`]. Rules: contract, section 1.

use std::fmt::Display;
use std::str::FromStr;

use bellwire_proto::limits::{IDEMPOTENCY_KEY_CHARS_MAX, Range};
use bellwire_proto::{Code, Problem, Seconds, Seq};
use http::header::{self, HeaderMap};

/// Decodes one segment of a path, strictly: `%` must be followed by two hexadecimal digits, and the
/// result must be UTF-8 (RFC 3986, section 2.1).
///
/// # Errors
/// `bad_request`.
///
/// ```
/// use bellwire_hub::http::params::decode_segment;
/// assert_eq!(decode_segment("kiosk%2D7")?, "kiosk-7");
/// assert!(decode_segment("50%").is_err() && decode_segment("%ff").is_err());
/// # Ok::<(), bellwire_proto::Problem>(())
/// ```
pub fn decode_segment(segment: &str) -> Result<String, Problem> {
    decode(segment, false).ok_or_else(|| {
        Problem::bad_request("the path has a % that begins no UTF-8 character (RFC 3986)")
    })
}

/// The parameters of a query, each to be taken once, as members of an object are.
///
/// Encoded as by HTML forms (`+` is a space). A name that begins with `_` is a cache-buster and is
/// ignored.
///
/// ```
/// use bellwire_hub::http::params::Query;
/// use bellwire_proto::{Code, limits};
///
/// let mut query = Query::parse("ttl=15m&wiat=3&_=1690000000")?;
/// assert_eq!(query.seconds("ttl", limits::TTL_S)?.map(|ttl| ttl.get()), Some(900));
/// assert_eq!(query.finish().unwrap_err().code, Code::UnknownField);
/// # Ok::<(), bellwire_proto::Problem>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    untaken: Vec<(String, String)>,
}

impl Query {
    /// Parses the text after the `?`.
    ///
    /// # Errors
    /// `bad_request` when a parameter is given twice or cannot be decoded.
    pub fn parse(raw: &str) -> Result<Self, Problem> {
        let undecodable =
            || Problem::bad_request("the query has a % that begins no UTF-8 character (RFC 3986)");
        let mut untaken: Vec<(String, String)> = Vec::new();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name, true).ok_or_else(undecodable)?;
            if name.starts_with('_') {
                continue;
            }
            untaken.push((name, decode(value, true).ok_or_else(undecodable)?));
        }
        let mut names: Vec<&str> = untaken.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair.first() == pair.last()) {
            None => Ok(Self { untaken }),
            Some(twice) => Err(Problem::bad_request(format!(
                "parameter {} is given twice",
                quoted(twice.first().copied().unwrap_or_default())
            ))),
        }
    }

    /// Takes a parameter as text.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let at = self.untaken.iter().position(|(n, _)| n == name)?;
        Some(self.untaken.swap_remove(at).1)
    }

    /// Takes a parameter as a type.
    ///
    /// # Errors
    /// `bad_request` with the type's own message.
    pub fn value<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let value = text.parse();
        value.map(Some).map_err(|e| Problem::bad_request(format!("parameter {name}: {e}")))
    }

    /// Takes a duration within bounds.
    ///
    /// # Errors
    /// `bad_request` when it is not a duration or out of bounds: it is never clamped.
    pub fn seconds(&mut self, name: &str, range: Range) -> Result<Option<Seconds>, Problem> {
        match self.value::<Seconds>(name)? {
            Some(seconds) if !range.contains(seconds.get()) => Err(Problem::bad_request(format!(
                "parameter {name} is a duration from {}s to {}s",
                range.min, range.max
            ))),
            seconds => Ok(seconds),
        }
    }

    /// Takes a whole number within bounds.
    ///
    /// # Errors
    /// `bad_request` when it is not a number or out of bounds.
    pub fn number(&mut self, name: &str, range: Range) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        match whole_number(&text) {
            Some(n) if range.contains(n) => Ok(Some(n)),
            _ => Err(Problem::bad_request(format!(
                "parameter {name} is a whole number from {} to {}",
                range.min, range.max
            ))),
        }
    }

    /// Takes a switch: `1` or `true`, `0` or `false`.
    ///
    /// # Errors
    /// `bad_request` when it is anything else.
    pub fn switch(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        match self.text(name).as_deref() {
            None => Ok(None),
            Some("1" | "true") => Ok(Some(true)),
            Some("0" | "false") => Ok(Some(false)),
            Some(_) => {
                Err(Problem::bad_request(format!("parameter {name} is 1 or true, 0 or false")))
            }
        }
    }

    /// Checks that every parameter was taken.
    ///
    /// # Errors
    /// `unknown_field`, naming a parameter that was not taken.
    pub fn finish(self) -> Result<(), Problem> {
        match self.untaken.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::new(
                Code::UnknownField,
                format!("parameter {} is not known here", quoted(name)),
            )),
        }
    }

    /// The parameters that were not taken, sorted, so that equivalent queries compare equal.
    pub fn into_sorted(mut self) -> Vec<(String, String)> {
        self.untaken.sort_unstable();
        self.untaken
    }
}

/// The `wait` of the `Prefer` headers of a request, clamped to `seconds_max`; a value that is not a
/// duration is ignored, and of several the first counts (RFC 7240, section 2).
///
/// ```
/// use bellwire_hub::http::params::prefer_wait;
/// let wait = |value| prefer_wait([value], 300).map(|wait| wait.get());
/// assert_eq!(wait("respond-async, wait=10"), Some(10));
/// assert_eq!(wait("wait=3600"), Some(300));
/// assert_eq!(wait("wait=soon"), None);
/// ```
pub fn prefer_wait<'a>(
    values: impl IntoIterator<Item = &'a str>,
    seconds_max: u64,
) -> Option<Seconds> {
    let preferences = values.into_iter().flat_map(|value| split_unquoted(value, ','));
    let wait = preferences.filter_map(|preference| {
        let parameter = split_unquoted(preference, ';').next().unwrap_or_default();
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim())
    });
    let value = wait.take(1).next()?;
    let bare = value.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    let seconds: Seconds = bare.unwrap_or(value).parse().ok()?;
    Some(Seconds::new(seconds.get().min(seconds_max)))
}

/// The `Idempotency-Key` of a request: 1 to 255 visible ASCII characters, given once.
///
/// # Errors
/// `bad_request` when it is anything else.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut given = headers.get_all("idempotency-key").iter();
    let (first, second) = (given.next(), given.next());
    let Some(key) = first else {
        return Ok(None);
    };
    let visible = |key: &[u8]| key.iter().all(u8::is_ascii_graphic);
    match key.to_str() {
        Ok(text)
            if second.is_none()
                && (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&text.len())
                && visible(key.as_bytes()) =>
        {
            Ok(Some(text.to_owned()))
        }
        _ => Err(Problem::bad_request(
            "Idempotency-Key is given once and is 1 to 255 visible ASCII characters",
        )),
    }
}

/// The `seq` of the last command that a device received: the `Last-Event-ID` header if it is a
/// number, else the parameter `last_event_id`.
///
/// # Errors
/// `bad_request` when the parameter is not a number; a header that is not a number is ignored.
pub fn last_event_id(headers: &HeaderMap, query: &mut Query) -> Result<Option<Seq>, Problem> {
    let parameter = query.value("last_event_id")?;
    let header = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let header = header.and_then(|id| id.trim().parse().ok());
    Ok(header.or(parameter))
}

/// The media type of the body, in lower case and without parameters; empty when there is none.
pub fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).map(|t| t.as_bytes());
    let value = String::from_utf8_lossy(value.unwrap_or_default());
    let essence = value.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// Whether the body is not encoded: no `Content-Encoding`, or only `identity`.
pub fn is_plain(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter();
    codings
        .flat_map(|codings| codings.as_bytes().split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
        .all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity"))
}

/// Decodes percent-encoding; `None` when it is malformed or not UTF-8.
fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' if plus_is_space => b' ',
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

/// A number in decimal digits: no sign, no space.
fn whole_number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// The parts of a header between separators outside quoted strings (RFC 9110, section 5.6.4).
fn split_unquoted(value: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    value.split(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => return c == separator && !quoted,
        }
        false
    })
}

/// A name from outside, shortened and escaped for a message.
fn quoted(name: &str) -> String {
    let short: String = name.chars().take(64).collect();
    format!("{short:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_proto::limits;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn a_query_is_decoded_as_forms_write_it() {
        let mut query = Query::parse("select=a+in%20%28b%2Cc%29&&n=%C3%A9&flag").unwrap();
        assert_eq!(query.text("select").as_deref(), Some("a in (b,c)"));
        assert_eq!(query.text("n").as_deref(), Some("é"));
        assert_eq!(query.text("flag").as_deref(), Some(""));
        assert_eq!(query.text("flag"), None);
        assert!(query.finish().is_ok());
    }

    #[test]
    fn a_query_that_is_not_of_the_contract_is_refused_with_its_code() {
        for (raw, code) in [
            ("ttl=1&ttl=1", Code::BadRequest),
            ("ttl=1&tt%6C=2", Code::BadRequest),
            ("ttl=%4", Code::BadRequest),
            ("ttl=%zz", Code::BadRequest),
            ("ttl=%+1", Code::BadRequest),
            ("ttl=%ff", Code::BadRequest),
            ("%c3=1", Code::BadRequest),
            ("tll=1", Code::UnknownField),
            ("=1", Code::UnknownField),
            ("TTL=1", Code::UnknownField),
        ] {
            let refused = Query::parse(raw).and_then(|mut query| {
                query.value::<Seconds>("ttl")?;
                query.finish()
            });
            assert_eq!(refused.unwrap_err().code, code, "{raw}");
        }
    }

    #[test]
    fn cache_busters_are_ignored_whatever_their_value() {
        for raw in ["_=1", "_=1&_=2", "_x", "_=%zz", "%5f=1"] {
            assert!(Query::parse(raw).and_then(Query::finish).is_ok(), "{raw}");
        }
    }

    #[test]
    fn a_value_out_of_range_is_refused_and_never_clamped() {
        for (value, good) in [
            ("0", false),
            ("1", true),
            ("7d", true),
            ("604801", false),
            ("", false),
            ("1.5", false),
            ("-1", false),
            (" 5", false),
        ] {
            let mut query = Query::parse(&format!("ttl={value}")).unwrap();
            let taken = query.seconds("ttl", limits::TTL_S);
            assert_eq!(taken.is_ok(), good, "{value:?}");
        }
        for (value, good) in
            [("1", true), ("1000", true), ("0", false), ("1001", false), ("1s", false)]
        {
            let mut query = Query::parse(&format!("limit={value}")).unwrap();
            assert_eq!(query.number("limit", limits::PAGE_ITEMS).is_ok(), good, "{value:?}");
        }
        for (value, expected) in
            [("1", Some(true)), ("false", Some(false)), ("yes", None), ("", None)]
        {
            let mut query = Query::parse(&format!("force={value}")).unwrap();
            assert_eq!(query.switch("force").ok().flatten(), expected, "{value:?}");
        }
    }

    #[test]
    fn a_preference_to_wait_is_clamped_or_ignored() {
        for (values, wait) in [
            (&["wait=10"][..], Some(10)),
            (&["WAIT = \"20\""], Some(20)),
            (&["wait=1m; strict"], Some(60)),
            (&["foo=\"a, wait=5\", wait=7"], Some(7)),
            (&["foo=\"\\\", wait=5\", wait=7"], Some(7)),
            (&["return=minimal", "wait=8"], Some(8)),
            (&["wait=9, wait=10"], Some(9)),
            (&["wait=100000"], Some(300)),
            (&["wait=-1"], None),
            (&["wait=x, wait=10"], None),
            (&["wait"], None),
            (&["wait=\""], None),
            (&[""], None),
        ] {
            let expected = prefer_wait(values.iter().copied(), 300);
            assert_eq!(expected.map(Seconds::get), wait, "{values:?}");
        }
    }

    #[test]
    fn an_idempotency_key_is_visible_ascii_given_once() {
        let key = |values: &[&str]| idempotency_key(&headers("idempotency-key", values));
        assert_eq!(key(&[]).unwrap(), None);
        let longest = "k".repeat(255);
        assert_eq!(key(&[&longest]).unwrap(), Some(longest));
        for bad in [&[""][..], &["a b"], &["é"], &["a", "a"], &[&"k".repeat(256)]] {
            assert_eq!(key(bad).unwrap_err().code, Code::BadRequest, "{bad:?}");
        }
    }

    #[test]
    fn the_last_event_id_of_the_header_wins_if_it_is_one() {
        for (header, raw, expected) in [
            (&["7"][..], "last_event_id=3", Some(Some(7))),
            (&["x"], "last_event_id=3", Some(Some(3))),
            (&[""], "", Some(None)),
            (&[], "last_event_id=3", Some(Some(3))),
            (&["7"], "last_event_id=x", None),
            (&["18446744073709551616"], "", Some(None)),
        ] {
            let mut query = Query::parse(raw).unwrap();
            let taken = last_event_id(&headers("last-event-id", header), &mut query);
            assert_eq!(taken.ok().map(|id| id.map(Seq::get)), expected, "{header:?} {raw}");
        }
    }

    #[test]
    fn a_media_type_is_compared_without_its_parameters() {
        let of = |value| media_type(&headers("content-type", &[value]));
        assert_eq!(of("Application/JSON; charset=latin1"), "application/json");
        assert_eq!(of("application/problem+json"), "application/problem+json");
        assert_eq!(media_type(&HeaderMap::new()), "");
    }

    #[test]
    fn a_body_is_plain_or_refused() {
        for (values, plain) in [
            (&[][..], true),
            (&["identity"], true),
            (&["Identity, identity"], true),
            (&["gzip"], false),
            (&["identity", "br"], false),
        ] {
            assert_eq!(is_plain(&headers("content-encoding", values)), plain, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn a_form_encoded_query_is_decoded_to_its_pairs(
            pairs in prop::collection::btree_map("[^_]\\PC{0,12}", any::<String>(), 0..6),
        ) {
            let encoded = |text: &str| -> String {
                text.bytes().map(|b| format!("%{b:02X}")).collect()
            };
            let raw: Vec<String> = pairs
                .iter()
                .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
                .collect();
            let query = Query::parse(&raw.join("&")).unwrap();
            prop_assert_eq!(query.into_sorted(), pairs.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn no_query_no_segment_and_no_preference_panics(text in any::<String>()) {
            let _ = decode_segment(&text);
            let _ = prefer_wait([text.as_str()], 300);
            if let Ok(mut query) = Query::parse(&text) {
                let _ = query.seconds("a", limits::TTL_S);
                let _ = query.finish();
            }
        }
    }
}
