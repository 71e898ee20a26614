//! Completion in the shell: subcommands and flags from the definitions in `args.rs`, and names and ids from the hub.
//!
//! The shell starts the program with [`VARIABLE`] and the words so far. It must never wait long or print what is no
//! candidate: a hub that is away has no names.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::time::Duration;

use bellwire_client::Controller;
use bellwire_client::api::{CommandQuery, DeviceQuery};
use bellwire_proto::{Command, CommandIdPrefix, DeliveryState};
use clap::CommandFactory as _;
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use crate::args::{Cli, HubArg};
use crate::short_id;
use crate::{connect, contexts};

/// The variable that names the shell that asks. (The library's own is `COMPLETE`, which may be set for other reasons.)
pub(crate) const VARIABLE: &str = "BELLWIRE_COMPLETE";

/// How long the hub may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Candidates at most, of each kind: more than a screen has.
const CANDIDATES_MAX: u32 = 100;
/// Recent commands in which actions are looked for.
const COMMANDS_SEARCHED: u32 = 200;

/// Answers the shell and ends the program, if it is a shell that asks.
pub(crate) fn answer() {
    CompleteEnv::with_factory(|| with_completers(Cli::command())).var(VARIABLE).complete();
}

/// Every argument that takes a name or an id knows where those come from.
fn with_completers(command: clap::Command) -> clap::Command {
    let name = command.get_name().to_owned();
    if name == "agent" {
        // Its actions are those of its own configuration.
        return command;
    }
    let in_context = name == "use" || name == "remove";
    command
        .mut_args(|arg| match arg.get_id().as_str() {
            "device" | "devices" => arg.add(ArgValueCompleter::new(devices)),
            "action" => arg.add(ArgValueCompleter::new(actions)),
            "state" => arg.add(ArgValueCompleter::new(states)),
            "id" => arg.add(ArgValueCompleter::new(ids)),
            "context" => arg.add(ArgValueCompleter::new(context_names)),
            "name" if in_context => arg.add(ArgValueCompleter::new(context_names)),
            _ => arg,
        })
        .mut_subcommands(with_completers)
}

fn devices(begun: &OsStr) -> Vec<CompletionCandidate> {
    let Some(prefix) = begun.to_str().map(str::to_owned) else { return Vec::new() };
    let found = asked(async |hub: Controller| {
        let query = DeviceQuery {
            prefix: Some(prefix).filter(|prefix| !prefix.is_empty()),
            limit: Some(CANDIDATES_MAX),
            ..DeviceQuery::default()
        };
        hub.devices(&query).await.ok()
    });
    let devices = found.map(|page| page.items).unwrap_or_default();
    devices
        .into_iter()
        .map(|device| {
            let state = if device.online { "online" } else { "offline" };
            CompletionCandidate::new(device.id.as_str()).help(Some(state.into()))
        })
        .collect()
}

fn actions(begun: &OsStr) -> Vec<CompletionCandidate> {
    let Some(prefix) = begun.to_str() else { return Vec::new() };
    let found = asked(async |hub: Controller| recent(&hub, COMMANDS_SEARCHED).await);
    let commands = found.unwrap_or_default();
    let actions: BTreeSet<&str> = commands.iter().map(|command| command.action.as_str()).collect();
    let fit = actions.into_iter().filter(|action| action.starts_with(prefix));
    fit.map(CompletionCandidate::new).collect()
}

fn states(begun: &OsStr) -> Vec<CompletionCandidate> {
    let Some(prefix) = begun.to_str() else { return Vec::new() };
    let names = DeliveryState::ALL.iter().map(|state| state.as_str());
    names.filter(|name| name.starts_with(prefix)).map(CompletionCandidate::new).collect()
}

fn ids(begun: &OsStr) -> Vec<CompletionCandidate> {
    let Some(text) = begun.to_str().map(str::to_owned) else { return Vec::new() };
    let begun = text.clone();
    let found = asked(async |hub: Controller| match text.parse::<CommandIdPrefix>() {
        Ok(prefix) => hub.commands_by_id(&prefix, CANDIDATES_MAX).await.ok(),
        Err(_) => recent(&hub, CANDIDATES_MAX).await,
    });
    let commands = found.unwrap_or_default();
    // A candidate is never shorter than what stands there already.
    let chars = short_id::short_chars(commands.iter().map(|command| &command.id))
        .max(begun.chars().count());
    let candidate = |command: &Command| {
        let states: Vec<String> = command.counts.keys().map(ToString::to_string).collect();
        let about = format!("{}, {}", command.action, states.join(", "));
        CompletionCandidate::new(short_id::short(command.id, chars)).help(Some(about.into()))
    };
    let fit = commands.iter().filter(|command| command.id.to_string().starts_with(&begun));
    fit.map(candidate).collect()
}

fn context_names(begun: &OsStr) -> Vec<CompletionCandidate> {
    let (Some(prefix), Ok(contexts)) = (begun.to_str(), contexts::load()) else {
        return Vec::new();
    };
    let fit = contexts.context.keys().filter(|name| name.starts_with(prefix));
    fit.map(CompletionCandidate::new).collect()
}

async fn recent(hub: &Controller, limit: u32) -> Option<Vec<Command>> {
    let query = CommandQuery { limit: Some(limit), ..CommandQuery::default() };
    hub.commands(&query).await.ok().map(|page| page.items)
}

/// What the hub answers in time.
fn asked<T, F>(ask: impl FnOnce(Controller) -> F) -> Option<T>
where
    F: Future<Output = Option<T>>,
{
    let hub = connect::controller(&named(std::env::args_os())).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(hub)).await });
    // A lookup of a name that hangs must not hold up the shell.
    runtime.shutdown_background();
    answer.ok().flatten()
}

/// The hub that the words so far name. They may not be a whole command line yet, so they are not parsed as one.
fn named(words: impl Iterator<Item = OsString>) -> HubArg {
    let words: Vec<String> = words.filter_map(|word| word.into_string().ok()).collect();
    let option = |name: &str| {
        words.iter().enumerate().find_map(|(at, word)| match word.strip_prefix(name)? {
            "" => words.get(at + 1).cloned(),
            value => value.strip_prefix('=').map(str::to_owned),
        })
    };
    HubArg {
        hub: option("--hub"),
        context: option("--context"),
        token_file: option("--token-file").map(Into::into),
        ca_file: option("--ca-file").map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hub_that_a_line_names_is_the_one_that_is_asked() {
        let words = |line: &str| named(line.split(' ').map(OsString::from));
        let found = words("bellwire -- bellwire status --hub=http://a --token-file /t 01");
        assert_eq!(found.hub.as_deref(), Some("http://a"));
        assert_eq!(found.token_file, Some("/t".into()));
        assert_eq!(
            words("bellwire -- bellwire status --context prod").context.as_deref(),
            Some("prod")
        );
        assert_eq!(words("bellwire -- bellwire status --hub").hub, None);
    }
}
