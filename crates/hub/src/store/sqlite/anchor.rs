//! The clocks over a restart: the writer notes now and then what both of them show.
//!
//! The note is written with a commit, and at once after the wall clock was set: a start on another
//! boot of the machine counts the time since by the wall clock, which must then be the right one.

use std::time::Duration;

use bellwire_core::Instant;
use bellwire_proto::Timestamp;
use rusqlite::{Connection, Result, Statement, params};

use super::rows::int;
use crate::clock::{Anchor, Clock, was_set};

/// The age after which a note is replaced.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// How often the writer looks whether the wall clock was set, with nothing to commit.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);

const KEYS: [&str; 4] = ["clock_ms", "clock_wall_ms", "clock_boottime_ms", "clock_boot"];

pub(super) struct AnchorWriter<'c> {
    clock: Clock,
    noted: Option<Anchor>,
    put: Statement<'c>,
}

impl<'c> AnchorWriter<'c> {
    pub(super) fn new(connection: &'c Connection, clock: Clock) -> Result<Self> {
        let put = connection.prepare("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?;
        Ok(Self { clock, noted: None, put })
    }

    /// Whether there is something to note.
    pub(super) fn is_due(&self) -> bool {
        let Some(noted) = self.noted else { return true };
        let now = self.clock.now();
        now.instant.since(noted.instant) >= NOTE_EVERY || was_set(noted, now)
    }

    /// Notes what the clocks show, within the transaction that is open, if that is due.
    pub(super) fn step(&mut self) -> Result<()> {
        if self.is_due() {
            self.note()?;
        }
        Ok(())
    }

    fn note(&mut self) -> Result<()> {
        let anchor = self.clock.anchor();
        if let Some(noted) = self.noted.filter(|noted| was_set(*noted, self.clock.now())) {
            let back = anchor.wall < noted.wall;
            let credentials = if back {
                "; whether a credential has expired is judged by the later time until a restart"
            } else {
                ""
            };
            tracing::warn!(before = %noted.wall, now = %anchor.wall, "the wall clock was set{credentials}");
        }
        let values = [
            int(anchor.instant.ms()),
            int(anchor.wall.unix_ms()),
            int(anchor.boottime_ms),
            anchor.boot,
        ];
        for (key, value) in KEYS.into_iter().zip(values) {
            self.put.execute(params![key, value])?;
        }
        self.noted = Some(anchor);
        Ok(())
    }
}

/// The last note of an earlier run. A new file has none, nor has one of schema version 1, whose
/// times were all of the wall clock: its monotonic clock begins there.
pub(super) fn read(connection: &Connection) -> Result<Option<Anchor>> {
    let mut values = [None; 4];
    let mut statement = connection.prepare("SELECT value FROM meta WHERE key = ?1")?;
    for (key, value) in KEYS.into_iter().zip(&mut values) {
        *value = statement.query_map([key], |row| row.get::<_, i64>(0))?.next().transpose()?;
    }
    let [Some(instant), Some(wall), Some(boottime_ms), Some(boot)] = values else {
        return Ok(None);
    };
    let uint = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok(Some(Anchor {
        instant: Instant::from_ms(uint(instant)),
        wall: Timestamp::from_unix_ms(uint(wall)),
        boottime_ms: uint(boottime_ms),
        boot,
    }))
}
