//! The reports that no handler wrote.

use bellwire_proto::{ErrorInfo, Outcome, Report, ReportState, codes};

use crate::agent::run::error;

/// `rejected`, for this reason.
pub(super) fn rejected(error: ErrorInfo) -> Report {
    let error = Some(error);
    Report::new(ReportState::Rejected, Outcome { error, ..Outcome::default() })
}

/// `failed` with code `interrupted`, and the handler's output if there is any.
pub(super) fn interrupted_report(output: Option<Report>) -> Report {
    let mut report = output.unwrap_or_else(|| Report::of(ReportState::Failed));
    report.state = ReportState::Failed;
    report.outcome.error =
        Some(error(codes::INTERRUPTED, "the agent ended before the handler did"));
    report
}
