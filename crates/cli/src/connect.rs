//! Connecting to the hub: flags, variables, contexts and defaults become a [`Controller`].
//!
//! The order is that of the help of `bellwire context`. A secret of a context goes to that context's hub and to no other.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bellwire_client::agent::config::{credential_from, read_credential};
use bellwire_client::transport::{Base, BaseTransport, HttpTransport};
use bellwire_client::{Controller, InvalidUrl};

use crate::args::HubArg;
use crate::contexts::{self, Context, Contexts};
use crate::exit::Usage;
use crate::out;

/// Where the hub is if nothing says otherwise.
pub(crate) const DEFAULT_HUB: &str = "http://127.0.0.1:8888";

/// The variables that only clients read; the hub and the agent leave them alone.
const HUB: &str = "BELLWIRE_HUB";
const CONTEXT: &str = "BELLWIRE_CONTEXT";
const TOKEN: &str = "BELLWIRE_TOKEN";
const TOKEN_FILE: &str = "BELLWIRE_TOKEN_FILE";
const CA_FILE: &str = "BELLWIRE_CA_FILE";

static SENDS_TOKEN: AtomicBool = AtomicBool::new(false);
/// What named the hub of this process, if that was no flag: for an error, whose reader may have meant another.
static NAMED_BY: OnceLock<String> = OnceLock::new();

/// What named the hub: a context, a variable or the default. `None` if it was a flag, or nothing was connected to.
pub(crate) fn named_by() -> Option<&'static str> {
    NAMED_BY.get().map(String::as_str)
}

/// The hub that the options, the environment and the contexts name.
///
/// # Errors
/// [`Usage`] names the setting that cannot be used.
pub(crate) fn controller(arg: &HubArg) -> Result<Controller, Usage> {
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let connection = resolve(arg, environment, contexts::load)?;
    match &connection.named_by {
        // The hub of a process is one.
        Some(named_by) => drop(NAMED_BY.set(named_by.clone())),
        None => warn_of_password(&connection.hub, IN_A_FILE),
    }
    let token = match &connection.token {
        Some(Token::File(file)) => Some(read_token_once(file)?),
        Some(Token::Variable(token)) => {
            let token = credential_from(token.as_bytes());
            Some(token.map_err(|e| Usage(format!("{TOKEN} cannot be used: {e}")))?)
        }
        Some(Token::OfContext(token)) => Some(token.clone()),
        None => None,
    };
    connect(&connection.hub, token, connection.ca_file.as_deref())
}

/// The hub's URLs that the options, the environment and the contexts name, with a comma between them, and the file of
/// authorities. No credential is read.
///
/// # Errors
/// [`Usage`] names the setting that cannot be used.
pub(crate) fn hub_and_authorities(arg: &HubArg) -> Result<(String, Option<PathBuf>), Usage> {
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let connection = resolve(arg, environment, contexts::load)?;
    if connection.named_by.is_none() {
        warn_of_password(&connection.hub, IN_A_FILE);
    }
    Ok((connection.hub, connection.ca_file))
}

/// What to do about a token in the URL of a hub.
pub(crate) const IN_A_FILE: &str =
    "put the token into a file that only you may read and name that with --token-file";

/// Warns of a password in URLs that were given on the command line. It works, because scripts rely on it.
pub(crate) fn warn_of_password(urls: &str, advice: &str) {
    if urls.split(',').any(has_password) {
        out::note(&format!(
            "warning: the password in a URL of the command line is seen by everybody on this machine (ps): {advice}"
        ));
    }
}

/// Whether a URL has a password (RFC 3986, section 3.2.1).
fn has_password(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let user_info = authority.rsplit_once('@').map(|(user_info, _)| user_info);
    user_info.and_then(|pair| pair.split_once(':')).is_some_and(|(_, word)| !word.is_empty())
}

/// A client of this hub. Nothing is sent yet.
///
/// # Errors
/// [`Usage`] names what cannot be used.
pub(crate) fn connect(
    hub: &str,
    token: Option<String>,
    ca_file: Option<&Path>,
) -> Result<Controller, Usage> {
    let hubs = urls(hub)?;
    let (preferred, others) = hubs.split_first().ok_or_else(no_url)?;
    let mut builder = Controller::builder(preferred);
    if ca_file.is_some() || !others.is_empty() {
        let mut transport = HttpTransport::builder();
        if let Some(ca_file) = ca_file {
            transport = transport.ca_file(ca_file);
        }
        let transport = transport.build().map_err(|e| Usage(e.to_string()))?;
        let base = |hub: &str| -> Result<Base, Usage> {
            Ok(Base {
                hub: hub.parse().map_err(|e: InvalidUrl| Usage(e.to_string()))?,
                proxy: "environment".to_owned(),
                transport: Arc::new(transport.clone()),
            })
        };
        let others = others.iter().map(|hub| base(hub)).collect::<Result<_, _>>()?;
        builder = builder.transport(BaseTransport::new(base(preferred)?, others, None));
    }
    if let Some(token) = token {
        SENDS_TOKEN.store(true, Ordering::Relaxed);
        builder = builder.token(token);
    }
    builder.build().map_err(|e| Usage(e.to_string()))
}

/// The URLs of a hub that are given with a comma between them, one or more, the preferred one first.
///
/// # Errors
/// [`Usage`] when there is none.
pub(crate) fn urls(hub: &str) -> Result<Vec<&str>, Usage> {
    let urls: Vec<_> = hub.split(',').map(str::trim).filter(|url| !url.is_empty()).collect();
    if urls.is_empty() { Err(no_url()) } else { Ok(urls) }
}

fn no_url() -> Usage {
    Usage(format!("the URL of the hub is empty: give one, as in --hub {DEFAULT_HUB}"))
}

/// Whether a client of this process sends a token: only then may a refusal be about it.
pub(crate) fn sends_token() -> bool {
    SENDS_TOKEN.load(Ordering::Relaxed)
}

/// The token in a file that is read each time; a pipe can be read only once.
///
/// # Errors
/// [`Usage`] names the file.
pub(crate) fn read_token(file: &Path) -> Result<String, Usage> {
    read_credential(file).map_err(|e| unusable(file, &e))
}

/// The token in a file for this call alone: it may be a pipe, as a shell makes for `<(…)`, and `-` is standard input.
fn read_token_once(file: &Path) -> Result<String, Usage> {
    if file == Path::new("-") {
        return credential_from(std::io::stdin())
            .map_err(|e| Usage(format!("the token on standard input cannot be used: {e}")));
    }
    let token = std::fs::File::open(file).and_then(credential_from);
    token.map_err(|e| unusable(file, &e))
}

/// Standard input cannot be both the token and what a command works on.
pub(crate) fn reads_once(hub: &HubArg, reads_input: bool) -> Result<(), Usage> {
    if !reads_input || hub.token_file.as_deref() != Some(Path::new("-")) {
        return Ok(());
    }
    let once = "standard input is read once: put the token into a file, or into BELLWIRE_TOKEN";
    Err(Usage(once.to_owned()))
}

fn unusable(file: &Path, error: &std::io::Error) -> Usage {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_jwt = name.starts_with("eyJ") && name.split('.').count() == 3;
    if is_jwt || name.parse::<bellwire_proto::Credential>().is_ok() {
        // It is on the command line, which others can read; not in a log besides.
        let text = "--token-file is given a token and not the file with it: write the token to a file, and take this one \
                    for one that others have read";
        return Usage(text.to_owned());
    }
    Usage(format!("the token file {} cannot be used: {error}", file.display()))
}

#[derive(Debug, PartialEq, Eq)]
struct Connection {
    hub: String,
    /// What named it, other than `--hub`.
    named_by: Option<String>,
    token: Option<Token>,
    ca_file: Option<PathBuf>,
}

#[derive(PartialEq, Eq)]
enum Token {
    File(PathBuf),
    /// From the environment, not checked yet.
    Variable(String),
    /// It was checked when it was stored.
    OfContext(String),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
            Self::Variable(_) | Self::OfContext(_) => f.write_str("***"),
        }
    }
}

/// What the settings mean together. The contexts are read only where one may be used.
fn resolve(
    arg: &HubArg,
    environment: impl Fn(&str) -> Option<String>,
    contexts: impl FnOnce() -> Result<Contexts, Usage>,
) -> Result<Connection, Usage> {
    let mut named = Context::default();
    let (hub, named_by) = match (&arg.hub, &arg.context, environment(HUB)) {
        (Some(hub), _, _) => (hub.clone(), None),
        (None, None, Some(hub)) => (hub, Some(format!("the variable {HUB}"))),
        (None, name, _) => {
            let contexts = contexts()?;
            let name = name.clone().or_else(|| environment(CONTEXT)).or(contexts.current.clone());
            match name {
                Some(name) => {
                    named = contexts.get(&name)?.clone();
                    (named.hub.clone(), Some(format!("the context {name}")))
                }
                None => (DEFAULT_HUB.to_owned(), Some("the default".to_owned())),
            }
        }
    };
    let file = |file: Option<PathBuf>| file.map(Token::File);
    let flag = file(arg.token_file.clone());
    let variable = environment(TOKEN)
        .map(Token::Variable)
        .or_else(|| file(environment(TOKEN_FILE).map(PathBuf::from)));
    let of_context = named.token.clone().map(Token::OfContext).or(file(named.token_file.clone()));
    let ca_variable = environment(CA_FILE).map(PathBuf::from);
    // A context that a flag names is worth what a flag is.
    let by_flag = arg.context.is_some();
    let (token, ca_file) = if by_flag {
        (of_context.or(variable), named.ca_file.or(ca_variable))
    } else {
        (variable.or(of_context), ca_variable.or(named.ca_file))
    };
    Ok(Connection {
        hub,
        named_by,
        token: flag.or(token),
        ca_file: arg.ca_file.clone().or(ca_file),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts() -> Result<Contexts, Usage> {
        let context = |hub: &str| Context {
            hub: hub.to_owned(),
            token: Some(format!("token of {hub}")),
            ca_file: Some(format!("/{hub}.pem").into()),
            ..Context::default()
        };
        Ok(Contexts {
            current: Some("current".to_owned()),
            context: ["current", "other", "flag"].map(|n| (n.to_owned(), context(n))).into(),
        })
    }

    /// The hub, and the token or the file that has it.
    fn resolved(arg: HubArg, environment: &[(&str, &str)]) -> (String, Option<String>) {
        let environment = |name: &str| {
            environment.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        };
        let found = resolve(&arg, environment, contexts).unwrap();
        let token = found.token.map(|token| match token {
            Token::File(file) => file.display().to_string(),
            Token::Variable(token) | Token::OfContext(token) => token,
        });
        (found.hub, token)
    }

    fn expected(hub: &str, token: Option<&str>) -> (String, Option<String>) {
        (hub.to_owned(), token.map(str::to_owned))
    }

    #[test]
    fn a_flag_wins_over_a_variable_and_that_over_a_context() {
        let arg = HubArg::default;
        let flag = || HubArg { hub: Some("http://flag".to_owned()), ..arg() };
        let named = || HubArg { context: Some("flag".to_owned()), ..arg() };
        let file = HubArg { token_file: Some("/file".into()), ..named() };
        let variable = [(HUB, "http://variable"), (CONTEXT, "other")];
        assert_eq!(resolved(arg(), &[]), expected("current", Some("token of current")));
        assert_eq!(resolved(arg(), &variable[1..]), expected("other", Some("token of other")));
        assert_eq!(resolved(arg(), &variable), expected("http://variable", None));
        assert_eq!(resolved(named(), &variable), expected("flag", Some("token of flag")));
        assert_eq!(resolved(flag(), &variable), expected("http://flag", None));
        assert_eq!(resolved(file, &variable), expected("flag", Some("/file")));
        assert_eq!(resolved(arg(), &[(TOKEN, "t")]), expected("current", Some("t")));
        assert_eq!(resolved(named(), &[(TOKEN, "t")]), expected("flag", Some("token of flag")));
        assert_eq!(resolved(flag(), &[(TOKEN_FILE, "/v")]), expected("http://flag", Some("/v")));
    }

    #[test]
    fn the_secrets_of_a_context_go_to_its_hub_alone() {
        for (arg, environment) in [
            (HubArg { hub: Some("http://elsewhere".to_owned()), ..HubArg::default() }, vec![]),
            (HubArg::default(), vec![(HUB, "http://elsewhere")]),
        ] {
            assert_eq!(resolved(arg, &environment), expected("http://elsewhere", None));
        }
    }

    #[test]
    fn a_hub_that_is_named_needs_no_contexts() {
        let arg = HubArg { hub: Some("http://flag".to_owned()), ..HubArg::default() };
        let broken = || Err(Usage("the contexts cannot be read".to_owned()));
        assert!(resolve(&arg, |_| None, broken).is_ok());
        let unknown = HubArg { context: Some("prdo".to_owned()), ..HubArg::default() };
        let error = resolve(&unknown, |_| None, contexts).unwrap_err().to_string();
        assert!(error.contains("\"prdo\"") && error.contains("current, flag, other"), "{error}");
    }
}
