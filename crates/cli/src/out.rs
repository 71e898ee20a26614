//! What the program prints: lines for people, or one JSON value a line for machines.
//!
//! Answers go to standard output, everything else (progress, warnings, errors) to standard error, both through
//! `bellwire::output`. Colours come and go in `anstream`, which knows terminals, pipes and NO_COLOR.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use bellwire::output::stderr_line;
pub(crate) use bellwire::output::{StdoutError, line};
use bellwire_proto::{
    Command, Delivery, DeliveryState, Device, DeviceStatus, Labels, Rollout, Timestamp, Window,
};
use serde::Serialize;

use crate::args::ColorChoice;

/// In which form answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Heeds `--color`.
pub(crate) fn set_color(choice: ColorChoice) {
    match choice {
        ColorChoice::Auto => anstream::ColorChoice::Auto,
        ColorChoice::Always => anstream::ColorChoice::Always,
        ColorChoice::Never => anstream::ColorChoice::Never,
    }
    .write_global();
}

/// One JSON value on a line of its own.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(escaped(&serde_json::to_string(value)?))?)
}

/// An error as one JSON value on a line of standard error.
pub(crate) fn json_error(error: &impl Serialize) {
    // Plain structures cannot fail to be written.
    stderr_line(escaped(&serde_json::to_string(error).unwrap_or_default()));
}

/// Labels as they are written on a command line.
pub(crate) fn labels(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// How far a rollout is.
pub(crate) fn rollout(rollout: &Rollout) -> String {
    let state = rollout.state.as_str();
    // The hub does not count them for a token that sees only a part of the devices.
    if rollout.batches == 0 {
        return state.to_owned();
    }
    format!("{state}, batch {} of {}", rollout.batch, rollout.batches)
}

/// What is going on, for a person who waits.
pub(crate) fn note(text: &str) {
    stderr_line(format_args!("{DIM}{text}{DIM:#}"));
}

/// What went wrong.
pub(crate) fn error(text: &str) {
    stderr_line(format_args!("{BAD}error:{BAD:#} {text}"));
}

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
const BUSY: Style = AnsiColor::Yellow.on_default();

/// The colour of a state.
pub(crate) fn style_of(state: DeliveryState) -> Style {
    match state {
        DeliveryState::Succeeded | DeliveryState::Delivered => GOOD,
        state if state.is_terminal() => BAD,
        _ => BUSY,
    }
}

/// A delivery: how it stands, and what came of it.
pub(crate) fn delivery(delivery: &Delivery) -> Result<(), StdoutError> {
    delivery_head(delivery)?;
    line(format_args!("  {DIM}{}{DIM:#}", delivery.command))?;
    outcome(delivery)
}

/// The first line of [`delivery`].
pub(crate) fn delivery_head(delivery: &Delivery) -> Result<(), StdoutError> {
    let Delivery { device, action, state, outcome, .. } = delivery;
    let style = style_of(*state);
    let mut about = vec![format!("attempt {}", delivery.attempt)];
    if state.is_terminal() {
        about.push(format!("after {}", span(delivery.updated_at.since(delivery.created_at))));
    }
    if let Some(progress) = outcome.progress {
        about.push(format!("{} %", (progress.get() * 10.0).round() / 10.0));
    }
    if let Some(code) = outcome.exit_code {
        about.push(format!("exit code {code}"));
    }
    if delivery.late {
        about.push("reported late".to_owned());
    }
    line(format_args!(
        "{style}{state}{style:#}  {BOLD}{device} {action}{BOLD:#}  {DIM}{}{DIM:#}",
        about.join(", ")
    ))
}

/// The last lines of [`delivery`].
pub(crate) fn outcome(delivery: &Delivery) -> Result<(), StdoutError> {
    let outcome = &delivery.outcome;
    if let Some(error) = &outcome.error {
        let message = error.message.as_deref().map(|m| format!(": {m}")).unwrap_or_default();
        line(format_args!("  {BAD}{}{BAD:#}{}", printable(&error.code), printable(&message)))?;
    }
    if let Some(result) = outcome.result.as_ref().filter(|r| !r.is_null()) {
        line(format_args!("  result {}", printable(result.as_str())))?;
    }
    if outcome.is_truncated() {
        line(format_args!("  {DIM}(the beginning of the output was cut){DIM:#}"))?;
    }
    for (name, text) in [("stdout", &outcome.stdout), ("stderr", &outcome.stderr)] {
        for line in text.iter().flat_map(|text| text.lines()) {
            self::line(format_args!("  {DIM}{name}{DIM:#} {}", printable(line)))?;
        }
    }
    Ok(())
}

/// A command: what it was, and how its deliveries stand.
pub(crate) fn command(command: &Command) -> Result<(), StdoutError> {
    let counts: Vec<String> =
        command.counts.iter().map(|(state, n)| format!("{n} {state}")).collect();
    let whole = if command.done { "done" } else { "under way" };
    line(format_args!("{BOLD}{}{BOLD:#}  {whole}: {}", command.action, counts.join(", ")))?;
    let at = command.not_before.map(|at| format!(", to be sent at {at}")).unwrap_or_default();
    line(format_args!("  {DIM}{}, created {}{at}{DIM:#}", command.id, command.created_at))?;
    if let Some(window) = &command.window {
        line(format_args!("  {DIM}window{DIM:#} {}", self::window(window)))?;
    }
    if !command.data.is_null() {
        line(format_args!("  data {}", printable(command.data.as_str())))?;
    }
    if let Some(of) = &command.rollout {
        let reason = of.reason.as_deref().map(|reason| format!(": {reason}"));
        let reason = reason.unwrap_or_default();
        line(format_args!("  {DIM}rollout{DIM:#} {}{}", rollout(of), printable(&reason)))?;
    }
    Ok(())
}

/// A maintenance window: when it opens, and for how long.
pub(crate) fn window(window: &Window) -> String {
    let open_for = span(std::time::Duration::from_secs(window.minutes.saturating_mul(60)));
    format!("opens at {} ({}) for {open_for}", printable(&window.cron), printable(&window.timezone))
}

/// The heading of [`device`].
pub(crate) fn device_heading() -> Result<(), StdoutError> {
    line(format_args!(
        "{DIM}{:<24} {:<8} {:>6}  {:<20} labels{DIM:#}",
        "device", "state", "queued", "last seen"
    ))
}

/// A device on a line.
pub(crate) fn device(device: &Device, now: Timestamp) -> Result<(), StdoutError> {
    let (style, state) = match (device.status, device.online) {
        (DeviceStatus::Conflict, _) => (BAD, device.status.as_str()),
        (DeviceStatus::Pending, _) => (DIM, device.status.as_str()),
        (DeviceStatus::Active, true) => (GOOD, "online"),
        (DeviceStatus::Active, false) => (DIM, "offline"),
    };
    let seen = match (device.online, device.last_seen_at) {
        (true, _) => "now".to_owned(),
        (false, Some(at)) => format!("{} ago", span(now.since(at))),
        (false, None) => "never".to_owned(),
    };
    line(format_args!(
        "{BOLD}{:<24}{BOLD:#} {style}{state:<8}{style:#} {:>6}  {seen:<20} {}",
        device.id.as_str(),
        device.queued,
        labels(&device.labels)
    ))
}

/// A duration for people: `12 ms`, `1.5 s`, `3 min`, `2 h`, `5 d`.
pub(crate) fn span(span: Duration) -> String {
    let ms = span.as_millis();
    match span.as_secs() {
        0 => format!("{ms} ms"),
        1..=9 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        s @ 10..=119 => format!("{s} s"),
        s @ (120..=3599 | 3660..=7199) => format!("{} min", s / 60),
        s @ 3600..=172_799 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// A line of foreign text without what could steer the terminal. JSON is foreign text too: it must
/// escape what is below a space, and DEL and the control characters behind it may stand as they are.
pub(crate) fn printable(line: &str) -> String {
    line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// The same JSON without the characters that control a terminal: the text comes from appliances and from senders. (Those
/// below U+0020 JSON escapes by itself, or they are its white space.)
pub(crate) fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_cannot_control_the_terminal_and_means_the_same() {
        let json = "[\"\u{9b}2J\u{7f}\u{e9}\"]";
        assert_eq!(escaped(json), r#"["\u009b2J\u007fé"]"#);
        let same = |json: &str| serde_json::from_str::<Vec<String>>(json).unwrap();
        assert_eq!(same(&escaped(json)), same(json));
    }

    #[test]
    fn spans_read_as_people_say_them() {
        let shown = |ms| span(Duration::from_millis(ms));
        assert_eq!(shown(12), "12 ms");
        assert_eq!(shown(1549), "1.5 s");
        assert_eq!(shown(75_000), "75 s");
        assert_eq!(shown(3_600_000), "1 h");
        assert_eq!(shown(5_400_000), "90 min");
        assert_eq!(shown(400_000_000), "4 d");
    }

    #[test]
    fn foreign_output_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\tc"), "a\u{fffd}[2Jb\tc");
        assert_eq!(printable("\"\u{9b}2J\u{7f}\""), "\"\u{fffd}2J\u{fffd}\"");
    }
}
