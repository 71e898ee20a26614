//! A device gets its tokens: by enrolling, or from an operator. Contract, section 6, "Enrolment".

use bellwire_proto::{Code, DeviceChange, Labels, Problem, Role};

use crate::context::unknown_device;
use crate::device::Device;
use crate::grant::{EnrolStep, GrantDecision, Revoked};
use crate::ids::RequestId;
use crate::io::{AccessChange, Answer, Output};
use crate::record::{Change, TokenRecord};
use crate::txn::TxnBuilder;

impl Device {
    /// A token for it is made; it becomes known if it was not.
    pub(crate) fn add_token(
        &mut self,
        request: RequestId,
        record: Box<TokenRecord>,
        txn: &mut TxnBuilder<'_>,
    ) {
        if !self.known {
            self.create(Labels::new(), txn);
        }
        txn.change(Change::PutToken(record));
        txn.reply(request, Answer::Done);
    }

    /// It enrols, and one use of the join token is taken, in one transaction.
    pub(crate) fn enroll(&mut self, step: EnrolStep, txn: &mut TxnBuilder<'_>) {
        let EnrolStep { request, enrolment, labels, replace, approve, uses_left } = step;
        let join = enrolment.join;
        if self.known && !replace {
            txn.decide_enrolment(GrantDecision::refused(join));
            let detail = format!(
                "a device is named {} already; choose another name, or enrol with a join token that says replace",
                self.id
            );
            return txn.refuse(request, Problem::new(Code::Conflict, detail));
        }
        if self.known {
            if !labels.is_empty() {
                txn.change(Change::PutLabels(self.id.clone(), labels));
            }
            if let Some(facts) = enrolment.facts {
                txn.change(Change::PutFacts(self.id.clone(), facts));
            }
            txn.change(Change::PutPending(self.id.clone(), approve));
            // Who had this identity has it no more.
            txn.change(Change::DeleteTokensOf(self.id.clone()));
            txn.revoke(Revoked::Device(self.id.clone()));
            self.notify(DeviceChange::Changed, txn);
        } else {
            self.create_as(labels, enrolment.facts, approve, txn);
        }
        txn.change(Change::PutToken(Box::new(TokenRecord {
            id: enrolment.token,
            digest: enrolment.digest,
            role: Role::Device(self.id.clone()),
            expires_at: None,
            note: None,
            created_at: txn.now.wall,
            created_by: Some(join.to_string()),
            last_used_at: None,
        })));
        if let Some(uses_left) = uses_left {
            txn.change(Change::PutUses(join, uses_left));
            txn.output(Output::Access(AccessChange::Token(join)));
        }
        txn.touch_token(join);
        txn.output(Output::Access(AccessChange::Device(self.id.clone())));
        txn.reply(request, Answer::Enrolled { pending: approve });
        let taken = Some((txn.id(), uses_left));
        txn.decide_enrolment(GrantDecision { join, taken });
    }

    /// An operator approves it. Approving twice changes nothing.
    pub(crate) fn approve(&mut self, request: RequestId, txn: &mut TxnBuilder<'_>) {
        if !self.known {
            return txn.refuse(request, unknown_device(&self.id));
        }
        txn.change(Change::PutPending(self.id.clone(), false));
        self.notify(DeviceChange::Changed, txn);
        txn.output(Output::Access(AccessChange::Device(self.id.clone())));
        txn.reply(request, Answer::Device { created: false });
    }
}
