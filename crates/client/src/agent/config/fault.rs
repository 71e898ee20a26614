//! Reads a TOML table key by key, so that every fault is found and reported with its key.

use std::collections::BTreeSet;
use std::fmt;

use bellwire_proto::similar;
use toml::{Table, Value};

/// The key whose value no message contains: it may hold secrets.
const SECRET: &str = "env";

/// The keys that are in no table: one below a table's heading belongs to that table.
const OF_THE_AGENT: [&str; 9] = [
    "hub",
    "device",
    "credential_file",
    "state_dir",
    "ca_file",
    "pin_sha256",
    "proxy",
    "heartbeat",
    "facts",
];

/// Every fault of a file, in the order in which the keys are read. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFaults(Vec<Fault>);

/// One fault, or one warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key, with the tables around it: `actions.ping.run`. The line, when the file is not TOML.
    pub key: String,
    /// What is wrong, as the rest of a sentence that begins with the key.
    pub problem: String,
}

impl ConfigFaults {
    pub(super) fn new(faults: Vec<Fault>) -> Self {
        Self(faults)
    }

    /// The faults.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }
}

/// One line for each fault.
impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.0.iter().enumerate() {
            let line_end = if n > 0 { "\n" } else { "" };
            write!(f, "{line_end}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.problem)
    }
}

/// The file as a table.
pub(super) fn parse(text: &str) -> Result<Table, ConfigFaults> {
    text.parse().map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        let before = text.get(..at).unwrap_or_default();
        let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
        let message = error.message().trim_end().replace('\n', "; ");
        let problem = format!("is not TOML: {message}");
        ConfigFaults(vec![Fault { key: format!("line {line}"), problem }])
    })
}

/// A table whose keys are taken one by one; those that remain at the end are unknown.
pub(super) struct Section<'a> {
    /// Ends with a point, or is empty.
    path: String,
    table: Table,
    /// Every key that was looked for.
    known: BTreeSet<String>,
    faults: &'a mut Vec<Fault>,
}

impl<'a> Section<'a> {
    pub(super) fn new(path: &str, table: Table, faults: &'a mut Vec<Fault>) -> Self {
        Self { path: path.to_owned(), table, known: BTreeSet::new(), faults }
    }

    /// Adds a fault of the whole table.
    pub(super) fn fault(&mut self, problem: &str) {
        let key = self.path.trim_end_matches('.').to_owned();
        self.faults.push(Fault { key, problem: problem.to_owned() });
    }

    /// Adds a fault of one key.
    pub(super) fn fault_of(&mut self, key: &str, problem: impl Into<String>) {
        let key = format!("{}{}", self.path, written(key));
        self.faults.push(Fault { key, problem: problem.into() });
    }

    /// Adds a fault of a key in a nested table, written as in the file.
    pub(super) fn fault_at(&mut self, key: &str, problem: String) {
        self.faults.push(Fault { key: format!("{}{key}", self.path), problem });
    }

    /// Removes a key that cannot be checked.
    pub(super) fn pass(&mut self, key: &str) {
        self.table.remove(key);
    }

    pub(super) fn has(&mut self, key: &str) -> bool {
        self.known.insert(key.to_owned());
        self.table.contains_key(key)
    }

    /// The value of a key, if it is set and `read` accepts it. `allowed` describes the values that it accepts.
    pub(super) fn take<T>(
        &mut self,
        key: &str,
        allowed: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        self.known.insert(key.to_owned());
        let value = self.table.remove(key)?;
        let read = read(&value);
        if read.is_none() {
            let value = if key == SECRET { "***".to_owned() } else { short(&value) };
            self.fault_of(key, format!("is {value}, but it is {allowed}"));
        }
        read
    }

    /// As [`Section::take`]; a missing key is a fault.
    pub(super) fn require<T>(
        &mut self,
        key: &str,
        allowed: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.fault_of(key, format!("is missing: {allowed}"));
        }
        self.take(key, allowed, read)
    }

    /// The tables in a table, each parsed by `read`.
    pub(super) fn tables<T>(
        &mut self,
        key: &str,
        mut read: impl FnMut(&str, Section<'_>) -> Option<T>,
    ) -> Vec<T> {
        let tables = self.take(key, "a table", |value| value.as_table().cloned());
        let mut taken = Vec::new();
        for (name, value) in tables.unwrap_or_default() {
            let path = format!("{}{}.{}", self.path, key, written(&name));
            match value {
                Value::Table(table) => {
                    let section = Section::new(&format!("{path}."), table, self.faults);
                    taken.extend(read(&name, section));
                }
                other => {
                    let problem = format!("is {}, but it is a table", short(&other));
                    self.faults.push(Fault { key: path, problem });
                }
            }
        }
        taken
    }

    pub(super) fn faults(&mut self) -> &mut Vec<Fault> {
        self.faults
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Adds a fault for each key that was not taken.
    pub(super) fn finish(self) {
        for (key, value) in self.table {
            // `[actions.a.b]` is a table in one for the action `a`.
            let is_in_table = !self.path.is_empty();
            let hint = if value.is_table() && self.path.starts_with("actions.") {
                "; a name with a point must be in quotes, as in [actions.\"a.b\"]".to_owned()
            } else if is_in_table && OF_THE_AGENT.contains(&key.as_str()) {
                format!(
                    " of {}: a setting of the agent must stand above the first [table]",
                    self.path.trim_end_matches('.')
                )
            } else {
                let meant = similar(&key, self.known.iter().map(String::as_str));
                meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default()
            };
            let key = format!("{}{}", self.path, written(&key));
            self.faults.push(Fault { key, problem: format!("is not a setting{hint}") });
        }
    }
}

pub(super) fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

pub(super) fn boolean(value: &Value) -> Option<bool> {
    value.as_bool()
}

/// A key as it is written in the file.
pub(super) fn written(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { format!("{key:?}") }
}

/// A value for a message, cut to 60 characters.
fn short(value: &Value) -> String {
    const CHARS_MAX: usize = 60;
    let text = value.to_string().replace('\n', " ");
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
