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

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Instant as Clock;

use bellwire_core::record::{Load, Loaded, LoadedDevice, QueuePage, Txn};
use bellwire_core::{
    Config, Hub, Instant, Listen, NotifyOn, Now, Output, Recovered, RequestId, Send, SessionId,
};
use bellwire_proto::{Action, DeviceId, Json, Seq, Timestamp};

const DEVICES: u64 = 10_000;
const COMMANDS: u64 = 400_000;
/// Transactions that one fsync covers.
const IN_FLIGHT: u64 = 64;

/// A core, and the outputs that wait to be carried out.
struct Bench {
    hub: Hub,
    now: Now,
    txns: VecDeque<Txn>,
    loads: VecDeque<Load>,
    taken: VecDeque<(SessionId, Seq)>,
    /// Nanoseconds of each call, by its kind.
    send: Vec<u64>,
    committed: Vec<u64>,
    delivered: Vec<u64>,
    outputs: Vec<Output>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let wall = Timestamp::from_unix_ms(1_700_000_000_000);
    let mut bench = Bench {
        hub: Hub::new(Config::default(), Recovered::default(), 1),
        now: Now { instant: Instant::from_ms(1_000_000), wall },
        txns: VecDeque::new(),
        loads: VecDeque::new(),
        taken: VecDeque::new(),
        send: Vec::new(),
        committed: Vec::new(),
        delivered: Vec::new(),
        outputs: Vec::new(),
    };
    let devices: Vec<DeviceId> =
        (0..DEVICES).map(|n| format!("device-{n}").parse()).collect::<Result<_, _>>()?;
    for (n, device) in (0..).zip(&devices) {
        let listen = Listen { ack_none: true, ..Listen::default() };
        let now = bench.now;
        bench.hub.handle_listen(RequestId(n), SessionId(n), device.clone(), listen, now);
        bench.collect();
        bench.settle();
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
    println!("{DEVICES} streams, {COMMANDS} commands; microseconds of one call\n");
    println!("{:<12}{:>8}{:>8}{:>8}{:>10}", "call", "p50", "p99", "p99.9", "slowest");
    for (name, times) in
        [("send", bench.send), ("committed", bench.committed), ("delivered", bench.delivered)]
    {
        print(name, times);
    }
    Ok(())
}

/// Bytes that differ for each command.
fn random(n: u64) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes.iter_mut().zip(n.to_be_bytes()).for_each(|(byte, of)| *byte = of);
    bytes
}

impl Bench {
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
                let loaded = answer(load);
                self.hub.handle_loaded(loaded, now);
                self.collect();
            } else if let Some((session, seq)) = self.taken.pop_front() {
                self.timed(|b| &mut b.delivered, |hub| hub.handle_taken(session, seq, now));
            } else {
                return;
            }
        }
    }
}

/// A store that has nothing.
fn answer(load: Load) -> Loaded {
    match load {
        Load::Device(device, _) => Loaded::Device(Box::new(LoadedDevice {
            device,
            known: false,
            queued: 0,
            active: Vec::new(),
            queue: QueuePage::default(),
        })),
        Load::Delivered { device, .. } => Loaded::Delivered(device, Vec::new()),
        other => Loaded::Failed(other),
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
    println!("{name:<12}{:>8.2}{:>8.2}{:>8.2}{:>10.1}", at(0.5), at(0.99), at(0.999), at(1.0));
}
