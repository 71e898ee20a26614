//! Requests of senders: commands, their ends, their rollouts, and how they are on disk. The end of a part of one is in `part.rs`.

use bellwire_core::{Answer, RolloutOp, Send};
use bellwire_proto::{AuditObject, Code, Command, CommandId, Delivery, Problem};

use super::reply::Reply;
use super::{Driver, audited, entropy, unexpected};
use crate::audit::verb;
use crate::internal;
use crate::store::Visible;

impl Driver {
    /// Stores a command to one device; answers once it is on disk and, if the send waits, once it has
    /// ended or the wait has elapsed.
    ///
    /// # Errors
    /// `queue_full`, `device_offline`, `idempotency_mismatch`, `unknown_device`, `draining`,
    /// `store_unavailable`.
    pub async fn send(&self, send: Send) -> Result<Delivery, Problem> {
        let answer = self.request_send(send).await?;
        match answer {
            Answer::Delivery(delivery) => Ok(*delivery),
            answer => Err(unexpected(&answer)),
        }
    }

    /// Stores a command to several devices; answers once it is on disk, with all that it promises.
    ///
    /// # Errors
    /// `idempotency_mismatch`, `unknown_device`, `rate_limited`, `draining`, `store_unavailable`.
    pub async fn send_to_many(&self, send: Send, visible: Visible) -> Result<Command, Problem> {
        let answer = self.request_send(send).await?;
        match answer {
            Answer::Command(command) => self.command_of_sender(command, visible).await,
            answer => Err(unexpected(&answer)),
        }
    }

    /// A command to no device is in no scope; its sender is shown it all the same.
    async fn command_of_sender(&self, id: CommandId, visible: Visible) -> Result<Command, Problem> {
        let shown = self.command(id, visible).await;
        if shown.as_ref().is_err_and(|problem| problem.code == Code::UnknownCommand) {
            let whole = self.command(id, Visible::all()).await?;
            return if whole.total == 0 { Ok(whole) } else { shown };
        }
        shown
    }

    fn request_send(&self, send: Send) -> Reply<'_> {
        let random = match entropy() {
            Ok(random) => random,
            Err(error) => return Reply::Refused(Some(internal::failed(error))),
        };
        let verb = if send.parent.is_some() { verb::RETRY } else { verb::SEND };
        let record = self.record(verb, audited::sent(&send), 202);
        self.request_recorded(record, |hub, request, now| {
            hub.handle_send(request, send, random, now)
        })
    }

    /// Cancels a command, and shows it as it then is: some of its devices may still have to answer.
    ///
    /// # Errors
    /// `unknown_command`, `illegal_transition` when all had ended before, `store_unavailable`.
    pub async fn cancel(
        &self,
        command: CommandId,
        force: bool,
        visible: Visible,
    ) -> Result<Command, Problem> {
        let record = self.record(verb::CANCEL, AuditObject::command(command), 202);
        let reply = self.request_recorded(record, |hub, request, now| {
            hub.handle_cancel(request, command, force, now)
        });
        match reply.await? {
            Answer::Cancelled => self.command(command, visible).await,
            answer => Err(unexpected(&answer)),
        }
    }

    /// Pauses, resumes or aborts the rollout of a command, and shows it as it then is.
    ///
    /// # Errors
    /// `unknown_command`, `conflict` when it has no rollout or that has ended, `store_unavailable`.
    pub async fn change_rollout(
        &self,
        command: CommandId,
        op: RolloutOp,
        visible: Visible,
    ) -> Result<Command, Problem> {
        let verb = match op {
            RolloutOp::Pause => verb::PAUSE,
            RolloutOp::Resume => verb::RESUME,
            RolloutOp::Abort => verb::ABORT,
        };
        let record = self.record(verb, AuditObject::command(command), 200);
        let reply = self.request_recorded(record, |hub, request, now| {
            hub.handle_rollout(request, command, op, now);
        });
        match reply.await? {
            Answer::Cancelled => self.command(command, visible).await,
            answer => Err(unexpected(&answer)),
        }
    }

    /// A command as it is on disk, for one who sees these devices.
    ///
    /// # Errors
    /// `unknown_command`, `store_unavailable`.
    pub async fn command(&self, command: CommandId, visible: Visible) -> Result<Command, Problem> {
        let found = self.store().command(command, visible).await?;
        let detail = "no command has this id, or it is no longer retained";
        found.ok_or_else(|| Problem::new(Code::UnknownCommand, detail))
    }
}
