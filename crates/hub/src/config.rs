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

mod fault;
mod listener;
mod origin;
mod settings;

pub use fault::{ConfigErrors, Fault, Origin};
pub use listener::{InvalidListener, ListenerConfig, Scheme};
pub use origin::{InvalidOrigin, PageOrigin};
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
    /// Origins of web pages, beside the hub's own, that may send, listen and read (contract, section 6). Default none.
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
    /// Time between heartbeats on streams that request none. Default 15 s, from 5 s to 10 min.
    pub heartbeat: Duration,
    /// After how long each stream is given its planned end, give or take a fifth. Default `None`, which is never; from 10 s
    /// to 7 days.
    pub stream_max: Option<Duration>,
    /// Connections at once; one more is closed when it is accepted. Default 200,000, from 1 to
    /// 10,000,000.
    pub connections_max: usize,
    /// Time within which the head of a request must arrive. Default 10 s, from 1 s to 5 min.
    pub header_timeout: Duration,
    /// Time within which the body of a request must arrive. Default 30 s, from 1 s to 1 h.
    pub body_timeout: Duration,
    /// How long a draining hub still takes reports and answers reads. Default 2 s, at
    /// most 8 s.
    pub drain: Duration,
    /// Threads that hold streams; 0 is one per core. Default 0, at most 256.
    pub shards: usize,
    /// Certificate and key of the listeners that speak TLS: those of the scheme `https`, and those of none.
    pub tls: Option<TlsFiles>,
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
        })
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
        let mut reading = Reading::default();
        if let Some(file) = file {
            reading.file(file);
        }
        for (name, value) in environment {
            if let Some(key) = name.strip_prefix(VARIABLE_PREFIX)
                && !NOT_SETTINGS.contains(&key)
            {
                let key = key.to_ascii_lowercase();
                match settings::find(&key) {
                    Some(_) => reading.set(Origin::Environment, &key, value),
                    None => reading.unknown_variables.push(name.to_owned()),
                }
            }
        }
        for (key, value) in flags {
            reading.set(Origin::Flag, key, value);
        }
        reading.finish()
    }

    /// Every key with what is allowed, in the order of the documentation.
    pub fn keys() -> impl Iterator<Item = (&'static str, &'static str)> {
        SETTINGS.iter().map(|setting| (setting.key, setting.allowed))
    }

    /// Every setting that has a value, as text that [`Config::read`] accepts, in the same order.
    pub fn effective(&self) -> impl Iterator<Item = (&'static str, String)> {
        let shown =
            |setting: &'static settings::Setting| Some((setting.key, (setting.show)(self)?));
        SETTINGS.iter().filter_map(shown)
    }

    /// The same as a TOML file.
    pub fn to_toml(&self) -> String {
        self.lines().map(|(_, line)| line + "\n").collect()
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
        let has_certificate = self.tls.is_some();
        self.listen.iter().map(move |listener| (listener, listener.scheme(has_certificate)))
    }

    /// The settings that are the core's.
    pub(crate) fn core(&self) -> bellwire_core::Config {
        bellwire_core::Config {
            lease: self.lease,
            queue_max: self.queue_max,
            max_in_flight: self.max_in_flight,
            stream_max: self.stream_max,
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
            heartbeat: Duration::from_secs(limits::HEARTBEAT_S.default),
            stream_max: None,
            connections_max: limits::CONNECTIONS.default as usize,
            header_timeout: Duration::from_secs(limits::HEADER_TIMEOUT_S.default),
            body_timeout: Duration::from_secs(limits::BODY_TIMEOUT_S.default),
            drain: Duration::from_secs(limits::DRAIN_S.default),
            shards: limits::SHARDS.default as usize,
            tls: None,
        }
    }
}

#[derive(Default)]
struct Reading {
    draft: Draft,
    faults: Vec<Fault>,
    given: BTreeSet<&'static str>,
    unknown_variables: Vec<String>,
}

impl Reading {
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
            match text_of(&value) {
                Some(text) => self.set(Origin::File, &key, &text),
                None => self.fault(Origin::File, &key, &value.to_string()),
            }
        }
    }

    fn set(&mut self, origin: Origin, key: &str, value: &str) {
        let setting = settings::find(key);
        match setting.and_then(|setting| (setting.parse)(&mut self.draft, value)) {
            Some(()) => self.given.extend(setting.map(|setting| setting.key)),
            None => self.fault(origin, key, value),
        }
    }

    fn fault(&mut self, origin: Origin, key: &str, value: &str) {
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
