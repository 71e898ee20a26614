//! `bellwire`: the program. Reads the command line, runs one command, ends with its exit code.
//!
//! Without the feature `hub` what remains is the small program for an appliance. What only the whole program has is in `fleet`,
//! its command line in `args/fleet.rs`. The other differences are where the two are called, and local times (`when.rs`).

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]
#![allow(unreachable_pub, reason = "a program has no public interface")]

mod agent;
mod args;
mod command;
mod commands;
mod config_lines;
mod connect;
mod context;
mod contexts;
mod devices;
mod doctor;
mod events;
mod exit;
mod explain;
#[cfg(feature = "hub")]
mod fleet;
mod health;
mod listen;
mod out;
mod replay;
mod saved;
mod send;
mod service_manager;
mod short_id;
mod when;

use std::process::ExitCode;

use args::{Cli, Command};
use bellwire::{argv, output};
use out::Form;

fn main() -> ExitCode {
    #[cfg(feature = "hub")]
    fleet::answer_shell();
    let cli: Cli = match argv::try_parse(std::env::args_os()) {
        Ok(cli) => cli,
        // Help and version are no errors.
        Err(e) if e.use_stderr() && wants_json() => return explain::usage_as_json(&e).into(),
        Err(e) => return output::print_clap_error(&e).into(),
    };
    let form = if cli.json { Form::Json } else { Form::Text };
    out::set_color(cli.color);
    log_to_stderr(cli.verbose);
    let mut builder = match &cli.command {
        #[cfg(feature = "hub")]
        Command::Fleet(command) if fleet::has_hub(command) => {
            tokio::runtime::Builder::new_multi_thread()
        }
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
        Command::Listen(listen) => listen::run(listen, form).await,
        Command::Agent { command } => agent::run(command, form).await,
        Command::Replay(replay) => replay::run(replay, form).await,
        #[cfg(not(feature = "hub"))]
        Command::Send { send, hub } => send::run(send, &hub, None, form).await,
        Command::Status(status) => command::status(status, form).await,
        Command::Watch(watch) => command::watch(watch, form).await,
        Command::Cancel(cancel) => command::cancel(cancel, form).await,
        Command::Commands(commands) => commands::run(commands, form).await,
        Command::Devices(devices) => devices::run(devices, form).await,
        Command::Events(events) => events::run(events, form).await,
        Command::Health(health) => health::run(health, form).await,
        Command::Doctor(doctor) => doctor::run(doctor, form).await,
        Command::Context { command } => context::run(command, form),
        #[cfg(feature = "hub")]
        Command::Fleet(command) => fleet::run(command, form).await,
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
