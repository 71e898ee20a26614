//! `Retry-After`, as any answer may bear it: RFC 9110, section 10.2.3.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};

/// How long an answer asks to stay away. A time counts from the answer's own `Date`, or else from
/// `clock`, which is the server's; an appliance's own may be years off, and is never asked.
pub(crate) fn retry_after(headers: &HeaderMap, clock: Option<SystemTime>) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let told = text(RETRY_AFTER)?;
    if let Ok(seconds) = told.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(told).ok()?;
    let date = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    Some(until.duration_since(date.or(clock)?).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTIL: &str = "Sun, 06 Nov 1994 08:51:07 GMT";

    fn read(told: &str, date: Option<&str>, clock: Option<SystemTime>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, told.parse().unwrap());
        headers.extend(date.map(|date| (DATE, date.parse().unwrap())));
        retry_after(&headers, clock).map(|span| span.as_secs())
    }

    #[test]
    fn a_time_counts_from_the_answers_date_or_the_servers_clock_and_never_from_our_own() {
        let clock = httpdate::parse_http_date("Sun, 06 Nov 1994 08:51:00 GMT").ok();
        assert_eq!(read("7", None, None), Some(7));
        assert_eq!(read(UNTIL, Some("Sun, 06 Nov 1994 08:49:37 GMT"), clock), Some(90));
        assert_eq!(read(UNTIL, Some("Sunday, 06-Nov-94 08:52:00 GMT"), clock), Some(0), "past");
        assert_eq!(read(UNTIL, Some("yesterday"), clock), Some(7));
        assert_eq!(read(UNTIL, None, clock), Some(7));
        assert_eq!(read(UNTIL, None, None), None);
        assert_eq!(read("soon", None, clock), None);
    }
}
