//! `bellwire context`: naming hubs, and choosing between them. The file is in `contexts.rs`.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bellwire_client::Address;
use bellwire_client::agent::config::credential_from;
use serde::Serialize;

use bellwire_proto::limits::CONTEXT_NAME_CHARS_MAX;

use crate::args::{ContextAdd, ContextCommand};
use crate::connect;
use crate::contexts::{self, Context, Contexts};
use crate::exit::{self, Usage};
use crate::out::{self, BOLD, DIM, Form, GOOD};

pub(crate) fn run(command: ContextCommand, form: Form) -> anyhow::Result<u8> {
    match command {
        ContextCommand::Add(add) => self::add(add, form)?,
        ContextCommand::Use { name } => contexts::change(|contexts| {
            contexts.get(&name)?;
            contexts.current = Some(name.clone());
            Ok(())
        })?,
        ContextCommand::Remove { name } => remove(&name, form)?,
        ContextCommand::List => list(&contexts::load()?, form)?,
    }
    Ok(exit::OK)
}

fn remove(name: &str, form: Form) -> anyhow::Result<()> {
    let mut was_used = false;
    contexts::change(|contexts| {
        contexts.get(name)?;
        contexts.context.remove(name);
        was_used = contexts.current.take_if(|current| current == name).is_some();
        Ok(())
    })?;
    if was_used && form == Form::Text {
        out::note(&format!(
            "{name} was in use: from now on the hub is {}, unless an option or a variable names another; \
             choose one with: bellwire context use NAME",
            connect::DEFAULT_HUB
        ));
    }
    Ok(())
}

fn add(add: ContextAdd, form: Form) -> anyhow::Result<()> {
    let ContextAdd { name, hub, token_file, ca_file, use_it, replace } = add;
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if !(1..=CONTEXT_NAME_CHARS_MAX).contains(&name.len()) || !name.bytes().all(legal) {
        let rule =
            format!("a context is named by 1 to {CONTEXT_NAME_CHARS_MAX} of A-Z a-z 0-9 . _ -");
        return Err(Usage(rule).into());
    }
    let (mut token, mut file) = (None, None);
    match token_file {
        Some(dash) if dash == Path::new("-") => token = Some(token_from_stdin()?),
        Some(path) => file = Some(absolute(path)?),
        None => {}
    }
    let ca_file = ca_file.map(absolute).transpose()?;
    // What could not be used is refused now, and not at some later command.
    let used = match &file {
        Some(file) => Some(connect::read_token(file)?),
        None => token.clone(),
    };
    connect::warn_of_password(&hub, connect::IN_A_FILE);
    connect::connect(&hub, used, ca_file.as_deref())?;

    let context = Context { hub, token, token_file: file, ca_file };
    contexts::change(|contexts| {
        if contexts.context.contains_key(&name) && !replace {
            return Err(Usage(format!(
                "there is a context {name:?} already; replace it with --replace"
            )));
        }
        contexts.context.insert(name.clone(), context.clone());
        if use_it {
            contexts.current = Some(name.clone());
        }
        Ok(())
    })?;
    if form == Form::Text && !use_it {
        out::note(&format!(
            "use it with: bellwire context use {name}, or for one command with --context {name}"
        ));
    }
    Ok(())
}

fn list(contexts: &Contexts, form: Form) -> anyhow::Result<()> {
    /// A context, for machines.
    #[derive(Serialize)]
    struct ContextEntry<'a> {
        name: &'a str,
        hub: String,
        current: bool,
        token: bool,
        token_file: Option<&'a Path>,
        ca_file: Option<&'a Path>,
    }
    if contexts.context.is_empty() && form == Form::Text {
        out::note("no contexts; add one with: bellwire context add NAME URL");
    }
    for (name, context) in &contexts.context {
        let shown = ContextEntry {
            name,
            hub: shown_urls(&context.hub),
            current: contexts.current.as_ref() == Some(name),
            token: context.token.is_some(),
            token_file: context.token_file.as_deref(),
            ca_file: context.ca_file.as_deref(),
        };
        if form == Form::Json {
            out::json(&shown)?;
            continue;
        }
        let mark = if shown.current { "*" } else { " " };
        let mut about = Vec::new();
        match (shown.token, shown.token_file) {
            (true, _) => about.push("token stored".to_owned()),
            (false, Some(file)) => about.push(format!("token in {}", file.display())),
            (false, None) => {}
        }
        about.extend(shown.ca_file.map(|file| format!("authorities in {}", file.display())));
        out::line(format_args!(
            "{GOOD}{mark}{GOOD:#} {BOLD}{name:<16}{BOLD:#} {}  {DIM}{}{DIM:#}",
            out::printable(&shown.hub),
            out::printable(&about.join(", "))
        ))?;
    }
    Ok(())
}

/// The URLs of a hub without the users and passwords that they may have.
fn shown_urls(hub: &str) -> String {
    let shown = |url: &str| match url.parse::<Address>() {
        Ok(address) => address.to_string(),
        Err(e) => format!("{} (not a URL)", e.redacted()),
    };
    // The file of contexts may have been written by hand.
    let urls = connect::urls(hub).unwrap_or_else(|_| vec![hub]);
    urls.into_iter().map(shown).collect::<Vec<_>>().join(",")
}

fn absolute(path: PathBuf) -> anyhow::Result<PathBuf> {
    std::path::absolute(&path).with_context(|| path.display().to_string())
}

fn token_from_stdin() -> anyhow::Result<String> {
    let token = credential_from(io::stdin());
    Ok(token.map_err(|e| Usage(format!("the token on standard input cannot be used: {e}")))?)
}
