//! The Bellwire hub: durable commands to appliances over plain HTTP, as a library or a server.
//!
//! A whole server is [`app::Bound`]; a hub to be mounted in an axum server of your own is
//! [`app::Hub`], whose page shows how. The settings of both are [`config::Config`]. "The contract"
//! is `docs/protocol.md`.
//!
//! ```text
//! bytes -> listen -> http -> driver -> core -> store -> driver -> frames -> plane -> socket
//!                                        \-> feed (observers, watchers) -/
//! ```
//!
//! - [`listen`] accepts connections and lets them be taken over; it knows no route.
//! - [`http`] is the API: requests in, problems out. It decides nothing about deliveries.
//! - `auth` finds who is calling.
//! - [`calendar`] computes when a schedule is due.
//! - [`driver`] connects `bellwire-core`, which decides, with tokio, the store and the plane.
//! - [`store`] persists what was promised: SQLite, and the trait of another backend.
//! - [`plane`] holds the streams and writes to them.
//! - [`config`], [`tls`] and [`app`]: settings, certificates, and the hub from its start to its
//!   end.

pub mod app;
mod audit;
mod auth;
pub mod calendar;
mod clock;
pub mod config;
pub mod driver;
mod feed;
pub mod frames;
pub mod http;
mod internal;
pub mod jwt;
pub mod listen;
mod metrics;
pub mod plane;
mod quota;
pub mod store;
pub mod tls;

pub use clock::{Anchor, Clock};
