//! An EventSource client for any stream, and the typed API of a Bellwire hub.
//!
//! Reading a stream of events from any server. It reconnects by itself; only a final loss is an error:
//!
//! ```no_run
//! use bellwire_client::EventSource;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut source = EventSource::get("https://stream.wikimedia.org/v2/stream/recentchange")?;
//! while let Some(event) = source.next_event().await? {
//!     println!("{}: {}", event.name(), event.data());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Sending a command through a hub, and waiting for its result:
//!
//! ```no_run
//! use bellwire_client::{Controller, SendOptions};
//! use bellwire_proto::{Seconds, DeliveryState};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let hub = Controller::new("http://127.0.0.1:8888")?;
//! let options = SendOptions::default().wait(Seconds::new(30));
//! let delivery = hub.send(&"kiosk-7".parse()?, &"reboot".parse()?, &options).await?;
//! assert_eq!(delivery.state, DeliveryState::Succeeded);
//! # Ok(())
//! # }
//! ```
//!
//! - [`EventSource`]: the client side of Server-Sent Events, by the letter of the standard.
//! - [`Controller`]: the hub's API, for senders and for devices.
//! - [`agent`]: the agent of an appliance: runs each command once, and only what its allow-list names.
//! - [`path`]: which way carries a device's commands, stream or long poll.
//! - [`transport`]: how all of them send requests.

mod address;
#[cfg(feature = "agent")]
pub mod agent;
pub mod api;
pub mod event_source;
pub mod path;
mod retry_after;
pub mod transport;

pub use address::{Address, InvalidUrl};
pub use api::{Controller, DeviceQuery, Error, SendOptions};
pub use event_source::EventSource;
