//! `bellwire doctor`: what the network between this machine and the hub lets pass, and what to ask its owner for.
//!
//! `doctor/routes.rs` has the routes to examine, `examiner.rs` examines one, by the steps of `trial.rs`; `advice.rs` says what a
//! result means, `report.rs` shows it. It uses no credential of the hub, takes no device's place, and runs nothing.

mod advice;
mod examiner;
mod report;
mod routes;
mod screen;
mod trial;

use std::time::Duration;

use bellwire_proto::Seconds;
use bellwire_proto::limits::HEARTBEAT_S;

use crate::args::{Doctor, HubArg};
use crate::connect;
use crate::exit::Usage;
use crate::out::{self, Form};
use examiner::Examiner;
use report::{BestCarrier, Report, Use};
use screen::Screen;

pub(crate) async fn run(args: Doctor, form: Form) -> anyhow::Result<u8> {
    let idle = args.idle.map(idle).transpose()?.flatten();
    let hub = (!args.hub.is_empty()).then(|| args.hub.join(","));
    let hub_arg = HubArg { hub, ca_file: args.ca_file, ..HubArg::default() };
    let (hubs, ca_file) = connect::hub_and_authorities(&hub_arg)?;
    let advice = "set HTTPS_PROXY and HTTP_PROXY instead, and leave --proxy out";
    args.proxy.iter().for_each(|proxy| connect::warn_of_password(proxy, advice));
    let routes = routes::all(&hubs, &args.proxy, ca_file.as_deref()).await?;
    let screen = Screen::new(form);
    if screen.is_shown() {
        let (number, idle) = (routes.len(), idle.map(out::span));
        let plus =
            idle.map(|idle| format!(", and {idle} more where a stream works")).unwrap_or_default();
        out::note(&format!(
            "{number} to examine: about 10 s each, up to 60 s where the network is silent{plus}"
        ));
    }
    let mut reports = Vec::new();
    for route in &routes {
        reports.push(Examiner::new(route, screen, idle).run().await?);
    }
    let best = report::best(reports.iter().map(|route| route.verdict));
    let verdict = best.map_or(BestCarrier::None, |(_, verdict)| verdict);
    let route =
        best.filter(|_| verdict != BestCarrier::None).and_then(|(index, _)| routes.get(index));
    let best = route.map(|route| {
        let (hub, proxy) = route.settings();
        let hubs = hubs_that_work(&routes, &reports, &hub);
        let ca_file =
            ca_file.as_ref().map(|file| std::path::absolute(file).unwrap_or(file.clone()));
        Use { hub, hubs, proxy, ca_file: ca_file.map(|file| file.display().to_string()) }
    });
    let exit_code = verdict.exit_code();
    let report = Report { routes: reports, verdict, r#use: best, exit_code };
    match form {
        Form::Json => out::json(&report)?,
        Form::Text => report.print_end()?,
    }
    Ok(exit_code)
}

/// The URLs of the hub by which as much works as by the best route, that one first.
fn hubs_that_work(
    routes: &[routes::HubRoute],
    reports: &[report::RouteReport],
    best: &str,
) -> Vec<String> {
    let verdict = reports.iter().map(|report| report.verdict).max();
    let mut hubs = vec![best.to_owned()];
    for (route, report) in routes.iter().zip(reports) {
        let (hub, _) = route.settings();
        if Some(report.verdict) == verdict && !hubs.contains(&hub) {
            hubs.push(hub);
        }
    }
    hubs
}

/// The silence to try, which the hub makes by the interval of its heartbeats; 0 is none.
///
/// # Errors
/// [`Usage`] when no hub offers it.
fn idle(idle: Seconds) -> Result<Option<Duration>, Usage> {
    match idle.get() {
        0 => Ok(None),
        seconds if HEARTBEAT_S.contains(seconds) => Ok(Some(idle.duration())),
        _ => Err(Usage(String::from("--idle is from 5s to 10m, or 0"))),
    }
}
