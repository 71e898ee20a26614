//! `eventsource-client`: listens to a token of a classic server and logs its events.
//!
//! The stream is `bellwire_client::EventSource`'s business; here is when to come back, which the
//! original decides in its own way, and what is logged.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]
#![allow(unreachable_pub, reason = "a program has no public interface")]

use std::process::ExitCode;
use std::time::Duration;

use bellwire::classic::address::{origin, path_part};
use bellwire::classic::{log, logger::CLIENT};
use bellwire::{advice, argv};
use bellwire_client::event_source::{Error, Event, EventSource, InvalidRequest, Item, Loss, Retry};
use bellwire_client::transport::HttpTransport;
use bellwire_proto::Problem;
use bellwire_proto::limits::CLASSIC_RECONNECT_MIN;
use bellwire_sse::Jitter;
use clap::{ArgAction, Parser};
use tracing::{debug, error, info, warn};

const EXAMPLE: &str = "\
Example:
  eventsource-client -P 8888 -k -r 1000 kiosk-7
      logs every event for kiosk-7 on standard error, and reconnects a second after any loss

Exit codes: 0 the server refused, or the stream broke without -k; 2 usage.";

/// Listens to a token and logs its events.
#[derive(Parser)]
#[command(name = "eventsource-client", version, disable_version_flag = true, after_help = EXAMPLE)]
struct Args {
    /// The token to listen to.
    token: String,
    /// Host of the server.
    #[arg(short = 'H', long, default_value = "127.0.0.1")]
    host: String,
    /// Port of the server. Default: 80, or 443 with -S.
    #[arg(short = 'P', long)]
    port: Option<u16>,
    /// Use HTTPS.
    #[arg(short = 'S', long)]
    ssl: bool,
    /// Check the server's certificate, which is not done otherwise.
    #[arg(short = 'V', long)]
    validate_cert: bool,
    /// Log what happens in between as well.
    #[arg(short, long)]
    debug: bool,
    /// Milliseconds between two connections, until the server sets another time; at least 100. -1: do not reconnect.
    #[arg(short, long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(i64).range(-1..))]
    retry: i64,
    /// Reconnect whatever the reason.
    #[arg(short, long)]
    keep_reconnecting: bool,
    /// The action that listens.
    #[arg(short, long, default_value = "poll")]
    action: String,
    /// A prefix of the path before the action, as a proxy may require.
    #[arg(short = 'x', long)]
    prefix: Option<String>,
    /// User for basic authentication.
    #[arg(short, long)]
    user: Option<String>,
    /// Password for basic authentication.
    #[arg(short, long, requires = "user", default_value = "", hide_default_value = true)]
    password: String,
    /// Print the version.
    #[arg(long, action = ArgAction::Version)]
    version: Option<bool>,
}

fn main() -> ExitCode {
    let args: Args = match argv::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    log::init(args.debug);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(target: CLIENT, "{error}");
            return ExitCode::FAILURE;
        }
    };
    if args.ssl && !args.validate_cert {
        warn!(target: CLIENT, "the server's certificate is not checked: anyone on the way can read along (-V checks it)");
    }
    match runtime.block_on(listen(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            error!(target: CLIENT, "{fault}");
            ExitCode::from(2)
        }
    }
}

/// Listens until the end.
async fn listen(args: &Args) -> Result<(), InvalidRequest> {
    let transport = HttpTransport::builder()
        .user_agent(concat!("eventsource-client/", env!("CARGO_PKG_VERSION")))
        .danger_accept_invalid_certs(args.ssl && !args.validate_cert)
        .build()?;
    let mut last_event_id = String::new();
    let mut last_advice = None;
    loop {
        let mut source = source(args, transport.clone(), last_event_id)?;
        debug!(target: CLIENT, "connecting to {}", args.url());
        while let Some(item) = source.next_item().await {
            match item {
                Ok(item) => {
                    log_item(&item);
                    if let Item::Lost { loss: Loss::Failed(error), .. } = &item {
                        log_advice(error, &mut last_advice);
                    }
                }
                Err(error) => {
                    error!(target: CLIENT, "{}", reason(&error));
                    log_advice(&error, &mut last_advice);
                    return Ok(());
                }
            }
        }
        // The server answered 204, after which an `EventSource` does not come back by itself.
        if !args.keep_reconnecting || args.retry_delay().is_none() {
            info!(target: CLIENT, "disconnection requested");
            return Ok(());
        }
        last_event_id = source.last_event_id().to_owned();
        let delay = args.retry_delay().unwrap_or_default();
        tokio::time::sleep(delay.max(CLASSIC_RECONNECT_MIN)).await;
    }
}

fn source(
    args: &Args,
    transport: HttpTransport,
    last_event_id: String,
) -> Result<EventSource, InvalidRequest> {
    let (always, never) = (args.keep_reconnecting, args.retry_delay().is_none());
    let mut source = EventSource::builder(args.url())
        .transport(transport)
        .last_event_id(last_event_id)
        .comments(args.debug)
        // The same delay every time: it neither grows nor is it spread.
        .reconnect_delay(args.retry_delay().unwrap_or_default())
        .reconnect_delay_max(Duration::ZERO)
        .reconnect_delay_min(CLASSIC_RECONNECT_MIN)
        .jitter(Jitter::None)
        .retry(Retry::when(move |loss| !never && (always || is_orderly(loss))));
    if let Some(user) = &args.user {
        source = source.basic_auth(user, &args.password);
    }
    source.build()
}

/// Whether the original reconnects by itself after such an end.
fn is_orderly(loss: &Loss) -> bool {
    match loss {
        Loss::Ended => true,
        Loss::Failed(Error::Refused(refusal)) => {
            matches!(refusal.status.as_u16(), 500 | 502 | 503 | 504)
        }
        Loss::Failed(_) => false,
    }
}

fn log_item(item: &Item) {
    match item {
        Item::Event(event) => info!(target: CLIENT, "received {}", shown(event)),
        Item::Comment(text) => debug!(target: CLIENT, "received comment: {}", text.trim_start()),
        Item::Lost { loss: Loss::Ended, retry_in } => {
            debug!(target: CLIENT, "connection completed, reconnecting in {} ms", retry_in.as_millis());
        }
        Item::Lost { loss: Loss::Failed(error), retry_in } => {
            warn!(target: CLIENT, "{}, reconnecting in {} ms", reason(error), retry_in.as_millis());
        }
        Item::Skipped { limit_bytes } => {
            warn!(target: CLIENT, "dropped an event of more than {limit_bytes} bytes");
        }
        _ => debug!(target: CLIENT, "connected"),
    }
}

/// `Event<id,name,data>`, its own id or `None`, on one line.
fn shown(event: &Event) -> String {
    let id = event.own_id().unwrap_or("None");
    format!("Event<{id},{},{}>", event.name(), event.data().replace('\n', "\\n"))
}

fn reason(error: &Error) -> String {
    match error {
        Error::Refused(refusal) => {
            let name = refusal.status.canonical_reason().unwrap_or_default();
            format!("HTTP {}: {name}", refusal.status.as_u16())
        }
        error => error.to_string(),
    }
}

/// A line of its own, because the original's line ends with the reason; once, and not again until it differs.
fn log_advice(error: &Error, last: &mut Option<String>) {
    let text = match error {
        Error::Refused(refusal) => match refusal.status.as_u16() {
            401 => {
                Some("the server requires a user and password: pass -u USER -p PASSWORD".to_owned())
            }
            403 => {
                serde_json::from_slice(&refusal.body).ok().map(|problem: Problem| problem.detail)
            }
            status => advice::for_network_status(status).map(str::to_owned),
        },
        // That names settings which this program does not have; the error itself names the fault.
        Error::Transport(error) if error.certificate_fault().is_some() => None,
        error => error.advice(),
    };
    if let Some(text) = text.filter(|text| last.as_ref() != Some(text)) {
        warn!(target: CLIENT, "{text}");
        *last = Some(text);
    }
}

impl Args {
    /// The time between two connections; `None` if there is to be one only.
    fn retry_delay(&self) -> Option<Duration> {
        u64::try_from(self.retry).ok().map(Duration::from_millis)
    }

    fn url(&self) -> String {
        let (scheme, port) = if self.ssl { ("https", 443) } else { ("http", 80) };
        let mut url = origin(scheme, &self.host, self.port.unwrap_or(port));
        let prefix = self.prefix.as_deref().unwrap_or_default().trim_matches('/');
        for part in [prefix, &self.action, &self.token] {
            if part != prefix || !prefix.is_empty() {
                url.push('/');
                url.push_str(&path_part(part));
            }
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_the_url() {
        for (line, expected) in [
            ("-P 81 tok", "http://127.0.0.1:81/poll/tok"),
            ("tok", "http://127.0.0.1:80/poll/tok"),
            ("-S -H hub.lan tok", "https://hub.lan:443/poll/tok"),
            ("-x /a/b/ -a listen tok", "http://127.0.0.1:80/a/b/listen/tok"),
            ("-x poll tok", "http://127.0.0.1:80/poll/poll/tok"),
        ] {
            let args = std::iter::once("eventsource-client").chain(line.split(' '));
            assert_eq!(Args::parse_from(args).url(), expected, "of {line}");
        }
    }
}
