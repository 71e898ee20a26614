//! `bellwire`: the program. Reads the command line, runs one command, ends with its exit code.
//!
//! Without the feature `hub` what remains is the small program for an appliance: this file is the only
//! place with the difference, besides the definitions in `args.rs`.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]
#![allow(unreachable_pub, reason = "a program has no public interface")]

#[cfg(feature = "hub")]
mod access;
mod agent;
mod args;
#[cfg(feature = "hub")]
mod ask;
#[cfg(feature = "hub")]
mod audit;
mod command;
mod commands;
#[cfg(feature = "hub")]
mod complete;
mod config_lines;
mod connect;
mod context;
mod contexts;
#[cfg(feature = "hub")]
mod demo;
mod devices;
mod doctor;
mod events;
mod exit;
mod explain;
mod health;
#[cfg(feature = "hub")]
mod label;
mod listen;
#[cfg(feature = "hub")]
mod manual;
mod out;
mod replay;
#[cfg(feature = "hub")]
mod results;
#[cfg(feature = "hub")]
mod rollout;
mod saved;
#[cfg(feature = "hub")]
mod schedule;
mod send;
#[cfg(feature = "hub")]
mod serve;
mod service_manager;
#[cfg(feature = "hub")]
mod settings;
mod short_id;
#[cfg(feature = "hub")]
mod token;
mod when;

use std::process::ExitCode;

use args::{Cli, Command};
use bellwire::{argv, output};
#[cfg(feature = "hub")]
use bellwire_client::api::RolloutChange;
use out::Form;

fn main() -> ExitCode {
    #[cfg(feature = "hub")]
    complete::answer();
    let cli: Cli = match argv::try_parse(std::env::args_os()) {
        Ok(cli) => cli,
        // Help and version are no errors.
        Err(e) if e.use_stderr() && wants_json() => return explain::usage_as_json(&e).into(),
        Err(e) => return output::of_clap(&e).into(),
    };
    let form = if cli.json { Form::Json } else { Form::Text };
    out::set_color(cli.color);
    log_to_stderr(cli.verbose);
    let mut builder = match &cli.command {
        #[cfg(feature = "hub")]
        Command::Demo(_) | Command::Serve(_) => tokio::runtime::Builder::new_multi_thread(),
        // All others have one thing to do at a time.
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            out::error(&format!("the system refuses threads: {e}"));
            return exit::FAILED.into();
        }
    };
    let code = runtime.block_on(run(cli, form)).unwrap_or_else(|e| explain::explain(&e, form));
    // A read of standard input that is still blocked must not hold up the end.
    runtime.shutdown_background();
    code.into()
}

async fn run(cli: Cli, form: Form) -> anyhow::Result<u8> {
    match cli.command {
        #[cfg(feature = "hub")]
        Command::Demo(demo) => demo::run(demo).await,
        #[cfg(feature = "hub")]
        Command::Serve(serve) => serve::run(serve).await,
        #[cfg(feature = "hub")]
        Command::Config { command } => settings::config(command, form),
        Command::Listen(listen) => listen::run(listen, form).await,
        Command::Agent { command } => agent::run(command, form).await,
        Command::Replay(replay) => replay::run(replay, form).await,
        Command::Send(send) => send::run(send, form).await,
        Command::Status(status) => command::status(status, form).await,
        Command::Watch(watch) => command::watch(watch, form).await,
        #[cfg(feature = "hub")]
        Command::Results(results) => results::run(results, form).await,
        Command::Cancel(cancel) => command::cancel(cancel, form).await,
        #[cfg(feature = "hub")]
        Command::Pause(args) => rollout::change(args, RolloutChange::Pause, form).await,
        #[cfg(feature = "hub")]
        Command::Resume(args) => rollout::change(args, RolloutChange::Resume, form).await,
        #[cfg(feature = "hub")]
        Command::Abort(args) => rollout::change(args, RolloutChange::Abort, form).await,
        #[cfg(feature = "hub")]
        Command::Retry(args) => rollout::retry(args, form).await,
        Command::Commands(commands) => commands::run(commands, form).await,
        #[cfg(feature = "hub")]
        Command::Schedule { command } => schedule::run(command, form).await,
        Command::Devices(devices) => devices::run(devices, form).await,
        #[cfg(feature = "hub")]
        Command::Label(args) => label::change(args, form).await,
        #[cfg(feature = "hub")]
        Command::Labels(args) => label::list(args, form).await,
        #[cfg(feature = "hub")]
        Command::Token { command } => token::run(command, form).await,
        #[cfg(feature = "hub")]
        Command::Access(access) => access::run(access, form).await,
        #[cfg(feature = "hub")]
        Command::Audit(audit) => audit::run(audit, form).await,
        Command::Events(events) => events::run(events, form).await,
        Command::Health(health) => health::run(health, form).await,
        Command::Doctor(doctor) => doctor::run(doctor, form).await,
        Command::Context { command } => context::run(command, form),
        #[cfg(feature = "hub")]
        Command::Completions { shell } => manual::completions(shell),
        #[cfg(feature = "hub")]
        Command::Man { markdown } => manual::print(markdown),
    }
}

/// Whether `--json` is among the arguments, for a command line that cannot be parsed.
fn wants_json() -> bool {
    std::env::args_os().take_while(|argument| argument != "--").any(|argument| argument == "--json")
}

/// Logs to standard error: warnings, or more with `-v`; `RUST_LOG` takes precedence.
fn log_to_stderr(verbose: u8) {
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    // It logs each refused certificate as an error; the error of the connection says that, and more.
    let quiet = Targets::new().with_target("rustls_platform_verifier", LevelFilter::OFF);
    let default_levels = match verbose {
        0 => quiet.with_default(LevelFilter::WARN).with_target("bellwire", LevelFilter::INFO),
        1 => quiet.with_default(LevelFilter::INFO).with_target("bellwire", LevelFilter::DEBUG),
        _ => Targets::new().with_default(LevelFilter::DEBUG),
    };
    let levels = std::env::var("RUST_LOG").ok().and_then(|levels| levels.parse().ok());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // That a line was not written would itself be written to standard error, with a panic if that fails.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    tracing_subscriber::registry().with(levels.unwrap_or(default_levels)).with(lines).init();
}
