//! A device is removed: its streams end, its live deliveries are cancelled, then its row is deleted.
//!
//! A long queue is cancelled in bounded steps, each a transaction; requests for the device wait
//! meanwhile. Nothing is promised before the last of them: a removal that is interrupted by a crash
//! was not answered, and is simply requested again.

use bellwire_proto::stream::ByeReason;
use bellwire_proto::{DeliveryState, DeviceChange};

use crate::context::{store_unavailable, unknown_device};
use crate::device::op::Op;
use crate::device::{Device, Phase};
use crate::ids::RequestId;
use crate::io::{AccessChange, Answer, Output};
use crate::record::{Change, DeliveryRecord, Load, TxnId};
use crate::txn::TxnBuilder;

/// Deliveries that one step cancels.
const STEP_ROWS_MAX: usize = 256;

/// A removal under way.
#[derive(Debug)]
pub(super) struct Removal {
    request: RequestId,
    loading: bool,
}

impl Removal {
    pub(super) fn request(&self) -> RequestId {
        self.request
    }
}

impl Device {
    /// Begins to remove the device. A command to several devices that was stored before is expanded first.
    pub(crate) fn delete(&mut self, request: RequestId, txn: &mut TxnBuilder<'_>) {
        if txn.ctx.commands.delay_until_expanded(&self.id) || !self.steps.is_empty() {
            return self.wait(Op::Delete { request });
        }
        if !self.known {
            return txn.refuse(request, unknown_device(&self.id));
        }
        self.end_streams(ByeReason::Revoked, txn);
        self.phase = Phase::Removing(Box::new(Removal { request, loading: false }));
    }

    /// Continues a removal by one step, if there is one and the step before is on disk.
    pub(super) fn continue_removal(&mut self, txn: &mut TxnBuilder<'_>, committed: TxnId) {
        let Phase::Removing(removal) = &mut self.phase else { return };
        if removal.loading {
            return;
        }
        let step = self.deliveries.not_terminal(STEP_ROWS_MAX);
        for seq in &step {
            self.deliveries.with(*seq, |live| live.transition(DeliveryState::Cancelled, txn.now));
        }
        if step.len() == STEP_ROWS_MAX {
            return; // The next step follows when this one is on disk.
        }
        if self.deliveries.queued_in_store() > 0 {
            // Rows whose change is not on disk yet would be loaded in their old state.
            if step.is_empty() && self.txn <= committed {
                removal.loading = true;
                self.deliveries.hold();
                txn.load(Load::Live(self.id.clone(), STEP_ROWS_MAX));
            }
            return;
        }
        let request = removal.request;
        self.phase = Phase::Ready;
        self.known = false;
        self.flush_rows(txn);
        txn.change(Change::DeleteDevice(self.id.clone()));
        txn.change(Change::DeleteTokensOf(self.id.clone()));
        txn.output(Output::Access(AccessChange::Device(self.id.clone())));
        self.notify(DeviceChange::Removed, txn);
        txn.reply(request, Answer::Done);
    }

    /// Live deliveries that were in the store alone were loaded; `None` when it could not answer.
    pub(crate) fn live_loaded(
        &mut self,
        rows: Option<Vec<DeliveryRecord>>,
        txn: &mut TxnBuilder<'_>,
    ) {
        let Phase::Removing(removal) = &mut self.phase else { return };
        removal.loading = false;
        let request = removal.request;
        self.deliveries.release();
        match rows {
            // The count of the queue said that there are some: the store contradicts itself.
            Some(rows) if !rows.is_empty() => {
                for record in rows {
                    self.deliveries.adopt(record);
                }
            }
            _ => {
                self.phase = Phase::Ready;
                txn.refuse(request, store_unavailable());
            }
        }
    }
}
