//! What a person sees while a step is under way: one line on standard error, replaced each second. Only on a terminal.

use std::future::Future;
use std::io::IsTerminal as _;
use std::pin::pin;
use std::time::Duration;

use bellwire::output::stderr_progress;
use tokio::time::{Instant, interval};

use crate::out::{self, Form};

#[derive(Debug, Clone, Copy)]
pub(super) struct Screen {
    is_shown: bool,
    waits: bool,
}

impl Screen {
    pub(super) fn new(form: Form) -> Self {
        let is_shown = form == Form::Text;
        Self { is_shown, waits: is_shown && std::io::stderr().is_terminal() }
    }

    /// Whether results are shown as they come.
    pub(super) fn is_shown(self) -> bool {
        self.is_shown
    }

    /// Awaits `step`, and shows meanwhile what for.
    pub(super) async fn wait<T>(self, what: &str, step: impl Future<Output = T>) -> T {
        if !self.waits {
            return step.await;
        }
        let (mut step, begun) = (pin!(step), Instant::now());
        let mut seconds = interval(Duration::from_secs(1));
        let result = loop {
            tokio::select! {
                result = &mut step => break result,
                _ = seconds.tick() => {
                    let waited = begun.elapsed().as_secs();
                    stderr_progress(format_args!("  … waiting for {} ({waited} s)", out::printable(what)));
                }
            }
        };
        stderr_progress("");
        result
    }
}
