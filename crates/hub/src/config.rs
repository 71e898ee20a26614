//! The hub's settings, parsed once into validated types.
//!
//! They come in layers, each of which overrides the one before: a TOML file, `BELLWIRE_*` variables,
//! flags. A value has the same text and the same rule in each of them. Every fault is reported with its key;
//! an unknown key is a fault. The program reads the file, the environment and the command line;
//! this module gets their texts.
//!
//! ```
//! use bellwire_hub::config::Config;
//!
//! let file = "lease = '45s'\nqueue_max = 20\n";
//! let environment = [("BELLWIRE_QUEUE_MAX", "30")];
//! let config = Config::read(Some(file), environment, [])?;
//! assert_eq!((config.lease.as_secs(), config.queue_max), (45, 30));
//!
//! let faults = Config::read(Some("lease = 'soon'\ncolour = 'red'"), [], []).unwrap_err();
//! assert_eq!(faults.iter().count(), 2);
//! # Ok::<(), bellwire_hub::config::ConfigErrors>(())
//! ```

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bellwire_proto::limits;

mod acme;
mod clients;
mod fault;
mod jwt;
mod keys_url;
mod listener;
mod networks;
mod origin;
mod quotas;
mod settings;
mod tables;

pub use acme::AcmeConfig;
pub use clients::{
    ClientCertificates, ClientRule, IdentityRule, InvalidPattern, NameKind, NamePattern,
};
pub use fault::{ConfigErrors, Fault, SettingLayer};
pub use jwt::JwtConfig;
pub use keys_url::{InvalidKeysUrl, KeysUrl};
pub use listener::{ForwardedHeader, InvalidListener, ListenerConfig, Scheme};
pub use networks::{InvalidNetwork, Networks};
pub use origin::{InvalidOrigin, PageOrigin};
pub use quotas::Quotas;
use settings::{Draft, SETTINGS, Shape};

/// The prefix of a variable's name; the rest is the key in capitals.
pub const VARIABLE_PREFIX: &str = "BELLWIRE_";
/// Variables with this prefix that are never settings of the hub: the address and credentials of a hub, which clients
/// read, and what the agent sets for handlers, one of which may start a hub.
const NOT_SETTINGS: [&str; 11] = [
    "HUB",
    "CONTEXT",
    "TOKEN",
    "TOKEN_FILE",
    "CA_FILE",
    "COMMAND",
    "ACTION",
    "DEVICE",
    "ATTEMPT",
    "EXPIRES_AT",
    "DATA_FILE",
];

/// The settings of a hub, checked. A program that sets members itself is responsible for their
/// ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Where the hub listens, and what is spoken there. Default `127.0.0.1:8888`. Of a hub that is mounted in another
    /// program's server: where that listens, because on a loopback address the `Host` of requests is checked.
    pub listen: Vec<ListenerConfig>,
    /// The folder of the store. Default `bellwire-data` in the working directory.
    pub data_dir: PathBuf,
    /// Whether a hub without credentials may listen beyond loopback. Default false.
    pub open: bool,
    /// Whether the wire format of the classic Python library is served too (contract, section 10).
    /// Default false.
    pub classic: bool,
    /// Actions that the classic format accepts beside `ping` and `close`; an event has the name of its action. Default
    /// none.
    pub classic_actions: Vec<String>,
    /// Origins of web pages, beside the hub's own, that may send, listen and read (contract, section 6, "Browsers"). Default none.
    pub cors_origins: Vec<PageOrigin>,
    /// Names, beside `localhost`, by which an open hub is reached on a loopback address: what a reverse proxy before it
    /// sends as `Host`. Default none.
    pub allowed_hosts: Vec<String>,
    /// How long a command waits for `accepted` after it was sent. Default 30 s, from 1 s to 1 h.
    pub lease: Duration,
    /// Deliveries of one device in `queued`; one more is refused. Default 100, from 1 to 100,000.
    pub queue_max: usize,
    /// Deliveries of one device in flight. Default 1, from 1 to 100.
    pub max_in_flight: usize,
    /// Bytes of a command's data. Default 64 KiB, from 1 to 1 MiB.
    pub data_bytes_max: usize,
    /// How long commands are retained after they have ended. Default 30 days, from 1 to 3650 days:
    /// as long as an `Idempotency-Key` at least.
    pub history: Duration,
    /// How long the audit log is retained. Default 90 days, from 1 to 3650 days.
    pub audit_keep: Duration,
    /// About how many bytes of the audit log are retained at most. Default 1 GiB, from 1 MiB to 1 TiB.
    pub audit_bytes_max: u64,
    /// Time between heartbeats on streams that request none. Default 15 s, from 5 s to 10 min.
    pub heartbeat: Duration,
    /// After how long each stream is given its planned end, give or take a fifth. Default `None`, which is never; from 10 s
    /// to 7 days.
    pub stream_max: Option<Duration>,
    /// Connections at once; one more is closed when it is accepted. Default 200,000, from 1 to
    /// 10,000,000.
    pub connections_max: usize,
    /// How much one address, one token and all together may ask for.
    pub quotas: Quotas,
    /// Time within which the head of a request must arrive. Default 10 s, from 1 s to 5 min.
    pub header_timeout: Duration,
    /// Time within which the body of a request must arrive. Default 30 s, from 1 s to 1 h.
    pub body_timeout: Duration,
    /// How long a draining hub still takes reports and answers reads. Default 2 s, at
    /// most 8 s.
    pub drain: Duration,
    /// Threads that hold streams; 0 is one per core. Default 0, at most 256.
    pub shards: usize,
    /// How tokens of another issuer are read; `None`: they are not.
    pub jwt: Option<JwtConfig>,
    /// Certificate and key of the listeners that speak TLS: those of the scheme `https`, and those of none.
    pub tls: Option<TlsFiles>,
    /// More certificates, each shown to clients that ask for one of its names (SNI). Default none.
    pub certificates: Vec<TlsFiles>,
    /// One that the hub gets by itself. Default none.
    pub acme: Option<AcmeConfig>,
}

/// What was read of all layers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Variables that begin as settings do and are none, by their whole names. They are foreign as a rule: a Service of
    /// Kubernetes puts variables with its name into every pod. Or a setting is misspelt.
    pub unknown_variables: Vec<String>,
    given: BTreeSet<&'static str>,
}

impl Loaded {
    /// Whether any layer has a value for this key.
    pub fn is_given(&self, key: &str) -> bool {
        self.given.contains(key)
    }

    /// All settings as a TOML file that means the same when it is read: what no layer has a value for is a comment with the
    /// default, because some defaults depend on the machine.
    pub fn to_toml(&self) -> String {
        self.config.lines().fold(String::new(), |file, (key, line)| {
            let mark = if self.is_given(key) { "" } else { "# " };
            format!("{file}{mark}{line}\n")
        }) + &tables::to_toml(&self.config)
    }
}

/// The PEM files of the certificate chain and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Config {
    /// Reads the layers: the text of a TOML file, variables with their whole names, and flags by
    /// key. Variables that are no settings are ignored; [`Config::load`] lists them.
    ///
    /// # Errors
    /// All faults of all layers.
    pub fn read<'a>(
        file: Option<&str>,
        environment: impl IntoIterator<Item = (&'a str, &'a str)>,
        flags: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ConfigErrors> {
        Self::load(file, environment, flags).map(|loaded| loaded.config)
    }

    /// As [`Config::read`], with what is of interest beside the values. Variables that do not begin with `BELLWIRE_`
    /// are left alone, and so are those with which the agent starts a handler, and those of clients.
    ///
    /// # Errors
    /// All faults of all layers.
    pub fn load<'a>(
        file: Option<&str>,
        environment: impl IntoIterator<Item = (&'a str, &'a str)>,
        flags: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Loaded, ConfigErrors> {
        let mut reading = SettingsParser::default();
        if let Some(file) = file {
            reading.file(file);
        }
        for (name, value) in environment {
            if let Some(key) = name.strip_prefix(VARIABLE_PREFIX)
                && !NOT_SETTINGS.contains(&key)
            {
                let key = key.to_ascii_lowercase();
                match settings::find(&key) {
                    Some(_) => reading.set(SettingLayer::Environment, &key, value),
                    None => reading.unknown_variables.push(name.to_owned()),
                }
            }
        }
        for (key, value) in flags {
            reading.set(SettingLayer::Flag, key, value);
        }
        reading.finish()
    }

    /// Every key with what is allowed, in the order of the documentation.
    pub fn keys() -> impl Iterator<Item = (&'static str, &'static str)> {
        SETTINGS.iter().map(|setting| (setting.key, setting.allowed))
    }

    /// Every setting that has a value, as text that [`Config::read`] accepts, in the same order. What a file has as tables
    /// (`[[listener]]`) is not among them.
    pub fn effective(&self) -> impl Iterator<Item = (&'static str, String)> {
        let shown =
            |setting: &'static settings::Setting| Some((setting.key, (setting.show)(self)?));
        SETTINGS.iter().filter_map(shown)
    }

    /// The same as a TOML file.
    pub fn to_toml(&self) -> String {
        let lines: String = self.lines().map(|(_, line)| line + "\n").collect();
        lines + &tables::to_toml(self)
    }

    /// Every setting that has a value: its key, and its line of a TOML file.
    fn lines(&self) -> impl Iterator<Item = (&'static str, String)> {
        SETTINGS.iter().filter_map(|setting| {
            let text = (setting.show)(self)?;
            let value = match setting.shape {
                Shape::Bare => text,
                Shape::Text => toml::Value::String(text).to_string(),
                Shape::List => {
                    let texts = text.split(',').map(|text| toml::Value::String(text.to_owned()));
                    toml::Value::Array(texts.collect()).to_string()
                }
            };
            Some((setting.key, format!("{} = {value}", setting.key)))
        })
    }

    /// Where the hub listens, each with what is spoken there.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = (&ListenerConfig, Scheme)> {
        let has_certificate = self.has_certificate();
        self.listen.iter().map(move |listener| (listener, listener.scheme(has_certificate)))
    }

    /// Whether there is a certificate at all: then a listener without a scheme speaks TLS.
    pub(crate) fn has_certificate(&self) -> bool {
        self.certificates().next().is_some() || self.acme.is_some()
    }

    /// All certificates. The first is for clients that ask for no name, or for one that none of them has.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = &TlsFiles> {
        self.tls.iter().chain(&self.certificates)
    }

    /// The settings that are the core's.
    pub(crate) fn core(&self) -> bellwire_core::Config {
        bellwire_core::Config {
            lease: self.lease,
            queue_max: self.queue_max,
            max_in_flight: self.max_in_flight,
            stream_max: self.stream_max,
            streams_per_token: Some(self.quotas.streams_per_token).filter(|most| *most > 0),
            // Until there are credentials every hub is open.
            create_on_sight: true,
            calendar: bellwire_core::Calendar(crate::calendar::next),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![ListenerConfig::on(SocketAddr::from(([127, 0, 0, 1], 8888)))],
            data_dir: PathBuf::from("bellwire-data"),
            open: false,
            classic: false,
            classic_actions: Vec::new(),
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            lease: limits::LEASE,
            queue_max: limits::QUEUE_MAX,
            max_in_flight: limits::MAX_IN_FLIGHT,
            data_bytes_max: limits::DATA_BYTES_MAX,
            history: Duration::from_secs(limits::HISTORY_S.default),
            audit_keep: Duration::from_secs(limits::AUDIT_KEEP_S.default),
            audit_bytes_max: limits::AUDIT_BYTES.default,
            heartbeat: Duration::from_secs(limits::HEARTBEAT_S.default),
            stream_max: None,
            connections_max: limits::CONNECTIONS.default as usize,
            quotas: Quotas::default(),
            header_timeout: Duration::from_secs(limits::HEADER_TIMEOUT_S.default),
            body_timeout: Duration::from_secs(limits::BODY_TIMEOUT_S.default),
            drain: Duration::from_secs(limits::DRAIN_S.default),
            shards: limits::SHARDS.default as usize,
            jwt: None,
            tls: None,
            certificates: Vec::new(),
            acme: None,
        }
    }
}

#[derive(Default)]
struct SettingsParser {
    draft: Draft,
    faults: Vec<Fault>,
    given: BTreeSet<&'static str>,
    unknown_variables: Vec<String>,
}

impl SettingsParser {
    fn file(&mut self, text: &str) {
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                let before = text.get(..at).unwrap_or_default();
                let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
                let message = error.message().to_owned();
                self.faults.push(Fault::Syntax { line, message });
                return;
            }
        };
        for (key, value) in table {
            if let ("jwt", toml::Value::Table(table)) = (key.as_str(), &value) {
                for (key, value) in table {
                    self.set_from_file(&format!("jwt_{key}"), value);
                }
                continue;
            }
            if let Some(read) = tables::reader(&key) {
                read(&value, &mut self.draft, &mut self.faults);
                continue;
            }
            self.set_from_file(&key, &value);
        }
    }

    fn set_from_file(&mut self, key: &str, value: &toml::Value) {
        match text_of(value) {
            Some(text) => self.set(SettingLayer::File, key, &text),
            None => self.fault(SettingLayer::File, key, &value.to_string()),
        }
    }

    fn set(&mut self, origin: SettingLayer, key: &str, value: &str) {
        let setting = settings::find(key);
        match setting.and_then(|setting| (setting.parse)(&mut self.draft, value)) {
            Some(()) => {
                self.given.extend(setting.map(|setting| setting.key));
                // What is given beside a file replaces all listeners of that, as it does every other setting.
                if key == "listen" && origin != SettingLayer::File {
                    self.draft.listeners.clear();
                }
            }
            None => self.fault(origin, key, value),
        }
    }

    fn fault(&mut self, origin: SettingLayer, key: &str, value: &str) {
        let setting = settings::find(key);
        let key = key.to_owned();
        self.faults.push(match setting {
            Some(setting) => {
                Fault::Value { origin, key, value: value.to_owned(), allowed: setting.allowed }
            }
            None => Fault::UnknownKey { origin, key },
        });
    }

    fn finish(mut self) -> Result<Loaded, ConfigErrors> {
        let mut config = self.draft.config;
        config.tls = match (self.draft.tls_cert, self.draft.tls_key) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
            (None, None) => None,
            (cert, _) => {
                let (given, missing) = match cert {
                    Some(_) => ("tls_cert", "tls_key"),
                    None => ("tls_key", "tls_cert"),
                };
                self.faults.push(Fault::Missing { given, missing });
                None
            }
        };
        let given = |key: &str| self.given.contains(key);
        let keys = if given("jwt_keys_url") { "jwt_keys_url" } else { "jwt_keys" };
        let needed = [keys, "jwt_issuer", "jwt_audience"];
        let any = SETTINGS.iter().map(|s| s.key).find(|key| key.starts_with("jwt_") && given(key));
        if let Some(any) = any {
            // One that is given and wrong is not missing.
            let wrong = |key: &str| {
                let is_of = |of: &str| of == key || key == "jwt_keys" && of == "jwt_keys_url";
                let of_key =
                    |fault: &Fault| matches!(fault, Fault::Value { key, .. } if is_of(key));
                self.faults.iter().any(of_key)
            };
            let missing: Vec<_> =
                needed.into_iter().filter(|key| !given(key) && !wrong(key)).collect();
            for missing in missing {
                self.faults.push(Fault::Missing { given: any, missing });
            }
            let jwt = self.draft.jwt;
            self.faults.extend(jwt.contradictions());
            config.jwt = Some(jwt);
        }
        if !self.draft.listeners.is_empty() {
            // Those of the short form first: so they are printed.
            let (short, mut tables): (Vec<_>, Vec<_>) =
                self.draft.listeners.into_iter().partition(ListenerConfig::is_short);
            if !self.given.contains("listen") {
                config.listen.clear();
            }
            config.listen.extend(short);
            config.listen.append(&mut tables);
            self.given.insert("listen");
        }
        config.certificates = self.draft.certificates;
        config.acme = self.draft.acme;
        if !config.classic_actions.is_empty() && !config.classic {
            self.faults.push(Fault::Missing { given: "classic_actions", missing: "classic" });
        }
        if !self.faults.is_empty() {
            return Err(ConfigErrors::new(self.faults));
        }
        self.unknown_variables.sort_unstable();
        let Self { unknown_variables, given, .. } = self;
        Ok(Loaded { config, unknown_variables, given })
    }
}

/// A value of the file as the text that the other layers would give.
fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(yes) => Some(yes.to_string()),
        toml::Value::Array(values) => {
            let texts: Option<Vec<_>> = values.iter().map(text_of).collect();
            texts.map(|texts| texts.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests;
