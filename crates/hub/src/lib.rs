//! The Bellwire hub: durable commands to appliances over plain HTTP, as a library or a server.

pub mod http;
pub mod listen;
pub mod plane;
