//! Whether an agent can run with a configuration on this machine: the one answer of `agent check` and `agent run`. Reads the
//! file system and changes nothing.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use bellwire_proto::Action;

use super::super::handler::account::Account;
use super::super::handler::{Program, ProgramError, is_nameless_script};
use super::super::journal::{self, JournalError};
use super::super::run::runtime_dir;
use super::bases::ProxySetting;
use super::fault::{Fault, written};
use super::{AgentConfig, Handler, default_state_dir, read_credential};
use crate::address::Address;
use crate::transport::{InvalidSetting, unusable_variable};

/// Mode bit: others may write.
const WRITE_BY_OTHERS: u32 = 0o002;
const WRITE_BY_GROUP: u32 = 0o020;
/// Mode bit: others may traverse a folder.
const PASS_BY_OTHERS: u32 = 0o001;
/// Mode bit: in such a folder all users may create files, and delete only their own.
const STICKY: u32 = 0o1000;

/// What was found, by its consequence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Readiness {
    /// No agent starts with these.
    pub faults: Vec<Fault>,
    /// An agent starts, and a part of it does not work: it could not be repaired from afar if it did not start.
    pub errors: Vec<Fault>,
    /// What may be a mistake.
    pub warnings: Vec<Fault>,
}

impl Readiness {
    /// Whether everything works, as far as that can be seen.
    pub fn is_ready(&self) -> bool {
        self.faults.is_empty() && self.errors.is_empty()
    }
}

/// `here`: for this process, which is about to run the agent. Otherwise another user may run it, with what the shipped unit sets
/// up.
pub(super) fn check(config: &AgentConfig, here: bool) -> Readiness {
    let mut found = Readiness::default();
    check_link(config, &mut found);
    #[cfg(feature = "pac")]
    if !here {
        check_pac_files(config, &mut found);
    }
    check_state_dir(config, here, &mut found);
    if config.actions.is_empty() {
        found.warnings.push(fault("actions", "is empty: every command is rejected"));
    }
    for action in config.actions.keys() {
        check_action(config, action, &mut found);
    }
    found
}

fn fault(key: impl Into<String>, problem: impl Into<String>) -> Fault {
    Fault { key: key.into(), problem: problem.into() }
}

/// What the connection to the hub needs.
fn check_link(config: &AgentConfig, found: &mut Readiness) {
    match config.transport(None) {
        Ok(_) => {}
        Err(InvalidSetting::CaFile { path, source }) => {
            let problem = format!("cannot be used: {}: {source}", path.display());
            found.faults.push(fault("ca_file", problem));
        }
        Err(InvalidSetting::Proxy(cause)) => found.faults.push(fault("proxy", cause.to_string())),
        Err(other) => found.faults.push(fault("hub", other.to_string())),
    }
    found.errors.extend(check_proxy_variable(config));
    let Some(path) = &config.credential_file else { return };
    match read_credential(path) {
        Err(error) => {
            let problem = format!("cannot be used: {}: {error}", path.display());
            found.errors.push(fault("credential_file", problem));
        }
        Ok(_) if is_open(path) => {
            let problem = format!("can be read by others: chmod 600 {}", path.display());
            found.warnings.push(fault("credential_file", problem));
        }
        Ok(_) => {}
    }
    let is_readable = |hub: &&Address| {
        let is_here = hub.url.host_str().is_some_and(super::super::forward::is_loopback);
        hub.url.scheme() == "http" && !is_here
    };
    if std::iter::once(&config.hub).chain(&config.other_hubs).any(|hub| is_readable(&hub)) {
        let problem = "is not https: everyone on the network path can read the token";
        found.warnings.push(fault("hub", problem));
    }
}

/// A PAC file that cannot be read or evaluated. A running agent logs that, and goes on with the other proxies.
#[cfg(feature = "pac")]
fn check_pac_files(config: &AgentConfig, found: &mut Readiness) {
    for proxy in &config.proxies {
        let ProxySetting::Pac(location) = proxy else { continue };
        if let Some(problem) = super::bases::pac_problem(location, &config.hub, config.template()) {
            found.errors.push(fault("proxy", format!("cannot be used: {problem}")));
        }
    }
}

/// A proxy of the environment that cannot be used, if this agent would go through it: it would try without one.
fn check_proxy_variable(config: &AgentConfig) -> Option<Fault> {
    // Without a setting the environment's is used.
    if !config.proxies.is_empty() && !config.proxies.contains(&ProxySetting::Environment) {
        return None;
    }
    let (name, problem) = unusable_variable(&config.hub.url.as_str().parse().ok()?)?;
    Some(fault(name, format!("(of the environment) {problem}; correct it, unset it, or set proxy")))
}

fn check_state_dir(config: &AgentConfig, here: bool, found: &mut Readiness) {
    let folder = &config.state_dir;
    let usable = journal::check_before(folder).and_then(|()| match here {
        // The agent opens it in a moment.
        true => Ok(()),
        false => journal::show(folder, &config.device, |_, _| {}),
    });
    match usable {
        Ok(()) | Err(JournalError::Missing { .. }) => {}
        Err(error) => found.faults.push(fault("state_dir", format!("cannot be used: {error}"))),
    }
    let socket_bytes = folder.join("agent.sock").as_os_str().len();
    if socket_bytes > SOCKET_BYTES_MAX {
        let problem = "is too long for a socket in it: agent status does not work";
        found.warnings.push(fault("state_dir", problem));
    }
    if let Some(problem) = check_data_files(config, here) {
        found.warnings.push(fault("state_dir", problem));
    }
}

/// Bytes of a path in sockaddr_un without the zero at its end (unix(7)).
const SOCKET_BYTES_MAX: usize = 107;

pub(super) fn check_action(config: &AgentConfig, action: &Action, found: &mut Readiness) {
    let Some(Handler::Program(program)) = config.actions.get(action).map(|a| &a.handler) else {
        return;
    };
    let key = |key| format!("actions.{}.{key}", written(action.as_str()));
    let folder = program.working_dir().filter(|folder| !folder.is_dir());
    match startable(program) {
        Err(problem) => found.errors.push(fault(key("run"), problem)),
        Ok(file) => {
            // The user that a program runs as may change it.
            let own = program.account().map(|account| account.uid);
            if let Some(who) = writable_by(&file, own) {
                found.warnings.push(fault(key("run"), format!("names a program that {who}")));
            }
        }
    }
    if let Some(folder) = folder {
        found.errors.push(fault(key("cwd"), format!("does not exist: {}", folder.display())));
    }
    if let Some(account) = other_user(program).filter(|_| !rustix::process::geteuid().is_root()) {
        let problem = format!("needs an agent that runs as root, to change to {}", account.name);
        found.warnings.push(fault(key("user"), problem));
    }
}

/// Data files go into the state folder, unless systemd has made a folder for them as the shipped unit requests. With that
/// unit no `state_dir` is set: one that is set may belong to another unit.
fn check_data_files(config: &AgentConfig, here: bool) -> Option<String> {
    let folder = &config.state_dir;
    if runtime_dir().is_some() || (!here && Some(folder) == default_state_dir().as_ref()) {
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

/// Whether others may read the file.
fn is_open(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o077 != 0)
}

/// The file of a program, if the kernel would execute it.
fn startable(program: &Program) -> Result<PathBuf, String> {
    let file = program.executable().map_err(|error| match error {
        ProgramError::NotFound(name) => {
            format!("names a program that does not exist: {}", name.display())
        }
        error => format!("cannot be started: {error}"),
    })?;
    match is_nameless_script(&file) {
        true => Err(format!("names a script without #! in its first line: {}", file.display())),
        false => Ok(file),
    }
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
