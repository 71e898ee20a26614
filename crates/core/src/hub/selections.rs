//! What is done for commands whose targets are found in the store: looked for, staged, stored. The state of it is in
//! `command/selection.rs`.

use bellwire_proto::Problem;
use bellwire_proto::limits::COMMAND_DEVICES_AT_ONCE;

use super::Hub;
use super::jobs::{put_key, too_many};
use crate::command::Selection;
use crate::device::{is_online_only, store_command};
use crate::idempotency::NewSend;
use crate::ids::RequestId;
use crate::io::{Answer, TargetQuery};
use crate::record::{Change, TargetPage};
use crate::time::Now;
use crate::txn::TxnBuilder;

impl Hub {
    /// A command comes in whose targets are to be found. Goes on in [`Hub::targets_found`].
    pub(super) fn find_targets(&mut self, send: NewSend, query: Box<TargetQuery>) {
        if self.ctx.draining {
            return self.refuse_send(send.0, &send.1, Problem::draining());
        }
        if self.ctx.commands.is_full() {
            return self.refuse_send(send.0, &send.1, too_many());
        }
        self.ctx.commands.search(send, query);
    }

    pub(super) fn targets_found(&mut self, request: RequestId, page: TargetPage, now: Now) {
        let more = page.last.is_some();
        let Some(mut selection) = self.ctx.commands.page_found(request, page) else { return };
        if self.ctx.draining {
            return self.give_up_search(selection, Problem::draining(), now);
        }
        if !more && selection.stage.is_none() && selection.found.len() <= COMMAND_DEVICES_AT_ONCE {
            return self.store_for_few(selection, now);
        }
        let chunks = selection.take_chunks(!more);
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
        let Selection { send, found, .. } = selection;
        if !found.is_empty() {
            return self.store_for(send, found, now);
        }
        let (request, send, random) = send;
        let mut txn = TxnBuilder::new(now, &self.txns, &mut self.ctx);
        let head = store_command(&send, 0, random, &mut txn);
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
    if let Some(stage) = selection.stage {
        txn.change(Change::AdoptTargets(stage, head.seq));
    }
    let (id, online_only) = (txn.id(), is_online_only(&send));
    txn.ctx.commands.expand(head.clone(), online_only, selection.chunks, id);
    put_key(&send, &head, txn);
    txn.reply(request, Answer::Command(head.id));
}
