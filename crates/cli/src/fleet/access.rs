//! `bellwire access`: which tokens may do what, to which appliances, as sentences.

use bellwire_proto::{Action, Device, DeviceStatus, Role, Scope, Timestamp, Token};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use crate::args::fleet::Access;
use crate::connect;
use crate::exit;
use crate::out::{self, BOLD, Form};

/// What `--json` prints of a token.
#[derive(Serialize)]
struct AccessLine<'a> {
    #[serde(flatten)]
    token: &'a Token,
    access: String,
}

pub(crate) async fn run(args: Access, form: Form) -> anyhow::Result<u8> {
    let hub = connect::controller(&args.hub)?;
    let device = match &args.device {
        Some(device) => Some(hub.device(device).await?),
        None => None,
    };
    let own = hub.own_token().await?;
    let is_admin = own.role == Role::Admin;
    // Without a token one is an admin where everyone is.
    let mut tokens = match (is_admin, own.id) {
        (true, None) => stream::iter([Ok(own)]).chain(hub.all_tokens()).boxed(),
        (true, Some(_)) => hub.all_tokens().boxed(),
        (false, _) => stream::iter([Ok(own)]).boxed(),
    };
    let now = Timestamp::from_unix_ms(hub.ping().await?.time_ms);
    let mut any = false;
    while let Some(token) = tokens.try_next().await? {
        if args.token.is_some_and(|wanted| token.id != Some(wanted)) {
            continue;
        }
        let access = match &device {
            None => sentence(&token, now),
            Some(device) => match concerns(&token, device, now) {
                Some(access) => access,
                None => continue,
            },
        };
        any = true;
        match form {
            Form::Json => out::json(&AccessLine { token: &token, access })?,
            Form::Text => {
                let id = token.id.map_or_else(|| "everyone".to_owned(), |id| id.to_string());
                out::line(format_args!("{BOLD}{id}{BOLD:#}  {access}"))?;
            }
        }
    }
    if !is_admin {
        out::note("that is the token of this call; an admin token shows all");
    }
    match args.token {
        Some(token) if !any => {
            out::error(&format!("no token has the id {token}; bellwire token list shows them"));
            Ok(exit::FAILED)
        }
        _ => Ok(exit::OK),
    }
}

/// Why a token does nothing any more, if it does not.
fn ended(token: &Token, now: Timestamp) -> Option<String> {
    let used_up = token.role.join().is_some_and(|join| join.uses_left == Some(0));
    let expired = token.expires_at.filter(|at| *at <= now);
    let why = expired.map(|at| format!("expired at {at}"));
    why.or_else(|| used_up.then(|| "used up".to_owned()))
}

/// What a token may do, as a sentence.
pub(crate) fn sentence(token: &Token, now: Timestamp) -> String {
    let note = token.note.as_ref().map(|note| format!(" ({})", out::printable(note)));
    let note = note.unwrap_or_default();
    if token.id.is_none() {
        return "may do everything: the hub is open, since there is no admin token.".to_owned();
    }
    if let Some(why) = ended(token, now) {
        return format!("{}: {why}, and may do nothing{note}.", token.role.name().as_str());
    }
    let what = match &token.role {
        Role::Admin => "admin: may do everything".to_owned(),
        Role::Operator(scope) => format!("operator: {}", operator_access(scope)),
        Role::Device(device) => {
            format!("device: may listen, poll and report as {device}, and nothing else")
        }
        Role::Join(join) => {
            let who = match join.uses_left {
                None => "any number of appliances".to_owned(),
                Some(1) => "one more appliance".to_owned(),
                Some(uses) => format!("{uses} more appliances"),
            };
            let labels = match join.labels.is_empty() {
                true => String::new(),
                false => format!(", with the labels {}", out::labels(&join.labels)),
            };
            let approve = if join.approve { ", once each is approved" } else { "" };
            let replace = if join.replace { ", also under a name that is taken" } else { "" };
            format!("join: {who} may enrol with it{labels}{approve}{replace}")
        }
        Role::Metrics => "metrics: may read the hub's metrics, and nothing else".to_owned(),
    };
    let until = token.expires_at.map(|at| format!(", until {at}")).unwrap_or_default();
    format!("{what}{until}{note}.")
}

fn operator_access(scope: &Scope) -> String {
    let who = match &scope.select {
        None => "all appliances, and may register, label and remove them".to_owned(),
        Some(select) => format!("the appliances {select}"),
    };
    format!("may send {} to, and sees, {who}", actions(scope.actions.as_deref()))
}

fn actions(actions: Option<&[Action]>) -> String {
    match actions {
        None => "every action".to_owned(),
        Some(actions) => actions.iter().map(Action::as_str).collect::<Vec<_>>().join(", "),
    }
}

/// What a token may do to one device; `None` when that is nothing.
fn concerns(token: &Token, device: &Device, now: Timestamp) -> Option<String> {
    if ended(token, now).is_some() {
        return None;
    }
    match &token.role {
        Role::Admin if token.id.is_none() => Some(sentence(token, now)),
        Role::Admin => Some("admin: may do everything to it".to_owned()),
        Role::Operator(scope) if scope.sees(&device.labels) => {
            let manages = if scope.select.is_none() { ", label and remove it" } else { "" };
            Some(format!(
                "operator: may see it{manages}, and send it {}",
                actions(scope.actions.as_deref())
            ))
        }
        Role::Device(own) if *own == device.id => Some(match device.status {
            DeviceStatus::Pending => "device: its own token, once it is approved".to_owned(),
            _ => "device: its own token".to_owned(),
        }),
        Role::Join(join) if join.replace => {
            Some("join: an appliance that enrols with it may take its name over".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(json: &str) -> Token {
        let rest = r#""expires_at":null,"note":null,"created_at":null,"created_by":null,"last_used_at":null}"#;
        serde_json::from_str(&format!("{{\"id\":\"aaaaaaaaaaaaaaaa\",{json},{rest}")).unwrap()
    }

    #[test]
    fn a_token_is_described_in_a_sentence() {
        for (json, expected) in [
            (r#""role":"admin""#, "admin: may do everything."),
            (
                r#""role":"operator","select":"site=lyon","actions":["ping","reboot"]"#,
                "operator: may send ping, reboot to, and sees, the appliances site=lyon.",
            ),
            (
                r#""role":"join","uses_left":1,"labels":{"site":"lyon"},"approve":true"#,
                "join: one more appliance may enrol with it, with the labels site=lyon, once each is approved.",
            ),
        ] {
            assert_eq!(sentence(&token(json), Timestamp::from_unix_ms(0)), expected);
        }
    }

    #[test]
    fn a_token_that_has_ended_may_do_nothing() {
        // Its sentence was that it may do everything, until a time that had elapsed.
        let used_up = token(r#""role":"join","uses_left":0,"labels":{}"#);
        let at = Timestamp::from_unix_ms(1000);
        let expired = Token { expires_at: Some(at), ..token(r#""role":"admin""#) };
        assert_eq!(sentence(&used_up, at), "join: used up, and may do nothing.");
        let expected = "admin: expired at 1970-01-01T00:00:01.000Z, and may do nothing.";
        assert_eq!(sentence(&expired, at), expected);
        assert!(sentence(&expired, Timestamp::from_unix_ms(999)).contains("may do everything"));
    }
}
