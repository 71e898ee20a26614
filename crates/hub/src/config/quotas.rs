//! How much one address, one token and all together may ask for.

use bellwire_proto::limits;

/// The quotas of a hub; 0 is no limit. `docs/config.md` says how to size them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quotas {
    /// Requests per second of one address. Default 5,000.
    pub requests_per_address: u64,
    /// Requests per second with the token of one device. Default 100.
    pub requests_per_device: u64,
    /// Requests per second with one token of another role. Default 0.
    pub requests_per_token: u64,
    /// Requests per second in all. Default 0.
    pub requests_max: u64,
    /// Connections of one address. Default 20,000.
    pub connections_per_address: u64,
    /// Streams of observers and watchers with one token. Default 100.
    pub watchers_per_token: u64,
    /// Streams of devices with one token. Default 20,000.
    pub streams_per_token: u64,
    /// Bytes that all streams together may have unsent. Default 512 MiB.
    pub unsent_bytes_max: u64,
    /// Bytes that the store may hold, about. Default 0.
    pub store_bytes_max: u64,
    /// Bytes that the commands of one token may take in the store, about. Default 0.
    pub store_bytes_per_token: u64,
    /// Bytes that a send leaves free on the store's disk. Default 64 MiB.
    pub store_free_min: u64,
    /// Bytes of bodies that are being received from one address. Default 64 MiB.
    pub body_bytes_per_address: u64,
    /// Bytes of bodies that are being received with one token. Default 64 MiB.
    pub body_bytes_per_token: u64,
    /// Bytes of bodies that are being received in all. Default 256 MiB.
    pub body_bytes_max: u64,
    /// Whether loopback addresses are limited as others are. Default false.
    pub limit_loopback: bool,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            requests_per_address: limits::REQUESTS_PER_ADDRESS.default,
            requests_per_device: limits::REQUESTS_PER_DEVICE.default,
            requests_per_token: limits::REQUESTS.default,
            requests_max: limits::REQUESTS.default,
            connections_per_address: limits::CONNECTIONS_PER_ADDRESS.default,
            watchers_per_token: limits::WATCHERS_PER_TOKEN.default,
            streams_per_token: limits::STREAMS_PER_TOKEN.default,
            unsent_bytes_max: limits::UNSENT_BYTES_IN_ALL.default,
            store_bytes_max: limits::STORE_BYTES.default,
            store_bytes_per_token: limits::STORE_BYTES_PER_TOKEN.default,
            store_free_min: limits::STORE_FREE.default,
            body_bytes_per_address: limits::BODY_BYTES.default,
            body_bytes_per_token: limits::BODY_BYTES.default,
            body_bytes_max: limits::BODY_BYTES_IN_ALL.default,
            limit_loopback: false,
        }
    }
}
