//! Faults in settings, reported with all that is needed to fix them: the layer, the key, the value
//! and what is allowed.

use std::fmt;

use bellwire_proto::similar;

/// Every fault that was found, in the order of the layers. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Fault>);

/// The layer of settings that a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingLayer {
    /// The configuration file; flags and variables win over it.
    File,
    /// A variable `BELLWIRE_…` of the environment; wins over the file.
    Environment,
    /// A flag of the command line; wins over both.
    Flag,
}

/// One fault of the operator's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The file is not TOML; correct the line. Nothing of the file was read.
    Syntax {
        /// The line, counted from 1.
        line: usize,
        /// The parser's message.
        message: String,
    },
    /// No setting has this key; remove it or correct its spelling.
    UnknownKey {
        /// The layer.
        origin: SettingLayer,
        /// The key, as in the file.
        key: String,
    },
    /// The setting does not allow this value; use one of those allowed.
    Value {
        /// The layer.
        origin: SettingLayer,
        /// The key, as in the file.
        key: String,
        /// The value as text.
        value: String,
        /// The values that are allowed.
        allowed: &'static str,
    },
    /// A member of a table of the file (`[[listener]]`) is wrong; correct it.
    Table {
        /// The table's key.
        table: &'static str,
        /// Which of them, counted from 1.
        number: usize,
        /// The member; `None` when the table as a whole is meant.
        key: Option<String>,
        /// What is wrong, with what is allowed.
        message: String,
    },
    /// One setting requires another; set both or neither.
    Missing {
        /// The one that is set.
        given: &'static str,
        /// The one that is not set.
        missing: &'static str,
    },
    /// Settings that do not go together; the message names them and what to do.
    Contradiction {
        /// One of them.
        key: &'static str,
        /// What is wrong.
        message: String,
    },
}

impl ConfigErrors {
    pub(super) fn new(faults: Vec<Fault>) -> Self {
        Self(faults)
    }

    /// The faults.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }
}

/// One line for each fault.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { line, message } => {
                let message = message.trim_end().replace('\n', "; ");
                write!(f, "line {line} of the file is not TOML: {message}")
            }
            Self::UnknownKey { origin, key } => {
                write!(f, "{} is not a setting", origin.name(key))?;
                let known = super::settings::SETTINGS.iter().map(|setting| setting.key);
                let known = known.chain(super::tables::KEYS);
                match similar(key, known) {
                    Some(meant) => write!(f, "; did you mean {}?", origin.name(meant)),
                    None => Ok(()),
                }
            }
            Self::Value { origin, key, value, allowed } => {
                write!(f, "{} is {value:?}, but it is {allowed}", origin.name(key))
            }
            Self::Table { table, number, message, .. } => {
                write!(f, "{table} {number}: {message}")
            }
            Self::Missing { given, missing } => {
                write!(f, "{given} is set without {missing}")
            }
            Self::Contradiction { message, .. } => f.write_str(message),
        }
    }
}

impl SettingLayer {
    /// A key as it is written in this layer.
    fn name(self, key: &str) -> String {
        match self {
            Self::File => key.to_owned(),
            Self::Environment => {
                format!("{}{}", super::VARIABLE_PREFIX, key.to_ascii_uppercase())
            }
            Self::Flag => format!("--{}", key.replace('_', "-")),
        }
    }
}
