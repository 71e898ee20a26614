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

// --- The agent ---
// Sections of docs/agent.md are named by their titles. Numbers without a source are our choice, with the reason.

/// Bytes of the agent's journal. docs/agent.md, "The journal".
pub const AGENT_JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// Bytes that the agent reserves on the disk for the result of a command in progress. docs/agent.md, "The journal":
/// the longest report of section 5 of the contract takes 248 KiB, its other records less than 4.
pub const AGENT_RESULT_BYTES_MAX: u64 = 256 << 10;
/// How long the agent retains a completed command. docs/agent.md, "The journal": the longest time to live and a day,
/// within which no command is sent again.
pub const AGENT_RETENTION: Duration = Duration::from_secs(TTL_S.max + 86_400);
/// How long the agent repeats a result that the hub rejects permanently. docs/agent.md, "Time": a day, for an
/// operator to correct the hub or a proxy before it.
pub const AGENT_REJECTED_FOR: Duration = Duration::from_secs(86_400);
/// The pause before it repeats such a result.
pub const AGENT_REJECTED_RETRY: Duration = Duration::from_secs(5 * 60);
/// How often the agent stamps its journal with the clocks. docs/agent.md, "Time".
pub const AGENT_STAMP_EVERY: Duration = Duration::from_secs(3600);
/// A device clock before this is not set yet, in Unix milliseconds: 2025-01-01. docs/agent.md, "Time".
pub const AGENT_DEVICE_CLOCK_MS_MIN: u64 = 1_735_689_600_000;
/// How often a `rerun` is run again after crashes. docs/agent.md, "The journal".
pub const AGENT_RERUNS_MAX: u32 = 3;
/// How long handlers may run on after a shutdown request. docs/agent.md, "What happens if it dies here".
pub const AGENT_SHUTDOWN: Duration = Duration::from_secs(30);
/// How long final reports may take after that. With [`AGENT_SHUTDOWN`] it is less than the 45 s of the recipes.
pub const AGENT_FINAL_REPORT: Duration = Duration::from_secs(5);
/// How long both may take together after a second shutdown request: a person is waiting.
pub const AGENT_FORCED_SHUTDOWN: Duration = Duration::from_secs(2);
/// The time between two keepalive reports of a command; less where a third of its run clock is less. Our choice: a
/// third of [`LEASE`].
pub const AGENT_KEEPALIVE: Duration = Duration::from_secs(10);
/// The time between two reports of progress: a person sees no more.
pub const AGENT_PROGRESS: Duration = Duration::from_secs(1);
/// The longest pause after a report that failed.
pub const AGENT_REPORT_RETRY_MAX: Duration = Duration::from_secs(60);
/// The longest time that a report may take. docs/agent.md, "What happens if it dies here": a result of 256 KiB needs as
/// long at 1 KiB/s.
pub const AGENT_REPORT_TIMEOUT_MAX: Duration = Duration::from_secs(5 * 60);
/// How often the agent compares its facts with those that it has reported.
pub const AGENT_FACTS_EVERY: Duration = Duration::from_secs(300);
/// How long a connection must last before the agent's backoff starts again. docs/agent.md, "Connection".
pub const AGENT_HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// The longest delay of the agent's backoff. docs/agent.md, "Connection".
pub const AGENT_RECONNECT_MAX: Duration = Duration::from_secs(60);
/// The agent's pause after 401, 403, 404 and 407. docs/agent.md, "Connection".
pub const AGENT_REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// The agent's pause after 423. docs/agent.md, "Connection".
pub const AGENT_LOCKED_PAUSE: Duration = Duration::from_secs(30);
/// The agent's pause after 410. docs/agent.md, "Connection".
pub const AGENT_REMOVED_PAUSE: Duration = Duration::from_secs(15 * 60);
/// The agent's pause after an answer of a captive portal. docs/agent.md, "Connection".
pub const AGENT_PORTAL_PAUSE: Duration = Duration::from_secs(30);
/// The agent's shortest and longest pause after a `bye` `replaced`, in milliseconds. docs/agent.md, "Connection".
pub const AGENT_REPLACED_PAUSE_MS: (u64, u64) = (5000, 30_000);
/// Commands in the agent's status. docs/agent.md, "Looking at it".
pub const AGENT_STATUS_COMMANDS_MAX: usize = 20;
