//! Several bases of one hub: its URLs, each through one or several proxies, tried in order.
//!
//! [`BaseTransport`] re-targets each request to the base in use, so that its users know one hub. A base is proven by a ping: a
//! page of a captive portal is no proof. A request that failed before the hub can have received it goes through the next base
//! at once; what fails later is for its user to repeat. A worse base is left when a better one answers again, which is tried at
//! rests. With one base nothing is proven, and nothing added.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL};
use http::{HeaderValue, Method, StatusCode, Uri};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::{
    Request, Response, ResponseFuture, Transport, TransportError, TransportStage, read_body,
};
use crate::address::Address;

/// How long a base may take to answer a ping: 5 s to connect, and 5 s for the head.
const PROOF: Duration = Duration::from_secs(10);
/// The longest answer to a ping that is read.
const PROOF_BYTES_MAX: usize = 64 * 1024;
/// The pause before better bases are tried again, doubling up to a day, plus up to a quarter: as long as a stream rests.
const REST: Duration = Duration::from_secs(300);
const REST_MAX: Duration = Duration::from_secs(86_400);

/// A URL of the hub, and what its requests go through.
#[derive(Clone)]
pub struct Base {
    /// The hub.
    pub hub: Address,
    /// The proxy, for people: its URL without credentials, `environment` or `none`.
    pub proxy: String,
    /// What the requests go through.
    pub transport: Arc<dyn Transport>,
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
    preferred: Base,
    others: Vec<Base>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` until one is proven.
    current: Option<usize>,
    generation: u64,
    /// The last one that was in use.
    last: Option<usize>,
    proof: Option<Proof>,
    /// Why the preferred one did not answer.
    why: Option<String>,
    /// A task tries better bases.
    tries_better: bool,
}

/// A proof under way, which all requests share and none can cancel.
type Proof = Shared<BoxFuture<'static, Result<usize, TransportError>>>;

impl BaseTransport {
    /// The preferred base, and the others in order. `hint` is the position of the one that worked last, which is used until it
    /// fails.
    pub fn new(preferred: Base, others: Vec<Base>, hint: Option<usize>) -> Self {
        let current = match hint {
            _ if others.is_empty() => Some(0),
            Some(index) if index <= others.len() => Some(index),
            _ => None,
        };
        let state = Mutex::new(State { current, last: current, ..State::default() });
        Self(Arc::new(Inner { preferred, others, state }))
    }
}

impl Transport for BaseTransport {
    fn send(&self, request: Request) -> ResponseFuture {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let index = inner.clone().in_use().await?;
            match inner.send(index, request.clone()).await {
                Err(error) if !inner.others.is_empty() && is_before_the_hub(&error) => {
                    inner.doubt(index);
                    let next = inner.clone().in_use().await?;
                    if next == index {
                        return Err(error);
                    }
                    inner.send(next, request).await
                }
                outcome => outcome,
            }
        })
    }

    fn reconsider(&self) {
        if !self.0.others.is_empty() {
            self.0.state().current = None;
        }
    }

    fn base(&self) -> Option<BaseStatus> {
        let state = self.0.state();
        let index = state.current?;
        let base = self.0.base(index)?;
        Some(BaseStatus {
            index,
            hub: base.hub.to_string(),
            proxy: base.proxy.clone(),
            why: state.why.clone().filter(|_| index > 0),
            generation: state.generation,
        })
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment, so a panic leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn base(&self, index: usize) -> Option<&Base> {
        match index.checked_sub(1) {
            None => Some(&self.preferred),
            Some(other) => self.others.get(other),
        }
    }

    /// The base failed: the next request proves which one works.
    fn doubt(&self, index: usize) {
        let mut state = self.state();
        if state.current == Some(index) {
            state.current = None;
        }
    }

    async fn send(&self, index: usize, request: Request) -> Result<Response, TransportError> {
        let Some(base) = self.base(index) else {
            return Err(TransportError::new(TransportStage::Connect, "there is no such base"));
        };
        let request = self.retarget(base, request)?;
        base.transport.send(request).await
    }

    /// The request as it is at `base`. Users address the preferred base.
    fn retarget(&self, base: &Base, mut request: Request) -> Result<Request, TransportError> {
        let (from, to) = (&self.preferred.hub, &base.hub);
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
    async fn in_use(self: Arc<Self>) -> Result<usize, TransportError> {
        let proof = {
            let mut state = self.state();
            if let Some(current) = state.current {
                return Ok(current);
            }
            match &state.proof {
                Some(proof) => proof.clone(),
                None => {
                    let proof = Arc::clone(&self).prove_all().boxed().shared();
                    state.proof = Some(proof.clone());
                    // It goes on when the request that asked for it is given up.
                    drop(tokio::spawn(proof.clone()));
                    proof
                }
            }
        };
        proof.await
    }

    async fn prove_all(self: Arc<Self>) -> Result<usize, TransportError> {
        let mut first = None;
        for index in 0..=self.others.len() {
            match self.prove(index).await {
                Ok(()) => {
                    let why = first.map(|error: TransportError| error.to_string());
                    self.choose(index, why);
                    if index > 0 {
                        self.try_better();
                    }
                    return Ok(index);
                }
                Err(error) => {
                    if let Some(Base { hub, proxy, .. }) = self.base(index) {
                        tracing::debug!(%hub, proxy, %error, "a way to the hub does not work");
                    }
                    first.get_or_insert(error);
                }
            }
        }
        self.state().proof = None;
        // There is at least one base.
        Err(first.unwrap_or_else(|| TransportError::new(TransportStage::Connect, "no base")))
    }

    fn choose(&self, index: usize, why: Option<String>) {
        let mut state = self.state();
        if state.last.replace(index) != Some(index) {
            state.generation += 1;
        }
        (state.current, state.proof, state.why) = (Some(index), None, why);
        drop(state);
        if let Some(Base { hub, proxy, .. }) = self.base(index) {
            tracing::info!(%hub, proxy, "the hub answers");
        }
    }

    /// Whether the hub answers at a base.
    async fn prove(&self, index: usize) -> Result<(), TransportError> {
        #[derive(Deserialize)]
        struct Pong {
            nonce: Option<String>,
        }
        let Some(base) = self.base(index) else {
            return Err(TransportError::new(TransportStage::Connect, "there is no such base"));
        };
        let nonce = format!("{:016x}", getrandom::u64().unwrap_or_default());
        let url = format!("{}/v1/ping?nonce={nonce}", base.hub.url.as_str().trim_end_matches('/'));
        let request = http::Request::builder()
            .method(Method::GET)
            .uri(url)
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .header(CACHE_CONTROL, HeaderValue::from_static("no-store"))
            .body(Bytes::new())
            .map_err(|error| TransportError::new(TransportStage::Connect, error))?;
        let exchange = async {
            let (head, body) = base.transport.send(request).await?.into_parts();
            Ok((head.status, read_body(body, PROOF_BYTES_MAX).await?))
        };
        let (status, body) = timeout(PROOF, exchange).await.unwrap_or_else(|_| {
            let within = format!("no answer to a ping within {} s", PROOF.as_secs());
            Err(TransportError::new(TransportStage::Response, within))
        })?;
        let pong = serde_json::from_slice::<Pong>(&body).ok().and_then(|pong| pong.nonce);
        match (status, pong) {
            (StatusCode::OK, Some(echoed)) if echoed == nonce => Ok(()),
            _ => {
                let reason = format!("what answers there is not the hub (status {status})");
                Err(TransportError::new(TransportStage::Untrusted, reason))
            }
        }
    }

    /// Tries better bases at rests, while there are any.
    fn try_better(self: Arc<Self>) {
        if !std::mem::replace(&mut self.state().tries_better, true) {
            tokio::spawn(better_bases(Arc::downgrade(&self)));
        }
    }
}

async fn better_bases(inner: Weak<Inner>) {
    let mut rest = REST;
    loop {
        let share = u32::from((getrandom::u32().unwrap_or_default() >> 16) as u16);
        sleep(rest + rest / 4 * share / u32::from(u16::MAX)).await;
        rest = (rest * 2).min(REST_MAX);
        let Some(inner) = inner.upgrade() else { return };
        let current = inner.state().current;
        if current == Some(0) {
            inner.state().tries_better = false;
            return;
        }
        for better in 0..current.unwrap_or_default() {
            if inner.prove(better).await.is_ok() {
                inner.choose(better, None);
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
