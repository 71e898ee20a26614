//! Tokens: who may do what, as far as the core decides it. Contract, section 6, "Tokens".
//!
//! A token is an entity. It is in memory while it is being changed, and in the store alone otherwise; what a request
//! may do is checked by the hub before it reaches the core. Here is what must be decided in one place and be on disk
//! before it is answered: that a token exists or is revoked, and that no more devices enrol with a join token than it
//! allows. Enrolments with one token are decided one after the other. `hub/grants.rs` has the calls,
//! `device/enrolment.rs` what an enrolment changes at its device.

use std::collections::{BTreeSet, HashMap, VecDeque};

use bellwire_proto::{DeviceId, Labels, Role, Timestamp, TokenId};

use crate::ids::{RequestId, SessionId};
use crate::io::{Enrolment, TokenUse};
use crate::record::{TokenRecord, TxnId};
use crate::time::{ExpiryClock, Instant, Now};

/// All tokens, as far as they are in memory.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    /// How many `admin` tokens there are, expired or not. None: the hub is open.
    admins: u64,
    entries: HashMap<TokenId, TokenEntry>,
    /// The open streams of each token, so that its end costs no walk over all streams. A stream of a device with its own token
    /// that does not expire is not here, which saves an entry for nearly each stream of a fleet: it is found by its device.
    sessions: BTreeSet<(TokenId, SessionId)>,
    /// How many a token has, if that is more than one: most are of a device, which has one.
    several: HashMap<TokenId, u64>,
    /// When the tokens of open streams expire.
    expiries: BTreeSet<(Timestamp, TokenId)>,
    expiry_of: HashMap<TokenId, Timestamp>,
    clock: ExpiryClock,
}

/// A token that is being looked up or changed.
#[derive(Debug, Default)]
pub(crate) struct TokenEntry {
    /// `None` while it is being looked up.
    found: Option<Option<Box<TokenRecord>>>,
    waiting: VecDeque<GrantOp>,
    /// An enrolment is being decided on at its device.
    busy: bool,
    /// The latest transaction with its row.
    txn: TxnId,
}

/// Something to do to a token, once it is in memory.
#[derive(Debug)]
pub(crate) enum GrantOp {
    Revoke {
        request: RequestId,
    },
    Enroll {
        request: RequestId,
        enrolment: Box<Enrolment>,
    },
    /// A schedule acts for it.
    Run {
        request: RequestId,
    },
}

/// An enrolment on its way to its device, which decides.
#[derive(Debug)]
pub(crate) struct EnrolStep {
    pub(crate) request: RequestId,
    pub(crate) enrolment: Box<Enrolment>,
    pub(crate) labels: Labels,
    pub(crate) replace: bool,
    pub(crate) approve: bool,
    /// How many uses the join token then has, if it counts them.
    pub(crate) uses_left: Option<u64>,
}

/// What a device decided on an enrolment.
#[derive(Debug)]
pub(crate) struct GrantDecision {
    pub(crate) join: TokenId,
    /// The transaction that takes one use; `None` when the enrolment was refused.
    pub(crate) taken: Option<(TxnId, Option<u64>)>,
}

/// Whose streams end once a transaction is on disk.
#[derive(Debug, Clone)]
pub(crate) enum Revoked {
    /// Those of a token, and of its device's polls.
    Token(TokenId, Option<DeviceId>),
    /// Those without a token.
    Anonymous,
    /// All of a device.
    Device(DeviceId),
}

impl GrantDecision {
    pub(crate) fn refused(join: TokenId) -> Self {
        Self { join, taken: None }
    }
}

impl GrantOp {
    pub(crate) fn request(&self) -> RequestId {
        match self {
            Self::Revoke { request } | Self::Enroll { request, .. } | Self::Run { request } => {
                *request
            }
        }
    }
}

impl TokenEntry {
    /// The next thing to do, and the token that it concerns, unless it must wait.
    pub(crate) fn next(&mut self) -> Option<(GrantOp, Option<Box<TokenRecord>>)> {
        let found = self.found.as_ref().filter(|_| !self.busy)?;
        self.waiting.pop_front().map(|op| (op, found.clone()))
    }
}

impl Grants {
    pub(crate) fn recovered(admins: u64) -> Self {
        Self { admins, ..Self::default() }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.admins == 0
    }

    /// An `admin` token is made; whether it is the first.
    pub(crate) fn add_admin(&mut self) -> bool {
        self.admins += 1;
        self.admins == 1
    }

    /// An `admin` token is about to be revoked; false if it is the last one, which stays.
    pub(crate) fn remove_admin(&mut self) -> bool {
        let others = self.admins > 1;
        self.admins -= u64::from(others);
        others
    }

    /// What is in memory: tokens that are changed, and those of open streams.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
            + self.sessions.len()
            + self.several.len()
            + self.expiries.len()
            + self.expiry_of.len()
    }

    // --- Tokens that are changed ---

    /// Something is to be done to a token. True when it must be looked up first.
    pub(crate) fn wait(&mut self, token: TokenId, op: GrantOp) -> bool {
        let known = self.entries.contains_key(&token);
        self.entries.entry(token).or_default().waiting.push_back(op);
        !known
    }

    pub(crate) fn loaded(&mut self, token: TokenId, found: Option<Box<TokenRecord>>) {
        if let Some(entry) = self.entries.get_mut(&token).filter(|entry| entry.found.is_none()) {
            entry.found = Some(found);
        }
    }

    /// It could not be looked up: the requests that waited for it.
    pub(crate) fn not_loaded(&mut self, token: TokenId) -> Vec<RequestId> {
        let entry = self.entries.remove(&token);
        entry.into_iter().flat_map(|entry| entry.waiting).map(|op| op.request()).collect()
    }

    pub(crate) fn entry(&mut self, token: TokenId) -> Option<&mut TokenEntry> {
        self.entries.get_mut(&token)
    }

    /// An enrolment goes to its device; nothing else happens to the token until that has decided.
    pub(crate) fn begin_enrolment(&mut self, token: TokenId) {
        if let Some(entry) = self.entries.get_mut(&token) {
            entry.busy = true;
        }
    }

    pub(crate) fn enrolment_decided(&mut self, decision: &GrantDecision) {
        let Some(entry) = self.entries.get_mut(&decision.join) else { return };
        entry.busy = false;
        if let Some((txn, uses_left)) = decision.taken {
            entry.txn = txn;
            let record = entry.found.as_mut().and_then(Option::as_mut);
            if let Some(record) = record
                && let Role::Join(join) = &mut record.role
            {
                join.uses_left = uses_left;
            }
        }
    }

    /// The token is revoked by this transaction.
    pub(crate) fn revoked(&mut self, token: TokenId, txn: TxnId) {
        if let Some(entry) = self.entries.get_mut(&token) {
            entry.found = Some(None);
            entry.txn = txn;
        }
    }

    /// Forgets a token that is in the store as it is here, and that nothing waits for.
    pub(crate) fn forget_if_idle(&mut self, token: TokenId, committed: TxnId) {
        let idle = |entry: &TokenEntry| {
            !entry.busy
                && entry.waiting.is_empty()
                && entry.found.is_some()
                && entry.txn <= committed
        };
        if self.entries.get(&token).is_some_and(idle) {
            self.entries.remove(&token);
        }
    }

    /// The requests that wait, when nothing will be decided any more.
    pub(crate) fn abandon(&mut self) -> Vec<RequestId> {
        self.sessions.clear();
        self.several.clear();
        self.expiries.clear();
        self.expiry_of.clear();
        let entries = std::mem::take(&mut self.entries);
        entries.into_values().flat_map(|entry| entry.waiting).map(|op| op.request()).collect()
    }

    // --- Streams ---

    pub(crate) fn begin_session(&mut self, token: TokenUse, session: SessionId) {
        if token.own && token.expires_at.is_none() {
            return;
        }
        let has_another = self.sessions_of(token.id).next().is_some();
        if self.sessions.insert((token.id, session)) && has_another {
            *self.several.entry(token.id).or_insert(1) += 1;
        }
        if let Some(at) = token.expires_at {
            self.expiries.insert((at, token.id));
            self.expiry_of.insert(token.id, at);
        }
    }

    pub(crate) fn end_session(&mut self, token: TokenId, session: SessionId) {
        if self.sessions.remove(&(token, session))
            && let Some(count) = self.several.get_mut(&token)
        {
            *count -= 1;
            if *count <= 1 {
                self.several.remove(&token);
            }
        }
        if self.sessions_of(token).next().is_none()
            && let Some(at) = self.expiry_of.remove(&token)
        {
            self.expiries.remove(&(at, token));
        }
    }

    /// How many streams of a token are open, which is not a device's own.
    pub(crate) fn streams(&self, token: TokenId) -> u64 {
        let one = || u64::from(self.sessions_of(token).next().is_some());
        self.several.get(&token).copied().unwrap_or_else(one)
    }

    /// The open streams of a token, rising.
    pub(crate) fn sessions_of(&self, token: TokenId) -> impl Iterator<Item = SessionId> {
        let all = (token, SessionId(0))..=(token, SessionId(u64::MAX));
        self.sessions.range(all).map(|(_, session)| *session)
    }

    /// The time passes; what it is for tokens that expire.
    pub(crate) fn passes(&mut self, now: Now) -> Timestamp {
        self.clock.at(now)
    }

    /// When the first token of an open stream expires.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first().map(|(at, _)| self.clock.instant_of(*at))
    }

    /// A token of open streams that has expired.
    pub(crate) fn pop_expired(&mut self, time: Timestamp) -> Option<TokenId> {
        let (at, token) = self.expiries.pop_first()?;
        if at > time {
            self.expiries.insert((at, token));
            return None;
        }
        self.expiry_of.remove(&token);
        Some(token)
    }
}
