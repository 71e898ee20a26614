//! What the journal says: one record for each step that must outlive a power cut.

use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{CommandId, Report, Seq};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// Which run of the kernel: a clock since boot means something only within it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct BootId(String);

impl From<&str> for BootId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// A step in the life of the agent or of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    /// The agent began, for the how-manieth time. The number is the upper part of every `rev`.
    Begun {
        /// One more than the one before.
        start: u64,
    },
    /// A command came.
    Received(Box<Received>),
    /// It is to be stopped, or never to run; it may not have come.
    Cancelled {
        /// The command.
        command: CommandId,
        /// Its place in the order.
        seq: Seq,
        /// The hub's clock when this was told, in Unix milliseconds.
        hub_ms: u64,
    },
    /// Its handler is about to be started.
    Started {
        /// The command.
        command: CommandId,
        /// The how-manieth run this is.
        run: u32,
        /// In which run of the kernel.
        boot: BootId,
    },
    /// It is over, and this is to be told. Nothing is when it ended at the hub before it began here.
    Ended {
        /// The command.
        command: CommandId,
        /// Without `rev` and `attempt`.
        #[serde(deserialize_with = "read_report")]
        report: Option<Box<Report>>,
    },
    /// The hub has shown that it knows, or will not be told any more.
    Acked {
        /// The command.
        command: CommandId,
    },
}

/// A command as it came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Received {
    /// What the hub said.
    pub(crate) event: CommandEvent,
    /// In which run of the kernel it came.
    pub(crate) boot: BootId,
    /// Until when it may be started, by the clock since that boot.
    pub(crate) due_boot_ms: u64,
    /// The hub's clock when it came, in Unix milliseconds.
    pub(crate) hub_ms: u64,
}

fn read_report<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<Report>>, D::Error> {
    let raw: Option<Box<RawValue>> = Deserialize::deserialize(from)?;
    raw.map(|raw| Report::parse(raw.get().as_bytes()).map(Box::new))
        .transpose()
        .map_err(serde::de::Error::custom)
}
