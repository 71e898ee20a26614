//! `bellwire agent`: runs the agent, and creates, checks, extends and shows its configuration, status and journal.
//!
//! The agent itself is `bellwire_client::agent`; here are its command line, its signals, its notifications to systemd, and
//! what it does as process 1.

use std::io::ErrorKind;
use std::path::Path;

use bellwire::output::stderr_line;
use bellwire_client::agent::config::{AgentConfig, ConfigFaults, Fault, writable_by};
use serde::Serialize;

use crate::args::AgentCommand;
use crate::config_lines::{line_of, quotes_hint};
use crate::exit::{self, Usage};
use crate::out::{self, BAD, BOLD, DIM, Form, GOOD, StdoutError};

mod add;
mod create;
mod enroll;
mod init;
mod inspect;

mod serve;

pub(crate) async fn run(command: AgentCommand, form: Form) -> anyhow::Result<u8> {
    match command {
        AgentCommand::Check { config } => check(&config.config, form),
        AgentCommand::Init(args) => create::run(&args, form),
        AgentCommand::Enroll(args) => enroll::run(&args, form).await,
        AgentCommand::On(args) => add::run(&args, form),
        AgentCommand::Run { config } => serve::run(&config).await,
        AgentCommand::Status { config } => inspect::status(&config, form).await,
        AgentCommand::Journal { command } => inspect::journal(&command, form),
    }
}

/// The configuration, checked.
pub(crate) fn read_config(path: &Path) -> anyhow::Result<AgentConfig> {
    let text = read_text(path)?;
    AgentConfig::read(&text).map_err(|faults| Usage(in_file(path, &text, &faults)).into())
}

fn read_text(path: &Path) -> Result<String, Usage> {
    std::fs::read_to_string(path).map_err(|e| {
        let hint = if e.kind() == ErrorKind::NotFound {
            "\n  write one by `bellwire agent init HUB DEVICE`, or name another by --config"
        } else {
            ""
        };
        Usage(format!("the agent's configuration {} cannot be read: {e}{hint}", path.display()))
    })
}

fn in_file(path: &Path, text: &str, faults: &ConfigFaults) -> String {
    let count = faults.iter().count();
    let s = if count == 1 { "" } else { "s" };
    let lines: String =
        faults.iter().map(|fault| format!("\n  {}", with_line(text, fault.clone()))).collect();
    format!("{} has {count} fault{s}:{lines}", path.display())
}

/// The fault with the line where its key is set, and quotes where a text has none.
fn with_line(text: &str, fault: Fault) -> Fault {
    let Fault { key, mut problem } = fault;
    if let Some(line) = key.strip_prefix("line ").and_then(|line| line.parse().ok()) {
        problem.push_str(&quotes_hint(text, line));
    } else if let Some(line) = line_of(text, &key) {
        problem.push_str(&format!(" (line {line})"));
    }
    Fault { key, problem }
}

/// What `agent check --json` prints.
#[derive(Serialize)]
struct Checked {
    ok: bool,
    /// Whether an agent starts all the same.
    #[serde(skip)]
    starts: bool,
    faults: Vec<Finding>,
    warnings: Vec<Finding>,
    actions: Vec<ActionSummary>,
}

impl Checked {
    /// For a file that cannot be read.
    fn unreadable(problem: String) -> Self {
        let faults = vec![Finding { key: "the file".to_owned(), problem }];
        Self { ok: false, starts: false, faults, warnings: Vec::new(), actions: Vec::new() }
    }
}

#[derive(Serialize)]
struct Finding {
    key: String,
    problem: String,
}

impl Finding {
    fn of(fault: Fault) -> Self {
        let Fault { key, problem } = fault;
        Self { key, problem }
    }
}

#[derive(Serialize)]
struct ActionSummary {
    action: String,
    does: String,
}

fn check(path: &Path, form: Form) -> anyhow::Result<u8> {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(Usage(message)) => {
            match form {
                Form::Text => out::error(&message),
                Form::Json => out::json(&Checked::unreadable(message))?,
            }
            return Ok(exit::USAGE);
        }
    };
    let read = AgentConfig::read(&text);
    let checked = match &read {
        Ok(config) => {
            let found = config.readiness();
            let (ok, warnings) =
                (found.is_ready(), file_warning(path).into_iter().chain(found.warnings));
            Checked {
                ok,
                starts: found.faults.is_empty(),
                faults: found.faults.into_iter().chain(found.errors).map(Finding::of).collect(),
                warnings: warnings.map(Finding::of).collect(),
                actions: config
                    .actions
                    .iter()
                    .map(|(action, does)| ActionSummary {
                        action: action.to_string(),
                        does: does.to_string(),
                    })
                    .collect(),
            }
        }
        Err(faults) => Checked {
            ok: false,
            starts: false,
            faults: faults
                .iter()
                .map(|fault| Finding::of(with_line(&text, fault.clone())))
                .collect(),
            warnings: Vec::new(),
            actions: Vec::new(),
        },
    };
    match form {
        Form::Json => out::json(&checked)?,
        Form::Text => print(path, &checked, read.as_ref().ok())?,
    }
    Ok(match (checked.ok, &read) {
        (true, _) => exit::OK,
        (false, Ok(_)) => exit::FAILED,
        (false, Err(_)) => exit::USAGE,
    })
}

/// A warning when other users may change the file, and with it what this device runs.
fn file_warning(path: &Path) -> Option<Fault> {
    let problem = writable_by(&path.canonicalize().ok()?, None)?;
    Some(Fault { key: "the file".to_owned(), problem: format!("is one that {problem}") })
}

fn print(path: &Path, checked: &Checked, config: Option<&AgentConfig>) -> Result<(), StdoutError> {
    for Finding { key, problem } in &checked.faults {
        stderr_line(format_args!("{BAD}fault:{BAD:#} {key} {problem}"));
    }
    for Finding { key, problem } in &checked.warnings {
        stderr_line(format_args!("{BOLD}warning:{BOLD:#} {key} {problem}"));
    }
    let Some(config) = config.filter(|_| checked.ok) else {
        let count = checked.faults.len();
        let s = if count == 1 { "" } else { "s" };
        let consequence = match (checked.starts, count) {
            (false, _) => "no agent starts with it on this machine",
            (true, 1) => "an agent starts, and this part of it does not work",
            (true, _) => "an agent starts, and these parts of it do not work",
        };
        stderr_line(format_args!("{}: {count} fault{s}; {consequence}", path.display()));
        return Ok(());
    };
    out::line(format_args!("{GOOD}ok{GOOD:#}  {BOLD}{}{BOLD:#} at {}", config.device, config.hub))?;
    out::line(format_args!("  {DIM}state in {}{DIM:#}", config.state_dir.display()))?;
    for ActionSummary { action, does } in &checked.actions {
        out::line(format_args!("  {BOLD}{action}{BOLD:#} {does}"))?;
    }
    Ok(())
}
