//! A maintenance window on the command line, of `bellwire send` and `bellwire schedule create`.

use bellwire_proto::limits::WINDOW_MINUTES;
use bellwire_proto::{Seconds, Window};
use clap::Args;

/// When a command may be sent.
#[derive(Debug, Args)]
pub struct WindowArgs {
    /// Send it only in a maintenance window, which opens at the times of this cron expression of five fields (in quotes):
    /// until then, and after it has closed, it waits in the queue and holds back no other command. --ttl goes on meanwhile
    /// and must reach the window. What was sent goes on when it closes.
    #[arg(long, value_name = "CRON", requires = "window_for")]
    pub window: Option<String>,
    /// How long the window is open each time, in whole minutes: 1m to 24h.
    #[arg(long, value_name = "DURATION", requires = "window", value_parser = minutes)]
    pub window_for: Option<u64>,
}

impl WindowArgs {
    /// The window, in the local time of this zone.
    pub fn in_zone(&self, zone: &str) -> Option<Window> {
        let (cron, minutes) = self.window.clone().zip(self.window_for)?;
        Some(Window { cron, minutes, timezone: zone.to_owned() })
    }
}

fn minutes(text: &str) -> Result<u64, String> {
    let seconds = text.parse::<Seconds>().map_err(|e| e.to_string())?.get();
    let minutes =
        Some(seconds / 60).filter(|minutes| seconds % 60 == 0 && WINDOW_MINUTES.contains(*minutes));
    minutes.ok_or_else(|| "a window is open for whole minutes, from 1m to 24h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_open_for_whole_minutes_up_to_a_day() {
        assert_eq!(
            (minutes("2h"), minutes("90m"), minutes("60"), minutes("1d")),
            (Ok(120), Ok(90), Ok(1), Ok(1440))
        );
        for bad in ["0", "30s", "90s", "25h", "soon"] {
            assert!(minutes(bad).is_err(), "{bad}");
        }
    }
}
