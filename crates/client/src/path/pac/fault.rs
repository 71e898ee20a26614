//! Why a PAC file gives no answer. Each text is a line that names the file, and its line where that is known.

use std::sync::Arc;

use bellwire_proto::limits::{
    PAC_ANSWER_BYTES_MAX, PAC_BYTES_MAX, PAC_FETCH_TIMEOUT, PAC_MEMORY_BYTES_MAX, PAC_TIMEOUT,
};

use crate::transport::TransportError;

/// A PAC file that cannot be used, and why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the PAC file {file} cannot be used: {fault}{}", .fault.advice())]
pub struct PacError {
    pub(super) file: String,
    #[source]
    pub(super) fault: PacFault,
}

impl PacError {
    /// Where the file is, without a password.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// What is wrong with it.
    pub fn fault(&self) -> &PacFault {
        &self.fault
    }

    /// The line of the script, from 1, if the fault is there.
    pub fn line(&self) -> Option<u32> {
        match self.fault {
            PacFault::Script { line, .. }
            | PacFault::OutOfTime { line }
            | PacFault::OutOfMemory { line } => line,
            _ => None,
        }
    }
}

/// What is wrong with a PAC file.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PacFault {
    /// The file cannot be read from the disk.
    #[error("it cannot be read: {message}")]
    File {
        /// The error of the operating system.
        message: String,
    },
    /// The file cannot be fetched.
    #[error("it cannot be fetched: {0}")]
    Fetch(#[source] TransportError),
    /// The server has something else there.
    #[error("its server answers {status}: {advice}")]
    Status {
        /// The status, with its phrase.
        status: http::StatusCode,
        /// What to do about it.
        advice: String,
    },
    /// Reading or fetching the file takes too long.
    #[error("there is no answer within {} s: check its URL, and that it is reached without a proxy", PAC_FETCH_TIMEOUT.as_secs())]
    FetchTimeout,
    /// The file is too long.
    #[error("it is longer than {} KiB", PAC_BYTES_MAX >> 10)]
    TooLong,
    /// A web page is in place of the script.
    #[error("it is a web page: open its URL in a browser, a middlebox may ask for a sign-in there")]
    WebPage,
    /// The script has an error, or threw one.
    #[error("{}{message}", at(*line))]
    Script {
        /// Its line, from 1, if known.
        line: Option<u32>,
        /// The error, as JavaScript shows it.
        message: String,
    },
    /// The script defines no `FindProxyForURL`.
    #[error("it has no function FindProxyForURL(url, host)")]
    NoFunction,
    /// The script takes too long.
    #[error("{}it gives no answer within {} s", at(*line), PAC_TIMEOUT.as_secs())]
    OutOfTime {
        /// The line that it had reached, from 1, if known.
        line: Option<u32>,
    },
    /// The script uses too much memory.
    #[error("{}it uses more than {} MiB of memory", at(*line), PAC_MEMORY_BYTES_MAX >> 20)]
    OutOfMemory {
        /// The line that it had reached, from 1, if known.
        line: Option<u32>,
    },
    /// The function returned no text.
    #[error(
        "FindProxyForURL returned {kind} in place of a text as in \"PROXY proxy.example.com:3128; DIRECT\""
    )]
    NoText {
        /// The type of what it returned.
        kind: String,
    },
    /// The function returned too long a text.
    #[error("FindProxyForURL returned more than {} KiB", PAC_ANSWER_BYTES_MAX >> 10)]
    AnswerTooLong,
    /// The function listed nothing that can be used.
    #[error("FindProxyForURL listed no usable proxy: {notes}")]
    NoUsableProxy {
        /// What was skipped, and why.
        notes: String,
    },
    /// The evaluator failed, and not the script: its thread could not be started, or it panicked. The source says which.
    #[error("the evaluator has failed: {0}")]
    Evaluator(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// Too many scripts run, which have not ended at their limits.
    #[error("other PAC files are still being evaluated")]
    Busy,
}

impl PacFault {
    /// What to do about it, where its text does not say so: the rest of a sentence.
    fn advice(&self) -> &'static str {
        match self {
            Self::File { .. }
            | Self::Fetch(_)
            | Self::Status { .. }
            | Self::FetchTimeout
            | Self::WebPage
            | Self::Evaluator(_)
            | Self::Busy => "",
            _ => {
                "; have it corrected, or set the proxy itself, as in http://proxy.example.com:3128"
            }
        }
    }

    pub(super) fn of(self, file: &str) -> PacError {
        PacError { file: file.to_owned(), fault: self }
    }
}

fn at(line: Option<u32>) -> String {
    line.map(|line| format!("line {line}: ")).unwrap_or_default()
}
