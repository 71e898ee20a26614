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

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bellwire_proto::limits;

mod fault;
mod settings;

pub use fault::{ConfigErrors, Fault, Origin};
use settings::{Draft, SETTINGS};

/// The prefix of a variable's name; the rest is the key in capitals.
pub const VARIABLE_PREFIX: &str = "BELLWIRE_";
/// Variables with this prefix that are never settings of the hub: the address of a hub, which clients
/// read, and what the agent sets for handlers, one of which may start a hub.
const NOT_SETTINGS: [&str; 7] =
    ["HUB", "COMMAND", "ACTION", "DEVICE", "ATTEMPT", "EXPIRES_AT", "DATA_FILE"];

/// The settings of a hub, checked. A program that sets members itself is responsible for their
/// ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Where the hub listens; port 0 lets the kernel choose. Default `127.0.0.1:8888`.
    pub listen: Vec<SocketAddr>,
    /// The folder of the store. Default `bellwire-data` in the working directory.
    pub data_dir: PathBuf,
    /// Whether a hub without credentials may listen beyond loopback. Default false.
    pub open: bool,
    /// Whether the wire format of the classic Python library is served too (contract, section 10).
    /// Default false.
    pub classic: bool,
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
    /// Certificate and key; without them the hub serves plain HTTP.
    pub tls: Option<TlsFiles>,
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
    /// key. Variables that do not begin with `BELLWIRE_` are left alone, and so are those with which the
    /// agent starts a handler, and `BELLWIRE_HUB`.
    ///
    /// # Errors
    /// All faults of all layers.
    pub fn read<'a>(
        file: Option<&str>,
        environment: impl IntoIterator<Item = (&'a str, &'a str)>,
        flags: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ConfigErrors> {
        let mut reading = Reading::default();
        if let Some(file) = file {
            reading.file(file);
        }
        for (name, value) in environment {
            if let Some(key) = name.strip_prefix(VARIABLE_PREFIX)
                && !NOT_SETTINGS.contains(&key)
            {
                reading.set(Origin::Environment, &key.to_ascii_lowercase(), value);
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

    /// The settings that are the core's.
    pub(crate) fn core(&self) -> bellwire_core::Config {
        bellwire_core::Config {
            lease: self.lease,
            queue_max: self.queue_max,
            max_in_flight: self.max_in_flight,
            // Until there are credentials every hub is open.
            create_on_sight: true,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8888))],
            data_dir: PathBuf::from("bellwire-data"),
            open: false,
            classic: false,
            lease: limits::LEASE,
            queue_max: limits::QUEUE_MAX,
            max_in_flight: limits::MAX_IN_FLIGHT,
            data_bytes_max: limits::DATA_BYTES_MAX,
            history: Duration::from_secs(limits::HISTORY_S.default),
            heartbeat: Duration::from_secs(limits::HEARTBEAT_S.default),
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
        let parsed =
            settings::find(key).and_then(|setting| (setting.parse)(&mut self.draft, value));
        if parsed.is_none() {
            self.fault(origin, key, value);
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

    fn finish(mut self) -> Result<Config, ConfigErrors> {
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
        if self.faults.is_empty() { Ok(config) } else { Err(ConfigErrors::new(self.faults)) }
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
mod tests {
    use super::*;

    fn faults(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Vec<String> {
        let read = Config::read(Some(file), environment.iter().copied(), flags.iter().copied());
        read.unwrap_err().iter().map(Fault::to_string).collect()
    }

    #[test]
    fn the_last_layer_with_a_value_wins() {
        let file = "lease = '10s'\nheartbeat = 20\nshards = 1\nlisten = ['[::1]:1', '127.0.0.1:2']";
        let environment = [("BELLWIRE_HEARTBEAT", "30s"), ("BELLWIRE_SHARDS", "2"), ("HOME", "/")];
        let config = Config::read(Some(file), environment, [("shards", "3")]).unwrap();
        assert_eq!(config.lease, Duration::from_secs(10));
        assert_eq!(config.heartbeat, Duration::from_secs(30));
        assert_eq!(config.shards, 3);
        assert_eq!(config.listen.len(), 2);
        assert_eq!(Config::read(None, [], []), Ok(Config::default()));
    }

    #[test]
    fn what_a_handler_finds_in_its_environment_sets_nothing() {
        let environment = NOT_SETTINGS.map(|key| format!("{VARIABLE_PREFIX}{key}"));
        let environment = environment.iter().map(|name| (name.as_str(), "x"));
        assert_eq!(Config::read(None, environment, []), Ok(Config::default()));
        // Only these: a typo is still found.
        assert_eq!(faults("", &[("BELLWIRE_DATA", "x")], &[]).len(), 1);
    }

    #[test]
    fn every_fault_of_every_layer_is_reported_with_its_key() {
        let file = "lease = 'soon'\nqueue_max = 0\ncolour = 'red'\nopen = 'yes'\nheartbeat = 1.5\n\
            tls_cert = 'hub.pem'\n[tls]\ncert = 'x'\n";
        let faults =
            faults(file, &[("BELLWIRE_DATA_BYTES_MAX", "1048577")], &[("listen", "localhost")]);
        let expected = [
            "lease is \"soon\", but it is from 1s to 1h",
            "queue_max is \"0\", but it is a whole number from 1 to 100000",
            "colour is not a setting",
            "open is \"yes\", but it is true or false",
            "heartbeat is \"1.5\", but it is from 5s to 10m",
            "tls is not a setting",
            "BELLWIRE_DATA_BYTES_MAX is \"1048577\", but it is a number of bytes from 1 to 1048576",
            "--listen is \"localhost\", but it is one or more of address:port, as in \
             127.0.0.1:8888 or [::]:0",
            "tls_cert is set without tls_key",
        ];
        for line in expected {
            assert!(faults.iter().any(|fault| fault == line), "{line}\nnot in {faults:#?}");
        }
        assert_eq!(faults.len(), expected.len(), "{faults:#?}");
    }

    #[test]
    fn the_values_that_a_setting_is_said_to_allow_are_those_that_it_allows() {
        // The text repeats numbers of the limits, and could differ from them.
        let mut ranges = 0;
        for (key, allowed) in Config::keys() {
            let Some((least, most)) =
                allowed.split_once("from ").and_then(|(_, range)| range.split_once(" to "))
            else {
                continue;
            };
            // As in "0 (one per core)".
            let number = |text: &str| {
                let text = text.split(' ').next().unwrap();
                text.parse().map(bellwire_proto::Seconds::get).unwrap()
            };
            let (least, most) = (number(least), number(most));
            let accepts = |n: u64| Config::read(None, [], [(key, &*n.to_string())]).is_ok();
            assert!(accepts(least) && accepts(most), "{key}: {allowed}");
            assert!(!accepts(most + 1), "{key}: {allowed}");
            assert!(least == 0 || !accepts(least - 1), "{key}: {allowed}");
            ranges += 1;
        }
        assert!(ranges > 8, "{ranges} settings have a range");
    }

    #[test]
    fn a_file_that_is_not_toml_is_reported_by_its_line_and_the_other_layers_are_still_checked() {
        let faults = faults("lease = '1s'\nlease = '2s'\n", &[], &[("lease", "x")]);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("line 2 "), "{faults:?}");
    }

    #[test]
    fn effective_settings_are_shown_as_text_that_parses() {
        let mut config = Config::default();
        config.listen.push("[::1]:0".parse().unwrap());
        config.tls = Some(TlsFiles { cert: "hub.pem".into(), key: "hub.key".into() });
        for config in [Config::default(), config] {
            let shown: Vec<_> = config.effective().collect();
            let flags = shown.iter().map(|(key, value)| (*key, value.as_str()));
            assert_eq!(Config::read(None, [], flags), Ok(config));
        }
    }
}
