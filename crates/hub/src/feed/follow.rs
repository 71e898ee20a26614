//! The task of one watcher: what its command's deliveries are, then what changes, at the pace of its reader.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bellwire_proto::CommandId;
use bellwire_proto::limits::PACED_BYTES;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::progress::Progress;
use super::{Feed, Mailbox};
use crate::frames;
use crate::plane::{CloseReason, Frame, Framing, Receipt};
use crate::store::Snapshot;

/// After how long the deliveries are read again for a watcher that was not shown all of its part yet.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

impl Feed {
    /// Sends a watcher the deliveries of its command, every change that is newer, `done`, the end;
    /// all at the pace of its reader. Returns when the stream has ended.
    pub(crate) async fn follow(
        &self,
        mut mailbox: Mailbox,
        mut progress: Progress,
        first: Snapshot,
    ) {
        let command = first.command.clone();
        let mut first = Some(first);
        // Again when so much changed meanwhile that the mailbox overflowed.
        loop {
            mailbox.signals.missed.store(false, Ordering::Release);
            let sent = self.send_snapshot(&mailbox, &mut progress, command.id, first.take()).await;
            let Some(total) = sent else { return };
            match self.send_changes(&mut mailbox, &mut progress, total).await {
                Some(true) => break,
                Some(false) => {}
                None => return,
            }
        }
        // Its present state, and never before its last change.
        match self.store.command(command.id, mailbox.scope.visible.clone()).await {
            Ok(now) => {
                let last = frames::done(&now.unwrap_or(command));
                // Waited for, since a slow reader may take longer than a closed stream lingers.
                self.send_and_wait(&mailbox, last).await;
            }
            Err(error) => {
                // The mailbox closes the stream, and its reader comes again.
                return tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a command's events end without its last one"
                );
            }
        }
        self.plane.close(mailbox.stream, None, CloseReason::Ended);
    }

    /// Sends what is newer than what was sent, page by page. How many deliveries there are for its reader; `None` when the
    /// stream has ended.
    async fn send_snapshot(
        &self,
        mailbox: &Mailbox,
        progress: &mut Progress,
        command: CommandId,
        mut page: Option<Snapshot>,
    ) -> Option<u64> {
        let mut after = None;
        let mut total = None;
        loop {
            let snapshot = match page.take() {
                Some(snapshot) => Ok(Some(snapshot)),
                None => {
                    let visible = mailbox.scope.visible.clone();
                    mailbox.scope.begin_page();
                    self.store.snapshot(command, after.take(), visible).await
                }
            };
            let Ok(Some(snapshot)) = snapshot else {
                tracing::warn!(%command, "a command's events end: its deliveries cannot be read");
                return None;
            };
            let total = *total.get_or_insert(snapshot.command.total);
            let devices = snapshot.deliveries.iter().map(|(delivery, _)| &delivery.device);
            if mailbox.scope.show(devices).is_err() || !progress.holds(total) {
                self.end_watcher(mailbox.stream, command);
                return None;
            }
            for (delivery, version) in snapshot.deliveries {
                let ended = delivery.state.is_terminal();
                after = Some(delivery.device.clone());
                if progress.take(&delivery.device, version, ended) {
                    let frame = frames::delivery(&delivery);
                    if !self.send_paced(mailbox, progress, frame).await {
                        return None;
                    }
                }
            }
            if !snapshot.more {
                return Some(total);
            }
        }
    }

    /// Sends changes as they come: true when all deliveries have ended, false when some are missing,
    /// `None` when the stream has ended.
    async fn send_changes(
        &self,
        mailbox: &mut Mailbox,
        progress: &mut Progress,
        total: u64,
    ) -> Option<bool> {
        // One with a scope does not see from a change alone whether a delivery that comes into being is of its part.
        let lacks_some = mailbox.scope.lacks_some_of(total);
        let again_at = Instant::now() + LOOK_AGAIN_AFTER;
        while progress.ended() < total {
            if lacks_some && again_at <= Instant::now() {
                return Some(false);
            }
            let change = match mailbox.changes.try_recv() {
                Ok(change) => change,
                Err(mpsc::error::TryRecvError::Empty) => {
                    if mailbox.signals.missed.load(Ordering::Acquire) {
                        return Some(false);
                    }
                    tokio::select! {
                        change = mailbox.changes.recv() => change?,
                        () = mailbox.signals.misses.notified() => continue,
                        () = tokio::time::sleep_until(again_at), if lacks_some => continue,
                    }
                }
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
            };
            if mailbox.scope.shows(&change.device)
                && progress.take(&change.device, change.version, change.ended)
                && !self.send_paced(mailbox, progress, change.frame).await
            {
                return None;
            }
        }
        Some(true)
    }

    /// Sends a frame, and waits for the reader once so much is under way. False when the stream has
    /// ended.
    async fn send_paced(&self, mailbox: &Mailbox, progress: &mut Progress, frame: Frame) -> bool {
        if progress.sends(frame.len(Framing::Chunked)) < PACED_BYTES {
            self.plane.send(mailbox.stream, frame, Receipt::None);
            return true;
        }
        progress.was_read();
        self.send_and_wait(mailbox, frame).await
    }

    /// False when the stream is closed.
    async fn send_and_wait(&self, mailbox: &Mailbox, frame: Frame) -> bool {
        self.plane.send(mailbox.stream, frame, Receipt::Written(0));
        mailbox.signals.settled.notified().await;
        !mailbox.signals.closed.load(Ordering::Acquire)
    }
}
