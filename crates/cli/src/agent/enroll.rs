//! `bellwire agent enroll`: the appliance gets its name and its token with a join token.
//!
//! The file for the token is made before the hub is asked: a join token may allow one use, and a token that cannot be
//! stored would be lost.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bellwire_client::agent::config::credential_from;
use bellwire_proto::{DeviceId, Enroll};
use serde::Serialize;

use super::create;
use crate::args::{AgentEnroll, AgentInit};
use crate::connect;
use crate::exit::{self, Usage};
use crate::out::{self, BOLD, Form};

/// What `agent enroll --json` prints.
#[derive(Serialize)]
struct Printed<'a> {
    device: &'a DeviceId,
    pending: bool,
    credential_file: &'a Path,
    /// The configuration, if it was written.
    config: Option<&'a Path>,
}

pub(crate) async fn run(args: &AgentEnroll, form: Form) -> anyhow::Result<u8> {
    let join = if args.token_file == Path::new("-") {
        let token = credential_from(std::io::stdin());
        token.map_err(|e| Usage(format!("the token on standard input cannot be used: {e}")))?
    } else {
        connect::read_token(&args.token_file)?
    };
    connect::warn_of_password(&args.hub, "leave it out; the appliance gets a token of its own");
    let hub = connect::connect(&args.hub, Some(join), args.ca_file.as_deref())?;
    let config = &args.config.config;
    let path = match &args.credential_file {
        Some(path) => path.clone(),
        None => config
            .parent()
            .map_or_else(|| PathBuf::from("credential"), |dir| dir.join("credential")),
    };
    let path = std::path::absolute(path)?;
    let mut file = make(&path)?;
    let enroll = Enroll { device: args.device.clone(), facts: None };
    let enrolled = match hub.enroll(&enroll).await {
        Ok(enrolled) => enrolled,
        Err(error) => {
            drop(std::fs::remove_file(&path));
            return Err(error.into());
        }
    };
    let text = format!("{}\n", enrolled.token.0.expose());
    let stored = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    stored.with_context(|| {
        format!("{} cannot be written; revoke the token of {}", path.display(), enrolled.device)
    })?;
    let first = !config.exists();
    if first {
        create::write_first(&AgentInit {
            hub: args.hub.clone(),
            device: enrolled.device.clone(),
            token_file: Some(path.clone()),
            ca_file: args.ca_file.clone(),
            state_dir: args.state_dir.clone(),
            config: args.config.clone(),
        })?;
    }
    if form == Form::Json {
        out::json(&Printed {
            device: &enrolled.device,
            pending: enrolled.pending,
            credential_file: &path,
            config: first.then_some(config),
        })?;
        return Ok(exit::OK);
    }
    out::line(format_args!(
        "enrolled as {BOLD}{}{BOLD:#}; its token is in {}",
        enrolled.device,
        path.display()
    ))?;
    if enrolled.pending {
        out::note(&format!(
            "it may work once an operator has approved it: bellwire devices approve {}",
            enrolled.device
        ));
    }
    if first {
        let option = create::config_option(config);
        out::note(&format!(
            "{} written; next: bellwire agent check{option}, then bellwire agent run{option}",
            config.display()
        ));
    } else {
        out::note(&format!(
            "{} is as it was: see that it has device = \"{}\" and credential_file = \"{}\"",
            config.display(),
            enrolled.device,
            path.display()
        ));
    }
    Ok(exit::OK)
}

fn make(path: &Path) -> anyhow::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    // An empty one was made by an enrolment that was interrupted before it had a token.
    let is_empty = |path: &Path| {
        std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0)
    };
    let file = match file {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && is_empty(path) => File::options()
            .write(true)
            .open(path)
            .and_then(|file| file.set_permissions(Permissions::from_mode(0o600)).map(|()| file)),
        made => made,
    };
    file.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Usage(format!(
            "{} exists already: if it is this machine's token, bellwire agent init writes a configuration for it; else move \
             it away, or name another by --credential-file",
            path.display()
        ))
        .into(),
        _ => anyhow::Error::from(error).context(format!("{} cannot be written", path.display())),
    })
}
