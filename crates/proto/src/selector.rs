//! Label selectors as Kubernetes writes them: `site=lyon,os in (deb11,deb12),!spare`.
//!
//! Syntax and meaning: Kubernetes documentation, "Labels and Selectors". As there, a device without
//! the key meets `!=` and `notin`.

use std::fmt;
use std::str::FromStr;

use crate::labels::{Labels, is_label_key, is_label_value};

/// Requirements, all of which must be met. The empty selector is met by every device.
///
/// ```
/// use bellwire_proto::{Labels, Selector};
/// let selector: Selector = "site=lyon,os in (deb11,deb12),!spare".parse()?;
/// let labels = Labels::from([("site".into(), "lyon".into()), ("os".into(), "deb12".into())]);
/// assert!(selector.matches(&labels));
/// # Ok::<(), bellwire_proto::selector::InvalidSelector>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector(Vec<Requirement>);

/// The condition on one key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    op: Op,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Op {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

/// Text that is not a selector; its sender's fault. The message names what was expected, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a label selector: {why} is expected at character {}", .at + 1)]
pub struct InvalidSelector {
    /// What was expected.
    pub why: &'static str,
    /// Characters before the error.
    pub at: usize,
}

impl Selector {
    /// Whether a device with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.op {
                Op::Exists => value.is_some(),
                Op::Absent => value.is_none(),
                Op::In(values) => value.is_some_and(|v| values.contains(v)),
                Op::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            }
        })
    }
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, InvalidSelector> {
        let mut parser = Parser { text, at: 0 };
        let mut requirements = Vec::new();
        parser.space();
        while !parser.rest().is_empty() {
            requirements.push(parser.requirement()?);
            parser.space();
            if parser.rest().is_empty() {
                break;
            }
            if !parser.take(",") {
                return parser.fail("a comma");
            }
            parser.space();
            if parser.rest().is_empty() {
                return parser.fail("another requirement");
            }
        }
        Ok(Self(requirements))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Requirement { key, op }) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match op {
                Op::Exists => write!(f, "{key}")?,
                Op::Absent => write!(f, "!{key}")?,
                Op::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Op::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
            }
        }
        Ok(())
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn fail<T>(&self, why: &'static str) -> Result<T, InvalidSelector> {
        let at = self.text.get(..self.at).map_or(0, |before| before.chars().count());
        Err(InvalidSelector { why, at })
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches(' ').len();
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

    fn key(&mut self) -> Result<String, InvalidSelector> {
        let start = self.at;
        let key = self.token();
        if is_label_key(key) {
            return Ok(key.to_owned());
        }
        self.at = start;
        self.fail("a label key")
    }

    fn value(&mut self) -> Result<String, InvalidSelector> {
        let start = self.at;
        let value = self.token();
        if is_label_value(value) {
            return Ok(value.to_owned());
        }
        self.at = start;
        self.fail("a label value")
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
                    return self.fail("=, ==, !=, in, notin or a comma");
                }
            }
        };
        Ok(Requirement { key, op })
    }

    fn values(&mut self) -> Result<Vec<String>, InvalidSelector> {
        self.space();
        if !self.take("(") {
            return self.fail("a list in brackets");
        }
        let mut values = Vec::new();
        loop {
            self.space();
            values.push(self.value()?);
            self.space();
            if self.take(")") {
                return Ok(values);
            }
            if !self.take(",") {
                return self.fail("a comma or a closing bracket");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_selector_means_what_kubernetes_means() {
        let kiosk = labels(&[("site", "lyon"), ("os", "deb12"), ("example.com/tier", "")]);
        for (selector, met) in [
            ("", true),
            ("site=lyon", true),
            ("site==lyon", true),
            ("site = lyon , os = deb12", true),
            ("site!=lyon", false),
            ("shop!=lyon", true),
            ("os in (deb11,deb12)", true),
            ("os in ( deb11 , deb13 )", false),
            ("os notin (deb11)", true),
            ("shop notin (a)", true),
            ("shop in (a)", false),
            ("site", true),
            ("!site", false),
            ("!spare,site", true),
            ("example.com/tier=", true),
            ("example.com/tier in (,a)", true),
            ("site=paris,os=deb12", false),
        ] {
            let parsed: Selector = selector.parse().expect(selector);
            assert_eq!(parsed.matches(&kiosk), met, "{selector}");
            let again: Selector = parsed.to_string().parse().expect("what is shown parses");
            assert_eq!(again, parsed, "{selector}");
        }
    }

    #[test]
    fn text_that_is_not_a_selector_is_refused_with_the_position() {
        for bad in [
            ",",
            "a,",
            "a,,b",
            "=b",
            "a=b=c",
            "a in",
            "a in b",
            "a in (",
            "a in (b",
            "a in (b c)",
            "!a=b",
            "!",
            "a b",
            "a!b",
            "a=-b",
            "-a=b",
            "é=b",
            "a>1",
            "a/b/c=d",
            "A.b/c=d/e",
        ] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
        let error = "site=lyon,os is x".parse::<Selector>().unwrap_err();
        assert_eq!(error.at, 13);
    }
}
