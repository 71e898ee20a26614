//! The allow-list of an appliance: its actions, their rules, and what their data may be.
//!
//! [`config`](super::config) builds it from the file. A command that is not allowed is rejected with a code and a message
//! for its sender, which may repeat what the sender sent and what the data must be, and nothing else of the list.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bellwire_proto::Members;
use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{Action, ErrorInfo, Json, codes};
use regex_lite::Regex;
use serde_json::Value;

use super::run::{Run, error};

/// What happens to a command whose run was interrupted by the end of the agent or the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnRestart {
    /// It has failed with code `interrupted`.
    #[default]
    Fail,
    /// It runs again, within its time to live, three times at most.
    Rerun,
    /// If the machine has booted since, it has succeeded (for actions that reboot it); otherwise as `Fail`.
    Succeed,
}

impl OnRestart {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fail, Self::Rerun, Self::Succeed];

    /// Its name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Rerun => "rerun",
            Self::Succeed => "succeed",
        }
    }
}

/// The rules of an allowed action.
#[derive(Clone)]
pub struct Rules {
    /// Runs its commands.
    pub run: Arc<dyn Run>,
    /// How long a run may take; `None` for the command's `run_timeout_s`.
    pub timeout: Option<Duration>,
    /// What happens to an interrupted run.
    pub on_restart: OnRestart,
    /// How many of its commands may run at once.
    pub concurrency: usize,
    /// What its data must be; `None` for any data.
    pub params: Option<Params>,
}

impl Rules {
    /// The default rules: one command at a time, any data, [`OnRestart::Fail`].
    pub fn new(run: impl Run + 'static) -> Self {
        Self {
            run: Arc::new(run),
            timeout: None,
            on_restart: OnRestart::default(),
            concurrency: 1,
            params: None,
        }
    }

    /// How long this command may run.
    pub fn limit(&self, command: &CommandEvent) -> Duration {
        limit(self.timeout, command)
    }
}

/// How long a command may run: the action's timeout, or else the command's own.
pub(super) fn limit(timeout: Option<Duration>, command: &CommandEvent) -> Duration {
    timeout.unwrap_or(Duration::from_secs(command.run_timeout_s))
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("timeout", &self.timeout)
            .field("on_restart", &self.on_restart)
            .field("concurrency", &self.concurrency)
            .field("params", &self.params)
            .finish_non_exhaustive()
    }
}

/// The allow-list. Actions that are not on it are rejected.
///
/// [`Policy::allow`] fills it; the agent calls [`Policy::judge`] for each command.
#[derive(Debug, Clone, Default)]
pub struct Policy(BTreeMap<Action, Arc<Rules>>);

impl Policy {
    /// Allows an action, or replaces its rules.
    pub fn allow(&mut self, action: Action, rules: Rules) {
        self.0.insert(action, Arc::new(rules));
    }

    /// The rules of an allowed action, whatever its data.
    pub fn rules(&self, action: &Action) -> Option<&Arc<Rules>> {
        self.0.get(action)
    }

    pub(super) fn rules_mut(&mut self, action: &Action) -> Option<&mut Rules> {
        self.0.get_mut(action).map(Arc::make_mut)
    }

    /// The allowed actions, by name.
    pub fn actions(&self) -> impl Iterator<Item = (&Action, &Arc<Rules>)> {
        self.0.iter()
    }

    /// The rules of an action if it may run with these data.
    ///
    /// # Errors
    /// The error to reject it with: `unknown_action`, or `invalid_params` with the member's name.
    pub fn judge(&self, action: &Action, data: &Json) -> Result<&Arc<Rules>, ErrorInfo> {
        let rules = self.rules(action).ok_or_else(|| {
            error(codes::UNKNOWN_ACTION, format!("{action} is not on this appliance's list"))
        })?;
        if let Some(params) = &rules.params {
            params
                .check(data.as_str())
                .map_err(|violation| error(codes::INVALID_PARAMS, violation.to_string()))?;
        }
        Ok(rules)
    }
}

/// What the data of an action must be: a JSON object with exactly these members, none of them nested.
#[derive(Debug, Clone, Default)]
pub struct Params(pub BTreeMap<String, Param>);

/// What one member must be.
#[derive(Debug, Clone)]
pub struct Param {
    /// Its type.
    pub kind: Kind,
    /// The values that it may have; empty for every value of its type.
    pub one_of: Vec<Value>,
    /// Whether it may be absent.
    pub optional: bool,
}

/// The type of a member, with the constraints of that type.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A string that the pattern matches as a whole.
    String {
        /// The pattern, if any.
        pattern: Option<Pattern>,
    },
    /// A number without fraction and exponent, in 64 bits.
    Integer {
        /// The least value.
        min: Option<i64>,
        /// The greatest value.
        max: Option<i64>,
    },
    /// Any number.
    Number {
        /// The least value.
        min: Option<f64>,
        /// The greatest value.
        max: Option<f64>,
    },
    /// `true` or `false`.
    Boolean,
}

/// A regular expression (the syntax of the `regex-lite` crate: classes such as `\d` and `\w` are ASCII's) that matches whole texts.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    whole: Regex,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// When it is not a regular expression.
    pub fn new(text: &str) -> Result<Self, regex_lite::Error> {
        // By itself first: "a)|(b" is invalid, though it would be valid inside a group.
        Regex::new(text)?;
        // The line break ends a comment, which the flag x allows.
        let whole = Regex::new(&format!(r"\A(?:{text})\z"))
            .or_else(|_| Regex::new(&format!("\\A(?:{text}\n)\\z")))?;
        Ok(Self { text: text.to_owned(), whole })
    }

    /// Whether all of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        self.whole.is_match(text)
    }
}

/// Why data are rejected: the sender's fault. The text names the member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The data are not an object.
    #[error("the data must be a JSON object")]
    NotAnObject,
    /// The data are a string, which the hub makes of a body that is not sent as JSON.
    #[error(
        "the data must be a JSON object, and are a string: send JSON, with Content-Type: application/json"
    )]
    Text,
    /// A member is given twice.
    #[error("{0}")]
    Duplicate(String),
    /// A required member is missing.
    #[error("member {0:?} is missing")]
    Missing(String),
    /// A member is not among the parameters.
    #[error("member {0:?} is not a parameter of this action")]
    Unknown(String),
    /// A member has a value that it may not have.
    #[error("member {member:?} is not {expected}")]
    Invalid {
        /// Its name.
        member: String,
        /// What it must be.
        expected: String,
    },
}

impl Params {
    /// Checks data, which are JSON text.
    ///
    /// # Errors
    /// The first violation.
    pub fn check(&self, data: &str) -> Result<(), Violation> {
        let mut members = match (Members::parse(data.as_bytes()), data.as_bytes().first()) {
            (Ok(members), _) => members,
            (Err(problem), Some(b'{')) => return Err(Violation::Duplicate(problem.detail)),
            (Err(_), Some(b'"')) => return Err(Violation::Text),
            (Err(_), _) => return Err(Violation::NotAnObject),
        };
        for (name, param) in &self.0 {
            match members.take_raw(name) {
                None if param.optional => {}
                None => return Err(Violation::Missing(name.clone())),
                Some(text) if param.admits(text) => {}
                Some(_) => {
                    let (member, expected) = (name.clone(), param.to_string());
                    return Err(Violation::Invalid { member, expected });
                }
            }
        }
        match members.first_untaken() {
            None => Ok(()),
            Some(name) => Err(Violation::Unknown(name.chars().take(64).collect())),
        }
    }
}

impl Param {
    /// A required member of this type.
    pub const fn of(kind: Kind) -> Self {
        Self { kind, one_of: Vec::new(), optional: false }
    }

    fn admits(&self, text: &str) -> bool {
        let Ok(value) = serde_json::from_str(text) else { return false };
        let listed = self.one_of.is_empty() || self.one_of.iter().any(|one| same(one, &value));
        listed && self.kind.admits(&value)
    }
}

/// What it must be: the listed values, or else the type.
impl fmt::Display for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.one_of.is_empty() {
            return self.kind.fmt(f);
        }
        write!(f, "one of {}", Value::from(self.one_of.clone()))
    }
}

/// Whether two values are the same; 1 and 1.0 are the same number.
fn same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(a), Some(b)) if !(one.is_i64() && other.is_i64()) => a == b,
        _ => one == other,
    }
}

impl Kind {
    /// Whether a value is of this type and within its bounds.
    pub fn admits(&self, value: &Value) -> bool {
        match self {
            Self::String { pattern } => value
                .as_str()
                .is_some_and(|text| pattern.as_ref().is_none_or(|pattern| pattern.matches(text))),
            // A greater one is not read exactly by every program.
            Self::Integer { min, max } => value
                .as_i64()
                .is_some_and(|n| min.is_none_or(|min| n >= min) && max.is_none_or(|max| n <= max)),
            Self::Number { min, max } => value
                .as_f64()
                .is_some_and(|n| min.is_none_or(|min| n >= min) && max.is_none_or(|max| n <= max)),
            Self::Boolean => value.is_boolean(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bounds =
            |f: &mut fmt::Formatter<'_>, min: Option<String>, max: Option<String>| match (min, max)
            {
                (Some(min), Some(max)) => write!(f, " from {min} to {max}"),
                (Some(min), None) => write!(f, " of at least {min}"),
                (None, Some(max)) => write!(f, " of at most {max}"),
                (None, None) => Ok(()),
            };
        match self {
            Self::String { pattern: None } => f.write_str("a string"),
            Self::String { pattern: Some(pattern) } => {
                write!(f, "a string that matches {} as a whole", pattern.text)
            }
            Self::Integer { min, max } => {
                f.write_str("a whole number")?;
                bounds(f, min.map(|n| n.to_string()), max.map(|n| n.to_string()))
            }
            Self::Number { min, max } => {
                f.write_str("a number")?;
                bounds(f, min.map(|n| n.to_string()), max.map(|n| n.to_string()))
            }
            Self::Boolean => f.write_str("true or false"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(pattern: &str) -> Param {
        Param::of(Kind::String { pattern: Some(Pattern::new(pattern).unwrap()) })
    }

    fn params<const N: usize>(members: [(&str, Param); N]) -> Params {
        Params(members.map(|(name, param)| (name.to_owned(), param)).into())
    }

    #[test]
    fn a_pattern_matches_the_whole_text_whatever_its_flags() {
        for (pattern, text, fits) in [
            ("[0-9.]{1,16}", "1.4", true),
            ("[0-9.]{1,16}", "1.4;rm", false),
            ("^[0-9.]{1,16}$", "1.4\n", false),
            ("(?m)^a$", "a\nb", false),
            ("a|ab", "ab", true),
            ("a|b", "ax", false),
            ("(?x) a b # two letters", "ab", true),
            ("(?s).*", "any\nthing", true),
            ("[α-ω]+", "αβ", true),
            // The digits of other scripts, which a program may take for something else.
            ("\\d", "٣", false),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().matches(text), fits, "{pattern} on {text:?}");
        }
        assert!(Pattern::new("a)|(b").is_err());
        assert!(
            Pattern::new("\\p{Greek}").is_err(),
            "a class that is not there matches nothing by accident"
        );
    }

    #[test]
    fn exactly_the_listed_members_each_once_and_flat() {
        let optional = Param { optional: true, ..Param::of(Kind::Boolean) };
        let params = params([("version", string("[0-9.]{1,16}")), ("force", optional)]);
        for (data, wrong) in [
            (r#"{"version":"1.4"}"#, ""),
            (r#"{"force":true,"version":"1"}"#, ""),
            (r#"{"force":true}"#, "member \"version\" is missing"),
            (r#"{"version":"1","extra":0}"#, "member \"extra\" is not a parameter of this action"),
            (
                r#"{"version":1}"#,
                "member \"version\" is not a string that matches [0-9.]{1,16} as a whole",
            ),
            (
                r#"{"version":["1"]}"#,
                "member \"version\" is not a string that matches [0-9.]{1,16} as a whole",
            ),
            (r#"{"version":"1","force":null}"#, "member \"force\" is not true or false"),
            (r#"{"version":"1","force":"true"}"#, "member \"force\" is not true or false"),
        ] {
            let problem = params.check(data).map_or_else(|v| v.to_string(), |()| String::new());
            assert_eq!(problem, wrong, "{data}");
        }
        for (data, wrong) in [
            ("null", "the data must be a JSON object"),
            ("[]", "the data must be a JSON object"),
            (r#"{"version":"1","version":"2"}"#, "member \"version\" is given twice"),
        ] {
            assert_eq!(params.check(data).unwrap_err().to_string(), wrong, "{data}");
        }
        let text = r#""{\"version\":\"1\"}""#;
        assert_eq!(params.check(text), Err(Violation::Text), "curl -d without a media type");
    }

    #[test]
    fn numbers_keep_to_their_bounds_and_lists_to_their_values() {
        let integer = Param::of(Kind::Integer { min: Some(1), max: Some(9) });
        let number = Param::of(Kind::Number { min: Some(0.5), max: None });
        let listed = Param {
            one_of: vec!["low".into(), "high".into()],
            ..Param::of(Kind::String { pattern: None })
        };
        for (param, good, bad) in [
            (
                &integer,
                vec!["1", "9", "5"],
                vec!["0", "10", "1.0", "1e0", "\"1\"", "99999999999999999999"],
            ),
            (&number, vec!["0.5", "1", "1e300"], vec!["0.4", "-1", "true"]),
            (&listed, vec!["\"low\""], vec!["\"Low\"", "1"]),
        ] {
            for text in good {
                assert!(param.admits(text), "{text} for {param:?}");
            }
            for text in bad {
                assert!(!param.admits(text), "{text} for {param:?}");
            }
        }
        assert_eq!(listed.to_string(), r#"one of ["low","high"]"#);
    }
}
