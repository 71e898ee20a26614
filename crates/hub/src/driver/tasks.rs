//! The tasks of a hub that no event begins: deadlines of the core, counts of refusals, uses of tokens.
//!
//! Each holds the [`Runtime`] weakly and ends with it. What becomes due is decided by the core
//! (`runtime.rs`); what is counted is in `audit.rs` and `auth/`.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bellwire_proto::{Timestamp, TokenId};
use tokio::sync::Notify as Wake;
use tokio::task::AbortHandle;

use super::runtime::Runtime;
use crate::auth::USES_WRITTEN_AFTER;
use crate::clock::Clock;
use crate::internal;

/// How often the core looks at the clocks while it waits for a deadline: a step of the wall clock, and
/// the end of a suspension, are noticed that late at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Starts them all.
pub(super) fn start(runtime: &Arc<Runtime>) {
    let weak = || Arc::downgrade(runtime);
    let (rearm, clock) = (runtime.rearm.clone(), runtime.clock.clone());
    spawn(runtime, call_at_deadlines(weak(), rearm, clock));
    spawn(runtime, count_refusals(weak(), runtime.audit.counting()));
    spawn(runtime, write_uses(weak(), runtime.auth.uses().noting()));
}

/// Spawns a task whose panic is the end of the hub: what it did would end unnoticed.
pub(super) fn spawn(
    runtime: &Arc<Runtime>,
    task: impl Future<Output = ()> + Send + 'static,
) -> AbortHandle {
    let weak = Arc::downgrade(runtime);
    let panicked = move || weak.upgrade().into_iter().for_each(|runtime| runtime.fail());
    tokio::spawn(internal::guard(task, panicked)).abort_handle()
}

impl Runtime {
    /// Writes the refusals whose time of being counted has ended, or the counts of all as they are now.
    pub(super) fn write_refusals(&self, all: bool) {
        let records = self.audit.take_counted(self.clock.now().instant, all);
        for record in records {
            self.with_core(|core, now| core.hub.handle_audit(record, now));
        }
    }

    /// Writes which tokens were used.
    pub(super) fn write_uses(&self) {
        self.put_uses(self.auth.uses().take());
    }

    /// One transaction after the other, so that others get in between.
    pub(super) fn put_uses(&self, uses: Vec<Vec<(TokenId, Timestamp)>>) {
        for together in uses {
            self.with_core(|core, now| core.hub.handle_tokens_used(together, now));
        }
    }
}

/// Calls the core at its deadlines, as long as the hub lives.
async fn call_at_deadlines(runtime: Weak<Runtime>, rearm: Arc<Wake>, clock: Clock) {
    loop {
        let Some(armed) = runtime.upgrade().map(|runtime| runtime.arm()) else {
            return;
        };
        let Some(due) = armed else {
            rearm.notified().await;
            continue;
        };
        // Tokio's clock stands still while the machine is suspended, and no event reports that the wall
        // clock was set: both are noticed by looking at the clocks.
        let look_at = tokio::time::Instant::now() + LOOK_EVERY;
        tokio::select! {
            () = tokio::time::sleep_until(clock.tokio_instant(due).min(look_at)) => {
                if let Some(runtime) = runtime.upgrade() {
                    runtime.with_core(|core, now| core.hub.handle_timeout(now));
                }
            }
            () = rearm.notified() => {}
        }
    }
}

/// Writes which tokens were used, some seconds after the first of them.
async fn write_uses(runtime: Weak<Runtime>, noting: Arc<Wake>) {
    loop {
        noting.notified().await;
        if runtime.strong_count() == 0 {
            return;
        }
        tokio::time::sleep(USES_WRITTEN_AFTER).await;
        let Some(runtime) = runtime.upgrade() else { return };
        runtime.write_uses();
    }
}

/// Writes how many refusals there were, at the end of the time for which equal ones are counted.
async fn count_refusals(runtime: Weak<Runtime>, counting: Arc<Wake>) {
    loop {
        let Some(due) = runtime.upgrade().map(|runtime| runtime.audit.due()) else { return };
        let Some(due) = due else {
            counting.notified().await;
            continue;
        };
        let Some(until) = runtime.upgrade().map(|runtime| runtime.clock.tokio_instant(due)) else {
            return;
        };
        tokio::time::sleep_until(until).await;
        if let Some(runtime) = runtime.upgrade() {
            runtime.write_refusals(false);
        }
    }
}
