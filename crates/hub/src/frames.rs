//! The events of the hub's streams as bytes: `event`, `id`, `retry`, `data`, in this order, LF line
//! ends, data on one line (contract, section 4). Each is encoded once for all its readers.

use bellwire_core::Frame as CoreFrame;
use bellwire_proto::stream::{Bye, ByeReason, CommandEvent};
use bellwire_proto::{AuditEntry, Command, Delivery, DeviceEvent, Seq, limits};
use bellwire_sse::{Encoder, EventId, EventName};
use serde::Serialize;

use crate::plane::Frame;

/// The hub's name and version, as `hello`, `hub` events and `GET /v1/ping` report it.
pub const HUB: &str = concat!("bellwire/", env!("CARGO_PKG_VERSION"));

/// Encodes what the core sends to devices, one after the other. The streams of a command to many get one frame, as long as
/// their attempts are the same.
#[derive(Default)]
pub struct DeviceFrames {
    last: Option<(CommandEvent, Frame)>,
}

impl DeviceFrames {
    /// `command` with its number as the id, or `cancel`.
    pub fn frame(&mut self, frame: CoreFrame) -> Frame {
        match frame {
            CoreFrame::Command(command) => self.command(command),
            CoreFrame::Cancel(cancel) => encode("cancel", None, &cancel),
        }
    }

    fn command(&mut self, command: CommandEvent) -> Frame {
        if let Some((_, frame)) = self.last.as_ref().filter(|(last, _)| *last == command) {
            return frame.clone();
        }
        let frame = encode("command", Some(command.seq), &command);
        self.last = Some((command, frame.clone()));
        frame
    }
}

/// The last event of a stream that the hub ends.
pub fn bye(bye: &Bye) -> Frame {
    encode("bye", None, bye)
}

/// The last event of a stream whose reader is too slow, the same for all of them.
pub fn overloaded() -> Frame {
    bye(&Bye { reason: ByeReason::Overloaded, reconnect_s: limits::BYE_RECONNECT_OVERLOADED_S })
}

/// The first event of a device's stream, or of one by which a network is tried, with `retry: 2000`. Bare bytes, since the prelude goes
/// before it in the same write.
pub fn hello(hello: &impl Serialize) -> Vec<u8> {
    bytes("hello", None, Some(limits::HELLO_RETRY_MS), hello)
}

/// A delivery as it now is, for observers and watchers.
pub fn delivery(delivery: &Delivery) -> Frame {
    encode("delivery", None, delivery)
}

/// A device, and the change of it.
pub fn device(event: &DeviceEvent) -> Frame {
    encode("device", None, event)
}

/// The last event for the watchers of a command: all of its deliveries have ended.
pub fn done(command: &Command) -> Frame {
    encode("done", None, command)
}

/// An entry of the audit log, with its number as the id.
pub fn audit(entry: &AuditEntry) -> Vec<u8> {
    bytes("audit", Some(Seq::new(entry.id)), None, entry)
}

/// The last event of a stream that is no device's.
pub fn bye_alone(reason: ByeReason) -> Vec<u8> {
    let (least, most) = limits::BYE_RECONNECT_S;
    bytes("bye", None, None, &Bye { reason, reconnect_s: f64::midpoint(least, most) })
}

/// The state of the hub itself, to observers.
pub fn hub(draining: bool) -> Frame {
    #[derive(Serialize)]
    struct HubState {
        hub: &'static str,
        state: &'static str,
    }
    let state = if draining { "draining" } else { "ready" };
    encode("hub", None, &HubState { hub: HUB, state })
}

fn encode(name: &'static str, id: Option<Seq>, data: &impl Serialize) -> Frame {
    Frame::new(&bytes(name, id, None, data))
}

#[expect(
    clippy::expect_used,
    reason = "names are literals, and the contract's objects have string keys and no failing parts"
)]
fn bytes(
    name: &'static str,
    id: Option<Seq>,
    retry_ms: Option<u64>,
    data: &impl Serialize,
) -> Vec<u8> {
    let name = EventName::new(name).expect("an event's name has no line end");
    let data = serde_json::to_string(data).expect("the contract's objects are JSON");
    let mut out = Vec::with_capacity(data.len() + 64);
    let mut encoder = Encoder::new(&mut out);
    encoder.event(&name);
    if let Some(id) = id {
        encoder.id(&EventId::from(id.get()));
    }
    if let Some(retry_ms) = retry_ms {
        encoder.retry(retry_ms);
    }
    encoder.data(&data).end();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_proto::stream::{CancelEvent, Hello};
    use bellwire_proto::{Json, Timestamp};

    const ID: &str = "018bcfe5-6807-7000-8000-000000000001";

    fn text(frame: &Frame) -> String {
        let bytes = frame.bytes(crate::plane::Framing::UntilClose);
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn ping(attempt: u32) -> CoreFrame {
        CoreFrame::Command(CommandEvent {
            id: ID.parse().unwrap(),
            seq: Seq::new(1042),
            action: "ping".parse().unwrap(),
            data: Json::parse("[1]").unwrap(),
            attempt,
            created_at: Timestamp::from_unix_ms(0),
            expires_at: Timestamp::from_unix_ms(3_600_000),
            ttl_s: 3600,
            run_timeout_s: 300,
        })
    }

    #[test]
    fn streams_share_a_frame_while_the_attempts_are_the_same() {
        let mut frames = DeviceFrames::default();
        let mut address = |attempt| {
            let frame = frames.frame(ping(attempt));
            frame.bytes(crate::plane::Framing::Chunked).as_ptr()
        };
        let (first, again, other) = (address(1), address(1), address(2));
        assert_eq!(first, again);
        assert_ne!(first, other);
    }

    #[test]
    fn a_command_is_one_event_with_its_number_as_id_and_its_data_as_they_came() {
        let command = CommandEvent {
            id: ID.parse().unwrap(),
            seq: Seq::new(1042),
            action: "ping".parse().unwrap(),
            data: Json::parse("{\"b\": 1.50,\n\"a\": 1e2}").unwrap(),
            attempt: 1,
            created_at: Timestamp::from_unix_ms(0),
            expires_at: Timestamp::from_unix_ms(3_600_000),
            ttl_s: 3600,
            run_timeout_s: 300,
        };
        assert_eq!(
            text(&DeviceFrames::default().frame(CoreFrame::Command(command))),
            format!(
                "event: command\nid: 1042\ndata: {{\"id\":\"{ID}\",\"seq\":1042,\"action\":\"ping\",\
                 \"data\":{{\"b\": 1.50,\"a\": 1e2}},\"attempt\":1,\
                 \"created_at\":\"1970-01-01T00:00:00.000Z\",\
                 \"expires_at\":\"1970-01-01T01:00:00.000Z\",\
                 \"ttl_s\":3600,\"run_timeout_s\":300}}\n\n"
            )
        );
    }

    #[test]
    fn a_cancel_and_a_bye_carry_no_id() {
        let cancel = CancelEvent { id: ID.parse().unwrap(), seq: Seq::new(7) };
        assert_eq!(
            text(&DeviceFrames::default().frame(CoreFrame::Cancel(cancel))),
            format!("event: cancel\ndata: {{\"id\":\"{ID}\",\"seq\":7}}\n\n")
        );
        let last = Bye { reason: ByeReason::Draining, reconnect_s: 4.2 };
        assert_eq!(
            text(&bye(&last)),
            "event: bye\ndata: {\"reason\":\"draining\",\"reconnect_s\":4.2}\n\n"
        );
    }

    #[test]
    fn a_hello_has_the_reconnection_time_before_its_data() {
        let hello = hello(&Hello {
            hub: HUB.to_owned(),
            device: "kiosk-7".parse().unwrap(),
            session: "1".to_owned(),
            nonce: Some("two\nlines".to_owned()),
            heartbeat_s: 15,
            max_in_flight: 1,
            time_ms: 5,
            up_ms: 0,
        });
        let hello = String::from_utf8(hello).unwrap();
        let (head, data) = hello.split_at(hello.find("data").unwrap());
        assert_eq!(head, "event: hello\nretry: 2000\n");
        assert_eq!(data.lines().count(), 2, "data on one line, then the end: {data:?}");
    }
}
