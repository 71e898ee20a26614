//! Selectors of devices as Kubernetes writes them: `site=lyon,os in (deb11,deb12),!spare`, and over facts:
//! `facts.os=linux`.
//!
//! Syntax and meaning: Kubernetes documentation, "Labels and Selectors". As there, a device without
//! the key meets `!=` and `notin`. A key that begins with `facts.` is the name of a fact (contract, section 6). How the
//! text is read is in `selector/parse.rs`; what a selector sees of facts, in `facts.rs`.

use std::fmt;
use std::str::FromStr;

use crate::facts::FactValues;
use crate::labels::Labels;

mod parse;

pub use parse::InvalidSelector;

/// What a key begins with that names a fact.
const FACTS: &str = "facts.";

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
pub struct Requirement {
    /// Whose value is looked at.
    pub key: Key,
    /// What is required of it.
    pub op: Op,
}

/// What a requirement looks at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The label with this key.
    Label(String),
    /// The fact with this name.
    Fact(String),
}

/// What is required of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// It is there.
    Exists,
    /// It is not there.
    Absent,
    /// It is one of these.
    In(Vec<String>),
    /// It is none of these, or not there.
    NotIn(Vec<String>),
}

impl Selector {
    /// Whether a device with these labels and no facts is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.selects(labels, &FactValues::new())
    }

    /// Whether a device with these labels and facts is selected.
    ///
    /// ```
    /// use bellwire_proto::{Json, Labels, Selector, facts::selectable};
    /// let facts = selectable(&Json::parse(r#"{"os":"linux"}"#)?);
    /// assert!("facts.os=linux,!site".parse::<Selector>()?.selects(&Labels::new(), &facts));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn selects(&self, labels: &Labels, facts: &FactValues) -> bool {
        self.0.iter().all(|requirement| match &requirement.key {
            Key::Label(key) => requirement.op.is_met_by(labels.get(key).map(Some)),
            Key::Fact(name) => requirement.op.is_met_by(facts.get(name).map(Option::as_ref)),
        })
    }

    /// What it requires, in the order in which it was written.
    pub fn requirements(&self) -> &[Requirement] {
        &self.0
    }

    /// Whether it looks at facts, which a device states itself.
    pub fn sees_facts(&self) -> bool {
        self.0.iter().any(|requirement| matches!(requirement.key, Key::Fact(_)))
    }
}

impl Op {
    /// Whether a value meets it: `None` is none, `Some(None)` one that no selector can name.
    fn is_met_by(&self, value: Option<Option<&String>>) -> bool {
        let is_in = |values: &[String]| value.flatten().is_some_and(|v| values.contains(v));
        match self {
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
            Self::In(values) => is_in(values),
            Self::NotIn(values) => !is_in(values),
        }
    }
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, InvalidSelector> {
        parse::selector(text).map(Self)
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
                Op::In(values) => match values.as_slice() {
                    [value] => write!(f, "{key}={value}")?,
                    values => write!(f, "{key} in ({})", values.join(","))?,
                },
                Op::NotIn(values) => match values.as_slice() {
                    [value] => write!(f, "{key}!={value}")?,
                    values => write!(f, "{key} notin ({})", values.join(","))?,
                },
            }
        }
        Ok(())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(key) => f.write_str(key),
            Self::Fact(name) => write!(f, "{FACTS}{name}"),
        }
    }
}

#[cfg(test)]
mod tests;
