//! The hub's settings as the program reads them, for `serve`, and `bellwire config check`, which shows them.

use std::path::{Path, PathBuf};

use bellwire_hub::app::{self, StartError};
use bellwire_hub::config::{Config, Fault, Loaded, SettingLayer, VARIABLE_PREFIX};

use crate::args::fleet::{ConfigCommand, HubSettings};
use crate::config_lines::{line_of, quotes_hint};
use crate::exit::{self, Usage};
use crate::out::{self, Form};

/// Reads all layers: the file, then the environment, then the flags.
pub(crate) fn read(settings: &HubSettings) -> anyhow::Result<Loaded> {
    load(settings)?.map_err(|faults| Usage(listed(&faults)).into())
}

/// The same, with each fault by itself.
fn load(settings: &HubSettings) -> anyhow::Result<Result<Loaded, Vec<String>>> {
    let text = settings.config.as_deref().map(read_file).transpose()?;
    let environment = environment()?;
    let flags = flags(settings);
    Ok(Config::load(
        text.as_deref(),
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())),
        flags.iter().map(|(key, value)| (*key, value.as_str())),
    )
    .map_err(|faults| {
        let file = settings.config.as_deref().zip(text.as_deref());
        faults.iter().map(|fault| with_file(fault, file)).collect()
    }))
}

/// Faults as one message: several are a list below its first line.
fn listed(faults: &[String]) -> String {
    match faults {
        [only] => only.clone(),
        several => {
            format!("the settings have {} faults:\n  {}", several.len(), several.join("\n  "))
        }
    }
}

/// A fault; one of the file with the file and the line.
fn with_file(fault: &Fault, file: Option<(&Path, &str)>) -> String {
    let Some((path, text)) = file else { return fault.to_string() };
    let path = path.display();
    match fault {
        Fault::Syntax { line, .. } => format!("{path}: {fault}{}", quotes_hint(text, *line)),
        Fault::UnknownKey { origin: SettingLayer::File, key }
        | Fault::Value { origin: SettingLayer::File, key, .. } => match line_of(text, key) {
            Some(line) => format!("{path}, line {line}: {fault}"),
            None => format!("{path}: {fault}"),
        },
        Fault::Table { table, number, key, .. } => {
            match line_in_table(text, table, *number, key.as_deref()) {
                Some(line) => format!("{path}, line {line}: {fault}"),
                None => format!("{path}: {fault}"),
            }
        }
        _ => fault.to_string(),
    }
}

/// The warning about variables that are named like settings and are not; `None` without any.
pub(crate) fn unknown_variables(loaded: &Loaded) -> Option<String> {
    let names = loaded.unknown_variables.join(", ");
    (!names.is_empty()).then(|| {
        format!(
            "ignored, because the hub has no such settings: {names}. A Kubernetes Service named bellwire makes such \
             variables (enableServiceLinks: false omits them); `bellwire config check --strict` refuses misspelt ones"
        )
    })
}

/// `bellwire config`.
pub(crate) fn config(command: ConfigCommand, form: Form) -> anyhow::Result<u8> {
    let ConfigCommand::Check { settings, strict } = command;
    let loaded = match load(&settings) {
        Ok(Ok(loaded)) => loaded,
        Ok(Err(faults)) => return refuse(&faults, exit::USAGE, form),
        Err(e) if e.is::<Usage>() => return refuse(&[e.to_string()], exit::USAGE, form),
        Err(e) => return Err(e),
    };
    let unknown = loaded.unknown_variables.iter().filter(|_| strict);
    let mut faults: Vec<_> = unknown.map(|name| format!("{name} is not a setting")).collect();
    // A hub that is running is what the folder is for.
    let (in_use, refused): (Vec<_>, Vec<_>) =
        app::faults(&loaded.config).into_iter().partition(StartError::is_in_use);
    let is_usage = !faults.is_empty() || refused.iter().any(StartError::is_usage);
    faults.extend(refused.iter().map(ToString::to_string));
    if !faults.is_empty() {
        return refuse(&faults, if is_usage { exit::USAGE } else { exit::FAILED }, form);
    }
    let in_use = in_use.iter().map(|_| {
        let dir = &loaded.config.data_dir;
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
        format!(
            "the data folder {} is in use: a hub is running with it, which is no fault",
            dir.display()
        )
    });
    let of_files = app::warnings(&loaded.config);
    let warnings: Vec<String> =
        unknown_variables(&loaded).into_iter().chain(in_use).chain(of_files).collect();
    match form {
        Form::Json => {
            let settings: toml::Table = loaded.config.to_toml().parse()?;
            out::json(
                &serde_json::json!({"ok": true, "settings": settings, "warnings": warnings}),
            )?;
        }
        Form::Text => {
            for warning in warnings {
                out::note(&format!("warning: {warning}"));
            }
            let toml = loaded.to_toml();
            out::line(format_args!(
                "# ok: `bellwire serve` accepts these settings; those with # are defaults\n{}",
                toml.trim_end()
            ))?;
        }
    }
    Ok(exit::OK)
}

fn refuse(faults: &[String], code: u8, form: Form) -> anyhow::Result<u8> {
    match form {
        Form::Json => out::json(&serde_json::json!({"ok": false, "faults": faults}))?,
        Form::Text => out::error(&listed(faults)),
    }
    Ok(code)
}

/// The variables that may be settings. An empty one counts as unset, as clients and the agent have it.
fn environment() -> anyhow::Result<Vec<(String, String)>> {
    let ours = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, value)| name.starts_with(VARIABLE_PREFIX) && !value.is_empty());
    ours.map(|(name, value)| match value.into_string() {
        Ok(value) => Ok((name, value)),
        Err(_) => Err(Usage(format!("the value of {name} is not UTF-8")).into()),
    })
    .collect()
}

/// The flags that were given, by the keys of the settings.
fn flags(settings: &HubSettings) -> Vec<(&'static str, String)> {
    let mut flags = Vec::new();
    if !settings.listen.is_empty() {
        flags.push(("listen", settings.listen.join(",")));
    }
    if let Some(dir) = &settings.data_dir {
        flags.push(("data_dir", dir.display().to_string()));
    }
    if !settings.classic_actions.is_empty() {
        flags.push(("classic_actions", settings.classic_actions.join(",")));
    }
    for (key, given) in [("open", settings.open), ("classic", settings.classic)] {
        if given {
            flags.push((key, "true".to_owned()));
        }
    }
    flags
}

fn read_file(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).map_err(|e| {
        let path: PathBuf = path.to_owned();
        Usage(format!("the configuration file {} cannot be read: {e}", path.display())).into()
    })
}

/// The line, counted from 1, on which a key is set in one of several tables `[[table]]`, or at which that begins.
fn line_in_table(text: &str, table: &str, number: usize, key: Option<&str>) -> Option<usize> {
    let heads = text.lines().enumerate().filter(|(_, line)| {
        let name = line.trim().trim_start_matches('[').split(']').next().unwrap_or_default();
        line.trim().starts_with('[') && name.trim() == table
    });
    let (begin, _) = { heads }.nth(number.checked_sub(1)?)?;
    let members = text.lines().enumerate().skip(begin + 1);
    let members = members.take_while(|(_, line)| !line.trim().starts_with("[["));
    let set = |line: &str| line.split_once('=').map(|(key, _)| key.trim().to_owned());
    let member = { members }.find(|(_, line)| key.is_some() && set(line).as_deref() == key);
    Some(member.map_or(begin, |(at, _)| at) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_the_table_of_its_number() {
        let text =
            "open = 1\n[[a]]\nopen = 2\n[[b]]\nopen = 3\n\n [[ a ]] # second\nx = 1\nopen = 4\n";
        for (table, number, key, line) in [
            ("a", 1, Some("open"), Some(3)),
            ("a", 2, Some("open"), Some(9)),
            ("b", 1, Some("open"), Some(5)),
            ("b", 1, Some("x"), Some(4)),
            ("a", 2, None, Some(7)),
            ("a", 3, None, None),
        ] {
            assert_eq!(line_in_table(text, table, number, key), line, "{table} {number} {key:?}");
        }
    }
}
