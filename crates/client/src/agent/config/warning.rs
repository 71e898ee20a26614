//! What is legal in a configuration and may still not be meant, or will not work on this machine
//! as it stands. Looks at files; changes nothing.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::fault::{Fault, written};
use super::{AgentConfig, Handler, read_credential};
use crate::address::Address;

pub(super) fn of(config: &AgentConfig) -> Vec<Fault> {
    let mut warnings = Vec::new();
    let mut warn = |key: String, problem: String| warnings.push(Fault { key, problem });
    if let Some(path) = &config.credential_file {
        if let Some(problem) = of_credential(path) {
            warn("credential_file".to_owned(), problem);
        }
        if Address::parse(&config.hub).is_ok_and(|a| a.url.scheme() == "http" && !is_here(&a.url)) {
            let problem = "is not https: whoever sits on the way can read the token".to_owned();
            warn("hub".to_owned(), problem);
        }
    }
    if let Some(path) = config.ca_file.as_ref().filter(|path| !path.is_file()) {
        warn("ca_file".to_owned(), format!("is not there: {}", path.display()));
    }
    if config.actions.is_empty() {
        warn("actions".to_owned(), "is empty: every command would be rejected".to_owned());
    }
    for (action, config) in &config.actions {
        let Handler::Program(program) = &config.handler else { continue };
        let key = |key: &str| format!("actions.{}.{key}", written(action.as_str()));
        if let Some(problem) = of_program(program.argv().next().map(Path::new)) {
            warn(key("run"), problem);
        }
        if let Some(folder) = program.folder().filter(|folder| !folder.is_dir()) {
            warn(key("cwd"), format!("is not there: {}", folder.display()));
        }
        let root = rustix::process::geteuid().is_root();
        if let Some(account) = program.account().filter(|account| !root && !account.is_process()) {
            let problem = format!("needs an agent that runs as root to become {}", account.name);
            warn(key("user"), problem);
        }
    }
    warnings
}

fn is_here(url: &reqwest::Url) -> bool {
    url.host_str().is_some_and(super::super::forward::is_loopback)
}

fn of_credential(path: &Path) -> Option<String> {
    if let Err(error) = read_credential(path) {
        return Some(format!("cannot be used: {}: {error}", path.display()));
    }
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o077 != 0).then(|| format!("can be read by others: chmod 600 {}", path.display()))
}

/// The same search that the system makes, without the shell's extras.
fn of_program(program: Option<&Path>) -> Option<String> {
    let program = program?;
    let candidates: Vec<PathBuf> = if program.is_absolute() {
        vec![program.to_owned()]
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(program)).collect()
    };
    let found = candidates.iter().find_map(|path| std::fs::metadata(path).ok().map(|m| (path, m)));
    let Some((path, metadata)) = found else {
        return Some(format!("names a program that is not there: {}", program.display()));
    };
    let mode = metadata.permissions().mode();
    if !metadata.is_file() || mode & 0o111 == 0 {
        return Some(format!("names what is no program: {}", path.display()));
    }
    let writable = mode & 0o002 != 0 && metadata.uid() == 0;
    writable.then(|| format!("names a program that everybody may change: {}", path.display()))
}
