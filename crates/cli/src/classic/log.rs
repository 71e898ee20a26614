//! Logging as Python's `logging.basicConfig` does it: `LEVEL:logger:message`, a line each, on
//! standard error.
//!
//! Messages go out as they are: what an event brought is shown, not hidden.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;

/// Starts logging: from INFO on, or with `debug` from DEBUG on. To be called once.
pub fn init(debug: bool) {
    let (ours, libraries) = match debug {
        false => (LevelFilter::INFO, LevelFilter::WARN),
        true => (LevelFilter::DEBUG, LevelFilter::INFO),
    };
    let levels = Targets::new()
        .with_target("eventsource", ours)
        .with_target("bellwire", if debug { ours } else { libraries })
        .with_default(libraries);
    let lines = tracing_subscriber::fmt::layer()
        .event_format(LogLine)
        .with_writer(std::io::stderr)
        // That a line was not written would itself be written to standard error, with a panic if that fails.
        .log_internal_errors(false);
    // Not by `init`, which would bring the lines that libraries write for themselves (crate `log`).
    let subscriber = tracing_subscriber::registry().with(levels).with(lines);
    // It fails only where there is one already.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// The format of a line.
struct LogLine;

impl<S, N> FormatEvent<S, N> for LogLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        let logger = event.metadata().target().replace("::", ".");
        let mut message = Message::default();
        event.record(&mut message);
        writeln!(writer, "{level}:{logger}:{}{}", message.text, message.fields)
    }
}

/// The message, and the fields behind it.
#[derive(Default)]
struct Message {
    text: String,
    fields: String,
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a `String` cannot fail.
        let _ = match field.name() {
            "message" => write!(self.text, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
