//! Parses `[actions.NAME]`: the handler of an action, and its rules.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use bellwire_proto::limits::{ACTION_TIMEOUT_S_MAX, CONCURRENCY, KILL_AFTER_S};

use super::super::forward::{Forward, InvalidForward};
use super::super::handler::account::Account;
use super::super::handler::{Environment, KILL_AFTER, Program};
use super::super::policy::OnRestart;
use super::fault::written;
use super::{
    ABSOLUTE, ActionConfig, DURATION, Handler, Section, absolute, boolean, params, seconds, text,
};

const UMASK: u32 = 0o077;
const UMASK_MAX: u32 = 0o777;

const ARGV: &str = "a list of the program and its arguments, as in [\"/bin/echo\", \"pong\"]; the \
    program is an absolute path, or a name that is looked for in PATH";
/// Keys that only a program may have.
const OF_PROGRAMS: [&str; 6] = ["env", "pass_env", "user", "cwd", "umask", "kill_after"];

impl ActionConfig {
    pub(super) fn take(section: &mut Section<'_>) -> Option<Self> {
        let handler = match (section.has("run"), section.has("forward")) {
            (true, false) => program(section).map(|p| Handler::Program(Arc::new(p))),
            (false, true) => forward(section).map(Handler::Forward),
            (run, _) => {
                let both = if run { "both run and" } else { "neither run nor" };
                section.fault(&format!("has {both} forward; it must have one of them"));
                // Keys that only one of them may have cannot be checked.
                for key in OF_PROGRAMS.into_iter().chain(["run", "forward", "remote"]) {
                    section.pass(key);
                }
                None
            }
        };
        let timeout = section.take("timeout", &format!("{DURATION}; from 1s to 7d"), |v| {
            seconds(v)
                .filter(|s| (1..=ACTION_TIMEOUT_S_MAX).contains(&s.get()))
                .map(|s| s.duration())
        });
        let on_restart = section.take("on_restart", "fail, rerun or succeed", |v| {
            let name = text(v)?;
            OnRestart::ALL.into_iter().find(|on_restart| on_restart.as_str() == name)
        });
        let concurrency = section.take("concurrency", "a whole number from 1 to 100", |v| {
            u64::try_from(v.as_integer()?).ok().filter(|n| CONCURRENCY.contains(*n))
        });
        let params = params::take(section);
        Some(Self {
            handler: handler?,
            timeout,
            on_restart: on_restart.unwrap_or_default(),
            concurrency: usize::try_from(concurrency.unwrap_or(CONCURRENCY.default)).unwrap_or(1),
            params,
        })
    }
}

fn program(section: &mut Section<'_>) -> Option<Program> {
    let argv = section.take("run", ARGV, |v| {
        let argv: Vec<String> = v.as_array()?.iter().map(text).collect::<Option<_>>()?;
        let (program, _) = argv.split_first()?;
        let found = program.starts_with('/') || (!program.is_empty() && !program.contains('/'));
        (found && !argv.iter().any(|arg| arg.contains('\0'))).then_some(argv)
    });
    let mut environment = env(section);
    let passed = pass_env(section).into_iter();
    let passed: Vec<_> =
        passed.filter(|(name, _)| environment.iter().all(|(given, _)| given != name)).collect();
    environment.extend(passed);
    let user =
        section.take("user", "the name or number of an account in /etc/passwd", |v| match v {
            toml::Value::Integer(uid) => Account::find(&uid.to_string()),
            _ => Account::find(v.as_str()?),
        });
    let cwd = section.take("cwd", ABSOLUTE, absolute);
    let umask = section.take("umask", "octal digits in quotes, as in \"027\"", umask);
    let kill_after = section.take("kill_after", &format!("{DURATION}; from 1s to 10m"), |v| {
        seconds(v).filter(|s| KILL_AFTER_S.contains(s.get())).map(|s| s.duration())
    });
    if section.has("remote") {
        section.take::<()>("remote", "only for forward", |_| None);
    }
    let argv = argv?;
    let (program, args) = argv.split_first()?;
    let program = Program::new(program, args)
        .environment(Environment::Cleared(environment))
        .cwd(cwd.unwrap_or_else(|| PathBuf::from("/")))
        .umask(umask.unwrap_or(UMASK))
        .kill_after(kill_after.unwrap_or(KILL_AFTER));
    Some(match user {
        Some(account) => program.user(account),
        None => program,
    })
}

/// The variables that a program gets from the agent's own environment, as that is when the file is read.
fn pass_env(section: &mut Section<'_>) -> Vec<(OsString, OsString)> {
    let names = section.take("pass_env", "a list of names of variables", |v| {
        v.as_array()?.iter().map(text).collect::<Option<Vec<_>>>()
    });
    let names = names.unwrap_or_default();
    for problem in names.iter().filter_map(|name| no_variable(name)) {
        section.fault_of("pass_env", problem);
    }
    let passed = names.into_iter();
    passed.filter_map(|n| Some((OsString::from(&n), std::env::var_os(&n)?))).collect()
}

fn env(section: &mut Section<'_>) -> Vec<(OsString, OsString)> {
    let table = section.take("env", "a table of texts", |v| v.as_table().cloned());
    let mut variables = Vec::new();
    for (name, value) in table.unwrap_or_default() {
        let key = format!("env.{}", written(&name));
        match value.as_str().filter(|value| !value.contains('\0')) {
            Some(value) => match no_variable(&name) {
                Some(problem) => section.fault_at(&key, problem),
                None => variables.push((OsString::from(name), OsString::from(value))),
            },
            None => section.fault_at(&key, "is not a text".to_owned()),
        }
    }
    variables
}

/// Why a program cannot get a variable of this name.
fn no_variable(name: &str) -> Option<String> {
    if name.starts_with("BELLWIRE_") {
        return Some(format!("names {name}, but the prefix BELLWIRE_ is reserved for the agent"));
    }
    let named = !name.is_empty() && !name.contains(['=', '\0']);
    (!named).then(|| format!("names {name:?}, which is not a valid name of a variable"))
}

/// Only as text: of the number 22 it would not be clear whether it is octal.
fn umask(value: &toml::Value) -> Option<u32> {
    let digits = value.as_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    u32::from_str_radix(digits, 8).ok().filter(|mask| *mask <= UMASK_MAX)
}

fn forward(section: &mut Section<'_>) -> Option<Forward> {
    let remote = section.take("remote", "true or false", boolean).unwrap_or(false);
    for key in OF_PROGRAMS.into_iter().filter(|key| section.has(key)).collect::<Vec<_>>() {
        section.take::<()>(key, "only for run", |_| None);
    }
    let url = section.take("forward", "a URL", text)?;
    match Forward::new(&url, remote) {
        Ok(forward) => Some(forward),
        Err(InvalidForward::Remote { host }) => {
            let problem = format!(
                "has the host {host}, which is another machine; if that is intended, set remote = true"
            );
            section.fault_of("forward", problem);
            None
        }
        Err(error) => {
            section.fault_of("forward", format!("cannot be used: {error}"));
            None
        }
    }
}
