//! The last event id: which values an `id` line can set, and which a reconnect can send.
//!
//! `decode.rs` commits an id when its block ends.

use crate::text::push_lossy;
use alloc::string::String;

/// The last event id of a stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastId {
    current: String,
    /// Set while `current` is not a valid header value: the last id before it that is.
    sendable: Option<String>,
}

impl LastId {
    pub(crate) fn as_str(&self) -> &str {
        &self.current
    }

    /// The value of a `Last-Event-ID` header; `None` if it would be empty.
    pub(crate) fn header(&self) -> Option<&str> {
        let id = self.sendable.as_ref().unwrap_or(&self.current);
        Some(id.as_str()).filter(|id| !id.is_empty())
    }

    /// Replaces the id.
    pub(crate) fn commit(&mut self, id: Id<'_>) {
        if id.sendable {
            self.sendable = None;
        } else if self.sendable.is_none() {
            self.sendable = Some(core::mem::take(&mut self.current));
        }
        self.current.clear();
        push_lossy(&mut self.current, id.bytes);
    }
}

/// The value of an `id` line that counts.
#[derive(Clone, Copy)]
pub(crate) struct Id<'a> {
    pub(crate) bytes: &'a [u8],
    /// It is a valid header value.
    pub(crate) sendable: bool,
}

impl<'a> Id<'a> {
    /// `None` if it contains a NUL, because then the line is ignored.
    pub(crate) fn check(bytes: &'a [u8]) -> Option<Self> {
        let is_control = |byte: u8| byte < b' ' || byte == 0x7F;
        // No early exit: ids are short, and most have no control character.
        if !bytes.iter().fold(false, |any, &byte| any | is_control(byte)) {
            return Some(Self { bytes, sendable: true });
        }
        let sendable = bytes.iter().all(|&byte| byte == b'\t' || !is_control(byte));
        (!bytes.contains(&0)).then_some(Self { bytes, sendable })
    }
}
