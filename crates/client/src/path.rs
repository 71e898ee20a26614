//! The way from this machine to its hub: which proxies lead there, and when the network is another than before.

#[cfg(feature = "agent")]
pub mod wake;
