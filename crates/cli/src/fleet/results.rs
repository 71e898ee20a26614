//! `bellwire results`: what became of a command at each appliance, a line for each.

use std::io::IsTerminal as _;
use std::pin::pin;

use bellwire::output::bytes;
use bellwire_client::api::DeliveryQuery;
use bellwire_proto::limits::PAGE_ITEMS_MAX;
use bellwire_proto::{Delivery, DeliveryState, csv};
use futures_util::TryStreamExt;

use crate::args::fleet::Results;
use crate::connect;
use crate::exit;
use crate::out::{self, BOLD, DIM, Form, StdoutError};

pub(crate) async fn run(args: Results, form: Form) -> anyhow::Result<u8> {
    let hub = connect::controller(&args.hub)?;
    let id = args.id.find(&hub).await?;
    let query = DeliveryQuery { limit: Some(PAGE_ITEMS_MAX), ..DeliveryQuery::default() };
    let mut deliveries = pin!(hub.all_deliveries(id, query));
    if args.csv {
        csv_row(csv::DELIVERY_COLUMNS)?;
    }
    let mut any = false;
    while let Some(delivery) = deliveries.try_next().await? {
        if args.failed && !has_failed(delivery.state) {
            continue;
        }
        match form {
            _ if args.csv => csv_row(&csv::delivery_row(&delivery))?,
            Form::Json => out::json(&delivery)?,
            Form::Text => {
                if !any {
                    heading()?;
                }
                row(&delivery)?;
            }
        }
        any = true;
    }
    if !any && form == Form::Text && !args.csv {
        out::note(if args.failed { "none has failed" } else { "it is for no appliance" });
    }
    Ok(exit::OK)
}

/// A file gets what the appliance reported as it is; a terminal nothing that moves its cursor.
fn csv_row(row: &str) -> Result<(), StdoutError> {
    if !std::io::stdout().is_terminal() {
        return bytes(row.as_bytes());
    }
    let moves = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    out::line(row.trim_end_matches("\r\n").replace(moves, "\u{fffd}"))
}

/// Whether it has ended, and not as it should: those that `bellwire retry` takes. What was cancelled has not failed.
pub(crate) fn has_failed(state: DeliveryState) -> bool {
    use DeliveryState::{Dead, Expired, Failed, Rejected, TimedOut};
    matches!(state, Failed | Rejected | TimedOut | Expired | Dead)
}

/// The heading of [`row`].
pub(crate) fn heading() -> Result<(), StdoutError> {
    out::line(format_args!("{DIM}{:<24} {:<10} {:>4}  last line{DIM:#}", "device", "state", "exit"))
}

/// A delivery on a line, with the last line of what it reported.
pub(crate) fn row(delivery: &Delivery) -> Result<(), StdoutError> {
    let style = out::style_of(delivery.state);
    let code = delivery.outcome.exit_code.map(|code| code.to_string()).unwrap_or_default();
    out::line(format_args!(
        "{BOLD}{:<24}{BOLD:#} {style}{:<10}{style:#} {code:>4}  {}",
        delivery.device.as_str(),
        delivery.state.as_str(),
        out::printable(&last_line(delivery))
    ))
}

/// The last line of its output; without one the error.
fn last_line(delivery: &Delivery) -> String {
    let outcome = &delivery.outcome;
    let last = |text: &Option<String>| {
        let lines = text.as_deref().unwrap_or_default().lines().rev();
        lines.map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    };
    let error = || outcome.error.as_ref().map(|e| e.message.clone().unwrap_or(e.code.clone()));
    last(&outcome.stderr).or_else(|| last(&outcome.stdout)).or_else(error).unwrap_or_default()
}
