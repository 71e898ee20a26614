//! Whether the store has space for another command: how much it holds, and how much is free on its disk.
//!
//! A disk that is full is the end of the store until the hub is restarted, and what devices report would be lost to it. So
//! sends are refused before, and everything else is still stored.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use bellwire_proto::limits::STORE_SPACE_LOOK_EVERY;
use rusqlite::{Connection, Result, Statement};

use super::rows;

/// What the writer found at its last look.
#[derive(Debug, Default)]
pub(super) struct Space(AtomicU8);

const ENOUGH: u8 = 0;
const TOO_MANY_BYTES: u8 = 1;
const DISK_ALMOST_FULL: u8 = 2;

impl Space {
    /// Why there is none for another command; `None` when there is.
    pub(super) fn full(&self) -> Option<&'static str> {
        match self.0.load(Ordering::Relaxed) {
            ENOUGH => None,
            TOO_MANY_BYTES => Some(
                "the hub stores as many bytes as it may (store_bytes_max); try again when the retention of older \
                 commands has elapsed (history)",
            ),
            _ => Some(
                "the disk of the hub is almost full (store_free_min), and what remains is for what devices report; free \
                 space on the disk of the data folder, or lower store_free_min, and send again",
            ),
        }
    }
}

/// The writer's side.
pub(super) struct SpaceWatch<'c> {
    folder: PathBuf,
    bytes_max: u64,
    free_min: u64,
    pages: Statement<'c>,
    free_pages: Statement<'c>,
    page_bytes: u64,
    next: Instant,
}

impl<'c> SpaceWatch<'c> {
    pub(super) fn new(
        connection: &'c Connection,
        folder: PathBuf,
        bytes_max: u64,
        free_min: u64,
    ) -> Result<Self> {
        let page_bytes =
            connection.pragma_query_value(None, "page_size", |row| rows::uint(row, 0))?;
        Ok(Self {
            folder,
            bytes_max,
            free_min,
            pages: connection.prepare("PRAGMA page_count")?,
            free_pages: connection.prepare("PRAGMA freelist_count")?,
            page_bytes,
            next: Instant::now(),
        })
    }

    /// Looks, if the last look is old enough. To be called between commits.
    pub(super) fn step(&mut self, space: &Space) -> Result<()> {
        let now = Instant::now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + STORE_SPACE_LOOK_EVERY;
        let found = if self.bytes_max > 0 && self.used_bytes()? >= self.bytes_max {
            TOO_MANY_BYTES
        } else if self.free_min > 0 && self.free_bytes().is_some_and(|free| free < self.free_min) {
            DISK_ALMOST_FULL
        } else {
            ENOUGH
        };
        let before = space.0.swap(found, Ordering::Relaxed);
        if before != found {
            match space.full() {
                Some(why) => tracing::warn!("sends are refused: {why}"),
                None => tracing::info!("sends are taken again: the store has space"),
            }
        }
        Ok(())
    }

    /// What the tables take. Pages that were freed are used again, and the log goes into the file.
    fn used_bytes(&mut self) -> Result<u64> {
        let count =
            |statement: &mut Statement<'_>| statement.query_row([], |row| rows::uint(row, 0));
        let pages = count(&mut self.pages)?.saturating_sub(count(&mut self.free_pages)?);
        Ok(pages.saturating_mul(self.page_bytes))
    }

    /// What is free for this account; `None` when the system does not report it.
    fn free_bytes(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&self.folder).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }
}
