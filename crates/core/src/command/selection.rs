//! The search for the targets of a command that names them by a selector, or names all: page by page, before the
//! command is stored.
//!
//! What is found is stored in chunks under a number that no command has (the **stage**), so that memory holds a page
//! and not a fleet; with the last page the command is stored and adopts them, in one transaction. A crash before that
//! leaves targets without a command, which the next start deletes: nothing was promised. A command to few needs no
//! stage. How it is done is in `hub/selections.rs`.

use std::collections::VecDeque;

use bellwire_proto::limits::COMMAND_DEVICES_AT_ONCE;
use bellwire_proto::{DeviceId, Seq};

use super::{CHUNK_DEVICES, Commands, JobLookup};
use crate::ids::RequestId;
use crate::io::NewSend;
use crate::record::{ChunkRange, TargetChunk, TargetPage, TargetQuery, TxnId};

/// Pages that are looked up at once, of all searches: the thread that reads has others to serve.
const PAGES_MAX: usize = 2;
/// Transactions of one search that may not be on disk yet: one is found while the other is written.
const WRITING_MAX: usize = 2;

/// A command whose targets are being looked for.
#[derive(Debug)]
pub(crate) struct Selection {
    pub(crate) send: NewSend,
    query: Box<TargetQuery>,
    loading: bool,
    /// The last device that was looked at.
    after: Option<DeviceId>,
    /// What was found and is not stored yet: less than a page and a chunk.
    pub(crate) found: Vec<DeviceId>,
    /// The same of the first batch of a rollout.
    canaries: Vec<DeviceId>,
    /// The number under which chunks are stored, once there is one.
    pub(crate) stage: Option<Seq>,
    pub(crate) chunks: Vec<ChunkRange>,
    /// How many were stored.
    pub(crate) staged: u64,
    /// How many of those are canaries.
    pub(crate) staged_canaries: u64,
    writing: VecDeque<TxnId>,
}

impl Selection {
    /// Whether what it finds is registered; on an open hub, what is named need not be.
    fn finds_registered(&self, creates_on_sight: bool) -> bool {
        let TargetQuery { select, scope, named, ended, .. } = &*self.query;
        let selects = select.is_some() || scope.is_some();
        selects || (named.is_none() && ended.is_none()) || !creates_on_sight
    }

    /// What was found, in chunks, once it is more than what needs none; with `all` also what remains. Of a rollout, which may be
    /// paused for weeks with its chunks in memory, they are larger; a step takes a part of one.
    pub(crate) fn take_chunks(&mut self, all: bool, creates_on_sight: bool) -> Vec<TargetChunk> {
        let is_rollout = self.send.1.rollout.is_some();
        let registered = is_rollout && self.finds_registered(creates_on_sight);
        let devices_max = if is_rollout { COMMAND_DEVICES_AT_ONCE } else { CHUNK_DEVICES };
        let mut chunks = Vec::new();
        let least = if all { 1 } else { COMMAND_DEVICES_AT_ONCE + 1 };
        for canary in [true, false] {
            let found = if canary { &mut self.canaries } else { &mut self.found };
            while found.len() >= least {
                let rest = found.split_off(found.len().min(devices_max));
                let devices = std::mem::replace(found, rest);
                let chunk = TargetChunk { devices, canary, registered };
                self.staged += chunk.devices.len() as u64;
                self.staged_canaries += if canary { chunk.devices.len() as u64 } else { 0 };
                self.chunks.extend(chunk.range());
                chunks.push(chunk);
            }
        }
        chunks
    }

    /// Chunks of it are part of this transaction.
    pub(crate) fn writes(&mut self, txn: TxnId) {
        self.writing.push_back(txn);
    }
}

impl Commands {
    /// A command comes in whose targets are to be found.
    pub(crate) fn search(&mut self, send: NewSend, query: Box<TargetQuery>) {
        let selection = Selection {
            query,
            loading: false,
            after: None,
            found: Vec::new(),
            canaries: Vec::new(),
            stage: None,
            chunks: Vec::new(),
            staged: 0,
            staged_canaries: 0,
            writing: VecDeque::new(),
            send,
        };
        self.selections.insert(selection.send.0, selection);
    }

    pub(super) fn next_search(&mut self, committed: TxnId) -> Option<JobLookup> {
        if self.selections.values().filter(|selection| selection.loading).count() >= PAGES_MAX {
            return None;
        }
        let (request, selection) =
            self.selections.iter_mut().find_map(|(request, selection)| {
                while selection.writing.pop_front_if(|txn| *txn <= committed).is_some() {}
                let ready = !selection.loading && selection.writing.len() < WRITING_MAX;
                ready.then_some((request, selection))
            })?;
        selection.loading = true;
        let (query, after) = (selection.query.clone(), selection.after.clone());
        Some(JobLookup::Found { request: *request, query, after })
    }

    /// A page was found. Returns the selection, which [`Commands::go_on_searching`] puts back if there is more.
    pub(crate) fn page_found(&mut self, request: RequestId, page: TargetPage) -> Option<Selection> {
        let mut selection = self.end_search(request)?;
        selection.loading = false;
        selection.after = page.last;
        if page.canaries.is_empty() {
            selection.found.extend(page.devices);
        } else {
            let canaries = page.canaries;
            let others = page.devices.into_iter().filter(|d| canaries.binary_search(d).is_err());
            selection.found.extend(others);
            selection.canaries.extend(canaries);
        }
        Some(selection)
    }

    pub(crate) fn go_on_searching(&mut self, selection: Selection) {
        self.selections.insert(selection.send.0, selection);
    }

    pub(crate) fn end_search(&mut self, request: RequestId) -> Option<Selection> {
        self.selections.remove(&request)
    }
}
