//! A stand-in with the signatures of the store, until the store itself lands.

use std::future::Future;
use std::pin::Pin;

use bellwire_core::record::{Committed, DeviceRecord, Load, Loaded, Txn};
use bellwire_proto::{Action, Command, CommandId, Delivery, DeviceId, Page, Selector, State};

/// A read under way.
pub type Reading<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// What an operation of the store failed of.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the store failed")]
pub struct StoreError;

/// Opaque text that tells where a page begins.
#[derive(Debug, Clone)]
pub struct Cursor(pub String);

/// Which page.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// Items at most.
    pub limit: u32,
    /// Where it begins.
    pub after: Option<Cursor>,
}

/// Commands that have one delivery which fits both `device` and `state`.
#[derive(Debug, Clone, Default)]
pub struct CommandFilter {
    /// For this device.
    pub device: Option<DeviceId>,
    /// In this state.
    pub state: Option<State>,
    /// With this action.
    pub action: Option<Action>,
}

/// Devices whose labels fit.
#[derive(Debug, Clone, Default)]
pub struct DeviceFilter {
    /// Their labels.
    pub select: Option<Selector>,
}

/// A device as it is stored, with what waits for it.
#[derive(Debug, Clone)]
pub struct StoredDevice {
    /// The row.
    pub record: DeviceRecord,
    /// Deliveries in `queued`.
    pub queued: u64,
}

/// Where everything is kept.
pub trait Store: Send + Sync + 'static {
    /// In order, never blocks; the outcome goes to the events.
    fn submit(&self, txn: Txn);
    /// Never blocks; answered by the events.
    fn load(&self, load: Load);
    /// A command.
    fn command(&self, id: CommandId) -> Reading<Option<Command>>;
    /// Newest first.
    fn commands(&self, filter: CommandFilter, page: PageRequest) -> Reading<Page<Command>>;
    /// By device name; `None`: no such command.
    fn deliveries(
        &self,
        id: CommandId,
        state: Option<State>,
        page: PageRequest,
    ) -> Reading<Option<Page<Delivery>>>;
    /// A command and its deliveries with their versions.
    fn snapshot(&self, id: CommandId) -> Reading<Option<(Command, Vec<(Delivery, u64)>)>>;
    /// A device.
    fn device(&self, id: DeviceId) -> Reading<Option<StoredDevice>>;
    /// By name.
    fn devices(&self, filter: DeviceFilter, page: PageRequest) -> Reading<Page<StoredDevice>>;
    /// The first error poisons the store for good.
    fn health(&self) -> Result<(), StoreError>;
    /// Commits what was submitted.
    fn close(&self);
}

/// Who hears of the store.
pub trait StoreEvents: Send + Sync + 'static {
    /// On disk.
    fn committed(&self, committed: Vec<Committed>);
    /// Read.
    fn loaded(&self, loaded: Vec<Loaded>);
    /// Nothing more will be.
    fn failed(&self, error: StoreError);
}
