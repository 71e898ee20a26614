//! A device, a middlebox and a hub in virtual time: here the device, which carries out what its path decides.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::super::*;
use super::hub::{Frame, Hub};
use super::network::Middlebox;
use super::{HOUR, MINUTE};

mod events;
mod judge;

pub(in crate::path::tests) use judge::Report;

/// A bug of the executor around the path, which the judge must notice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum InjectedBug {
    DeliversTwice,
    IgnoresPolls,
    IgnoresCuts,
    NeverSuspends,
    NeverConfirms,
}

#[derive(Debug, Clone, PartialEq)]
enum Event {
    Create,
    OpenAtHub {
        id: u64,
        compat: bool,
        heartbeat_s: Option<u64>,
    },
    PollAtHub {
        id: u64,
        wait_s: u64,
        cursor: Option<u64>,
    },
    PollEnds {
        id: u64,
    },
    PollTimesOut {
        id: u64,
    },
    ConfirmAtHub {
        stream: u64,
    },
    Confirmed {
        stream: u64,
        is_accepted: bool,
    },
    ClosedAtHub {
        id: u64,
    },
    Probe {
        id: u64,
    },
    HeartbeatDue {
        id: u64,
    },
    CompatDue {
        id: u64,
    },
    Unconfirmed {
        id: u64,
    },
    Lease {
        n: u64,
        attempt: u32,
    },
    Head {
        id: u64,
    },
    Arrives {
        id: u64,
        frame: Frame,
    },
    StreamEnds {
        id: u64,
        end: StreamEnd,
    },
    /// The middlebox looks at a stream.
    Age {
        id: u64,
    },
    Idle {
        id: u64,
    },
    FirstByte {
        id: u64,
    },
    Forgets,
    Cuts,
    Answer {
        id: u64,
        commands: Vec<(u64, u32)>,
    },
    PollFails {
        id: u64,
        kind: PollFailureKind,
    },
    Pong {
        sent: u64,
        is_ok: bool,
    },
    ReportAtHub {
        n: u64,
    },
}

/// The middlebox's side of a connection.
#[derive(Debug, Default)]
struct Pipe {
    /// Its packets are dropped.
    is_dead: bool,
    held: Vec<Frame>,
    head_passed: bool,
    last_byte: u64,
}

pub(super) struct World {
    now: u64,
    seed: u64,
    random: Random,
    order: u64,
    events: BinaryHeap<Reverse<(u64, u64, usize)>>,
    stored: Vec<Event>,
    path: Path,
    hub: Hub,
    middlebox: Middlebox,
    pipes: BTreeMap<u64, Pipe>,
    next_id: u64,
    stream: Option<u64>,
    /// When its request was sent.
    stream_sent: u64,
    /// When the last byte of a stream arrived at the device.
    stream_byte: u64,
    poll: Option<(u64, u64)>,
    next_command: u64,
    delivered: BTreeMap<u64, u64>,
    attempts: BTreeSet<(u64, u32)>,
    requests: BTreeMap<u64, u64>,
    counts: BTreeMap<&'static str, u64>,
    fault: Option<String>,
    bug: Option<InjectedBug>,
    /// The longest pause between two commands.
    pause_max_ms: u64,
    end: u64,
}

/// Before the end, so that all that are created can arrive.
const NO_COMMAND: u64 = 10 * MINUTE;

impl World {
    pub(super) fn run(
        seed: u64,
        middlebox: &Middlebox,
        bug: Option<InjectedBug>,
    ) -> Result<Report, String> {
        Self::run_with(seed, middlebox, bug, 2 * MINUTE, 3 * HOUR)
    }

    /// With a command each so many milliseconds at most, until then.
    pub(super) fn run_with(
        seed: u64,
        middlebox: &Middlebox,
        bug: Option<InjectedBug>,
        pause_max_ms: u64,
        end: u64,
    ) -> Result<Report, String> {
        let mut random = Random::new(seed);
        let start = random.below(MINUTE);
        let mut world = Self {
            now: start,
            seed,
            order: 0,
            events: BinaryHeap::new(),
            stored: Vec::new(),
            path: Path::new(start, PathSettings::default(), random.below(u64::MAX)),
            hub: Hub { clock_ms: random.below(1 << 40), ..Hub::default() },
            middlebox: middlebox.clone(),
            pipes: BTreeMap::new(),
            next_id: 0,
            stream: None,
            stream_sent: 0,
            stream_byte: 0,
            poll: None,
            next_command: 0,
            delivered: BTreeMap::new(),
            attempts: BTreeSet::new(),
            requests: BTreeMap::new(),
            counts: BTreeMap::new(),
            fault: None,
            bug,
            pause_max_ms,
            end,
            random,
        };
        world.at(start + 1, Event::Create);
        match middlebox {
            Middlebox::SilentLoss { every_ms } => world.at(*every_ms, Event::Forgets),
            Middlebox::Portal { from, .. } => world.at(*from, Event::Cuts),
            Middlebox::Down { from, silent, .. } => {
                world.at(*from, if *silent { Event::Forgets } else { Event::Cuts });
            }
            Middlebox::Frozen { from, .. } => world.at(*from, Event::Forgets),
            Middlebox::Changing => world.at(10 * MINUTE, Event::Cuts),
            _ => {}
        }
        let mut steps = 0_u32;
        while world.now < world.end && world.fault.is_none() {
            world.act();
            world.check_carrier();
            world.step();
            steps += 1;
            if steps > 2_000_000 {
                return Err(format!("it does not become idle: {:?}", world.path));
            }
        }
        match world.fault {
            Some(fault) => Err(fault),
            None => Ok(world.report()),
        }
    }

    /// A stream is the way only while something arrives on it: the greatest heartbeat of these hubs is 15 s.
    fn check_carrier(&mut self) {
        let is_stream =
            matches!(self.path.status().carrier, Some(Carrier::Stream | Carrier::CompatStream));
        if is_stream && self.now > self.stream_byte + 20_000 {
            let silent_s = (self.now - self.stream_byte) / 1000;
            let fault = format!("a stream carries at {}, silent for {silent_s} s", self.now);
            self.fault.get_or_insert(fault);
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.stored.push(event);
        self.events.push(Reverse((at, self.order, self.stored.len() - 1)));
    }

    fn step(&mut self) {
        let timeout = self.path.poll_timeout().map(|at| at.max(self.now));
        let next = self.events.peek().map(|Reverse((at, ..))| *at).unwrap_or(self.end);
        if let Some(at) = timeout
            && at <= next
        {
            // A path that is due again at once would never let time pass.
            self.now = if at == self.now { at + 1 } else { at };
            return self.path.handle_timeout(self.now);
        }
        let Some(Reverse((at, _, index))) = self.events.pop() else {
            self.now = self.end;
            return;
        };
        self.now = self.now.max(at);
        let event = self.stored[index].clone();
        self.handle(event);
        self.flush();
    }

    fn middlebox_now(&self) -> Middlebox {
        self.middlebox.now(self.now, self.seed)
    }

    fn latency(&mut self) -> u64 {
        let latency_ms = self.middlebox_now().latency_ms();
        latency_ms + self.random.below(latency_ms / 4)
    }

    // --- The executor ---

    fn count(&mut self, what: &'static str) {
        *self.requests.entry(self.now / HOUR).or_default() += 1;
        *self.counts.entry(what).or_default() += 1;
    }

    fn act(&mut self) {
        if self.bug == Some(InjectedBug::NeverSuspends)
            && self.path.status().suspended_until_ms.is_some()
        {
            self.path.network_changed(self.now);
        }
        while let Some(output) = self.path.poll_output() {
            match output {
                Output::OpenStream { compat, heartbeat_s } => {
                    assert_eq!(self.stream, None, "one stream at a time");
                    self.count("stream");
                    self.stream_sent = self.now;
                    self.open(compat, heartbeat_s);
                }
                Output::CloseStream => {
                    let id = self.stream.take().expect("a stream that is closed is open");
                    let latency = self.latency();
                    // A middlebox that buffers reads on, and the hub does not notice.
                    let middlebox_now = self.middlebox_now();
                    let hides = matches!(middlebox_now, Middlebox::FullBuffer | Middlebox::Trickle);
                    if !hides && !middlebox_now.is_down(self.now) && !self.pipes[&id].is_dead {
                        self.at(self.now + latency, Event::ClosedAtHub { id });
                    }
                }
                Output::Poll { wait_s, timeout_ms } => {
                    assert_eq!(self.poll, None, "one poll at a time");
                    self.count("poll");
                    self.begin_poll(wait_s, timeout_ms);
                }
                Output::DropPoll => self.poll = None,
                Output::Ping { timeout_ms } => {
                    self.count("ping");
                    let (sent, middlebox_now) = (self.now, self.middlebox_now());
                    let is_ok = !middlebox_now.is_down(sent) && !middlebox_now.is_portal(sent);
                    let silent = middlebox_now.is_down(sent) && middlebox_now.is_silent();
                    let took = if silent { timeout_ms } else { 2 * self.latency() };
                    self.at(self.now + took, Event::Pong { sent, is_ok });
                }
                Output::Confirm { .. } => {
                    self.count("confirm");
                    let stream = self.stream.expect("a stream to confirm");
                    let latency = self.latency();
                    if self.bug == Some(InjectedBug::NeverConfirms) {
                        continue;
                    }
                    if self.middlebox_now().is_down(self.now)
                        || self.middlebox_now().is_portal(self.now)
                    {
                        self.at(self.now + 4000, Event::Confirmed { stream, is_accepted: false });
                    } else {
                        self.at(self.now + latency, Event::ConfirmAtHub { stream });
                    }
                }
                Output::Lost { .. } | Output::Changed => {}
            }
        }
    }

    fn new_pipe(&mut self) -> u64 {
        self.next_id += 1;
        self.pipes.insert(self.next_id, Pipe { last_byte: self.now, ..Pipe::default() });
        self.next_id
    }

    fn open(&mut self, compat: bool, heartbeat_s: Option<u64>) {
        let id = self.new_pipe();
        self.stream = Some(id);
        let (latency, middlebox_now) = (self.latency(), self.middlebox_now());
        let refuse = |why: &str| StreamEnd::NotOurs { why: why.to_owned() };
        if middlebox_now.is_down(self.now) {
            if !middlebox_now.is_silent() {
                let end = StreamEnd::Broken { why: "no route".to_owned() };
                self.at(self.now + 1, Event::StreamEnds { id, end });
            }
        } else if middlebox_now.is_portal(self.now) {
            self.at(self.now + latency, Event::StreamEnds { id, end: refuse("a page") });
        } else if matches!(middlebox_now, Middlebox::DenyStream) {
            self.at(self.now + latency, Event::StreamEnds { id, end: refuse("403") });
        } else {
            self.at(self.now + latency, Event::OpenAtHub { id, compat, heartbeat_s });
        }
    }

    fn begin_poll(&mut self, wait_s: u64, timeout_ms: u64) {
        let id = self.new_pipe();
        self.poll = Some((id, self.now));
        self.at(self.now + timeout_ms, Event::PollTimesOut { id });
        let (latency, middlebox_now) = (self.latency(), self.middlebox_now());
        if self.bug == Some(InjectedBug::IgnoresPolls) {
            return;
        }
        if middlebox_now.is_down(self.now) {
            let kind = PollFailureKind::Unreachable;
            if matches!(middlebox_now, Middlebox::Frozen { .. }) {
                self.at(self.now + 5000, Event::PollFails { id, kind });
            } else if !middlebox_now.is_silent() {
                self.at(self.now + 1, Event::PollFails { id, kind });
            }
        } else if middlebox_now.is_portal(self.now) {
            self.at(self.now + latency, Event::PollFails { id, kind: PollFailureKind::NotOurs });
        } else {
            if let Middlebox::FirstByte { ms, .. } = middlebox_now {
                self.at(self.now + ms, Event::FirstByte { id });
            }
            let cursor = Some(self.path.cursor().map_or(0, Seq::get));
            self.at(self.now + latency, Event::PollAtHub { id, wait_s, cursor });
        }
    }

    fn deliver(&mut self, n: u64, attempt: u32, by: Carrier) -> bool {
        let id = format!("01930000-0000-7000-8000-{n:012x}").parse().expect("an id");
        let is_new = match by {
            Carrier::Poll => self.path.receive_polled(self.now, id, Seq::new(n), attempt),
            _ => self.path.receive_streamed(self.now, id, Seq::new(n), attempt),
        };
        if is_new || self.bug == Some(InjectedBug::DeliversTwice) {
            if !self.attempts.insert((n, attempt)) {
                self.fault = Some(format!("command {n} was delivered twice as attempt {attempt}"));
            }
            self.delivered.entry(n).or_insert(self.now);
            self.report_accepted(n);
        }
        is_new
    }

    fn report_accepted(&mut self, n: u64) {
        let latency = self.latency();
        self.at(self.now + latency, Event::ReportAtHub { n });
    }
}
