//! The embedded store: one SQLite file, one thread that writes, a few that read.
//!
//! Here are opening and closing, and the way from the trait to the threads; beside it the file
//! (`schema`), the rows (`rows`), the writer (`writer`, `purge`, `checkpoint`), the start
//! (`recover`) and the reads (`readers`, `loads`, `lists`).
//!
//! What is promised rests on WAL mode with `synchronous=FULL`: each COMMIT returns after an fsync
//! of the log.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bellwire_core::record::{Load, ScheduleRecord, TargetPage, TokenRecord, Txn};
use bellwire_core::{Recovered, TargetQuery};
use bellwire_proto::device::LabelCounts;
use bellwire_proto::limits::{STORE_READS_WAITING_MAX, TOKEN_READS_WAITING_MAX};
use bellwire_proto::{
    AuditEntry, Command, CommandId, CommandIdPrefix, Delivery, DeliveryState, DeviceId, Page,
    ScheduleId, TokenId,
};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::queue::{PutError, Queue};
use super::{
    AuditFilter, BadCursor, CommandFilter, CommitTimes, Cursor, DeviceFilter, DevicePage,
    DevicePosition, PageRequest, ReadFuture, Snapshot, Store, StoreError, StoreEvents,
    StoredDevice, StoredToken, StoredWait, Visible,
};
use crate::clock::Clock;
pub use check::{check as check_folder, has_admin_token};
use in_use::FilesInUse;
pub use options::{OpenError, Options};
use readers::{Job, PointRead};
use schema::StoreFile;
use seal::Seal;
use space::{Space, SpaceWatch};
use threads::Threads;
use usage::Usage;

mod anchor;
mod attributes;
mod audit;
mod check;
mod checkpoint;
mod folder;
mod found;
mod in_use;
mod label_counts;
mod lists;
mod loads;
mod options;
mod purge;
mod readers;
mod recover;
mod rollouts;
mod rows;
mod schedules;
mod schema;
mod seal;
mod select;
mod space;
mod threads;
mod tokens;
mod usage;
mod waits;
mod writer;

/// The name of the thread that writes.
const WRITER: &str = "store-write";
/// Threads that answer the API's reads. Two, so that one long list does not hold up the rest.
const READERS: usize = 2;
/// How long [`Store::close`] waits for the threads.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// The store on one SQLite file.
///
/// ```
/// use bellwire_hub::store::{CommandFilter, Options, PageRequest, SqliteStore, Store};
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # struct Ignore;
/// # impl bellwire_hub::store::StoreEvents for Ignore {
/// #     fn committed(&self, _: Vec<bellwire_core::record::Committed>) {}
/// #     fn loaded(&self, _: Vec<bellwire_core::record::Loaded>) {}
/// #     fn failed(&self, _: bellwire_hub::store::StoreError) {}
/// # }
/// # let (folder, events) = (tempfile::tempdir()?, std::sync::Arc::new(Ignore));
/// let (store, recovered) = SqliteStore::open(folder.path(), Options::default())?;
/// assert_eq!(recovered, bellwire_core::Recovered::default(), "a new folder");
/// store.start(events)?;
/// let first = PageRequest { limit: 100, after: None };
/// assert!(store.commands(CommandFilter::default(), first).await?.items.is_empty());
/// store.close();
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SqliteStore {
    shared: Arc<Shared>,
    /// The writer's connection until it is started.
    writer: Mutex<Option<Connection>>,
    threads: Mutex<Threads>,
    closed: AtomicBool,
    /// Held as long as the store exists; the system releases it when the process dies, however it
    /// dies.
    _lock: File,
}

/// What the threads and the handle share.
struct Shared {
    file: StoreFile,
    in_use: FilesInUse,
    seal: Arc<Seal>,
    space: Space,
    usage: Usage,
    bytes_max: u64,
    free_min: u64,
    history_retention: Duration,
    audit_keep: Duration,
    audit_bytes_max: u64,
    clock: Clock,
    txns: Queue<Txn>,
    loads: Queue<PointRead>,
    jobs: Queue<Job>,
    /// Reads and loads that were asked for.
    #[cfg(test)]
    reads: std::sync::atomic::AtomicU64,
    /// Wakes the thread that moves the log into the database; nothing is ever in it.
    checkpoints: Queue<()>,
    commits: CommitTimes,
    /// The error that ended the writing.
    failed: OnceLock<StoreError>,
    /// An error that a reader met and the writer has not reported yet.
    suspected: OnceLock<StoreError>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("file", &self.file)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the store in a folder, which is made if it is not there, and recovers it. Nothing is
    /// read or written for others until [`SqliteStore::start`].
    ///
    /// # Errors
    /// When the folder is in use, the file is of a newer program or no file of ours, or the disk fails.
    pub fn open(data_dir: &Path, options: Options) -> Result<(Self, Recovered), OpenError> {
        let lock = folder::lock(data_dir)?;
        let file = options.file(data_dir);
        let path = file.path.clone();
        folder::create_private(&path)?;
        let sqlite = |source| OpenError::sqlite(&path, source);
        let mut writer = file.writer().map_err(sqlite)?;
        schema::migrate(&mut writer, &path)?;
        let anchor = anchor::read(&writer).map_err(sqlite)?;
        let resumed = || anchor.map_or_else(Clock::start, Clock::resume);
        let clock = options.clock.unwrap_or_else(resumed);
        let recovered = recover::recover(&mut writer, clock.now()).map_err(sqlite)?;
        let seal = Seal::of(&writer).map_err(sqlite)?;
        let usage = match options.counts_senders {
            true => Usage::read(&writer).map_err(sqlite)?,
            false => Usage::default(),
        };
        let in_use = FilesInUse::of(&path);
        let shared = Shared {
            file,
            in_use,
            seal: Arc::new(seal),
            space: Space::default(),
            usage,
            bytes_max: options.bytes_max,
            free_min: options.free_min,
            history_retention: options.history_retention,
            audit_keep: options.audit_keep,
            audit_bytes_max: options.audit_bytes_max,
            clock,
            txns: Queue::default(),
            loads: Queue::default(),
            jobs: Queue::default(),
            #[cfg(test)]
            reads: Default::default(),
            checkpoints: Queue::default(),
            commits: CommitTimes::default(),
            failed: OnceLock::new(),
            suspected: OnceLock::new(),
        };
        let store = Self {
            shared: Arc::new(shared),
            writer: Mutex::new(Some(writer)),
            threads: Mutex::default(),
            closed: AtomicBool::new(false),
            _lock: lock,
        };
        Ok((store, recovered))
    }

    /// The hub's clocks: they go on from where the last run of the hub stopped.
    pub fn clock(&self) -> Clock {
        self.shared.clock.clone()
    }

    /// Starts the threads; from now on outcomes are reported to `events`. What was submitted before is
    /// taken first. Calling it again does nothing.
    ///
    /// # Errors
    /// When a connection or a thread cannot be made.
    pub fn start(&self, events: Arc<dyn StoreEvents>) -> Result<(), OpenError> {
        let file = &self.shared.file;
        let sqlite = |source| OpenError::sqlite(&file.path, source);
        let Some(connection) = lock(&self.writer).take() else { return Ok(()) };
        let mut threads = lock(&self.threads);
        let spawn = |name, run: threads::Run| threads::spawn(name, &self.shared, &events, run);
        for _ in 0..READERS {
            let jobs = file.reader().map_err(sqlite)?;
            let run = Box::new(move |shared: &_, _: &_| readers::run_jobs(shared, &jobs));
            threads.readers.push(spawn("store-read", run)?);
        }
        let loads = file.reader().map_err(sqlite)?;
        let run =
            Box::new(move |shared: &_, events: &_| readers::run_loads(shared, &loads, events));
        threads.readers.push(spawn("store-load", run)?);
        let mover = file.mover().map_err(sqlite)?;
        let run = Box::new(move |shared: &_, _: &_| checkpoint::run(shared, &mover));
        threads.readers.push(spawn("store-move", run)?);
        let run = Box::new(move |shared: &_, events: &_| writer::run(shared, connection, events));
        threads.writer = Some(spawn(WRITER, run)?);
        Ok(())
    }

    /// Where a page by device name begins, and what seals the cursor to the next.
    fn after_device(
        &self,
        page: &PageRequest,
    ) -> Result<(Option<DeviceId>, Arc<Seal>), StoreError> {
        let seal = &self.shared.seal;
        let after = page.after.clone().map(|cursor| seal.open(cursor)).transpose()?;
        let device = after.map(|cursor| cursor.device().cloned()).transpose()?;
        Ok((device, seal.clone()))
    }

    /// How many reads and loads were asked for.
    #[cfg(test)]
    pub(crate) fn reads(&self) -> u64 {
        self.shared.reads.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Has a reader run `read`. It is in the queue when this returns.
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> ReadFuture<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |shared, connection| {
            // The caller may have dropped the reading meanwhile.
            if !answer.is_closed() {
                let read = readers::at_one_moment(connection, || read(connection));
                let _gone = answer.send(read.map_err(|e| readers::unreadable(shared, e)));
            }
        });
        #[cfg(test)]
        self.shared.reads.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        let put = self.shared.jobs.put(job, STORE_READS_WAITING_MAX);
        Box::pin(answer_of(put, answered))
    }
}

/// The answer to a read that was put into a queue, or not.
async fn answer_of<T>(
    put: Result<(), PutError>,
    answered: oneshot::Receiver<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match put {
        Ok(()) => answered.await.unwrap_or(Err(StoreError::Closed)),
        Err(PutError::Full) => Err(StoreError::Busy),
        Err(PutError::Closed) => Err(StoreError::Closed),
    }
}

impl Store for SqliteStore {
    fn submit(&self, txn: Txn) {
        // Refused once the store has failed or is closed, and then dropped, as documented at the trait.
        let _dropped = self.shared.txns.put(txn, usize::MAX);
    }

    fn load(&self, load: Load) {
        #[cfg(test)]
        self.shared.reads.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        let _dropped = self.shared.loads.put(PointRead::Load(load), usize::MAX);
    }

    fn command(&self, id: CommandId, visible: Visible) -> ReadFuture<Option<Command>> {
        self.read(move |connection| lists::command(connection, id, &visible))
    }

    fn run_timeout(&self, id: CommandId) -> ReadFuture<Option<Duration>> {
        self.read(move |connection| lists::run_timeout(connection, id))
    }

    fn commands(&self, filter: CommandFilter, page: PageRequest) -> ReadFuture<Page<Command>> {
        match page.after.map(|cursor| cursor.seq()).transpose() {
            Ok(after) => {
                self.read(move |connection| lists::commands(connection, &filter, page.limit, after))
            }
            Err(bad) => Box::pin(std::future::ready(Err(bad.into()))),
        }
    }

    fn commands_by_id(
        &self,
        prefix: CommandIdPrefix,
        limit: u32,
        visible: Visible,
    ) -> ReadFuture<Vec<Command>> {
        self.read(move |connection| lists::commands_by_id(connection, &prefix, limit, &visible))
    }

    fn waits(
        &self,
        id: CommandId,
        page: PageRequest,
        visible: Visible,
    ) -> ReadFuture<Option<Page<StoredWait>>> {
        match self.after_device(&page) {
            Ok((after, seal)) => self.read(move |connection| {
                waits::waits(connection, id, page.limit, after.as_ref(), &visible, &seal)
            }),
            Err(bad) => Box::pin(std::future::ready(Err(bad))),
        }
    }

    fn deliveries(
        &self,
        id: CommandId,
        state: Option<DeliveryState>,
        page: PageRequest,
        visible: Visible,
    ) -> ReadFuture<Option<Page<Delivery>>> {
        match self.after_device(&page) {
            Ok((after, seal)) => self.read(move |connection| {
                let after = after.as_ref();
                lists::deliveries(connection, id, state, page.limit, after, &visible, &seal)
            }),
            Err(bad) => Box::pin(std::future::ready(Err(bad))),
        }
    }

    fn snapshot(
        &self,
        id: CommandId,
        after: Option<DeviceId>,
        visible: Visible,
    ) -> ReadFuture<Option<Snapshot>> {
        self.read(move |connection| lists::snapshot(connection, id, after.as_ref(), &visible))
    }

    fn device(&self, id: DeviceId) -> ReadFuture<Option<StoredDevice>> {
        self.read(move |connection| lists::device(connection, &id))
    }

    fn devices_named(&self, ids: Vec<DeviceId>) -> ReadFuture<Vec<Option<StoredDevice>>> {
        self.read(move |connection| lists::devices_named(connection, &ids))
    }

    fn devices(
        &self,
        filter: DeviceFilter,
        after: Option<DevicePosition>,
        limit: u32,
        rows_max: u32,
    ) -> ReadFuture<DevicePage> {
        self.read(move |connection| {
            lists::devices(connection, &filter, after.as_ref(), limit, rows_max)
        })
    }

    fn devices_fitting(
        &self,
        filter: DeviceFilter,
        devices: Vec<DeviceId>,
    ) -> ReadFuture<Vec<DeviceId>> {
        self.read(move |connection| select::fitting(connection, &filter, devices))
    }

    fn labels(&self, page: PageRequest, visible: Visible) -> ReadFuture<Page<LabelCounts>> {
        match page.after.map(|cursor| cursor.key().map(str::to_owned)).transpose() {
            Ok(after) => self.read(move |connection| {
                label_counts::page(connection, page.limit, after.as_deref(), visible)
            }),
            Err(bad) => Box::pin(std::future::ready(Err(bad.into()))),
        }
    }

    fn found(
        &self,
        query: TargetQuery,
        after: Option<DeviceId>,
        rows_max: usize,
    ) -> ReadFuture<TargetPage> {
        self.read(move |connection| found::found(connection, &query, after.as_ref(), rows_max))
    }

    /// By the thread of the core's loads, which answers together what gathers: a fleet that connects has its tokens looked
    /// up, and then its devices.
    fn token(&self, id: TokenId) -> ReadFuture<Option<StoredToken>> {
        let (answer, answered) = oneshot::channel();
        #[cfg(test)]
        self.shared.reads.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        let put = self.shared.loads.put(PointRead::Token(id, answer), TOKEN_READS_WAITING_MAX);
        Box::pin(answer_of(put, answered))
    }

    fn tokens(&self, page: PageRequest) -> ReadFuture<Page<TokenRecord>> {
        match page.after.map(|cursor| cursor.token()).transpose() {
            Ok(after) => self.read(move |connection| tokens::page(connection, page.limit, after)),
            Err(bad) => Box::pin(std::future::ready(Err(bad.into()))),
        }
    }

    fn schedule(&self, id: ScheduleId) -> ReadFuture<Option<ScheduleRecord>> {
        self.read(move |connection| schedules::by_id(connection, id))
    }

    fn schedule_named(&self, name: String) -> ReadFuture<Option<ScheduleRecord>> {
        self.read(move |connection| schedules::by_name(connection, &name))
    }

    fn schedules(
        &self,
        of: Option<TokenId>,
        page: PageRequest,
    ) -> ReadFuture<Page<ScheduleRecord>> {
        match page.after.map(|cursor| cursor.schedule()).transpose() {
            Ok(after) => {
                self.read(move |connection| schedules::page(connection, of, page.limit, after))
            }
            Err(bad) => Box::pin(std::future::ready(Err(bad.into()))),
        }
    }

    fn audit(&self, filter: AuditFilter, page: PageRequest) -> ReadFuture<Page<AuditEntry>> {
        match page.after.map(|cursor| cursor.audit()).transpose() {
            Ok(after) => {
                self.read(move |connection| audit::page(connection, &filter, page.limit, after))
            }
            Err(bad) => Box::pin(std::future::ready(Err(bad.into()))),
        }
    }

    fn audit_after(
        &self,
        filter: AuditFilter,
        after: Option<u64>,
        limit: u32,
    ) -> ReadFuture<(Vec<AuditEntry>, u64)> {
        self.read(move |connection| match after {
            Some(after) => audit::following(connection, &filter, after, limit),
            None => Ok((Vec::new(), audit::last(connection)?)),
        })
    }

    fn commit_times(&self) -> Option<&CommitTimes> {
        Some(&self.shared.commits)
    }

    fn health(&self) -> Result<(), StoreError> {
        if let Some(error) = self.shared.failed.get() {
            return Err(error.clone());
        }
        // The last connection to close removes the log.
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let in_use = self.shared.in_use.check().map_err(StoreError::from);
        in_use.inspect_err(|error| self.shared.suspect(error.clone()))
    }

    fn full(&self) -> Option<&'static str> {
        self.shared.space.full()
    }

    fn bytes_of_sender(&self, created_by: &str) -> u64 {
        self.shared.usage.of(created_by)
    }

    fn seal_cursor(&self, cursor: &Cursor) -> Option<Cursor> {
        self.shared.seal.seal(cursor)
    }

    fn open_cursor(&self, cursor: Cursor) -> Result<Cursor, BadCursor> {
        self.shared.seal.open(cursor)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let until = Instant::now() + CLOSE_WITHIN;
        let threads = std::mem::take(&mut *lock(&self.threads));
        // The readers first: what they report may still lead to a transaction, and the last
        // connection to close tidies the files, which only the writer's can.
        self.shared.jobs.close();
        self.shared.loads.close();
        self.shared.checkpoints.close();
        threads.readers.into_iter().for_each(|running| running.join(until));
        self.shared.txns.close();
        threads.writer.into_iter().for_each(|running| running.join(until));
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.close();
    }
}

/// What failed a store in which a thread panicked. The panic itself is printed by its thread.
#[derive(Debug, thiserror::Error)]
#[error("the thread {thread} panicked")]
struct Panicked {
    thread: &'static str,
}

impl Shared {
    /// The store failed: no more is written, and that is reported, once. For the writer alone, so
    /// that whatever it has committed is reported before.
    fn fail(&self, error: &StoreError, events: &dyn StoreEvents) {
        if self.failed.set(error.clone()).is_ok() {
            drop(self.txns.close_and_clear());
            events.failed(error.clone());
        }
    }

    fn space_watch<'c>(&self, connection: &'c Connection) -> rusqlite::Result<SpaceWatch<'c>> {
        let path = &self.file.path;
        let folder = path.parent().unwrap_or(path).to_owned();
        SpaceWatch::new(connection, folder, self.bytes_max, self.free_min)
    }

    /// A reader met an error that ends the store. The writer reports it, see [`Shared::fail`].
    fn suspect(&self, error: StoreError) {
        let _first = self.suspected.set(error);
        self.txns.wake();
    }

    /// A thread panicked, which is a fault of the program: the store has failed, and its reads,
    /// which might wait for that thread, are refused too.
    fn panicked(&self, thread: &'static str, events: &dyn StoreEvents) {
        tracing::error!(thread, "a thread of the store panicked");
        let error = StoreError::Failed(Arc::new(Panicked { thread }));
        drop(self.jobs.close_and_clear());
        drop(self.loads.close_and_clear());
        self.checkpoints.close();
        if thread == WRITER {
            self.fail(&error, events);
        } else {
            self.suspect(error);
        }
    }

    fn suspicion(&self) -> Option<StoreError> {
        self.suspected.get().cloned()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
