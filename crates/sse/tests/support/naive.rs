//! A decoder that is only correct: HTML section 9.2.6 word for word, on a complete stream.
//!
//! It shares nothing with the crate. The text is decoded first, then split into lines by the ABNF,
//! then interpreted line by line in the terms of the standard.

use crate::support::Decoded;

/// Interprets a whole stream, from a given last event id on.
pub(crate) fn interpret(stream: &[u8], last_event_id: &str) -> Decoded {
    // "Streams must be decoded using the UTF-8 decode algorithm", which strips one BOM.
    let text = String::from_utf8_lossy(stream.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(stream));
    let mut decoded = Decoded { last_event_id: last_event_id.to_owned(), ..Decoded::default() };
    let mut data_buffer = String::new();
    let mut event_type_buffer = String::new();
    let mut last_event_id_buffer = last_event_id.to_owned();
    for line in lines(&text) {
        if line.is_empty() {
            decoded.last_event_id = last_event_id_buffer.clone();
            if data_buffer.is_empty() {
                event_type_buffer.clear();
                continue;
            }
            assert_eq!(data_buffer.pop(), Some('\n'), "each data line ends in LF");
            let name = if event_type_buffer.is_empty() { "message" } else { &event_type_buffer };
            decoded.events.push((name.into(), data_buffer.clone(), decoded.last_event_id.clone()));
            data_buffer.clear();
            event_type_buffer.clear();
            continue;
        }
        let (field, value) = match line.split_once(':') {
            Some(("", comment)) => {
                decoded.comments.push(comment.into());
                continue;
            }
            Some((field, value)) => (field, value.strip_prefix(' ').unwrap_or(value)),
            None => (line, ""),
        };
        match field {
            "event" => event_type_buffer = value.into(),
            "data" => {
                data_buffer.push_str(value);
                data_buffer.push('\n');
            }
            "id" if !value.contains('\0') => last_event_id_buffer = value.into(),
            "retry" if !value.is_empty() && value.chars().all(|c| c.is_ascii_digit()) => {
                // All digits, so that only its size can be wrong.
                decoded.retry_ms = Some(value.parse().unwrap_or(u64::MAX));
            }
            _ => {}
        }
    }
    decoded
}

/// The lines that have an end; the bytes after the last end are not a line yet.
fn lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(['\r', '\n']) {
        lines.push(&rest[..end]);
        rest = &rest[end..];
        rest = rest.strip_prefix("\r\n").unwrap_or_else(|| &rest[1..]);
    }
    lines
}
