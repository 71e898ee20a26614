//! Promise: a handler runs once, whatever crashes.
//!
//! Real agents, each behind a bad link of its own, at one real hub. Each agent is killed with SIGKILL at the points
//! of a command's life cycle that its seed names, and started again on the same journal; the hub is killed now and
//! then; links lose requests, lose answers, break streams, and repeat requests at once and late. Some commands are
//! cancelled. The handlers append to a file. At the end that file and the hub must agree: each command ran exactly
//! once, or at most once and is `failed` with code `interrupted` or `cancelled`.
//!
//! A machine cannot be rebooted in a test: some of the crashes count as reboots, since the agent is then started with
//! another boot id (`BELLWIRE_FAULT_BOOT_ID`), which decides `on_restart = "succeed"` and the time to live. Orphan
//! processes survive here, as they would not over a reboot. More than one command at a time and a full disk are left
//! to the simulation of the engine.
//!
//! `AGENT_ONCE_SEED=n` runs one history, `AGENT_ONCE_SEED=m..n` a range of them. `BELLWIRE_FAULT_NO_START_RECORD`
//! leaves the start record out of the journal, and then a command must be found that ran twice.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic here is the message")]

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bellwire_testkit::{Http, Program, Random, wait_until};

use link::Link;

#[path = "agent_once/link.rs"]
mod link;

const HISTORIES: u64 = 200;
/// Histories that run in parallel.
const WORKERS: usize = 12;
/// The hub is killed each time that this many histories have ended.
const HISTORIES_PER_HUB: usize = 25;
const POINTS: [&str; 10] = [
    "received",
    "journaled",
    "accept_sent",
    "accepted",
    "started",
    "spawned",
    "exited",
    "recorded",
    "result_sent",
    "acked",
];
const ACTIONS: [&str; 4] = ["once", "once", "again", "boot"];

#[test]
fn each_handler_runs_once_whatever_dies() {
    let requested = std::env::var("AGENT_ONCE_SEED").ok().map(|text| {
        let (first, end) = text.split_once("..").unwrap_or((&text, ""));
        let first: u64 = first.parse().unwrap();
        first..end.parse().unwrap_or(first + 1)
    });
    let seeds = requested.clone().unwrap_or(0..HISTORIES);
    let folder = tempfile::tempdir().unwrap();
    let hub = HubUnderFire::start(folder.path());
    let (next, ended) = (AtomicU64::new(seeds.start), AtomicUsize::new(0));
    let sums = Mutex::new(Sums::default());
    let broken = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let _guard = OnPanic(&broken);
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end || broken.load(Ordering::SeqCst) {
                        return;
                    }
                    let of_history = run_history(seed, &hub, Journal::Whole)
                        .unwrap_or_else(|fault| panic!("AGENT_ONCE_SEED={seed}: {fault}"));
                    sums.lock().unwrap().add(&of_history);
                    if (ended.fetch_add(1, Ordering::SeqCst) + 1) % HISTORIES_PER_HUB == 0 {
                        hub.kill_and_start();
                    }
                }
            });
        }
    });
    let sums = sums.into_inner().unwrap();
    println!("{sums:?}");
    // A world without faults proves nothing.
    if requested.is_none() {
        assert!(sums.deaths.iter().all(|(_, deaths)| *deaths > 0), "each point kills: {sums:?}");
        assert!(sums.interrupted > 0 && sums.reruns > 0, "some die in the middle: {sums:?}");
        assert!(sums.succeeded_by_boot > 0 && sums.cancelled > 0, "{sums:?}");
    }
}

#[test]
fn the_test_fails_without_start_records() {
    let folder = tempfile::tempdir().unwrap();
    let hub = HubUnderFire::start(folder.path());
    let caught = (0..20).find_map(|seed| run_history(seed, &hub, Journal::WithoutStarts).err());
    let fault = caught.expect("without start records some handler runs twice, and it is seen");
    assert!(fault.contains("started 2 times"), "{fault}");
}

/// What happened in the histories.
#[derive(Debug)]
struct Sums {
    commands: usize,
    succeeded: usize,
    interrupted: usize,
    reruns: usize,
    /// How many of the crashes counted as reboots.
    boots: usize,
    /// Reported by the agent after a reboot, and not by the handler.
    succeeded_by_boot: usize,
    cancelled: usize,
    deaths: Vec<(&'static str, usize)>,
}

impl Default for Sums {
    fn default() -> Self {
        let deaths = POINTS.iter().map(|point| (*point, 0)).collect();
        Self {
            commands: 0,
            succeeded: 0,
            interrupted: 0,
            reruns: 0,
            boots: 0,
            succeeded_by_boot: 0,
            cancelled: 0,
            deaths,
        }
    }
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.commands += other.commands;
        self.succeeded += other.succeeded;
        self.interrupted += other.interrupted;
        self.reruns += other.reruns;
        self.boots += other.boots;
        self.succeeded_by_boot += other.succeeded_by_boot;
        self.cancelled += other.cancelled;
        for ((_, sum), (_, more)) in self.deaths.iter_mut().zip(&other.deaths) {
            *sum += more;
        }
    }
}

/// Stops the other workers when one has found a fault.
struct OnPanic<'a>(&'a AtomicBool);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// The hub, which is killed and started again at the same address.
struct HubUnderFire {
    program: Mutex<Option<Program>>,
    address: SocketAddr,
    folder: std::path::PathBuf,
}

impl HubUnderFire {
    fn start(folder: &Path) -> Self {
        let (program, address) = Program::serve_anywhere(BELLWIRE, folder);
        Self { program: Mutex::new(Some(program)), address, folder: folder.to_owned() }
    }

    fn kill_and_start(&self) {
        let mut program = self.program.lock().unwrap();
        program.take().unwrap().kill();
        *program = Some(Program::serve(BELLWIRE, &self.folder, self.address).0);
    }
}

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

#[derive(Clone, Copy, PartialEq)]
enum Journal {
    Whole,
    WithoutStarts,
}

/// One agent's history: its commands, its crashes, and what the file and the hub show at the end.
fn run_history(seed: u64, hub: &HubUnderFire, journal: Journal) -> Result<Sums, String> {
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let whole = journal == Journal::Whole;
    let device = format!("{}-{seed}", if whole { "once" } else { "injected" });
    let link = Link::start(hub.address, if whole { seed } else { 0 });
    let config = write_config(folder.path(), &device, link.address());
    let http = Http(hub.address);
    let mut sums = Sums::default();

    let commands: Vec<(String, &str)> = (0..random.from(1, 3))
        .map(|n| {
            let action = if whole { random.pick(&ACTIONS) } else { "once" };
            (send(http, &device, action, n), action)
        })
        .collect();
    sums.commands = commands.len();

    // What is cancelled, if anything, and in which life.
    let cancelled_command = (whole && random.percent(20)).then(|| &commands[0].0);
    let when = random.from(0, 1);
    for round in 0..random.from(1, 3) {
        let points = if whole { &POINTS[..] } else { &["spawned", "exited"] };
        let point = random.pick(points);
        let nth = random.from(1, commands.len() as u64);
        let fault = Some(format!("{point}:{nth}"));
        let mut agent = start_agent(&config, fault, sums.boots, journal);
        if let Some(id) = cancelled_command.filter(|_| when == round) {
            http.request("DELETE", &format!("/v1/commands/{id}"), &[], b"").ok();
        }
        let died = until_it_dies_or_all_ended(&mut agent, http, &commands);
        if !died {
            break;
        }
        sums.deaths.iter_mut().filter(|(p, _)| *p == point).for_each(|(_, deaths)| *deaths += 1);
        sums.boots += usize::from(whole && random.percent(40));
    }
    let mut agent = start_agent(&config, None, sums.boots, journal);
    if until_it_dies_or_all_ended(&mut agent, http, &commands) {
        return Err(format!("the agent ended by itself:\n{}", agent.output()));
    }
    // The commands may have ended before this life of the agent began.
    let socket = folder.path().join("state/agent.sock");
    wait_until("the agent to be up", || UnixStream::connect(&socket).map(drop));
    let log = agent.output();
    let code = agent.terminate().code();
    if code != Some(0) {
        return Err(format!("a terminated agent exits 0, this one {code:?}:\n{log}"));
    }
    let runs = std::fs::read_to_string(folder.path().join("runs")).unwrap_or_default();
    for (id, action) in &commands {
        let cancelled = cancelled_command == Some(id);
        judge(id, action, cancelled, &delivery(http, &device, id), &runs, &mut sums)
            .map_err(|fault| format!("{fault}\n{runs}\n{log}"))?;
    }
    Ok(sums)
}

/// The hub's state of a command must match the file.
fn judge(
    id: &str,
    action: &str,
    cancelled: bool,
    delivery: &serde_json::Value,
    runs: &str,
    sums: &mut Sums,
) -> Result<(), String> {
    let lines = |step: &str| runs.lines().filter(|line| *line == format!("{step} {id}")).count();
    let (starts, ends) = (lines("start"), lines("end"));
    let deaths: usize = sums.deaths.iter().map(|(_, deaths)| deaths).sum();
    let interrupted = delivery["state"] == "failed" && delivery["error"]["code"] == "interrupted";
    let starts_max = if action == "again" { deaths + 1 } else { 1 };
    // A handler's own report has an exit code.
    let by_boot = delivery["state"] == "succeeded" && delivery["exit_code"].is_null();
    let holds = starts <= starts_max
        && match delivery["state"].as_str() {
            Some("succeeded") if by_boot => action == "boot" && sums.boots > 0,
            Some("succeeded") => starts >= 1 && ends >= 1,
            Some("cancelled") => cancelled,
            _ => interrupted && (action != "again" || cancelled),
        };
    sums.succeeded += usize::from(delivery["state"] == "succeeded");
    sums.succeeded_by_boot += usize::from(by_boot);
    sums.interrupted += usize::from(interrupted);
    sums.cancelled += usize::from(delivery["state"] == "cancelled");
    sums.reruns += starts.saturating_sub(1);
    if holds {
        return Ok(());
    }
    Err(format!(
        "{action} {id} was started {starts} times, ended {ends} times, its agent died {deaths} \
         times, and the hub says {delivery}"
    ))
}

/// Waits for one of the two; true if the agent is dead.
fn until_it_dies_or_all_ended(
    agent: &mut Program,
    http: Http,
    commands: &[(String, &str)],
) -> bool {
    let mut rounds = 0;
    wait_until("the agent to die, or its commands to end", || {
        if agent.ended().is_some() {
            return Ok(true);
        }
        rounds += 1;
        // A request costs the hub more than a look at a process.
        if rounds % 8 != 0 {
            return Err(agent.output());
        }
        let all_ended = commands.iter().all(|(id, _)| {
            // A hub that is being killed does not answer, and nothing has ended.
            http.get(&format!("/v1/commands/{id}"))
                .is_ok_and(|answer| answer.json()["done"] == true)
        });
        if all_ended { Ok(false) } else { Err(agent.output()) }
    })
}

fn send(http: Http, device: &str, action: &str, n: u64) -> String {
    let key = format!("{device}-{n}");
    let headers = [("Idempotency-Key", key.as_str()), ("Content-Type", "application/json")];
    wait_until("the hub to take a command", || {
        let target = format!("/v1/send/{device}/{action}?ttl=1h");
        let answer = http.request("POST", &target, &headers, b"1").map_err(|e| e.to_string())?;
        match answer.json()["command"].as_str() {
            Some(id) => Ok(id.to_owned()),
            None => Err(answer.json().to_string()),
        }
    })
}

fn delivery(http: Http, device: &str, id: &str) -> serde_json::Value {
    wait_until("the delivery", || {
        let target = format!("/v1/commands/{id}/deliveries");
        let page = http.get(&target).map_err(|e| e.to_string())?.json();
        let found = page["items"].as_array().and_then(|items| items.first().cloned());
        found.filter(|d| d["device"] == device).ok_or_else(|| page.to_string())
    })
}

fn write_config(folder: &Path, device: &str, hub: SocketAddr) -> std::path::PathBuf {
    let runs = folder.join("runs");
    let script = format!(
        "echo start $BELLWIRE_COMMAND >> {0}; cat > /dev/null; echo end $BELLWIRE_COMMAND >> {0}",
        runs.display()
    );
    let action = |name: &str, on_restart: &str| {
        format!(
            "[actions.{name}]\nrun = [\"/bin/sh\", \"-c\", '{script}']\non_restart = \"{on_restart}\"\n"
        )
    };
    let text = format!(
        "hub = \"http://{hub}\"\ndevice = \"{device}\"\nstate_dir = \"{}\"\n{}{}{}",
        folder.join("state").display(),
        action("once", "fail"),
        action("again", "rerun"),
        action("boot", "succeed"),
    );
    let path = folder.join("agent.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn start_agent(config: &Path, fault: Option<String>, boots: usize, journal: Journal) -> Program {
    let mut command = Command::new(BELLWIRE);
    command.args(["agent", "run", "--config"]).arg(config).env_remove("BELLWIRE_FAULT");
    command.env("BELLWIRE_FAULT_BOOT_ID", format!("boot-{boots}"));
    if let Some(fault) = fault {
        command.env("BELLWIRE_FAULT", fault);
    }
    if journal == Journal::WithoutStarts {
        command.env("BELLWIRE_FAULT_NO_START_RECORD", "1");
    }
    Program::start(&mut command)
}
