//! The events of a device's stream.

use std::time::Duration;

use bellwire_proto::DeviceId;
use bellwire_proto::stream::{Bye, CancelEvent, CommandEvent, Hello};
use serde::de::DeserializeOwned;

use crate::event_source::Event;

/// An event that a device knows.
pub(super) enum DeviceEvent {
    Hello(Hello),
    Command(CommandEvent),
    Cancel(CancelEvent),
    /// A later hub may have other reasons; the pause is valid whatever they are.
    Bye {
        bye: Option<Bye>,
        pause: Option<Duration>,
    },
    /// One of a later version, to be skipped.
    Unknown,
}

/// A `bye` of any version.
#[derive(serde::Deserialize)]
struct AnyBye {
    reconnect_s: Option<f64>,
}

impl DeviceEvent {
    /// Parses an event. The error is a reason to reject the stream.
    pub(super) fn read(event: &Event) -> Result<Self, String> {
        Ok(match event.name() {
            "hello" => Self::Hello(parse(event)?),
            "command" => Self::Command(parse(event)?),
            "cancel" => Self::Cancel(parse(event)?),
            "bye" => {
                let AnyBye { reconnect_s } = parse(event)?;
                let pause = reconnect_s.and_then(|s| Duration::try_from_secs_f64(s).ok());
                Self::Bye { bye: parse(event).ok(), pause }
            }
            _ => Self::Unknown,
        })
    }
}

/// Whether a hello is for this request and device. The error is a reason to reject what it came with.
pub(super) fn check_hello(hello: &Hello, nonce: &str, device: &DeviceId) -> Result<(), String> {
    if hello.nonce.as_deref() != Some(nonce) {
        return Err("the hello belongs to another request, as from a cache".to_owned());
    }
    if hello.device != *device {
        return Err("the hello is for another device".to_owned());
    }
    Ok(())
}

fn parse<T: DeserializeOwned>(event: &Event) -> Result<T, String> {
    serde_json::from_str(event.data())
        .map_err(|error| format!("its {} event cannot be parsed: {error}", event.name()))
}
