//! What all entities share: the settings, the open streams and requests, and the outputs on their way
//! out of the core.

use std::collections::{BTreeSet, HashMap, VecDeque};

use bellwire_proto::{Code, CommandId, DeviceId, Problem, Timestamp, TokenId};

use crate::audit::Audits;
use crate::command::Commands;
use crate::config::{Config, SeqSource};
use crate::grant::{GrantDecision, Grants};
use crate::ids::{RequestId, SessionId};
use crate::io::{Answer, Output, TokenUse};
use crate::record::IdempotencyKey;
use crate::schedule::Schedules;
use crate::time::{Instant, earliest};

/// What all entities share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) outputs: VecDeque<Output>,
    /// Streams that are open, as far as is known.
    pub(crate) sessions: HashMap<SessionId, Session>,
    /// Requests that wait: polls, and senders that wait for an end.
    pub(crate) waiting: HashMap<RequestId, DeviceId>,
    pub(crate) seqs: SeqSource,
    pub(crate) random: SplitMix,
    pub(crate) draining: bool,
    pub(crate) observed: bool,
    /// The devices that are online, for lists of them.
    pub(crate) online: BTreeSet<DeviceId>,
    pub(crate) watched: HashMap<CommandId, usize>,
    pub(crate) due: DueTimes,
    /// Keys whose first send was decided on, and whose other requests have yet to be answered.
    pub(crate) key_decisions: VecDeque<KeyDecision>,
    /// Commands to many that are being expanded or cancelled.
    pub(crate) commands: Commands,
    pub(crate) grants: Grants,
    /// Why the store has no space for another command, if it has not.
    pub(crate) store_full: Option<&'static str>,
    /// What is written of requests that change something.
    pub(crate) audits: Audits,
    /// Enrolments that were decided on at their device.
    pub(crate) grant_decisions: VecDeque<GrantDecision>,
    pub(crate) schedules: Schedules,
}

/// A stream that is open.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) device: DeviceId,
    pub(crate) token: Option<TokenId>,
}

/// The outcome of the first send with an idempotency key.
#[derive(Debug, Clone)]
pub(crate) struct KeyDecision {
    pub(crate) key: IdempotencyKey,
    /// The device of a command to one.
    pub(crate) device: Option<DeviceId>,
    /// The digest of the request and the command that it made; `None` when it was refused.
    pub(crate) stored: Option<([u8; 32], CommandId)>,
}

/// When something is due of a delivery that is in the store alone.
#[derive(Debug, Default)]
pub(crate) struct DueTimes {
    /// By the monotonic clock: a time to live, a run clock, the end of a cancellation.
    pub(crate) deadline: Option<Instant>,
    /// By the wall clock: a `not_before`.
    pub(crate) scheduled: Option<Timestamp>,
}

impl DueTimes {
    pub(crate) fn add_deadline(&mut self, at: Option<Instant>) {
        self.deadline = earliest(self.deadline, at);
    }

    pub(crate) fn add_scheduled(&mut self, at: Option<Timestamp>) {
        self.scheduled = earliest(self.scheduled, at);
    }
}

impl Context {
    /// A stream opens.
    pub(crate) fn begin_session(
        &mut self,
        id: SessionId,
        device: DeviceId,
        token: Option<TokenUse>,
    ) {
        if let Some(token) = token {
            self.grants.begin_session(token, id);
        }
        self.sessions.insert(id, Session { device, token: token.map(|token| token.id) });
    }

    /// A stream has ended; its device, if it was open.
    pub(crate) fn end_session(&mut self, id: SessionId) -> Option<DeviceId> {
        let Session { device, token } = self.sessions.remove(&id)?;
        if let Some(token) = token {
            self.grants.end_session(token, id);
        }
        Some(device)
    }

    /// Whether an unknown device may be created by listening or by a command for it.
    pub(crate) fn creates_on_sight(&self) -> bool {
        self.config.create_on_sight && self.grants.is_open()
    }

    /// Checks that another command may be stored: the hub goes on, and its store has space.
    pub(crate) fn may_store(&self) -> Result<(), Problem> {
        match self.store_full {
            _ if self.draining => Err(Problem::draining()),
            Some(why) => Err(Problem::new(Code::QueueFull, why)),
            None => Ok(()),
        }
    }

    /// Refuses a request at once: nothing of it was decided.
    pub(crate) fn refuse(&mut self, request: RequestId, problem: Problem) {
        self.waiting.remove(&request);
        self.outputs.push_back(Output::Reply(request, Answer::Problem(Box::new(problem))));
    }

    /// Whether changes of this command are notified: there is an observer, or a watcher of it.
    pub(crate) fn watches(&self, command: CommandId) -> bool {
        self.observed || self.watched.contains_key(&command)
    }
}

/// Numbers to spread reconnections with. Steele, Lea and Flood, "Fast splittable pseudorandom
/// number generators", 2014. Not for secrets.
#[derive(Debug)]
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    /// From 0 up to, and without, 1.
    pub(crate) fn next_unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        // The upper 32 bits: exact in an f64.
        f64::from(u32::try_from(z >> 32).unwrap_or(u32::MAX)) / 4_294_967_296.0
    }
}

/// The refusal of a hub whose store takes nothing more.
pub(crate) fn store_unavailable() -> Problem {
    Problem::new(
        Code::StoreUnavailable,
        "the hub cannot write its store; nothing was stored, and an operator must restart it",
    )
}

/// The refusal of a token that does not work: the same whatever the reason is.
pub(crate) fn unauthenticated() -> Problem {
    Problem::new(Code::Unauthenticated, "this needs a token that is valid")
}

/// The refusal of a name that no device bears, where devices must be registered first.
pub fn unknown_device(device: &DeviceId) -> Problem {
    let detail = format!("no device is named {device}; register it first");
    Problem::new(Code::UnknownDevice, detail)
}
