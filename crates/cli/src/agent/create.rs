//! `bellwire agent init`: writes the first configuration of an appliance, with an action to try. Replaces nothing.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use bellwire_client::agent::config::{AgentConfig, CONFIG_FILE};
use serde::Serialize;
use toml::Value;

use super::in_file;
use crate::args::AgentInit;
use crate::exit::{self, Usage};
use crate::out::{self, Form};

/// What `agent init --json` prints.
#[derive(Serialize)]
struct Created<'a> {
    config: &'a Path,
}

pub(crate) fn run(args: &AgentInit, form: Form) -> anyhow::Result<u8> {
    let path = &args.config.config;
    write_first(args)?;
    let done = || format!("{} was written", path.display());
    match form {
        Form::Json => out::json(&Created { config: path }).with_context(done)?,
        Form::Text => {
            let option = config_option(path);
            out::line(format_args!("{} written", path.display())).with_context(done)?;
            out::note(&format!(
                "next: bellwire agent check{option}, then bellwire agent run{option}; \
                 bellwire agent on ACTION{option} -- PROGRAM adds what this device does"
            ));
        }
    }
    Ok(exit::OK)
}

/// The option that names this configuration in a command line, with a blank before it; nothing where it is the default.
pub(super) fn config_option(path: &Path) -> String {
    match path == Path::new(CONFIG_FILE) {
        true => String::new(),
        false => format!(" --config {}", path.display()),
    }
}

/// Writes the first configuration; an existing file is never replaced.
pub(super) fn write_first(args: &AgentInit) -> anyhow::Result<()> {
    let path = &args.config.config;
    let text = configuration(args)?;
    AgentConfig::read(&text).map_err(|faults| Usage(in_file(path, &text, &faults)))?;
    write(path, &text)
}

fn configuration(args: &AgentInit) -> anyhow::Result<String> {
    let text = |text: &str| Value::from(text).to_string();
    let mut lines = format!("hub = {}\ndevice = {}\n", text(&args.hub), text(args.device.as_str()));
    for (key, file) in [
        ("credential_file", &args.token_file),
        ("ca_file", &args.ca_file),
        ("state_dir", &args.state_dir),
    ] {
        let Some(file) = file else { continue };
        // The agent may be started in another folder.
        let file = std::path::absolute(file)?;
        let name = file.to_str().context("the path of a file in a configuration must be UTF-8")?;
        lines.push_str(&format!("{key} = {}\n", text(name)));
    }
    lines.push_str("\n[actions.ping]\nrun = [\"/bin/echo\", \"pong\"]\n");
    Ok(lines)
}

/// Creates the file, and its folder.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    // The URL may contain a password.
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => anyhow::Error::from(Usage(format!(
            "{} exists already: edit it, add an action by bellwire agent on, or name another by --config",
            path.display()
        ))),
        _ => anyhow::Error::from(error).context(format!("{} cannot be written", path.display())),
    })?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    // Half a file would be refused the next time.
    written
        .inspect_err(|_| drop(std::fs::remove_file(path)))
        .with_context(|| path.display().to_string())
}
