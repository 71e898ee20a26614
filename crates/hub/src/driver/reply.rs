//! The reply to a request of the core, on its way.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bellwire_core::Answer;
use bellwire_proto::Problem;
use tokio::sync::oneshot;

use super::runtime::PendingRequest;
use crate::internal;

/// The one reply to a request, which was passed to the core when this was made. Dropped, it gives the reply up and takes nothing
/// back.
#[must_use = "the reply says whether it was done"]
pub(super) enum Reply<'a> {
    Waits(PendingRequest<'a>, oneshot::Receiver<Answer>),
    /// It never reached the core. `None` once that was returned.
    Refused(Option<Problem>),
}

impl Future for Reply<'_> {
    type Output = Result<Answer, Problem>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match &mut *self {
            Self::Waits(waiting, answer) => {
                let answer = ready!(Pin::new(answer).poll(context));
                waiting.is_answered();
                answer
            }
            Self::Refused(problem) => {
                return Poll::Ready(Err(problem.take().unwrap_or_else(internal::panicked)));
            }
        };
        Poll::Ready(match answer {
            Ok(Answer::Problem(problem)) => Err(*problem),
            Ok(answer) => Ok(answer),
            // The core has failed.
            Err(_) => Err(internal::panicked()),
        })
    }
}
