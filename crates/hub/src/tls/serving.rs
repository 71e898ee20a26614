//! The TLS of a hub while it serves: what each listener speaks, and its renewal when files change.
//!
//! A connection keeps the configuration with which it began, so a reload ends no stream. All files are read before anything
//! is replaced: if one is of no use, everything stays as it was.
//!
//! Changes are found by looking at the files at an interval, and not by notifications of the kernel: certificates are renewed
//! by replacing symbolic links (certbot, the secrets of Kubernetes) and lie on network file systems, neither of which those
//! report reliably, and to look at some files every few seconds costs nothing that could be measured.

use std::collections::HashSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bellwire_proto::limits::TLS_FILES_POLL;
use bellwire_proto::{Timestamp, TokenId};
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::acme::{ACME_TLS_ALPN, Acme};
use super::names::ByName;
use super::pair::{self, Pair};
use super::{Protocols, TlsConfigs, TlsError, clients};
use crate::config::{ClientCertificates, Config, ListenerConfig, Scheme, TlsFiles};

/// The certificates of a hub, and the senders of new configurations to its listeners.
#[derive(Debug)]
pub(crate) struct Serving {
    files: Vec<TlsFiles>,
    /// In the order of the listeners; `None` for a plain one.
    listeners: Vec<Option<OfListener>>,
    acme: Option<Arc<Acme>>,
    /// When the certificates of the files expire, each with its first name.
    expiries: RwLock<Expiries>,
}

#[derive(Debug)]
struct OfListener {
    sender: watch::Sender<Arc<ServerConfig>>,
    clients: Option<ClientCertificates>,
}

/// The certificates of clients that are revoked.
pub(crate) type Revoked = HashSet<TokenId>;

/// When certificates expire, each with its first name.
pub(crate) type Expiries = Vec<(String, Timestamp)>;

/// What shows that a file is another one than before, or has another content.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Everything that is wrong with the TLS of these settings.
pub(crate) fn faults(config: &Config) -> Vec<TlsError> {
    let provider = rustls::crypto::ring::default_provider();
    let pairs = config.certificates().map(|files| Pair::read(files, &provider));
    let provider = Arc::new(provider.clone());
    let clients =
        config.listeners().filter_map(|(listener, _)| listener.client_certificates.as_ref());
    let clients = clients.map(|clients| {
        clients::verifier(clients, provider.clone()).and_then(|_| clients::revoked(clients))
    });
    let authorities = config.acme.as_ref().and_then(|acme| acme.directory_ca.as_deref());
    let authorities = authorities.and_then(|path| pair::chain(path).err());
    let faults = pairs.filter_map(Result::err).chain(clients.filter_map(Result::err));
    faults.chain(authorities).collect()
}

impl Serving {
    /// Reads all files.
    ///
    /// # Errors
    /// When one is of no use.
    pub(crate) fn load(config: &Config) -> Result<Self, TlsError> {
        let files: Vec<_> = config.certificates().cloned().collect();
        let acme = config.acme.as_ref().map(|acme| Arc::new(Acme::new(config, acme)));
        let (names, expiries) = by_name(&files, acme.clone())?;
        let of_listener = |(listener, scheme): (&ListenerConfig, Scheme)| {
            if scheme == Scheme::Http {
                return Ok(None);
            }
            let clients = listener.client_certificates.clone();
            let server = server_config(names.clone(), clients.as_ref())?;
            Ok(Some(OfListener { sender: watch::Sender::new(server), clients }))
        };
        let listeners: Result<Vec<_>, _> = config.listeners().map(of_listener).collect();
        Ok(Self { files, listeners: listeners?, acme, expiries: RwLock::new(expiries) })
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
    ///
    /// # Errors
    /// When a list cannot be read.
    pub(crate) fn revoked(&self) -> Result<Revoked, TlsError> {
        let clients =
            self.listeners.iter().flatten().filter_map(|listener| listener.clients.as_ref());
        let mut all = Revoked::new();
        for clients in clients {
            all.extend(clients::revoked(clients)?);
        }
        Ok(all)
    }

    /// Reads all files again, for connections that come from now on. What is open and was revoked is for the caller to end.
    ///
    /// # Errors
    /// When one is of no use; then everything stays as it was.
    pub(crate) fn reload(&self) -> Result<Revoked, TlsError> {
        let (names, expiries) = by_name(&self.files, self.acme.clone())?;
        let mut renewed = Vec::new();
        for OfListener { sender, clients } in self.listeners.iter().flatten() {
            renewed.push((sender, server_config(names.clone(), clients.as_ref())?));
        }
        let revoked = self.revoked()?;
        for (sender, server) in renewed {
            sender.send_replace(server);
        }
        *self.expiries.write().unwrap_or_else(PoisonError::into_inner) = expiries;
        Ok(revoked)
    }

    /// Reloads whenever files have changed, once they rest for an interval: a key is written after its certificate. Ends
    /// only when it is dropped.
    pub(crate) async fn follow_files(self: Arc<Self>, ended: impl Fn(Revoked)) {
        let mut loaded = self.stamps().await;
        let mut before = loaded.clone();
        loop {
            tokio::time::sleep(TLS_FILES_POLL).await;
            let now = self.stamps().await;
            if now != loaded && now == before {
                loaded.clone_from(&now);
                let this = self.clone();
                match spawn_blocking(move || this.reload()).await {
                    Ok(Ok(revoked)) => {
                        ended(revoked);
                        tracing::info!("files of TLS have changed, and were read again");
                    }
                    Ok(Err(error)) => tracing::error!(
                        "files of TLS have changed, and cannot be used; the old certificate stays: {error}"
                    ),
                    Err(error) => tracing::error!(%error, "files of TLS cannot be read again"),
                }
            }
            before = now;
        }
    }

    async fn stamps(self: &Arc<Self>) -> Vec<Stamp> {
        let this = self.clone();
        // A network file system may not answer.
        spawn_blocking(move || this.paths().map(stamp).collect()).await.unwrap_or_default()
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let pairs = self.files.iter().flat_map(|files| [&files.cert, &files.key]);
        let clients =
            self.listeners.iter().flatten().filter_map(|listener| listener.clients.as_ref());
        let clients = clients
            .flat_map(|clients| [&clients.authorities].into_iter().chain(&clients.revocations));
        pairs.chain(clients).map(PathBuf::as_path)
    }
}

/// `None` for a file that is not there.
fn stamp(path: &Path) -> Stamp {
    let of = |file: Metadata| (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec());
    std::fs::metadata(path).ok().map(of)
}

/// The certificates of these files, and when each expires.
fn by_name(
    files: &[TlsFiles],
    acme: Option<Arc<Acme>>,
) -> Result<(Arc<ByName>, Expiries), TlsError> {
    let provider = rustls::crypto::ring::default_provider();
    let pairs: Result<Vec<_>, _> = files.iter().map(|files| Pair::read(files, &provider)).collect();
    let pairs = pairs?;
    let expiries = pairs.iter().map(|pair| {
        let name = pair.names.first().cloned().unwrap_or_default();
        (name, pair.expires_at)
    });
    let expiries = expiries.collect();
    Ok((Arc::new(ByName::new(pairs, acme)), expiries))
}

fn server_config(
    names: Arc<ByName>,
    clients: Option<&ClientCertificates>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = super::builder(provider.clone())?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients::verifier(clients, provider)?),
        None => builder.with_no_client_auth(),
    };
    let by_acme = names.is_by_acme();
    let mut config = builder.with_cert_resolver(names);
    config.alpn_protocols = Protocols::Http2AndHttp1.names();
    config.alpn_protocols.extend(by_acme.then(|| ACME_TLS_ALPN.to_vec()));
    Ok(Arc::new(config))
}
