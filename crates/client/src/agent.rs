//! The agent: runs each command once, and only what the list allows.
//!
//! ```no_run
//! use bellwire_client::agent::{Agent, Command};
//!
//! #[derive(serde::Deserialize)]
//! struct Deploy {
//!     version: String,
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let agent = Agent::builder()
//!     .hub("https://hub.example.com")
//!     .device("kiosk-042")
//!     .credential_file("/etc/bellwire/credential")
//!     .state_dir("/var/lib/kiosk")
//!     .on("ping", async |_: Command| "pong")
//!     .on_params("deploy", async |command: Command, params: Deploy| {
//!         command.progress(50.0);
//!         std::fs::write("/srv/version", params.version)
//!     })
//!     .build()?;
//! agent.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A closure runs at most once for a command, whatever dies in between: each step is on disk before
//! the next ([`Agent::run`] tells how). Programs and local web services are handlers too:
//! [`config`] reads a list of them from `agent.toml`, which is what `bellwire agent run` does.
//!
//! - `engine`: what is to happen to a command, decided without I/O.
//! - `journal`: what must be known after a power cut; [`inspect`] looks into it and mends it.
//! - `driver`: the one loop that acts; `link`, `clock`, `facts` and [`status`] are its hands.
//! - [`policy`]: the list; [`run`], [`handler`], [`forward`], `closure`: what runs.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use bellwire_proto::{Action, DeviceId, ErrorInfo, Json, Seconds};
use serde::de::DeserializeOwned;

use crate::event_source::InvalidRequest;
use crate::transport::{HttpTransport, InvalidSetting, Transport};

mod clock;
mod closure;
pub mod config;
mod driver;
mod engine;
mod facts;
mod fault;
pub mod forward;
pub mod handler;
pub mod inspect;
mod journal;
mod link;
pub mod policy;
pub mod run;
pub mod status;

pub use closure::{Command, IntoOutcome};
pub use journal::JournalError;

use closure::Closure;
use engine::{Judge, Terms};
use policy::{Policy, Rules};

/// An agent that is ready to run.
pub struct Agent {
    hub: String,
    device: DeviceId,
    credential: Credential,
    state_dir: PathBuf,
    heartbeat: Option<Seconds>,
    facts: BTreeMap<String, serde_json::Value>,
    list: Arc<List>,
    transport: Arc<dyn Transport>,
}

/// The settings of an [`Agent`].
#[must_use]
#[derive(Default)]
pub struct AgentBuilder {
    hub: String,
    device: String,
    credential: Credential,
    state_dir: Option<PathBuf>,
    heartbeat: Option<Seconds>,
    facts: BTreeMap<String, serde_json::Value>,
    list: List,
    transport: Option<Arc<dyn Transport>>,
    /// The first name that was none: a builder tells of it at the end.
    bad_action: Option<String>,
}

/// Why there is no agent, or no more of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A setting that cannot be used.
    #[error("{setting}: {reason}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// Why.
        reason: String,
    },
    /// The journal cannot be opened; the message names the way out.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The disk failed while the agent ran. What was done is on disk as far as it was told; start
    /// it again.
    #[error(
        "the journal in {} cannot be written any more: {reason}; see what the kernel says of its disk, then start the agent again", .folder.display()
    )]
    Disk {
        /// The state folder.
        folder: PathBuf,
        /// What failed.
        reason: String,
    },
    /// The hub cannot be asked at all: its URL or the credential is none.
    #[error(transparent)]
    Request(#[from] InvalidRequest),
    /// The transport cannot be set up.
    #[error(transparent)]
    Transport(#[from] InvalidSetting),
}

/// Where the token comes from.
#[derive(Default, Clone)]
enum Credential {
    #[default]
    None,
    Token(String),
    /// Read again at each connection.
    File(PathBuf),
}

/// What may run, with the checks that closures bring along.
#[derive(Default)]
struct List {
    policy: Policy,
    checks: HashMap<Action, Check>,
}

type Check = Box<dyn Fn(&Json) -> Result<(), ErrorInfo> + Send + Sync>;

impl Agent {
    /// The settings, to be changed and built.
    pub fn builder() -> AgentBuilder {
        AgentBuilder::default()
    }

    /// Who it is.
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// Runs for ever, or until `shutdown` is ready: then no new command is taken, what runs gets 30 s
    /// to end, and what was done is told where the hub listens. To drop the future is to be killed:
    /// the next run goes on from the journal.
    ///
    /// Each command is on disk before the hub is told `accepted`; the hub has answered to that before
    /// its start is on disk; then it runs; its result is on disk before it is told, and told until the
    /// hub shows that it knows. Between those steps the agent, the hub, the machine and the network
    /// may die as they like: a handler is started at most once, or as often as
    /// [`OnRestart::Rerun`](policy::OnRestart::Rerun) allows.
    ///
    /// # Errors
    /// At the start, when the journal cannot be used; later, when the disk fails.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
        driver::run(self, shutdown).await
    }
}

impl AgentBuilder {
    /// The URL of the hub.
    pub fn hub(mut self, url: impl Into<String>) -> Self {
        self.hub = url.into();
        self
    }

    /// The name of this device at the hub.
    pub fn device(mut self, device: impl Into<String>) -> Self {
        self.device = device.into();
        self
    }

    /// The token that is shown to the hub. Default: none, for an open hub.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.credential = Credential::Token(token.into());
        self
    }

    /// A file with the token and nothing else; it is read again at each connection, so that a token
    /// can be replaced.
    pub fn credential_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.credential = Credential::File(path.into());
        self
    }

    /// The folder of the journal; it is made if need be. One agent at a time.
    pub fn state_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(folder.into());
        self
    }

    /// After how long the hub writes something at the latest; its default is 15 s.
    pub fn heartbeat(mut self, heartbeat: Seconds) -> Self {
        self.heartbeat = Some(heartbeat);
        self
    }

    /// A fact that is told beside those that the agent knows by itself.
    pub fn fact(mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        self.facts.insert(name.into(), value.into());
        self
    }

    /// What the requests go through. Default: an [`HttpTransport`] that names itself
    /// `bellwire-agent`.
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// Everything that stands in a configuration: hub, device, state folder, actions and the rest.
    ///
    /// # Errors
    /// When its `ca_file` or `proxy` cannot be used.
    pub fn config(mut self, config: &config::AgentConfig) -> Result<Self, InvalidSetting> {
        self.hub = config.hub.clone();
        self.device = config.device.to_string();
        self.credential = config.credential_file.clone().map_or(Credential::None, Credential::File);
        self.state_dir = Some(config.state_dir.clone());
        self.heartbeat = config.heartbeat;
        self.facts = config.facts.clone();
        self.list.policy = config.policy();
        let mut transport = HttpTransport::builder().user_agent(USER_AGENT);
        if let Some(path) = &config.ca_file {
            transport = transport.ca_file(path);
        }
        if let Some(proxy) = &config.proxy {
            transport = transport.proxy(proxy);
        }
        self.transport = Some(Arc::new(transport.build()?));
        Ok(self)
    }

    /// Runs a closure for the commands of an action: one at a time, and after a death in the middle
    /// the command has failed as `interrupted`, unless [`AgentBuilder::rules`] says otherwise.
    pub fn on<F, Fut>(mut self, action: &str, closure: F) -> Self
    where
        F: Fn(Command) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome> + Send + 'static,
    {
        match action.parse::<Action>() {
            Ok(action) => self.list.policy.allow(action, Rules::new(Closure(closure))),
            Err(_) => drop(self.bad_action.get_or_insert(action.to_owned())),
        }
        self
    }

    /// As [`AgentBuilder::on`], with the data as a type. A command whose data are of another shape is
    /// rejected as `invalid_params` and never runs.
    pub fn on_params<P, F, Fut>(mut self, action: &str, closure: F) -> Self
    where
        P: DeserializeOwned + Send + 'static,
        F: Fn(Command, P) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome> + Send + 'static,
    {
        if let Ok(action) = action.parse() {
            self.list.checks.insert(action, Box::new(|data| check::<P>(data)));
        }
        self.on(action, move |command: Command| {
            let closure = closure.clone();
            async move {
                match command.parse() {
                    Ok(params) => closure(command, params).await.into_outcome(),
                    Err(error) => run::Outcome::failed("internal", error.to_string()),
                }
            }
        })
    }

    /// Changes the rules of an action that is on the list already.
    pub fn rules(mut self, action: &str, change: impl FnOnce(&mut Rules)) -> Self {
        let action: Option<Action> = action.parse().ok();
        let known = action.and_then(|action| {
            self.list.policy.rules(&action).map(|rules| (action.clone(), Rules::clone(rules)))
        });
        if let Some((action, mut rules)) = known {
            change(&mut rules);
            self.list.policy.allow(action, rules);
        }
        self
    }

    /// The agent.
    ///
    /// # Errors
    /// [`AgentError`] names the setting that is missing or wrong.
    pub fn build(self) -> Result<Agent, AgentError> {
        let fault = |setting, reason: &dyn std::fmt::Display| AgentError::Setting {
            setting,
            reason: reason.to_string(),
        };
        if let Some(action) = &self.bad_action {
            return Err(fault("action", &format!("{action:?} is no name for an action")));
        }
        let device = self.device.parse().map_err(|error| fault("device", &error))?;
        let state_dir = self.state_dir.ok_or_else(|| fault("state_dir", &"it is not set"))?;
        let transport = match self.transport {
            Some(transport) => transport,
            None => Arc::new(HttpTransport::builder().user_agent(USER_AGENT).build()?),
        };
        Ok(Agent {
            hub: self.hub,
            device,
            credential: self.credential,
            state_dir,
            heartbeat: self.heartbeat,
            facts: self.facts,
            list: Arc::new(self.list),
            transport,
        })
    }
}

/// Under which name the agent asks.
const USER_AGENT: &str = concat!("bellwire-agent/", env!("CARGO_PKG_VERSION"));

fn check<P: DeserializeOwned>(data: &Json) -> Result<(), ErrorInfo> {
    data.read::<P>().map(drop).map_err(|error| ErrorInfo {
        code: "invalid_params".to_owned(),
        message: Some(error.to_string()),
    })
}

impl Judge for List {
    fn judge(&self, action: &Action, data: &Json) -> Result<(), ErrorInfo> {
        self.policy.judge(action, data)?;
        self.checks.get(action).map_or(Ok(()), |check| check(data))
    }

    fn terms(&self, action: &Action) -> Option<Terms> {
        let rules = self.policy.rules(action)?;
        let Rules { on_restart, concurrency, timeout, .. } = **rules;
        Some(Terms { on_restart, concurrency, timeout })
    }
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("device", &self.device)
            .field("state_dir", &self.state_dir)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for AgentBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentBuilder")
    }
}
