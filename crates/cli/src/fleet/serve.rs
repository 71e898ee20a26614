//! `bellwire serve`: settings in, a hub that runs until a signal stops it.

use bellwire_hub::app::{self, Bound, StartError};
use bellwire_hub::config::{Loaded, Scheme};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::settings;
use crate::args::fleet::Serve;
use crate::exit::{self, Usage};
use crate::out::{self, Form};
use crate::service_manager::ServiceManager;

/// Open files of a hub beside its connections: the store's, event queues, listening sockets, the
/// logs, and some for the connection that is accepted only to be refused.
const FILES_BESIDE: u64 = 100;

pub(crate) async fn run(args: Serve, form: Form) -> anyhow::Result<u8> {
    let loaded = settings::read(&args.settings)?;
    if let Some(warning) = settings::unknown_variables(&loaded) {
        tracing::warn!("{warning}");
    }
    leave_no_core_file();
    let connections_max = connections_that_fit(&loaded);
    let Loaded { mut config, .. } = loaded;
    config.connections_max = connections_max;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let (data_dir, in_the_clear) = (config.data_dir.clone(), app::tokens_in_the_clear(&config));
    let hub = Bound::bind(config).await.map_err(refused)?.serve();
    let banners: Vec<_> = hub.listeners().iter().map(ToString::to_string).collect();
    announce(&banners, form);
    if hub.has_certificate()
        && hub.listeners().iter().all(|listener| listener.scheme == Scheme::Http)
    {
        tracing::warn!("tls_cert is set, and no listener uses it: each is http:// in listen");
    }
    if let Some(warning) = in_the_clear {
        tracing::warn!("{warning}");
    }
    let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
    tracing::info!("ready; the data folder is {}", data_dir.display());
    let service_manager = ServiceManager::from_environment();
    service_manager.send("READY=1");
    loop {
        tokio::select! {
            never = service_manager.keep_alive() => match never {},
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => match hub.reload_tls() {
                Ok(()) if !hub.has_certificate() => {
                    tracing::info!("SIGHUP: nothing to read again, tls_cert and tls_key are not set");
                }
                Ok(()) => tracing::info!("certificate and key read again"),
                Err(faults) => for fault in faults {
                    tracing::error!("{fault}; the file as it was before stays in use");
                },
            },
        }
    }
    service_manager.send("STOPPING=1");
    tracing::info!("draining; a second signal ends at once");
    tokio::select! {
        () = hub.shutdown() => {
            tracing::info!("stopped");
            Ok(exit::OK)
        }
        _ = terminate.recv() => Ok(exit::FAILED),
        _ = interrupt.recv() => Ok(exit::FAILED),
    }
}

/// Prints on which addresses it listens: a line for each, or all of them as one JSON value.
fn announce(listeners: &[String], form: Form) {
    let version = env!("CARGO_PKG_VERSION");
    // A full disk is no reason not to serve.
    if form == Form::Json {
        let line = serde_json::json!({ "listening": listeners, "version": version });
        if let Err(e) = out::json(&line) {
            tracing::warn!("{line}; {e}");
        }
        return;
    }
    for listener in listeners {
        let banner = format!("bellwire {version} listening on {listener}");
        if let Err(e) = out::line(&banner) {
            tracing::warn!("{banner}; {e}");
        }
    }
}

/// A core file would have every secret that was in use. Who needs one raises the limit of the process again: prlimit --core.
/// One byte and not none: a program in core_pattern is held back by that alone (core(5)), and no file is so short.
fn leave_no_core_file() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Core);
    if let Err(e) = setrlimit(Resource::Core, Rlimit { current: Some(1), maximum }) {
        tracing::warn!("a crash may leave a core file, with the secrets that are in use: {e}");
    }
}

/// Raises the limit of open files as far as the system allows, and gives how many of so many
/// connections that is enough for: one too many is refused at once, where a hub without files left
/// could not even do that. It warns of fewer than the operator set; without that the hub warns once
/// connections come near the limit.
fn connections_that_fit(loaded: &Loaded) -> usize {
    let connections_max = loaded.config.connections_max;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!("the limit of open files cannot be raised: {e}");
    }
    let Some(files) = getrlimit(Resource::Nofile).current else {
        return connections_max;
    };
    let fit = usize::try_from(files.saturating_sub(FILES_BESIDE)).unwrap_or(usize::MAX).max(1);
    if fit < connections_max && loaded.is_given("connections_max") {
        tracing::warn!(
            "{files} open files are too few for connections_max = {connections_max}: {fit} \
             connections at once; raise the hard limit (ulimit -Hn, LimitNOFILE=) for more"
        );
    }
    fit.min(connections_max)
}

/// As an error of the program, with its exit code.
fn refused(error: StartError) -> anyhow::Error {
    if error.is_usage() { Usage(error.to_string()).into() } else { error.into() }
}
