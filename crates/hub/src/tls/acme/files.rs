//! What is kept of ACME in the data folder: the account, and the certificate with its key, each in a file that only its owner
//! may read. A file is replaced as a whole.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use instant_acme::AccountCredentials;
use serde::{Deserialize, Serialize};

use super::super::TlsError;
use super::super::pair::Pair;
use crate::config::TlsFiles;

/// The folder `acme` in the data folder.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
}

/// An account, and the directory of the authority that it is with.
#[derive(Serialize, Deserialize)]
struct Account {
    directory: String,
    credentials: AccountCredentials,
}

impl Files {
    pub(super) fn in_folder(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The account with the authority of this directory, if there is one.
    pub(super) fn account(&self, directory: &str) -> Option<AccountCredentials> {
        let text = fs::read(self.folder.join("account.json")).ok()?;
        let account: Account = serde_json::from_slice(&text).ok()?;
        (account.directory == directory).then_some(account.credentials)
    }

    pub(super) fn put_account(
        &self,
        directory: &str,
        credentials: AccountCredentials,
    ) -> io::Result<()> {
        let account = Account { directory: directory.to_owned(), credentials };
        self.put("account.json", &serde_json::to_vec_pretty(&account)?)
    }

    /// The certificate, if there is one; one that has expired is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn certificate(&self) -> Result<Option<Pair>, TlsError> {
        let path = self.folder.join("certificate.pem");
        match path.try_exists() {
            Ok(false) => Ok(None),
            _ => self.read(&path).map(Some),
        }
    }

    /// Stores a chain with its key, if they are of use.
    ///
    /// # Errors
    /// When they are not, or cannot be written.
    pub(super) fn put_certificate(&self, chain_pem: &str, key_pem: &str) -> Result<Pair, String> {
        let text = format!("{}\n{}\n", chain_pem.trim_end(), key_pem.trim_end());
        let stored = self.put("certificate.pem", text.as_bytes());
        stored.map_err(|error| format!("{} cannot be written: {error}", self.folder.display()))?;
        self.read(&self.folder.join("certificate.pem")).map_err(|error| error.to_string())
    }

    fn read(&self, path: &Path) -> Result<Pair, TlsError> {
        let files = TlsFiles { cert: path.to_owned(), key: path.to_owned() };
        Pair::read(&files, &rustls::crypto::ring::default_provider())
    }

    fn put(&self, name: &str, content: &[u8]) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let new = self.folder.join(format!("{name}.new"));
        // One that a crash left behind.
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, self.folder.join(name))?;
        fs::File::open(&self.folder)?.sync_all()
    }
}
