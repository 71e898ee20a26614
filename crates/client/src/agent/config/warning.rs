//! Warnings: what is valid in a configuration and may still be a mistake, or does not work on this machine. Reads the file
//! system and changes nothing.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use bellwire_proto::Action;

use super::super::handler::account::Account;
use super::super::handler::{Program, ProgramError, is_nameless_script};
use super::super::run::runtime_dir;
use super::fault::{Fault, written};
use super::{AgentConfig, Handler, default_state_dir, read_credential};

/// Mode bit: others may write.
const WRITE_BY_OTHERS: u32 = 0o002;
const WRITE_BY_GROUP: u32 = 0o020;
/// Mode bit: others may traverse a folder.
const PASS_BY_OTHERS: u32 = 0o001;
/// Mode bit: in such a folder all users may create files, and delete only their own.
const STICKY: u32 = 0o1000;

pub(super) fn of(config: &AgentConfig, here: bool) -> Vec<Fault> {
    let mut warnings = Vec::new();
    let mut warn = |key: &str, problem: String| {
        warnings.push(Fault { key: key.to_owned(), problem });
    };
    if let Some(path) = &config.credential_file {
        if let Some(problem) = of_credential(path) {
            warn("credential_file", problem);
        }
        let url = &config.hub.url;
        let is_here = url.host_str().is_some_and(super::super::forward::is_loopback);
        if url.scheme() == "http" && !is_here {
            warn("hub", "is not https: everyone on the network path can read the token".to_owned());
        }
    }
    if let Some(path) = config.ca_file.as_ref().filter(|path| !path.is_file()) {
        warn("ca_file", format!("does not exist: {}", path.display()));
    }
    let socket_bytes = config.state_dir.join("agent.sock").as_os_str().len();
    if socket_bytes > SOCKET_BYTES_MAX {
        warn("state_dir", "is too long for a socket in it: agent status does not work".to_owned());
    }
    if let Some(problem) = of_data_files(config, here) {
        warn("state_dir", problem);
    }
    if config.actions.is_empty() {
        warn("actions", "is empty: every command is rejected".to_owned());
    }
    warnings.extend(config.actions.keys().flat_map(|action| of_action(config, action)));
    warnings
}

/// Bytes of a path in sockaddr_un without the zero at its end (unix(7)).
const SOCKET_BYTES_MAX: usize = 107;

pub(super) fn of_action(config: &AgentConfig, action: &Action) -> Vec<Fault> {
    let Some(Handler::Program(program)) = config.actions.get(action).map(|a| &a.handler) else {
        return Vec::new();
    };
    let account = other_user(program).filter(|_| !rustix::process::geteuid().is_root());
    let folder = program.working_dir().filter(|folder| !folder.is_dir());
    let warnings = [
        ("run", of_program(program)),
        ("cwd", folder.map(|folder| format!("does not exist: {}", folder.display()))),
        (
            "user",
            account.map(|a| format!("needs an agent that runs as root, to change to {}", a.name)),
        ),
    ];
    let key = |key| format!("actions.{}.{key}", written(action.as_str()));
    let found = warnings.into_iter().filter_map(|(k, problem)| Some((key(k), problem?)));
    found.map(|(key, problem)| Fault { key, problem }).collect()
}

/// Data files go into the state folder, unless systemd has made a folder for them as the shipped unit requests. With that
/// unit no `state_dir` is set: one that is set may belong to another unit.
fn of_data_files(config: &AgentConfig, here: bool) -> Option<String> {
    let folder = &config.state_dir;
    if runtime_dir().is_some() || (!here && *folder == default_state_dir()) {
        return None;
    }
    let user = config.actions.values().find_map(|action| match &action.handler {
        Handler::Program(program) => other_user(program),
        Handler::Forward(_) => None,
    })?;
    let closed = folder.ancestors().find(|above| {
        std::fs::metadata(above).is_ok_and(|found| found.mode() & PASS_BY_OTHERS == 0)
    })?;
    Some(format!(
        "is in a folder where {} cannot open its data file: chmod o+x {}",
        user.name,
        closed.display()
    ))
}

/// The user that the program runs as, if the agent runs as another.
fn other_user(program: &Program) -> Option<&Account> {
    program.account().filter(|account| !account.is_process())
}

fn of_credential(path: &Path) -> Option<String> {
    if let Err(error) = read_credential(path) {
        return Some(format!("cannot be used: {}: {error}", path.display()));
    }
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o077 != 0).then(|| format!("can be read by others: chmod 600 {}", path.display()))
}

fn of_program(program: &Program) -> Option<String> {
    let file = match program.file() {
        Ok(file) => file,
        Err(ProgramError::NotFound(name)) => {
            return Some(format!("names a program that does not exist: {}", name.display()));
        }
        Err(error) => return Some(format!("cannot be started: {error}")),
    };
    if is_nameless_script(&file) {
        return Some(format!("names a script without #! in its first line: {}", file.display()));
    }
    // The user that a program runs as may change it.
    let own = program.account().map(|account| account.uid);
    writable_by(&file, own).map(|who| format!("names a program that {who}"))
}

/// Who may change a file, besides root, the user of this process and `also`: the end of a sentence, as in "every user may
/// change: /srv/x". A user who may write to its folder may replace it.
pub fn writable_by(file: &Path, also: Option<u32>) -> Option<String> {
    let own = [Some(0), Some(rustix::process::geteuid().as_raw()), also];
    let groups = [0, rustix::process::getegid().as_raw()];
    let of = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        let (mode, sticky) = (found.mode(), found.is_dir() && found.mode() & STICKY != 0);
        let who = if mode & WRITE_BY_OTHERS != 0 && !sticky {
            "every user"
        } else if mode & WRITE_BY_GROUP != 0 && !sticky && !groups.contains(&found.gid()) {
            "its group"
        } else if !own.contains(&Some(found.uid())) {
            "its owner, who is not root,"
        } else {
            return None;
        };
        Some(format!("{who} may change: {}", path.display()))
    };
    of(file).or_else(|| of(file.parent()?))
}
