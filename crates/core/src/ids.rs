//! Names of what the driver holds: requests and streams.

/// A request that waits for its one [`Output::Reply`](crate::Output::Reply). Given by the driver, never used twice.
/// Those whose two highest bits are `10` are the core's own (`schedule.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A stream. Given by the driver, never used twice: a late event of an old stream can never hit a
/// newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);
