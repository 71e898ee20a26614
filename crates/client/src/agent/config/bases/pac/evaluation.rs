//! A PAC file of the setting: read and evaluated beside the requests that need the proxies, and what it listed last.
//!
//! A script may take ten seconds, and the other proxies must not wait for it. So an evaluation is a task that continues when it
//! is not waited for any more, and it is one for all hubs. What was listed last counts until another evaluation succeeds: a file
//! that became slow or broken ends no connection that works.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

use crate::address::Address;
use crate::path::pac::{Pac, PacAnswer, PacLocation, ProxyEntry};
use crate::transport::HttpTransport;

/// How long the outcome of an evaluation is used again while the file and the network stay the same: while the hub is down, each
/// try needs the list of proxies.
const COUNTS_FOR: Duration = Duration::from_secs(60);

/// An evaluation under way, which any number of callers may wait for.
pub(super) type Evaluation = Shared<BoxFuture<'static, ()>>;

pub(super) struct PacFile {
    pub(super) location: PacLocation,
    hubs: Vec<Address>,
    /// Reads the file: without a proxy.
    fetcher: HttpTransport,
    state: Mutex<PacState>,
}

#[derive(Default)]
struct PacState {
    /// As it was read last: it counts while it cannot be read anew.
    read: Option<Pac>,
    /// For each hub, what the last evaluation that succeeded listed.
    entries: Vec<Vec<ProxyEntry>>,
    /// What the callers know of it.
    listed: Vec<Vec<ProxyEntry>>,
    evaluated: Option<Evaluated>,
    under_way: Option<Evaluation>,
    /// Grows with each change of the network.
    network: u64,
    /// The last lines about it in the log: the same is not logged again.
    logged: Vec<String>,
}

struct Evaluated {
    pac: Pac,
    at: Instant,
    network: u64,
    /// What is wrong.
    lines: Vec<String>,
}

impl PacFile {
    pub(super) fn new(location: PacLocation, hubs: Vec<Address>, fetcher: HttpTransport) -> Self {
        Self { location, hubs, fetcher, state: Mutex::default() }
    }

    /// The evaluation under way, or a new one. It continues when no caller waits for it any more.
    pub(super) fn evaluation(self: &Arc<Self>) -> Evaluation {
        let mut state = self.state();
        if let Some(under_way) = &state.under_way {
            return under_way.clone();
        }
        let evaluation = Arc::clone(self).evaluate().boxed().shared();
        state.under_way = Some(evaluation.clone());
        drop(tokio::spawn(evaluation.clone()));
        evaluation
    }

    async fn evaluate(self: Arc<Self>) {
        let read = Pac::read_by(&self.location, &self.fetcher).await;
        let (pac, network, counts) = {
            let mut state = self.state();
            if let Ok(pac) = &read {
                state.read = Some(pac.clone());
            }
            let counts = state.evaluated.as_ref().is_some_and(|last| {
                let is_same = Some(&last.pac) == state.read.as_ref();
                is_same && last.network == state.network && last.at.elapsed() < COUNTS_FOR
            });
            (state.read.clone(), state.network, counts)
        };
        let answers = match &pac {
            Some(pac) if !counts => Some((pac, pac.answers_for(&self.hubs).await)),
            _ => None,
        };
        let mut state = self.state();
        if let Some((pac, answers)) = answers {
            let mut lines = Vec::new();
            state.entries.resize_with(self.hubs.len(), Vec::new);
            match answers {
                Ok(answers) => {
                    for (answer, entries) in answers.into_iter().zip(&mut state.entries) {
                        match answer {
                            Ok(PacAnswer { entries: listed, notes }) => {
                                let file = pac.file();
                                let of_file =
                                    |note| format!("of the proxies of the PAC file {file}, {note}");
                                lines.extend(notes.into_iter().map(of_file));
                                *entries = listed;
                            }
                            Err(error) => lines.push(error.to_string()),
                        }
                    }
                }
                Err(error) => lines.push(error.to_string()),
            }
            let pac = pac.clone();
            state.evaluated = Some(Evaluated { pac, at: Instant::now(), network, lines });
        }
        let mut lines = state.evaluated.as_ref().map(|last| last.lines.clone()).unwrap_or_default();
        lines.extend(read.err().map(|error| error.to_string()));
        lines.dedup();
        for line in lines.iter().filter(|line| !state.logged.contains(line)) {
            tracing::warn!("{line}");
        }
        state.logged = lines;
        state.under_way = None;
    }

    /// What it lists for each hub, in their order. Nothing until it was evaluated.
    pub(super) fn list(&self) -> Vec<Vec<ProxyEntry>> {
        let mut state = self.state();
        state.listed = state.entries.clone();
        state.listed.clone()
    }

    /// Whether it lists something else than [`PacFile::list`] said last.
    pub(super) fn is_stale(&self) -> bool {
        let state = self.state();
        state.listed != state.entries
    }

    /// Whether it has listed anything.
    pub(super) fn has_listed(&self) -> bool {
        self.state().entries.iter().any(|entries| !entries.is_empty())
    }

    pub(super) fn network_changed(&self) {
        self.state().network += 1;
    }

    /// Why it lists nothing.
    pub(super) fn problem(&self) -> Option<String> {
        let state = self.state();
        match &state.under_way {
            Some(_) => Some(format!("the PAC file {} is still being evaluated", self.location)),
            None => state.logged.last().cloned(),
        }
    }

    fn state(&self) -> MutexGuard<'_, PacState> {
        // Each change is one assignment, so a panic leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
