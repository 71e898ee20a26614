//! The numbers (`rev`) that order the reports of a command at the hub. Contract, section 5.

use bellwire_proto::limits::REV_MAX;

use super::{DISK_RETRY_MS, Engine, WritePurpose};
use crate::agent::journal::Record;

/// Reports per start number. Start number and count together stay below the contract's 2^53.
const REVS_OF_A_START: u64 = 1 << 25;
/// How many start numbers there are.
const STARTS: u64 = (REV_MAX + 1) / REVS_OF_A_START;
/// Start numbers that no `rev` at the hub can use up. Any client that may report for this device can set any
/// `rev`, and the device's other commands must be reportable for as long as it lives.
const STARTS_RESERVED: u64 = 1 << 20;

/// The source of each `rev`: a start number, which is on disk before it is used, and a count. So no `rev` is
/// used twice, though none is written down.
#[derive(Debug, Default)]
pub(super) struct Revs {
    start: u64,
    next: u64,
    /// Nothing can be reported until then.
    pub(super) is_on_disk: bool,
    /// The disk was full: when the write is tried again.
    pub(super) retry_ms: Option<u64>,
    /// That was logged.
    full_logged: bool,
}

impl Revs {
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// A start number of the journal.
    pub(super) fn restore(&mut self, start: u64) {
        // Greater ones could never be used: an earlier version took over what the hub had shown.
        if start < STARTS {
            self.start = self.start.max(start);
        }
    }

    /// Whether there is a start number above a `rev` that the hub has shown.
    pub(super) fn can_pass(seen: u64) -> bool {
        seen / REVS_OF_A_START + 1 < STARTS - STARTS_RESERVED
    }

    /// The count of this start number is used up.
    pub(super) fn is_used_up(&self) -> bool {
        self.next + 1 >= REVS_OF_A_START
    }

    pub(super) fn draw(&mut self) -> u64 {
        self.next += 1;
        self.latest()
    }

    /// The greatest `rev` that was drawn.
    fn latest(&self) -> u64 {
        self.start * REVS_OF_A_START + self.next
    }
}

impl Engine {
    /// Takes a new start number, above `seen` if the hub has shown a greater `rev` than ours: then this journal is
    /// younger than the hub's state.
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

    /// A start number is on disk. Another one may have been taken since.
    pub(super) fn on_start_number_stored(&mut self, start: u64) {
        self.revs.is_on_disk |= start == self.revs.start && start < STARTS;
        self.revs.full_logged = false;
    }

    /// The disk had no space for a start number.
    pub(super) fn retry_start_number(&mut self, now_ms: u64, start: u64) {
        if start != self.revs.start {
            return;
        }
        if !std::mem::replace(&mut self.revs.full_logged, true) {
            tracing::error!("the disk is full: nothing can be reported until there is space");
        }
        self.revs.retry_ms = Some(now_ms + DISK_RETRY_MS);
    }

    /// Takes a start number above a `rev` that the hub has shown, unless that is one of ours, or too great to be
    /// exceeded.
    pub(super) fn exceed_rev(&mut self, seen: u64) {
        if seen > self.revs.latest() && Revs::can_pass(seen) {
            self.renew_revs(seen);
        }
    }
}
