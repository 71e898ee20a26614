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
//! What the agent has to say it says by `tracing`: set up a subscriber, or it is mute. A service is
//! stopped by TERM, not by Ctrl-C: `examples/agent.rs` heeds both.
//!
//! A closure runs at most once for a command, whatever dies in between: each step is on disk before
//! the next ([`Agent::run`] tells how). Programs and local web services are handlers too:
//! [`config`] reads a list of them from `agent.toml`, which is what `bellwire agent run` does.
//!
//! - `engine`: what is to happen to a command, decided without I/O.
//! - `journal`: what must be known after a power cut; [`inspect`] looks into it and mends it.
//! - `driver`: the one loop that acts; `link`, `credential`, `clock`, `facts` and [`status`] are its hands.
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
pub mod policy;
pub mod run;
pub mod status;

pub use builder::AgentBuilder;
pub use closure::{Command, IntoOutcome};
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
    /// Read for each request.
    File(PathBuf),
}

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
        self.run_until(shutdown, std::future::pending()).await
    }

    /// As [`Agent::run`], with a second word: when `at_once` is ready too, what runs is killed instead
    /// of waited for. What follows is still written down, and has 2 s to be told.
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
