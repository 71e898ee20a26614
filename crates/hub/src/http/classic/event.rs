//! Encodes events: `id`, `retry`, `event`, `data`, each line ended by CRLF.

use bellwire_sse::{Encoder, EventId, EventName, LineEnd};

use crate::plane::Frame;

/// The whole number in `data`, if it contains nothing else but white space around it. A number
/// beyond `u64` becomes `u64::MAX`: no client waits that long.
pub(super) fn whole_number(data: &str) -> Option<u64> {
    let number = data.trim();
    let digits = number.strip_prefix('+').unwrap_or(number);
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_whole.then(|| digits.parse().unwrap_or(u64::MAX))
}

pub(super) fn frame(id: Option<u64>, retry_ms: Option<u64>, name: &EventName, data: &str) -> Frame {
    let mut bytes = Vec::with_capacity(data.len() + 64);
    let mut encoder = Encoder::with_line_end(&mut bytes, LineEnd::CrLf);
    if let Some(id) = id {
        encoder.id(&EventId::from(id));
    }
    if let Some(retry_ms) = retry_ms {
        encoder.retry(retry_ms);
    }
    encoder.event(name).data(data).end();
    Frame::new(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::Framing;

    #[test]
    fn a_frame_has_the_bytes_of_the_contract() {
        let name = EventName::new("ping").unwrap();
        for (id, retry_ms, data, expected) in [
            (None, None, "", "event: ping\r\ndata: \r\n\r\n"),
            (
                None,
                None,
                "a\nb\r\nc\rd",
                "event: ping\r\ndata: a\r\ndata: b\r\ndata: c\r\ndata: d\r\n\r\n",
            ),
            (None, None, "a\n", "event: ping\r\ndata: a\r\ndata: \r\n\r\n"),
            (Some(0), Some(5000), " x", "id: 0\r\nretry: 5000\r\nevent: ping\r\ndata:  x\r\n\r\n"),
        ] {
            let frame = frame(id, retry_ms, &name, data);
            assert_eq!(frame.bytes(Framing::UntilClose), expected, "of {data:?}");
        }
    }

    #[test]
    fn only_whole_numbers_are_parsed() {
        for (data, expected) in [
            ("5000", Some(5000)),
            (" 5000\n", Some(5000)),
            ("+0", Some(0)),
            ("99999999999999999999", Some(u64::MAX)),
            ("-1", None),
            ("1.5", None),
            ("\"1\"", None),
            ("1\n2", None),
            ("", None),
            ("+", None),
        ] {
            assert_eq!(whole_number(data), expected, "of {data:?}");
        }
    }
}
