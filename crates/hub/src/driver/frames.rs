//! The events of a stream as bytes: `event`, `id`, `retry`, `data`, in this order, LF line ends,
//! data on one line (contract, section 4). Encoded once, whoever gets them.

#![expect(
    clippy::todo,
    unused_variables,
    reason = "the outline of the interface; the bodies follow"
)]

use bellwire_core::Frame as CoreFrame;
use bellwire_proto::stream::{Bye, Hello};

use crate::plane::Frame;

/// What the core sends: `command` with its number as the id, or `cancel`.
pub fn frame(frame: &CoreFrame) -> Frame {
    todo!()
}

/// The last event of a stream that the hub ends.
pub fn bye(bye: &Bye) -> Frame {
    todo!()
}

/// The first event of a device's stream, with `retry: 2000`. As bytes, since the head of the
/// response and the prelude go before it in the same write.
pub fn hello(hello: &Hello) -> Vec<u8> {
    todo!()
}
