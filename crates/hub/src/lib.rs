//! The Bellwire hub: durable commands to appliances over plain HTTP, as a library or a server.

pub mod app;
pub mod config;
pub mod driver;
mod feed;
pub mod http;
pub mod listen;
pub mod plane;
pub mod store;
pub mod tls;
