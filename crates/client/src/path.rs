//! The way from this machine to its hub: which proxies lead there, and when the network is another than before.

#[cfg(feature = "pac")]
pub mod pac;
#[cfg(feature = "agent")]
pub mod wake;
