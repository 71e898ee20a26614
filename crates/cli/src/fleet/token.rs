//! `bellwire token`: makes, lists and revokes tokens, through a hub or in the data folder of one that is stopped.
//!
//! The text of a token goes to standard output, once; everything else goes to standard error.

use std::pin::pin;

use bellwire_client::Controller;
use bellwire_proto::{
    CreatedToken, Join, NewToken, Problem, Role, RoleName, Schedule, Scope, Timestamp, Token,
    TokenId,
};
use futures_util::TryStreamExt;

use super::access::sentence;
use crate::args::fleet::{TokenCommand, TokenCreate, TokenTarget};
use crate::connect;
use crate::exit::{self, Usage};
use crate::out::{self, BOLD, DIM, Form};

mod stopped;

/// What makes, lists and revokes the tokens.
enum TokenBackend {
    /// A hub that runs.
    Hub(Controller),
    /// The data folder of a hub that is stopped.
    Stopped(Box<stopped::StoppedHub>),
}

const NEXT_STEP: &str = "from now on every request needs a token; store this one in a file of mode 0600, then: bellwire \
                         context add NAME HUB --token-file FILE --use";

/// Names of schedules in a note.
const NAMES_SHOWN_MAX: usize = 20;

pub(crate) async fn run(command: TokenCommand, form: Form) -> anyhow::Result<u8> {
    match command {
        TokenCommand::Create(args) => create(&args, form).await,
        TokenCommand::List { target } => {
            let backend = TokenBackend::open(&target).await?;
            let listed = list(&backend, form).await;
            backend.close().await;
            listed
        }
        TokenCommand::Revoke { tokens, target } => {
            let backend = TokenBackend::open(&target).await?;
            let revoked = revoke(&backend, &tokens, form).await;
            backend.close().await;
            revoked
        }
    }
}

async fn create(args: &TokenCreate, form: Form) -> anyhow::Result<u8> {
    let new = new_token(args)?;
    let backend = TokenBackend::open(&args.target).await?;
    // Those that the first admin token ends. What cannot be listed is no reason to make no token.
    let ending = match new.role {
        Role::Admin => backend.schedules_without_token().await.unwrap_or_default(),
        _ => Vec::new(),
    };
    let created = backend.create(&new).await;
    backend.close().await;
    let created = created?;
    // When it was made is now, by the hub's clock.
    let now = created.info.created_at.unwrap_or_default();
    match form {
        Form::Json => out::json(&created)?,
        Form::Text => {
            out::line(created.token.0.expose())?;
            if !args.quiet {
                let sentence = sentence(&created.info, now);
                out::note(&format!("{sentence} It is shown this once."));
                // Made without a token: until now the hub required none.
                if created.info.role == Role::Admin && created.info.created_by.is_none() {
                    out::note(NEXT_STEP);
                }
            }
        }
    }
    if !ending.is_empty() {
        out::note(&paused_for_good(&ending));
    }
    Ok(exit::OK)
}

/// That the schedules of the open hub act no more: it is said whatever else is not, since nothing brings them back.
fn paused_for_good(names: &[String]) -> String {
    let mut text = match names.len() {
        1 => "1 schedule that was made without a token is paused for good: ".to_owned(),
        n => format!("{n} schedules that were made without a token are paused for good: "),
    };
    let (shown, more) = names.split_at(names.len().min(NAMES_SHOWN_MAX));
    text.push_str(&out::printable(&shown.join(", ")));
    if !more.is_empty() {
        text.push_str(&format!(" and {} more (bellwire schedule list)", more.len()));
    }
    text.push_str("; delete and create them anew with a token");
    text
}

/// As the hub would read it, with its words for what is wrong.
fn new_token(args: &TokenCreate) -> Result<NewToken, Usage> {
    let select = args.select.as_deref().map(str::parse);
    let select = select.transpose().map_err(|e| Usage(format!("--select: {e}")))?;
    let is = |role: RoleName| args.role == role;
    for (option, given, role) in [
        ("--device", args.device.is_some(), RoleName::Device),
        ("--select", args.select.is_some(), RoleName::Operator),
        ("--action", !args.actions.is_empty(), RoleName::Operator),
        ("--label", !args.labels.is_empty(), RoleName::Join),
        ("--uses", args.uses.is_some(), RoleName::Join),
        ("--replace", args.replace, RoleName::Join),
        ("--approve", args.approve, RoleName::Join),
    ] {
        if given && !is(role) {
            return Err(Usage(format!("{option} is for --role {}", role.as_str())));
        }
    }
    let role = match args.role {
        RoleName::Admin => Role::Admin,
        RoleName::Metrics => Role::Metrics,
        RoleName::Operator => {
            let actions = (!args.actions.is_empty()).then(|| args.actions.clone());
            Role::Operator(Box::new(Scope { select, actions }))
        }
        RoleName::Device => Role::Device(args.device.clone().ok_or_else(|| {
            Usage("--role device needs --device: the appliance whose token it is".to_owned())
        })?),
        RoleName::Join => Role::Join(Box::new(Join {
            labels: args.labels.iter().cloned().collect(),
            uses_left: args.uses,
            replace: args.replace,
            approve: args.approve,
        })),
    };
    let expires_in_s = args.expires.map(|span| span.get());
    let new = NewToken { role, expires_in_s, note: args.note.clone() };
    let body = serde_json::to_vec(&new).map_err(|e| Usage(e.to_string()))?;
    NewToken::parse(&body).map_err(|problem| Usage(problem.detail))
}

async fn list(backend: &TokenBackend, form: Form) -> anyhow::Result<u8> {
    let now = backend.now().await?;
    let mut tokens = pin!(backend.tokens());
    let (mut any, mut admin) = (false, false);
    while let Some(token) = tokens.try_next().await? {
        (any, admin) = (true, admin || token.role == Role::Admin);
        match form {
            Form::Json => out::json(&token)?,
            Form::Text => print(&token, now)?,
        }
    }
    if !admin && form == Form::Text {
        let tokens = if any { "no admin token" } else { "no tokens" };
        out::note(&format!(
            "{tokens}: the hub is open to everyone; bellwire token create --role admin closes it"
        ));
    }
    Ok(exit::OK)
}

fn print(token: &Token, now: Timestamp) -> anyhow::Result<()> {
    let id = token.id.map(|id| id.to_string()).unwrap_or_default();
    let used = match token.last_used_at {
        Some(at) => format!("last used {at}"),
        None => "never used".to_owned(),
    };
    out::line(format_args!("{BOLD}{id}{BOLD:#}  {}  {DIM}{used}{DIM:#}", sentence(token, now)))?;
    Ok(())
}

async fn revoke(backend: &TokenBackend, tokens: &[TokenId], form: Form) -> anyhow::Result<u8> {
    for token in tokens {
        let revoked = backend.revoke(*token).await;
        revoked.map_err(|e| e.context(token.to_string()))?;
        match form {
            Form::Json => out::json(&serde_json::json!({ "revoked": token }))?,
            Form::Text => out::line(format_args!("revoked {BOLD}{token}{BOLD:#}"))?,
        }
    }
    Ok(exit::OK)
}

impl TokenBackend {
    async fn open(target: &TokenTarget) -> anyhow::Result<Self> {
        if let Some(data_dir) = &target.data_dir {
            match stopped::StoppedHub::open(data_dir).await? {
                Some(hub) => return Ok(Self::Stopped(Box::new(hub))),
                // Another hub may be the one of the context, or of the default.
                None if target.hub.hub.is_none() && target.hub.context.is_none() => {
                    let folder = data_dir.display();
                    let hint = "say where it is, and it is asked: --hub URL, or --context NAME";
                    return Err(Usage(format!("a hub runs with {folder}: {hint}")).into());
                }
                None => out::note("a hub runs with this data folder: it is asked"),
            }
        }
        Ok(Self::Hub(connect::controller(&target.hub)?))
    }

    /// The time by the hub's clock.
    async fn now(&self) -> anyhow::Result<Timestamp> {
        match self {
            Self::Hub(hub) => Ok(Timestamp::from_unix_ms(hub.ping().await?.time_ms)),
            Self::Stopped(hub) => Ok(hub.now()),
        }
    }

    async fn create(&self, new: &NewToken) -> anyhow::Result<CreatedToken> {
        match self {
            Self::Hub(hub) => Ok(hub.create_token(new).await?),
            Self::Stopped(hub) => hub.create(new).await.map_err(refused),
        }
    }

    fn tokens(&self) -> futures_util::stream::BoxStream<'_, anyhow::Result<Token>> {
        use futures_util::StreamExt as _;
        match self {
            Self::Hub(hub) => hub.all_tokens().map_err(anyhow::Error::from).boxed(),
            Self::Stopped(hub) => hub.tokens().map_err(refused).boxed(),
        }
    }

    /// The names of the schedules that were made without a token and are not paused for that.
    async fn schedules_without_token(&self) -> anyhow::Result<Vec<String>> {
        match self {
            Self::Hub(hub) => {
                let without_token = |s: Schedule| {
                    let is_so = s.created_by.is_none() && s.reason.is_none();
                    std::future::ready(Ok(is_so.then_some(s.name)))
                };
                Ok(hub.all_schedules().try_filter_map(without_token).try_collect().await?)
            }
            Self::Stopped(hub) => hub.schedules_without_token().await.map_err(refused),
        }
    }

    async fn revoke(&self, token: TokenId) -> anyhow::Result<()> {
        match self {
            Self::Hub(hub) => Ok(hub.revoke_token(token).await?),
            Self::Stopped(hub) => hub.revoke(token).await.map_err(refused),
        }
    }

    async fn close(self) {
        if let Self::Stopped(hub) = self {
            hub.close().await;
        }
    }
}

fn refused(problem: Problem) -> anyhow::Error {
    anyhow::anyhow!("{}", problem.detail)
}
