//! Every number that limits something, with where it comes from.
//!
//! "Contract" is `docs/protocol.md`. What an operator may change is a setting of the hub whose
//! default stands here; the ceilings of such settings stand here too.

use std::time::Duration;

/// Characters of a device name. Contract, section 1.
pub const DEVICE_CHARS_MAX: usize = 128;
/// Characters of an action name. Contract, section 1.
pub const ACTION_CHARS_MAX: usize = 64;
/// Levels of nesting in any JSON that is passed on. Contract, section 1.
pub const JSON_DEPTH_MAX: usize = 128;

/// Bytes of a request's target, path and query: our choice. RFC 9110, section 4.1, asks for 8,000 at
/// least; a selector or a cursor may be longer.
pub const URI_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a command's data, by default. Contract, section 3 (Azure's direct methods allow 128 KiB, its
/// cloud-to-device messages 64).
pub const DATA_BYTES_MAX: usize = 64 * 1024;
/// The most that [`DATA_BYTES_MAX`] may be set to. Contract, section 3.
pub const DATA_BYTES_CEILING: usize = 1024 * 1024;
/// Bytes of the envelope of `POST /v1/commands`. Contract, section 3.
pub const ENVELOPE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a report's `result` as JSON. Contract, section 2.
pub const RESULT_BYTES_MAX: usize = 64 * 1024;
/// The code of an error as the agent tells it. The contract names none; its own codes are a third of this.
pub const ERROR_CODE_BYTES_MAX: usize = 64;
/// The message of an error as the agent tells it. The contract names none; this is a page of text.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 4096;
/// Bytes of `stdout`, and of `stderr`, before JSON escaping. Contract, section 2.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one report. Contract, section 5.
pub const REPORT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a batch of reports. Contract, section 5.
pub const REPORT_BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Reports in a batch. Contract, section 5.
pub const REPORT_BATCH_ITEMS_MAX: usize = 1000;
/// Bytes of a device's facts. Contract, section 5.
pub const FACTS_BYTES_MAX: usize = 16 * 1024;
/// Members of a device's facts. Contract, section 5.
pub const FACTS_KEYS_MAX: usize = 100;
/// Bytes of any other request body (labels, a confirmation): our choice, roomy for both.
pub const SMALL_BODY_BYTES_MAX: usize = 64 * 1024;
/// The greatest `rev` (2^53 - 1), which every JSON reader keeps exactly. Contract, section 5.
pub const REV_MAX: u64 = (1 << 53) - 1;

/// The greatest `attempt` that a report may name: our choice, so that the sendings that follow it
/// can still rise.
pub const ATTEMPT_MAX: u32 = i32::MAX.unsigned_abs();

/// Deliveries of one device in `queued`, by default. Contract, section 3 (Azure: 50).
pub const QUEUE_MAX: usize = 100;
/// Deliveries of one device past `queued` and not terminal, by default. Contract, section 2.
pub const MAX_IN_FLIGHT: usize = 1;
/// Failures counted before a delivery is `dead`. Contract, section 2.
pub const COUNTED_ATTEMPTS_MAX: u32 = 10;
/// Sendings before a delivery is `dead`. Contract, section 2.
pub const SENDS_MAX: u32 = 100;

/// How long a command waits for `accepted` after it was sent, by default. Contract, section 2.
pub const LEASE: Duration = Duration::from_secs(30);
/// The longest wait between two counted attempts. Contract, section 2.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// How long a poll counts as a listener, and as presence. Contract, sections 2 and 6.
pub const POLL_PRESENCE: Duration = Duration::from_secs(40);
/// What a run clock has left at least after a restart of the hub. Contract, section 2.
pub const RUN_CLOCK_AFTER_RESTART: Duration = Duration::from_secs(30);
/// How long a `cancelling` delivery keeps its slot, and lives at least. Contract, section 7.
pub const CANCEL_SLOT: Duration = Duration::from_secs(60);
/// How long an unconfirmed stream lives. Contract, section 4.
pub const CONFIRM_WITHIN: Duration = Duration::from_secs(10);
/// How long an `Idempotency-Key` is kept. Contract, section 3.
pub const IDEMPOTENCY_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Characters of an `Idempotency-Key`. Contract, section 3.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;

/// Time to live of a command in seconds: default, least and most. Contract, section 3.
pub const TTL_S: Range = Range { default: 3600, min: 1, max: 7 * 86_400 };
/// The time to live of a command sent with `ttl=0`, in seconds. Contract, section 3.
pub const TTL_IF_ONLINE_S: u64 = 30;
/// How long a sender may wait for the end, in seconds. Contract, section 3.
pub const WAIT_S: Range = Range { default: 0, min: 0, max: 300 };
/// The run clock in seconds. Contract, section 3.
pub const RUN_TIMEOUT_S: Range = Range { default: 300, min: 1, max: 86_400 };
/// Time between heartbeats in seconds. Contract, section 4.
pub const HEARTBEAT_S: Range = Range { default: 15, min: 5, max: 600 };
/// How long a poll is held, in seconds. Contract, section 4.
pub const POLL_WAIT_S: Range = Range { default: 25, min: 0, max: 60 };
/// A nack's `retry_after_s`. Contract, section 2.
pub const RETRY_AFTER_S_MAX: u64 = 7 * 86_400;
/// Items on a page of a list. Contract, section 1.
pub const PAGE_ITEMS: Range = Range { default: 100, min: 1, max: 1000 };

/// Bytes of `prelude`: 0, or from 2 to this. Contract, section 4.
pub const PRELUDE_BYTES_MAX: usize = 8192;
/// Bytes of prelude towards a request that came through a proxy: more than the 4 KiB preview of a
/// content scanner. Contract, section 4.
pub const PRELUDE_BYTES_PROXIED: usize = 4300;
/// Characters of a `User-Agent` that are kept: our choice, longer than any browser's.
pub const AGENT_CHARS_MAX: usize = 512;
/// Characters of a `nonce`. Contract, section 4.
pub const NONCE_CHARS_MAX: usize = 64;
/// The `retry:` of a hello, in milliseconds. Contract, section 4.
pub const HELLO_RETRY_MS: u64 = 2000;
/// Bytes that a stream may have unsent before it ends as overloaded. Contract, section 4.
pub const UNSENT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of backlog, snapshot or replay under way to one reader before the rest waits for it: a
/// quarter of [`UNSENT_BYTES_MAX`], so that what is live still fits beside it.
pub const PACED_BYTES: usize = UNSENT_BYTES_MAX / 4;

// The agent and the client. "Manual" is `docs/agent.md`.

/// The greatest `timeout` of an action, in seconds: the longest time to live. Manual, section Configuration.
pub const ACTION_TIMEOUT_S_MAX: u64 = TTL_S.max;
/// `kill_after` of an action, in seconds: the time between TERM and KILL. Manual, section Configuration.
pub const KILL_AFTER_S: Range = Range { default: 5, min: 1, max: 600 };
/// `concurrency` of an action. Its maximum is the greatest `max_in_flight` of a hub. Manual, section Configuration.
pub const CONCURRENCY: Range = Range { default: 1, min: 1, max: 100 };
/// Members of [`FACTS_KEYS_MAX`] that are reserved for the agent's own facts: our choice.
pub const AGENT_FACTS_KEYS_MAX: usize = 20;
/// Bytes of [`FACTS_BYTES_MAX`] that are reserved for the agent's own facts, at most 32 addresses among them: our choice.
pub const AGENT_FACTS_BYTES_MAX: usize = 4096;
/// Bytes of a credential file: our choice, more than any token has and less than a header may have.
pub const CREDENTIAL_BYTES_MAX: u64 = 8 * 1024;
/// How long a client waits for a hub's response beyond the time that it requested the hub to wait: our choice.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a hub's response that a client reads: our choice, a page of 1,000 deliveries with ordinary output.
pub const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of a hub's event that a client reads: our choice, above a command with [`DATA_BYTES_CEILING`] and a delivery with
/// three parts of 64 KiB, each of which JSON may make six times as long.
pub const EVENT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A number with a default and bounds, all inclusive. The unit is in the name of the constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// What it is when nothing was told.
    pub default: u64,
    /// The least that is taken.
    pub min: u64,
    /// The most that is taken.
    pub max: u64,
}

impl Range {
    /// Whether `n` is within the bounds.
    ///
    /// ```
    /// use bellwire_proto::limits::TTL_S;
    /// assert!(TTL_S.contains(3600) && !TTL_S.contains(0));
    /// ```
    pub const fn contains(self, n: u64) -> bool {
        self.min <= n && n <= self.max
    }
}
