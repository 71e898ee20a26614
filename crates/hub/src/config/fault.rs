//! What is wrong with settings, said so that it can be put right: where, which key, what it says
//! and what is allowed.

use std::fmt;

/// Every fault that was found, in the order of the layers. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Fault>);

/// From which layer a value came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The file.
    File,
    /// A variable.
    Environment,
    /// A flag.
    Flag,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The file is not TOML; what comes after it was not looked at.
    Syntax {
        /// Where, counted from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// No setting has this key.
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// The key, as in the file.
        key: String,
    },
    /// A value that the setting cannot have.
    Value {
        /// Where it stands.
        origin: Origin,
        /// The key, as in the file.
        key: String,
        /// What it says.
        value: String,
        /// What it may say.
        allowed: &'static str,
    },
    /// One setting makes no sense without another.
    Missing {
        /// The one that is there.
        given: &'static str,
        /// The one that is not.
        missing: &'static str,
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
                write!(f, "{} is not a setting", origin.name(key))
            }
            Self::Value { origin, key, value, allowed } => {
                write!(f, "{} is {value:?}, but it is {allowed}", origin.name(key))
            }
            Self::Missing { given, missing } => {
                write!(f, "{given} is set without {missing}")
            }
        }
    }
}

impl Origin {
    /// A key as it is written there.
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
