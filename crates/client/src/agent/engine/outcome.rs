//! The reports that the agent writes itself, where no handler did.

use bellwire_proto::{ErrorInfo, Report, ReportState, codes};

use crate::agent::run::error;

/// `rejected`, for this reason.
pub(super) fn rejected(error: ErrorInfo) -> Report {
    Report { error: Some(error), ..Report::of(ReportState::Rejected) }
}

/// `failed`, `interrupted`, with the output where there is some.
pub(super) fn interrupted_report(output: Option<Report>) -> Report {
    Report {
        state: ReportState::Failed,
        error: Some(error(codes::INTERRUPTED, "the agent ended before the handler did")),
        ..output.unwrap_or_else(|| Report::of(ReportState::Failed))
    }
}
