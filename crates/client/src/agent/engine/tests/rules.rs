//! The rules that a simulation does not single out, one by one.

use std::sync::Arc;

use bellwire_proto::{Seq, Timestamp};

use super::keeping::{COMPACT_BYTES_MIN, KEPT_MS, RESULT_BYTES_MAX};
use super::world::ByName;
use super::*;
use crate::agent::run::End;

/// An engine whose disk answers at once and whose hub says what the test says.
struct Bench {
    engine: Engine,
    now_ms: u64,
    bytes: u64,
    disk: Vec<Record>,
    disk_full: bool,
    posts: VecDeque<(u64, CommandId, Report)>,
    started: Vec<CommandId>,
    stopped: Vec<(CommandId, Stop)>,
    swept: Vec<CommandId>,
}

const HUB_MS: u64 = 1_800_000_000_000;

impl Bench {
    fn new() -> Self {
        Self::after(Vec::new(), "boot-1", 1000)
    }

    /// On what a life before left on the disk.
    fn after(disk: Vec<Record>, boot: &str, now_ms: u64) -> Self {
        let mut engine = Engine::new(Arc::new(ByName), boot.into(), 7);
        disk.iter().for_each(|record| engine.restore(record.clone()));
        engine.begin(now_ms, 0);
        let (posts, bytes) = (VecDeque::new(), 0);
        let (started, stopped, swept) = (Vec::new(), Vec::new(), Vec::new());
        let disk_full = false;
        let mut bench =
            Self { engine, now_ms, bytes, disk, disk_full, posts, started, stopped, swept };
        bench.act();
        bench
    }

    fn connected() -> Self {
        let mut bench = Self::new();
        bench.hello(HUB_MS, 1);
        bench
    }

    fn hello(&mut self, hub_ms: u64, max_in_flight: usize) {
        self.engine.handle_hello(self.now_ms, hub_ms, max_in_flight);
        self.act();
    }

    fn act(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Write { ticket, .. } if self.disk_full => {
                    self.engine.handle_disk_full(self.now_ms, ticket);
                }
                Output::Write { ticket, records, .. } => {
                    self.disk.extend(records);
                    self.engine.handle_written(self.now_ms, ticket, self.bytes);
                }
                Output::Compact { records, .. } => {
                    self.disk = records;
                    self.engine.handle_compacted(Some(self.bytes));
                }
                Output::Post { ticket, command, report } => {
                    self.posts.push_back((ticket, command, report));
                }
                Output::Start { event, .. } => self.started.push(event.id),
                Output::Stop { command, stop } => self.stopped.push((command, stop)),
                Output::Sweep { command } => self.swept.push(command),
            }
        }
    }

    fn sleep(&mut self, ms: u64) {
        self.now_ms += ms;
        self.engine.handle_timeout(self.now_ms);
        self.act();
    }

    fn command(&mut self, n: u64, action: &str) -> CommandId {
        let event = event(n, action);
        let id = event.id;
        self.engine.handle_command(self.now_ms, event);
        self.act();
        id
    }

    fn cancel(&mut self, n: u64) -> CommandId {
        let CommandEvent { id, seq, .. } = event(n, "fail");
        self.engine.handle_cancel(self.now_ms, CancelEvent { id, seq });
        self.act();
        id
    }

    /// The next report, which must be of this command and state, is answered so.
    fn answer(&mut self, id: CommandId, state: ReportState, answer: Answer) -> Report {
        let next = self.posts.pop_front().expect("a report");
        let (ticket, command, report) = next;
        assert_eq!((command, report.state), (id, state), "{report:?}");
        self.engine.handle_answer(self.now_ms, ticket, answer);
        self.act();
        report
    }

    fn shown(&mut self, id: CommandId, state: ReportState, delivery: State) -> Report {
        let rev = self.posts.front().and_then(|(_, _, report)| report.rev).unwrap();
        self.answer(id, state, Answer::Delivery { state: delivery, rev })
    }

    /// Up to a running handler.
    fn running(&mut self, n: u64, action: &str) -> CommandId {
        let id = self.command(n, action);
        self.shown(id, ReportState::Accepted, State::Accepted);
        assert_eq!(self.started.last(), Some(&id));
        self.shown(id, ReportState::Running, State::Running);
        id
    }

    fn ended(&mut self, id: CommandId, ended: Ended) {
        self.engine.handle_ended(self.now_ms, id, ended);
        self.act();
    }

    fn succeeded(&mut self, id: CommandId) {
        let stdout = Some("out\n".to_owned());
        let outcome = Outcome { stdout, ..Outcome::of(End::Succeeded) };
        self.ended(id, Ended::Finished(outcome));
    }
}

fn event(n: u64, action: &str) -> CommandEvent {
    CommandEvent {
        id: CommandId::from_parts(n, [n as u8; 10]),
        seq: n.to_string().parse::<Seq>().unwrap(),
        action: action.parse().unwrap(),
        data: Json::null(),
        attempt: 1,
        created_at: Timestamp::from_unix_ms(HUB_MS),
        expires_at: Timestamp::from_unix_ms(HUB_MS + 3_600_000),
        ttl_s: 3600,
        run_timeout_s: 300,
    }
}

fn code(report: &Report) -> Option<&str> {
    report.error.as_ref().map(|error| error.code.as_str())
}

const FAILED: Answer = Answer::Failed { retry_after: None };

#[test]
fn nothing_runs_before_the_hub_has_answered_to_accepted() {
    let mut bench = Bench::connected();
    let id = bench.command(1, "fail");
    for _ in 0..5 {
        bench.answer(id, ReportState::Accepted, FAILED);
        assert!(bench.started.is_empty() && bench.posts.is_empty());
        bench.sleep(60_000);
    }
    bench.shown(id, ReportState::Accepted, State::Accepted);
    assert_eq!(bench.started, [id]);
}

#[test]
fn what_the_hub_has_ended_never_runs() {
    let ended = [State::Expired, State::TimedOut, State::Cancelled, State::Dead, State::Succeeded];
    let shown = ended.map(|state| Answer::Delivery { state, rev: 0 });
    for (n, answer) in (1..).zip(shown.into_iter().chain([Answer::Conflict, Answer::Gone])) {
        let mut bench = Bench::connected();
        let id = bench.command(n, "fail");
        bench.answer(id, ReportState::Accepted, answer);
        bench.sleep(100_000);
        assert!(bench.started.is_empty() && bench.posts.is_empty(), "{answer:?}");
        // Nor after a restart.
        let bench = Bench::after(bench.disk, "boot-1", 200_000);
        assert!(bench.posts.is_empty() && bench.swept.is_empty(), "{answer:?}");
    }
}

#[test]
fn a_command_that_waits_past_its_time_is_stale() {
    let mut bench = Bench::connected();
    let first = bench.running(1, "fail");
    let second = bench.command(2, "fail");
    bench.shown(second, ReportState::Accepted, State::Accepted);
    bench.sleep(3_600_000);
    bench.shown(first, ReportState::Running, State::Running);
    let report = bench.shown(second, ReportState::Rejected, State::Rejected);
    assert_eq!(code(&report), Some("stale"));
}

#[test]
fn commands_start_in_the_order_of_the_hub_and_none_overtakes() {
    let mut bench = Bench::connected();
    bench.hello(HUB_MS, 3);
    let first = bench.running(1, "fail");
    // Another of the same action waits for it, and one of another action behind that too.
    let (second, third) = (bench.command(2, "fail"), bench.command(3, "rerun"));
    bench.shown(second, ReportState::Accepted, State::Accepted);
    bench.shown(third, ReportState::Accepted, State::Accepted);
    assert_eq!(bench.started, [first]);
    bench.succeeded(first);
    assert_eq!(bench.started, [first, second, third]);
}

#[test]
fn signs_of_life_come_at_most_10_seconds_apart() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    let waiting = bench.command(2, "fail");
    bench.shown(waiting, ReportState::Accepted, State::Accepted);
    for _ in 0..20 {
        bench.sleep(10_000);
        bench.answer(id, ReportState::Running, FAILED);
        bench.shown(waiting, ReportState::Accepted, State::Accepted);
    }
}

#[test]
fn a_cancel_for_an_unknown_command_is_recorded_and_that_command_never_runs() {
    let mut bench = Bench::connected();
    let id = bench.cancel(1);
    bench.shown(id, ReportState::Cancelled, State::Cancelled);
    let mut bench = Bench::after(bench.disk, "boot-1", 50_000);
    bench.hello(HUB_MS, 1);
    bench.command(1, "fail");
    bench.shown(id, ReportState::Cancelled, State::Cancelled);
    assert!(bench.started.is_empty());
}

#[test]
fn a_cancelled_handler_is_stopped_and_one_that_had_ended_keeps_its_result() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.cancel(1);
    assert_eq!(bench.stopped, [(id, Stop::Cancel)]);
    let stdout = Some("half".to_owned());
    let stopped = Outcome { stdout, ..Outcome::of(End::Cancelled) };
    bench.ended(id, Ended::Stopped(stopped));
    let report = bench.shown(id, ReportState::Cancelled, State::Cancelled);
    assert_eq!(report.stdout.as_deref(), Some("half"));

    let id = bench.running(2, "fail");
    bench.cancel(2);
    bench.succeeded(id);
    bench.shown(id, ReportState::Succeeded, State::Succeeded);
}

#[test]
fn a_cancel_that_was_lost_is_seen_in_the_hubs_answer() {
    let mut bench = Bench::connected();
    let waiting = bench.command(1, "fail");
    bench.shown(waiting, ReportState::Accepted, State::Cancelling);
    bench.shown(waiting, ReportState::Cancelled, State::Cancelled);
    let id = bench.running(2, "fail");
    bench.sleep(10_000);
    bench.shown(id, ReportState::Running, State::Cancelling);
    assert_eq!((bench.started, bench.stopped), (vec![id], vec![(id, Stop::Cancel)]));
}

#[test]
fn a_duplicate_is_told_again_with_a_new_rev_and_does_not_run_again() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.succeeded(id);
    let first = bench.shown(id, ReportState::Succeeded, State::Succeeded);
    bench.command(1, "fail");
    let again = bench.shown(id, ReportState::Succeeded, State::Succeeded);
    assert!(again.rev > first.rev, "{:?} and {:?}", first.rev, again.rev);
    let mut bench = Bench::after(bench.disk, "boot-2", 50);
    bench.hello(HUB_MS, 1);
    bench.command(1, "fail");
    let later = bench.shown(id, ReportState::Succeeded, State::Succeeded);
    assert!(later.rev > again.rev, "{:?} and {:?}", again.rev, later.rev);
    assert!(bench.started.is_empty());
}

#[test]
fn a_result_is_told_until_the_delivery_shows_it() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.succeeded(id);
    // A hub that has seen a greater rev ignores this one: the journal is younger than the hub.
    let rev = 1 << 40;
    let first =
        bench.answer(id, ReportState::Succeeded, Answer::Delivery { state: State::Running, rev });
    bench.sleep(60_000);
    let second = bench.shown(id, ReportState::Succeeded, State::Succeeded);
    assert!(first.rev.unwrap() < rev && second.rev.unwrap() > rev, "{:?}", second.rev);
    bench.sleep(100_000);
    assert!(bench.posts.is_empty());
}

#[test]
fn a_result_that_is_too_large_goes_once_more_without_output() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.succeeded(id);
    let whole = bench.answer(id, ReportState::Succeeded, Answer::TooLarge);
    let thin = bench.shown(id, ReportState::Succeeded, State::Succeeded);
    assert_eq!((whole.stdout.as_deref(), thin.stdout), (Some("out\n"), None));
    assert_eq!(thin.truncated, Some(true));
}

#[test]
fn a_refused_result_is_told_every_5_minutes_for_a_day_and_holds_up_no_other() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.succeeded(id);
    bench.answer(id, ReportState::Succeeded, Answer::Unfit);
    let other = bench.running(2, "fail");
    bench.succeeded(other);
    bench.shown(other, ReportState::Succeeded, State::Succeeded);
    let mut times = 1;
    for _ in 0..2000 {
        bench.sleep(60_000);
        if !bench.posts.is_empty() {
            bench.answer(id, ReportState::Succeeded, Answer::Unfit);
            times += 1;
        }
    }
    assert_eq!(times, 1 + 24 * 60 / 5);
    let bench = Bench::after(bench.disk, "boot-1", 50_000);
    assert!(bench.posts.is_empty(), "it is given up for good");
}

#[test]
fn retry_after_is_heeded() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.succeeded(id);
    let busy = Answer::Failed { retry_after: Some(Duration::from_secs(7)) };
    bench.answer(id, ReportState::Succeeded, busy);
    bench.sleep(6999);
    assert!(bench.posts.is_empty());
    bench.sleep(1);
    bench.shown(id, ReportState::Succeeded, State::Succeeded);
}

#[test]
fn after_a_reboot_the_hubs_clock_is_waited_for() {
    let mut bench = Bench::connected();
    let id = bench.command(1, "fail");
    // A clock that began anew says nothing of what came before.
    let mut bench = Bench::after(bench.disk, "boot-2", 5);
    bench.shown(id, ReportState::Accepted, State::Accepted);
    bench.sleep(100_000_000);
    assert!(bench.started.is_empty(), "the hub's clock is not known yet");
    bench.posts.clear();
    let mut late = Bench::after(bench.disk.clone(), "boot-3", 5);
    bench.hello(HUB_MS + 3_599_999, 1);
    assert_eq!(bench.started, [id]);
    late.hello(HUB_MS + 3_600_000, 1);
    late.answer(id, ReportState::Accepted, FAILED);
    let report = late.shown(id, ReportState::Rejected, State::Rejected);
    assert_eq!(code(&report), Some("stale"));
}

#[test]
fn what_ran_when_the_agent_died_follows_on_restart() {
    for (action, boot, told, reason) in [
        ("fail", "boot-1", ReportState::Failed, Some("interrupted")),
        ("fail", "boot-2", ReportState::Failed, Some("interrupted")),
        ("succeed", "boot-1", ReportState::Failed, Some("interrupted")),
        ("succeed", "boot-2", ReportState::Succeeded, None),
    ] {
        let mut bench = Bench::connected();
        let id = bench.running(1, action);
        let mut bench = Bench::after(bench.disk, boot, 5);
        assert_eq!(bench.swept.len(), usize::from(action == "fail"), "{action} {boot}");
        bench.engine.handle_swept(5, id);
        bench.act();
        let (_, _, report) = bench.posts.pop_front().unwrap();
        assert_eq!((report.state, code(&report)), (told, reason), "{action} {boot}");
        assert!(bench.started.is_empty());
    }
}

#[test]
fn a_command_is_run_again_three_times_at_most_and_after_its_remains_are_dead() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "rerun");
    for _ in 0..3 {
        bench = Bench::after(bench.disk, "boot-1", 2000);
        assert_eq!((&bench.swept[..], &bench.started[..]), (&[id][..], &[][..]));
        bench.engine.handle_swept(2000, id);
        bench.act();
        assert_eq!(bench.started, [id]);
    }
    bench = Bench::after(bench.disk, "boot-1", 2000);
    bench.engine.handle_swept(2000, id);
    bench.act();
    assert!(bench.started.is_empty());
    let report = bench.shown(id, ReportState::Failed, State::Failed);
    assert_eq!(code(&report), Some("interrupted"));
}

#[test]
fn a_shutdown_takes_nothing_new_and_gives_handlers_half_a_minute() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.engine.handle_shutdown(bench.now_ms);
    bench.act();
    assert_eq!(bench.stopped, [(id, Stop::Shutdown)]);
    let written = bench.disk.len();
    bench.command(2, "fail");
    assert_eq!((bench.disk.len(), bench.posts.len()), (written, 0), "the hub keeps it");
    bench.sleep(29_999);
    assert!(!bench.engine.is_over(bench.now_ms) && bench.stopped.len() == 1);
    bench.posts.clear();
    bench.sleep(1);
    assert_eq!(bench.stopped.last(), Some(&(id, Stop::Kill)));
    bench.ended(id, Ended::Stopped(Outcome::failed("interrupted", "killed")));
    let report = bench.shown(id, ReportState::Failed, State::Failed);
    assert_eq!(code(&report), Some("interrupted"));
    assert!(bench.engine.is_over(bench.now_ms));
}

#[test]
fn a_rerun_that_a_shutdown_ends_is_left_to_the_next_life() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "rerun");
    bench.engine.handle_shutdown(bench.now_ms);
    bench.act();
    bench.ended(id, Ended::Finished(Outcome::failed("signal", "it got a TERM too")));
    assert!(bench.posts.is_empty() && bench.engine.is_over(bench.now_ms));
    let mut bench = Bench::after(bench.disk, "boot-1", 5000);
    bench.engine.handle_swept(5000, id);
    bench.act();
    assert_eq!(bench.started, [id]);
}

#[test]
fn a_full_journal_or_disk_refuses_what_is_new_and_records_what_runs() {
    let mut bench = Bench::connected();
    let first = bench.running(1, "fail");
    bench.bytes = JOURNAL_BYTES_MAX - RESULT_BYTES_MAX;
    bench.sleep(10_000);
    bench.shown(first, ReportState::Running, State::Running);
    bench.cancel(50);
    bench.posts.clear();
    let second = bench.command(2, "fail");
    let report = bench.shown(second, ReportState::Rejected, State::Rejected);
    assert_eq!(code(&report), Some("journal_full"));

    bench.bytes = 0;
    bench.disk_full = true;
    let third = bench.command(3, "fail");
    let report = bench.shown(third, ReportState::Rejected, State::Rejected);
    assert_eq!(code(&report), Some("journal_full"));
    bench.succeeded(first);
    assert!(bench.posts.is_empty(), "what is not on disk is not told");
    bench.disk_full = false;
    bench.sleep(DISK_RETRY_MS);
    bench.shown(first, ReportState::Succeeded, State::Succeeded);
}

#[test]
fn a_start_that_the_disk_put_off_and_a_shutdown_overtook_wakes_nobody() {
    let mut bench = Bench::connected();
    let id = bench.command(1, "fail");
    bench.disk_full = true;
    bench.shown(id, ReportState::Accepted, State::Accepted);
    bench.engine.handle_shutdown(bench.now_ms);
    bench.sleep(DISK_RETRY_MS);
    assert!(bench.started.is_empty());
    let wake_ms = bench.engine.poll_timeout();
    assert!(wake_ms.is_none_or(|at| at > bench.now_ms), "it would spin: {wake_ms:?}");
}

#[test]
fn what_is_older_than_the_longest_ttl_and_a_day_is_forgotten_and_nothing_younger() {
    let mut bench = Bench::connected();
    let old = bench.running(1, "fail");
    bench.succeeded(old);
    bench.shown(old, ReportState::Succeeded, State::Succeeded);
    bench.sleep(60_000);
    let young = bench.cancel(2);
    bench.shown(young, ReportState::Cancelled, State::Cancelled);
    let unheard = bench.cancel(3);
    bench.sleep(KEPT_MS - 59_000);
    bench.bytes = 2 * COMPACT_BYTES_MIN;
    bench.answer(unheard, ReportState::Cancelled, FAILED);
    bench.command(4, "unlisted");
    let kept = Bench::after(bench.disk, "boot-1", bench.now_ms).engine;
    let known = |id| kept.entries.contains_key(&id);
    assert_eq!((known(old), known(young), known(unheard)), (false, true, true));
}
