//! `bellwire serve` and `bellwire config check`: settings in, a hub that runs until a signal
//! stops it.

use std::path::{Path, PathBuf};

use bellwire_hub::app::{Bound, StartError};
use bellwire_hub::config::Config;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{ConfigCommand, Serve};
use crate::exit::{self, Usage};
use crate::out::{self, Form};

/// Open files of a hub beside its connections: the store's, event queues, listening sockets, the
/// logs, and some for the connection that is accepted only to be refused.
const FILES_BESIDE: u64 = 100;

pub(crate) async fn run(args: Serve) -> anyhow::Result<u8> {
    let mut config = read(args.config.as_deref(), &flags(&args))?;
    config.connections_max = connections_that_fit(config.connections_max);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let data_dir = config.data_dir.clone();
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let bound = match Bound::bind(config).await {
        Ok(bound) => bound,
        Err(e) => return Ok(refused(&e)),
    };
    let hub = bound.serve();
    for address in hub.local_addrs() {
        let version = env!("CARGO_PKG_VERSION");
        let banner = format!("bellwire {version} listening on {scheme}://{address}");
        // A full disk is no reason not to serve.
        if let Err(e) = out::line(&banner) {
            tracing::warn!("{banner}; {e}");
        }
    }
    let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
    tracing::info!("ready; the data folder is {}", data_dir.display());
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => match hub.reload_tls() {
                Ok(()) => tracing::info!("certificate and key read again"),
                Err(e) => tracing::error!("the old certificate stays: {e}"),
            },
        }
    }
    tracing::info!("draining; a second signal ends at once");
    tokio::select! {
        () = hub.shutdown() => Ok(exit::OK),
        _ = terminate.recv() => Ok(exit::FAILED),
        _ = interrupt.recv() => Ok(exit::FAILED),
    }
}

pub(crate) fn config(command: ConfigCommand, form: Form) -> anyhow::Result<u8> {
    let ConfigCommand::Check { config } = command;
    let checked = match read(config.as_deref(), &[]) {
        Err(e) if form == Form::Json && e.is::<Usage>() => {
            let faults = e.to_string();
            out::json(
                &serde_json::json!({"ok": false, "faults": faults.lines().collect::<Vec<_>>()}),
            )?;
            return Ok(exit::USAGE);
        }
        checked => checked?,
    };
    match form {
        Form::Json => out::line("{\"ok\":true}")?,
        Form::Text => {
            out::line(format_args!("{}ok{:#}", out::GOOD, out::GOOD))?;
            for (key, value) in checked.effective() {
                out::line(format_args!("{key} = {value}"))?;
            }
        }
    }
    Ok(exit::OK)
}

/// Raises the limit of open files as far as the system allows, and gives how many of so many
/// connections that is enough for: one too many is refused at once, where a hub without files left
/// could not even do that.
fn connections_that_fit(connections_max: usize) -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!("the limit of open files cannot be raised: {e}");
    }
    let Some(files) = getrlimit(Resource::Nofile).current else {
        return connections_max;
    };
    let fit = usize::try_from(files.saturating_sub(FILES_BESIDE)).unwrap_or(usize::MAX).max(1);
    if fit < connections_max {
        tracing::warn!(
            "{files} open files are too few for connections_max = {connections_max}: {fit} \
             connections at once; raise the hard limit (ulimit -Hn, LimitNOFILE=) for more"
        );
    }
    fit.min(connections_max)
}

fn refused(error: &StartError) -> u8 {
    out::error(&error.to_string());
    if error.is_usage() { exit::USAGE } else { exit::FAILED }
}

/// The flags that were given, by the keys of the settings.
fn flags(args: &Serve) -> Vec<(&'static str, String)> {
    let mut flags = Vec::new();
    if !args.listen.is_empty() {
        flags.push(("listen", args.listen.join(",")));
    }
    if let Some(dir) = &args.data_dir {
        flags.push(("data_dir", dir.display().to_string()));
    }
    for (key, given) in [("open", args.open), ("classic", args.classic)] {
        if given {
            flags.push((key, "true".to_owned()));
        }
    }
    flags
}

/// Reads all layers: the file, then the environment, then the flags.
fn read(file: Option<&Path>, flags: &[(&str, String)]) -> anyhow::Result<Config> {
    let text = file.map(read_file).transpose()?;
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Config::read(
        text.as_deref(),
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())),
        flags.iter().map(|(key, value)| (*key, value.as_str())),
    )
    .map_err(|faults| Usage(faults.to_string()).into())
}

fn read_file(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).map_err(|e| {
        let path: PathBuf = path.to_owned();
        Usage(format!("the configuration file {} cannot be read: {e}", path.display())).into()
    })
}
