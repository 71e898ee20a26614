//! What is to be done at a device: what the hub makes of a request, and what waits while the
//! device, or one delivery of it, is being loaded. This is the one place that distinguishes
//! them; how each is done is in `device.rs` and its submodules.

use bellwire_proto::{Code, CommandId, Json, Labels, Problem, Report, Seconds, Seq};

use crate::context::{Context, KeyDecision, store_unavailable};
use crate::device::Device;
use crate::grant::{EnrolStep, GrantDecision};
use crate::ids::{RequestId, SessionId};
use crate::io::{Answer, Listen, Poll, Send};
use crate::record::TokenRecord;
use crate::time::{LOAD_RETRY, Now};
use crate::txn::TxnBuilder;

/// Something to do at a device, once it is in memory.
#[derive(Debug)]
pub(crate) enum Op {
    Send {
        request: RequestId,
        send: Box<Send>,
        random: [u8; 10],
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
    PutLabels {
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
    /// A token of it is made.
    AddToken {
        request: RequestId,
        record: Box<TokenRecord>,
    },
    /// It enrols.
    Enroll(Box<EnrolStep>),
    /// An operator approves it.
    Approve {
        request: RequestId,
    },
    Delivery {
        command: CommandId,
        op: DeliveryOp,
    },
    /// These of its deliveries are due.
    Due {
        seqs: Vec<Seq>,
    },
}

/// Something to do to one delivery of a device, which may have ended long ago.
#[derive(Debug)]
pub(crate) enum DeliveryOp {
    /// The same request again, by its idempotency key.
    Rejoin {
        request: RequestId,
        wait: Seconds,
    },
    Cancel {
        origin: CancelOrigin,
        force: bool,
    },
    Report {
        request: RequestId,
        report: Box<Report>,
    },
}

/// Who cancels a delivery.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CancelOrigin {
    /// A sender, who waits for the answer.
    Request(RequestId),
    /// The cancellation of a command to many, which goes on when this one is decided.
    Job(Seq),
}

impl Op {
    pub(crate) fn apply(self, device: &mut Device, txn: &mut TxnBuilder<'_>) {
        match self {
            Self::Send { request, send, random } => device.send(request, &send, random, txn),
            Self::Listen { request, session, listen } => {
                device.listen(request, session, *listen, txn);
            }
            Self::Poll { request, poll } => device.poll(request, *poll, txn),
            Self::PutLabels { request, labels } => device.put_labels(request, labels, txn),
            Self::PutFacts { request, facts } => device.put_facts(request, facts, txn),
            Self::Delete { request } => device.delete(request, txn),
            Self::AddToken { request, record } => device.add_token(request, record, txn),
            Self::Enroll(step) => device.enroll(*step, txn),
            Self::Approve { request } => device.approve(request, txn),
            Self::Delivery { command, op } => device.on_delivery(command, op, txn),
            Self::Due { seqs } => device.look_up_due(seqs, txn),
        }
    }

    /// It cannot be done: the store cannot be read. What is due stays due.
    pub(crate) fn refuse(self, problem: Problem, ctx: &mut Context, now: Now) {
        match self {
            Self::Send { request, send, .. } => {
                ctx.refuse(request, problem);
                if let Some((key, _)) = send.idempotency {
                    ctx.key_decisions.push_back(KeyDecision { key, device: None, stored: None });
                }
            }
            Self::Listen { request, session, .. } => {
                ctx.end_session(session);
                ctx.refuse(request, problem);
            }
            Self::Poll { request, .. }
            | Self::PutLabels { request, .. }
            | Self::PutFacts { request, .. }
            | Self::Delete { request }
            | Self::AddToken { request, .. }
            | Self::Approve { request } => ctx.refuse(request, problem),
            Self::Enroll(step) => {
                ctx.refuse(step.request, problem);
                ctx.grant_decisions.push_back(GrantDecision::refused(step.enrolment.join));
            }
            Self::Delivery { op, .. } => op.refuse(problem, ctx),
            Self::Due { .. } => ctx.due.add_deadline(Some(now.instant.after(LOAD_RETRY))),
        }
    }
}

impl DeliveryOp {
    pub(crate) fn apply(self, device: &mut Device, seq: Seq, txn: &mut TxnBuilder<'_>) {
        match self {
            Self::Rejoin { request, wait } => device.rejoin(request, seq, wait, txn),
            Self::Cancel { origin, force } => {
                let now = txn.now;
                let outcome = device.deliveries.with(seq, |live| live.cancel(force, now));
                origin.decided(outcome.unwrap_or_else(not_in_memory), txn);
            }
            Self::Report { request, report } => {
                let now = txn.now;
                let outcome = device.deliveries.with(seq, |live| live.report(*report, now));
                match outcome.unwrap_or_else(not_in_memory) {
                    Ok(()) => device.reply_delivery(request, seq, txn),
                    Err(problem) => txn.refuse(request, problem),
                }
            }
        }
    }

    /// There is no such delivery, or it cannot be looked up.
    pub(crate) fn refuse(self, problem: Problem, ctx: &mut Context) {
        match self {
            Self::Rejoin { request, .. }
            | Self::Report { request, .. }
            | Self::Cancel { origin: CancelOrigin::Request(request), .. } => {
                ctx.refuse(request, problem);
            }
            Self::Cancel { origin: CancelOrigin::Job(command), .. } => {
                // A delivery that is not there any more needs no cancelling.
                let failed = problem.code != Code::UnknownCommand;
                ctx.commands.cancel_decided(command, failed);
            }
        }
    }
}

impl CancelOrigin {
    fn decided(self, outcome: Result<(), Problem>, txn: &mut TxnBuilder<'_>) {
        match (self, outcome) {
            (Self::Request(request), Ok(())) => txn.reply(request, Answer::Cancelled),
            (Self::Request(request), Err(problem)) => txn.refuse(request, problem),
            // What had ended before is as it should be.
            (Self::Job(command), outcome) => {
                let failed = outcome.is_err_and(|problem| problem.code == Code::StoreUnavailable);
                txn.ctx.commands.cancel_decided(command, failed);
            }
        }
    }
}

/// A delivery was looked up and is not in memory: nothing was done, and the caller must know.
fn not_in_memory() -> Result<(), Problem> {
    Err(store_unavailable())
}
