//! An agent for one test, and the commands that it is sent.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::{Http, Program, wait_until};

/// The configuration of an agent named `kiosk`, in a directory of its own.
pub struct AgentScene {
    bellwire: &'static str,
    folder: tempfile::TempDir,
}

impl AgentScene {
    /// `settings` is the rest of `agent.toml`: the hub, and then the actions.
    pub fn new(bellwire: &'static str, settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let text = format!("device = \"kiosk\"\nstate_dir = {state:?}\n{settings}");
        std::fs::write(folder.path().join("agent.toml"), text).unwrap();
        Self { bellwire, folder }
    }

    /// A path in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the agent.
    pub fn agent(&self) -> Program {
        Program::start(&mut self.agent_command())
    }

    /// To start it in another environment.
    pub fn agent_command(&self) -> Command {
        let mut command = Command::new(self.bellwire);
        command.args(["agent", "run", "--config"]).arg(self.path("agent.toml"));
        command.env("NO_PROXY", "127.0.0.1").env_remove("NOTIFY_SOCKET");
        command
    }
}

/// Sends a command to `kiosk`; gives its id.
pub fn begin(http: Http, action: &str) -> String {
    let answer = http.request("POST", &format!("/v1/send/kiosk/{action}"), &[], b"").unwrap();
    answer.json()["command"].as_str().unwrap_or_else(|| panic!("{}", answer.head)).to_owned()
}

/// Waits until a command's only delivery is in this state, and gives the delivery.
pub fn until(http: Http, id: &str, state: &str) -> Value {
    wait_until(&format!("a command to be {state}"), || {
        let answer =
            http.get(&format!("/v1/commands/{id}/deliveries")).map_err(|e| e.to_string())?;
        let delivery = answer.json()["items"][0].clone();
        if delivery["state"] == state { Ok(delivery) } else { Err(delivery.to_string()) }
    })
}
