//! On whose behalf a driver acts, and what the audit log says of it. How refusals are counted is in `audit.rs` of the crate.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bellwire_core::record::AuditRecord;
use bellwire_core::{Send, Target};
use bellwire_proto::{Actor, AuditObject, Code, Problem};
use tokio::sync::watch;

use super::Driver;
use super::runtime::Runtime;
use crate::auth::Grant;
use crate::driver::Readiness;

/// Who requests something, and whether the audit log has it.
#[derive(Debug)]
pub(crate) struct AuditContext {
    principal: Principal,
    address: Option<IpAddr>,
    /// The core was given an entry of it.
    recorded: AtomicBool,
}

/// A stream that follows the audit log, as long as this lives.
pub(crate) struct AuditFollower {
    runtime: Arc<Runtime>,
    changes: watch::Receiver<u64>,
}

/// A caller, from whom the audit log's name is made when there is something to write: most requests have no entry.
#[derive(Debug)]
pub(crate) enum Principal {
    /// No credential, or one that does not work.
    Unauthenticated,
    /// The holder of this token.
    Token(Arc<Grant>),
    /// A caller that the log calls so, without a token of the hub.
    Named(Arc<Actor>),
}

impl AuditContext {
    pub(crate) fn new(principal: Principal, address: Option<IpAddr>) -> Self {
        Self { principal, address, recorded: AtomicBool::new(false) }
    }
}

impl Principal {
    fn actor(&self) -> Arc<Actor> {
        match self {
            Self::Unauthenticated => Arc::default(),
            Self::Token(grant) => grant.actor(),
            Self::Named(actor) => actor.clone(),
        }
    }
}

impl Driver {
    /// The same hub, for a caller.
    pub(crate) fn acting_for(&self, context: Arc<AuditContext>) -> Self {
        Self { audit_context: Some(context), ..self.clone() }
    }

    /// The entry of something that is about to be done.
    pub(super) fn record(
        &self,
        verb: &'static str,
        object: AuditObject,
        status: u16,
    ) -> AuditRecord {
        let context = self.audit_context.as_deref();
        if let Some(context) = context {
            context.recorded.store(true, Ordering::Relaxed);
        }
        AuditRecord {
            at: self.now(),
            actor: context.map(|context| context.principal.actor()).unwrap_or_default(),
            address: context.and_then(|context| context.address),
            verb,
            object,
            status,
            code: None,
            count: 1,
            refusal: None,
        }
    }

    /// A request was refused.
    pub(crate) fn refused(&self, verb: &'static str, object: AuditObject, problem: &Problem) {
        self.refused_with(verb, object, problem.code.status(), problem.code);
    }

    /// The same with a status that is not that of the code.
    pub(crate) fn refused_with(
        &self,
        verb: &'static str,
        object: AuditObject,
        status: u16,
        code: Code,
    ) {
        let mut record = self.record(verb, object, status);
        record.code = Some(code);
        if let Some(record) = self.runtime.audit.refused(record, self.clocks().instant) {
            self.runtime.with_core(|core, now| core.hub.handle_audit(record, now));
        }
    }

    /// A request was answered that changes nothing: it has no entry.
    pub(crate) fn changes_nothing(&self) {
        if let Some(context) = self.audit_context.as_deref() {
            context.recorded.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the core was given an entry of the request that this acts for.
    pub(crate) fn is_recorded(&self) -> bool {
        self.audit_context.as_ref().is_some_and(|context| context.recorded.load(Ordering::Relaxed))
    }

    /// A request was carried out, of which the core has no entry.
    pub(crate) fn done_for(&self, verb: &'static str, object: AuditObject, status: u16) {
        let record = self.record(verb, object, status);
        self.runtime.with_core(|core, now| core.hub.handle_audit(record, now));
    }

    /// Waits until all that happened so far is in the audit log.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub(crate) async fn settle_audit(&self) -> Result<(), Problem> {
        self.runtime.write_refusals(true);
        self.settle().await
    }

    /// Waits until all that was decided so far is on disk.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub(super) async fn settle(&self) -> Result<(), Problem> {
        self.done(self.request(|hub, request, _| hub.handle_settle(request)).await?)
    }

    /// One more stream follows the audit log.
    ///
    /// # Errors
    /// `rate_limited` when there are as many as may be, `draining`.
    pub(crate) fn follow_audit(&self) -> Result<AuditFollower, Problem> {
        if self.readiness() == Readiness::Draining {
            return Err(Problem::draining());
        }
        if !self.runtime.audit.begin_following() {
            let detail =
                "as many streams follow the audit log as may; close one, or read it page by page";
            return Err(Problem::new(Code::RateLimited, detail));
        }
        Ok(AuditFollower { runtime: self.runtime.clone(), changes: self.runtime.audit.changes() })
    }
}

impl AuditFollower {
    /// Waits until there may be something new.
    pub(crate) async fn look(&mut self) {
        // An error: the hub is gone, which the next look finds.
        let _gone = self.changes.changed().await;
    }
}

impl Drop for AuditFollower {
    fn drop(&mut self) {
        self.runtime.audit.end_following();
    }
}

/// What a command concerns.
pub(super) fn sent(send: &Send) -> AuditObject {
    let device = match &send.target {
        Target::Device(device) => Some(device.clone()),
        Target::Devices(_) | Target::Found(_) => None,
    };
    AuditObject { device, action: Some(send.action.clone()), ..AuditObject::default() }
}
