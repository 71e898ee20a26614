//! The token in its file, which may be replaced while the agent runs.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::config;

/// A file with the token. It is read for each request, so that a new token counts from the next one
/// on; while it cannot be read, the last one does.
pub(super) struct CredentialFile {
    path: PathBuf,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    token: Option<String>,
    fault: Option<String>,
}

impl CredentialFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, last: Mutex::default() }
    }

    /// The token as it is now, or else as it last was.
    pub(super) fn token(&self) -> Option<String> {
        let read = config::read_credential(&self.path);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(token) => {
                if last.fault.take().is_some() {
                    tracing::info!(path = %self.path.display(), "the credential can be read again");
                }
                last.token = Some(token);
            }
            Err(error) => {
                let fault = format!("{} cannot be read: {error}", self.path.display());
                let meanwhile = match &last.token {
                    Some(_) => "the last one is shown meanwhile",
                    None => "the hub is asked without one meanwhile",
                };
                // Logged once for as long as it lasts.
                if last.fault.as_ref() != Some(&fault) {
                    tracing::error!("credential_file {fault}; {meanwhile}");
                }
                last.fault = Some(fault);
            }
        }
        last.token.clone()
    }

    /// Why the file could not be read when it was last needed.
    pub(super) fn fault(&self) -> Option<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).fault.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_token_counts_at_once_and_the_last_one_while_the_file_is_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credential");
        let file = CredentialFile::new(path.clone());
        assert_eq!(file.token(), None);
        assert!(file.fault().unwrap().contains("No such file"), "{:?}", file.fault());
        std::fs::write(&path, "bw_one\n").unwrap();
        assert_eq!((file.token().as_deref(), file.fault()), (Some("bw_one"), None));
        std::fs::write(&path, "bw_two").unwrap();
        assert_eq!(file.token().as_deref(), Some("bw_two"));
        let long = "x".repeat(1 << 20);
        for bad in ["", "two words", "a\u{7}bell", &long] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(file.token().as_deref(), Some("bw_two"), "while it holds {bad:.9?}");
            assert!(file.fault().is_some(), "{bad:.9?} is reported");
        }
    }

    /// One that was a pipe kept the agent waiting for ever, before its first log line.
    #[test]
    fn what_is_no_plain_file_is_reported_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let file = CredentialFile::new(pipe);
        assert_eq!(file.token(), None);
        assert!(file.fault().unwrap().contains("not a regular file"), "{:?}", file.fault());
    }
}
