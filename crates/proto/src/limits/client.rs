//! The limits of who connects to a hub: `bellwire listen`, the agent, and the command line.

use std::time::Duration;

use super::{HEARTBEAT_S, IN_FLIGHT_CEILING, REPORT_BYTES_MAX, Range, TTL_S};

/// How long `bellwire listen` retries a report before it gives up: our choice; the hub has by then
/// sent the command again, or ended its delivery.
pub const LISTEN_REPORT_RETRY: Duration = Duration::from_secs(3600);
/// The longest pause between two tries of a report, and between two keepalive reports: our choice.
pub const LISTEN_PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long running programs and open reports may take once `bellwire listen` has to stop: our
/// choice.
pub const LISTEN_STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a client waits for a hub's response beyond the time that it requested the hub to wait: our choice.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a hub's response that a client reads: our choice, a page of 1,000 deliveries with ordinary output.
pub const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of a hub's event that a client reads: our choice, above a command with [`DATA_BYTES_CEILING`](super::DATA_BYTES_CEILING) and a delivery with
/// three parts of 64 KiB, each of which JSON may make six times as long.
pub const EVENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a device's stream may take until its `hello`, which the hub sends at once: our choice. Comments do
/// not prolong it.
pub const LISTENER_HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// After how many heartbeats without a byte a client gives up a device's stream, in tenths of a heartbeat.
/// `docs/agent.md`, "Configuration".
pub const LISTENER_HEARTBEATS_TENTHS: u64 = 25;
/// The least delay that a hub can request of a listener: our choice. With less, a hub that ends each stream at
/// once would be connected to again without a pause.
pub const LISTENER_DELAY_MIN: Duration = Duration::from_secs(1);
/// The most that the hub's `retry` counts as: the cap of the backoff.
pub const LISTENER_RETRY_MAX: Duration = Duration::from_secs(60);
/// The longest pause that a `bye` can request of a listener: our choice, above [`BYE_RECONNECT_DRAINING_S`](super::BYE_RECONNECT_DRAINING_S).
pub const LISTENER_BYE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long the end of a stream may take after its `bye`: our choice.
pub const LISTENER_END_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the stream of an observer or a watcher may be silent: four times the default of [`HEARTBEAT_S`].
pub const WATCHER_SILENCE_MAX: Duration = Duration::from_secs(4 * HEARTBEAT_S.default);

/// The greatest `timeout` of an action, in seconds: the longest time to live. `docs/agent.md`, "Configuration".
pub const ACTION_TIMEOUT_S_MAX: u64 = TTL_S.max;
/// `kill_after` of an action, in seconds: the time between TERM and KILL. `docs/agent.md`, "Configuration".
pub const KILL_AFTER_S: Range = Range { default: 5, min: 1, max: 600 };
/// `concurrency` of an action: no hub sends more at once than [`IN_FLIGHT_CEILING`]. `docs/agent.md`, "Configuration".
pub const CONCURRENCY: Range = Range { default: 1, min: 1, max: IN_FLIGHT_CEILING as u64 };
/// Bytes of a credential file: our choice, more than any token has and less than a header may have.
pub const CREDENTIAL_BYTES_MAX: u64 = 8 * 1024;
/// Members of [`FACTS_KEYS_MAX`](super::FACTS_KEYS_MAX) that are reserved for the agent's own facts: our choice.
pub const AGENT_FACTS_KEYS_MAX: usize = 20;
/// Addresses among the agent's own facts: our choice. A container host has hundreds.
pub const AGENT_FACT_ADDRESSES_MAX: usize = 32;
/// Bytes of [`FACTS_BYTES_MAX`](super::FACTS_BYTES_MAX) that are reserved for the agent's own facts, [`AGENT_FACT_ADDRESSES_MAX`] addresses among
/// them: our choice.
pub const AGENT_FACTS_BYTES_MAX: usize = 4096;
/// Bytes of the agent's journal. `docs/agent.md`, "The journal".
pub const AGENT_JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// Bytes of the longest report in the agent's journal. A report within the contract's limits fits: a result of 64 KiB, two
/// outputs of 64 KiB that take 4/3 of that, and a message.
pub const AGENT_REPORT_BYTES_MAX: usize = 248 << 10;
/// Bytes that the agent reserves on the disk for the result of a command in progress. `docs/agent.md`, "The journal":
/// [`AGENT_REPORT_BYTES_MAX`], and less than 4 KiB for the command's other records.
pub const AGENT_RESULT_BYTES_MAX: u64 = 256 << 10;
/// How long the agent retains a completed command. `docs/agent.md`, "The journal": the longest time to live and a day,
/// within which no command is sent again.
pub const AGENT_RETENTION: Duration = Duration::from_secs(TTL_S.max + 86_400);
/// How long the agent repeats a result that the hub rejects permanently. `docs/agent.md`, "Time": a day, for an
/// operator to correct the hub or a proxy before it.
pub const AGENT_REJECTED_FOR: Duration = Duration::from_secs(86_400);
/// The pause before it repeats such a result.
pub const AGENT_REJECTED_RETRY: Duration = Duration::from_secs(5 * 60);
/// How often the agent stamps its journal with the clocks. `docs/agent.md`, "Time".
pub const AGENT_STAMP_EVERY: Duration = Duration::from_secs(3600);
/// A device clock before this is not set yet, in Unix milliseconds: 2025-01-01. `docs/agent.md`, "Time".
pub const AGENT_DEVICE_CLOCK_MS_MIN: u64 = 1_735_689_600_000;
/// How often a `rerun` is run again after crashes. `docs/agent.md`, "The journal".
pub const AGENT_RERUNS_MAX: u32 = 3;
/// How long handlers may run on after a shutdown request. `docs/agent.md`, "What happens if it dies here".
pub const AGENT_SHUTDOWN: Duration = Duration::from_secs(30);
/// How long final reports may take after that. With [`AGENT_SHUTDOWN`] it is less than the 45 s of the recipes.
pub const AGENT_FINAL_REPORT: Duration = Duration::from_secs(5);
/// How long both may take together after a second shutdown request: a person is waiting.
pub const AGENT_FORCED_SHUTDOWN: Duration = Duration::from_secs(2);
/// The time between two keepalive reports of a command; less where a third of its run clock is less. Our choice: a
/// third of [`LEASE`](super::LEASE).
pub const AGENT_KEEPALIVE: Duration = Duration::from_secs(10);
/// The time between two reports of progress: a person sees no more.
pub const AGENT_PROGRESS: Duration = Duration::from_secs(1);
/// The longest pause after a report that failed.
pub const AGENT_REPORT_RETRY_MAX: Duration = Duration::from_secs(60);
/// The longest time that a report may take. `docs/agent.md`, "What happens if it dies here": a result of 256 KiB needs as
/// long at 1 KiB/s.
pub const AGENT_REPORT_TIMEOUT_MAX: Duration = Duration::from_secs(5 * 60);
/// How often the agent compares its facts with those that it has reported.
pub const AGENT_FACTS_EVERY: Duration = Duration::from_secs(300);
/// How long a report of its facts may take: our choice.
pub const AGENT_FACTS_TIMEOUT: Duration = Duration::from_secs(10);
/// Results in flight that the agent sends for the first time (or the hub's `max_in_flight`, if that is more), and as
/// many that it sends again. Our choice: reports that a network loses must block none that could pass.
pub const AGENT_RESULTS_IN_FLIGHT_MAX: usize = 8;
/// From how many results on that are due at once the agent sends them as one batch: our choice, so that a backlog costs few
/// requests, and a single result waits for no other.
pub const AGENT_BATCH_MIN: usize = 4;
/// Results in a batch of the agent: our choice, below [`REPORT_BATCH_ITEMS_MAX`](super::REPORT_BATCH_ITEMS_MAX).
pub const AGENT_BATCH_ITEMS_MAX: usize = 100;
/// Bytes of a batch of the agent as JSON: our choice; middleboxes have to let single reports as long as this through.
pub const AGENT_BATCH_BYTES_MAX: usize = REPORT_BYTES_MAX;
/// Reports of one command that the agent has in flight: our choice. However often the hub asks, the next one waits.
pub const AGENT_REPORTS_PER_COMMAND_MAX: usize = 2;
/// How long a closure may continue after it was requested to stop, before it is dropped. Our choice, as the default of
/// [`KILL_AFTER_S`].
pub const AGENT_CLOSURE_STOP: Duration = Duration::from_secs(KILL_AFTER_S.default);
/// How long output is read after a program has exited: our choice. An orphan of it may hold the pipe open for ever.
pub const AGENT_OUTPUT_AFTER_EXIT: Duration = Duration::from_secs(1);
/// How long killed orphan processes may take to end: our choice. Only one that waits in the driver of a failed disk does
/// not end at once.
pub const AGENT_ORPHANS_KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest pause before the agent tries a web service again that refused the connection: our choice.
pub const AGENT_FORWARD_RETRY_MAX: Duration = Duration::from_secs(1);
/// How long a connection must last before the agent's backoff starts again. `docs/agent.md`, "Connection".
pub const AGENT_HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// The longest delay of the agent's backoff. `docs/agent.md`, "Connection".
pub const AGENT_RECONNECT_MAX: Duration = Duration::from_secs(60);
/// The agent's pause after 401, 403, 404 and 407. `docs/agent.md`, "Connection".
pub const AGENT_REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// The agent's pause while an operator has yet to approve its device. `docs/agent.md`, "Connection".
pub const AGENT_PENDING_PAUSE: Duration = Duration::from_secs(15);
/// The agent's pause after 423. `docs/agent.md`, "Connection".
pub const AGENT_LOCKED_PAUSE: Duration = Duration::from_secs(30);
/// The agent's pause after 410. `docs/agent.md`, "Connection".
pub const AGENT_REMOVED_PAUSE: Duration = Duration::from_secs(15 * 60);
/// The agent's pause after an answer of a captive portal. `docs/agent.md`, "Connection".
pub const AGENT_PORTAL_PAUSE: Duration = Duration::from_secs(30);
/// The agent's shortest and longest pause after a `bye` `replaced`, in milliseconds. `docs/agent.md`, "Connection".
pub const AGENT_REPLACED_PAUSE_MS: (u64, u64) = (5000, 30_000);
/// Commands in the agent's status. `docs/agent.md`, "Status and logs".
pub const AGENT_STATUS_COMMANDS_MAX: usize = 20;
/// How long `bellwire context` waits while another process changes the file of contexts: our choice. A change takes
/// milliseconds.
pub const CONTEXTS_LOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a changed network must be quiet before it counts as changed: our choice. An interface that comes up announces
/// its addresses and routes one by one.
pub const NETWORK_QUIET: Duration = Duration::from_secs(1);
/// The longest wait for [`NETWORK_QUIET`]: our choice, for a network that never is.
pub const NETWORK_QUIET_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often addresses, default routes and files of proxies are compared where nothing announces a change. Our choice.
pub const NETWORK_COMPARE_EVERY: Duration = Duration::from_secs(30);

/// Bytes of a PAC file: what browsers accept (Chromium's `PacFileFetcherImpl`).
pub const PAC_BYTES_MAX: usize = 1 << 20;
/// How long fetching a PAC file may take: our choice, as connecting to a proxy may.
pub const PAC_FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a PAC file may take for its answer, lookups of names included: our choice. A common one takes a millisecond.
pub const PAC_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of memory that a PAC file may use: our choice, more than a file of [`PAC_BYTES_MAX`] needs.
pub const PAC_MEMORY_BYTES_MAX: usize = 32 << 20;
/// How long a PAC file waits for the DNS server for one name: our choice. Then the name counts as unknown.
pub const PAC_LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Names that a PAC file may look up for one answer: our choice. Further names count as unknown.
pub const PAC_LOOKUPS_MAX: usize = 32;
/// Bytes of a PAC file's answer: our choice.
pub const PAC_ANSWER_BYTES_MAX: usize = 8 << 10;
/// Proxies of a PAC file's answer: our choice. Further ones are skipped.
pub const PAC_PROXIES_MAX: usize = 16;

/// Characters of the name of a context of the command line. Our choice.
pub const CONTEXT_NAME_CHARS_MAX: usize = 64;
/// Bytes of the file of contexts that is read: our choice, thousands of them.
pub const CONTEXTS_FILE_BYTES_MAX: u64 = 1 << 20;
/// Devices of which one `bellwire label` changes the labels, at most: their names are in memory. Our choice.
pub const LABEL_DEVICES_MAX: usize = 1_000_000;
/// Bytes of a line of the agent's journal, which bounds the memory that a damaged file can take: our choice. A command with
/// its data and its result has about 2 MiB.
pub const AGENT_JOURNAL_LINE_BYTES_MAX: u64 = 16 << 20;
