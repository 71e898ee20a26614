//! Names that are valid because they exist: devices, actions, commands, schedules, sequence numbers.
//!
//! Each is parsed once, where it enters the program, and then travels as its type; nothing checks a
//! name again. Syntax: contract section 1, "Names".

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::limits::{ACTION_CHARS_MAX, DEVICE_CHARS_MAX};

/// A name that breaks its rule; the caller's fault. The message states the rule and never repeats
/// the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// The text is not a device name.
    #[error("a device is named by 1 to 128 of A-Z a-z 0-9 . _ : @ ~ - and is not . or ..")]
    Device,
    /// The text is not an action name.
    #[error("an action is named by 1 to 64 of A-Z a-z 0-9 . _ -")]
    Action,
    /// The text is not a command id.
    #[error("a command id is a UUIDv7 in lower case with hyphens")]
    Command,
    /// The text is not a schedule id.
    #[error("a schedule id is a UUIDv7 in lower case with hyphens")]
    Schedule,
    /// The text is not a sequence number.
    #[error("a sequence number is a whole number from 0 to 18446744073709551615")]
    Seq,
}

/// The name of an appliance: `[A-Za-z0-9._:@~-]{1,128}`, not `.` or `..`.
///
/// Cloning shares the text, so that a name costs each session, delivery and event of the device one
/// pointer.
///
/// ```
/// use bellwire_proto::DeviceId;
/// let device: DeviceId = "site:lyon@kiosk~7".parse()?;
/// assert_eq!(device.as_str(), "site:lyon@kiosk~7");
/// assert!("..".parse::<DeviceId>().is_err());
/// # Ok::<(), bellwire_proto::InvalidName>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(Arc<str>);

/// The name of an action that an appliance can run: `[A-Za-z0-9._-]{1,64}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Action(Arc<str>);

/// The identity of a command: a UUIDv7, written in lower case with hyphens.
///
/// Version 7 begins with the time, so that ids made one after the other are adjacent in an index
/// (RFC 9562, section 5.7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(Uuid);

/// The identity of a schedule: a UUIDv7, as that of a command.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScheduleId(Uuid);

/// The position of a command in the hub-wide order of commits; the SSE `id:` of its event.
///
/// 0 is before every command.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seq(u64);

impl DeviceId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceId {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._:@~-".contains(&b);
        let fits = (1..=DEVICE_CHARS_MAX).contains(&name.len());
        if fits && name.bytes().all(legal) && name != "." && name != ".." {
            Ok(Self(name.into()))
        } else {
            Err(InvalidName::Device)
        }
    }
}

impl Action {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Action {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if (1..=ACTION_CHARS_MAX).contains(&name.len()) && name.bytes().all(legal) {
            Ok(Self(name.into()))
        } else {
            Err(InvalidName::Action)
        }
    }
}

macro_rules! as_uuid {
    ($($name:ident),*) => {$(
        impl $name {
            /// Makes an id from the Unix time in milliseconds and 74 random bits (version and variant
            /// overwrite 6 of the 80 bits given): RFC 9562, section 5.7.
            pub fn from_parts(unix_ms: u64, random: [u8; 10]) -> Self {
                Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid())
            }

            /// The 16 bytes, as a store holds them.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            #[doc = concat!("The id that [`", stringify!($name), "::to_bytes`] gave.")]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }
    )*};
}

as_uuid!(CommandId, ScheduleId);

impl FromStr for CommandId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        version_7(text).map(Self).ok_or(InvalidName::Command)
    }
}

impl FromStr for ScheduleId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        version_7(text).map(Self).ok_or(InvalidName::Schedule)
    }
}

/// RFC 9562, section 5.7: version and variant; of the ways to write it only that with lower case and hyphens.
fn version_7(text: &str) -> Option<Uuid> {
    let shaped = text.len() == 36 && !text.bytes().any(|b| b.is_ascii_uppercase());
    let uuid = Uuid::try_parse(text).ok().filter(|_| shaped)?;
    let is_version_7 = uuid.get_version_num() == 7 && uuid.get_variant() == uuid::Variant::RFC4122;
    is_version_7.then_some(uuid)
}

impl Seq {
    /// Before every command.
    pub const ZERO: Self = Self(0);

    /// The sequence number `n`.
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// As a number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The one after this.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl FromStr for Seq {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(n) if digits => Ok(Self(n)),
            _ => Err(InvalidName::Seq),
        }
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(DeviceId, Action, CommandId, ScheduleId);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_name_has_exactly_the_syntax_of_the_contract() {
        for good in ["a", "A-z.0_9:@~", &"d".repeat(128), "...", ".a"] {
            assert_eq!(good.parse::<DeviceId>().map(|d| d.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", ".", "..", "a/b", "a b", "é", "a\n", "%41", &"d".repeat(129)] {
            assert_eq!(bad.parse::<DeviceId>(), Err(InvalidName::Device), "{bad:?}");
        }
    }

    #[test]
    fn an_action_name_has_no_colon_at_or_tilde() {
        assert!("deploy_v1.2-b".parse::<Action>().is_ok());
        for bad in ["", "a:b", "a@b", "a~b", &"a".repeat(65)] {
            assert_eq!(bad.parse::<Action>(), Err(InvalidName::Action), "{bad:?}");
        }
    }

    #[test]
    fn an_id_is_version_7_in_lower_case_with_hyphens() {
        let id = CommandId::from_parts(1_700_000_000_123, [0xAB; 10]);
        let text = id.to_string();
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(CommandId::from_bytes(id.to_bytes()), id);
        for bad in [
            text.to_uppercase(),
            text.replace('-', ""),
            format!("{{{text}}}"),
            format!("urn:uuid:{text}"),
            "67e55044-10b1-426f-9247-bb680e5fe0c8".to_owned(),
            // An id of another variant was once looked up and answered with `unknown_command`.
            "01900000-0000-7000-c000-000000000000".to_owned(),
            String::new(),
        ] {
            assert_eq!(bad.parse::<CommandId>(), Err(InvalidName::Command), "{bad:?}");
            assert_eq!(bad.parse::<ScheduleId>(), Err(InvalidName::Schedule), "{bad:?}");
        }
    }

    /// What was not a schedule id was once refused with "a command id is a UUIDv7".
    #[test]
    fn a_name_is_refused_with_the_name_of_its_own_kind() {
        fn refused<T: FromStr<Err = InvalidName> + fmt::Debug + serde::de::DeserializeOwned>()
        -> String {
            let parsed = "a/b".parse::<T>().unwrap_err().to_string();
            let read = serde_json::from_str::<T>("\"a/b\"").unwrap_err().to_string();
            assert!(read.starts_with(&parsed), "{read}");
            parsed
        }
        for (refused, kind) in [
            (refused::<DeviceId>(), "a device is"),
            (refused::<Action>(), "an action is"),
            (refused::<CommandId>(), "a command id is"),
            (refused::<ScheduleId>(), "a schedule id is"),
        ] {
            assert!(refused.starts_with(kind), "{refused}");
        }
    }

    #[test]
    fn a_sequence_number_takes_no_sign_and_no_space() {
        assert_eq!("0".parse(), Ok(Seq::ZERO));
        assert_eq!("18446744073709551615".parse(), Ok(Seq::new(u64::MAX)));
        for bad in ["", "+1", "-1", " 1", "1.0", "18446744073709551616"] {
            assert_eq!(bad.parse::<Seq>(), Err(InvalidName::Seq), "{bad:?}");
        }
    }
}
