//! Bases through the proxies that PAC files list: the files are read anew each time that the bases are listed (`evaluation`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tokio::time::timeout;

use super::{ProxySetting, Through};
use crate::address::Address;
use crate::path::pac::{Pac, PacError, PacLocation, ProxyEntry};
use crate::transport::{
    Base, BaseSource, HttpTransportBuilder, InvalidSetting, Transport, TransportError,
    TransportStage,
};

mod evaluation;
#[cfg(test)]
mod tests;

use evaluation::{Evaluation, PacFile};

/// How long an evaluation is waited for where other proxies are known: with the proof of those, less than a poll waits.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same where there are none: so that the error names the file, before a poll is given up without a reason.
const PATIENCE_WITHOUT_OTHERS: Duration = Duration::from_secs(4);

/// The hubs, each through the proxies of the setting in order, with the entries of a PAC file in its place.
#[derive(Clone)]
pub(super) struct PacBases(Arc<Inner>);

struct Inner {
    hubs: Vec<Address>,
    slots: Vec<ProxySlot>,
    template: HttpTransportBuilder,
    /// Of the entries that were listed last, so that their connections and answers to challenges are used again.
    transports: Mutex<HashMap<ProxyEntry, Arc<dyn Transport>>>,
    /// The last lines about entries in the log: the same is not logged again.
    logged: Mutex<Vec<String>>,
}

/// An item of the setting.
enum ProxySlot {
    Fixed(Through),
    Pac(Arc<PacFile>),
}

impl PacBases {
    pub(super) fn new(
        hubs: Vec<Address>,
        proxies: &[ProxySetting],
        template: HttpTransportBuilder,
    ) -> Result<Self, InvalidSetting> {
        let fetcher = template.clone().no_proxy().build()?;
        let slot = |proxy: &ProxySetting| -> Result<ProxySlot, InvalidSetting> {
            Ok(match proxy {
                ProxySetting::Pac(location) => {
                    let (location, fetcher) = (location.clone(), fetcher.clone());
                    ProxySlot::Pac(Arc::new(PacFile::new(location, hubs.clone(), fetcher)))
                }
                proxy => ProxySlot::Fixed(Through::new(&template, proxy)?),
            })
        };
        let slots = proxies.iter().map(slot).collect::<Result<_, _>>()?;
        let (transports, logged) = (Mutex::default(), Mutex::default());
        Ok(Self(Arc::new(Inner { hubs, slots, template, transports, logged })))
    }
}

impl BaseSource for PacBases {
    fn bases(&self) -> BoxFuture<'static, Result<Vec<Base>, TransportError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.list().await })
    }

    fn is_stale(&self) -> bool {
        self.0.files().any(|file| file.is_stale())
    }

    fn network_changed(&self) {
        self.0.files().for_each(|file| file.network_changed());
    }
}

impl Inner {
    /// Waits for the files a little, and goes on with what they have listed before.
    async fn list(&self) -> Result<Vec<Base>, TransportError> {
        let evaluations: Vec<Evaluation> = self.files().map(PacFile::evaluation).collect();
        let is_other = |slot: &ProxySlot| match slot {
            ProxySlot::Fixed(_) => true,
            ProxySlot::Pac(file) => file.has_listed(),
        };
        let patience = match self.slots.iter().any(is_other) {
            true => PATIENCE,
            false => PATIENCE_WITHOUT_OTHERS,
        };
        if timeout(patience, join_all(evaluations)).await.is_err() {
            tracing::debug!("a PAC file is still being evaluated");
        }
        let listed = self.slots.iter().map(|slot| match slot {
            ProxySlot::Fixed(_) => Vec::new(),
            ProxySlot::Pac(file) => file.list(),
        });
        let listed: Vec<Vec<Vec<ProxyEntry>>> = listed.collect();
        let (mut bases, mut in_use) = (Vec::new(), HashMap::new());
        let mut lines = Vec::new();
        for (index, hub) in self.hubs.iter().enumerate() {
            for (slot, listed) in self.slots.iter().zip(&listed) {
                match slot {
                    ProxySlot::Fixed(through) => bases.push(through.base(hub)),
                    ProxySlot::Pac(_) => {
                        for entry in listed.get(index).into_iter().flatten() {
                            bases.extend(self.base(hub, entry.clone(), &mut in_use, &mut lines));
                        }
                    }
                }
            }
        }
        *lock(&self.transports) = in_use;
        lines.dedup();
        let mut logged = lock(&self.logged);
        for line in lines.iter().filter(|line| !logged.contains(line)) {
            tracing::warn!("{line}");
        }
        *logged = lines;
        drop(logged);
        if bases.is_empty() {
            return Err(self.without_any());
        }
        Ok(bases)
    }

    fn files(&self) -> impl Iterator<Item = &Arc<PacFile>> {
        self.slots.iter().filter_map(|slot| match slot {
            ProxySlot::Fixed(_) => None,
            ProxySlot::Pac(file) => Some(file),
        })
    }

    fn base(
        &self,
        hub: &Address,
        entry: ProxyEntry,
        in_use: &mut HashMap<ProxyEntry, Arc<dyn Transport>>,
        lines: &mut Vec<String>,
    ) -> Option<Base> {
        let known = in_use.get(&entry).or(lock(&self.transports).get(&entry)).cloned();
        let template = self.template.clone();
        let (proxy, template) = match entry.url() {
            Some(url) => (url.clone(), template.proxy(url)),
            None => (ProxySetting::Direct.to_string(), template.no_proxy()),
        };
        let transport = match known {
            Some(transport) => transport,
            None => match template.build() {
                Ok(transport) => Arc::new(transport),
                Err(error) => {
                    lines.push(format!("the proxy {proxy} of a PAC file cannot be used: {error}"));
                    return None;
                }
            },
        };
        in_use.insert(entry, Arc::clone(&transport));
        Some(Base { hub: hub.clone(), proxy, transport })
    }

    /// Every item is a PAC file, and none of them lists anything.
    fn without_any(&self) -> TransportError {
        let mut reasons: Vec<String> = self.files().filter_map(|file| file.problem()).collect();
        reasons.extend(lock(&self.logged).last().cloned());
        let reason = format!("no PAC file lists a proxy: {}", reasons.join("; "));
        TransportError::new(TransportStage::Connect, reason)
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one assignment, so a panic leaves nothing half done.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why the proxies of a PAC file cannot be found out, if so. Blocks while the file is fetched and evaluated.
pub(in crate::agent::config) fn problem(
    location: &PacLocation,
    hub: &Address,
    template: HttpTransportBuilder,
) -> Option<String> {
    let evaluate = async {
        let fetcher = template.no_proxy().build().map_err(|error| error.to_string())?;
        let answer = async { Pac::fetch_by(location, &fetcher).await?.answer_for(hub).await };
        answer.await.map(drop).map_err(|error: PacError| error.to_string())
    };
    // The caller may be in a runtime, which must not block.
    let outcome = std::thread::scope(|scope| {
        let evaluated = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| error.to_string())?.block_on(evaluate)
        });
        evaluated.join().unwrap_or_else(|_| Err("the evaluation has failed".to_owned()))
    });
    outcome.err()
}
