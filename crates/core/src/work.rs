//! One call's decisions: rows that change, and what is to happen once they are on disk.
//!
//! A device changes nothing and tells nobody except through [`Work`]. When the call is over,
//! `memory.rs` makes one transaction of the changes and withholds the rest until it is committed;
//! lookups alone go out at once, save the page of a replay, which must see what was delivered.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bellwire_proto::stream::ByeReason;
use bellwire_proto::{CommandId, DeviceId, Problem, Seq, Timestamp};

use crate::config::Config;
use crate::hub::Decided;
use crate::io::{Answer, Frame, Output, RequestId, SessionId, Wanted};
use crate::record::{Change, IdempotencyKey, Load, TxnId};
use crate::session;

/// How long to leave a store alone that could not answer.
pub(crate) const LOAD_AGAIN: Duration = Duration::from_secs(1);

/// What all devices share: the settings, and what leaves the core.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) config: Config,
    pub(crate) outputs: VecDeque<Output>,
    /// Streams that are open, as far as is known.
    pub(crate) sessions: HashMap<SessionId, DeviceId>,
    /// Requests that wait: polls, and senders who want to hear the end.
    pub(crate) waiting: HashMap<RequestId, DeviceId>,
    pub(crate) last_seq: Seq,
    pub(crate) last_txn: TxnId,
    pub(crate) random: SplitMix,
    pub(crate) draining: bool,
    pub(crate) observed: bool,
    pub(crate) watched: HashMap<CommandId, usize>,
}

/// One call's decisions about one device: rows for a transaction, and what is to happen once it is on disk.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    pub(crate) now: Timestamp,
    pub(crate) desk: &'a mut Desk,
    pub(crate) changes: Vec<Change>,
    pub(crate) outputs: Vec<Output>,
    /// Keys that were decided on.
    pub(crate) decided: Vec<Decided>,
}

/// What a transaction holds back.
#[derive(Debug)]
pub(crate) struct Withheld {
    pub(crate) txn: TxnId,
    pub(crate) device: DeviceId,
    pub(crate) outputs: Vec<Output>,
    /// The key that is on disk with it.
    pub(crate) key: Option<IdempotencyKey>,
}

impl Desk {
    pub(crate) fn refuse(&mut self, request: RequestId, problem: Problem) {
        self.outputs.push_back(Output::Reply(request, Answer::Problem(Box::new(problem))));
    }
}

impl Work<'_> {
    pub(crate) fn config(&self) -> &Config {
        &self.desk.config
    }

    pub(crate) fn draining(&self) -> bool {
        self.desk.draining
    }

    /// Whether anybody watches everything.
    pub(crate) fn observed(&self) -> bool {
        self.desk.observed
    }

    /// Whether anybody watches this command.
    pub(crate) fn watches(&self, command: CommandId) -> bool {
        self.desk.observed || self.desk.watched.contains_key(&command)
    }

    pub(crate) fn next_seq(&mut self) -> Seq {
        self.desk.last_seq = self.desk.last_seq.next();
        self.desk.last_seq
    }

    /// The transaction that the changes of this call will be.
    pub(crate) fn txn(&self) -> TxnId {
        TxnId(self.desk.last_txn.0 + 1)
    }

    pub(crate) fn change(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Something to do once the changes are on disk.
    pub(crate) fn output(&mut self, output: Output) {
        self.outputs.push(output);
    }

    pub(crate) fn reply(&mut self, request: RequestId, answer: Answer) {
        self.output(Output::Reply(request, answer));
    }

    pub(crate) fn refuse(&mut self, request: RequestId, problem: Problem) {
        self.reply(request, Answer::Problem(Box::new(problem)));
    }

    pub(crate) fn send(&mut self, session: SessionId, frame: Frame) {
        self.output(Output::Send { session, frame, wanted: Wanted::Nothing });
    }

    /// Ends a stream; nothing that it says from now on counts.
    pub(crate) fn bye(&mut self, session: SessionId, reason: ByeReason) {
        self.forget_session(session);
        let bye = session::bye(reason, self.desk.random.next_unit());
        self.output(Output::Close { session, bye });
    }

    /// Looks something up. Reads promise nothing and need not wait for the changes.
    pub(crate) fn load(&mut self, load: Load) {
        self.desk.outputs.push_back(Output::Load(load));
    }

    pub(crate) fn is_open(&self, session: SessionId) -> bool {
        self.desk.sessions.contains_key(&session)
    }

    pub(crate) fn forget_session(&mut self, session: SessionId) {
        self.desk.sessions.remove(&session);
    }

    /// Whether somebody still waits for this request.
    pub(crate) fn is_waiting(&self, request: RequestId) -> bool {
        self.desk.waiting.contains_key(&request)
    }

    /// Nobody waits for this request any longer.
    pub(crate) fn answered(&mut self, request: RequestId) {
        self.desk.waiting.remove(&request);
    }

    /// What became of the first send with a key.
    pub(crate) fn decide_key(
        &mut self,
        key: IdempotencyKey,
        device: &DeviceId,
        made: Option<([u8; 32], CommandId)>,
    ) {
        self.decided.push((key, device.clone(), made));
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
