//! The reports that no handler wrote.

use bellwire_proto::{ErrorInfo, Report, ReportState, codes};

use crate::agent::run::error;

/// `rejected`, for this reason.
pub(super) fn rejected(error: ErrorInfo) -> Report {
    Report { error: Some(error), ..Report::of(ReportState::Rejected) }
}

/// `failed` with code `interrupted`, and the handler's output if there is any.
pub(super) fn interrupted_report(output: Option<Report>) -> Report {
    Report {
        state: ReportState::Failed,
        error: Some(error(codes::INTERRUPTED, "the agent ended before the handler did")),
        ..output.unwrap_or_else(|| Report::of(ReportState::Failed))
    }
}
