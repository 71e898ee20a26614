//! `bellwire agent on`: adds an action to the agent's configuration, as a table at the end of the file. The rest of the file,
//! comments included, is unchanged.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bellwire_client::agent::config::AgentConfig;
use serde::Serialize;
use toml::Value;

use super::{ActionSummary, Finding, in_file, read_config, read_text};
use crate::args::AgentOn;
use crate::exit::{self, Usage};
use crate::out::{self, Form};

pub(crate) fn run(args: &AgentOn, form: Form) -> anyhow::Result<u8> {
    let path = &args.config.config;
    read_config(path)?;
    let draft = Draft::of(path).with_context(|| path.display().to_string())?;
    let config = add(path, draft, args)?;
    let warnings = config.warnings_of(&args.action);
    let Some(does) = config.actions.get(&args.action).map(ToString::to_string) else {
        anyhow::bail!("{} does not contain the action after it was added", path.display());
    };
    let done = || format!("{} was added to {}", args.action, path.display());
    match form {
        Form::Json => out::json(&Added {
            action: ActionSummary { action: args.action.to_string(), does },
            warnings: warnings.into_iter().map(Finding::of).collect(),
        })
        .with_context(done)?,
        Form::Text => {
            for warning in warnings {
                out::note(&format!("warning: {warning}"));
            }
            out::line(format_args!("{} {does}", args.action)).with_context(done)?;
            out::note("a running agent reads the file when it is restarted");
        }
    }
    Ok(exit::OK)
}

/// What `agent on --json` prints.
#[derive(Serialize)]
struct Added {
    #[serde(flatten)]
    action: ActionSummary,
    warnings: Vec<Finding>,
}

/// Adds the action; returns the configuration with it.
fn add(path: &Path, draft: Draft, args: &AgentOn) -> anyhow::Result<AgentConfig> {
    // Read while the draft exists: no other process adds an action meanwhile.
    let before = read_text(path)?;
    let config =
        AgentConfig::read(&before).map_err(|faults| Usage(in_file(path, &before, &faults)))?;
    if config.actions.contains_key(&args.action) {
        let message = format!("{} already has {}: edit it there", path.display(), args.action);
        return Err(Usage(message).into());
    }
    let table = table(args);
    let line_end = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    let after = format!("{before}{line_end}{table}");
    let config = AgentConfig::read(&after).map_err(|faults| {
        let faults: String = faults.iter().map(|fault| format!("\n  {fault}")).collect();
        Usage(format!("{} is not valid with this at its end:\n{table}\n{faults}", path.display()))
    })?;
    draft.replace(&after).with_context(|| path.display().to_string())?;
    Ok(config)
}

/// The new table as TOML.
fn table(args: &AgentOn) -> String {
    let text = |text: &str| Value::from(text).to_string();
    let mut settings = vec![("run", Value::from(args.argv.clone()).to_string())];
    settings.extend(args.timeout.map(|timeout| ("timeout", text(&timeout.compact()))));
    settings.extend(args.on_restart.as_deref().map(|what| ("on_restart", text(what))));
    settings.extend(args.user.as_deref().map(|user| ("user", text(user))));
    let lines: String = settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    // In quotes if needed: a point in a bare name would begin another table.
    let name = if args.action.as_str().contains('.') {
        text(args.action.as_str())
    } else {
        args.action.to_string()
    };
    format!("\n[actions.{name}]\n{lines}")
}

/// The next content of a file, in a file beside it. While it exists no other process creates one.
struct Draft {
    path: PathBuf,
    draft: PathBuf,
    file: File,
    /// It has replaced the file, and a file of its name belongs to another process.
    placed: bool,
}

impl Draft {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let path = path.canonicalize()?;
        let draft = path.with_extension("toml.new");
        let mut options = File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(&draft);
        let file = file.map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => anyhow::anyhow!(
                "another process is changing it; if not, one was killed while it did: remove {}",
                draft.display()
            ),
            _ => e.into(),
        })?;
        Ok(Self { path, draft, file, placed: false })
    }

    /// Replaces the file in one step, with its owner, group and permissions.
    fn replace(mut self, text: &str) -> std::io::Result<()> {
        let before = std::fs::metadata(&self.path)?;
        self.file.write_all(text.as_bytes())?;
        let own = self.file.metadata()?;
        if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
            fchown(&self.file, Some(before.uid()), Some(before.gid()))?;
        }
        // After the owner: changing it clears some of them.
        self.file.set_permissions(before.permissions())?;
        self.file.sync_all()?;
        std::fs::rename(&self.draft, &self.path)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.placed {
            std::fs::remove_file(&self.draft).ok();
        }
    }
}
