//! Streams of what happens: to one command, to all devices and deliveries.

use bellwire_core::TokenUse;
use bellwire_proto::{Code, CommandId, Problem};

use super::{Driver, Reserved};
use crate::feed::Reader;
use crate::plane::StreamOptions;
use crate::store::Visible;

impl Driver {
    /// Opens a stream of what happens to a command: every delivery as it is, each change, `done`,
    /// the end.
    ///
    /// # Errors
    /// `unknown_command`, `draining`, `store_unavailable`, `rate_limited` when there are too many watchers.
    pub async fn watch(
        &self,
        command: CommandId,
        options: StreamOptions,
        visible: Visible,
        token: Option<TokenUse>,
    ) -> Result<Reserved, Problem> {
        self.may_watch(token)?;
        let reserved = self.reserve(options)?;
        let reader = Reader { visible: visible.clone(), token };
        let mailbox = self.runtime.feed.watch(reserved.stream, command, reader)?;
        // From here on every change is notified; those that the snapshot contains already are recognised by
        // their version. Changes decided before are not notified, so the snapshot must contain them: it is
        // read when they are on disk.
        let watching = self.runtime.watch(command);
        self.done(self.request(|hub, request, _| hub.handle_settle(request)).await?)?;
        let Some(snapshot) = self.store().snapshot(command, None, visible.clone()).await? else {
            return Err(Problem::new(Code::UnknownCommand, "no command has this id"));
        };
        let feed = self.runtime.feed.clone();
        let progress = feed.progress(command, snapshot.command.total, &visible)?;
        tokio::spawn(async move {
            feed.follow(mailbox, progress, snapshot).await;
            drop(watching);
        });
        Ok(reserved)
    }

    /// Opens a stream of what happens to all devices and deliveries.
    ///
    /// # Errors
    /// `draining`, `rate_limited` when there are too many watchers.
    pub fn observe(
        &self,
        options: StreamOptions,
        visible: Visible,
        token: Option<TokenUse>,
    ) -> Result<Reserved, Problem> {
        self.may_watch(token)?;
        let reserved = self.reserve(options)?;
        self.runtime.feed.observe(reserved.stream, Reader { visible, token })?;
        self.runtime.observers_changed();
        Ok(reserved)
    }

    fn may_watch(&self, token: Option<TokenUse>) -> Result<(), Problem> {
        let watching = token.map_or(0, |used| self.runtime.feed.read_with(used.id));
        self.runtime.quota.watcher(watching)
    }
}
