//! An object of the API, taken apart strictly: each member is known, given once and of its type, or
//! the request is refused (contract, section 1).
//!
//! Values that are only passed on are [`Json`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::json::{Json, Name, check::check};
use crate::limits::JSON_DEPTH_MAX;
use crate::problem::{Code, Problem};

/// Levels of nesting in an object of the API: its own, and those of a value in it.
const OBJECT_DEPTH_MAX: usize = JSON_DEPTH_MAX + 1;

/// The members of a JSON object of the API, each to be taken once.
///
/// ```
/// use bellwire_proto::{Members, Code};
/// let mut members = Members::parse(br#"{"state":"running","progres":40}"#)?;
/// assert_eq!(members.take::<String>("state")?, Some("running".into()));
/// assert_eq!(members.take::<u64>("rev")?, None);
/// let typo = members.finish().unwrap_err();
/// assert_eq!(typo.code, Code::UnknownField);
/// # Ok::<(), bellwire_proto::Problem>(())
/// ```
#[derive(Debug)]
pub struct Members<'a> {
    untaken: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Members<'a> {
    /// Parses the body of a request into its members.
    ///
    /// # Errors
    /// `bad_request` when it is not one JSON object in UTF-8, is nested too deep, or names a member
    /// twice. The value of a member may be nested as deep as [`Json`] allows.
    pub fn parse(body: &'a [u8]) -> Result<Self, Problem> {
        let text =
            std::str::from_utf8(body).map_err(|_| Problem::bad_request("the body is not UTF-8"))?;
        check(text, OBJECT_DEPTH_MAX)
            .map_err(|e| Problem::bad_request(format!("the body is {e}")))?;
        Self::of_object(text, "the body")
    }

    /// Parses an object that was checked as part of a body.
    pub(crate) fn of_object(text: &'a str, what: &str) -> Result<Self, Problem> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let untaken = deserializer
            .deserialize_map(ObjectVisitor)
            .map_err(|_| Problem::bad_request(format!("{what} is not a JSON object")))?;
        let mut names: Vec<&str> = untaken.iter().map(|(name, _)| name.as_ref()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair.first() == pair.last()) {
            let name = twice.first().copied().unwrap_or_default();
            return Err(Problem::bad_request(format!("member {} is given twice", quoted(name))));
        }
        Ok(Self { untaken })
    }

    /// Takes a member as its text; `null` is a value here.
    pub fn take_raw(&mut self, name: &str) -> Option<&'a str> {
        let at = self.untaken.iter().position(|(n, _)| n == name)?;
        Some(self.untaken.swap_remove(at).1.get())
    }

    /// Whether a member is given as `null`.
    pub fn is_null(&self, name: &str) -> bool {
        self.untaken.iter().any(|(n, value)| n == name && value.get() == "null")
    }

    /// Takes a member as its text, `None` when it is `null`.
    fn take_non_null(&mut self, name: &str) -> Option<&'a str> {
        self.take_raw(name).filter(|text| *text != "null")
    }

    /// Takes a member as a type; absent and `null` are `None`.
    ///
    /// # Errors
    /// `bad_request` when it is of another type.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.take_non_null(name) else {
            return Ok(None);
        };
        read_member(name, text).map(Some)
    }

    /// Takes a required member.
    ///
    /// # Errors
    /// `bad_request` when it is absent, `null` or of another type.
    pub fn require<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, Problem> {
        self.take(name)?
            .ok_or_else(|| Problem::bad_request(format!("member {} is missing", quoted(name))))
    }

    /// Takes a member that is passed on as it came; `null` is a value, absent is `None`.
    pub fn take_json(&mut self, name: &str) -> Result<Option<Json>, Problem> {
        let Some(text) = self.take_raw(name) else {
            return Ok(None);
        };
        let json = Json::parse(text);
        json.map(Some).map_err(|e| Problem::bad_request(format!("member {}: {e}", quoted(name))))
    }

    /// Takes a member that is itself an object of the API.
    ///
    /// # Errors
    /// `bad_request` when it is not an object or names a member twice.
    pub fn take_members(&mut self, name: &str) -> Result<Option<Members<'a>>, Problem> {
        let Some(text) = self.take_non_null(name) else {
            return Ok(None);
        };
        Members::of_object(text, &format!("member {}", quoted(name))).map(Some)
    }

    /// The name of the first member that was not taken yet.
    pub fn first_untaken(&self) -> Option<&str> {
        self.untaken.first().map(|(name, _)| name.as_ref())
    }

    /// Takes all members that are not `null` as one type: for an object whose member names the
    /// client chooses.
    ///
    /// # Errors
    /// `bad_request` when one is of another type.
    pub fn take_all<T: DeserializeOwned>(self) -> Result<BTreeMap<String, T>, Problem> {
        let given = self.untaken.into_iter().filter(|(_, value)| value.get() != "null");
        given
            .map(|(name, value)| Ok((name.to_string(), read_member(&name, value.get())?)))
            .collect()
    }

    /// Takes all members that are left, `None` for one that is null: for a merge patch (RFC 7396).
    ///
    /// # Errors
    /// `bad_request` when one has another type.
    pub fn take_all_or_null<T: DeserializeOwned>(
        self,
    ) -> Result<BTreeMap<String, Option<T>>, Problem> {
        self.untaken
            .into_iter()
            .map(|(name, value)| Ok((name.to_string(), read_member(&name, value.get())?)))
            .collect()
    }

    /// Checks that every member was taken.
    ///
    /// # Errors
    /// `unknown_field`, naming the first member that was not taken.
    pub fn finish(self) -> Result<(), Problem> {
        match self.untaken.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::new(
                Code::UnknownField,
                format!("member {} is not known here", quoted(name)),
            )),
        }
    }
}

fn read_member<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|e| {
        let why = e.to_string();
        let why = why.split(" at line ").next().unwrap_or_default();
        Problem::bad_request(format!("member {}: {why}", quoted(name)))
    })
}

/// A name from outside, shortened and escaped for a message.
fn quoted(name: &str) -> String {
    let short: String = name.chars().take(64).collect();
    format!("{short:?}")
}

/// Collects the members in the order given, duplicates included.
pub(crate) struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(Name(name)) = map.next_key()? {
            members.push((name, map.next_value()?));
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_of_the_api_takes_each_member_once() {
        for (body, code) in [
            (r#"{"a":1,"a":2}"#, Code::BadRequest),
            (r#"{"a":1,"\u0061":2}"#, Code::BadRequest),
            (r#"[1]"#, Code::BadRequest),
            (r#"{"a":1"#, Code::BadRequest),
            ("", Code::BadRequest),
            (r#"{"b":1}"#, Code::UnknownField),
            (r#"{"a":"x"}"#, Code::BadRequest),
        ] {
            let refused = Members::parse(body.as_bytes()).and_then(|mut m| {
                m.take::<u64>("a")?;
                m.finish()
            });
            assert_eq!(refused.unwrap_err().code, code, "{body}");
        }
    }

    #[test]
    fn a_value_in_an_object_may_be_as_deep_as_a_value_alone() {
        // A result of 128 levels was once refused for the object around it.
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        for (levels, good) in [(JSON_DEPTH_MAX, true), (JSON_DEPTH_MAX + 1, false)] {
            assert_eq!(Json::parse(&deep(levels)).is_ok(), good, "{levels} alone");
            let body = format!(r#"{{"result":{}}}"#, deep(levels));
            let taken = Members::parse(body.as_bytes()).and_then(|mut m| m.take_json("result"));
            assert_eq!(taken.is_ok(), good, "{levels} in an object");
        }
    }

    #[test]
    fn null_means_absent_except_where_json_is_passed_on() {
        let mut members = Members::parse(br#"{"rev":null,"result":null}"#).unwrap();
        assert_eq!(members.take::<u64>("rev").unwrap(), None);
        assert!(members.take_json("result").unwrap().is_some_and(|r| r.is_null()));
        assert!(members.finish().is_ok());
    }
}
