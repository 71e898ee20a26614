//! What an event is on the wire: `id`, `retry`, `event`, `data`, each line ended by CRLF.

use std::str::Utf8Error;

use bellwire_proto::python_json;
use bellwire_sse::{Encoder, EventId, EventName, LineEnd};

use crate::plane::Frame;

/// The data of an event: the body as it is, or its JSON as Python prints it.
///
/// # Errors
/// The reason, in Python's words, when the body is not UTF-8 or not JSON.
pub(super) fn data(body: &[u8], json: bool) -> Result<String, String> {
    let text = std::str::from_utf8(body).map_err(|error| not_utf8(body, error))?;
    if json {
        python_json::rewrite(text).map_err(|error| error.to_string())
    } else {
        Ok(text.to_owned())
    }
}

/// What Python's `UnicodeDecodeError` says.
fn not_utf8(body: &[u8], error: Utf8Error) -> String {
    let start = error.valid_up_to();
    let rest = body.get(start..).unwrap_or_default();
    let first = rest.first().copied().unwrap_or_default();
    let reason = match error.error_len() {
        None => "unexpected end of data",
        Some(_) if (0xc2..=0xf4).contains(&first) => "invalid continuation byte",
        Some(_) => "invalid start byte",
    };
    match start + error.error_len().unwrap_or(rest.len()) - 1 {
        end if end == start => {
            format!("'utf-8' codec can't decode byte 0x{first:02x} in position {start}: {reason}")
        }
        end => format!("'utf-8' codec can't decode bytes in position {start}-{end}: {reason}"),
    }
}

/// The number that is all of `data`, white space around it apart. One beyond `u64` is as good as
/// the greatest: nobody waits that long.
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
    fn a_frame_is_what_the_contract_says() {
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
    fn whole_numbers_are_told_from_the_rest() {
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

    #[test]
    fn bytes_that_are_no_text_are_named_as_python_names_them() {
        for (body, expected) in [
            (
                &b"a\xff"[..],
                "'utf-8' codec can't decode byte 0xff in position 1: invalid start byte",
            ),
            (
                b"\xc3(",
                "'utf-8' codec can't decode byte 0xc3 in position 0: invalid continuation byte",
            ),
            (
                b"\xe2\x82",
                "'utf-8' codec can't decode bytes in position 0-1: unexpected end of data",
            ),
            (
                b"\xf0\x9f\x98(",
                "'utf-8' codec can't decode bytes in position 0-2: invalid continuation byte",
            ),
        ] {
            assert_eq!(data(body, false), Err(expected.to_owned()));
        }
    }
}
