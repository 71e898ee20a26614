//! What the agent tells of itself on its own machine: one JSON object over a local socket.
//!
//! `agent.sock` in the state folder, open to the agent's own user. Whoever connects gets a
//! [`Status`] on one line, and the end. `bellwire agent status` reads it by [`read`].

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bellwire_proto::{Action, CommandId, DeviceId, Seq};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::sleep;

const SOCKET: &str = "agent.sock";
/// How long a reader may take.
const READER_TIMEOUT: Duration = Duration::from_secs(5);
/// When to accept again after that has failed, as it does without a free descriptor.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);
/// The longest status that is read.
const STATUS_BYTES_MAX: u64 = 1 << 20;
/// How many commands are told.
pub(super) const STATUS_COMMANDS_MAX: usize = 20;

/// The agent as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Who it is.
    pub device: DeviceId,
    /// For how long it has run, in seconds.
    pub up_s: u64,
    /// How it stands with the hub.
    pub connection: Connection,
    /// How it stands with its memory.
    pub journal: JournalStatus,
    /// The latest commands, newest first: 20 at most.
    pub commands: Vec<CommandStatus>,
}

/// The agent's connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Connection {
    /// The URL of the hub, without credentials.
    pub hub: String,
    /// Whether it listens now.
    pub connected: bool,
    /// Since when that is so, in seconds.
    pub since_s: u64,
    /// Program and version of the hub, once it has said hello.
    pub hub_version: Option<String>,
    /// Why the last connection was lost, or could not be made.
    pub last_loss: Option<String>,
    /// When the next one is tried, in seconds from now.
    pub retry_in_s: Option<u64>,
}

/// The agent's journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JournalStatus {
    /// The state folder.
    pub folder: PathBuf,
    /// How long the file is, in bytes.
    pub bytes: u64,
    /// How long it may get.
    pub bytes_max: u64,
    /// How many commands it remembers.
    pub commands: usize,
    /// How many of them are not done: waiting, running, or with a result to be told.
    pub under_way: usize,
}

/// A command as the device sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CommandStatus {
    /// The command.
    pub id: CommandId,
    /// Its place in the hub's order.
    pub seq: Seq,
    /// What it asks for; not known of one that was cancelled before it came, or was over long ago.
    pub action: Option<Action>,
    /// Where it is: `waiting`, `running`, or how it ended; `dropped` when the hub had ended it before
    /// it was started.
    pub state: String,
    /// Why, where it did not succeed: the error's code.
    pub code: Option<String>,
    /// Whether the hub knows how it ended.
    #[serde(rename = "told")]
    pub reported: bool,
    /// How often it was started; not known any more of one that was over long ago.
    pub runs: Option<u32>,
}

/// Asks the agent that runs on this state folder.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when none runs there; `InvalidData` when what answers is none.
pub async fn read(folder: &Path) -> io::Result<Status> {
    let mut text = Vec::new();
    let ask = async {
        let socket = UnixStream::connect(folder.join(SOCKET)).await?;
        socket.take(STATUS_BYTES_MAX).read_to_end(&mut text).await
    };
    tokio::time::timeout(READER_TIMEOUT, ask).await.map_err(|_| io::ErrorKind::TimedOut)??;
    serde_json::from_slice(&text).map_err(io::Error::from)
}

/// Opens the socket, in place of one that a dead agent left. The journal's lock is held by then, so
/// no living one is robbed of it.
pub(super) fn open(folder: &Path) -> io::Result<UnixListener> {
    let path = folder.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Gives those who come to read, one after the other, until nobody asks for them any more.
pub(super) fn readers(socket: UnixListener) -> mpsc::Receiver<UnixStream> {
    let accept = async move || socket.accept().await.map(|(reader, _)| reader);
    let (sender, readers) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            () = accept_all(accept, &sender) => {}
            () = sender.closed() => {}
        }
    });
    readers
}

/// Accepts for ever: what fails now, for want of a descriptor, may not fail later.
async fn accept_all<S>(accept: impl AsyncFn() -> io::Result<S>, sender: &mpsc::Sender<S>) {
    loop {
        match accept().await {
            Ok(reader) => drop(sender.send(reader).await),
            Err(error) => {
                tracing::warn!(%error, "a reader of the status was not accepted");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Tells one reader.
pub(super) async fn send(mut reader: UnixStream, status: Status) {
    let mut line = serde_json::to_vec(&status).unwrap_or_default();
    line.push(b'\n');
    let write = async { reader.write_all(&line).await };
    // A reader that went away does not matter.
    tokio::time::timeout(READER_TIMEOUT, write).await.ok();
}

/// Takes the socket away.
pub(super) fn close(folder: &Path) {
    std::fs::remove_file(folder.join(SOCKET)).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One `accept` without a free descriptor closed the status socket for good.
    #[tokio::test(start_paused = true)]
    async fn readers_are_accepted_again_after_that_has_failed() {
        let (sender, mut readers) = mpsc::channel(1);
        let tries = std::cell::Cell::new(0_u32);
        let accept = async || {
            tries.set(tries.get() + 1);
            if tries.get() <= 3 { Err(io::Error::from_raw_os_error(24)) } else { Ok(tries.get()) }
        };
        let first = tokio::select! {
            () = accept_all(accept, &sender) => None,
            reader = readers.recv() => reader,
        };
        assert_eq!(first, Some(4));
    }

    #[tokio::test]
    async fn the_socket_is_the_agents_own_users_alone() {
        let folder = tempfile::tempdir().unwrap();
        let _socket = open(folder.path()).unwrap();
        let mode = std::fs::metadata(folder.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
