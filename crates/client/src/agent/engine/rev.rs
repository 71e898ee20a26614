//! The numbers that order the reports of a command at the hub.

use bellwire_proto::limits::REV_MAX;

use super::{DISK_RETRY_MS, Engine, WritePurpose};
use crate::agent::journal::Record;

/// Reports of one start of the agent before the next start number is taken: both together stay
/// below the contract's 2^53.
const REVS_OF_A_START: u64 = 1 << 25;
/// Start numbers that there are.
const STARTS: u64 = (REV_MAX + 1) / REVS_OF_A_START;
/// Start numbers that no `rev` at the hub can use up. Whoever reports for this device can show any
/// `rev`, and its other commands must be told for as long as it lives.
const STARTS_RESERVED: u64 = 1 << 20;

/// Where each `rev` comes from: the number of the start, which is on disk before it is used, and a
/// count. So none is used twice, though none is written down.
#[derive(Debug, Default)]
pub(super) struct Revs {
    start: u64,
    next: u64,
    /// Nothing can be told until then.
    pub(super) is_on_disk: bool,
    /// The disk was full: when it is tried again.
    pub(super) retry_ms: Option<u64>,
    /// That was said.
    full_logged: bool,
}

impl Revs {
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// A start that the journal tells of.
    pub(super) fn restore(&mut self, start: u64) {
        // None above could ever be used: an earlier version took what the hub had shown.
        if start < STARTS {
            self.start = self.start.max(start);
        }
    }

    /// Whether there is a start number above a `rev` that the hub has shown.
    pub(super) fn can_pass(seen: u64) -> bool {
        seen / REVS_OF_A_START + 1 < STARTS - STARTS_RESERVED
    }

    /// The numbers of this start are used up.
    pub(super) fn is_used_up(&self) -> bool {
        self.next + 1 >= REVS_OF_A_START
    }

    pub(super) fn draw(&mut self) -> u64 {
        self.next += 1;
        self.latest()
    }

    /// The greatest that was drawn.
    fn latest(&self) -> u64 {
        self.start * REVS_OF_A_START + self.next
    }
}

impl Engine {
    /// Takes a new start number, which is above `seen` where the hub has shown a greater `rev` than
    /// ours: then this journal is younger than what the hub knows.
    pub(super) fn renew_revs(&mut self, seen: u64) {
        self.revs.start = (self.revs.start + 1).max(seen / REVS_OF_A_START + 1);
        self.revs.next = 0;
        self.write_start_number();
    }

    pub(super) fn write_start_number(&mut self) {
        self.revs.is_on_disk = false;
        self.revs.retry_ms = None;
        let start = self.revs.start;
        self.write(WritePurpose::StartNumber(start), vec![Record::Begun { start, clock: None }]);
    }

    /// A start number is on disk. Another may have been taken since.
    pub(super) fn on_start_number_stored(&mut self, start: u64) {
        self.revs.is_on_disk |= start == self.revs.start && start < STARTS;
        self.revs.full_logged = false;
    }

    /// There was no room for a start number.
    pub(super) fn retry_start_number(&mut self, now_ms: u64, start: u64) {
        if start != self.revs.start {
            return;
        }
        if !std::mem::replace(&mut self.revs.full_logged, true) {
            tracing::error!("the disk is full: nothing can be told to the hub until there is room");
        }
        self.revs.retry_ms = Some(now_ms + DISK_RETRY_MS);
    }

    /// Takes a start number above a `rev` that the hub has shown, unless it is one of ours, or greater than any
    /// that could be passed.
    pub(super) fn exceed_rev(&mut self, seen: u64) {
        if seen > self.revs.latest() && Revs::can_pass(seen) {
            self.renew_revs(seen);
        }
    }
}
