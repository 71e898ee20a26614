//! Every decision of the Bellwire hub, sans-IO: no clock, socket, disk or entropy.
//!
//! A [`Hub`] is told what happened by `handle_*`, with the time handed in, and says what is to be
//! done by [`Hub::poll_output`]; [`Hub::poll_timeout`] tells when it wants to hear of the time
//! again. Whoever drives it (in the hub crate, `driver.rs`; in the tests, a simulated world) must
//! carry the outputs out in their order.
//!
//! An answer that promises something is withheld until the transaction that it rests on is
//! committed. In memory are the devices that listen or are being worked on; all others are in the
//! store alone and are loaded when something concerns them.
//!
//! ```
//! use bellwire_core::{Config, Hub, Output, RequestId, Send};
//! use bellwire_proto::{Json, Timestamp};
//!
//! let now = Timestamp::from_unix_ms(1_700_000_000_000);
//! let mut hub = Hub::new(Config::default(), bellwire_core::Recovered::default(), 1);
//! let send = Send::new("kiosk-7".parse()?, "ping".parse()?, Json::null());
//! hub.handle_send(RequestId(1), send, [7; 10], now);
//! // The hub first wants to know the device; the answer comes once the command is on disk.
//! assert!(matches!(hub.poll_output(), Some(Output::Load(_))));
//! # Ok::<(), bellwire_proto::InvalidName>(())
//! ```

mod config;
mod delivery;
mod device;
mod hub;
mod io;
mod op;
mod queue;
pub mod record;
mod sender;
mod session;
mod work;

pub use config::{Config, Recovered};
pub use hub::Hub;
pub use io::{
    Answer, Footprint, Frame, HubEvent, Listen, Output, Peer, Poll, Presence, RequestId, Send,
    SessionId, Wanted,
};
