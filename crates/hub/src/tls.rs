//! Certificates: PEM files (`pair.rs`) become rustls configurations, one for each listener, which are renewed while the hub
//! serves (`serving.rs`); a client is shown the certificate for the name that it asks for (`names.rs`).
//!
//! One provider of cryptography (ring), TLS 1.2 and 1.3. HTTP/2 is preferred where a client offers both.

mod acme;
mod clients;
mod names;
mod outgoing;
mod pair;
mod serving;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bellwire_proto::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls::{ConfigBuilder, ServerConfig, WantsVerifier};
use rustls_pki_types::pem;
use tokio::sync::watch;

use crate::config::TlsFiles;
pub(crate) use acme::ACME_TLS_ALPN;
pub use acme::AcmeCounts;
pub use clients::ClientIdentity;
pub(crate) use clients::identity;
use names::ByName;
pub(crate) use outgoing::{Cause, Outgoing};
use pair::Pair;
pub(crate) use serving::{Reloaded, Serving, faults, warnings};

/// A channel of TLS configurations: each connection uses the one that is current at its accept. Send another to renew
/// certificates.
pub type TlsConfigs = watch::Receiver<Arc<ServerConfig>>;

/// Why a certificate or its key cannot be used: the operator's fault in each case. The message
/// names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file cannot be read, or does not contain the PEM block that it should; check path,
    /// permissions and content.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file that is named in the settings.
        path: PathBuf,
        /// What the system or the parser of PEM says of it.
        source: pem::Error,
    },
    /// There is no certificate in the file; the two files may be interchanged.
    #[error("{} holds no certificate", path.display())]
    NoCertificate {
        /// The file that is named in the settings.
        path: PathBuf,
    },
    /// There is no key in the file; the two files may be interchanged.
    #[error("{} holds no private key", path.display())]
    NoKey {
        /// The file that should have the key.
        path: PathBuf,
    },
    /// The key needs a passphrase, and a service has no one to ask for it.
    #[error(
        "the key in {path} is encrypted, and a server cannot ask for its passphrase. Decrypt it into a file that only \
         the server may read: (umask 077; openssl pkey -in {path} -out decrypted.key)",
        path = path.display()
    )]
    EncryptedKey {
        /// The file that should have the key.
        path: PathBuf,
    },
    /// The key does not belong to the certificate, or its algorithm is not supported.
    #[error("cannot use {} with {}: {}", cert.display(), key.display(), pair_fault(source))]
    Pair {
        /// The chain.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What rustls says of the pair.
        source: rustls::Error,
    },
    /// The certificate has expired, and clients refuse it.
    #[error(
        "the certificate in {} expired at {expired_at}, and every client that checks it refuses it: put a renewed one there \
         (certbot renew, or from whoever issued it)",
        cert.display()
    )]
    Expired {
        /// The chain.
        cert: PathBuf,
        /// The end of its validity.
        expired_at: Timestamp,
    },
    /// The authorities of clients, or their list of revoked certificates, cannot be used.
    #[error("cannot use {} for the certificates of clients: {reason}", path.display())]
    Authorities {
        /// The file that is named in the settings.
        path: PathBuf,
        /// What is wrong with it, as a clause.
        reason: String,
    },
    /// The provider of cryptography does not fit rustls: a fault of this program.
    #[error("TLS cannot be set up: {0}")]
    Provider(#[source] rustls::Error),
}

/// Which protocols a server offers in the handshake (ALPN).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/1 alone: every stream's connection can be taken over.
    Http1,
    /// HTTP/2 first. Its streams share a connection and are ordinary response bodies.
    Http2AndHttp1,
}

impl Protocols {
    fn names(self) -> Vec<Vec<u8>> {
        let http1 = [b"http/1.1".to_vec(), b"http/1.0".to_vec()];
        let http2 = (self == Self::Http2AndHttp1).then(|| b"h2".to_vec());
        http2.into_iter().chain(http1).collect()
    }
}

/// Reads a certificate chain and its key.
///
/// # Errors
/// When one cannot be read, they do not belong together, or the certificate has expired.
pub fn load(files: &TlsFiles, protocols: Protocols) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pair = Pair::read(files, &provider)?;
    let resolver = Arc::new(ByName::new(vec![pair], None));
    let mut config = builder(provider)?.with_no_client_auth().with_cert_resolver(resolver);
    // A client that offers only protocols that are not listed is refused, so HTTP/1.0 must be
    // listed too.
    config.alpn_protocols = protocols.names();
    Ok(Arc::new(config))
}

/// TLS 1.2 and 1.3.
fn builder(
    provider: Arc<CryptoProvider>,
) -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, TlsError> {
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Provider)
}

/// Why a certificate and a key do not make a pair.
fn pair_fault(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch) => {
            "the key belongs to another certificate; take both from the same issue".to_owned()
        }
        other => other.to_string(),
    }
}

fn file(path: &Path, source: pem::Error) -> TlsError {
    TlsError::File { path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
    }

    #[test]
    fn a_chain_and_its_key_make_a_server_that_offers_the_protocols_requested() {
        let files = TlsFiles { cert: fixture("cert.pem"), key: fixture("key.pem") };
        let offered = |protocols| load(&files, protocols).unwrap().alpn_protocols.clone();
        // A client that named http/1.0 alone, as `curl --http1.0` does, was refused in the handshake.
        assert_eq!(offered(Protocols::Http1), [b"http/1.1", b"http/1.0"]);
        let both: [&[u8]; 3] = [b"h2", b"http/1.1", b"http/1.0"];
        assert_eq!(offered(Protocols::Http2AndHttp1), both);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let (cert, key) = (fixture("cert.pem"), fixture("key.pem"));
        for (cert, key, named) in [
            (fixture("missing.pem"), key.clone(), "missing.pem"),
            (key.clone(), key.clone(), "key.pem"),
            (cert.clone(), cert.clone(), "cert.pem"),
            (cert.clone(), fixture("other-key.pem"), "the key belongs to another certificate"),
        ] {
            let refused = load(&TlsFiles { cert, key }, Protocols::Http1).unwrap_err().to_string();
            assert!(refused.contains(named), "{refused}");
        }
    }

    /// It was refused with "no items found in PEM".
    #[test]
    fn a_key_with_a_passphrase_is_said_to_have_one() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("hub.key");
        let cert = fixture("cert.pem");
        for (pem, expected) in [
            (
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n",
                "openssl pkey -in",
            ),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n\
                 MIIB\n-----END RSA PRIVATE KEY-----\n",
                "is encrypted",
            ),
            ("nothing\n", "holds no private key"),
        ] {
            std::fs::write(&key, pem).unwrap();
            let files = TlsFiles { cert: cert.clone(), key: key.clone() };
            let refused = load(&files, Protocols::Http1).unwrap_err().to_string();
            assert!(refused.contains(expected) && refused.contains("hub.key"), "{refused}");
        }
    }
}
