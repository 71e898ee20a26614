//! What an `ack=none` stream has missed, page by page, at the pace of its reader. Contract, section 4.

use bellwire_proto::Json;
use bellwire_proto::limits::PACED_BYTES;
use bellwire_proto::stream::ByeReason;

use super::{CatchingUp, Listener, command_event};
use crate::delivery::Carriers;
use crate::device::Device;
use crate::io::{Frame, NotifyOn, Output};
use crate::record::{DeliveryRecord, Load, PageMax};
use crate::txn::TxnBuilder;

/// A page of a replay.
const REPLAY_PAGE_MAX: PageMax = PageMax { rows: 64, bytes: PACED_BYTES };

impl Device {
    /// Looks up the next page of what the stream has missed. One page at a time: an answer does not
    /// say for which stream it was requested.
    pub(super) fn load_page(&mut self, txn: &mut TxnBuilder<'_>) {
        if let Some(stream) = &self.listeners.stream
            && let CatchingUp::Loading(after) = stream.catching_up
            && self.listeners.loading_page.is_none()
        {
            self.listeners.loading_page = Some((stream.session, after));
            // Withheld like an answer: what was sent last on the previous stream may not be on disk
            // yet, and a page that is read before would lack it for ever.
            txn.output(Output::Load(Load::Delivered {
                device: self.id.clone(),
                after,
                now: txn.now.instant,
                page_max: REPLAY_PAGE_MAX,
            }));
        }
    }

    /// The stream that the page was loaded for, if it still is the one that listens. If another
    /// waits for a page, that one is loaded.
    fn page_stream(&mut self, txn: &mut TxnBuilder<'_>) -> Option<&mut Listener> {
        let (session, after) = self.listeners.loading_page.take()?;
        let waits =
            |s: &Listener| s.session == session && s.catching_up == CatchingUp::Loading(after);
        if !self.listeners.stream.as_deref().is_some_and(waits) {
            self.load_page(txn);
            return None;
        }
        self.listeners.stream.as_deref_mut()
    }

    /// A page of what was delivered before, with the attempt numbers under which it was.
    pub(crate) fn replay(&mut self, page: Vec<(DeliveryRecord, Json)>, txn: &mut TxnBuilder<'_>) {
        let now = txn.now.instant;
        let Some(stream) = self.page_stream(txn) else {
            return;
        };
        let Some(last) = page.last().map(|(record, _)| record.head.seq) else {
            stream.catching_up = CatchingUp::Backlog;
            return;
        };
        stream.catching_up = CatchingUp::Writing(last);
        let session = stream.session;
        for (record, data) in page {
            let seq = record.head.seq;
            let notify_on = if seq == last { NotifyOn::Written(seq) } else { NotifyOn::Nothing };
            let frame = Frame::Command(command_event(&record, data, now));
            txn.output(Output::Send { session, frame, notify_on });
        }
    }

    /// The replay cannot be read: the stream ends, and the device connects again.
    pub(crate) fn replay_failed(&mut self, txn: &mut TxnBuilder<'_>) {
        if self.page_stream(txn).is_none() {
            return;
        }
        self.seen_until_now(txn.now);
        if let Some(stream) = self.listeners.stream.take() {
            txn.close(stream.session, ByeReason::Rotate);
            self.lost(Carriers::STREAM, txn.now);
        }
    }
}
