//! The TLS of a hub while it serves: what each listener speaks, and its renewal when files change.
//!
//! A connection keeps the configuration with which it began, so a reload ends no stream. A file that is of no use changes
//! nothing of what it held before, and keeps no other from being used: a certificate of the hub that has expired must not keep
//! one of a client's from being revoked.
//!
//! Changes are found by looking at the files at an interval, and not by notifications of the kernel: certificates are renewed
//! by replacing symbolic links (certbot, the secrets of Kubernetes) and lie on network file systems, neither of which those
//! report reliably, and to look at some files every few seconds costs nothing that could be measured.

use std::collections::{BTreeSet, HashSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bellwire_proto::limits::TLS_FILES_POLL;
use bellwire_proto::{Timestamp, TokenId};
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::acme::{ACME_TLS_ALPN, Acme};
use super::clients::ClientFiles;
use super::names::ByName;
use super::pair::{self, Pair};
use super::{Protocols, TlsConfigs, TlsError};
use crate::config::{ClientCertificates, Config, Scheme, TlsFiles};

/// The certificates of a hub, and the senders of new configurations to its listeners.
#[derive(Debug)]
pub(crate) struct Serving {
    files: Vec<TlsFiles>,
    /// In the order of the listeners; `None` for a plain one.
    listeners: Vec<Option<OfListener>>,
    acme: Option<Arc<Acme>>,
    /// Locked for as long as files are read.
    content: Mutex<Content>,
    /// When the certificates of the files expire, each with its first name.
    expiries: RwLock<Expiries>,
    /// Of the files, from before they were read for the first time.
    stamps: Vec<Stamp>,
}

#[derive(Debug)]
struct OfListener {
    sender: watch::Sender<Arc<ServerConfig>>,
    clients: Option<ClientCertificates>,
}

/// What the files held, each when it was of use last.
#[derive(Debug, Default)]
struct Content {
    /// In the order of the files.
    pairs: Vec<Option<Pair>>,
    /// In the order of the listeners; `None` where clients have no certificates.
    clients: Vec<Option<ClientFiles>>,
}

/// What became of reading all files again.
#[derive(Debug)]
pub(crate) struct Reloaded {
    /// The certificates of clients that are revoked now.
    pub(crate) revoked: Revoked,
    /// Of files that are of no use: what they held before stays.
    pub(crate) faults: Vec<TlsError>,
}

/// The certificates of clients that are revoked.
pub(crate) type Revoked = HashSet<TokenId>;

/// When certificates expire, each with its first name.
pub(crate) type Expiries = Vec<(String, Timestamp)>;

/// What shows that a file is another one than before, or has another content.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Everything that is wrong with the TLS of these settings.
pub(crate) fn faults(config: &Config) -> Vec<TlsError> {
    let files: Vec<_> = config.certificates().cloned().collect();
    let clients = config.listeners().map(|(listener, _)| listener.client_certificates.as_ref());
    let faults = Content::default().read(&files, clients);
    let authorities = config.acme.as_ref().and_then(|acme| acme.directory_ca.as_deref());
    let authorities = authorities.and_then(|path| pair::chain(path).err());
    faults.into_iter().chain(authorities).collect()
}

/// What is accepted in the TLS of these settings, and its operator should look at.
pub(crate) fn warnings(config: &Config) -> Vec<String> {
    let mut content = Content::default();
    let clients = config.listeners().map(|(listener, _)| listener.client_certificates.as_ref());
    // Faults are reported by themselves.
    drop(content.read(&[], clients));
    content.warnings()
}

impl Serving {
    /// Reads all files.
    ///
    /// # Errors
    /// When one is of no use.
    pub(crate) fn load(config: &Config) -> Result<Self, TlsError> {
        let files: Vec<_> = config.certificates().cloned().collect();
        let acme = config.acme.as_ref().map(|acme| Arc::new(Acme::new(config, acme)));
        let settings: Vec<_> = config
            .listeners()
            .map(|(listener, scheme)| {
                listener.client_certificates.clone().filter(|_| scheme != Scheme::Http)
            })
            .collect();
        // Before, so that what is replaced while it is read is read again.
        let stamps = paths(&files, settings.iter().flatten()).map(stamp).collect();
        let mut content = Content::default();
        let faults = content.read(&files, settings.iter().map(Option::as_ref));
        if let Some(fault) = faults.into_iter().next() {
            return Err(fault);
        }
        let names = content.names(acme.clone());
        let mut listeners = Vec::new();
        for (((_, scheme), clients), read) in config.listeners().zip(settings).zip(&content.clients)
        {
            listeners.push(if scheme == Scheme::Http {
                None
            } else {
                let verifier = read.as_ref().and_then(ClientFiles::verifier);
                let sender = watch::Sender::new(server_config(names.clone(), verifier)?);
                Some(OfListener { sender, clients })
            });
        }
        let expiries = RwLock::new(content.expiries());
        Ok(Self { files, listeners, acme, content: Mutex::new(content), expiries, stamps })
    }

    /// Whether there is anything to read again.
    pub(crate) fn has_files(&self) -> bool {
        self.paths().next().is_some()
    }

    /// The certificate that the hub gets by itself.
    pub(crate) fn acme(&self) -> Option<&Arc<Acme>> {
        self.acme.as_ref()
    }

    /// When each certificate expires, with its first name; the one by ACME is the last.
    pub(crate) fn expiries(&self) -> Expiries {
        let mut all = self.expiries.read().unwrap_or_else(PoisonError::into_inner).clone();
        all.extend(self.acme.as_ref().and_then(|acme| acme.expiry()));
        all
    }

    /// What the listener of this position speaks; `None` for plain HTTP.
    pub(crate) fn of_listener(&self, position: usize) -> Option<TlsConfigs> {
        Some(self.listeners.get(position)?.as_ref()?.sender.subscribe())
    }

    /// The certificates of clients that are revoked now.
    pub(crate) fn revoked(&self) -> Revoked {
        self.content.lock().unwrap_or_else(PoisonError::into_inner).revoked()
    }

    /// Reads all files again, for connections that come from now on. What is open and was revoked is for the caller to end.
    pub(crate) fn reload(&self) -> Reloaded {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = self.listeners.iter().map(|listener| listener.as_ref()?.clients.as_ref());
        let mut faults = content.read(&self.files, settings);
        let names = content.names(self.acme.clone());
        for (listener, clients) in self.listeners.iter().zip(&content.clients) {
            let Some(OfListener { sender, .. }) = listener else { continue };
            match server_config(names.clone(), clients.as_ref().and_then(ClientFiles::verifier)) {
                Ok(server) => drop(sender.send_replace(server)),
                Err(fault) => faults.push(fault),
            }
        }
        *self.expiries.write().unwrap_or_else(PoisonError::into_inner) = content.expiries();
        Reloaded { revoked: content.revoked(), faults }
    }

    /// Reloads whenever files have changed, once they rest for an interval: a key is written after its certificate; and as long
    /// as one is of no use, because that may end without another change. Ends only when it is dropped.
    pub(crate) async fn follow_files(self: Arc<Self>, ended: impl Fn(Revoked)) {
        let (mut before, mut warnings) = self.look().await;
        let mut warned = Vec::new();
        // `None` while a file is of no use.
        let mut loaded = Some(self.stamps.clone());
        let mut reported = Vec::new();
        loop {
            for warning in warnings.iter().filter(|warning| !warned.contains(*warning)) {
                tracing::warn!("{warning}");
            }
            warned = warnings;
            tokio::time::sleep(TLS_FILES_POLL).await;
            let now;
            (now, warnings) = self.look().await;
            if loaded.as_ref() != Some(&now) && now == before {
                let this = self.clone();
                match spawn_blocking(move || this.reload()).await {
                    Ok(Reloaded { revoked, faults }) => {
                        ended(revoked);
                        loaded = faults.is_empty().then(|| now.clone());
                        if faults.is_empty() {
                            tracing::info!("files of TLS have changed, and were read again");
                        }
                        reported = report(&faults, &reported);
                    }
                    Err(error) => tracing::error!(%error, "files of TLS cannot be read again"),
                }
            }
            before = now;
        }
    }

    /// The stamps of the files, and the warnings about what they held.
    async fn look(self: &Arc<Self>) -> (Vec<Stamp>, Vec<String>) {
        let this = self.clone();
        // A network file system may not answer.
        let look = move || {
            let content = this.content.lock().unwrap_or_else(PoisonError::into_inner);
            (this.paths().map(stamp).collect(), content.warnings())
        };
        spawn_blocking(look).await.unwrap_or_default()
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let clients = self.listeners.iter().flatten();
        paths(&self.files, clients.filter_map(|listener| listener.clients.as_ref()))
    }
}

/// The files that are read.
fn paths<'a>(
    files: &'a [TlsFiles],
    clients: impl Iterator<Item = &'a ClientCertificates>,
) -> impl Iterator<Item = &'a Path> {
    let pairs = files.iter().flat_map(|files| [&files.cert, &files.key]);
    let clients =
        clients.flat_map(|clients| [&clients.authorities].into_iter().chain(&clients.revocations));
    pairs.chain(clients).map(PathBuf::as_path)
}

/// `None` for a file that is not there.
fn stamp(path: &Path) -> Stamp {
    let of = |file: Metadata| (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec());
    std::fs::metadata(path).ok().map(of)
}

/// Logs the faults that were not reported before; gives all of them.
fn report(faults: &[TlsError], before: &[String]) -> Vec<String> {
    let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
    for fault in faults.iter().filter(|fault| !before.contains(fault)) {
        tracing::error!(
            "a file of TLS has changed, and cannot be used; what it held before stays, and it is tried again: {fault}"
        );
    }
    faults
}

impl Content {
    /// Reads all files.
    fn read<'a>(
        &mut self,
        files: &[TlsFiles],
        clients: impl Iterator<Item = Option<&'a ClientCertificates>>,
    ) -> Vec<TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut faults = Vec::new();
        self.pairs.resize_with(files.len(), || None);
        for (files, pair) in files.iter().zip(&mut self.pairs) {
            match Pair::read(files, &provider) {
                Ok(read) => *pair = Some(read),
                Err(fault) => faults.push(fault),
            }
        }
        for (n, settings) in clients.enumerate() {
            if self.clients.len() <= n {
                self.clients.push(settings.map(|_| ClientFiles::default()));
            }
            if let (Some(settings), Some(Some(files))) = (settings, self.clients.get_mut(n)) {
                faults.extend(files.read(settings, &provider));
            }
        }
        faults
    }

    fn names(&self, acme: Option<Arc<Acme>>) -> Arc<ByName> {
        Arc::new(ByName::new(self.pairs.iter().flatten().cloned().collect(), acme))
    }

    fn expiries(&self) -> Expiries {
        let named =
            |pair: &Pair| (pair.names.first().cloned().unwrap_or_default(), pair.expires_at);
        self.pairs.iter().flatten().map(named).collect()
    }

    fn warnings(&self) -> Vec<String> {
        let now = pair::now();
        // Listeners may share a file.
        let all: BTreeSet<_> =
            self.clients.iter().flatten().flat_map(|clients| clients.warnings(now)).collect();
        all.into_iter().collect()
    }

    fn revoked(&self) -> Revoked {
        self.clients.iter().flatten().flat_map(ClientFiles::revoked).collect()
    }
}

fn server_config(
    names: Arc<ByName>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = super::builder(provider)?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let by_acme = names.is_by_acme();
    let mut config = builder.with_cert_resolver(names);
    config.alpn_protocols = Protocols::Http2AndHttp1.names();
    config.alpn_protocols.extend(by_acme.then(|| ACME_TLS_ALPN.to_vec()));
    Ok(Arc::new(config))
}
