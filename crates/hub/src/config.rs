//! The hub's settings, parsed once into validated types. Layers: a TOML file, then `BELLWIRE_*`
//! variables, then flags.
//!
//! Every fault is reported, each with its key; unknown keys are refused. Reading the file, the
//! environment and the flags is the program's business: here come texts in.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What an operator can set, checked.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Where the hub listens; port 0 lets the kernel choose. Default `127.0.0.1:8888`.
    pub listen: Vec<SocketAddr>,
    /// Where everything is kept. Default `bellwire-data` in the working directory.
    pub data_dir: PathBuf,
    /// Whether a hub without credentials may listen beyond loopback. Default false.
    pub open: bool,
    /// How long a command waits for `accepted` after it was sent. Default 30 s.
    pub lease: Duration,
    /// Deliveries of one device in `queued`; one more is refused. Default 100.
    pub queue_max: usize,
    /// Deliveries of one device past `queued` and not ended. Default 1.
    pub max_in_flight: usize,
    /// Bytes of a command's data. Default 64 KiB, at most 1 MiB.
    pub data_bytes_max: usize,
    /// How long commands are kept after they have ended. Default 30 days.
    pub history: Duration,
    /// Time between heartbeats for those who ask for none. Default 15 s.
    pub heartbeat: Duration,
    /// Connections at once; one more is closed. Default 100,000.
    pub connections_max: usize,
    /// Within which the head of a request must arrive. Default 10 s.
    pub header_timeout: Duration,
    /// Within which the body of a request must arrive. Default 30 s.
    pub body_timeout: Duration,
    /// Threads that hold streams; 0 is one per core. Default 0.
    pub shards: usize,
    /// Certificate and key (PEM files); without them the hub speaks plain HTTP.
    pub tls: Option<TlsFiles>,
}

/// Where the certificate chain and its key lie (PEM).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        use bellwire_proto::limits;
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8888))],
            data_dir: PathBuf::from("bellwire-data"),
            open: false,
            lease: limits::LEASE,
            queue_max: limits::QUEUE_MAX,
            max_in_flight: limits::MAX_IN_FLIGHT,
            data_bytes_max: limits::DATA_BYTES_MAX,
            history: Duration::from_secs(30 * 86_400),
            heartbeat: Duration::from_secs(limits::HEARTBEAT_S.default),
            connections_max: 100_000,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            shards: 0,
            tls: None,
        }
    }
}
