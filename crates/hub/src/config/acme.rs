//! A certificate that the hub gets by itself, by ACME (RFC 8555).

use std::path::PathBuf;

/// Let's Encrypt's directory.
pub(super) const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Which certificate to get, and from whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeConfig {
    /// Its DNS names, in lower case.
    pub domains: Vec<String>,
    /// Where the authority writes to. Default nowhere.
    pub email: Option<String>,
    /// The URL of the authority's directory. Default that of Let's Encrypt.
    pub directory: String,
    /// A PEM file with the authorities that the directory's own certificate is checked by. Default those of the system.
    pub directory_ca: Option<PathBuf>,
}
