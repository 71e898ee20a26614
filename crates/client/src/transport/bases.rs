//! Several bases of one hub: its URLs, each through one or several proxies, tried in order.
//!
//! [`BaseTransport`] re-targets each request to the base in use, so that its users know one hub. A base is proven by a ping
//! (`proof`): a page of a captive portal is no proof. A request that failed before the hub can have received it goes through
//! the next base at once; what fails later is for its user to repeat. A worse base is left when a better one answers again,
//! which is tried again after pauses. With one base nothing is proven, and nothing added. Where the list is not fixed, a
//! [`BaseSource`] makes it anew before each proof.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use http::Uri;
use http::header::AUTHORIZATION;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::{Request, Response, ResponseFuture, Transport, TransportError, TransportStage};
use crate::address::Address;

mod proof;

pub(super) use proof::{ForeignAnswer, GatewayError};

/// The pause before better bases are tried again, doubling up to a day, plus up to a quarter: as long as streams are suspended.
const RETRY_PAUSE: Duration = Duration::from_secs(300);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(86_400);

/// A URL of the hub, and what its requests go through.
#[derive(Clone)]
pub struct Base {
    /// The hub.
    pub hub: Address,
    /// The proxy, for people: its URL without credentials, or `none`.
    pub proxy: String,
    /// What the requests go through.
    pub transport: Arc<dyn Transport>,
}

/// Lists the bases where they are not fixed: the entries of a PAC file.
pub trait BaseSource: Send + Sync + 'static {
    /// The bases now, in order. Called at the start, after a change of the network, and after a base failed. Without any, the
    /// error says why.
    fn bases(&self) -> BoxFuture<'static, Result<Vec<Base>, TransportError>>;

    /// Whether the bases are known to be others than those that it listed last. Then they are listed again, while the one in
    /// use goes on.
    fn is_stale(&self) -> bool {
        false
    }

    /// The network is another one than before.
    fn network_changed(&self) {}
}

/// Which base is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BaseStatus {
    /// The position in the list; 0 is the preferred one.
    pub index: usize,
    /// The hub's URL, without credentials.
    pub hub: String,
    /// The proxy, as in [`Base::proxy`].
    pub proxy: String,
    /// Why not the preferred one.
    pub why: Option<String>,
    /// Grows with each change.
    pub generation: u64,
}

/// Sends each request through the best base that works.
#[derive(Clone)]
pub struct BaseTransport(Arc<Inner>);

struct Inner {
    /// The hub as users address it.
    hub: Address,
    /// `None` for a fixed list.
    source: Option<Arc<dyn BaseSource>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In order. Empty until the source has listed them.
    bases: Arc<[Base]>,
    /// `None` until one is proven.
    current: Option<usize>,
    generation: u64,
    /// Hub and proxy of the last one that was in use.
    last: Option<(String, String)>,
    proof: Option<Proof>,
    /// Grows with each change of the network: what was proven before it counts no more.
    network: u64,
    /// Why the preferred one did not answer.
    why: Option<String>,
    /// The task that tries better bases, and the epoch that it is of.
    better: Option<(Epoch, AbortHandle)>,
}

/// The network and the base in use, by number: when one changes, the pauses begin anew.
type Epoch = (u64, u64);

/// A base, and its position in the list.
#[derive(Clone)]
struct Chosen {
    index: usize,
    base: Base,
}

/// A proof under way, which all requests share and none can cancel.
type Proof = Shared<BoxFuture<'static, Result<Chosen, TransportError>>>;

impl BaseTransport {
    /// The preferred base, and the others in order. `hint` is the position of the one that worked last, which is used until it
    /// fails.
    pub fn new(preferred: Base, others: Vec<Base>, hint: Option<usize>) -> Self {
        let current = match hint {
            _ if others.is_empty() => Some(0),
            Some(index) if index <= others.len() => Some(index),
            _ => None,
        };
        let hub = preferred.hub.clone();
        let bases: Arc<[Base]> = std::iter::once(preferred).chain(others).collect();
        let last = current.and_then(|index| bases.get(index)).map(Base::names);
        let state = Mutex::new(State { bases, current, last, ..State::default() });
        Self(Arc::new(Inner { hub, source: None, state }))
    }

    /// Bases that `source` lists. `hub` is the URL by which users address it.
    pub fn of_source(hub: Address, source: impl BaseSource) -> Self {
        let source: Option<Arc<dyn BaseSource>> = Some(Arc::new(source));
        Self(Arc::new(Inner { hub, source, state: Mutex::default() }))
    }
}

impl Transport for BaseTransport {
    fn send(&self, request: Request) -> ResponseFuture {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let chosen = inner.clone().in_use().await?;
            match inner.send(&chosen.base, request.clone()).await {
                Err(error) if inner.has_choice() && is_before_the_hub(&error) => {
                    inner.doubt(chosen.index);
                    let next = inner.clone().in_use().await?;
                    if next.base.names() == chosen.base.names() {
                        return Err(error);
                    }
                    inner.send(&next.base, request).await
                }
                outcome => outcome,
            }
        })
    }

    fn reconsider(&self) {
        if self.0.has_choice() {
            self.0.state().current = None;
        }
    }

    fn network_changed(&self) {
        let has_choice = self.0.has_choice();
        self.0.source.iter().for_each(|source| source.network_changed());
        let mut state = self.0.state();
        if has_choice {
            (state.current, state.proof) = (None, None);
            state.network += 1;
        }
        let bases = Arc::clone(&state.bases);
        drop(state);
        bases.iter().for_each(|base| base.transport.network_changed());
    }

    fn base(&self) -> Option<BaseStatus> {
        let state = self.0.state();
        let index = state.current?;
        let base = state.bases.get(index)?;
        let (hub, proxy) = base.names();
        let why = state.why.clone().filter(|_| index > 0);
        Some(BaseStatus { index, hub, proxy, why, generation: state.generation })
    }

    fn may_use(&self, hub: &str, proxy: &str) -> bool {
        // What a source will list is not known.
        self.0.source.is_some()
            || self.0.state().bases.iter().any(|base| base.names() == (hub.into(), proxy.into()))
    }

    fn proxy(&self, _uri: &Uri) -> Option<String> {
        let state = self.0.state();
        let last = state.last.clone()?;
        let base = state.bases.iter().find(|base| base.names() == last)?.clone();
        drop(state);
        base.transport.proxy(&base.hub.url.as_str().parse().ok()?)
    }
}

impl Base {
    fn names(&self) -> (String, String) {
        (self.hub.to_string(), self.proxy.clone())
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment, so a panic leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_choice(&self) -> bool {
        self.source.is_some() || self.state().bases.len() > 1
    }

    /// The base failed: the next request proves which one works.
    fn doubt(&self, index: usize) {
        let mut state = self.state();
        if state.current == Some(index) {
            state.current = None;
        }
    }

    async fn send(&self, base: &Base, request: Request) -> Result<Response, TransportError> {
        let request = self.retarget(base, request)?;
        base.transport.send(request).await
    }

    /// The request as it is at `base`. Users address the preferred base.
    fn retarget(&self, base: &Base, mut request: Request) -> Result<Request, TransportError> {
        let (from, to) = (&self.hub, &base.hub);
        if from == to {
            return Ok(request);
        }
        let uri = request.uri().to_string();
        let prefix = from.url.as_str().trim_end_matches('/');
        // What is not the hub's is not to be sent to another server.
        let Some(rest) = uri.strip_prefix(prefix) else { return Ok(request) };
        let target = format!("{}{rest}", to.url.as_str().trim_end_matches('/'));
        *request.uri_mut() = target
            .parse::<Uri>()
            .map_err(|error| TransportError::new(TransportStage::Connect, error))?;
        let headers = request.headers_mut();
        // The user and password of a URL are for its own hub; a token is for all of them.
        if from.authorization.is_some() && headers.get(AUTHORIZATION) == from.authorization.as_ref()
        {
            headers.remove(AUTHORIZATION);
        }
        if !headers.contains_key(AUTHORIZATION)
            && let Some(authorization) = &to.authorization
        {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }

    /// The base in use, proven if need be.
    async fn in_use(self: Arc<Self>) -> Result<Chosen, TransportError> {
        let proof = {
            let is_stale = self.source.as_ref().is_some_and(|source| source.is_stale());
            let mut state = self.state();
            if let Some(index) = state.current
                && let Some(base) = state.bases.get(index).cloned()
            {
                if is_stale && state.proof.is_none() {
                    drop(self.start_proof(&mut state));
                }
                drop(state);
                if index > 0 {
                    self.try_better();
                }
                return Ok(Chosen { index, base });
            }
            match &state.proof {
                Some(proof) => proof.clone(),
                None => self.start_proof(&mut state),
            }
        };
        proof.await
    }

    fn start_proof(self: &Arc<Self>, state: &mut State) -> Proof {
        let proof = Arc::clone(self).prove_all(state.network).boxed().shared();
        state.proof = Some(proof.clone());
        // It continues when the request that needs it is given up.
        drop(tokio::spawn(proof.clone()));
        proof
    }

    /// Finds the best base that answers, and uses it unless the network has changed meanwhile.
    async fn prove_all(self: Arc<Self>, network: u64) -> Result<Chosen, TransportError> {
        let found = match &self.source {
            Some(source) => source.bases().await.map(Arc::from),
            None => Ok(Arc::clone(&self.state().bases)),
        };
        let outcome = match found {
            Ok(bases) => proof::best(&bases).await.map(|found| (bases, found)),
            Err(error) => Err(error),
        };
        let mut state = self.state();
        let counts = state.network == network;
        if counts {
            state.proof = None;
        }
        let (bases, proof::Best { index, base, why }) = outcome?;
        if counts {
            state.bases = bases;
            self.choose(state, index, &base, why);
            if index > 0 {
                self.try_better();
            }
        }
        Ok(Chosen { index, base })
    }

    fn choose(
        &self,
        mut state: MutexGuard<'_, State>,
        index: usize,
        base: &Base,
        why: Option<String>,
    ) {
        let names = base.names();
        let is_another = state.last.as_ref() != Some(&names);
        if is_another {
            state.generation += 1;
            state.last = Some(names);
        }
        (state.current, state.why) = (Some(index), why);
        drop(state);
        let Base { hub, proxy, .. } = base;
        match is_another {
            true => tracing::info!(%hub, proxy, "the hub answers"),
            false => tracing::debug!(%hub, proxy, "the hub answers"),
        }
    }

    /// Tries better bases after pauses, while there are any. One task at most does that.
    fn try_better(self: &Arc<Self>) {
        let mut state = self.state();
        let epoch = state.epoch();
        match &state.better {
            Some((of, _)) if *of == epoch => return,
            Some((_, task)) => task.abort(),
            None => {}
        }
        let task = tokio::spawn(better_bases(Arc::downgrade(self), epoch));
        state.better = Some((epoch, task.abort_handle()));
    }
}

impl State {
    fn epoch(&self) -> Epoch {
        (self.network, self.generation)
    }
}

/// Ends with its epoch; the next request begins another one if need be.
async fn better_bases(inner: Weak<Inner>, epoch: Epoch) {
    let mut pause = RETRY_PAUSE;
    loop {
        let share = u32::from((getrandom::u32().unwrap_or_default() >> 16) as u16);
        sleep(pause + pause / 4 * share / u32::from(u16::MAX)).await;
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
        let Some(inner) = inner.upgrade() else { return };
        let (bases, current) = {
            let mut state = inner.state();
            if state.epoch() != epoch {
                return;
            }
            if state.current == Some(0) {
                state.better = None;
                return;
            }
            (Arc::clone(&state.bases), state.current.unwrap_or_default())
        };
        for (index, base) in bases.iter().enumerate().take(current) {
            if proof::prove(base).await.is_ok() {
                let mut state = inner.state();
                // Else another list is in use, another base, or another network.
                if state.epoch() == epoch && Arc::ptr_eq(&state.bases, &bases) {
                    state.better = None;
                    inner.choose(state, index, base, None);
                    if index > 0 {
                        inner.try_better();
                    }
                    return;
                }
                break;
            }
        }
    }
}

/// Whether the hub cannot have received the request.
fn is_before_the_hub(error: &TransportError) -> bool {
    matches!(
        error.stage(),
        TransportStage::Connect
            | TransportStage::ProxyAuthentication
            | TransportStage::ProxyRefused
            | TransportStage::Untrusted
    )
}

#[cfg(test)]
mod tests;
