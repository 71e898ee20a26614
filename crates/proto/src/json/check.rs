//! Checks in one pass that text is JSON which may be passed on: RFC 8259, a bound on the nesting, and
//! no lone surrogate.
//!
//! Own code because `serde_json` neither checks escapes in text that it does not decode, nor counts
//! the depth as the contract does.

use super::InvalidJson;

/// Checks the whole of `text`: one value, white space around it.
pub(crate) fn check(text: &str, depth_max: usize) -> Result<(), InvalidJson> {
    let mut scan = Scan { bytes: text.as_bytes(), at: 0 };
    // The open arrays and objects, innermost last: `true` for an object. Never longer than
    // `depth_max`.
    let mut open: Vec<bool> = Vec::new();
    'value: loop {
        scan.space();
        match scan.peek() {
            Some(b'{' | b'[') => {
                if open.len() == depth_max {
                    return Err(InvalidJson::Depth { at: scan.at });
                }
                let object = scan.next() == Some(b'{');
                scan.space();
                if !scan.take(if object { b'}' } else { b']' }) {
                    open.push(object);
                    if object {
                        scan.name()?;
                    }
                    continue 'value;
                }
            }
            _ => scan.scalar()?,
        }
        // A value has ended: close what ends with it, up to a comma or the end of the text.
        loop {
            scan.space();
            let Some(object) = open.last().copied() else {
                return if scan.peek().is_none() { Ok(()) } else { scan.fail() };
            };
            if scan.take(b',') {
                if object {
                    scan.space();
                    scan.name()?;
                }
                continue 'value;
            }
            if !scan.take(if object { b'}' } else { b']' }) {
                return scan.fail();
            }
            open.pop();
        }
    }
}

/// A position in the text.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn take(&mut self, byte: u8) -> bool {
        let here = self.peek() == Some(byte);
        self.at += usize::from(here);
        here
    }

    fn fail<T>(&self) -> Result<T, InvalidJson> {
        Err(InvalidJson::Syntax { at: self.at })
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// A member's name and its colon.
    fn name(&mut self) -> Result<(), InvalidJson> {
        if self.peek() != Some(b'"') {
            return self.fail();
        }
        self.string()?;
        self.space();
        if self.take(b':') { Ok(()) } else { self.fail() }
    }

    fn scalar(&mut self) -> Result<(), InvalidJson> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            _ => self.fail(),
        }
    }

    fn literal(&mut self, literal: &[u8]) -> Result<(), InvalidJson> {
        literal.iter().try_for_each(|b| if self.take(*b) { Ok(()) } else { self.fail() })
    }

    fn digits(&mut self) -> Result<(), InvalidJson> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { self.fail() }
    }

    fn number(&mut self) -> Result<(), InvalidJson> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), InvalidJson> {
        self.at += 1;
        loop {
            let start = self.at;
            match self.next() {
                Some(b'"') => return Ok(()),
                Some(b'\\') => match self.next() {
                    Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {}
                    Some(b'u') => self.surrogates(start)?,
                    _ => return self.fail_before(),
                },
                Some(0x20..) => {}
                _ => return self.fail_before(),
            }
        }
    }

    /// The rest of a `\u` escape that began at `start`, and of its second half where it has one.
    fn surrogates(&mut self, start: usize) -> Result<(), InvalidJson> {
        match self.hex4()? {
            0xD800..=0xDBFF => {
                let paired =
                    self.take(b'\\') && self.take(b'u') && matches!(self.hex4()?, 0xDC00..=0xDFFF);
                if paired { Ok(()) } else { Err(InvalidJson::Surrogate { at: start }) }
            }
            0xDC00..=0xDFFF => Err(InvalidJson::Surrogate { at: start }),
            _ => Ok(()),
        }
    }

    fn hex4(&mut self) -> Result<u32, InvalidJson> {
        (0..4).try_fold(0, |value, _| {
            let digit = self.next().and_then(|b| char::from(b).to_digit(16));
            digit.map(|d| value * 16 + d).ok_or(InvalidJson::Syntax { at: self.at })
        })
    }

    /// Fails at the byte just taken, or at the end of the text.
    fn fail_before<T>(&self) -> Result<T, InvalidJson> {
        Err(InvalidJson::Syntax { at: self.at.saturating_sub(1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ok(text: &str) -> bool {
        check(text, 128).is_ok()
    }

    #[test]
    fn nesting_counts_arrays_and_objects_and_stops_at_the_bound() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(ok(&nested(128)));
        assert_eq!(check(&nested(129), 128), Err(InvalidJson::Depth { at: 128 }));
        let objects = format!("{}1{}", r#"{"a":"#.repeat(128), "}".repeat(128));
        assert!(ok(&objects));
        assert!(ok(&format!("[{},{}]", nested(127), nested(127))));
    }

    #[test]
    fn half_a_surrogate_pair_is_refused() {
        assert!(ok(r#""\ud83d\ude00""#));
        for bad in
            [r#""\ud83d""#, r#""\ude00""#, r#""\ud83dx""#, r#""\ud83d\n""#, r#""\ud83d\u0041""#]
        {
            assert_eq!(check(bad, 128), Err(InvalidJson::Surrogate { at: 1 }), "{bad}");
        }
        assert!(!ok(r#"{"\udc00":1}"#));
    }

    #[test]
    fn what_json_does_not_have_is_refused() {
        for bad in [
            "",
            " ",
            "01",
            "+1",
            "1.",
            ".5",
            "1e",
            "-",
            "nul",
            "nulll",
            "tru",
            "'a'",
            "\"a",
            "\"\t\"",
            r#""\x""#,
            r#""\u12g4""#,
            "[1,]",
            "[,1]",
            "[1 2]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            "{1:2}",
            "[}",
            "{]",
            "[1",
            "1 2",
            "NaN",
            "Infinity",
            "// c",
            "\u{feff}1",
        ] {
            assert!(!ok(bad), "{bad:?} is not JSON");
        }
    }

    proptest! {
        /// The same verdict as `serde_json`'s on text that is nearly JSON, apart from depth and surrogates.
        #[test]
        fn agrees_with_a_full_parser(text in r#"[\[\]{}:, \n"ab\\nu019eE+.tfrls-]{0,24}"#) {
            let parser = serde_json::from_str::<serde_json::Value>(&text);
            // A number too large for the parser's own type is still JSON.
            let too_large = parser.as_ref().is_err_and(|e| e.to_string().contains("out of range"));
            let surrogate = matches!(check(&text, 128), Err(InvalidJson::Surrogate { .. }));
            prop_assert!(too_large || surrogate || ok(&text) == parser.is_ok(), "{text:?}");
        }
    }
}
