//! JSON that is passed on as it came: a command's data, a device's result.
//!
//! A [`Json`] was checked once, preserves digits and the order of members, and is on one line, so
//! that it can be the data of an event. Objects that the API reads itself are
//! [`Members`](crate::Members).

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeOwned, Deserializer};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::limits::JSON_DEPTH_MAX;

pub(crate) mod check;

/// A JSON value, held as text: of any type, on one line, nested at most 128 deep, all of its text
/// valid Unicode. Cloning shares the text.
///
/// ```
/// use bellwire_proto::Json;
/// let data = Json::parse("{\"b\": 1.50,\n\"a\": 1e2}")?;
/// assert_eq!(data.as_str(), r#"{"b": 1.50,"a": 1e2}"#);
/// assert_eq!(Json::text("two\nlines").as_str(), r#""two\nlines""#);
/// assert!(Json::parse(r#""\ud800""#).is_err(), "a lone surrogate is no text");
/// # Ok::<(), bellwire_proto::json::InvalidJson>(())
/// ```
#[derive(Clone)]
pub struct Json(Arc<RawValue>);

/// Why text is not JSON that can be passed on; the fault of its sender. Each message continues "the body is".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidJson {
    /// The text is not JSON (RFC 8259).
    #[error("not JSON: error at byte {at}")]
    Syntax {
        /// Bytes before the error.
        at: usize,
    },
    /// An escape from `\ud800` to `\udfff` is only half of a pair.
    #[error("not JSON: a lone surrogate at byte {at}")]
    Surrogate {
        /// Bytes before the escape.
        at: usize,
    },
    /// Arrays and objects are nested more than 128 deep.
    #[error("nested more than {JSON_DEPTH_MAX} deep at byte {at}")]
    Depth {
        /// Bytes before the bracket.
        at: usize,
    },
}

impl Json {
    /// Checks `text` and holds it without line breaks.
    ///
    /// # Errors
    /// When it is not JSON, is nested too deep or holds half a surrogate pair.
    pub fn parse(text: &str) -> Result<Self, InvalidJson> {
        check::check(text, JSON_DEPTH_MAX)?;
        // In valid JSON a raw line break can only be white space between tokens.
        let line: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        Self::from_checked(line)
    }

    /// The JSON string of a text.
    pub fn text(text: &str) -> Self {
        serde_json::to_string(text)
            .ok()
            .and_then(|s| Self::from_checked(s).ok())
            .unwrap_or_default()
    }

    /// `null`.
    pub fn null() -> Self {
        Self(Arc::from(RawValue::NULL.to_owned()))
    }

    /// Takes text that a store holds, once written from a [`Json`]. Only its syntax is checked
    /// again.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn from_checked(text: String) -> Result<Self, InvalidJson> {
        let raw = RawValue::from_string(text);
        raw.map(|raw| Self(raw.into())).map_err(|e| InvalidJson::Syntax { at: e.column() })
    }

    /// The text, on one line.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        self.as_str() == "null"
    }

    /// Reads it as a type.
    ///
    /// # Errors
    /// When it is of another shape.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.as_str())
    }
}

impl Default for Json {
    fn default() -> Self {
        Self::null()
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Json {}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::parse(raw.get()).map_err(serde::de::Error::custom)
    }
}

/// The name of an object's member: borrowed where it has no escapes.
#[derive(Deserialize)]
pub(crate) struct Name<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_preserves_its_digits_its_order_and_its_duplicates() {
        let text = r#"{"z":1.0000000000000000000001,"a":-0,"a":1E+2,"k":[ ]}"#;
        assert_eq!(Json::parse(text).map(|j| j.as_str().to_owned()), Ok(text.to_owned()));
        assert_eq!(serde_json::to_string(&Json::parse(text).unwrap()).unwrap(), text);
    }

    #[test]
    fn a_value_is_on_one_line() {
        let json = Json::parse("\r\n[1,\n\r2]\n").unwrap();
        assert_eq!(json.as_str(), "[1,2]");
    }
}
