//! Whether to reconnect after a loss, and after which delay: decided here and nowhere else.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::error::{Error, Loss};

/// Which losses are final.
///
/// | loss | [`standard`](Self::standard) | [`resilient`](Self::resilient) | [`always`](Self::always) | [`never`](Self::never) |
/// | --- | --- | --- | --- | --- |
/// | the server ended the stream | again | again | again | end |
/// | the network failed, the stream broke or fell silent | again | again | again | error |
/// | status 408, 425, 429 or 5xx | error | again | again | error |
/// | not an event stream, a broken redirect, or rejected by the reader | error | again | again | error |
/// | any other status | error | error | again | error |
/// | status 204 | end | end | end | end |
///
/// The column of the standard is HTML's: a server's answer is final, a failure of the network is not. The resilient one is
/// for an unattended appliance: a restart of the server, an overloaded gateway and a captive portal are temporary, but 401
/// and 404 are final. `Retry-After` is respected wherever there is a next attempt.
#[derive(Clone)]
pub struct Retry {
    rule: Rule,
    delays: Option<Delays>,
}

type Delays = Arc<dyn Fn(&Loss) -> Option<Duration> + Send + Sync>;

#[derive(Clone)]
enum Rule {
    Standard,
    Resilient,
    Always,
    Never,
    When(Arc<dyn Fn(&Loss) -> bool + Send + Sync>),
}

impl Retry {
    /// By HTML. The default of [`EventSource`](super::EventSource).
    pub const fn standard() -> Self {
        Self::of(Rule::Standard)
    }

    /// For an unattended appliance. The default of
    /// [`Controller::listen`](crate::Controller::listen).
    pub const fn resilient() -> Self {
        Self::of(Rule::Resilient)
    }

    /// After everything but 204.
    pub const fn always() -> Self {
        Self::of(Rule::Always)
    }

    /// Never: one connection, for a response that happens to be an event stream.
    pub const fn never() -> Self {
        Self::of(Rule::Never)
    }

    /// When `again` returns true. It is not called after a 204.
    ///
    /// ```
    /// use bellwire_client::event_source::{Error, Loss, Retry};
    ///
    /// let retry = Retry::when(|loss| match loss {
    ///     Loss::Ended => true,
    ///     Loss::Failed(Error::Refused(refusal)) => refusal.status.is_server_error(),
    ///     Loss::Failed(_) => false,
    /// });
    /// # drop(retry);
    /// ```
    pub fn when(again: impl Fn(&Loss) -> bool + Send + Sync + 'static) -> Self {
        Self::of(Rule::When(Arc::new(again)))
    }

    /// Waits for `delay` after a loss, in place of the growing wait and of `Retry-After`; where it returns `None`, those
    /// apply.
    ///
    /// ```
    /// use std::time::Duration;
    /// use bellwire_client::event_source::{Error, Loss, Retry};
    ///
    /// // The device may be registered within a minute.
    /// let retry = Retry::always().delays(|loss| match loss {
    ///     Loss::Failed(Error::Refused(refusal)) if refusal.status == 401 => {
    ///         Some(Duration::from_secs(60))
    ///     }
    ///     _ => None,
    /// });
    /// # drop(retry);
    /// ```
    #[must_use]
    pub fn delays(self, delay: impl Fn(&Loss) -> Option<Duration> + Send + Sync + 'static) -> Self {
        Self { delays: Some(Arc::new(delay)), ..self }
    }

    const fn of(rule: Rule) -> Self {
        Self { rule, delays: None }
    }

    pub(crate) fn delay_after(&self, loss: &Loss) -> Option<Duration> {
        self.delays.as_ref().and_then(|delay| delay(loss))
    }

    pub(crate) fn tries_again_after(&self, loss: &Loss) -> bool {
        match &self.rule {
            Rule::Standard => match loss {
                Loss::Ended
                | Loss::Failed(
                    Error::Transport(_) | Error::Silent { .. } | Error::NotBegun { .. },
                ) => true,
                Loss::Failed(
                    Error::Refused(_)
                    | Error::NotAStream { .. }
                    | Error::Rejected { .. }
                    | Error::Elsewhere { .. }
                    | Error::Redirect(_),
                ) => false,
            },
            Rule::Resilient => match loss {
                Loss::Failed(Error::Refused(refusal)) => {
                    let status = refusal.status;
                    status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429)
                }
                _ => true,
            },
            Rule::Always => true,
            Rule::Never => false,
            Rule::When(again) => again(loss),
        }
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.rule {
            Rule::Standard => "Standard",
            Rule::Resilient => "Resilient",
            Rule::Always => "Always",
            Rule::Never => "Never",
            Rule::When(_) => "When(..)",
        })
    }
}
