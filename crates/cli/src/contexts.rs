//! The contexts of this user: hubs under names, in a file that is its owner's alone.
//!
//! A change reads the file, changes it and replaces it under a lock, so that two at once lose nothing, and a crash leaves
//! the old file or the new one. `context.rs` is the command; here is the file.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bellwire_proto::limits::{CONTEXTS_FILE_BYTES_MAX, CONTEXTS_LOCK_TIMEOUT};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::exit::Usage;
use crate::out;

/// All contexts, as they are in the file.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The name of the one in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// By name.
    #[serde(default)]
    pub(crate) context: BTreeMap<String, Context>,
}

/// A hub, and how to reach it. Not printable: a token, and a password in the URL, are secrets.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// Its URL.
    pub(crate) hub: String,
    /// The token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// The file that contains the token; `token` wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// Authorities to trust, beside the platform's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
}

impl Contexts {
    /// The context of this name.
    ///
    /// # Errors
    /// [`Usage`] lists those that there are.
    pub(crate) fn get(&self, name: &str) -> Result<&Context, Usage> {
        self.context.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.context.keys().map(String::as_str).collect();
            let known = match known.as_slice() {
                [] => "there are none; add it with: bellwire context add NAME URL".to_owned(),
                known => format!("there are {}", known.join(", ")),
            };
            Usage(format!("no context is named {name:?}: {known}"))
        })
    }
}

/// The contexts of this user; none where there is no file.
///
/// # Errors
/// [`Usage`] names the file that cannot be read.
pub(crate) fn load() -> Result<Contexts, Usage> {
    file().map_or_else(|| Ok(Contexts::default()), |file| read(&file))
}

/// Where the contexts are: `$XDG_CONFIG_HOME/bellwire/contexts.toml`, or below `~/.config`; `None` where there is neither.
fn file() -> Option<PathBuf> {
    // A relative one is invalid and ignored (XDG Base Directory Specification).
    let variable =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")))?;
    Some(folder.join("bellwire").join("contexts.toml"))
}

fn read(path: &Path) -> Result<Contexts, Usage> {
    let fault = |e: &dyn std::fmt::Display| {
        Usage(format!("the contexts in {} cannot be read: {e}", path.display()))
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Contexts::default()),
        Err(e) => return Err(fault(&e)),
    };
    let metadata = file.metadata().map_err(|e| fault(&e))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        // It may hold tokens. One that belongs to another user stays as it is.
        let private = file.set_permissions(fs::Permissions::from_mode(0o600));
        let path = path.display();
        out::note(&match private {
            Ok(()) => format!("{path} could be read by others; now it is yours alone (mode 0600)"),
            Err(e) => format!("{path} can be read by others, and its mode cannot be changed: {e}"),
        });
    }
    let mut text = String::new();
    file.take(CONTEXTS_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|e| fault(&e))?;
    // Part of a file would be written back as the whole.
    if text.len() as u64 > CONTEXTS_FILE_BYTES_MAX {
        return Err(fault(&format!("it is longer than {CONTEXTS_FILE_BYTES_MAX} bytes")));
    }
    // The message of the parser would quote the line, which may have a token.
    toml::from_str(&text).map_err(|e: toml::de::Error| {
        let at = e.span().and_then(|span| text.get(..span.start));
        let line = at.map_or(1, |before| before.matches('\n').count() + 1);
        fault(&format!("line {line}: {}", e.message()))
    })
}

/// Changes the contexts: all of it is on disk when this returns, or nothing.
///
/// # Errors
/// That of `change`, or of the disk.
pub(crate) fn change(
    change: impl FnOnce(&mut Contexts) -> Result<(), Usage>,
) -> anyhow::Result<()> {
    let path = file().ok_or_else(|| {
        Usage("contexts need a home: set HOME or XDG_CONFIG_HOME to an absolute path".to_owned())
    })?;
    let folder = path.parent().unwrap_or(&path);
    let failed = || format!("the contexts in {} cannot be written", path.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(failed)?;
    let _lock = lock(&folder.join("contexts.lock")).with_context(failed)?;

    let mut contexts = read(&path)?;
    change(&mut contexts)?;
    let text = toml::to_string(&contexts).with_context(failed)?;
    // Where the file is a link, as into a folder of dot files, what it points to is replaced.
    let target = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
    replace(&target, text.as_bytes()).with_context(failed)
}

/// The pause between two tries to lock.
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Holds the lock until it is dropped. A process that does not release it must not hold up this one for ever.
fn lock(path: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).mode(0o600).open(path)?;
    let until = Instant::now() + CONTEXTS_LOCK_TIMEOUT;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(LOCK_AGAIN_AFTER);
            }
            Err(Errno::WOULDBLOCK) => anyhow::bail!(
                "another process holds the lock {path} for longer than {s} s: end it (fuser {path} shows it) and try again",
                path = path.display(),
                s = CONTEXTS_LOCK_TIMEOUT.as_secs(),
            ),
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
}

/// Replaces a file in one step by one that its owner alone may read. The caller holds the lock.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("toml.new");
    // One that a crash left behind may have other modes.
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    // The new name is on disk with its folder.
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
