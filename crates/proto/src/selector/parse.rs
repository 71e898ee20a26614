//! From the text of a selector to its requirements. What is wrong is said with its place.

use super::{FACTS, Key, Op, Requirement, Selector};
use crate::facts::is_fact_name;
use crate::labels::{is_label_key, is_label_value};
use crate::limits::{FACT_NAME_CHARS_MAX, SELECTOR_CHARS_MAX, SELECTOR_REQUIREMENTS_MAX};

/// Characters of the text after the place of an error that its message repeats.
const NEAR_CHARS_MAX: usize = 20;

/// Text that is not a selector; its sender's fault. The message names what was expected, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a selector: {why} at character {}{near}", .at + 1)]
pub struct InvalidSelector {
    /// What was expected.
    pub why: String,
    /// Characters before the error.
    pub at: usize,
    /// What stands there, in brackets after a space; empty at the end of the text.
    near: String,
}

/// Reads a selector.
pub(super) fn selector(text: &str) -> Result<Vec<Requirement>, InvalidSelector> {
    let mut parser = Parser { text, at: 0 };
    let too_long = || format!("a selector ends after {SELECTOR_CHARS_MAX} characters at most:");
    if text.chars().count() > SELECTOR_CHARS_MAX {
        parser.at = text.char_indices().nth(SELECTOR_CHARS_MAX).map_or(0, |(at, _)| at);
        return parser.fail(too_long());
    }
    let mut requirements = Vec::new();
    parser.space();
    while !parser.rest().is_empty() {
        if requirements.len() == SELECTOR_REQUIREMENTS_MAX {
            let why = format!("a selector has at most {SELECTOR_REQUIREMENTS_MAX} requirements:");
            return parser.fail(why);
        }
        requirements.push(parser.requirement()?);
        parser.space();
        if parser.rest().is_empty() {
            break;
        }
        if !parser.take(",") {
            return parser.fail("a comma is expected");
        }
        parser.space();
        if parser.rest().is_empty() {
            return parser.fail("another requirement is expected");
        }
    }
    // What is stored is what is shown, and is read again: it has a space more here and there.
    let shown = Selector(requirements);
    if shown.to_string().len() > SELECTOR_CHARS_MAX {
        return parser.fail(too_long());
    }
    Ok(shown.0)
}

struct Parser<'a> {
    text: &'a str,
    /// Bytes that were read.
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn fail<T>(&self, why: impl Into<String>) -> Result<T, InvalidSelector> {
        let at = self.text.get(..self.at).map_or(0, |before| before.chars().count());
        let near: String = self.rest().chars().take(NEAR_CHARS_MAX).collect();
        let near = if near.is_empty() { near } else { format!(" ({near:?})") };
        Err(InvalidSelector { why: why.into(), at, near })
    }

    fn space(&mut self) {
        self.at +=
            self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\r', '\n']).len();
    }

    fn take(&mut self, token: &str) -> bool {
        let here = self.rest().starts_with(token);
        self.at += if here { token.len() } else { 0 };
        here
    }

    fn token(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || "-_./".contains(c)))
            .unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    fn key(&mut self) -> Result<Key, InvalidSelector> {
        let start = self.at;
        let key = self.token();
        if let Some(name) = key.strip_prefix(FACTS) {
            if is_fact_name(name) {
                return Ok(Key::Fact(name.to_owned()));
            }
            self.at = start + FACTS.len();
            let why =
                format!("the name of a fact of 1 to {FACT_NAME_CHARS_MAX} characters is expected");
            return self.fail(why);
        }
        if is_label_key(key) {
            return Ok(Key::Label(key.to_owned()));
        }
        self.at = start;
        self.fail("a label key is expected")
    }

    fn value(&mut self) -> Result<String, InvalidSelector> {
        let start = self.at;
        let value = self.token();
        if is_label_value(value) {
            return Ok(value.to_owned());
        }
        self.at = start;
        self.fail("a label value is expected")
    }

    fn requirement(&mut self) -> Result<Requirement, InvalidSelector> {
        if self.take("!") {
            self.space();
            return Ok(Requirement { key: self.key()?, op: Op::Absent });
        }
        let key = self.key()?;
        self.space();
        let op = if self.take("!=") {
            self.space();
            Op::NotIn(vec![self.value()?])
        } else if self.take("==") || self.take("=") {
            self.space();
            Op::In(vec![self.value()?])
        } else {
            let start = self.at;
            match self.token() {
                "in" => Op::In(self.values()?),
                "notin" => Op::NotIn(self.values()?),
                "" => Op::Exists,
                _ => {
                    self.at = start;
                    return self.fail("=, ==, !=, in, notin or a comma is expected");
                }
            }
        };
        Ok(Requirement { key, op })
    }

    fn values(&mut self) -> Result<Vec<String>, InvalidSelector> {
        self.space();
        if !self.take("(") {
            return self.fail("a list in brackets is expected");
        }
        let mut values = Vec::new();
        loop {
            self.space();
            let value = self.value()?;
            if !values.contains(&value) {
                values.push(value);
            }
            self.space();
            if self.take(")") {
                return Ok(values);
            }
            if !self.take(",") {
                return self.fail("a comma or a closing bracket is expected");
            }
        }
    }
}
