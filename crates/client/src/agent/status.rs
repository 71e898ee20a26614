//! The agent's status on its own machine: one JSON object over a local socket.
//!
//! `agent.sock` in the state directory is private to the agent's user. A client that connects receives a
//! [`Status`] as one line, and the end of the stream. `bellwire agent status` reads it with [`read`].

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

use crate::path::Carrier;

const SOCKET: &str = "agent.sock";
/// How long a client may take.
const READER_TIMEOUT: Duration = Duration::from_secs(5);
/// When to accept again after an error, such as the lack of a file descriptor.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);
/// The longest status that is read.
const STATUS_BYTES_MAX: u64 = 1 << 20;

/// The state of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Its device.
    pub device: DeviceId,
    /// For how long it has run, in seconds.
    pub up_s: u64,
    /// The connection to the hub.
    pub connection: ConnectionStatus,
    /// The journal.
    pub journal: JournalStatus,
    /// The latest commands, newest first: 20 at most.
    pub commands: Vec<CommandStatus>,
}

/// The agent's connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConnectionStatus {
    /// The URL of the hub, without credentials.
    pub hub: String,
    /// The proxy that it goes through: its URL without credentials, or `none`. `None` while none is known to work.
    #[serde(default)]
    pub proxy: Option<String>,
    /// Why not through the preferred URL and proxy.
    #[serde(default)]
    pub hub_why: Option<String>,
    /// Whether the hub can be reached, on either way.
    pub connected: bool,
    /// For how long, in seconds.
    pub since_s: u64,
    /// Which way carries the commands; `None` while neither works.
    #[serde(default)]
    pub carrier: Option<Carrier>,
    /// For how long, in seconds.
    #[serde(default)]
    pub carrier_since_s: Option<u64>,
    /// Why not the better way.
    #[serde(default)]
    pub carrier_why: Option<String>,
    /// For how long no stream is tried any more, while streams are suspended, in seconds.
    #[serde(default)]
    pub stream_rests_s: Option<u64>,
    /// For how long nothing has arrived on any way, in seconds, if that is too long: whether the carrier works is not known.
    #[serde(default)]
    pub silent_s: Option<u64>,
    /// Program and version of the hub, from its last hello.
    pub hub_version: Option<String>,
    /// Why the last connection was lost or could not be made.
    pub last_loss: Option<String>,
    /// When the next attempt begins, in seconds from now; `None` while one is under way.
    pub retry_in_s: Option<u64>,
}

/// The agent's journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JournalStatus {
    /// The state directory.
    #[serde(rename = "folder")]
    pub dir: PathBuf,
    /// The length of the file, in bytes.
    pub bytes: u64,
    /// Its greatest length.
    pub bytes_max: u64,
    /// The number of commands in it.
    pub commands: usize,
    /// How many of them are not completed: waiting, running, or with a result that the hub has not confirmed.
    pub under_way: usize,
}

/// A command at the device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CommandStatus {
    /// The command.
    pub id: CommandId,
    /// Its position in the hub's order.
    pub seq: Seq,
    /// Its action; `None` if it was cancelled before it arrived, or completed long ago.
    pub action: Option<Action>,
    /// `waiting`, `running`, or how it ended; `dropped` if the hub had ended it before it was started.
    pub state: String,
    /// The error code, if it did not succeed.
    pub code: Option<String>,
    /// Whether the hub has confirmed its result.
    // `told` is the name that earlier agents send.
    #[serde(alias = "told")]
    pub reported: bool,
    /// How often it was started; `None` if it was completed long ago.
    pub runs: Option<u32>,
    /// Why it runs and has not begun: its service refuses connections.
    #[serde(default)]
    pub waits: Option<String>,
}

/// Reads the status of the agent that runs on this state directory.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` if no agent runs there; `InvalidData` if the answer is not a status.
pub async fn read(dir: &Path) -> io::Result<Status> {
    let mut text = Vec::new();
    let ask = async {
        let socket = UnixStream::connect(dir.join(SOCKET)).await?;
        socket.take(STATUS_BYTES_MAX).read_to_end(&mut text).await
    };
    tokio::time::timeout(READER_TIMEOUT, ask).await.map_err(|_| io::ErrorKind::TimedOut)??;
    serde_json::from_slice(&text).map_err(io::Error::from)
}

/// Opens the socket, and replaces that of an agent that crashed. The caller holds the journal's lock, so no running
/// agent loses its socket.
pub(super) fn open(dir: &Path) -> io::Result<UnixListener> {
    let path = dir.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Accepts clients one after the other, until the receiver is dropped.
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

/// Accepts for ever: an error, such as the lack of a file descriptor, may be temporary.
async fn accept_all<S>(accept: impl AsyncFn() -> io::Result<S>, sender: &mpsc::Sender<S>) {
    loop {
        match accept().await {
            Ok(reader) => drop(sender.send(reader).await),
            Err(error) => {
                tracing::warn!(%error, "a client of the status socket was not accepted");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Sends the status to one client.
pub(super) async fn send(mut reader: UnixStream, status: Status) {
    let mut line = serde_json::to_vec(&status).unwrap_or_default();
    line.push(b'\n');
    let write = async { reader.write_all(&line).await };
    // A client that disconnected does not matter.
    tokio::time::timeout(READER_TIMEOUT, write).await.ok();
}

/// Removes the socket.
pub(super) fn close(dir: &Path) {
    std::fs::remove_file(dir.join(SOCKET)).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_an_earlier_agent_can_be_read() {
        let text = |name: &str| {
            format!(
                r#"{{"id":"01890000-0000-7000-8000-000000000001","seq":1,"action":"a","state":"failed",
                "code":null,"{name}":true,"runs":1}}"#
            )
        };
        let [now, earlier] = ["reported", "told"]
            .map(|name| serde_json::from_str::<CommandStatus>(&text(name)).unwrap());
        assert!(now.reported);
        assert_eq!(now, earlier);
    }

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
        let dir = tempfile::tempdir().unwrap();
        let _socket = open(dir.path()).unwrap();
        let mode = std::fs::metadata(dir.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
