//! Cancelling the part of a command that its canceller sees. Contract, section 6, "Tokens": what is outside of a selector is not there, and
//! so it is neither cancelled nor a reason to refuse.

use bellwire_proto::limits::{CANCEL_LOOK_EVERY, CANCEL_LOOKS, PAGE_ITEMS_MAX};
use bellwire_proto::{
    AuditObject, Code, Command, CommandId, Delivery, DeliveryState, DeviceId, Problem,
};
use futures_util::{StreamExt, stream};

use super::{Answer, Driver, unexpected};
use crate::audit::verb;
use crate::internal;
use crate::store::{Cursor, PageRequest, Visible};

/// Deliveries that are being cancelled at once, each a transaction.
const AT_ONCE: usize = 64;

impl Driver {
    /// Cancels the deliveries of a command at the devices that are visible, and shows the command as it then is for one who
    /// sees those. The others go on.
    ///
    /// # Errors
    /// `unknown_command`, `illegal_transition` when all of these had ended before, `rate_limited` when some had yet to come into
    /// being, `store_unavailable`.
    pub async fn cancel_visible(
        &self,
        command: CommandId,
        force: bool,
        visible: Visible,
    ) -> Result<Command, Problem> {
        let driver = self.clone();
        // A task of its own: a client that goes away does not leave a part of them cancelled. It ends after so many looks.
        let cancelling =
            tokio::spawn(async move { driver.cancel_all_visible(command, force, visible).await });
        cancelling.await.map_err(internal::failed)?
    }

    async fn cancel_all_visible(
        &self,
        command: CommandId,
        force: bool,
        visible: Visible,
    ) -> Result<Command, Problem> {
        let mut cancelled = 0;
        for _ in 0..CANCEL_LOOKS {
            // Before they are listed: what comes into being between the two is for the next look.
            let found = self.command(command, visible.clone()).await?;
            let ended = self.cancel_pass(command, force, &visible, &mut cancelled).await?;
            if found.counts.values().sum::<u64>() >= found.total {
                let shown = self.command(command, visible).await?;
                return match ended.filter(|_| cancelled == 0 && shown.done) {
                    Some(first) => Err(all_ended(first)),
                    None => Ok(shown),
                };
            }
            // Deliveries come into being that were promised before.
            tokio::time::sleep(CANCEL_LOOK_EVERY).await;
        }
        let detail = "the hub has yet to prepare the command for some of its devices, and has cancelled it at the others; wait \
                      for as long as Retry-After says, then cancel it again";
        Err(Problem::new(Code::RateLimited, detail))
    }

    /// Those that there are now. Gives the first that had ended.
    async fn cancel_pass(
        &self,
        command: CommandId,
        force: bool,
        visible: &Visible,
        cancelled: &mut u64,
    ) -> Result<Option<Delivery>, Problem> {
        let (mut after, mut first_ended) = (None, None);
        loop {
            let request = PageRequest { limit: PAGE_ITEMS_MAX, after };
            let page = self.store().deliveries(command, None, request, visible.clone()).await?;
            let page = page.ok_or_else(|| {
                Problem::new(
                    Code::UnknownCommand,
                    "no command has this id, or it is no longer retained",
                )
            })?;
            let mut live = Vec::new();
            for delivery in page.items {
                let again = delivery.state == DeliveryState::Cancelling && !force;
                if delivery.state.is_terminal() {
                    first_ended.get_or_insert(delivery);
                } else if again {
                    *cancelled += 1;
                } else {
                    live.push(delivery.device);
                }
            }
            // The request has one entry in the audit log, with the first that it cancels.
            while *cancelled == 0
                && let Some(first) = live.pop()
            {
                *cancelled += u64::from(self.cancel_at(command, first, force, true).await?);
            }
            let calls =
                live.into_iter().map(|device| self.cancel_at(command, device, force, false));
            let mut calls = stream::iter(calls.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
            while let Some(done) = calls.next().await {
                *cancelled += u64::from(done?);
            }
            after = match page.next.and_then(|next| next.parse::<Cursor>().ok()) {
                Some(next) => Some(next),
                None => return Ok(first_ended),
            };
        }
    }

    /// False when it has ended meanwhile.
    async fn cancel_at(
        &self,
        command: CommandId,
        device: DeviceId,
        force: bool,
        recorded: bool,
    ) -> Result<bool, Problem> {
        let record =
            recorded.then(|| self.record(verb::CANCEL, AuditObject::command(command), 202));
        let answer = self.request(|hub, request, now| {
            if let Some(record) = record {
                hub.audit(request, record);
            }
            hub.handle_cancel_at(request, device, command, force, now);
        });
        match answer.await {
            Ok(Answer::Cancelled) => Ok(true),
            Ok(answer) => Err(unexpected(&answer)),
            Err(problem) if problem.code == Code::IllegalTransition => Ok(false),
            Err(problem) => Err(problem),
        }
    }
}

fn all_ended(first: Delivery) -> Problem {
    let detail = "every delivery of the command has ended; none can become cancelled";
    Problem::new(Code::IllegalTransition, detail).with_delivery(first)
}
