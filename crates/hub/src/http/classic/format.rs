//! Converts a posted body into the data of an event: the formats of a classic server, and the trait
//! for one of your own.

use std::fmt;
use std::str::Utf8Error;

use bellwire_proto::python_json;
use http::HeaderValue;

/// How a body becomes the data of an event.
///
/// [`Text`] and [`Json`] are the original's two formats, [`WithIds`] adds ids to either of them or
/// to one of your own. A format of your own implements this trait:
///
/// ```
/// use bellwire_hub::http::classic::{Classic, ClassicConfig, EventFormat, WithIds};
/// use http::HeaderValue;
///
/// /// Whole numbers only.
/// #[derive(Debug)]
/// struct Number;
///
/// impl EventFormat for Number {
///     fn media_type(&self) -> HeaderValue {
///         HeaderValue::from_static("text/plain")
///     }
///
///     fn data(&self, body: &[u8]) -> Result<String, String> {
///         let text = std::str::from_utf8(body).map_err(|e| e.to_string())?;
///         text.trim().parse::<i64>().map(|n| n.to_string()).map_err(|e| e.to_string())
///     }
/// }
///
/// assert_eq!(Number.data(b" 42\n"), Ok("42".to_owned()));
/// let config = ClassicConfig::new(WithIds(Number)).actions(["set-point"]);
/// let classic = Classic::start(config)?;
/// # classic.shutdown(0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait EventFormat: fmt::Debug + Send + Sync + 'static {
    /// The media type of bodies. Every answer to a POST names it in `Accept`.
    fn media_type(&self) -> HeaderValue;

    /// The data of the event for a body. It may have several lines: each becomes one `data:`.
    ///
    /// # Errors
    /// Why the body does not have this format, as the 400 reports it to the sender.
    fn data(&self, body: &[u8]) -> Result<String, String>;

    /// Whether events have ids: then the last 100 of a token are replayed after `Last-Event-ID`,
    /// and there is the action `retry`.
    fn ids(&self) -> bool {
        false
    }
}

/// The body as it is: any text in UTF-8.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Text;

/// The body as JSON, rewritten on one line as Python's `json.dumps` writes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Json;

/// Another format, with ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WithIds<F>(pub F);

impl EventFormat for Text {
    fn media_type(&self) -> HeaderValue {
        HeaderValue::from_static("text/plain")
    }

    fn data(&self, body: &[u8]) -> Result<String, String> {
        text(body).map(str::to_owned)
    }
}

impl EventFormat for Json {
    fn media_type(&self) -> HeaderValue {
        HeaderValue::from_static("application/json")
    }

    fn data(&self, body: &[u8]) -> Result<String, String> {
        python_json::rewrite(text(body)?).map_err(|error| error.to_string())
    }
}

impl<F: EventFormat> EventFormat for WithIds<F> {
    fn media_type(&self) -> HeaderValue {
        self.0.media_type()
    }

    fn data(&self, body: &[u8]) -> Result<String, String> {
        self.0.data(body)
    }

    fn ids(&self) -> bool {
        true
    }
}

fn text(body: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(body).map_err(|error| not_utf8(body, error))
}

/// The message of Python's `UnicodeDecodeError`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_text_are_reported_as_python_reports_them() {
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
            assert_eq!(Text.data(body), Err(expected.to_owned()));
        }
    }
}
