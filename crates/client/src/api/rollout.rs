//! Rollouts: pausing, resuming and aborting one, and trying again what has failed.

use bellwire_proto::{Command, CommandId, DeliveryState};
use http::Method;
use serde::Serialize;

use super::{Controller, Error};

/// What is done to a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolloutChange {
    /// No batch begins until it is resumed.
    Pause,
    /// Batches begin again.
    Resume,
    /// None begins any more.
    Abort,
}

impl Controller {
    /// Pauses, resumes or aborts the rollout of a command. The same twice is no error.
    ///
    /// # Errors
    /// Refused as `conflict` when the command has no rollout, or when that has ended.
    pub async fn change_rollout(
        &self,
        id: CommandId,
        change: RolloutChange,
    ) -> Result<Command, Error> {
        let verb = match change {
            RolloutChange::Pause => "pause",
            RolloutChange::Resume => "resume",
            RolloutChange::Abort => "abort",
        };
        self.call(Method::POST, ["v1", "commands", &id.to_string(), verb]).fetch().await
    }

    /// Sends a command again to the devices where it has ended in one of these states; without any, where it failed, was
    /// rejected, timed out, expired or died.
    ///
    /// # Errors
    /// Refused as `conflict` when there are none.
    pub async fn retry(&self, id: CommandId, states: &[DeliveryState]) -> Result<Command, Error> {
        #[derive(Serialize)]
        struct RetryBody<'a> {
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            states: &'a [DeliveryState],
        }
        let path = ["v1", "commands", &id.to_string(), "retry"];
        self.call(Method::POST, path).json(&RetryBody { states }).fetch().await
    }
}
