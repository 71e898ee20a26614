//! The audit log, as far as the core has to do with it: an entry is on disk in the transaction of the change that it
//! names, or neither is.
//!
//! The caller of the core says before a request what is to be written if that request changes something
//! ([`Hub::audit`](crate::Hub::audit)). It is written with the first change that the request makes, or with the change
//! that it is answered for; a request that is refused, or changes nothing, leaves none. Refusals are counted outside of
//! the core and come as entries of their own.
//!
//! Bound: one entry for a request, from its call until its reply.

use std::collections::HashMap;

use bellwire_proto::CommandId;

use crate::ids::RequestId;
use crate::io::Answer;
use crate::record::AuditRecord;

/// The entries of requests that have not changed anything yet.
#[derive(Debug, Default)]
pub(crate) struct Audits {
    /// The latest, which the call under way writes as a rule.
    latest: Option<(RequestId, Box<AuditRecord>)>,
    others: HashMap<RequestId, Box<AuditRecord>>,
}

impl Audits {
    pub(crate) fn put(&mut self, request: RequestId, record: Box<AuditRecord>) {
        self.others.extend(self.latest.replace((request, record)));
    }

    /// The entry of a request, which is written now.
    pub(crate) fn take(&mut self, request: RequestId) -> Option<Box<AuditRecord>> {
        if let Some((_, record)) = self.latest.take_if(|(latest, _)| *latest == request) {
            return Some(record);
        }
        if self.others.is_empty() { None } else { self.others.remove(&request) }
    }

    /// The entry of a request that made this command.
    pub(crate) fn take_for(
        &mut self,
        request: RequestId,
        command: CommandId,
    ) -> Option<Box<AuditRecord>> {
        let mut record = self.take(request)?;
        record.object.command = Some(command);
        Some(record)
    }

    /// The entry of a request that is answered so, unless that is a refusal.
    pub(crate) fn take_answered(
        &mut self,
        request: RequestId,
        answer: &Answer,
    ) -> Option<Box<AuditRecord>> {
        if matches!(answer, Answer::Problem(_)) {
            return None;
        }
        let mut record = self.take(request)?;
        match answer {
            Answer::Device { created: true } => record.status = 201,
            Answer::Enrolled { pending: true } => record.status = 202,
            _ => {}
        }
        Some(record)
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.latest.is_some()) + self.others.len()
    }
}
