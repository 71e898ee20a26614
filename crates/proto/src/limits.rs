//! The limits that are visible outside the program, each with its unit and its source: those of the
//! contract, those of an operator's settings, and those that a peer or another implementation can
//! observe, because something is refused, cut off or given up there.
//!
//! "Contract" is `docs/protocol.md`, "setting" `docs/config.md`, a title of the agent's manual follows
//! `docs/agent.md`; "our choice" means that none of them requires the number. Bounds that only an
//! implementation needs (a buffer, a batch, how often something is looked at) are beside their code. What
//! is of use without Bellwire documents its own: the crate `bellwire-sse`, and the event source and the
//! transport of `bellwire-client`.
//!
//! Here are those of the contract and of the hub; those of listeners, agents and the command line are in `limits/client.rs`.

use std::time::Duration;

mod client;

pub use client::*;

/// Characters of a device name. Contract, section 1.
pub const DEVICE_CHARS_MAX: usize = 128;
/// Characters of an action name. Contract, section 1.
pub const ACTION_CHARS_MAX: usize = 64;
/// Levels of nesting in any JSON that is passed on. Contract, section 1.
pub const JSON_DEPTH_MAX: usize = 128;

/// Bytes of a request's path and query. Contract, section 1; RFC 9110, section 4.1, recommends at
/// least 8,000.
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
/// Bytes of an error's code in the agent's reports: our choice, three times its longest code.
pub const ERROR_CODE_BYTES_MAX: usize = 64;
/// Bytes of an error's message in the agent's reports: our choice, a page of text.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 4096;
/// Bytes of `stdout`, and of `stderr`, before JSON escaping. Contract, section 2.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one report. Contract, section 5.
pub const REPORT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a batch of reports. Contract, section 5.
pub const REPORT_BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of the answer to a batch, as JSON; deliveries that do not fit are left out of it: our choice, as long
/// as the batch. docs/protocol.md, section 5.
pub const REPORT_BATCH_ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Reports in a batch. Contract, section 5.
pub const REPORT_BATCH_ITEMS_MAX: usize = 1000;
/// Bytes of a device's facts. Contract, section 5.
pub const FACTS_BYTES_MAX: usize = 16 * 1024;
/// Members of a device's facts. Contract, section 5.
pub const FACTS_KEYS_MAX: usize = 100;
/// Bytes of any other request body (labels, a confirmation): our choice, ample for both.
pub const SMALL_BODY_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the labels of a device, as JSON: our choice, as much as a body that sets them.
pub const LABELS_BYTES_MAX: usize = SMALL_BODY_BYTES_MAX;
/// Values of a label that are listed with it, the most frequent. Contract, section 6.
pub const LABEL_VALUES_MAX: u32 = 100;
/// Devices whose labels are counted for one who sees a part of the fleet: as for a page of any list,
/// since every page of labels counts anew. Contract, section 6.
pub const LABELS_COUNTED_DEVICES_MAX: u32 = LIST_ROWS_MAX;
/// Characters of a token's note: our choice, a line of text.
pub const NOTE_CHARS_MAX: usize = 256;
/// Characters of a selector: our choice, some hundred values.
pub const SELECTOR_CHARS_MAX: usize = 4096;
/// Requirements of a selector: our choice. Each costs a look for every device that the others leave.
pub const SELECTOR_REQUIREMENTS_MAX: usize = 32;
/// Characters of the name of a fact that a selector can write: our choice, as many as a label's.
pub const FACT_NAME_CHARS_MAX: usize = 63;
/// Actions that an operator's token lists at most: our choice.
pub const TOKEN_ACTIONS_MAX: usize = 100;
/// Seconds for which a token works, if it is made to expire: up to ten years, our choice.
pub const TOKEN_LIFE_S: Range = Range { default: 86_400, min: 1, max: 10 * 365 * 86_400 };
/// Devices that may enrol with a join token, if it counts them: our choice.
pub const TOKEN_USES: Range = Range { default: 1, min: 1, max: 1_000_000 };
/// Tokens that the hub remembers, so that their next request costs no read, without those of devices: our choice, some
/// 2 MiB. Beyond it, those that were used last stay.
pub const TOKENS_REMEMBERED_MAX: usize = 8192;
/// Tokens of devices that the hub remembers: our choice, half a MiB. What is read of one that is not remembered is a row.
pub const DEVICE_TOKENS_REMEMBERED_MAX: usize = 3584;
/// Streams of a device that replaced each other within [`CONFLICT_WINDOW`]; more, and two agents have one identity.
/// Contract, section 6.
pub const CONFLICT_REPLACED_MAX: usize = 5;
/// For how long replaced streams count. Contract, section 6.
pub const CONFLICT_WINDOW: Duration = Duration::from_secs(600);
/// The greatest `rev` (2^53 - 1), which every JSON parser represents exactly. Contract, section 5.
pub const REV_MAX: u64 = (1 << 53) - 1;

/// The greatest `attempt` that a report may name: our choice, so that later attempts can still
/// rise.
pub const ATTEMPT_MAX: u32 = i32::MAX.unsigned_abs();

/// Deliveries of one device in `queued`, by default. Contract, section 3 (Azure: 50).
pub const QUEUE_MAX: usize = 100;
/// Deliveries of one device in flight (neither `queued` nor terminal), by default. Contract,
/// section 2.
pub const MAX_IN_FLIGHT: usize = 1;
/// Failures counted before a delivery is `dead`. Contract, section 2.
pub const COUNTED_ATTEMPTS_MAX: u32 = 10;
/// Attempts, counted or not, before a delivery is `dead`. Contract, section 2.
pub const SENDS_MAX: u32 = 100;

/// Bytes of a file of devices that `bellwire devices import` reads, as a whole and before anything is changed: our choice, 256
/// for each of a million devices.
pub const DEVICES_FILE_BYTES_MAX: u64 = 256 << 20;
/// Devices of a command whose deliveries all come into being with its answer; with more, they follow in small steps: our
/// choice, a transaction of under a millisecond. docs/protocol.md, section 3.
pub const COMMAND_DEVICES_AT_ONCE: usize = 128;
/// Commands to more devices than that which may be expanded or cancelled at once, without those of [`ROLLOUTS_MAX`]: our
/// choice; each waits for the others. docs/protocol.md, section 3.
pub const COMMANDS_TO_MANY_MAX: usize = 256;
/// Rollouts that may be under way, paused ones included: our choice, each is held in memory. They have a bound of their
/// own, since how long they last is up to operators. docs/protocol.md, section 3.
pub const ROLLOUTS_MAX: usize = 256;

/// Schedules of a hub: our choice; all of them are in memory. docs/protocol.md, section 3.
pub const SCHEDULES_MAX: usize = 1_000;
/// Bytes of the body that makes or changes a schedule: our choice. docs/protocol.md, section 3.
pub const SCHEDULE_BYTES_MAX: usize = 64 << 10;
/// Characters of the name of a schedule, as of an action. docs/protocol.md, section 3.
pub const SCHEDULE_NAME_CHARS_MAX: usize = 64;
/// Characters of a cron expression: our choice, more than every minute of a day needs in words. docs/protocol.md, section 3.
pub const CRON_CHARS_MAX: usize = 128;
/// Characters of the name of a time zone: our choice; the longest of the IANA database has 32.
pub const ZONE_CHARS_MAX: usize = 64;
/// Minutes for which a maintenance window is open each time: our choice, up to a day. There is always a number given, so that the
/// default is never used. docs/protocol.md, section 3.
pub const WINDOW_MINUTES: Range = Range { default: 60, min: 1, max: 1_440 };
/// A time of a schedule that is further past than this was missed: our choice, longer than a restart of the hub takes and
/// as long as the shortest interval. docs/protocol.md, section 3.
pub const SCHEDULE_LATE: Duration = Duration::from_secs(60);
/// After how long a run that could not be stored for lack of capacity is tried again. docs/protocol.md, section 3.
pub const SCHEDULE_RETRY_EVERY: Duration = Duration::from_secs(1);
/// Times of a schedule that are shown ahead. docs/protocol.md, section 3.
pub const SCHEDULE_UPCOMING: usize = 3;

/// Percent of a rollout: of its targets, of a batch, of failures. Contract, section 3.
pub const PERCENT: Range = Range { default: 100, min: 1, max: 100 };
/// Devices of a batch of a rollout, and how many must have ended before it may be aborted: our bounds.
/// docs/protocol.md, section 3.
pub const ROLLOUT_BATCH: Range = Range { default: 1, min: 1, max: 100_000_000 };
/// Seconds between batches of a rollout: up to 30 days, our choice. docs/protocol.md, section 3.
pub const ROLLOUT_SPAN_S: Range = Range { default: 0, min: 0, max: 30 * 24 * 3600 };

/// Devices that a dry run names. Contract, section 3.
pub const PREVIEW_DEVICES_MAX: usize = 100;

/// How long a command waits for `accepted` after it was sent, by default. Contract, section 2.
pub const LEASE: Duration = Duration::from_secs(30);
/// The longest backoff between two counted attempts. Contract, section 2.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// How long a poll counts as a listener, and as presence. Contract, sections 2 and 6.
pub const POLL_PRESENCE: Duration = Duration::from_secs(40);
/// The least that remains on a run clock after a restart of the hub. Contract, section 2.
pub const RUN_CLOCK_AFTER_RESTART: Duration = Duration::from_secs(30);
/// How long a `cancelling` delivery holds its slot, and the least time before it times out.
/// Contract, section 7.
pub const CANCEL_SLOT: Duration = Duration::from_secs(60);
/// How long a stream may stay unconfirmed. Contract, section 4.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// After how long a stream is given its planned end, in seconds: the least and the most; by default it has none. Our
/// choice: below the shortest limits of proxies on the duration of a response (30 s), at most a week. Setting `stream_max`.
pub const STREAM_MAX_S: (u64, u64) = (10, 7 * 86_400);
/// By how much of [`STREAM_MAX_S`] a stream ends earlier or later, so that a fleet that connected at once does not
/// reconnect at once. Contract, section 4.
pub const STREAM_MAX_SPREAD: f64 = 0.2;
/// How long an `Idempotency-Key` is retained. Contract, section 3.
pub const IDEMPOTENCY_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Characters of an `Idempotency-Key`. Contract, section 3.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;

/// Time to live of a command in seconds: default, least and most. Contract, section 3.
pub const TTL_S: Range = Range { default: 3600, min: 1, max: 7 * 86_400 };
/// The same, or zero for "only devices that are online". Contract, section 3.
pub const TTL_OR_ZERO_S: Range = Range { min: 0, ..TTL_S };
/// The time to live of a command sent with `ttl=0`, in seconds. Contract, section 3.
pub const TTL_IF_ONLINE_S: u64 = 30;
/// How long a sender may wait for the end, in seconds. Contract, section 3.
pub const WAIT_S: Range = Range { default: 0, min: 0, max: 300 };
/// The run clock in seconds. Contract, section 3.
pub const RUN_TIMEOUT_S: Range = Range { default: 300, min: 1, max: 86_400 };
/// The longest life of a delivery: a time to live and a run clock. What was decided about time lasts no
/// longer: of the time between two boots of the hub's machine this much counts at most (`docs/store.md`,
/// "Time"), and a command to many is retained this much longer than [`HISTORY_S`], counted from when it was stored, from its
/// `not_before` or from the end of its rollout, the last of them.
pub const DELIVERY_LIFE_MAX: Duration = Duration::from_secs(TTL_S.max + RUN_TIMEOUT_S.max);
/// Time between heartbeats in seconds. Contract, section 4.
pub const HEARTBEAT_S: Range = Range { default: 15, min: 5, max: 600 };
/// How long a poll is held, in seconds. Contract, section 4.
pub const POLL_WAIT_S: Range = Range { default: 25, min: 0, max: 60 };
/// A nack's `retry_after_s`. Contract, section 2.
pub const RETRY_AFTER_S_MAX: u64 = 7 * 86_400;
/// Items on a page of a list. Contract, section 1.
pub const PAGE_ITEMS: Range = Range { default: 100, min: 1, max: PAGE_ITEMS_MAX as u64 };
/// The most of [`PAGE_ITEMS`], as a `limit`. Contract, section 1.
pub const PAGE_ITEMS_MAX: u32 = 1000;
/// Bytes of the items on a page of a list, as JSON; a page ends early where it would be longer, and holds
/// one item at least. Contract, section 1.
pub const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of `prelude`: 0, or from 2 to this. Contract, section 4.
pub const PRELUDE_BYTES_MAX: usize = 8192;
/// Bytes of prelude for a request that came through a proxy: more than the 4 KiB preview of a
/// content scanner. Contract, section 4.
pub const PRELUDE_BYTES_PROXIED: usize = 4300;
/// Characters of a `User-Agent` that are stored: our choice, longer than any browser's.
pub const AGENT_CHARS_MAX: usize = 512;
/// Characters of a `nonce`. Contract, section 4.
pub const NONCE_CHARS_MAX: usize = 64;
/// The `retry:` of a hello, in milliseconds. Contract, section 4.
pub const HELLO_RETRY_MS: u64 = 2000;
/// The least and the greatest `reconnect_s` of a `bye`, in seconds. Contract, section 4.
pub const BYE_RECONNECT_S: (f64, f64) = (0.5, 5.0);
/// The same of a `bye` `draining`. Contract, section 4.
pub const BYE_RECONNECT_DRAINING_S: (f64, f64) = (1.0, 10.0);
/// The `reconnect_s` of a `bye` `overloaded`, in seconds: our choice within [`BYE_RECONNECT_S`], late enough
/// for a client to read what it was sent. Such streams end one by one, so it needs no spread.
pub const BYE_RECONNECT_OVERLOADED_S: f64 = 3.0;
/// How long a stream may wait for its connection after the request for it was accepted, in milliseconds.
/// Our choice: it takes no time unless the client has disconnected.
pub const STREAM_ATTACH_TIMEOUT_MS: u64 = 10_000;
/// How long a stream that the hub ends may take to send what is unsent, in milliseconds. Our choice.
pub const STREAM_LINGER_MS: u64 = 5_000;
/// How long the hub then waits for the client's FIN, so that no reset destroys bytes in flight, in
/// milliseconds. Our choice.
pub const STREAM_FIN_TIMEOUT_MS: u64 = 1_000;
/// Bytes that a stream may have unsent before it ends as overloaded. Contract, section 4.
pub const UNSENT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of backlog, snapshot or replay in flight to one reader before the rest waits: a quarter of
/// [`UNSENT_BYTES_MAX`], so that live events still fit beside it.
pub const PACED_BYTES: usize = UNSENT_BYTES_MAX / 4;

/// The pause before the comment of `compat=1`, in milliseconds. Contract, section 4.
pub const COMPAT_DELAY_MS: u64 = 100;
/// Heartbeats of `probes=1`, and milliseconds between them. Contract, section 4.
pub const PROBES: u8 = 3;
/// See [`PROBES`].
pub const PROBE_INTERVAL_MS: u64 = 1000;
/// A stream is online for two heartbeats and this many milliseconds after the last byte from the
/// device, or the last write that it accepted. Contract, section 6.
pub const PRESENCE_GRACE_MS: u32 = 10_000;
/// Bytes of frames that may wait for one shard of the hub; beyond it, the streams written to end as
/// overloaded. Our choice: reached only when the machine cannot keep up.
pub const SHARD_INBOX_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Streams of observers and watchers; one more is 429. Every change is sent to every observer. Our choice.
pub const WATCHERS_MAX: usize = 1000;

/// Streams and held answers by which networks are tried (`GET /v1/ping`), at once; one more is 429. Our choice: each costs what an
/// idle stream does.
pub const PING_TRIALS_MAX: usize = 100;
/// How long such a stream lasts beyond one heartbeat. Our choice: time for its probes, and for what a middlebox holds back.
pub const PING_STREAM_LIFE: Duration = Duration::from_secs(60);

/// Bytes that all watchers together hold of what they were sent; one that needs more is 429. A command to 100,000 devices can
/// have some 300 watchers, or 20 such commands one each; those of few devices count for nothing. Our choice.
pub const WATCHER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Rows that a page of a list may look at, after which it ends early: some milliseconds of work. Our choice.
pub const LIST_ROWS_MAX: u32 = 20_000;

/// Bytes of a request's head. Contract, section 1.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Fields in a request's head. Contract, section 1.
pub const HEAD_FIELDS_MAX: usize = 100;
/// How long a request continues whose client has closed its half of the connection. Contract,
/// section 1.
pub const HALF_CLOSE_GRACE: Duration = Duration::from_millis(500);
/// How long a connection may idle between two requests: our choice, as nginx.
pub const CONNECTION_IDLE: Duration = Duration::from_secs(75);
/// How long a TLS handshake may take: our choice, as a request's head.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one attempt to obtain a certificate by ACME may take: our choice.
pub const ACME_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(300);
/// How long one request of it may take: our choice.
pub const ACME_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer to it, of which a chain of certificates is the longest: our choice.
pub const ACME_ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// The pause after the first attempt that failed; it grows fourfold: Let's Encrypt allows five failures an hour.
pub const ACME_RETRY_MIN: Duration = Duration::from_secs(10);
/// The longest pause between attempts: our choice.
pub const ACME_RETRY_MAX: Duration = Duration::from_secs(3600);
/// How often the files of TLS are looked at for changes; what has changed is used when it rests for one such time. Our choice: a
/// renewed certificate is valid for days before the old one expires.
pub const TLS_FILES_POLL: Duration = Duration::from_secs(2);
/// Bytes of the header with which a trusted proxy begins a connection (PROXY protocol, section 2.2, allows 65,551): our
/// choice; with every field that the specification names it has some hundred.
pub const PROXY_HEADER_BYTES_MAX: usize = 4096;
/// How long the 408 for a head that took too long may take to be written: our choice; the connection ends
/// in any case.
pub const HEAD_REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections that wait in the kernel to be accepted: our choice, the `net.core.somaxconn` of
/// Linux since 5.4.
pub const ACCEPT_BACKLOG: u32 = 4096;
/// After how long without a byte the kernel probes the peer (TCP keepalive): our choice, below the
/// idle timeouts of common NATs.
pub const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// How often it probes again. Our choice.
pub const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Requests at once on one HTTP/2 connection; one more waits. hyper's default, stated here because
/// it bounds what a connection costs.
pub const HTTP2_STREAMS_MAX: u32 = 200;
/// How often the hub pings an HTTP/2 connection: our choice.
pub const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long the answer to such a ping may take: our choice.
pub const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes that are read and dropped of a body that was refused, so that a client that writes all of
/// it before it reads gets the answer and not a reset (RFC 9112, section 9.6): our choice.
pub const REFUSED_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long that may take. Our choice.
pub const REFUSED_BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// `Retry-After` of `queue_full` in seconds: our choice; a device that works takes a command from
/// its queue in that time.
pub const RETRY_AFTER_QUEUE_S: u64 = 5;
/// `Retry-After` of `draining` in seconds, at least and at most: our choice. By default the hub ends 2 s after it has begun
/// to drain ([`DRAIN_S`]); a client that comes too early gets another of these, and the spread keeps those that were
/// refused from coming back in one moment.
pub const RETRY_AFTER_DRAINING_S: (u64, u64) = (2, 5);
/// `Retry-After` of `store_unavailable` in seconds: our choice; an operator has to act.
pub const RETRY_AFTER_STORE_S: u64 = 30;
/// Reads of the API that may wait for the store; one more is answered 503. Our choice: some seconds of work,
/// after which no client would wait for the answer. `docs/store.md`.
pub const STORE_READS_WAITING_MAX: usize = 1024;
/// Look-ups of tokens that may wait for the store, together with what the core loads; one more is answered 503. They are answered
/// many at once. Our choice: a large fleet that connects in one moment. `docs/store.md`.
pub const TOKEN_READS_WAITING_MAX: usize = 64 * 1024;
/// Devices that one request looks at in search of those that are online, or not: our choice. A page with
/// fewer items than requested may therefore be followed by another.
pub const DEVICES_SEARCHED_MAX: usize = 10 * PAGE_ITEMS_MAX as usize;
/// How long ago a device was seen, in a list of those that were not seen since: our choice, up to 10 years.
pub const UNSEEN_S: Range = Range { default: 7 * 86_400, min: 1, max: 10 * 365 * 86_400 };
/// How long the hub may take to end, from SIGTERM on. Contract, section 9: 10 s, of which the rest is for the
/// exit of the process.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(9_500);
/// How much of it requests in flight may take after [`DRAIN_S`], once no connection is accepted any more:
/// our choice. Waits and polls were answered before, so these requests are being read or answered.
pub const SHUTDOWN_IN_FLIGHT: Duration = Duration::from_millis(1_500);
/// How much of it the last bytes of streams may take after that, in milliseconds: our choice.
pub const SHUTDOWN_STREAMS_MS: u64 = 1_000;

/// The greatest [`LEASE`], in seconds. Setting `lease`.
pub const LEASE_CEILING_S: u64 = 3600;
/// The most that [`QUEUE_MAX`] may be set to. Setting `queue_max`.
pub const QUEUE_CEILING: usize = 100_000;
/// The most that [`MAX_IN_FLIGHT`] may be set to. Setting `max_in_flight`.
pub const IN_FLIGHT_CEILING: usize = 100;
/// How often a cancel of a part of a command looks for deliveries that have yet to come into being; then it is 429
/// `rate_limited`. With [`CANCEL_LOOK_EVERY`] these are 30 s: our choice.
pub const CANCEL_LOOKS: u32 = 300;
/// The pause between two of these looks.
pub const CANCEL_LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long commands are retained after their end, in seconds: at least as long as an
/// [`IDEMPOTENCY_RETENTION`]. Setting `history`.
pub const HISTORY_S: Range = Range { default: 30 * 86_400, min: 86_400, max: 3650 * 86_400 };
/// Requests per second of one address; 0 is no limit. Default our choice: what 10,000 appliances behind one NAT cause is some
/// hundred, and after an outage [`RATE_BURST_S`] times as many at once. Setting `requests_per_address`.
pub const REQUESTS_PER_ADDRESS: Range = Range { default: 5_000, min: 0, max: 1_000_000 };
/// Requests per second with the token of one device; 0 is no limit. Default our choice: an appliance that reports as fast as
/// it can stays below. Setting `requests_per_device`.
pub const REQUESTS_PER_DEVICE: Range = Range { default: 100, min: 0, max: 1_000_000 };
/// Requests per second with any other token, and of all together; 0, the default, is no limit: how much a hub can do depends
/// on its machine. Settings `requests_per_token`, `requests_max`.
pub const REQUESTS: Range = Range { default: 0, min: 0, max: 1_000_000 };
/// For so many seconds' worth of requests may come at once: our choice, for a fleet that reconnects.
pub const RATE_BURST_S: u64 = 10;
/// Connections of one address, each request of an HTTP/2 connection counted as one; 0 is no limit. Default our choice: 10,000
/// appliances behind one NAT with two each. Setting `connections_per_address`.
pub const CONNECTIONS_PER_ADDRESS: Range = Range { default: 20_000, min: 0, max: 10_000_000 };
/// Streams of observers and watchers with one token; 0 is no limit. Default our choice. Setting `watchers_per_token`.
pub const WATCHERS_PER_TOKEN: Range = Range { default: 100, min: 0, max: 1_000 };
/// Streams of devices with one token; one more is 429. 0 is no limit. A device's own token has two at most, its stream and one that
/// is not confirmed; this bounds the tokens that listen for several devices. Default our choice: a fleet of 10,000 with one
/// token, twice over while it reconnects. Setting `streams_per_token`.
pub const STREAMS_PER_TOKEN: Range = Range { default: 20_000, min: 0, max: 10_000_000 };
/// Bytes that all streams together may have unsent; 0 is no limit. Beyond it a stream whose reader is behind ends with `bye`
/// `overloaded` at the next event, and those that are up to date go on. Default our choice: 50 KiB for each of 10,000 streams
/// of a site whose line is down. Setting `unsent_bytes_max`. What was passed on and is not with the kernel is not among them: up
/// to 64 KiB of a stream over HTTP/2, and a record of 16 KiB over TLS.
pub const UNSENT_BYTES_IN_ALL: Range = Range { default: 512 << 20, min: 0, max: 1 << 40 };
/// Bytes that the store may hold, about; beyond them a send is 429 `queue_full`, and what devices report is still stored. 0, the
/// default, is no limit but the disk's. Setting `store_bytes_max`.
pub const STORE_BYTES: Range = Range { default: 0, min: 0, max: 1 << 50 };
/// Bytes that the commands of one sender (a token, a client's certificate) may take in the store, about, as long as they are there;
/// beyond them its sends are 429 `queue_full`. 0, the default, is no limit. Setting `store_bytes_per_token`.
pub const STORE_BYTES_PER_TOKEN: Range = Range { default: 0, min: 0, max: 1 << 50 };
/// Bytes that a delivery counts for there, beside the data of its command: our choice, about what it takes.
pub const DELIVERY_STORED_BYTES: u64 = 400;
/// Bytes that a send leaves free on the disk of the store, for what devices report of the commands that it holds; 0 is none.
/// Default our choice: hundreds of reports of the greatest size, or some hundred thousand of the usual one. Setting
/// `store_free_min`.
pub const STORE_FREE: Range = Range { default: 64 << 20, min: 0, max: 1 << 50 };
/// How often at most the store looks at both, and so how long sends may go on beyond them: our choice.
pub const STORE_SPACE_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes of bodies that are being received from one address, and with one token; 0 is no limit. Default our choice: thousands of
/// reports at once. Settings `body_bytes_per_address`, `body_bytes_per_token`.
pub const BODY_BYTES: Range = Range { default: 64 << 20, min: 0, max: 1 << 40 };
/// Bytes of bodies that are being received in all; 0 is no limit. Default our choice. Setting `body_bytes_max`.
pub const BODY_BYTES_IN_ALL: Range = Range { default: 256 << 20, min: 0, max: 1 << 40 };
/// Credentials of one address that may fail before it is answered 429, and in how many seconds one of them is forgotten: our
/// choice. docs/protocol.md, section 6.
pub const FAILED_CREDENTIALS: (u64, u64) = (30, 6);
/// The longest `Retry-After` for those, in seconds; it doubles with each one until then: our choice.
pub const RETRY_AFTER_FAILED_S_MAX: u64 = 300;
/// Bytes of a JWT: our choice, below what proxies let pass of a field.
pub const JWT_BYTES_MAX: usize = 8 * 1024;
/// Leeway of `exp` and `nbf`, in seconds: clocks differ. Our choice, within RFC 7519, section 4.1.4.
pub const JWT_LEEWAY_S: u64 = 60;
/// How far in the future `exp` may be, in seconds: a year, our choice. A JWT cannot be revoked.
pub const JWT_LIFE_S_MAX: u64 = 366 * 86_400;
/// Characters of `sub`: our choice.
pub const JWT_SUBJECT_CHARS_MAX: usize = 200;
/// Bytes of a file with keys, and keys in it: our choice.
pub const JWT_KEYS_BYTES_MAX: u64 = 256 * 1024;
/// See [`JWT_KEYS_BYTES_MAX`].
pub const JWT_KEYS_MAX: usize = 64;
/// Bytes of a secret that signs JWTs, at least: those of its hash. RFC 7518, section 3.2.
pub const JWT_SECRET_BYTES_MIN: usize = 32;
/// How often a file with keys is looked at: our choice.
pub const JWT_KEYS_LOOK_EVERY: Duration = Duration::from_secs(5);
/// Time for the keys to come from their URL, redirects included: our choice.
pub const JWT_FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Redirects that are followed for them, within one host: our choice.
pub const JWT_FETCH_REDIRECTS_MAX: usize = 3;
/// How long keys from a URL are used before they are fetched again, by the `max-age` of their answer (RFC 9111, section
/// 5.2.2.1): at least, at most, and without one. Our choice: issuers say five minutes to a day.
pub const JWT_KEYS_FRESH: (Duration, Duration, Duration) =
    (Duration::from_secs(300), Duration::from_secs(86_400), Duration::from_secs(3600));
/// How long they are used after that, while they cannot be fetched: our choice. A night without the issuer passes; who stops
/// the hub from reaching it gains a day for a key that was withdrawn.
pub const JWT_KEYS_STALE_MAX: Duration = Duration::from_secs(86_400);
/// The pause after a fetch that failed, which doubles with each: the first and the longest. Our choice.
pub const JWT_FETCH_RETRY: (Duration, Duration) =
    (Duration::from_secs(10), Duration::from_secs(300));
/// How often at most a token with an unknown `kid` has the keys fetched: our choice. A client that sends such tokens costs the issuer
/// one request in that time.
pub const JWT_UNKNOWN_KID_EVERY: Duration = Duration::from_secs(60);
/// Requests that wait for the keys at once, for [`JWT_FETCH_TIMEOUT`] at most; more are refused at once. Our choice.
pub const JWT_WAITING_MAX: usize = 1000;
/// JWTs with streams, or waiting, that are remembered until they expire, so that they end with their key: our choice, some
/// 16 MiB. One more is refused.
pub const JWT_USES_MAX: usize = 200_000;
/// Events that wait for the task that sends them to observers and watchers; more end the streams of observers with `bye`
/// `overloaded`. A hub does some ten thousand changes a second at most: this is most of a second of them, and the task needs
/// some microseconds for each. Our choice.
pub const FEED_EVENTS_MAX: usize = 32_768;
/// Bytes of output and results in the events that wait there, likewise. Our choice.
pub const FEED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long the audit log is retained, in seconds. Contract, section 6, "Audit". Setting `audit_keep`.
pub const AUDIT_KEEP_S: Range = Range { default: 90 * 86_400, min: 86_400, max: 3650 * 86_400 };
/// Bytes of the audit log, about, beyond which its oldest entries are deleted before their time: some ten million entries by
/// default, our choice. Setting `audit_bytes_max`.
pub const AUDIT_BYTES: Range = Range { default: 1 << 30, min: 1 << 20, max: 1 << 40 };
/// Refusals that are counted apart: those of so many callers, addresses and codes within a minute. Those of others are
/// counted by their code alone. Our choice, some 2 MiB.
pub const AUDIT_REFUSALS_MAX: usize = 4096;
/// For how long equal refusals are one entry. Contract, section 6, "Audit".
pub const AUDIT_REFUSAL_WINDOW: Duration = Duration::from_secs(60);
/// Streams that follow the audit log at once; one more is 429. Our choice: few people follow it.
pub const AUDIT_FOLLOWERS_MAX: usize = 64;
/// Entries that a stream of the audit log reads at once: our choice.
pub const AUDIT_FOLLOWED_ROWS: u32 = 200;
/// Least time between two looks of such a stream at the log: our choice. What is written meanwhile comes together.
pub const AUDIT_FOLLOW_PAUSE: Duration = Duration::from_millis(100);
/// Connections at once. Setting `connections_max`.
pub const CONNECTIONS: Range = Range { default: 200_000, min: 1, max: 10_000_000 };
/// How long the head of a request may take, in seconds. Setting `header_timeout`.
pub const HEADER_TIMEOUT_S: Range = Range { default: 10, min: 1, max: 300 };
/// How long the body of a request may take, in seconds. Setting `body_timeout`.
pub const BODY_TIMEOUT_S: Range = Range { default: 30, min: 1, max: 3600 };
/// How long a draining hub takes reports, in seconds; the rest of the 10 s is for streams.
/// Contract, section 9, and setting `drain`.
pub const DRAIN_S: Range = Range { default: 2, min: 0, max: 8 };
/// Threads that hold streams; 0 is one per core. Setting `shards`.
pub const SHARDS: Range = Range { default: 0, min: 0, max: 256 };
/// The most threads that 0 in [`SHARDS`] stands for: our choice. More would only spread the streams thinner.
pub const SHARDS_BY_CORES_MAX: usize = 64;

/// Bytes of a body posted to a classic server: our choice; the original relies on Tornado's 100 MiB.
pub const CLASSIC_BODY_BYTES_MAX: usize = 1024 * 1024;
/// How long such a body may take: our choice.
pub const CLASSIC_BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that a classic stream may have unsent: two of the longest events, in which every line end
/// became a `data` line.
pub const CLASSIC_UNSENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Events retained for each token of a classic server with ids. Contract, section 10.
pub const CLASSIC_HISTORY_EVENTS_MAX: usize = 100;
/// Tokens that have a history: our choice.
pub const CLASSIC_HISTORY_TOKENS_MAX: usize = 10_000;
/// Bytes of all events retained: our choice.
pub const CLASSIC_HISTORY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a listener of a token in use waits before it is answered 423, so that a client that
/// reconnects at once does not collide with its own closed connection: our choice.
pub const CLASSIC_LOCKED_GRACE: Duration = Duration::from_millis(100);
/// How long requests in flight and the last bytes of streams may take when `eventsource-server`
/// ends: our choice.
pub const CLASSIC_SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// The least time between two connections of `eventsource-client`. Contract, section 10.
pub const CLASSIC_RECONNECT_MIN: Duration = Duration::from_millis(100);
/// How long `eventsource-request` waits for the answer: our choice.
pub const CLASSIC_ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes that it reads of an answer: our choice.
pub const CLASSIC_ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Levels of nesting in JSON mode: our choice. The parser is recursive, and so many frames fit on
/// any thread's stack; Python ends at about 990, depending on its call stack.
pub const CLASSIC_JSON_DEPTH_MAX: usize = 900;

/// A number with a default and bounds, all inclusive. The unit is in the name of the constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The value when none is given.
    pub default: u64,
    /// The least value that is accepted.
    pub min: u64,
    /// The greatest value that is accepted.
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
