//! An appliance as the API shows it. Contract, section 6.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::id::DeviceId;
use crate::json::Json;
use crate::labels::{Labels, take_labels};
use crate::limits::{FACTS_BYTES_MAX, FACTS_KEYS_MAX};
use crate::members::Members;
use crate::problem::{Code, Problem};
use crate::time::Timestamp;

/// How a device listens now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// It holds a stream open.
    Stream,
    /// It polls.
    Poll,
}

/// The device object of the API. All members are always written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub id: DeviceId,
    /// What operators attached to it.
    pub labels: Labels,
    /// What it reported about itself: a JSON object.
    pub facts: Json,
    /// Whether a byte came from it, or was accepted by it, within the last 2 heartbeats and 10 s.
    pub online: bool,
    /// Since when it is online; `None` while it is not.
    pub connected_at: Option<Timestamp>,
    /// When it was last known to be online.
    pub last_seen_at: Option<Timestamp>,
    /// The address from which it last connected, without the port.
    pub address: Option<String>,
    /// Its `User-Agent` at that time.
    pub agent: Option<String>,
    /// How it listens; `None` while it is offline.
    pub transport: Option<Transport>,
    /// Deliveries that wait for it.
    pub queued: u64,
    /// When it was first seen or registered.
    pub created_at: Timestamp,
    /// Whether it may work. (A hub before 0.2 does not say.)
    #[serde(default)]
    pub status: DeviceStatus,
}

/// Whether a device may work, and whether it is alone with its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceStatus {
    /// It may work.
    #[default]
    Active,
    /// It has enrolled, and an operator has yet to approve it.
    Pending,
    /// Two agents with its identity took its stream from each other, again and again.
    Conflict,
}

impl DeviceStatus {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pending => "pending",
            Self::Conflict => "conflict",
        }
    }
}

impl FromStr for DeviceStatus {
    type Err = InvalidStatus;

    fn from_str(text: &str) -> Result<Self, InvalidStatus> {
        let all = [Self::Active, Self::Pending, Self::Conflict];
        all.into_iter().find(|status| status.as_str() == text).ok_or(InvalidStatus)
    }
}

/// Text that is no status; its sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the status of a device is active, pending or conflict")]
pub struct InvalidStatus;

/// A key of labels, with the values that it has. Contract, section 6.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelCounts {
    /// The key.
    pub key: String,
    /// How many devices have it.
    pub devices: u64,
    /// Its values, the most frequent first; at most [`LABEL_VALUES_MAX`](crate::limits::LABEL_VALUES_MAX).
    pub values: Vec<LabelValue>,
}

/// A value of a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelValue {
    /// The value, which may be empty.
    pub value: String,
    /// How many devices have it.
    pub devices: u64,
}

/// The order of a list of devices. Contract, section 6: `id`, `last_seen_at` or `queued`, from the least; with a `-` before
/// it, from the greatest. Devices that are equal in it are sorted by name in the same direction.
///
/// ```
/// use bellwire_proto::device::{DeviceOrder, SortKey};
/// let order: DeviceOrder = "-queued".parse()?;
/// assert_eq!(order, DeviceOrder { by: SortKey::Queued, descending: true });
/// assert_eq!(order.to_string(), "-queued");
/// # Ok::<(), bellwire_proto::device::InvalidOrder>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceOrder {
    /// By what.
    pub by: SortKey,
    /// Whether the greatest is first.
    pub descending: bool,
}

/// What devices are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortKey {
    /// Their name.
    #[default]
    Id,
    /// Their last contact: one that had none is the least, one that is online the greatest.
    LastSeen,
    /// How many deliveries wait for them.
    Queued,
}

/// Text that is no order; its sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "devices are sorted by id, last_seen_at or queued, or from the greatest: -id, -last_seen_at, -queued"
)]
pub struct InvalidOrder;

impl SortKey {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::LastSeen => "last_seen_at",
            Self::Queued => "queued",
        }
    }
}

impl FromStr for DeviceOrder {
    type Err = InvalidOrder;

    fn from_str(text: &str) -> Result<Self, InvalidOrder> {
        let (key, descending) = text.strip_prefix('-').map_or((text, false), |key| (key, true));
        let by = [SortKey::Id, SortKey::LastSeen, SortKey::Queued];
        let by = by.into_iter().find(|by| by.as_str() == key).ok_or(InvalidOrder)?;
        Ok(Self { by, descending })
    }
}

impl fmt::Display for DeviceOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.descending { "-" } else { "" }, self.by.as_str())
    }
}

/// What happened to a device, on `/v1/events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceChange {
    /// It connected.
    Online,
    /// It disconnected.
    Offline,
    /// It was created.
    Created,
    /// It was removed.
    Removed,
    /// Its labels or its status changed.
    Changed,
}

/// A device with what happened to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceEvent {
    /// The device as it is now.
    #[serde(flatten)]
    pub device: Device,
    /// What happened.
    pub change: DeviceChange,
}

/// Deserialized twice from its text, because serde's `flatten` buffers values, and a [`Json`] needs
/// their text.
impl<'de> Deserialize<'de> for DeviceEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Change {
            change: DeviceChange,
        }
        let event = Box::<RawValue>::deserialize(deserializer)?;
        let device = serde_json::from_str(event.get()).map_err(D::Error::custom)?;
        let Change { change } = serde_json::from_str(event.get()).map_err(D::Error::custom)?;
        Ok(Self { device, change })
    }
}

/// Reads the body of `PUT /v1/devices/{device}`: `{"labels":{…}}`.
///
/// # Errors
/// `bad_request` when a key or value breaks the label syntax.
pub fn parse_labels_body(body: &[u8]) -> Result<Labels, Problem> {
    let mut members = if body.is_empty() { Members::parse(b"{}")? } else { Members::parse(body)? };
    let labels = take_labels(&mut members)?;
    members.finish()?;
    Ok(labels)
}

/// Reads the body of `PUT /v1/devices/{device}/facts`: any JSON object within its limits.
///
/// # Errors
/// `bad_request` when it is not an object, `payload_too_large` beyond 100 members or 16 KiB.
pub fn parse_facts(body: &[u8]) -> Result<Json, Problem> {
    let text =
        std::str::from_utf8(body).map_err(|_| Problem::bad_request("the body is not UTF-8"))?;
    let facts = Json::parse(text).map_err(|e| Problem::bad_request(format!("the body is {e}")))?;
    check_facts(&facts)?;
    Ok(facts)
}

/// Checks that facts are an object within its limits.
pub(crate) fn check_facts(facts: &Json) -> Result<(), Problem> {
    if facts.as_str().len() > FACTS_BYTES_MAX {
        return Err(Problem::new(Code::PayloadTooLarge, "facts are at most 16 KiB"));
    }
    let object: Result<BTreeMap<String, serde::de::IgnoredAny>, _> = facts.read();
    match object {
        Err(_) => Err(Problem::bad_request("facts are a JSON object")),
        Ok(object) if object.len() > FACTS_KEYS_MAX => {
            Err(Problem::new(Code::PayloadTooLarge, "facts have at most 100 members"))
        }
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_given_once() {
        // Of a label given twice, the last value once won without an error.
        let labels = |body: &str| parse_labels_body(body.as_bytes()).map_err(|p| p.code);
        assert_eq!(labels(r#"{"labels":{"a":"1","a":"2"}}"#), Err(Code::BadRequest));
        assert_eq!(labels(r#"{"labels":{"a":1}}"#), Err(Code::BadRequest));
        let site = [("site".to_owned(), "lyon".to_owned())];
        assert_eq!(labels(r#"{"labels":{"site":"lyon","os":null}}"#), Ok(site.into()));
        assert_eq!(labels(r#"{"labels":null}"#), Ok(Labels::new()));
    }

    #[test]
    fn a_device_event_is_read_as_it_was_written() {
        let event = DeviceEvent {
            device: Device {
                id: "kiosk-7".parse().unwrap(),
                labels: Labels::new(),
                facts: Json::parse(r#"{"ram":1.50}"#).unwrap(),
                online: false,
                connected_at: None,
                last_seen_at: None,
                address: None,
                agent: None,
                transport: None,
                queued: 0,
                created_at: Timestamp::from_unix_ms(0),
                status: DeviceStatus::Conflict,
            },
            change: DeviceChange::Removed,
        };
        let text = serde_json::to_string(&event).unwrap();
        assert!(text.ends_with(r#","change":"removed"}"#), "{text}");
        assert_eq!(serde_json::from_str::<DeviceEvent>(&text).unwrap(), event);
    }
}
