//! Where the next page of a list begins, as text that is opaque to clients.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bellwire_proto::device::SortKey;
use bellwire_proto::labels::is_label_key;
use bellwire_proto::{DeviceId, ScheduleId, Seq, TokenId};

use super::DevicePosition;

/// The position after which a page begins.
///
/// It names the last row that was looked at, and not a number of rows: a page does not shift when rows
/// are added before it. A client may hold it for as long as it likes.
///
/// ```
/// use bellwire_hub::store::Cursor;
/// let cursor = Cursor::after_device("kiosk-7".parse()?);
/// assert_eq!(cursor.to_string().parse(), Ok(cursor));
/// assert!("kiosk-7".parse::<Cursor>().is_err());
/// # Ok::<(), bellwire_proto::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(Position);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Position {
    Seq(Seq),
    Device(DeviceId),
    Sealed(Vec<u8>),
    Token(TokenId),
    Schedule(ScheduleId),
    Audit(u64),
    /// The key of a label.
    Key(String),
    /// In an order that is not that of names: by what, and where.
    Sorted(SortKey, DevicePosition),
}

/// Text that is no cursor, or a cursor of another list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a cursor that a page of this list gave")]
pub struct BadCursor;

/// The first byte: what follows, and in which version of this encoding.
const SEQ_V1: u8 = 0x11;
const DEVICE_V1: u8 = 0x12;
const SEALED_V1: u8 = 0x17;
const TOKEN_V1: u8 = 0x13;
const SCHEDULE_V1: u8 = 0x18;
const AUDIT_V1: u8 = 0x1a;
const LAST_SEEN_V1: u8 = 0x14;
const QUEUED_V1: u8 = 0x15;
const KEY_V1: u8 = 0x16;

impl Cursor {
    /// In a list of commands: after this one.
    pub const fn after_seq(seq: Seq) -> Self {
        Self(Position::Seq(seq))
    }

    /// In a list by device name: after this one.
    pub const fn after_device(device: DeviceId) -> Self {
        Self(Position::Device(device))
    }

    /// The command, if this is a cursor of commands.
    ///
    /// # Errors
    /// When it is one of another list.
    pub const fn seq(&self) -> Result<Seq, BadCursor> {
        match &self.0 {
            Position::Seq(seq) => Ok(*seq),
            _ => Err(BadCursor),
        }
    }

    /// In a list of labels: after this key.
    pub const fn after_key(key: String) -> Self {
        Self(Position::Key(key))
    }

    /// The key, if this is a cursor of labels.
    ///
    /// # Errors
    /// When it is one of another list.
    pub fn key(&self) -> Result<&str, BadCursor> {
        match &self.0 {
            Position::Key(key) => Ok(key),
            _ => Err(BadCursor),
        }
    }

    /// In a list of devices that is sorted so: after this one.
    pub fn after_position(by: SortKey, position: DevicePosition) -> Self {
        Self(match by {
            SortKey::Id => Position::Device(position.device),
            by => Position::Sorted(by, position),
        })
    }

    /// The position, if this is a cursor of devices that are sorted so.
    ///
    /// # Errors
    /// When it is one of another list, or of another order.
    pub fn position(&self, by: SortKey) -> Result<DevicePosition, BadCursor> {
        match &self.0 {
            Position::Device(device) if by == SortKey::Id => {
                Ok(DevicePosition { device: device.clone(), value: 0 })
            }
            Position::Sorted(sorted, position) if *sorted == by => Ok(position.clone()),
            _ => Err(BadCursor),
        }
    }

    /// The device, if this is a cursor of a list by name.
    ///
    /// # Errors
    /// When it is one of another list.
    pub const fn device(&self) -> Result<&DeviceId, BadCursor> {
        match &self.0 {
            Position::Device(device) => Ok(device),
            _ => Err(BadCursor),
        }
    }

    /// In a list by device name: after one that only the store can name.
    pub(super) const fn sealed(bytes: Vec<u8>) -> Self {
        Self(Position::Sealed(bytes))
    }

    /// What the store has to open, if this is such a cursor.
    pub(super) fn as_sealed(&self) -> Option<&[u8]> {
        match &self.0 {
            Position::Sealed(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// In a list of tokens: after this one.
    pub const fn after_token(token: TokenId) -> Self {
        Self(Position::Token(token))
    }

    /// The token, if this is a cursor of tokens.
    ///
    /// # Errors
    /// When it is one of another list.
    pub const fn token(&self) -> Result<TokenId, BadCursor> {
        match &self.0 {
            Position::Token(token) => Ok(*token),
            _ => Err(BadCursor),
        }
    }

    /// In a list of schedules: after this one.
    pub const fn after_schedule(schedule: ScheduleId) -> Self {
        Self(Position::Schedule(schedule))
    }

    /// The schedule, if this is a cursor of schedules.
    ///
    /// # Errors
    /// When it is one of another list.
    pub const fn schedule(&self) -> Result<ScheduleId, BadCursor> {
        match &self.0 {
            Position::Schedule(schedule) => Ok(*schedule),
            _ => Err(BadCursor),
        }
    }

    /// In the audit log: after this entry.
    pub const fn after_audit(entry: u64) -> Self {
        Self(Position::Audit(entry))
    }

    /// The entry, if this is a cursor of the audit log.
    ///
    /// # Errors
    /// When it is one of another list.
    pub const fn audit(&self) -> Result<u64, BadCursor> {
        match &self.0 {
            Position::Audit(entry) => Ok(*entry),
            _ => Err(BadCursor),
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = match &self.0 {
            Position::Seq(seq) => [&[SEQ_V1][..], &seq.get().to_be_bytes()].concat(),
            Position::Device(device) => [&[DEVICE_V1][..], device.as_str().as_bytes()].concat(),
            Position::Sealed(bytes) => [&[SEALED_V1][..], bytes].concat(),
            Position::Audit(entry) => [&[AUDIT_V1][..], &entry.to_be_bytes()].concat(),
            Position::Token(token) => [&[TOKEN_V1][..], token.as_str().as_bytes()].concat(),
            Position::Schedule(id) => [&[SCHEDULE_V1][..], &id.to_bytes()].concat(),
            Position::Key(key) => [&[KEY_V1][..], key.as_bytes()].concat(),
            Position::Sorted(by, position) => {
                let kind = if *by == SortKey::Queued { QUEUED_V1 } else { LAST_SEEN_V1 };
                let device = position.device.as_str().as_bytes();
                [&[kind][..], &position.value.to_be_bytes(), device].concat()
            }
        };
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadCursor)?;
        let position = match bytes.split_first() {
            Some((&SEQ_V1, rest)) => {
                let seq = rest.try_into().map_err(|_| BadCursor)?;
                Position::Seq(Seq::new(u64::from_be_bytes(seq)))
            }
            Some((&AUDIT_V1, rest)) => {
                let entry = rest.try_into().map_err(|_| BadCursor)?;
                Position::Audit(u64::from_be_bytes(entry))
            }
            Some((&DEVICE_V1, rest)) => {
                let name = std::str::from_utf8(rest).map_err(|_| BadCursor)?;
                Position::Device(name.parse().map_err(|_| BadCursor)?)
            }
            Some((&SEALED_V1, rest)) => Position::Sealed(rest.to_vec()),
            Some((&kind @ (LAST_SEEN_V1 | QUEUED_V1), rest)) => {
                let (value, name) = rest.split_first_chunk().ok_or(BadCursor)?;
                let name = std::str::from_utf8(name).map_err(|_| BadCursor)?;
                let device = name.parse().map_err(|_| BadCursor)?;
                let by = if kind == QUEUED_V1 { SortKey::Queued } else { SortKey::LastSeen };
                Position::Sorted(by, DevicePosition { device, value: i64::from_be_bytes(*value) })
            }
            Some((&KEY_V1, rest)) => {
                let key = std::str::from_utf8(rest).map_err(|_| BadCursor)?;
                if !is_label_key(key) {
                    return Err(BadCursor);
                }
                Position::Key(key.to_owned())
            }
            Some((&TOKEN_V1, rest)) => {
                let id = std::str::from_utf8(rest).map_err(|_| BadCursor)?;
                Position::Token(id.parse().map_err(|_| BadCursor)?)
            }
            Some((&SCHEDULE_V1, rest)) => {
                let id = rest.try_into().map_err(|_| BadCursor)?;
                Position::Schedule(ScheduleId::from_bytes(id))
            }
            _ => return Err(BadCursor),
        };
        Ok(Self(position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_parsed_as_it_was_written_and_other_text_is_refused() {
        let device: DeviceId = "d".repeat(128).parse().unwrap();
        for cursor in [
            Cursor::after_seq(Seq::ZERO),
            Cursor::after_seq(Seq::new(u64::MAX)),
            Cursor::after_device(device),
            Cursor::after_token(TokenId::from_random([7; 10])),
            Cursor::after_schedule(ScheduleId::from_parts(7, [7; 10])),
            Cursor::after_audit(9),
            Cursor::after_key("example.com/site".to_owned()),
            Cursor::after_position(
                SortKey::LastSeen,
                DevicePosition { device: "a".parse().unwrap(), value: -1 },
            ),
            Cursor::after_position(
                SortKey::Queued,
                DevicePosition { device: "b".parse().unwrap(), value: i64::MAX },
            ),
            Cursor::sealed(vec![0, 255]),
        ] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        let bad_name = URL_SAFE_NO_PAD.encode([&[DEVICE_V1][..], b"a/b"].concat());
        let short = URL_SAFE_NO_PAD.encode([SEQ_V1, 0, 0]);
        let other_version = URL_SAFE_NO_PAD.encode([0x21, 0, 0, 0, 0, 0, 0, 0, 1]);
        for bad in ["", "x", "0", "EQ==", &bad_name, &short, &other_version] {
            assert_eq!(bad.parse::<Cursor>(), Err(BadCursor), "{bad:?}");
        }
    }

    #[test]
    fn a_cursor_of_another_list_is_refused() {
        assert_eq!(Cursor::after_seq(Seq::new(1)).device(), Err(BadCursor));
        let device = Cursor::after_device("a".parse().unwrap());
        assert_eq!(device.seq(), Err(BadCursor));
        assert!(device.position(SortKey::Id).is_ok());
        assert_eq!(device.position(SortKey::Queued), Err(BadCursor));
        let queued = Cursor::after_position(SortKey::Queued, device.position(SortKey::Id).unwrap());
        assert_eq!(queued.position(SortKey::LastSeen), Err(BadCursor));
    }
}
