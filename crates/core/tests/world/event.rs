//! What can happen in the world: the events of its queue, and the inputs on their way to the hub.

use bellwire_core::record::{Committed, Load, Loaded, TokenRecord};
use bellwire_core::{
    Answer, Enrolment, Frame, Listen, Poll, RequestId, RolloutOp, ScheduleOp, Send, SessionId,
};
use bellwire_proto::stream::Bye;
use bellwire_proto::{CommandId, DeviceId, Json, Labels, Report, Seq, Timestamp, TokenId};

use super::appliance;
use super::faults::Fault;

/// Something that happens at a certain time. A number that is not further described is that of the hub's
/// process, as in `World::life`.
#[derive(Debug)]
pub(super) enum Event {
    /// An input reaches the hub, if that is still the same process.
    Hub(u32, Input),
    Commit(u32),
    Committed(u32, Vec<Committed>),
    Loaded(u32, Load, Option<Loaded>),
    /// An answer reaches the client that made the request.
    Answered(RequestId, Answer),
    /// A frame, or the end, reaches a device.
    Frame(SessionId, Frame),
    Ended(SessionId, Bye),
    Device(usize, appliance::Wake),
    /// The driver notices that the wall clock was set.
    ClockNoticed(u32),
    Client(usize),
    Fault(Fault),
}

/// A request, or the end of a stream, on its way to the hub.
#[derive(Debug, Clone)]
pub(super) enum Input {
    Send(RequestId, Box<Send>, [u8; 10]),
    Cancel(RequestId, CommandId, bool),
    Rollout(RequestId, CommandId, RolloutOp),
    Abandoned(RequestId),
    Report(RequestId, DeviceId, CommandId, Box<Report>),
    Listen(RequestId, SessionId, DeviceId, Listen),
    Confirm(RequestId, DeviceId, SessionId),
    Poll(RequestId, DeviceId, Poll),
    Taken(SessionId, Seq),
    Stalled(SessionId),
    Resumed(SessionId),
    Closed(SessionId),
    PutDevice(RequestId, DeviceId, Labels),
    PutFacts(RequestId, DeviceId, Json),
    Delete(RequestId, DeviceId),
    CreateToken(RequestId, Box<TokenRecord>),
    Revoke(RequestId, TokenId),
    Enroll(RequestId, Box<Enrolment>),
    Approve(RequestId, DeviceId),
    TokenUsed(TokenId, Timestamp),
    Schedule(RequestId, ScheduleOp),
}

/// The client that gets an answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Owner {
    Device(usize),
    Client(usize),
}
