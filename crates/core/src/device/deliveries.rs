//! The deliveries of one device that are in memory, and the indexes over them.
//!
//! In memory are those in flight, a **window** of the oldest in the queue, and those that a request or a
//! transaction waits for (not on disk yet, or a sender waits for their end). All others are in the store
//! alone: of 100,000 queued commands of a device a handful are in memory.
//!
//! The window is a prefix of the queue: every ready delivery with a number up to `loaded_to` is in
//! memory. Some behind it may be in memory too; they are not sent before the page that they belong
//! to has been loaded.
//!
//! Every change of a delivery goes through [`Deliveries::with`], which updates the indexes, so
//! that no event costs more than the logarithm of how many deliveries there are. While a lookup of
//! this device is under way (`holds`), nothing leaves memory: a row that the store read a moment
//! ago and that is not in memory is then known to be current.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bellwire_proto::limits::PACED_BYTES;
use bellwire_proto::{CommandId, DeliveryState, Seq, Timestamp};

use crate::context::DueTimes;
use crate::delivery::Live;
use crate::ids::RequestId;
use crate::record::{DeliveryRecord, PageMax, QueuePage, TxnId};
use crate::time::Instant;

/// Queued deliveries of one device in memory, beside those that a request or a transaction waits for. A
/// window of one would cost a lookup for each sending. It is bounded by [`WINDOW_BYTES`] too.
const WINDOW_ROWS: usize = 16;
/// Bytes of data after which no further row is loaded into the window.
const WINDOW_BYTES: usize = PACED_BYTES / 4;

/// The bounds of a page of the queue.
pub(crate) const PAGE_MAX: PageMax = PageMax { rows: WINDOW_ROWS, bytes: WINDOW_BYTES };

/// See the head of the file. Without any delivery it is a null pointer: a hub holds very many idle
/// devices.
#[derive(Debug, Default)]
pub(crate) struct Deliveries(Option<Box<Index>>);

#[derive(Debug, Default)]
struct Index {
    /// Boxed: a node of the tree has space for eleven, and most devices have one.
    live: BTreeMap<Seq, Box<Live>>,
    ids: BTreeMap<CommandId, Seq>,
    /// Queued, and no `not_before` stands against sending them.
    ready: BTreeSet<Seq>,
    sent: BTreeSet<Seq>,
    cancelling: BTreeSet<Seq>,
    /// Queued, and waiting for the wall clock.
    scheduled: BTreeSet<(Timestamp, Seq)>,
    deadlines: BTreeSet<(Instant, Seq)>,
    waits: BTreeMap<RequestId, Seq>,
    /// Rows that are not in a transaction yet, in the order of their first change.
    dirty: Vec<Seq>,
    /// Deliveries whose cancellation has yet to be sent to the listeners.
    cancels_unsent: Vec<Seq>,
    /// Deliveries that may leave memory once the transaction beside them is on disk.
    unsettled: VecDeque<(TxnId, Seq)>,
    /// Ready deliveries up to this number are all in memory; `None` when all are.
    loaded_to: Option<Seq>,
    /// How many are `queued`, those in the store alone included.
    queued: u64,
    /// The value of `queued` in the latest transaction that contains it. The row is written again when
    /// the two differ.
    queued_stored: u64,
    /// How many take a slot of `max_in_flight`.
    slots: usize,
    /// Lookups under way.
    holds: u32,
}

/// The keys of a delivery in the indexes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct IndexKeys {
    queued: bool,
    ready: bool,
    sent: bool,
    cancelling: bool,
    slot: bool,
    scheduled: Option<Timestamp>,
    deadline: Option<Instant>,
}

/// What can be sent next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// The queue is empty.
    Empty,
    /// The next of the queue is in the store: the page after this number.
    InStore(Seq),
    /// This one.
    Here(Seq),
}

impl IndexKeys {
    fn of(live: &Live) -> Self {
        let state = live.state();
        Self {
            queued: state == DeliveryState::Queued,
            ready: live.record.is_ready(),
            sent: state == DeliveryState::Sent,
            cancelling: state == DeliveryState::Cancelling,
            slot: live.takes_slot(),
            scheduled: live.record.scheduled_at,
            deadline: live.deadline(),
        }
    }
}

impl Deliveries {
    /// What the store knew when the device was loaded.
    pub(crate) fn load(
        &mut self,
        queued: u64,
        active: Vec<DeliveryRecord>,
        page: QueuePage,
        lease: Duration,
    ) {
        if queued == 0 && active.is_empty() && page.rows.is_empty() {
            return;
        }
        let index = self.index();
        (index.queued, index.queued_stored) = (queued, queued);
        index.loaded_to = Some(Seq::ZERO);
        for record in active {
            let mut live = Live::new(record, None);
            // The last change of a row in `sent` was that sending.
            live.lease_until = live.record.updated.after(lease);
            index.insert(live);
        }
        self.add_page(page);
    }

    /// Takes the next page of the queue. What is in memory already is at least as new.
    pub(crate) fn add_page(&mut self, page: QueuePage) {
        let index = self.index();
        let last = page.rows.last().map(|(record, _)| record.head.seq);
        for (record, data) in page.rows {
            match index.live.get_mut(&record.head.seq) {
                None => index.insert(Live::new(record, Some(data))),
                Some(live) if live.state() == DeliveryState::Queued => live.data = Some(data),
                Some(_) => {}
            }
        }
        index.loaded_to = last.or(index.loaded_to).filter(|_| page.more);
    }

    /// Takes a row that was looked up by itself, and not as part of the queue. What is in memory already
    /// is at least as new.
    pub(crate) fn adopt(&mut self, record: DeliveryRecord) -> Seq {
        let (index, seq) = (self.index(), record.head.seq);
        if !index.live.contains_key(&seq) {
            index.insert(Live::new(record, None));
            index.unsettled.push_front((TxnId::default(), seq));
        }
        seq
    }

    /// Adds a new delivery.
    pub(crate) fn add(&mut self, live: Live) {
        let index = self.index();
        index.queued += u64::from(live.state() == DeliveryState::Queued);
        let (seq, dirty) = (live.record.head.seq, live.dirty);
        index.insert(live);
        if dirty {
            index.dirty.push(seq);
        }
    }

    /// Changes a delivery that is in memory; `None` when it is not.
    pub(crate) fn with<R>(&mut self, seq: Seq, change: impl FnOnce(&mut Live) -> R) -> Option<R> {
        let index = self.0.as_deref_mut()?;
        let live = index.live.get_mut(&seq)?;
        let (before, clean, quiet) = (IndexKeys::of(live), !live.dirty, !live.cancel_unsent);
        let result = change(live);
        let after = IndexKeys::of(live);
        if clean && live.dirty {
            index.dirty.push(seq);
        }
        if quiet && live.cancel_unsent {
            index.cancels_unsent.push(seq);
        }
        index.reindex(seq, Some(before), Some(after));
        match (before.queued, after.queued) {
            (true, false) => index.queued = index.queued.saturating_sub(1),
            (false, true) => index.queued += 1,
            _ => {}
        }
        Some(result)
    }

    pub(crate) fn get(&self, seq: Seq) -> Option<&Live> {
        self.0.as_ref()?.live.get(&seq).map(Box::as_ref)
    }

    pub(crate) fn seq_of(&self, command: CommandId) -> Option<Seq> {
        self.0.as_ref()?.ids.get(&command).copied()
    }

    // --- What the scheduler and the listeners look for ---

    /// How many are `queued`, wherever they are.
    pub(crate) fn queued(&self) -> u64 {
        self.0.as_ref().map_or(0, |index| index.queued)
    }

    /// How many are `queued` and in the store alone.
    pub(crate) fn queued_in_store(&self) -> u64 {
        let Some(index) = self.0.as_ref() else { return 0 };
        index.queued.saturating_sub((index.ready.len() + index.scheduled.len()) as u64)
    }

    /// How many take a slot of `max_in_flight`.
    pub(crate) fn slots(&self) -> usize {
        self.0.as_ref().map_or(0, |index| index.slots)
    }

    /// The oldest of the queue.
    pub(crate) fn head(&self) -> Head {
        let Some(index) = self.0.as_ref() else { return Head::Empty };
        match (index.ready.first(), index.loaded_to) {
            (None, None) => Head::Empty,
            (Some(seq), None) => Head::Here(*seq),
            (Some(seq), Some(loaded_to)) if *seq <= loaded_to => Head::Here(*seq),
            (_, Some(loaded_to)) => Head::InStore(loaded_to),
        }
    }

    /// Those that are `sent`: `max_in_flight` at most.
    pub(crate) fn sent(&self) -> Vec<Seq> {
        self.0.as_ref().map(|index| index.sent.iter().copied().collect()).unwrap_or_default()
    }

    /// Those that are `cancelling`.
    pub(crate) fn cancelling(&self) -> Vec<Seq> {
        self.0.as_ref().map(|index| index.cancelling.iter().copied().collect()).unwrap_or_default()
    }

    /// Those in memory that have not ended, at most this many.
    pub(crate) fn not_terminal(&self, max: usize) -> Vec<Seq> {
        let live = self.0.iter().flat_map(|index| &index.live);
        let open = live.filter(|(_, live)| !live.state().is_terminal());
        open.map(|(seq, _)| *seq).take(max).collect()
    }

    /// Deliveries whose cancellation has yet to be sent to the listeners; it counts as sent from now on.
    pub(crate) fn take_cancels_unsent(&mut self) -> Vec<Seq> {
        let Some(index) = self.0.as_mut() else { return Vec::new() };
        let unsent = std::mem::take(&mut index.cancels_unsent);
        for seq in &unsent {
            if let Some(live) = index.live.get_mut(seq) {
                live.cancel_unsent = false;
            }
        }
        unsent
    }

    // --- Time ---

    /// One whose deadline has passed, or whose scheduled time has come.
    pub(crate) fn first_due(&self, instant: Instant, wall: Timestamp) -> Option<Seq> {
        let index = self.0.as_ref()?;
        let due = index.deadlines.first().filter(|(at, _)| *at <= instant).map(|(_, seq)| *seq);
        let scheduled = index.scheduled.first().filter(|(at, _)| *at <= wall);
        due.or(scheduled.map(|(_, seq)| *seq))
    }

    /// When one of those in memory is due next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.0.as_ref()?.deadlines.first().map(|(at, _)| *at)
    }

    /// The time for which the earliest of those in memory is scheduled.
    pub(crate) fn next_scheduled(&self) -> Option<Timestamp> {
        self.0.as_ref()?.scheduled.first().map(|(at, _)| *at)
    }

    // --- Senders that wait ---

    pub(crate) fn wait(&mut self, seq: Seq, request: RequestId, until: Instant) {
        if self.with(seq, |live| live.waits.push((request, until))).is_some() {
            self.index().waits.insert(request, seq);
        }
    }

    /// Ends the waits of a delivery for which `ends` holds.
    pub(crate) fn end_waits(
        &mut self,
        seq: Seq,
        mut ends: impl FnMut(RequestId, Instant) -> bool,
    ) -> Vec<RequestId> {
        let ended = self.with(seq, |live| -> Vec<RequestId> {
            let ended = live.waits.extract_if(.., |(request, until)| ends(*request, *until));
            ended.map(|(request, _)| request).collect()
        });
        let ended = ended.unwrap_or_default();
        if let Some(index) = self.0.as_mut().filter(|_| !ended.is_empty()) {
            for request in &ended {
                index.waits.remove(request);
            }
            index.unsettled.push_front((TxnId::default(), seq));
        }
        ended
    }

    /// The client of a waiting request has disconnected.
    pub(crate) fn abandon_wait(&mut self, request: RequestId) {
        if let Some(seq) = self.0.as_ref().and_then(|index| index.waits.get(&request)).copied() {
            self.end_waits(seq, |waiting, _| waiting == request);
        }
    }

    /// Whether a sender waits for an end.
    pub(crate) fn has_waits(&self) -> bool {
        self.0.as_ref().is_some_and(|index| !index.waits.is_empty())
    }

    /// Deliveries whose end a sender waits for.
    pub(crate) fn waited_for(&self) -> BTreeSet<Seq> {
        self.0.iter().flat_map(|index| index.waits.values()).copied().collect()
    }

    // --- Rows ---

    /// Rows that have changed and are in no transaction yet, in the order of their first change.
    pub(crate) fn take_dirty(&mut self) -> Vec<Seq> {
        self.0.as_mut().map(|index| std::mem::take(&mut index.dirty)).unwrap_or_default()
    }

    /// The row of `seq` is part of a transaction.
    pub(crate) fn put_in(&mut self, seq: Seq, txn: TxnId) {
        if let Some(index) = self.0.as_mut() {
            index.unsettled.push_back((txn, seq));
        }
    }

    /// The length of the queue, if it has changed since the last transaction that contains it.
    pub(crate) fn take_queued_change(&mut self) -> Option<u64> {
        let index = self.0.as_mut()?;
        let changed = index.queued != index.queued_stored;
        index.queued_stored = index.queued;
        changed.then_some(index.queued)
    }

    /// A lookup has begun: nothing leaves memory until [`Deliveries::release`].
    pub(crate) fn hold(&mut self) {
        self.index().holds += 1;
    }

    /// A lookup has been answered.
    pub(crate) fn release(&mut self) {
        if let Some(index) = self.0.as_mut() {
            index.holds = index.holds.saturating_sub(1);
        }
    }

    /// Whether a lookup is under way.
    pub(crate) fn is_held(&self) -> bool {
        self.0.as_ref().is_some_and(|index| index.holds > 0)
    }

    /// Forgets what is on disk and not needed in memory: terminal deliveries, and queued ones
    /// behind the window. Their due times are added to `due`.
    pub(crate) fn settle(&mut self, committed: TxnId, due: &mut DueTimes) {
        let Some(index) = self.0.as_deref_mut().filter(|index| index.holds == 0) else {
            return;
        };
        while let Some((_, seq)) = index.unsettled.pop_front_if(|(txn, _)| *txn <= committed) {
            index.settle_one(seq, committed, due);
        }
        if index.is_trivial() {
            self.0 = None;
        }
    }

    /// Adds the due times of those in memory, before they are forgotten with their device.
    pub(crate) fn add_due(&self, due: &mut DueTimes) {
        for live in self.0.iter().flat_map(|index| index.live.values()) {
            due.add_deadline(live.record.due_at());
            due.add_scheduled(live.record.scheduled_at);
        }
    }

    fn index(&mut self) -> &mut Index {
        self.0.get_or_insert_default()
    }
}

impl Index {
    fn insert(&mut self, live: Live) {
        let (seq, keys) = (live.record.head.seq, IndexKeys::of(&live));
        self.ids.insert(live.record.head.id, seq);
        self.live.insert(seq, Box::new(live));
        self.reindex(seq, None, Some(keys));
    }

    fn remove(&mut self, seq: Seq) {
        if let Some(live) = self.live.remove(&seq) {
            self.ids.remove(&live.record.head.id);
            self.reindex(seq, Some(IndexKeys::of(&live)), None);
        }
    }

    fn reindex(&mut self, seq: Seq, before: Option<IndexKeys>, after: Option<IndexKeys>) {
        fn moved<T: Ord>(set: &mut BTreeSet<T>, before: Option<T>, after: Option<T>) {
            if before == after {
                return;
            }
            if let Some(before) = before {
                set.remove(&before);
            }
            set.extend(after);
        }
        if before == after {
            return;
        }
        let at = |keys: Option<IndexKeys>, is: fn(IndexKeys) -> bool| {
            keys.filter(|k| is(*k)).map(|_| seq)
        };
        moved(&mut self.ready, at(before, |k| k.ready), at(after, |k| k.ready));
        moved(&mut self.sent, at(before, |k| k.sent), at(after, |k| k.sent));
        moved(&mut self.cancelling, at(before, |k| k.cancelling), at(after, |k| k.cancelling));
        let scheduled =
            |keys: Option<IndexKeys>| keys.and_then(|k| k.scheduled).map(|time| (time, seq));
        moved(&mut self.scheduled, scheduled(before), scheduled(after));
        let deadline =
            |keys: Option<IndexKeys>| keys.and_then(|k| k.deadline).map(|time| (time, seq));
        moved(&mut self.deadlines, deadline(before), deadline(after));
        self.slots -= usize::from(before.is_some_and(|k| k.slot));
        self.slots += usize::from(after.is_some_and(|k| k.slot));
    }

    fn settle_one(&mut self, seq: Seq, committed: TxnId, due: &mut DueTimes) {
        if self.ready.len() > WINDOW_ROWS
            && let Some(last) = self.ready.iter().nth(WINDOW_ROWS - 1)
        {
            self.loaded_to = Some(self.loaded_to.map_or(*last, |to| to.min(*last)));
        }
        let Some(live) = self.live.get(&seq) else { return };
        // A newer change of it follows in the list; when the last sender stops waiting, it is added again.
        if live.txn > committed || live.dirty || !live.waits.is_empty() {
            return;
        }
        let behind_window = self.loaded_to.is_some_and(|to| seq > to);
        let queued = live.state() == DeliveryState::Queued;
        if live.state().is_terminal() || (queued && (behind_window || !live.record.is_ready())) {
            due.add_deadline(live.record.due_at());
            due.add_scheduled(live.record.scheduled_at);
            self.remove(seq);
        }
    }

    /// Whether forgetting it would lose nothing.
    fn is_trivial(&self) -> bool {
        self.live.is_empty() && self.queued == 0 && self.queued_stored == 0 && self.holds == 0
    }
}
