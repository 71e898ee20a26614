//! What is done for commands whose targets are found in the store: looked for, staged, stored. The state of it is in
//! `command/selection.rs`.

use bellwire_proto::limits::{COMMAND_DEVICES_AT_ONCE, ROLLOUTS_MAX};
use bellwire_proto::{Code, Problem};

use super::Hub;
use super::jobs::{put_key, too_many};
use crate::command::Selection;
use crate::device::{is_online_only, store_command};
use crate::ids::RequestId;
use crate::io::{Answer, NewSend};
use crate::record::{Change, RolloutRecord, TargetPage, TargetQuery};
use crate::time::Now;
use crate::txn::TxnBuilder;

impl Hub {
    /// A command comes in whose targets are to be found. Goes on in [`Hub::targets_found`].
    pub(super) fn find_targets(&mut self, send: NewSend, mut query: Box<TargetQuery>) {
        let canary = send.1.rollout.as_ref().and_then(|plan| plan.canary.as_ref());
        // The caller has parsed it.
        query.canary = canary.and_then(|text| text.parse().ok());
        if let Err(refusal) = self.ctx.may_store() {
            return self.refuse_send(send.0, &send.1, refusal);
        }
        if self.ctx.commands.is_full() {
            return self.refuse_send(send.0, &send.1, too_many());
        }
        if send.1.rollout.is_some() && self.ctx.commands.rollouts_are_full() {
            return self.refuse_send(send.0, &send.1, too_many_rollouts());
        }
        self.ctx.commands.search(send, query);
    }

    pub(super) fn targets_found(&mut self, request: RequestId, page: TargetPage, now: Now) {
        let more = page.last.is_some();
        let Some(mut selection) = self.ctx.commands.page_found(request, page) else { return };
        if self.ctx.draining {
            return self.give_up_search(selection, Problem::draining(), now);
        }
        let few = selection.stage.is_none()
            && selection.send.1.rollout.is_none()
            && selection.found.len() <= COMMAND_DEVICES_AT_ONCE;
        if !more && few {
            return self.store_for_few(selection, now);
        }
        let chunks = selection.take_chunks(!more, self.ctx.creates_on_sight());
        if !more && let Some(problem) = refusal(&selection) {
            return self.give_up_search(selection, problem, now);
        }
        let mut txn = TxnBuilder::new(now, &self.txns, &mut self.ctx);
        if !chunks.is_empty() {
            let stage = *selection.stage.get_or_insert_with(|| txn.ctx.seqs.next());
            selection.writes(txn.id());
            chunks.into_iter().for_each(|chunk| txn.change(Change::PutTargets(stage, chunk)));
        }
        if more {
            txn.ctx.commands.go_on_searching(selection);
        } else {
            store_for_many(selection, &mut txn);
        }
        let outcome = txn.finish(&mut self.txns);
        self.end_call(outcome, now);
    }

    /// The store could not look for them: nothing was promised yet.
    pub(super) fn targets_not_found(&mut self, request: RequestId, problem: Problem, now: Now) {
        if let Some(selection) = self.ctx.commands.end_search(request) {
            self.give_up_search(selection, problem, now);
        }
    }

    fn give_up_search(&mut self, selection: Selection, problem: Problem, now: Now) {
        let (request, send, _) = &selection.send;
        self.refuse_send(*request, send, problem);
        let Some(stage) = selection.stage else { return };
        let mut txn = TxnBuilder::new(now, &self.txns, &mut self.ctx);
        txn.change(Change::DropTargets(stage));
        let outcome = txn.finish(&mut self.txns);
        self.end_call(outcome, now);
    }

    /// So few were found that all deliveries come into being with the command; maybe none.
    fn store_for_few(&mut self, selection: Selection, now: Now) {
        if !selection.found.is_empty() {
            let Selection { send, found, .. } = selection;
            return self.store_for(send, found, now);
        }
        if let Some(problem) = refusal(&selection) {
            return self.give_up_search(selection, problem, now);
        }
        let (request, send, random) = selection.send;
        let mut txn = TxnBuilder::new(now, &self.txns, &mut self.ctx);
        let head = store_command(&send, 0, random, &mut txn);
        txn.audit_command(request, head.id);
        put_key(&send, &head, &mut txn);
        txn.reply(request, Answer::Command(head.id));
        let outcome = txn.finish(&mut self.txns);
        self.end_call(outcome, now);
    }
}

/// The command is stored and adopts the targets that were found for it.
fn store_for_many(selection: Selection, txn: &mut TxnBuilder<'_>) {
    let (request, send, random) = selection.send;
    let head = store_command(&send, selection.staged, random, txn);
    txn.audit_command(request, head.id);
    if let Some(stage) = selection.stage {
        txn.change(Change::AdoptTargets(stage, head.seq));
    }
    let (id, online_only) = (txn.id(), is_online_only(&send));
    let rollout = send.rollout.as_deref().map(|plan| {
        let canaries = selection.staged_canaries;
        let window = head.window.clone();
        let new = RolloutRecord::new(plan.clone(), head.total, canaries, head.not_before, txn.now);
        RolloutRecord { window, ..new }
    });
    if let Some(record) = &rollout {
        txn.change(Change::PutRollout(head.seq, Box::new(record.clone())));
    }
    txn.ctx.commands.expand(head.clone(), online_only, selection.chunks, rollout, id);
    put_key(&send, &head, txn);
    txn.reply(request, Answer::Command(head.id));
}

fn too_many_rollouts() -> Problem {
    let detail = format!(
        "{ROLLOUTS_MAX} rollouts are under way or paused, and no more may be; resume or abort one (bellwire resume, \
         bellwire abort), and send again"
    );
    Problem::new(Code::RateLimited, detail)
}

/// Why what was found cannot be sent to.
fn refusal(selection: &Selection) -> Option<Problem> {
    let send = &selection.send.1;
    if send.parent.is_some() && selection.staged == 0 {
        let detail = "no delivery of the command is in these states; there is nothing to retry";
        return Some(Problem::new(Code::Conflict, detail));
    }
    let canary = send.rollout.as_ref().and_then(|plan| plan.canary.as_ref());
    if canary.is_some() && selection.staged > 0 && selection.staged_canaries == 0 {
        let detail = "the canary of the rollout selects none of the targets";
        return Some(Problem::bad_request(detail));
    }
    None
}
