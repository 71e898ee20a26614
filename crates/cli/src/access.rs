//! `bellwire access`: who may do what to whom, in plain words.

use std::pin::pin;

use bellwire_proto::{Action, Device, Role, Scope, Token};
use futures_util::TryStreamExt;
use serde::Serialize;

use crate::args::Access;
use crate::connect;
use crate::exit;
use crate::out::{self, BOLD, Form};

/// What `--json` prints of a token.
#[derive(Serialize)]
struct Line<'a> {
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
    let mut tokens = pin!(hub.all_tokens());
    let mut any = false;
    while let Some(token) = tokens.try_next().await? {
        if args.token.is_some_and(|wanted| token.id != Some(wanted)) {
            continue;
        }
        let access = match &device {
            None => sentence(&token),
            Some(device) => match concerns(&token.role, device) {
                Some(access) => access,
                None => continue,
            },
        };
        any = true;
        match form {
            Form::Json => out::json(&Line { token: &token, access })?,
            Form::Text => {
                let id = token.id.map(|id| id.to_string()).unwrap_or_default();
                out::line(format_args!("{BOLD}{id}{BOLD:#}  {access}"))?;
            }
        }
    }
    if any {
        return Ok(exit::OK);
    }
    match args.token {
        Some(token) => {
            out::error(&format!("no token has the id {token}; bellwire token list shows them"));
            Ok(exit::FAILED)
        }
        None => {
            out::note("no tokens: everyone who reaches the hub may do everything");
            Ok(exit::OK)
        }
    }
}

/// What a token may do, as a sentence.
pub(crate) fn sentence(token: &Token) -> String {
    let what = match &token.role {
        Role::Admin => "admin: may do everything".to_owned(),
        Role::Operator(scope) => format!("operator: {}", of_operator(scope)),
        Role::Device(device) => {
            format!("device: may listen, poll and report as {device}, and nothing else")
        }
        Role::Join(join) => {
            let who = match join.uses_left {
                None => "any number of appliances".to_owned(),
                Some(1) => "one more appliance".to_owned(),
                Some(uses) => format!("{uses} more appliances"),
            };
            let labels: Vec<String> = join.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let labels = match labels.is_empty() {
                true => String::new(),
                false => format!(", with the labels {}", labels.join(",")),
            };
            let approve = if join.approve { ", once each is approved" } else { "" };
            let replace = if join.replace { ", also under a name that is taken" } else { "" };
            format!("join: {who} may enrol with it{labels}{approve}{replace}")
        }
        Role::Metrics => "metrics: may read the hub's metrics, and nothing else".to_owned(),
    };
    let until = token.expires_at.map(|at| format!(", until {at}")).unwrap_or_default();
    let note = token.note.as_ref().map(|note| format!(" ({})", out::printable(note)));
    format!("{what}{until}{}.", note.unwrap_or_default())
}

fn of_operator(scope: &Scope) -> String {
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
fn concerns(role: &Role, device: &Device) -> Option<String> {
    match role {
        Role::Admin => Some("admin: may do everything to it".to_owned()),
        Role::Operator(scope) if scope.sees(&device.labels) => {
            let manages = if scope.select.is_none() { ", label and remove it" } else { "" };
            Some(format!(
                "operator: may see it{manages}, and send it {}",
                actions(scope.actions.as_deref())
            ))
        }
        Role::Device(own) if *own == device.id => Some("device: its own token".to_owned()),
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
        serde_json::from_str(&format!("{{\"id\":null,{json},{rest}")).unwrap()
    }

    #[test]
    fn a_token_is_told_in_a_sentence() {
        for (json, told) in [
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
            assert_eq!(sentence(&token(json)), told);
        }
    }
}
