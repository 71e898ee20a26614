//! The judge of a run.

use std::collections::BTreeMap;

use super::{Carrier, Middlebox, World};

pub(in crate::path::tests) struct Report {
    pub(in crate::path::tests) commands: usize,
    pub(in crate::path::tests) carrier: Option<Carrier>,
    latencies: Vec<(u64, u64)>,
    requests: BTreeMap<u64, u64>,
    lost: Vec<u64>,
    last: BTreeMap<&'static str, u64>,
    /// A stream carries without a poll beside it, and the hub shows `poll`.
    is_shown_wrong: bool,
}

impl World {
    pub(super) fn report(self) -> Report {
        // What was created during an outage counts from its end.
        let outage = match self.middlebox {
            Middlebox::Portal { from, to }
            | Middlebox::Frozen { from, to }
            | Middlebox::Down { from, to, .. } => from..to,
            _ => 0..0,
        };
        let due = |created: u64| if outage.contains(&created) { outage.end } else { created };
        let latencies = self.hub.commands.iter().filter_map(|(n, command)| {
            Some((command.created, self.delivered.get(n)?.saturating_sub(due(command.created))))
        });
        let carrier = self.path.status().carrier;
        let streams = matches!(carrier, Some(Carrier::Stream | Carrier::CompatStream));
        let doubts = self.hub.streams.values().any(|stream| stream.is_doubted);
        let lost = self.hub.commands.keys().copied().filter(|n| !self.delivered.contains_key(n));
        Report {
            commands: self.hub.commands.len(),
            carrier,
            is_shown_wrong: streams && doubts && self.poll.is_none(),
            latencies: latencies.collect(),
            lost: lost.collect(),
            requests: self.requests,
            last: self.counts,
        }
    }
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { commands, carrier, requests, lost, last, .. } = self;
        write!(f, "{commands} commands, {lost:?} lost, {carrier:?}, {requests:?} {last:?}")
    }
}

impl Report {
    /// The judge.
    pub(in crate::path::tests) fn judge(
        &self,
        arrives_ms: u64,
        requests_per_hour: u64,
        carrier: Option<Carrier>,
    ) -> Result<(), String> {
        if carrier.is_some() && self.carrier != carrier {
            return Err(format!("{:?} carries, and not {carrier:?}: {self:?}", self.carrier));
        }
        if self.is_shown_wrong {
            return Err(format!("a stream carries, and the hub shows a poll: {self:?}"));
        }
        if let Some(n) = self.lost.first() {
            return Err(format!("command {n} never arrived: {self:?}"));
        }
        if let Some((created, late)) = self.latencies.iter().max_by_key(|(_, late)| *late)
            && *late > arrives_ms
        {
            return Err(format!(
                "the command of {created} arrived after {late} ms, more than {arrives_ms}: {:?}",
                self.last
            ));
        }
        if let Some((hour, n)) = self.requests.iter().max_by_key(|(_, n)| **n)
            && *n > requests_per_hour
        {
            return Err(format!(
                "{n} requests in hour {hour}, more than {requests_per_hour}: {:?}",
                self.last
            ));
        }
        Ok(())
    }
}
