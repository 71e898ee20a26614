//! `agent.toml`: the agent's settings, parsed once into validated types.
//!
//! Every fault is reported with its key; an unknown key is a fault. The caller reads the file and passes its text. The
//! program or web service of an action becomes a [`Handler`], its rules a part of the [`Policy`].
//!
//! ```
//! use bellwire_client::agent::config::AgentConfig;
//!
//! let config = AgentConfig::read(r#"
//!     hub = "https://hub.example.com"
//!     device = "kiosk-042"
//!     [actions.ping]
//!     run = ["/bin/echo", "pong"]
//! "#)?;
//! assert_eq!(config.policy().actions().count(), 1);
//!
//! let faults = AgentConfig::read("hub = 'x'\n[actions.ping]\nrun = 'echo pong'").unwrap_err();
//! assert_eq!(faults.iter().count(), 3, "hub, device and actions.ping.run");
//! # Ok::<(), bellwire_client::agent::config::ConfigFaults>(())
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bellwire_proto::limits::{
    AGENT_FACTS_BYTES_MAX, AGENT_FACTS_KEYS_MAX, CREDENTIAL_BYTES_MAX, FACTS_BYTES_MAX,
    FACTS_KEYS_MAX, HEARTBEAT_S, RUN_TIMEOUT_S,
};
use bellwire_proto::{Action, DeviceId, Seconds};
use futures_core::future::BoxFuture;

use super::forward::Forward;
use super::handler::{Program, account};
use super::policy::{OnRestart, Params, Policy, Rules};
use super::run::{Run, RunContext, RunEnd, systemd_dir};
use crate::address::Address;
use crate::transport::{HttpTransport, HttpTransportBuilder, KeyPin};

mod action;
mod bases;
mod fault;
mod params;
mod readiness;

pub use bases::ProxySetting;
pub(super) use bases::default_transport;
pub use fault::{ConfigFaults, Fault};
use fault::{Section, boolean, text};
pub use readiness::{Readiness, writable_by};

/// The default path of the configuration.
pub const CONFIG_FILE: &str = "/etc/bellwire/agent.toml";
/// The agent's `User-Agent`.
const USER_AGENT: &str = concat!("bellwire-agent/", env!("CARGO_PKG_VERSION"));
/// The default state folder of an agent that runs as root.
const STATE_DIR_OF_ROOT: &str = "/var/lib/bellwire";

/// The settings of `agent.toml`, checked.
///
/// [`AgentConfig::read`] parses them; [`AgentBuilder::config`](super::AgentBuilder::config) takes them.
/// [`AgentConfig::readiness`] checks them against this machine.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AgentConfig {
    /// The URL of the hub: the preferred one.
    pub hub: Address,
    /// Other URLs of the same hub, tried in order where that one does not answer.
    pub other_hubs: Vec<Address>,
    /// The name of this device.
    pub device: DeviceId,
    /// The file with the token, read for each request. `None` for a hub that requires none.
    pub credential_file: Option<PathBuf>,
    /// The folder of the journal.
    pub state_dir: PathBuf,
    /// A PEM file with authorities to trust beside the platform's.
    pub ca_file: Option<PathBuf>,
    /// The keys of which the hub's certificate must have one, as [`HttpTransportBuilder::pin_sha256`] takes them.
    pub pin_sha256: Vec<String>,
    /// The proxies to the hub, tried in order; empty for the environment's.
    pub proxies: Vec<ProxySetting>,
    /// The heartbeat requested from the hub; `None` for its default.
    pub heartbeat: Option<Seconds>,
    /// Facts of this device beside those that the agent adds.
    pub facts: BTreeMap<String, serde_json::Value>,
    /// The allowed actions.
    pub actions: BTreeMap<Action, ActionConfig>,
}

/// The settings of `[actions.NAME]`, checked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ActionConfig {
    /// Runs its commands.
    pub handler: Handler,
    /// How long a run may take; `None` for the command's `run_timeout_s`.
    pub timeout: Option<Duration>,
    /// What happens to an interrupted run.
    pub on_restart: OnRestart,
    /// How many of its commands may run at once.
    pub concurrency: usize,
    /// What its data must be; `None` for any data.
    pub params: Option<Params>,
}

/// The handler of an action in the file.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Handler {
    /// A program.
    Program(Arc<Program>),
    /// A web service.
    Forward(Forward),
}

impl Run for Handler {
    fn start(&self, context: RunContext) -> BoxFuture<'static, RunEnd> {
        match self {
            Self::Program(program) => program.start(context),
            Self::Forward(forward) => forward.start(context),
        }
    }
}

impl AgentConfig {
    /// Reads the text of the file.
    ///
    /// # Errors
    /// All faults, each with its key.
    pub fn read(text: &str) -> Result<Self, ConfigFaults> {
        let table = fault::parse(text)?;
        let mut faults = Vec::new();
        let mut section = Section::new("", table, &mut faults);
        let config = Self::take(&mut section);
        section.finish();
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            _ => Err(ConfigFaults::new(faults)),
        }
    }

    fn take(section: &mut Section<'_>) -> Option<Self> {
        let mut hubs = bases::hubs(section);
        let hub = if hubs.is_empty() { None } else { Some(hubs.remove(0)) };
        let device =
            section.require("device", "a device name: 1 to 128 of A-Z a-z 0-9 . _ : @ ~ -", |v| {
                text(v)?.parse().ok()
            });
        let credential_file = section.take("credential_file", ABSOLUTE, absolute);
        let state_dir = if section.has("state_dir") {
            section.take("state_dir", ABSOLUTE, absolute)
        } else {
            let folder = default_state_dir();
            if folder.is_none() {
                section.fault_of("state_dir", NO_STATE_DIR);
            }
            folder
        };
        let ca_file = section.take("ca_file", ABSOLUTE, absolute);
        let proxies = bases::proxies(section);
        let pin_sha256 = section.take("pin_sha256", PINS, pins).unwrap_or_default();
        let heartbeat = section.take("heartbeat", &format!("{DURATION}; from 5s to 10m"), |v| {
            seconds(v).filter(|s| HEARTBEAT_S.contains(s.get()))
        });
        let facts = section.take("facts", &facts_allowed(), facts).unwrap_or_default();
        let actions = section.tables("actions", |name, mut section| {
            let action: Option<Action> = name.parse().ok();
            if action.is_none() {
                section.fault("is not an action name: 1 to 64 of A-Z a-z 0-9 . _ -");
            }
            let config = ActionConfig::take(&mut section);
            section.finish();
            Some((action?, config?))
        });
        Some(Self {
            hub: hub?,
            other_hubs: hubs,
            device: device?,
            credential_file,
            state_dir: state_dir?,
            ca_file,
            pin_sha256,
            proxies,
            heartbeat,
            facts,
            actions: actions.into_iter().collect(),
        })
    }

    /// The allow-list.
    pub fn policy(&self) -> Policy {
        let mut policy = Policy::default();
        for (action, config) in &self.actions {
            policy.allow(action.clone(), config.rules());
        }
        policy
    }

    /// Whether an agent can run with it on this machine. Assumes what the shipped unit for systemd sets up.
    pub fn readiness(&self) -> Readiness {
        readiness::check(self, false)
    }

    /// The same for this process, which is about to run the agent: assumes nothing.
    pub fn readiness_here(&self) -> Readiness {
        readiness::check(self, true)
    }

    /// What is wrong with one action, or may be.
    pub fn warnings_of(&self, action: &Action) -> Vec<Fault> {
        let mut found = Readiness::default();
        readiness::check_action(self, action, &mut found);
        found.errors.into_iter().chain(found.warnings).collect()
    }
}

impl ActionConfig {
    /// The rules of this action.
    pub fn rules(&self) -> Rules {
        Rules {
            timeout: self.timeout,
            on_restart: self.on_restart,
            concurrency: self.concurrency,
            params: self.params.clone(),
            ..Rules::new(self.handler.clone())
        }
    }
}

const PINS: &str = "a list of SHA-256 of keys in Base64, as in [\"sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\"]";

fn pins(value: &toml::Value) -> Option<Vec<String>> {
    let pin = |value: &toml::Value| {
        let pin = text(value)?;
        pin.parse::<KeyPin>().is_ok().then_some(pin)
    };
    value.as_array()?.iter().map(pin).collect()
}

/// The transport to the hub: a dead stream must not take the reports with it, so each has a connection of its own.
pub(super) fn transport() -> HttpTransportBuilder {
    HttpTransport::builder().user_agent(USER_AGENT).http1(true)
}

/// What it does, in one sentence for people.
impl fmt::Display for ActionConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.handler {
            Handler::Program(program) => write!(f, "runs {program}")?,
            Handler::Forward(forward) => write!(f, "posts to {}", forward.url())?,
        }
        match self.timeout {
            Some(timeout) => write!(f, "; at most {} s", timeout.as_secs())?,
            None => write!(f, "; at most {} s, or what the sender sets", RUN_TIMEOUT_S.default)?,
        }
        match self.concurrency {
            1 => f.write_str("; one at a time")?,
            n => write!(f, "; {n} at a time")?,
        }
        match &self.params {
            None => f.write_str("; any data")?,
            Some(Params(members)) if members.is_empty() => f.write_str("; data {}")?,
            Some(Params(members)) => {
                let members: Vec<String> = members
                    .iter()
                    .map(|(name, param)| {
                        let optional = if param.optional { " (optional)" } else { "" };
                        format!("{name}{optional}: {param}")
                    })
                    .collect();
                write!(f, "; data with {}", members.join(", "))?;
            }
        }
        write!(f, "; when interrupted: {}", self.on_restart.as_str())
    }
}

const DURATION: &str = "a duration: seconds, or as in \"90s\", \"15m\", \"24h\", \"7d\", \"1h30m\"";
const ABSOLUTE: &str = "an absolute path";
const FACTS_KEYS: usize = FACTS_KEYS_MAX - AGENT_FACTS_KEYS_MAX;
const FACTS_BYTES: usize = FACTS_BYTES_MAX - AGENT_FACTS_BYTES_MAX;

fn absolute(value: &toml::Value) -> Option<PathBuf> {
    text(value).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// A duration: `90`, `"90s"`, `"15m"`, `"24h"`, `"7d"`, `"1h30m"`.
fn seconds(value: &toml::Value) -> Option<Seconds> {
    match value {
        toml::Value::Integer(n) => u64::try_from(*n).ok().map(Seconds::new),
        toml::Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn facts_allowed() -> String {
    format!("a table of at most {FACTS_KEYS} facts and {} KiB as JSON", FACTS_BYTES / 1024)
}

fn facts(value: &toml::Value) -> Option<BTreeMap<String, serde_json::Value>> {
    let table = value.as_table()?;
    let facts: BTreeMap<_, _> = table
        .iter()
        .map(|(name, value)| Some((name.clone(), json(value)?)))
        .collect::<Option<_>>()?;
    let bytes = serde_json::to_vec(&facts).ok()?.len();
    (facts.len() <= FACTS_KEYS && bytes <= FACTS_BYTES).then_some(facts)
}

/// A TOML value as JSON; a time becomes its text. `None` for infinity and NaN.
fn json(value: &toml::Value) -> Option<serde_json::Value> {
    Some(match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(n) => (*n).into(),
        toml::Value::Float(n) => serde_json::Number::from_f64(*n)?.into(),
        toml::Value::Boolean(yes) => (*yes).into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values.iter().map(json).collect::<Option<Vec<_>>>()?.into(),
        toml::Value::Table(table) => {
            let members = table.iter().map(|(name, value)| Some((name.clone(), json(value)?)));
            serde_json::Value::Object(members.collect::<Option<_>>()?)
        }
    })
}

const NO_STATE_DIR: &str = "is not set, and this user has no home folder for it: set state_dir to a folder that belongs to the agent's user";

/// The folder that systemd has made for the service, or root's, or the XDG state folder of this process or its account.
/// `None` without any: a folder that all users share, as `/tmp`, may hold one that another user has made.
fn default_state_dir() -> Option<PathBuf> {
    if let Some(folder) = systemd_dir("STATE_DIRECTORY") {
        return Some(folder);
    }
    if rustix::process::geteuid().is_root() {
        return Some(STATE_DIR_OF_ROOT.into());
    }
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home =
        || set("HOME").or_else(|| account::of_process().and_then(|account| account.own_home()));
    let folder = set("XDG_STATE_HOME").or_else(|| Some(home()?.join(".local/state")))?;
    Some(folder.join("bellwire"))
}

/// Reads a token from a file that contains nothing else.
///
/// # Errors
/// When it cannot be read, or contains no token.
pub fn read_credential(path: &Path) -> std::io::Result<String> {
    // Reading anything else could block for ever.
    if !std::fs::metadata(path)?.is_file() {
        return Err(no_credential("it is not a regular file"));
    }
    credential_from(std::fs::File::open(path)?)
}

/// Reads a token from what contains nothing else, to its end or to the longest token there may be.
///
/// # Errors
/// When it cannot be read, or contains no token.
pub fn credential_from(source: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    source.take(CREDENTIAL_BYTES_MAX + 1).read_to_string(&mut text)?;
    let token = text.trim();
    if text.len() as u64 > CREDENTIAL_BYTES_MAX {
        return Err(no_credential("it is too long for a token"));
    }
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(no_credential(
            "it must contain one token, of printable ASCII, and nothing else",
        ));
    }
    Ok(token.to_owned())
}

fn no_credential(why: &'static str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests;
