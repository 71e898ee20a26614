//! Cancellation of commands to many: a pass over the live deliveries, page by page, once the
//! command is expanded and that is on disk.

use bellwire_proto::{CommandId, DeviceId, Seq};

use super::{Commands, Job, JobLookup};
use crate::ids::RequestId;
use crate::record::{CommandHead, TxnId};
use crate::time::Instant;

/// Pages of cancellations under way at once, of all commands: one is decided while the other is
/// written.
const PAGES_MAX: usize = 2;

/// A cancellation under way.
#[derive(Debug)]
pub(super) struct Cancel {
    pub(super) force: bool,
    pass: Pass,
    /// It was requested again while the pass was under way: another follows.
    again: bool,
    /// Requests that are answered at its end.
    pub(super) requests: Vec<RequestId>,
}

/// How far a cancellation has come through the deliveries, by device name.
#[derive(Debug)]
enum Pass {
    /// The next page is after this device.
    After(Option<DeviceId>),
    Loading(Option<DeviceId>),
    /// So many of a page have yet to be decided.
    Deciding {
        from: Option<DeviceId>,
        last: DeviceId,
        remaining: usize,
        failed: bool,
    },
}

impl Commands {
    /// The next page of a cancellation: when the command is expanded, and that is on disk. Each
    /// delivery of it is a transaction, so pages wait for those that were decided before.
    pub(super) fn next_page(&mut self, committed: TxnId) -> Option<JobLookup> {
        while self.pages_writing.pop_front_if(|txn| *txn <= committed).is_some() {}
        if self.pages + self.pages_writing.len() >= PAGES_MAX {
            return None;
        }
        let is_ready = |job: &Job| job.chunks.is_empty() && job.txn <= committed;
        for command in self.agenda.active() {
            let job = self.jobs.get_mut(&command).filter(|job| is_ready(job));
            if let Some(Cancel { pass, .. }) = job.and_then(|job| job.cancel.as_mut())
                && let Pass::After(after) = pass
            {
                let after = after.take();
                *pass = Pass::Loading(after.clone());
                self.pages += 1;
                return Some(JobLookup::Live(command, after));
            }
        }
        None
    }

    pub(crate) fn has_job(&self, command: Seq) -> bool {
        self.jobs.contains_key(&command)
    }

    /// A command to many is to be cancelled. A request that is given is answered at the end.
    pub(crate) fn cancel(
        &mut self,
        head: &CommandHead,
        online_only: bool,
        force: bool,
        request: Option<RequestId>,
        txn: TxnId,
    ) -> bool {
        let new = || Job::new(head.clone(), online_only, txn);
        let job = self.jobs.entry(head.seq).or_insert_with(new);
        job.txn = txn;
        let requested_before = job.cancel.is_some();
        let cancel = job.cancel.get_or_insert_with(|| Cancel::new(force));
        cancel.force |= force;
        cancel.again |= requested_before;
        cancel.requests.extend(request);
        let force = cancel.force;
        self.settle(head.seq);
        force
    }

    /// A page of live deliveries of a command that is being cancelled has come. Returns the command
    /// and whether they are to be cancelled by force; `None` when there are no more.
    pub(crate) fn cancel_page(
        &mut self,
        command: Seq,
        devices: &[DeviceId],
    ) -> Option<(CommandId, bool)> {
        let job = self.jobs.get_mut(&command)?;
        let (id, cancel) = (job.head.id, job.cancel.as_mut()?);
        let Pass::Loading(from) = &mut cancel.pass else { return None };
        let from = from.take();
        match devices.last() {
            Some(last) => {
                let (last, remaining) = (last.clone(), devices.len());
                cancel.pass = Pass::Deciding { from, last, remaining, failed: false };
                Some((id, cancel.force))
            }
            None => {
                cancel.pass = Pass::After(None);
                self.pages -= 1;
                None
            }
        }
    }

    /// The page could not be looked up.
    pub(crate) fn cancel_page_failed(&mut self, command: Seq, retry_at: Instant) {
        self.retry_at = Some(retry_at);
        let job = self.jobs.get_mut(&command);
        if let Some(cancel) = job.and_then(|job| job.cancel.as_mut())
            && let Pass::Loading(from) = &mut cancel.pass
        {
            cancel.pass = Pass::After(from.take());
            self.pages -= 1;
        }
    }

    /// One delivery of a page has been decided on, or could not be looked up.
    pub(crate) fn cancel_decided(&mut self, command: Seq, failed: bool) {
        let job = self.jobs.get_mut(&command);
        let Some(cancel) = job.and_then(|job| job.cancel.as_mut()) else { return };
        let Pass::Deciding { from, last, remaining, failed: any } = &mut cancel.pass else {
            return;
        };
        *remaining = remaining.saturating_sub(1);
        *any |= failed;
        self.lookup_failed |= failed;
        if *remaining == 0 {
            // The page again, if not all of it could be done.
            let next = if *any { from.take() } else { Some(last.clone()) };
            cancel.pass = Pass::After(next);
            self.pages -= 1;
            self.pages_decided += 1;
        }
    }

    /// The last page has come: the cancellation is complete, unless it was requested again meanwhile.
    pub(crate) fn cancel_completed(&mut self, command: Seq) -> Option<Vec<RequestId>> {
        let job = self.jobs.get_mut(&command)?;
        let cancel = job.cancel.as_mut()?;
        if std::mem::take(&mut cancel.again) {
            return None;
        }
        let requests = job.cancel.take().map(|cancel| cancel.requests);
        self.settle(command);
        requests
    }
}

impl Cancel {
    pub(super) fn new(force: bool) -> Self {
        Self { force, pass: Pass::After(None), again: false, requests: Vec::new() }
    }
}
