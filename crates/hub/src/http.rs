//! The API of the hub.

pub mod classic;
