//! The header `Retry-After` of any response: RFC 9110, section 10.2.3.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};

/// The pause that the server requests. A date counts from the response's own `Date`, or else from `clock`, the
/// server's; the clock of an appliance may be years off, and is never used.
pub(crate) fn retry_after(headers: &HeaderMap, clock: Option<SystemTime>) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let value = text(RETRY_AFTER)?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = http_date(value)?;
    let date = text(DATE).and_then(http_date);
    Some(until.duration_since(date.or(clock)?).unwrap_or_default())
}

/// A time in any of the three forms of HTTP (RFC 9110, section 5.6.7). They have the same parts, which RFC 5322 puts in
/// the first form's order.
fn http_date(text: &str) -> Option<SystemTime> {
    let parts: Vec<&str> = text.split([' ', '-']).filter(|part| !part.is_empty()).collect();
    let (day, month, year, time) = match *parts.as_slice() {
        // Sun, 06 Nov 1994 08:49:37 GMT; Sunday, 06-Nov-94 08:49:37 GMT
        [_, day, month, year, time, "GMT"] => (day, month, year, time),
        // Sun Nov  6 08:49:37 1994
        [_, month, day, time, year] => (day, month, year, time),
        _ => return None,
    };
    let text = format!("{day} {month} {year} {time} GMT");
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(&text).ok()?;
    let seconds = u64::try_from(time.as_second()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTIL: &str = "Sun, 06 Nov 1994 08:51:07 GMT";

    fn read(value: &str, date: Option<&str>, clock: Option<SystemTime>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().unwrap());
        headers.extend(date.map(|date| (DATE, date.parse().unwrap())));
        retry_after(&headers, clock).map(|span| span.as_secs())
    }

    #[test]
    fn a_date_counts_from_the_responses_date_or_the_servers_clock_and_never_from_our_own() {
        let clock = http_date("Sun, 06 Nov 1994 08:51:00 GMT");
        assert_eq!(read("7", None, None), Some(7));
        assert_eq!(read(UNTIL, Some("Sun, 06 Nov 1994 08:49:37 GMT"), clock), Some(90));
        assert_eq!(read(UNTIL, Some("Sunday, 06-Nov-94 08:52:00 GMT"), clock), Some(0), "past");
        assert_eq!(read(UNTIL, Some("yesterday"), clock), Some(7));
        assert_eq!(read(UNTIL, None, clock), Some(7));
        assert_eq!(read(UNTIL, None, None), None);
        assert_eq!(read("soon", None, clock), None);
    }
    #[test]
    fn a_date_is_read_in_each_of_the_three_forms() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            let unix = http_date(text).and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
            assert_eq!(unix, Some(Duration::from_secs(784_111_777)), "{text}");
        }
        for text in
            ["", "1994-11-06T08:49:37Z", "Sun, 06 Nov 1994", "Sun, 31 Feb 1994 08:49:37 GMT"]
        {
            assert_eq!(http_date(text), None, "{text}");
        }
    }
}
