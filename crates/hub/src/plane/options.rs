//! How a stream behaves by itself: its heartbeats and its timeout.

use bellwire_proto::limits::{HEARTBEAT_S, PRESENCE_GRACE_MS};

/// How a stream behaves by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamOptions {
    /// Comments that keep an idle connection open; `None` for none.
    pub heartbeat: Option<Heartbeat>,
    /// Heartbeats also 1, 2 and 3 s after the stream began (`probes=1`).
    pub probes: bool,
    /// A comment `:` LF LF 100 ms after each event and heartbeat (`compat=1`).
    pub compat: bool,
}

impl StreamOptions {
    /// How long after the last byte that the peer sent or accepted the stream counts as stalled, in milliseconds: two
    /// heartbeats and 10 s (contract, section 6); without a heartbeat, 40 s.
    pub(crate) fn silence_ms(&self) -> u32 {
        let default_ms = HEARTBEAT_S.default as u32 * 1000;
        let every_ms = self.heartbeat.map_or(default_ms, |heartbeat| heartbeat.every_ms);
        every_ms.saturating_mul(2).saturating_add(PRESENCE_GRACE_MS)
    }
}

/// The interval and the text of a stream's heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Milliseconds between them; they are up to 50 ms late. 0 counts as 1.
    pub every_ms: u32,
    /// Their text.
    pub form: HeartbeatForm,
}

/// The text of a heartbeat, and what its interval counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeartbeatForm {
    /// `: <hub Unix ms>` LF LF, when nothing else was written for the interval (contract, section
    /// 4).
    V1,
    /// `: keepalive <unix seconds with two decimals>` CRLF CRLF, at a fixed interval whatever else
    /// is written (contract, section 10).
    Classic,
}

impl HeartbeatForm {
    pub(crate) fn text(self, unix_ms: u64) -> String {
        match self {
            Self::V1 => format!(": {unix_ms}\n\n"),
            Self::Classic => {
                let (seconds, hundredths) = (unix_ms / 1000, unix_ms % 1000 / 10);
                format!(": keepalive {seconds}.{hundredths:02}\r\n\r\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_have_the_text_of_the_contract() {
        assert_eq!(HeartbeatForm::V1.text(1_700_000_000_042), ": 1700000000042\n\n");
        let classic = HeartbeatForm::Classic.text(1_700_000_000_042);
        assert_eq!(classic, ": keepalive 1700000000.04\r\n\r\n");
    }
}
