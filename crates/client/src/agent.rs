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
//! The agent logs with `tracing`: without a subscriber, nothing is shown. A service is stopped by TERM, not by
//! Ctrl-C: `examples/agent.rs` handles both.
//!
//! A closure runs at most once for a command, whatever crashes: each step is on disk before the next
//! ([`Agent::run`] explains how). Programs and local web services are handlers too: [`config`] reads a list of
//! them from `agent.toml`, which is what `bellwire agent run` does.
//!
//! - `engine`: the state machine of the commands, without I/O.
//! - `journal`: what must survive a power cut; [`inspect`] shows and repairs it.
//! - `driver`: the event loop; it uses `link`, `network_finding`, `credential`, `clock`, `facts` and [`status`].
//! - [`policy`] and `list`: what may run; [`run`], [`handler`], [`forward`], `closure`: what runs.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use bellwire_proto::{DeviceId, Seconds};

use crate::address::Address;
use crate::event_source::InvalidRequest;
use crate::transport::{InvalidSetting, Transport};

mod builder;
mod clock;
mod closure;
pub mod config;
mod credential;
mod driver;
mod engine;
mod facts;
mod fault;
pub mod forward;
pub mod handler;
pub mod inspect;
mod journal;
mod link;
mod list;
mod network_finding;
pub mod policy;
pub mod run;
pub mod status;

pub use builder::AgentBuilder;
pub use closure::{Command, IntoCompletion};
pub use journal::JournalError;

use list::List;

/// An agent that is ready to run.
pub struct Agent {
    hub: Address,
    device: DeviceId,
    credential: Credential,
    state_dir: PathBuf,
    heartbeat: Option<Seconds>,
    facts: BTreeMap<String, serde_json::Value>,
    list: Arc<List>,
    transport: Arc<dyn Transport>,
    /// Files that name proxies, to be watched.
    proxy_files: Vec<PathBuf>,
}

/// Why an agent cannot be built, or has ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A setting is missing or invalid: correct it.
    #[error("{setting}: {reason}")]
    Setting {
        /// The name of the setting.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The journal cannot be opened; the message names the remedy.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The disk failed while the agent ran. Everything that was reported is on disk: check the disk, and start the
    /// agent again.
    #[error(
        "the journal in {} cannot be written any more: {source}; check the kernel's messages about its disk, then start the agent again", .dir.display()
    )]
    Disk {
        /// The state directory.
        dir: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// The URL of the hub or the credential cannot be used in a request: correct the setting.
    #[error(transparent)]
    Request(#[from] InvalidRequest),
    /// The transport cannot be built: correct its setting.
    #[error(transparent)]
    Transport(#[from] InvalidSetting),
}

/// The source of the token.
#[derive(Default, Clone)]
enum Credential {
    #[default]
    None,
    Token(String),
    /// Read for each request.
    File(PathBuf),
}

impl Agent {
    /// The settings, to be changed and built.
    pub fn builder() -> AgentBuilder {
        AgentBuilder::default()
    }

    /// The device.
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// Runs for ever, or until `shutdown` is ready. Then no new command is accepted, running handlers get 30 s to end,
    /// and results are reported if the hub is reachable. To drop the future has the effect of a crash: the next run
    /// continues from the journal.
    ///
    /// A command is on disk before `accepted` is reported; the hub has answered that before the start is on disk; then
    /// the handler runs; its result is on disk before it is reported, and reported until the hub confirms it. The
    /// agent, the hub, the machine and the network may fail between any two of these steps: a handler is started at
    /// most once, or as often as [`OnRestart::Rerun`](policy::OnRestart::Rerun) allows.
    ///
    /// # Errors
    /// At the start, if the journal cannot be used; later, if the disk fails.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
        self.run_until(shutdown, std::future::pending()).await
    }

    /// As [`Agent::run`], with a second request: when `at_once` is ready too, running handlers are killed. What follows
    /// is still stored, and has 2 s to be reported.
    ///
    /// # Errors
    /// As [`Agent::run`].
    pub async fn run_until(
        self,
        shutdown: impl Future<Output = ()>,
        at_once: impl Future<Output = ()>,
    ) -> Result<(), AgentError> {
        driver::run(self, shutdown, at_once).await
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
