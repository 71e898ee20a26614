//! The TLS of a hub while it serves: what each listener speaks, and its renewal when files change.
//!
//! A connection keeps the configuration with which it began, so a reload ends no stream. All files are read before anything
//! is replaced: if one is of no use, everything stays as it was.
//!
//! Changes are found by looking at the files at an interval, and not by notifications of the kernel: certificates are renewed
//! by replacing symbolic links (certbot, the secrets of Kubernetes) and lie on network file systems, neither of which those
//! report reliably, and to look at some files every few seconds costs nothing that could be measured.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bellwire_proto::limits::TLS_FILES_POLL;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::names::ByName;
use super::pair::Pair;
use super::{Protocols, TlsError};
use crate::config::{Config, Scheme, TlsFiles};
use crate::listen::TlsConfigs;

/// The certificates of a hub, and the senders of new configurations to its listeners.
#[derive(Debug)]
pub(crate) struct Serving {
    files: Vec<TlsFiles>,
    /// In the order of the listeners; `None` for a plain one.
    senders: Vec<Option<watch::Sender<Arc<ServerConfig>>>>,
}

/// What shows that a file is another one than before, or has another content.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Everything that is wrong with the TLS of these settings.
pub(crate) fn faults(config: &Config) -> Vec<TlsError> {
    let provider = rustls::crypto::ring::default_provider();
    let pairs = config.certificates().map(|files| Pair::read(files, &provider));
    pairs.filter_map(Result::err).collect()
}

impl Serving {
    /// Reads all files.
    ///
    /// # Errors
    /// When one is of no use.
    pub(crate) fn load(config: &Config) -> Result<Self, TlsError> {
        let files: Vec<_> = config.certificates().cloned().collect();
        let server = server_config(&files)?;
        let sender = |scheme| (scheme == Scheme::Https).then(|| watch::Sender::new(server.clone()));
        let senders = config.listeners().map(|(_, scheme)| sender(scheme)).collect();
        Ok(Self { files, senders })
    }

    /// Whether there is anything to read again.
    pub(crate) fn has_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// What the listener of this position speaks; `None` for plain HTTP.
    pub(crate) fn of_listener(&self, position: usize) -> Option<TlsConfigs> {
        Some(self.senders.get(position)?.as_ref()?.subscribe())
    }

    /// Reads all files again, for connections that come from now on.
    ///
    /// # Errors
    /// When one is of no use; then everything stays as it was.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let server = server_config(&self.files)?;
        for sender in self.senders.iter().flatten() {
            sender.send_replace(server.clone());
        }
        Ok(())
    }

    /// Reloads whenever files have changed, once they rest for an interval: a key is written after its certificate. Ends
    /// only when it is dropped.
    pub(crate) async fn follow_files(self: Arc<Self>) {
        let mut loaded = self.stamps().await;
        let mut before = loaded.clone();
        loop {
            tokio::time::sleep(TLS_FILES_POLL).await;
            let now = self.stamps().await;
            if now != loaded && now == before {
                loaded.clone_from(&now);
                let this = self.clone();
                match spawn_blocking(move || this.reload()).await {
                    Ok(Ok(())) => tracing::info!("files of TLS have changed, and were read again"),
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
        pairs.map(PathBuf::as_path)
    }
}

/// `None` for a file that is not there.
fn stamp(path: &Path) -> Stamp {
    let of = |file: Metadata| (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec());
    std::fs::metadata(path).ok().map(of)
}

fn server_config(files: &[TlsFiles]) -> Result<Arc<ServerConfig>, TlsError> {
    let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
    let pairs: Result<Vec<_>, _> = files.iter().map(|files| Pair::read(files, &provider)).collect();
    let names = Arc::new(ByName::new(pairs?));
    let builder = super::builder(provider)?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(names);
    config.alpn_protocols = Protocols::Http2AndHttp1.names();
    Ok(Arc::new(config))
}
