//! How long one call of the core takes: that is how long the hub's lock is held, because what a call decides is
//! carried out outside of it (`hub/src/driver/runtime.rs`).
//!
//! ```text
//! cargo bench -p bellwire-bench --bench core
//! ```
//!
//! 10,000 devices hold an `ack=none` stream each. Commands go to one after the other, 64 of them on their way at a time as
//! in `hubload`: each is stored, released when its transaction counts as on disk, taken by its stream, and `delivered`. There
//! is no store and no socket; a call includes moving its outputs into a queue, as the driver does under the lock.
//!
//! Then the calls whose cost must not grow with what waits: the same sends beside as many paused rollouts as there may be, of
//! 100,000 devices each, and the end of a lease at devices with 10 and with 100,000 queued commands.

use std::collections::VecDeque;
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant as Clock};

use bellwire_core::record::{
    ChunkRange, CommandHead, DeliveryRecord, JobRecord, Load, Loaded, LoadedDevice, QueuePage,
    RolloutCounts, RolloutRecord, Txn,
};
use bellwire_core::{
    Config, Hub, Instant, Listen, NotifyOn, Now, Output, Recovered, RequestId, Send, SeqSource,
    SessionId,
};
use bellwire_proto::limits::{COMMAND_DEVICES_AT_ONCE, ROLLOUTS_MAX};
use bellwire_proto::{
    Action, CommandId, DeviceId, Json, Members, RolloutPlan, RolloutState, Seq, Timestamp,
};

const DEVICES: u64 = 10_000;
const COMMANDS: u64 = 400_000;
/// Transactions that one fsync covers.
const IN_FLIGHT: u64 = 64;
/// Devices of each rollout.
const TARGETS: u64 = 100_000;
/// Devices with a queue.
const QUEUES: u64 = 1_000;

/// A core, and the outputs that wait to be carried out.
struct Bench {
    hub: Hub,
    now: Now,
    /// Commands that are queued for each device when it is loaded.
    queued: u64,
    txns: VecDeque<Txn>,
    loads: VecDeque<Load>,
    taken: VecDeque<(SessionId, Seq)>,
    /// Nanoseconds of each call, by its kind.
    send: Vec<u64>,
    committed: Vec<u64>,
    delivered: Vec<u64>,
    lease_ended: Vec<u64>,
    outputs: Vec<Output>,
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("microseconds of one call\n");
    println!("{:<44}{:>8}{:>8}{:>8}{:>10}", "call", "p50", "p99", "p99.9", "slowest");

    let alone = sends(Recovered::default())?;
    print("send", alone.send);
    print("committed", alone.committed);
    print("delivered", alone.delivered);

    let beside = sends(with_paused_rollouts()?)?;
    print(&format!("send, {ROLLOUTS_MAX} rollouts of {TARGETS} paused"), beside.send);
    print("committed", beside.committed);
    print("delivered", beside.delivered);

    for queued in [10, 100_000] {
        print(&format!("a lease ends, {queued} queued"), lease_ends(queued)?.lease_ended);
    }
    Ok(())
}

/// Commands to devices with streams.
fn sends(recovered: Recovered) -> Result<Bench, Box<dyn Error>> {
    let mut bench = Bench::new(recovered);
    let devices = bench.devices(DEVICES)?;
    for (n, device) in (0..).zip(&devices) {
        let listen = Listen { ack_none: true, ..Listen::default() };
        bench.listen(n, device, listen);
    }
    bench.send.clear();
    bench.committed.clear();
    bench.delivered.clear();

    let (action, data): (Action, Json) =
        ("ping".parse()?, Json::parse(r#"{"some":"data of the usual size"}"#)?);
    for n in 0..COMMANDS {
        // A multiplier without a common factor visits all devices in no order.
        let at = usize::try_from(n * 7_919 % DEVICES)?;
        let Some(device) = devices.get(at) else { break };
        let send = Send::new(device.clone(), action.clone(), data.clone());
        let (now, request) = (bench.now, RequestId(DEVICES + n));
        bench.timed(|b| &mut b.send, |hub| hub.handle_send(request, send, random(n), now));
        if n % IN_FLIGHT == IN_FLIGHT - 1 {
            bench.settle();
        }
    }
    bench.settle();
    Ok(bench)
}

/// Devices that report nothing: each lease ends, and the command is sent again.
fn lease_ends(queued: u64) -> Result<Bench, Box<dyn Error>> {
    let mut bench = Bench::new(Recovered::default());
    bench.queued = queued;
    for (n, device) in (0..).zip(&bench.devices(QUEUES)?) {
        // So that no two leases end at once.
        bench.advance(Duration::from_millis(1));
        bench.listen(n, device, Listen::default());
    }
    let end = bench.now.instant.after(Duration::from_secs(300));
    while let Some(at) = bench.hub.poll_timeout().filter(|at| *at <= end) {
        bench.advance(at.since(bench.now.instant));
        let now = bench.now;
        bench.timed(|b| &mut b.lease_ended, |hub| hub.handle_timeout(now));
        bench.settle();
    }
    Ok(bench)
}

/// What a hub finds at its start that has as many rollouts as there may be.
fn with_paused_rollouts() -> Result<Recovered, Box<dyn Error>> {
    let chunk = u64::try_from(COMMAND_DEVICES_AT_ONCE)?;
    let plan = RolloutPlan::take(&mut Members::parse(br#"{"batch":"10%"}"#)?)?;
    let mut recovered = Recovered::default();
    for n in 1..=u64::try_from(ROLLOUTS_MAX)? {
        let head = head(n, TARGETS)?;
        let range = |at: u64| {
            let name = |n: u64| format!("target-{n:06}").parse::<DeviceId>();
            let last = name(at + chunk - 1)?;
            Ok(ChunkRange { first: name(at)?, last, targets: chunk, canary: false })
        };
        let chunks = (0..TARGETS / chunk).map(|n| range(n * chunk));
        let chunks = chunks.collect::<Result<_, bellwire_proto::InvalidName>>()?;
        let mut rollout = RolloutRecord::new(plan.clone(), TARGETS, 0, None, start());
        rollout.state = RolloutState::Paused;
        recovered.jobs.push(JobRecord {
            head,
            online_only: false,
            chunks,
            cancel: None,
            rollout: Some((rollout, RolloutCounts::default())),
        });
    }
    recovered.seqs = SeqSource::after(Seq::new(u64::try_from(ROLLOUTS_MAX)?));
    Ok(recovered)
}

fn start() -> Now {
    let wall = Timestamp::from_unix_ms(1_700_000_000_000);
    Now { instant: Instant::from_ms(1_000_000), wall }
}

fn head(n: u64, total: u64) -> Result<CommandHead, Box<dyn Error>> {
    let now = start();
    Ok(CommandHead {
        id: CommandId::from_parts(now.wall.unix_ms(), random(n)),
        seq: Seq::new(n),
        total,
        action: "ping".parse()?,
        created_at: now.wall,
        created: now.instant,
        expires_at: now.wall.after(Duration::from_secs(604_800)),
        run_timeout: Duration::from_secs(3600),
        not_before: None,
        window: None,
    })
}

/// Bytes that differ for each command.
fn random(n: u64) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes.iter_mut().zip(n.to_be_bytes()).for_each(|(byte, of)| *byte = of);
    bytes
}

impl Bench {
    fn new(recovered: Recovered) -> Self {
        Self {
            hub: Hub::new(Config::default(), recovered, 1),
            now: start(),
            queued: 0,
            txns: VecDeque::new(),
            loads: VecDeque::new(),
            taken: VecDeque::new(),
            send: Vec::new(),
            committed: Vec::new(),
            delivered: Vec::new(),
            lease_ended: Vec::new(),
            outputs: Vec::new(),
        }
    }

    fn devices(&self, count: u64) -> Result<Vec<DeviceId>, bellwire_proto::InvalidName> {
        (0..count).map(|n| format!("device-{n}").parse()).collect()
    }

    fn advance(&mut self, by: Duration) {
        self.now = Now { instant: self.now.instant.after(by), wall: self.now.wall.after(by) };
    }

    fn listen(&mut self, n: u64, device: &DeviceId, listen: Listen) {
        let now = self.now;
        self.hub.handle_listen(RequestId(n), SessionId(n), device.clone(), listen, now);
        self.collect();
        self.settle();
    }

    /// One call, and moving its outputs away.
    fn timed(&mut self, times: fn(&mut Self) -> &mut Vec<u64>, call: impl FnOnce(&mut Hub)) {
        let began = Clock::now();
        call(&mut self.hub);
        while let Some(output) = self.hub.poll_output() {
            self.outputs.push(output);
        }
        let took = began.elapsed().as_nanos();
        times(self).push(u64::try_from(took).unwrap_or(u64::MAX));
        self.sort();
    }

    /// Moves away what a call that is not timed has left.
    fn collect(&mut self) {
        while let Some(output) = self.hub.poll_output() {
            self.outputs.push(output);
        }
        self.sort();
    }

    fn sort(&mut self) {
        for output in self.outputs.drain(..) {
            match output {
                Output::Persist(txn) => self.txns.push_back(txn),
                Output::Load(load) => self.loads.push_back(load),
                Output::Send { session, notify_on, .. } => {
                    if let NotifyOn::Taken(seq) | NotifyOn::Written(seq) = notify_on {
                        self.taken.push_back((session, seq));
                    }
                }
                other => drop(black_box(other)),
            }
        }
    }

    /// Commits, loads and takes until nothing is left to do.
    fn settle(&mut self) {
        let now = self.now;
        loop {
            if let Some(txn) = self.txns.pop_front() {
                self.timed(|b| &mut b.committed, |hub| hub.handle_committed(txn.committed(), now));
            } else if let Some(load) = self.loads.pop_front() {
                let loaded = self.answer(load);
                self.hub.handle_loaded(loaded, now);
                self.collect();
            } else if let Some((session, seq)) = self.taken.pop_front() {
                self.timed(|b| &mut b.delivered, |hub| hub.handle_taken(session, seq, now));
            } else {
                return;
            }
        }
    }

    /// A store that has devices with their queues, and nothing else.
    fn answer(&self, load: Load) -> Loaded {
        match load {
            Load::Device(device, max) => {
                let rows = (1..=self.queued).take(max.rows).filter_map(|n| {
                    let row = DeliveryRecord::new(head(n, 1).ok()?, device.clone(), start());
                    Some((row, Json::parse("{}").ok()?))
                });
                let rows: Vec<_> = rows.collect();
                let queue = QueuePage { more: self.queued > rows.len() as u64, rows };
                let (known, queued, active) = (self.queued > 0, self.queued, Vec::new());
                let loaded = LoadedDevice { device, known, queued, active, queue };
                Loaded::Device(Box::new(loaded))
            }
            Load::Delivered { device, .. } => Loaded::Delivered(device, Vec::new()),
            other => Loaded::Failed(other),
        }
    }
}

fn print(name: &str, mut times: Vec<u64>) {
    times.sort_unstable();
    let at = |share: f64| {
        let index = (times.len() as f64 * share) as usize;
        times
            .get(index.min(times.len().saturating_sub(1)))
            .map_or(f64::NAN, |ns| *ns as f64 / 1000.0)
    };
    println!("{name:<44}{:>8.2}{:>8.2}{:>8.2}{:>10.1}", at(0.5), at(0.99), at(0.999), at(1.0));
}
