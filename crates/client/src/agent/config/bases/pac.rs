//! Bases through the proxies that PAC files list: the files are read anew each time that the bases are asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

use super::{ProxySetting, Through};
use crate::address::Address;
use crate::path::pac::{Pac, PacAnswer, PacError, PacLocation, ProxyEntry};
use crate::transport::{
    Base, BaseSource, HttpTransport, HttpTransportBuilder, InvalidSetting, Transport,
    TransportError, TransportStage,
};

/// The hubs, each through the proxies of the setting in order, with the entries of a PAC file in its place.
#[derive(Clone)]
pub(super) struct PacBases(Arc<Inner>);

struct Inner {
    hubs: Vec<Address>,
    slots: Vec<Slot>,
    template: HttpTransportBuilder,
    /// Reads the files: without a proxy.
    fetcher: HttpTransport,
    /// Of the entries that were listed last, so that their connections and answers to challenges are used again.
    transports: Mutex<HashMap<ProxyEntry, Arc<dyn Transport>>>,
}

/// An item of the setting.
enum Slot {
    Fixed(Through),
    Pac { location: PacLocation, state: Mutex<PacState> },
}

#[derive(Default)]
struct PacState {
    /// As it was read last: it counts while it cannot be read anew.
    read: Option<Pac>,
    /// The last lines about it in the log: the same is not logged again.
    logged: Vec<String>,
}

impl PacBases {
    pub(super) fn new(
        hubs: Vec<Address>,
        proxies: &[ProxySetting],
        template: HttpTransportBuilder,
    ) -> Result<Self, InvalidSetting> {
        let slot = |proxy: &ProxySetting| -> Result<Slot, InvalidSetting> {
            Ok(match proxy {
                ProxySetting::Pac(location) => {
                    Slot::Pac { location: location.clone(), state: Mutex::default() }
                }
                proxy => Slot::Fixed(Through::new(&template, proxy)?),
            })
        };
        let slots = proxies.iter().map(slot).collect::<Result<_, _>>()?;
        let fetcher = template.clone().no_proxy().build()?;
        Ok(Self(Arc::new(Inner { hubs, slots, template, fetcher, transports: Mutex::default() })))
    }
}

impl BaseSource for PacBases {
    fn bases(&self) -> BoxFuture<'static, Result<Vec<Base>, TransportError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.list().await })
    }
}

impl Inner {
    async fn list(&self) -> Result<Vec<Base>, TransportError> {
        let mut errors = Vec::new();
        for slot in &self.slots {
            let Slot::Pac { location, state } = slot else { continue };
            match Pac::fetch_by(location, &self.fetcher).await {
                Ok(pac) => lock(state).read = Some(pac),
                Err(error) => errors.push((state, error)),
            }
        }
        let (mut bases, mut in_use) = (Vec::new(), HashMap::new());
        let mut lines: Vec<Vec<String>> = self.slots.iter().map(|_| Vec::new()).collect();
        for hub in &self.hubs {
            for (slot, lines) in self.slots.iter().zip(&mut lines) {
                match slot {
                    Slot::Fixed(through) => bases.push(through.base(hub)),
                    Slot::Pac { state, .. } => {
                        let pac = lock(state).read.clone();
                        let Some(pac) = pac else { continue };
                        match pac.answer_for(hub).await {
                            Ok(PacAnswer { entries, notes }) => {
                                let of_file = |note| {
                                    format!("of the proxies of the PAC file {}, {note}", pac.file())
                                };
                                lines.extend(notes.into_iter().map(of_file));
                                for entry in entries {
                                    bases.extend(self.base(hub, entry, &mut in_use, lines));
                                }
                            }
                            Err(error) => lines.push(error.to_string()),
                        }
                    }
                }
            }
        }
        *lock(&self.transports) = in_use;
        for (slot, mut lines) in self.slots.iter().zip(lines) {
            let Slot::Pac { state, .. } = slot else { continue };
            let failed = errors.iter().find(|(of, _)| std::ptr::eq(*of, state));
            lines.extend(failed.map(|(_, error)| error.to_string()));
            lines.dedup();
            let mut state = lock(state);
            for line in lines.iter().filter(|line| !state.logged.contains(line)) {
                tracing::warn!("{line}");
            }
            state.logged = lines;
        }
        if bases.is_empty() {
            return Err(self.without_any());
        }
        Ok(bases)
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
        let reasons = self.slots.iter().filter_map(|slot| match slot {
            Slot::Pac { state, .. } => lock(state).logged.last().cloned(),
            Slot::Fixed(_) => None,
        });
        let reasons: Vec<String> = reasons.collect();
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
