//! Devices: how they listen, and a small agent with a journal that runs what it is sent.
//!
//! An agent runs a command once, and repeats the report of what it has done until it is answered. Now and
//! then it is silent, or busy, or disconnects in the middle of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use bellwire_core::{Answer, Frame, Instant, Listen, Peer, Poll, RequestId, SessionId, TokenUse};
use bellwire_proto::stream::{Bye, CommandEvent};
use bellwire_proto::{CommandId, DeviceId, Report, ReportState, Seconds, Seq};

use super::judge::Requested;
use super::random::Random;
use super::{Event, Input, Owner, World};

/// How a device listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ways {
    streams: bool,
    polls: bool,
    confirms: bool,
    ack_none: bool,
}

/// The stream of a device, as the device sees it.
#[derive(Debug, Clone, Copy)]
struct Line {
    session: SessionId,
    /// When the latest of its frames arrives: they never overtake each other.
    arrives: Instant,
    /// What is written from now on is lost; neither end knows.
    cut: bool,
}

/// What the agent knows of a command.
#[derive(Debug, Clone)]
enum Job {
    /// Received, and postponed.
    PutOff,
    Running,
    Ended(ReportState),
}

pub(crate) struct Appliance {
    pub(super) id: DeviceId,
    ways: Ways,
    line: Option<Line>,
    poll: Option<RequestId>,
    last_event_id: Option<Seq>,
    journal: BTreeMap<CommandId, Job>,
    /// Reports that were not answered yet, with the request that last carried each.
    outbox: BTreeMap<CommandId, (Report, RequestId)>,
    counts_revs: bool,
    /// It listens, and reports nothing until the faults have ended.
    silent: bool,
    rev: u64,
}

/// What a device does by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wake {
    Connect,
    Poll,
    Confirm(SessionId),
    /// The link fails silently.
    Cut(SessionId),
    /// The device finds out.
    FindOut(SessionId),
    PollFailed(RequestId),
    Step(CommandId, ReportState),
    Repost(CommandId, RequestId),
}

impl Appliance {
    pub(super) fn new(index: usize, random: &mut Random) -> Self {
        let (streams, polls) =
            random.pick(&[(true, false), (true, false), (false, true), (true, true)]);
        let ways = Ways {
            streams,
            polls,
            confirms: random.percent(30),
            ack_none: random.percent(25) && !polls,
        };
        Self {
            id: format!("device-{index}").parse().unwrap(),
            ways,
            line: None,
            poll: None,
            last_event_id: None,
            journal: BTreeMap::new(),
            outbox: BTreeMap::new(),
            counts_revs: random.percent(50),
            silent: random.percent(8),
            rev: 0,
        }
    }
}

impl World {
    // --- Listening ---

    pub(super) fn begin_listening(&mut self, index: usize) {
        let ways = self.devices[index].ways;
        if ways.streams {
            self.after_ms(0, 4000, Event::Device(index, Wake::Connect));
        }
        if ways.polls {
            self.after_ms(0, 4000, Event::Device(index, Wake::Poll));
        }
    }

    pub(super) fn forget_sessions(&mut self) {
        self.sessions.clear();
        self.owners.clear();
        for device in &mut self.devices {
            device.line = None;
            device.poll = None;
        }
    }

    pub(super) fn all_devices_leave(&mut self) {
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        sessions.into_iter().for_each(|session| self.reaches(Input::Closed(session)));
        for index in 0..self.devices.len() {
            self.devices[index].line = None;
            if let Some(request) = self.devices[index].poll.take() {
                self.reaches(Input::Abandoned(request));
            }
        }
    }

    pub(super) fn device_wakes(&mut self, index: usize, wake: Wake) {
        match wake {
            Wake::Connect => self.connect(index),
            Wake::Poll => self.begin_poll(index),
            Wake::Confirm(session) => {
                let device = self.devices[index].id.clone();
                self.request(Owner::Device(index), Requested::Confirm, |request| {
                    Input::Confirm(request, device, session)
                });
            }
            Wake::Cut(session) if !self.calm => {
                let line = self.devices[index].line.as_mut();
                if let Some(line) = line.filter(|line| line.session == session) {
                    line.cut = true;
                    self.after_ms(0, 20_000, Event::Device(index, Wake::FindOut(session)));
                    self.after_ms(0, 90_000, Event::Hub(self.life, Input::Closed(session)));
                    if self.random.percent(50) {
                        self.reaches(Input::Stalled(session));
                        self.after_ms(1, 60_000, Event::Hub(self.life, Input::Resumed(session)));
                    }
                }
            }
            Wake::Cut(_) => {}
            Wake::FindOut(session) => {
                if self.devices[index].line.take_if(|line| line.session == session).is_some() {
                    self.reaches(Input::Closed(session));
                    self.after_ms(10, 4000, Event::Device(index, Wake::Connect));
                }
            }
            Wake::PollFailed(request) => {
                if self.devices[index].poll == Some(request) {
                    // Some just poll again, and leave the older poll to the hub.
                    if self.random.percent(50) {
                        self.reaches(Input::Abandoned(request));
                    }
                    self.devices[index].poll = None;
                    self.begin_poll(index);
                }
            }
            Wake::Step(command, state) => self.step(index, command, state),
            Wake::Repost(command, request) => {
                let device = &self.devices[index];
                if let Some((report, last)) = device.outbox.get(&command).cloned()
                    && last == request
                {
                    self.post(index, command, report);
                }
            }
        }
    }

    fn connect(&mut self, index: usize) {
        if self.alone || !self.up || self.devices[index].line.is_some() {
            return;
        }
        let session = SessionId(self.number());
        let device = &mut self.devices[index];
        let (id, ways) = (device.id.clone(), device.ways);
        let last_event_id = device.last_event_id.filter(|_| self.random.percent(70));
        let token = self.token_of(&id);
        let device = &mut self.devices[index];
        device.line = Some(Line { session, arrives: self.now, cut: false });
        self.sessions.insert(session, index);
        let listen = Listen {
            ack_none: ways.ack_none,
            confirm: ways.confirms,
            last_event_id,
            peer: Peer::default(),
            token: token.map(|id| TokenUse { id, expires_at: None, own: true }),
        };
        self.request(Owner::Device(index), Requested::Listen(session), |request| {
            Input::Listen(request, session, id, listen)
        });
        if ways.confirms && (self.calm || self.random.percent(80)) {
            let patience_ms = if self.calm { 100 } else { 12_000 };
            self.after_ms(50, patience_ms, Event::Device(index, Wake::Confirm(session)));
        }
        // A stream that never came to be, or ended silently, is detected in the end.
        self.after_ms(60_000, 120_000, Event::Device(index, Wake::FindOut(session)));
        if self.random.percent(self.profile.link_cut) {
            self.after_ms(10, 60_000, Event::Device(index, Wake::Cut(session)));
        }
    }

    fn begin_poll(&mut self, index: usize) {
        if self.alone || !self.up || self.devices[index].poll.is_some() {
            return;
        }
        let id = self.devices[index].id.clone();
        let wait = Seconds::new(self.random.pick(&[0, 2, 25, 60]));
        let last_event_id = self.devices[index].last_event_id.filter(|_| self.random.percent(50));
        let poll = Poll { wait, last_event_id, peer: Peer::default(), token: None };
        let request = self.request(Owner::Device(index), Requested::Poll(id.clone()), |request| {
            Input::Poll(request, id, poll)
        });
        self.devices[index].poll = Some(request);
        let patience_ms = if self.random.percent(10) { 3000 } else { 70_000 };
        self.after_ms(patience_ms, patience_ms, Event::Device(index, Wake::PollFailed(request)));
    }

    /// When the latest frame of a stream arrives.
    pub(super) fn arrival(&self, session: SessionId) -> Instant {
        let device = self.sessions.get(&session).and_then(|index| self.devices.get(*index));
        let line = device.and_then(|d| d.line).filter(|line| line.session == session);
        line.map(|line| line.arrives).unwrap_or_default()
    }

    pub(super) fn write(&mut self, session: SessionId, frame: Frame) {
        let latency_ms = self.latency_ms();
        let at = self.now.after(Duration::from_millis(latency_ms));
        let Some(device) = self.sessions.get(&session).map(|index| &mut self.devices[*index])
        else {
            return;
        };
        let Some(line) = device.line.as_mut().filter(|l| l.session == session && !l.cut) else {
            return;
        };
        line.arrives = line.arrives.max(at);
        let at = line.arrives;
        self.at(at, Event::Frame(session, frame));
    }

    pub(super) fn device_receives(&mut self, session: SessionId, frame: &Frame) {
        let Some(index) = self.sessions.get(&session).copied() else { return };
        if self.devices[index].line.is_none_or(|line| line.session != session || line.cut) {
            return;
        }
        match frame {
            Frame::Command(event) => self.receives_command(index, event),
            Frame::Cancel(event) => self.receives_cancel(index, event.id),
        }
    }

    pub(super) fn stream_ended(&mut self, session: SessionId, bye: Bye) {
        if self.random.percent(70) {
            self.reaches(Input::Closed(session));
        }
        let Some(index) = self.sessions.get(&session).copied() else { return };
        if self.devices[index].line.take_if(|line| line.session == session).is_some() {
            let ms = (bye.reconnect_s * 1000.0) as u64;
            self.after_ms(ms, ms, Event::Device(index, Wake::Connect));
        }
    }

    pub(super) fn device_answered(&mut self, index: usize, request: RequestId, answer: &Answer) {
        if self.devices[index].poll == Some(request) {
            self.devices[index].poll = None;
            if let Answer::Poll { commands, cancels } = answer {
                commands.iter().for_each(|event| self.receives_command(index, event));
                cancels.iter().for_each(|event| self.receives_cancel(index, event.id));
            }
            self.after_ms(0, 6000, Event::Device(index, Wake::Poll));
        } else if let Some(command) = self.carried(index, request) {
            // Answered is answered: with a refusal too there is nothing more to report, unless the
            // hub could not take it.
            match answer {
                Answer::Problem(problem) if problem.code.status() >= 500 => {}
                _ => drop(self.devices[index].outbox.remove(&command)),
            }
        }
    }

    fn carried(&self, index: usize, request: RequestId) -> Option<CommandId> {
        let outbox = &self.devices[index].outbox;
        outbox.iter().find(|(_, (_, last))| *last == request).map(|(command, _)| *command)
    }

    // --- Running ---

    fn receives_command(&mut self, index: usize, event: &CommandEvent) {
        let device = &mut self.devices[index];
        device.last_event_id = device.last_event_id.max(Some(event.seq));
        if device.ways.ack_none {
            return;
        }
        match device.journal.get(&event.id).cloned() {
            Some(Job::Ended(state)) => self.report(index, event.id, state),
            Some(Job::Running) => self.report(index, event.id, ReportState::Accepted),
            Some(Job::PutOff) | None => self.plan(index, event),
        }
    }

    fn plan(&mut self, index: usize, event: &CommandEvent) {
        use ReportState as R;
        let (id, run_ms) = (event.id, event.run_timeout_s * 1000);
        let dice = if self.calm { 99 } else { self.random.from(0, 99) };
        if dice < 10 || (self.devices[index].silent && !self.calm) {
            self.devices[index].journal.insert(id, Job::PutOff);
            return;
        }
        let end = self.random.pick(&[R::Succeeded, R::Succeeded, R::Failed]);
        let steps: &[(R, u64)] = match dice {
            10..20 => &[(R::Nack, 500)],
            20..26 => &[(R::Rejected, 500)],
            26..31 => &[(R::Accepted, 100)],
            31..38 => &[(R::Accepted, 100), (R::Nack, 2500)],
            38..45 => &[(end, 1000)],
            45..50 => &[(R::Accepted, 100), (end, run_ms * 2)],
            50..60 => &[(R::Accepted, 100), (R::Running, 1000), (R::Running, 9000), (end, 15_000)],
            60..70 => &[(R::Running, 100), (R::Accepted, 100), (end, 3000)],
            _ => &[(R::Accepted, 50), (end, 400)],
        };
        self.devices[index].journal.insert(id, Job::Running);
        let mut least = 0;
        for (state, most) in steps {
            self.after_ms(least, *most, Event::Device(index, Wake::Step(id, *state)));
            least = *most;
        }
    }

    fn step(&mut self, index: usize, command: CommandId, state: ReportState) {
        if matches!(self.devices[index].journal.get(&command), Some(Job::Ended(_))) {
            return;
        }
        let job = match state {
            ReportState::Accepted | ReportState::Running => Job::Running,
            ReportState::Nack => Job::PutOff,
            ended => Job::Ended(ended),
        };
        self.devices[index].journal.insert(command, job);
        self.report(index, command, state);
    }

    fn receives_cancel(&mut self, index: usize, command: CommandId) {
        let ended = match self.devices[index].journal.get(&command) {
            Some(Job::Ended(state)) => *state,
            _ if self.calm || self.random.percent(70) => ReportState::Cancelled,
            _ => return,
        };
        self.devices[index].journal.insert(command, Job::Ended(ended));
        self.report(index, command, ended);
    }

    fn report(&mut self, index: usize, command: CommandId, state: ReportState) {
        let mut report = Report::of(state);
        if self.devices[index].counts_revs {
            self.devices[index].rev += 1;
            report.rev = Some(self.devices[index].rev);
        }
        if state == ReportState::Nack && self.random.percent(50) {
            report.retry_after_s = Some(self.random.pick(&[0, 1, 20, 400]));
        }
        if self.random.percent(2) {
            // From the journal of an earlier installation: the hub does not know this command.
            let unknown = CommandId::from_parts(1, self.random.bytes());
            let (device, report) = (self.devices[index].id.clone(), Box::new(report.clone()));
            self.request(Owner::Device(index), Requested::Report(unknown), |request| {
                Input::Report(request, device, unknown, report)
            });
        }
        report.outcome.progress = (40.0).try_into().ok().filter(|_| state == ReportState::Running);
        self.post(index, command, report);
    }

    /// Posts a report, again and again until it is answered.
    fn post(&mut self, index: usize, command: CommandId, report: Report) {
        if self.alone {
            return;
        }
        let owner = Owner::Device(index);
        let send = |world: &mut Self| {
            let (device, report) = (world.devices[index].id.clone(), Box::new(report.clone()));
            world.request(owner, Requested::Report(command), |request| {
                Input::Report(request, device, command, report)
            })
        };
        if self.random.percent(self.profile.request_doubled) && !self.calm {
            send(self);
        }
        let request = send(self);
        self.devices[index].outbox.insert(command, (report, request));
        self.after_ms(2000, 10_000, Event::Device(index, Wake::Repost(command, request)));
    }
}
