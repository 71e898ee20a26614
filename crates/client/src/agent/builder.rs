//! The settings of an agent, from code and from its file.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use bellwire_proto::{Action, Seconds, codes};
use serde::de::DeserializeOwned;

use super::closure::{Closure, Command, IntoCompletion};
use super::list::List;
use super::network_finding::StoredFinding;
use super::policy::Rules;
use super::run::Completion;
use super::{Agent, AgentError, Credential, config};
use crate::address::Address;
use crate::transport::{InvalidSetting, Transport};

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
    proxy_files: Vec<PathBuf>,
    /// The first error in an action, which [`AgentBuilder::build`] returns.
    bad_action: Option<String>,
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

    /// The token for the hub. Default: none, for an open hub.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.credential = Credential::Token(token.into());
        self
    }

    /// A file with the token and nothing else. It is read for each request, so that the token can be replaced.
    pub fn credential_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.credential = Credential::File(path.into());
        self
    }

    /// The directory of the journal, which is created if necessary. Only one agent may run on it.
    pub fn state_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(folder.into());
        self
    }

    /// The longest pause between two writes of the hub; its default is 15 s.
    pub fn heartbeat(mut self, heartbeat: Seconds) -> Self {
        self.heartbeat = Some(heartbeat);
        self
    }

    /// A fact that is reported besides those that the agent collects itself.
    pub fn fact(mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        self.facts.insert(name.into(), value.into());
        self
    }

    /// What the requests go through. Default: an [`HttpTransport`](crate::transport::HttpTransport) that names itself
    /// `bellwire-agent` and speaks [HTTP/1.1 alone](crate::transport::HttpTransportBuilder::http1).
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// Takes over a configuration: hub, device, state directory, actions and the rest. Settings that it does not contain
    /// are unchanged, actions and facts included.
    ///
    /// # Errors
    /// If its `ca_file` or `proxy` cannot be used.
    pub fn config(mut self, config: &config::AgentConfig) -> Result<Self, InvalidSetting> {
        self.hub = config.hub.with_credentials().to_owned();
        self.device = config.device.to_string();
        self.state_dir = Some(config.state_dir.clone());
        self.heartbeat = config.heartbeat.or(self.heartbeat);
        self.facts.extend(config.facts.clone());
        if let Some(path) = &config.credential_file {
            self.credential = Credential::File(path.clone());
        }
        for (action, config) in &config.actions {
            self.list.allow(action.clone(), config.rules());
        }
        let finding = StoredFinding::read(&config.state_dir);
        if let Some(transport) = config.transport(finding.as_ref())? {
            self.transport = Some(transport);
        }
        self.proxy_files = config.proxies.iter().filter_map(|proxy| proxy.file()).collect();
        Ok(self)
    }

    /// Runs a closure for the commands of an action: one at a time, and a command during which the agent crashed has
    /// failed as `interrupted`, unless [`AgentBuilder::rules`] sets something else.
    pub fn on<F, Fut>(mut self, action: &str, closure: F) -> Self
    where
        F: Fn(Command) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoCompletion> + Send + 'static,
    {
        if let Some(action) = self.action(action) {
            self.list.allow(action, Rules::new(Closure(closure)));
        }
        self
    }

    /// As [`AgentBuilder::on`], with the data as a type. A command whose data do not match the type is rejected as
    /// `invalid_params` and never runs.
    pub fn on_params<P, F, Fut>(mut self, action: &str, closure: F) -> Self
    where
        P: DeserializeOwned + Send + 'static,
        F: Fn(Command, P) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output: IntoCompletion> + Send + 'static,
    {
        let Some(action) = self.action(action) else { return self };
        let typed = move |command: Command| {
            let closure = closure.clone();
            async move {
                match command.parse() {
                    Ok(params) => closure(command, params).await.into_completion(),
                    Err(error) => Completion::failed(codes::INTERNAL, error.to_string()),
                }
            }
        };
        self.list.allow_typed::<P>(action, Rules::new(Closure(typed)));
        self
    }

    /// Changes the rules of an action that is on the list already.
    pub fn rules(mut self, action: &str, change: impl FnOnce(&mut Rules)) -> Self {
        let Some(action) = self.action(action) else { return self };
        match self.list.policy.rules_mut(&action) {
            Some(rules) => change(rules),
            None => self.fault(format!("{action} is not on the list yet: its rules come after it")),
        }
        self
    }

    fn action(&mut self, name: &str) -> Option<Action> {
        let action = name.parse().ok();
        if action.is_none() {
            self.fault(format!("{name:?} is no name for an action"));
        }
        action
    }

    fn fault(&mut self, fault: String) {
        self.bad_action.get_or_insert(fault);
    }

    /// Builds the agent.
    ///
    /// # Errors
    /// [`AgentError`] names the setting that is missing or invalid.
    pub fn build(self) -> Result<Agent, AgentError> {
        let fault = |setting, reason: &dyn fmt::Display| AgentError::Setting {
            setting,
            reason: reason.to_string(),
        };
        if let Some(problem) = &self.bad_action {
            return Err(fault("action", problem));
        }
        let hub = Address::parse(&self.hub).map_err(|error| fault("hub", &error))?;
        if hub.url.query().is_some() {
            return Err(crate::event_source::InvalidRequest::Query { url: hub.to_string() }.into());
        }
        let device = self.device.parse().map_err(|error| fault("device", &error))?;
        let state_dir = self.state_dir.ok_or_else(|| fault("state_dir", &"it is not set"))?;
        let transport = match self.transport {
            Some(transport) => transport,
            None => config::default_transport(&hub)?,
        };
        Ok(Agent {
            hub,
            device,
            credential: self.credential,
            state_dir,
            heartbeat: self.heartbeat,
            facts: self.facts,
            list: Arc::new(self.list),
            transport,
            proxy_files: self.proxy_files,
        })
    }
}

impl fmt::Debug for AgentBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentBuilder")
    }
}

#[cfg(test)]
mod tests {
    use bellwire_proto::Json;

    use super::*;
    use crate::agent::engine::Admission as _;

    fn builder() -> AgentBuilder {
        Agent::builder().hub("http://127.0.0.1:1").device("kiosk").state_dir("/nowhere")
    }

    fn problem(builder: AgentBuilder) -> String {
        builder.build().unwrap_err().to_string()
    }

    #[test]
    fn settings_absent_from_a_configuration_are_unchanged() {
        let text = "hub = 'http://hub.example.com'\ndevice = 'd'\n[facts]\nsite = 'lyon'\n\
            [actions.of-file]\nrun = ['/bin/true']\n";
        let config = config::AgentConfig::read(text).unwrap();
        let ours = builder().token("t").fact("floor", 2).on("ping", async |_: Command| "pong");
        let agent = ours.config(&config).unwrap().build().unwrap();
        assert_eq!(agent.hub.to_string(), "http://hub.example.com/");
        let actions: Vec<_> = agent.list.policy.actions().map(|(a, _)| a.to_string()).collect();
        assert_eq!(actions, ["of-file", "ping"]);
        assert_eq!(agent.facts.len(), 2);
        assert!(matches!(agent.credential, Credential::Token(_)));
    }

    #[test]
    fn an_action_that_is_given_anew_loses_its_old_check() {
        let text = |_: Command, _: String| async {};
        let agent = builder().on_params("say", text).on("say", async |_: Command| ()).build();
        let say = "say".parse().unwrap();
        assert!(agent.unwrap().list.admit(&say, &Json::null()).is_ok(), "any data");
        let agent = builder().on_params("say", text).build().unwrap();
        let error = agent.list.admit(&say, &Json::null()).unwrap_err();
        assert_eq!(error.code, codes::INVALID_PARAMS);
    }

    #[test]
    fn invalid_settings_are_reported_when_the_agent_is_built() {
        let unknown = builder().rules("pnig", |rules| rules.concurrency = 2);
        assert!(problem(unknown).starts_with("action: pnig is not on the list"), "a typo");
        let name = builder().on("a b", async |_: Command| ());
        assert_eq!(problem(name), "action: \"a b\" is no name for an action");
        let url = problem(builder().hub("htps://kiosk:s3cret@hub.example.com"));
        assert!(url.starts_with("hub: \"hub.example.com\" is not an http"), "{url}");
        let agent = builder().hub("http://kiosk:s3cret@127.0.0.1:1").build().unwrap();
        assert!(!format!("{agent:?}").contains("s3cret"));
    }
}
