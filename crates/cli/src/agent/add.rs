//! `bellwire agent on`: an action more in the agent's configuration. What stands there stays as it
//! is, comments included: the new table goes to the end.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context as _;
use bellwire_client::agent::config::AgentConfig;
use toml::Value;

use super::{in_file, read_text};
use crate::args::AgentOn;
use crate::exit::{self, Usage};
use crate::out::{self, Form};

pub(crate) fn run(args: &AgentOn, form: Form) -> anyhow::Result<u8> {
    let path = &args.config.config;
    let before = read_text(path)?;
    let config = AgentConfig::read(&before).map_err(|faults| Usage(in_file(path, &faults)))?;
    if config.actions.contains_key(&args.action) {
        let message = format!("{} has {} already: edit it there", path.display(), args.action);
        return Err(Usage(message).into());
    }
    let line_end = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    let after = format!("{before}{line_end}{}", table(args));
    let config = AgentConfig::read(&after).map_err(|faults| Usage(in_file(path, &faults)))?;
    replace(path, &after).with_context(|| path.display().to_string())?;
    let key = format!("actions.{}", args.action);
    for warning in config.warnings().iter().filter(|w| w.key.starts_with(&key)) {
        out::note(&format!("warning: {warning}"));
    }
    if let (Form::Text, Some(added)) = (form, config.actions.get(&args.action)) {
        anstream::println!("{} {added}", args.action);
        out::note("a running agent takes it when it is started again");
    }
    Ok(exit::OK)
}

/// The new table as TOML.
fn table(args: &AgentOn) -> String {
    let text = |text: &str| Value::from(text).to_string();
    let mut settings = vec![("run", Value::from(args.argv.clone()).to_string())];
    settings.extend(args.timeout.map(|timeout| ("timeout", text(&timeout.to_string()))));
    settings.extend(args.on_restart.as_deref().map(|what| ("on_restart", text(what))));
    settings.extend(args.user.as_deref().map(|user| ("user", text(user))));
    let lines: String = settings.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    // The name in quotes: a point in it would begin another table.
    let name = if args.action.as_str().contains('.') {
        text(args.action.as_str())
    } else {
        args.action.to_string()
    };
    format!("\n[actions.{name}]\n{lines}")
}

/// Puts the text in the file's place in one step, with the permissions that it had.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let path = path.canonicalize()?;
    let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
    let draft = path.with_extension("toml.new");
    std::fs::remove_file(&draft).ok();
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, &path)
}
