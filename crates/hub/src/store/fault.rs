//! A disk that dies: the real SQLite store on real files, with every write counted.
//!
//! [`FaultyDisk`] is a file system of SQLite (a VFS) that passes everything on to the system's own,
//! and at the n-th write, truncation, sync or deletion dies: that one and all after it fail. Then
//! [`FaultyDisk::bury`] leaves on disk what such a death would leave, and the ordinary store is
//! opened on it. Only tests use this (feature `fault`).
//!
//! Left out: a deletion is taken to be durable at once, and the shared memory of the log's index is
//! passed on uncounted (SQLite never trusts it after a crash). There is no memory-mapped I/O: the
//! VFS offers none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Options;

mod vfs;

/// How a disk dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The process is killed: what was written stays, the last write maybe in part.
    Kill,
    /// Power is cut: of what was not synced, any part may be lost, by sectors of 512 bytes.
    PowerCut,
    /// The disk is full: writes fail from now on, and all else goes on.
    Full,
}

/// A disk that fails at a given operation.
#[derive(Debug)]
pub struct FaultyDisk {
    name: String,
    disk: Arc<Mutex<Disk>>,
}

/// Pages in the log before it is checkpointed: few, so that a short history has checkpoints too.
const CHECKPOINT_PAGES: u32 = 12;

impl FaultyDisk {
    /// A disk that dies at its n-th operation. `seed` decides what of the last writes survives.
    ///
    /// # Panics
    /// When SQLite refuses the VFS, which would be a fault of this module.
    pub fn new(dies_at: u64, death: Death, seed: u64) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("bellwire-fault-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let disk = Arc::new(Mutex::new(Disk {
            dies_at,
            death,
            random: seed,
            operations: 0,
            dead: false,
            files: Vec::new(),
        }));
        vfs::register(&name, Arc::clone(&disk));
        Self { name, disk }
    }

    /// Options that put a store on this disk.
    pub fn options(&self) -> Options {
        Options::default().vfs(self.name.clone(), CHECKPOINT_PAGES)
    }

    /// Whether it has died.
    pub fn is_dead(&self) -> bool {
        lock(&self.disk).dead
    }

    /// To be called when no store uses the disk any more: makes its files what they would be after the failure.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn bury(self) -> io::Result<()> {
        lock(&self.disk).bury()
    }
}

/// What the files hold, what of it is durable, and when it ends.
#[derive(Debug)]
struct Disk {
    dies_at: u64,
    death: Death,
    random: u64,
    operations: u64,
    dead: bool,
    files: Vec<DiskFile>,
}

#[derive(Debug)]
struct DiskFile {
    path: PathBuf,
    /// The bytes as of the last sync; `None` when there was none and the file is new.
    durable: Option<Vec<u8>>,
    /// What came since, in order.
    pending: Vec<Pending>,
}

#[derive(Debug)]
enum Pending {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
}

/// Whether an operation is carried out.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It is carried out.
    Done,
    /// It is the last, of which something may be carried out.
    Last,
    /// It comes too late.
    Never,
}

/// The least that a disk writes at once.
const SECTOR_BYTES: usize = 512;

impl Disk {
    /// Counts an operation.
    fn operation(&mut self) -> Fate {
        if self.dead {
            return Fate::Never;
        }
        self.operations += 1;
        self.dead = self.operations >= self.dies_at;
        if self.dead { Fate::Last } else { Fate::Done }
    }

    /// The number of the file at `path`.
    fn opened(&mut self, path: &Path, existed: bool) -> usize {
        if let Some(known) = self.files.iter().position(|file| file.path == path) {
            return known;
        }
        let durable = existed.then(|| fs::read(path).unwrap_or_default());
        self.files.push(DiskFile { path: path.into(), durable, pending: Vec::new() });
        self.files.len() - 1
    }

    fn pend(&mut self, file: usize, pending: Pending) {
        if let Some(file) = self.files.get_mut(file) {
            file.pending.push(pending);
        }
    }

    fn synced(&mut self, file: usize) {
        if let Some(file) = self.files.get_mut(file) {
            let mut bytes = file.durable.take().unwrap_or_default();
            for pending in file.pending.drain(..) {
                pending.apply(&mut bytes, |_| true);
            }
            file.durable = Some(bytes);
        }
    }

    fn deleted(&mut self, path: &Path) {
        if let Some(file) = self.files.iter_mut().find(|file| file.path == path) {
            file.durable = None;
            file.pending.clear();
        }
    }

    fn bury(&mut self) -> io::Result<()> {
        if self.death != Death::PowerCut || !self.dead {
            return Ok(());
        }
        // Some disks lose everything that was not synced, some nothing, most something.
        let odds = self.below(4);
        for mut file in std::mem::take(&mut self.files) {
            let was_durable = file.durable.is_some();
            if !was_durable && (file.pending.is_empty() || self.below(4) < odds) {
                // The name of a new file is not durable either. It may not even be there.
                remove_if_there(&file.path)?;
                continue;
            }
            let mut bytes = file.durable.take().unwrap_or_default();
            for pending in file.pending {
                pending.apply(&mut bytes, |_| self.below(3) < odds);
            }
            fs::write(&file.path, bytes)?;
        }
        Ok(())
    }

    /// A number below `n`: SplitMix64 (Steele, Lea, Flood 2014), which needs no more than a seed.
    fn below(&mut self, n: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n.max(1)
    }
}

impl Pending {
    /// Carries it out on `file`, sector by sector where `survives` says so.
    fn apply(self, file: &mut Vec<u8>, mut survives: impl FnMut(usize) -> bool) {
        match self {
            Self::Truncate(length) => {
                if survives(0) {
                    file.resize(length, 0);
                }
            }
            Self::Write { mut at, bytes } => {
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let length = (SECTOR_BYTES - at % SECTOR_BYTES).min(rest.len());
                    let (sector, after) = rest.split_at(length);
                    if survives(at / SECTOR_BYTES) {
                        if file.len() < at + length {
                            file.resize(at + length, 0);
                        }
                        if let Some(place) = file.get_mut(at..at + length) {
                            place.copy_from_slice(sector);
                        }
                    }
                    at += length;
                    rest = after;
                }
            }
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}
