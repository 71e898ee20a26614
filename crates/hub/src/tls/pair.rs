//! A certificate chain and its key, read from PEM files and checked: that they fit each other, and that clients accept the
//! certificate still.

use std::path::Path;
use std::sync::Arc;

use bellwire_proto::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;
use crate::config::TlsFiles;

/// What a listener shows.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    /// Its DNS names in lower case, wildcards among them.
    pub(super) names: Vec<String>,
    pub(super) begins_at: Timestamp,
    pub(super) expires_at: Timestamp,
}

impl Pair {
    /// Reads both files.
    ///
    /// # Errors
    /// When one cannot be read, they do not belong together, or the certificate has expired.
    pub(super) fn read(files: &TlsFiles, provider: &CryptoProvider) -> Result<Self, TlsError> {
        let TlsFiles { cert, key } = files;
        let chain = chain(cert)?;
        let secret = private_key(key)?;
        let refused = |source| TlsError::Pair { cert: cert.clone(), key: key.clone(), source };
        let pair = CertifiedKey::from_der(chain, secret, provider).map_err(refused)?;
        let leaf = pair.end_entity_cert().map_err(refused)?;
        let undecodable =
            |_| refused(rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding));
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(undecodable)?;
        let expires_at = timestamp(leaf.validity().not_after.timestamp());
        if expires_at <= now() {
            return Err(TlsError::Expired { cert: cert.clone(), expired_at: expires_at });
        }
        let begins_at = timestamp(leaf.validity().not_before.timestamp());
        let names = dns_names(&leaf);
        Ok(Self { key: Arc::new(pair), names, begins_at, expires_at })
    }
}

/// The certificates of a PEM file.
///
/// # Errors
/// When it cannot be read or has none.
pub(super) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| super::file(path, source))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: path.into() });
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    // Read once: it may be a pipe.
    let text = std::fs::read(path).map_err(|source| super::file(path, pem::Error::Io(source)))?;
    let read = PrivateKeyDer::from_pem_slice(&text);
    read.map_err(|source| match source {
        // Checked only now: a readable key may stand beside an encrypted one.
        _ if is_encrypted(&text) => TlsError::EncryptedKey { path: path.into() },
        pem::Error::NoItemsFound => TlsError::NoKey { path: path.into() },
        source => super::file(path, source),
    })
}

/// Whether a PEM text has a key with a passphrase: of PKCS #8 (RFC 7468, section 11), or of the older form with a header
/// (RFC 1421, section 4.6.1.1).
fn is_encrypted(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines().map(str::trim);
    lines.any(|line| {
        line == "-----BEGIN ENCRYPTED PRIVATE KEY-----"
            || line.strip_prefix("Proc-Type:").is_some_and(|kind| kind.contains("ENCRYPTED"))
    })
}

fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let dns_name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(dns_name).collect()
}

/// The time of a certificate, in seconds since the epoch.
pub(super) fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from_unix_ms(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

/// The wall clock, by which certificates are judged everywhere.
pub(super) fn now() -> Timestamp {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Timestamp::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
