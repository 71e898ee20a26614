//! How far a command to many is: on a terminal a bar for each state, elsewhere a line now and then.

use std::time::Duration;

use bellwire_proto::Command;
use tokio::time::Instant;

use crate::out::{self, Form};

/// Between two lines where there is no terminal, at least.
const LINES_APART: Duration = Duration::from_secs(10);

/// What is shown while a command goes on.
pub(super) struct Bars {
    form: Form,
    terminal: Option<terminal::Terminal>,
    line: Option<(String, Instant)>,
}

impl Bars {
    pub(super) fn new(form: Form) -> Self {
        let terminal = (form == Form::Text && std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .then(terminal::Terminal::default);
        Self { form, terminal, line: None }
    }

    /// How it stands now.
    pub(super) fn show(&mut self, command: &Command) {
        if self.form == Form::Json {
            return;
        }
        if let Some(terminal) = &mut self.terminal {
            terminal.show(command, &rollout(command));
            return;
        }
        let counts: Vec<String> =
            command.counts.iter().map(|(state, n)| format!("{n} {state}")).collect();
        let line = format!("{}{}", counts.join(", "), rollout(command));
        let is_due = match &self.line {
            Some((shown, at)) => *shown != line && at.elapsed() >= LINES_APART,
            None => !command.done,
        };
        if is_due {
            out::note(&line);
            self.line = Some((line, Instant::now()));
        }
    }

    /// Leaves the screen as it is, for other text below. It begins again with the next [`Bars::show`].
    pub(super) fn end(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            *terminal = terminal::Terminal::default();
        }
    }
}

fn rollout(command: &Command) -> String {
    command
        .rollout
        .as_ref()
        .map_or_else(String::new, |rollout| format!("; {}", out::rollout(rollout)))
}

mod terminal {
    use std::collections::BTreeMap;

    use bellwire_proto::{Command, DeliveryState};
    use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

    /// A bar for each state that was seen.
    #[derive(Default)]
    pub(super) struct Terminal {
        all: MultiProgress,
        bars: BTreeMap<DeliveryState, ProgressBar>,
    }

    impl Terminal {
        pub(super) fn show(&mut self, command: &Command, about: &str) {
            for state in command.counts.keys() {
                if !self.bars.contains_key(state) {
                    // In the order of a delivery's life.
                    let after = self.bars.range(..state).count();
                    let bar = ProgressBar::new(command.total).with_style(style());
                    let bar = self.all.insert(after, bar);
                    bar.set_prefix(state.to_string());
                    self.bars.insert(*state, bar);
                }
            }
            let last = self.bars.keys().next_back().copied();
            for (state, bar) in &self.bars {
                bar.set_length(command.total);
                bar.set_position(command.counts.get(state).copied().unwrap_or_default());
                bar.set_message(if Some(*state) == last {
                    about.to_owned()
                } else {
                    String::new()
                });
            }
        }
    }

    impl Drop for Terminal {
        fn drop(&mut self) {
            for bar in self.bars.values() {
                bar.abandon();
            }
        }
    }

    fn style() -> ProgressStyle {
        // The template is one that is understood: the test below.
        ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar())
    }

    const TEMPLATE: &str = "{prefix:10} [{bar:40}] {pos}/{len}{msg}";

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_template_is_understood() {
            assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
        }
    }
}
