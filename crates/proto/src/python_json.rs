//! JSON as Python prints it: what the classic wire format writes into its events.
//!
//! `docs/protocol.md`, section 10: data in JSON mode is read and written as
//! `json.dumps(json.loads(text))` of Python 3 does it. The hub does so with posted data, the
//! classic programs with the data that they send. Everything else in Bellwire passes JSON on as it
//! came, as a [`Json`](crate::Json).
//!
//! It accepts what Python accepts, refuses what Python refuses with the same message, and prints
//! what Python prints, including `NaN`, `Infinity` and lone surrogates. Two things differ: nesting
//! ends at [`CLASSIC_JSON_DEPTH_MAX`] levels, where Python ends at about 990, depending on its call stack; and
//! whole numbers have no limit, where newer Pythons refuse 4301 digits.

use std::collections::HashMap;
use std::fmt::{self, Write as _};

use crate::limits::CLASSIC_JSON_DEPTH_MAX;

/// Why a text is not JSON: the message of Python's `JSONDecodeError`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotJson {
    message: &'static str,
    line: usize,
    column: usize,
    char: usize,
}

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, line, column, char } = self;
        write!(f, "{message}: line {line} column {column} (char {char})")
    }
}

impl std::error::Error for NotJson {}

/// Reads `text` and writes it on one line as Python does: `, ` and `: ` as separators, members in
/// their order, a member given twice with its last value at its first position, everything outside
/// ASCII as `\uXXXX`, and `</` as `<\/`.
///
/// # Errors
/// When Python would not parse it, or when it is nested deeper than [`CLASSIC_JSON_DEPTH_MAX`].
///
/// ```
/// use bellwire_proto::python_json::rewrite;
///
/// let text = "{\"b\":1E2,\n \"a\": [\"\u{e9}</p>\"], \"b\": -0}";
/// assert_eq!(rewrite(text)?, r#"{"b": 0, "a": ["\u00e9<\/p>"]}"#);
/// let error = rewrite("{1}").unwrap_err().to_string();
/// assert_eq!(
///     error,
///     "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
/// );
/// # Ok::<(), bellwire_proto::python_json::NotJson>(())
/// ```
pub fn rewrite(text: &str) -> Result<String, NotJson> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    let value = reader.document().map_err(|fault| fault.in_text(text))?;
    let mut line = String::with_capacity(text.len() + text.len() / 8);
    value.print(&mut line);
    Ok(line)
}

enum Value {
    /// As it is printed.
    Scalar(String),
    Array(Vec<Value>),
    /// All members as they came; names are held as they are printed, so that equal names compare
    /// equal.
    Object(Vec<(String, Value)>),
}

impl Value {
    fn print(&self, line: &mut String) {
        match self {
            Self::Scalar(text) => line.push_str(text),
            Self::Array(items) => {
                line.push('[');
                for (number, item) in items.iter().enumerate() {
                    if number > 0 {
                        line.push_str(", ");
                    }
                    item.print(line);
                }
                line.push(']');
            }
            Self::Object(members) => {
                let mut last: HashMap<&str, &Self> =
                    members.iter().map(|(name, value)| (name.as_str(), value)).collect();
                line.push('{');
                let mut separator = "";
                for (name, _) in members {
                    // Removed once printed, so that a duplicate prints at its first position only.
                    if let Some(value) = last.remove(name.as_str()) {
                        line.push_str(separator);
                        line.push_str(name);
                        line.push_str(": ");
                        value.print(line);
                        separator = ", ";
                    }
                }
                line.push('}');
            }
        }
    }
}

struct Fault {
    message: &'static str,
    /// In bytes, at the beginning of a character or at the end.
    at: usize,
}

impl Fault {
    /// Python counts characters, and lines by LF alone.
    fn in_text(self, text: &str) -> NotJson {
        let before = text.get(..self.at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        NotJson {
            message: self.message,
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            char: before.chars().count(),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn document(&mut self) -> Result<Value, Fault> {
        if self.text.starts_with('\u{feff}') {
            return self.fault("Unexpected UTF-8 BOM (decode using utf-8-sig)");
        }
        self.skip_space();
        let value = self.value()?;
        self.skip_space();
        if self.at < self.text.len() { self.fault("Extra data") } else { Ok(value) }
    }

    fn value(&mut self) -> Result<Value, Fault> {
        match self.peek() {
            Some(b'"') => {
                let mut printed = String::new();
                self.string(&mut printed)?;
                Ok(Value::Scalar(printed))
            }
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.literal(&["null", "true", "false", "NaN", "Infinity"]),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value, Fault>) -> Result<Value, Fault> {
        if self.depth == CLASSIC_JSON_DEPTH_MAX {
            return self.fault("Nested too deep");
        }
        self.depth += 1;
        self.at += 1;
        self.skip_space();
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn array(&mut self) -> Result<Value, Fault> {
        let mut items = Vec::new();
        if self.skip(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.skip_space();
            if self.skip(b']') {
                return Ok(Value::Array(items));
            }
            self.comma()?;
        }
    }

    fn object(&mut self) -> Result<Value, Fault> {
        let mut members = Vec::new();
        if self.skip(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            if self.peek() != Some(b'"') {
                return self.fault("Expecting property name enclosed in double quotes");
            }
            let mut name = String::new();
            self.string(&mut name)?;
            self.skip_space();
            if !self.skip(b':') {
                return self.fault("Expecting ':' delimiter");
            }
            self.skip_space();
            members.push((name, self.value()?));
            self.skip_space();
            if self.skip(b'}') {
                return Ok(Value::Object(members));
            }
            self.comma()?;
        }
    }

    fn comma(&mut self) -> Result<(), Fault> {
        if !self.skip(b',') {
            return self.fault("Expecting ',' delimiter");
        }
        self.skip_space();
        Ok(())
    }

    fn literal(&mut self, literals: &[&str]) -> Result<Value, Fault> {
        for literal in literals {
            if self.rest().starts_with(literal) {
                self.at += literal.len();
                return Ok(Value::Scalar((*literal).to_owned()));
            }
        }
        self.fault("Expecting value")
    }

    /// A number, or `-Infinity`. What follows the longest number that stands here, as the `1` in
    /// `01`, is the caller's to refuse.
    fn number(&mut self) -> Result<Value, Fault> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let digits = |from: usize| {
            let count = bytes.iter().skip(from).take_while(|byte| byte.is_ascii_digit()).count();
            (count > 0).then_some(from + count)
        };
        let sign = usize::from(bytes.first() == Some(&b'-'));
        let whole_end = if bytes.get(sign) == Some(&b'0') { Some(sign + 1) } else { digits(sign) };
        let Some(whole_end) = whole_end else {
            return self.literal(&["-Infinity"]);
        };
        let mut end = whole_end;
        if bytes.get(end) == Some(&b'.') {
            end = digits(end + 1).unwrap_or(end);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let signed = matches!(bytes.get(end + 1), Some(b'+' | b'-'));
            end = digits(end + 1 + usize::from(signed)).unwrap_or(end);
        }
        let printed = match rest.get(..end).unwrap_or_default() {
            "-0" => "0".to_owned(),
            whole if end == whole_end => whole.to_owned(),
            // Every text that reaches this line is a number to Rust too, possibly an infinite one.
            float => print_float(float.parse().unwrap_or(f64::NAN)),
        };
        self.at += end;
        Ok(Value::Scalar(printed))
    }

    /// A string, printed as it is read, quotes included.
    fn string(&mut self, printed: &mut String) -> Result<(), Fault> {
        let start = self.at;
        let unterminated = Fault { message: "Unterminated string starting at", at: start };
        printed.push('"');
        self.at += 1;
        loop {
            match self.rest().chars().next() {
                None => return Err(unterminated),
                Some('"') => break,
                Some('\\') => match self.text.as_bytes().get(self.at + 1) {
                    None => return Err(unterminated),
                    Some(b'u') => self.unicode_escape(printed)?,
                    Some(_) => self.escape(printed)?,
                },
                Some('\0'..='\u{1f}') => return self.fault("Invalid control character at"),
                Some(char) => {
                    print_char(char, printed);
                    self.at += char.len_utf8();
                }
            }
        }
        self.at += 1;
        printed.push('"');
        Ok(())
    }

    fn escape(&mut self, printed: &mut String) -> Result<(), Fault> {
        let char = match self.text.as_bytes().get(self.at + 1) {
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(&byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            _ => return self.fault("Invalid \\escape"),
        };
        print_char(char, printed);
        self.at += 2;
        Ok(())
    }

    /// `\uXXXX`, lone surrogates included; each half of a pair is printed by itself.
    fn unicode_escape(&mut self, printed: &mut String) -> Result<(), Fault> {
        let digits = self.text.get(self.at + 2..self.at + 6);
        let unit = digits
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let Some(unit) = unit else {
            return Err(Fault { message: "Invalid \\uXXXX escape", at: self.at + 1 });
        };
        match char::from_u32(u32::from(unit)) {
            Some(char) => print_char(char, printed),
            None => print_unit(unit, printed),
        }
        self.at += 6;
        Ok(())
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn fault<T>(&self, message: &'static str) -> Result<T, Fault> {
        Err(Fault { message, at: self.at })
    }
}

fn print_char(char: char, printed: &mut String) {
    match char {
        '"' => printed.push_str("\\\""),
        '\\' => printed.push_str("\\\\"),
        '\n' => printed.push_str("\\n"),
        '\r' => printed.push_str("\\r"),
        '\t' => printed.push_str("\\t"),
        '\u{8}' => printed.push_str("\\b"),
        '\u{c}' => printed.push_str("\\f"),
        '/' if printed.ends_with('<') => printed.push_str("\\/"),
        ' '..='~' => printed.push(char),
        _ => char.encode_utf16(&mut [0; 2]).iter().for_each(|&unit| print_unit(unit, printed)),
    }
}

fn print_unit(unit: u16, printed: &mut String) {
    // Writing to a `String` cannot fail.
    let _ = write!(printed, "\\u{unit:04x}");
}

/// `repr(float)`: the fewest digits that read back as the same number; with an exponent below
/// 0.0001 and from 1e16 on.
fn print_float(float: f64) -> String {
    if float.is_infinite() {
        return if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = shortest(float);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs());
    }
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let sign = if mantissa.starts_with('-') { "-" } else { "" };
    match usize::try_from(exponent) {
        Ok(exponent) => {
            let digits = format!("{digits:0<width$}", width = exponent + 2);
            let (whole, fraction) = digits.split_at_checked(exponent + 1).unwrap_or((&digits, "0"));
            format!("{sign}{whole}.{fraction}")
        }
        Err(_) => {
            let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
            format!("{sign}0.{zeros}{digits}")
        }
    }
}

/// The fewest digits, in scientific notation. When two candidates are equally near, as `.2` and `.3` are
/// to a number that ends in .25, Rust takes the upper one and Python the even one.
fn shortest(float: f64) -> String {
    let upper = format!("{float:e}");
    let mantissa = upper.split('e').next().unwrap_or_default();
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    let nearest = format!("{float:.precision$e}", precision = digits.saturating_sub(1));
    if nearest.parse() == Ok(float) { nearest } else { upper }
}

#[cfg(test)]
mod tests;
