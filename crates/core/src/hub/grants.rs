//! Tokens are made, revoked and used up, devices enrol and are approved. The state is in `grant.rs`.

use std::collections::BTreeSet;

use bellwire_proto::{Code, DeviceId, Problem, Role, Timestamp, TokenId};

use super::Hub;
use crate::context::{store_unavailable, unauthenticated};
use crate::device::Op;
use crate::grant::{EnrolStep, GrantDecision, GrantOp, Revoked};
use crate::ids::{RequestId, SessionId};
use crate::io::{AccessChange, Answer, Enrolment, Output};
use crate::record::{Change, Load, TokenRecord};
use crate::time::Now;
use crate::txn::TxnBuilder;

impl Hub {
    /// Stores a new token. Replies [`Answer::Done`]. A `device` token registers its device if need be; the first
    /// `admin` token closes the hub, and the streams without a token end.
    pub fn handle_create_token(&mut self, request: RequestId, record: TokenRecord, now: Now) {
        if self.refused(request) {
            return;
        }
        if let Some(device) = record.role.device().cloned() {
            let op = Op::AddToken { request, record: Box::new(record) };
            return self.call_device(device, op, now);
        }
        let first_admin = record.role == Role::Admin && self.ctx.grants.add_admin();
        self.change_tokens(now, |txn| {
            txn.change(Change::PutToken(Box::new(record)));
            if first_admin {
                txn.output(Output::Access(AccessChange::Closed));
                txn.revoke(Revoked::Anonymous);
                super::schedules::suspend_all_of(None, txn);
            }
            txn.reply(request, Answer::Done);
        });
        self.finish_call(now);
    }

    /// Revokes a token: its streams end. Replies [`Answer::Done`]. The last `admin` token stays: without it the hub
    /// would be open to everyone.
    pub fn handle_revoke_token(&mut self, request: RequestId, token: TokenId, now: Now) {
        if !self.refused(request) {
            self.at_token(token, GrantOp::Revoke { request }, now);
            self.finish_call(now);
        }
    }

    /// A device enrols. Replies [`Answer::Enrolled`].
    pub fn handle_enroll(&mut self, request: RequestId, enrolment: Enrolment, now: Now) {
        if !self.refused(request) {
            let (token, enrolment) = (enrolment.join, Box::new(enrolment));
            self.at_token(token, GrantOp::Enroll { request, enrolment }, now);
            self.finish_call(now);
        }
    }

    /// An operator approves a device that waits for it. Replies [`Answer::Device`].
    pub fn handle_approve(&mut self, request: RequestId, device: DeviceId, now: Now) {
        if !self.refused(request) {
            self.call_device(device, Op::Approve { request }, now);
        }
    }

    /// Tokens were used at these times, to the minute. Nothing is promised.
    pub fn handle_tokens_used(
        &mut self,
        uses: impl IntoIterator<Item = (TokenId, Timestamp)>,
        now: Now,
    ) {
        if !self.failed {
            self.change_tokens(now, |txn| {
                uses.into_iter().for_each(|(token, at)| txn.change(Change::PutLastUsed(token, at)));
            });
            self.finish_call(now);
        }
    }

    /// A credential that the core does not store has ended, of which streams may be open under this id: they end, and polls that
    /// wait do.
    pub fn handle_credential_ended(&mut self, id: TokenId, now: Now) {
        if !self.failed {
            self.ctx.outputs.push_back(Output::Access(AccessChange::Token(id)));
            self.end_revoked(Revoked::Token(id, None), now);
            self.finish_call(now);
        }
    }

    /// Whether everyone may do everything: there is no `admin` token.
    pub fn is_open(&self) -> bool {
        self.ctx.grants.is_open()
    }

    fn change_tokens(&mut self, now: Now, change: impl FnOnce(&mut TxnBuilder<'_>)) {
        let mut txn = TxnBuilder::new(now, &self.txns, &mut self.ctx);
        change(&mut txn);
        let outcome = txn.finish(&mut self.txns);
        self.end_call(outcome, now);
    }

    pub(super) fn at_token(&mut self, token: TokenId, op: GrantOp, now: Now) {
        if self.ctx.grants.wait(token, op) {
            self.ctx.outputs.push_back(Output::Load(Load::Token(token)));
        }
        self.go_on_with_token(token, now);
    }

    pub(super) fn token_loaded(
        &mut self,
        token: TokenId,
        found: Option<Box<TokenRecord>>,
        now: Now,
    ) {
        self.ctx.grants.loaded(token, found);
        self.go_on_with_token(token, now);
    }

    pub(super) fn token_not_loaded(&mut self, token: TokenId) {
        for request in self.ctx.grants.not_loaded(token) {
            self.ctx.refuse(request, store_unavailable());
        }
    }

    /// Does what waits for a token, as far as it can be done now.
    fn go_on_with_token(&mut self, token: TokenId, now: Now) {
        while let Some((op, found)) = self.ctx.grants.entry(token).and_then(|entry| entry.next()) {
            match op {
                GrantOp::Revoke { request } => self.revoke(request, token, found, now),
                GrantOp::Enroll { request, enrolment } => {
                    self.enroll(request, enrolment, found, now);
                }
                GrantOp::Run { request } => self.run_for_token(request, found, now),
            }
        }
        self.forget_token_if_idle(token);
    }

    fn revoke(
        &mut self,
        request: RequestId,
        token: TokenId,
        found: Option<Box<TokenRecord>>,
        now: Now,
    ) {
        let Some(record) = found else {
            let detail = "no token has this id; see them with bellwire token list";
            return self.ctx.refuse(request, Problem::new(Code::NotFound, detail));
        };
        if record.role == Role::Admin && !self.ctx.grants.remove_admin() {
            let detail = "this is the last admin token, and without it anyone could administer the hub; \
                          make another one first";
            return self.ctx.refuse(request, Problem::new(Code::Conflict, detail));
        }
        let device = record.role.device().cloned();
        let mut revoked_by = None;
        self.change_tokens(now, |txn| {
            txn.change(Change::DeleteToken(token));
            txn.touch_token(token);
            txn.output(Output::Access(AccessChange::Token(token)));
            txn.revoke(Revoked::Token(token, device));
            super::schedules::suspend_all_of(Some(token), txn);
            txn.reply(request, Answer::Done);
            revoked_by = Some(txn.id());
        });
        if let Some(txn) = revoked_by {
            self.ctx.grants.revoked(token, txn);
        }
    }

    /// Checks the join token, and passes the enrolment on to its device.
    fn enroll(
        &mut self,
        request: RequestId,
        enrolment: Box<Enrolment>,
        found: Option<Box<TokenRecord>>,
        now: Now,
    ) {
        let works = found.filter(|record| !record.is_expired(self.ctx.grants.passes(now)));
        let join = works.as_ref().and_then(|record| record.role.join());
        let Some(join) = join.filter(|join| join.uses_left != Some(0)) else {
            return self.ctx.refuse(request, unauthenticated());
        };
        let step = EnrolStep {
            request,
            labels: join.labels.clone(),
            replace: join.replace,
            approve: join.approve,
            uses_left: join.uses_left.map(|uses| uses - 1),
            enrolment,
        };
        self.ctx.grants.begin_enrolment(step.enrolment.join);
        self.at_device(step.enrolment.device.clone(), Op::Enroll(Box::new(step)), now);
    }

    pub(super) fn enrolment_decided(&mut self, decision: GrantDecision, now: Now) {
        self.ctx.grants.enrolment_decided(&decision);
        self.go_on_with_token(decision.join, now);
    }

    pub(super) fn forget_token_if_idle(&mut self, token: TokenId) {
        self.ctx.grants.forget_if_idle(token, self.txns.committed());
    }

    // --- The end of streams ---

    /// What was revoked is on disk: streams and polls end.
    pub(super) fn end_revoked(&mut self, revoked: Revoked, now: Now) {
        match revoked {
            Revoked::Token(token, device) => {
                self.end_sessions_of(token, now);
                if let Some(device) = &device {
                    self.with_device(device, now, |device, txn| device.end_streams_of(token, txn));
                }
                // A poll of an admin's is found among the requests that wait.
                let devices = device.map_or_else(|| self.waited_for(), |id| BTreeSet::from([id]));
                self.refuse_polls(&devices, Some(token), now);
            }
            Revoked::Anonymous => {
                let open = self.ctx.sessions.iter().filter(|(_, open)| open.token.is_none());
                let sessions: BTreeSet<SessionId> = open.map(|(session, _)| *session).collect();
                sessions.into_iter().for_each(|session| self.end_session(session, now));
                let devices = self.waited_for();
                self.refuse_polls(&devices, None, now);
            }
            Revoked::Device(device) => self.with_device(&device, now, |device, txn| {
                device.end_streams(bellwire_proto::stream::ByeReason::Revoked, txn);
            }),
        }
    }

    /// Ends the streams of tokens that have expired.
    pub(super) fn end_expired(&mut self, now: Now) {
        let time = self.ctx.grants.passes(now);
        while let Some(token) = self.ctx.grants.pop_expired(time) {
            self.end_sessions_of(token, now);
        }
    }

    fn end_sessions_of(&mut self, token: TokenId, now: Now) {
        let sessions: Vec<SessionId> = self.ctx.grants.sessions_of(token).collect();
        sessions.into_iter().for_each(|session| self.end_session(session, now));
    }

    fn end_session(&mut self, session: SessionId, now: Now) {
        self.with_session(session, now, |device, txn| device.end_stream(session, txn));
    }

    fn waited_for(&self) -> BTreeSet<DeviceId> {
        self.ctx.waiting.values().cloned().collect()
    }

    fn refuse_polls(&mut self, devices: &BTreeSet<DeviceId>, of: Option<TokenId>, now: Now) {
        for device in devices {
            self.with_device(device, now, |device, txn| device.refuse_poll(of, txn));
        }
    }
}
