//! The Bellwire hub: durable commands to appliances over plain HTTP, as a library or a server.
//!
//! A whole server is [`app::Bound`]; a hub to be mounted in an axum server of your own is
//! [`app::Hub`], whose page shows how. What both are set by is [`config::Config`].
//!
//! ```text
//! bytes -> listen -> http -> driver -> core -> store -> driver -> frames -> plane -> socket
//!                                        \-> feed (observers, watchers) -/
//! ```
//!
//! - [`listen`] accepts connections and lets them be taken over; it knows no route.
//! - [`http`] is the API: requests in, problems out. It decides nothing about deliveries.
//! - [`driver`] is where the decisions of `bellwire-core` meet tokio, the store and the plane.
//! - [`store`] puts on disk what was promised: SQLite, and the trait that another backend would have.
//! - [`plane`] holds the streams and writes to them.
//! - [`config`], [`tls`] and [`app`]: from settings to a hub that runs, and to its end.

pub mod app;
pub mod config;
pub mod driver;
mod feed;
pub mod frames;
pub mod http;
pub mod listen;
pub mod plane;
pub mod store;
pub mod tls;
