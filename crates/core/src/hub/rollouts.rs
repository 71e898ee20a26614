//! What is done for rollouts: batches begin, an abort gives up the rest, operators pause and resume. When is decided in
//! `rollout.rs`, the targets are expanded in `hub/jobs.rs`.

use bellwire_proto::{Code, Problem, RolloutState};

use super::Hub;
use crate::ids::RequestId;
use crate::io::{Answer, Output, RolloutOp};
use crate::record::{Change, LoadedCommand};
use crate::time::Now;
use crate::txn::TxnBuilder;

impl Hub {
    /// Does what a rollout has decided because time passed or an operator asked; false when none has. What follows from a
    /// change of a delivery is decided in its transaction.
    pub(super) fn go_on_with_rollouts(&mut self, now: Now) -> bool {
        let Some(step) = self.ctx.commands.next_decision(self.ctx.config.calendar, now) else {
            return false;
        };
        let mut txn = TxnBuilder::new(now, &self.txns, &mut self.ctx);
        txn.decide_rollout(step);
        let outcome = txn.finish(&mut self.txns);
        self.end_call(outcome, now);
        true
    }

    /// An operator pauses, resumes or aborts a rollout. The same twice is no mistake.
    pub(super) fn change_rollout(
        &mut self,
        request: RequestId,
        found: &LoadedCommand,
        op: RolloutOp,
        now: Now,
    ) {
        let seq = found.head.seq;
        let live = self.ctx.commands.rollout(seq).map(|rollout| rollout.state());
        // One that has no job any more has ended, though the row that was read may be older than that.
        let ended = |state: RolloutState| if state.is_ended() { state } else { RolloutState::Done };
        let stored = found.rollout.as_ref().map(|record| ended(record.state));
        let Some(state) = live.or(stored) else {
            let detail = "this command is no rollout; bellwire cancel stops it";
            return self.ctx.refuse(request, Problem::new(Code::Conflict, detail));
        };
        let wanted = match op {
            RolloutOp::Pause => RolloutState::Paused,
            RolloutOp::Resume => RolloutState::Running,
            RolloutOp::Abort => RolloutState::Aborted,
        };
        if state == wanted {
            let reply = Output::Reply(request, Answer::Cancelled);
            return self.txns.output_after_all(reply, &mut self.ctx);
        }
        if state.is_ended() {
            let detail =
                format!("the rollout is {}; it cannot become {}", state.as_str(), wanted.as_str());
            return self.ctx.refuse(request, Problem::new(Code::Conflict, detail));
        }
        let mut txn = TxnBuilder::new(now, &self.txns, &mut self.ctx);
        let id = txn.id();
        if let Some((record, cancel)) = txn.ctx.commands.change_rollout(seq, op, now.instant) {
            txn.change(Change::PutRollout(seq, Box::new(record)));
            if cancel {
                let force = txn.ctx.commands.cancel_aborted(seq, id);
                txn.change(Change::PutCancel(seq, force));
            }
            txn.ctx.commands.rollout_written(seq, id);
        }
        txn.reply(request, Answer::Cancelled);
        let outcome = txn.finish(&mut self.txns);
        self.end_call(outcome, now);
    }
}
