//! What is to be done at a device: what `hub.rs` makes of a request, and what waits while the device,
//! or one delivery of it, is being loaded. How it is done stands in `device.rs`.

use bellwire_proto::{CommandId, Json, Labels, Report, Seconds};

use crate::io::{Listen, Poll, RequestId, Send, SessionId};

/// Something to do at a device, once it is in memory.
#[derive(Debug)]
pub(crate) enum Op {
    Send {
        request: RequestId,
        send: Box<Send>,
        random: [u8; 10],
    },
    Rejoin {
        request: RequestId,
        command: CommandId,
        wait: Seconds,
    },
    Cancel {
        request: RequestId,
        command: CommandId,
        force: bool,
    },
    Report {
        request: RequestId,
        command: CommandId,
        report: Box<Report>,
    },
    Listen {
        request: RequestId,
        session: SessionId,
        listen: Box<Listen>,
    },
    Poll {
        request: RequestId,
        poll: Box<Poll>,
    },
    PutDevice {
        request: RequestId,
        labels: Labels,
    },
    PutFacts {
        request: RequestId,
        facts: Json,
    },
    Delete {
        request: RequestId,
    },
    /// Look at the time.
    Tick,
}

impl Op {
    /// The request that waits for it.
    pub(crate) fn request(&self) -> Option<RequestId> {
        match self {
            Self::Send { request, .. }
            | Self::Rejoin { request, .. }
            | Self::Cancel { request, .. }
            | Self::Report { request, .. }
            | Self::Listen { request, .. }
            | Self::Poll { request, .. }
            | Self::PutDevice { request, .. }
            | Self::PutFacts { request, .. }
            | Self::Delete { request } => Some(*request),
            Self::Tick => None,
        }
    }
}
