//! From a command to a process: environment, data, pipes, group, umask, user.
//!
//! File descriptor 3 and the umask have no safe way in the standard library: both are set between
//! fork and exec, in the one unsafe block of this crate.
#![expect(unsafe_code, reason = "pre_exec runs between fork and exec")]

use std::ffi::OsString;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{CommandId, DeviceId, Json};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::super::fault;
use super::account::{self, Account};
use super::output::Pipes;
use super::{Environment, Program};

/// Where a program is looked for when this process has no `PATH` itself.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The descriptor on which a program may write its result.
const RESULT_FD: i32 = 3;

/// A process that runs.
pub(super) struct Spawned {
    pub(super) child: Child,
    pub(super) streams: Pipes,
    pub(super) data_file: DataFile,
}

impl Program {
    /// Starts the program for a command. The error is for a person.
    pub(super) fn spawn(
        &self,
        command: &CommandEvent,
        device: &DeviceId,
    ) -> Result<Spawned, String> {
        let data = input_of(&command.data);
        let data_file = DataFile::create(command.id, &data, self.user.as_ref())
            .map_err(|e| format!("the file for the data cannot be made: {e}"))?;
        let mut process = self.process(command, device, &data_file);
        let (result, result_of_child) =
            io::pipe().map_err(|e| format!("no pipe can be made: {e}"))?;
        prepare_child(&mut process, self.umask, result_of_child.into());
        let spawned = process.spawn().map_err(|e| self.explain(&e));
        // With it the child's end of the pipe is closed here, so that its end is seen.
        drop(process);
        let mut child = spawned?;
        fault::at(fault::Point::Spawned);
        let result = pipe::Receiver::from_owned_fd(result.into())
            .map_err(|e| format!("the result's pipe cannot be read: {e}"))?;
        let streams = Pipes {
            stdin: child.stdin.take(),
            data,
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            result,
        };
        Ok(Spawned { child, streams, data_file })
    }

    fn process(&self, command: &CommandEvent, device: &DeviceId, data_file: &DataFile) -> Command {
        let mut process = Command::new(&self.program);
        process
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Environment::Cleared(more) = &self.environment {
            let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
            process.env_clear().env("PATH", path).env("HOME", self.home());
            process.envs(more.iter().map(|(name, value)| (name, value)));
        }
        process
            .env("BELLWIRE_COMMAND", command.id.to_string())
            .env("BELLWIRE_ACTION", command.action.as_str())
            .env("BELLWIRE_DEVICE", device.as_str())
            .env("BELLWIRE_ATTEMPT", command.attempt.to_string())
            .env("BELLWIRE_EXPIRES_AT", command.expires_at.to_string())
            .env("BELLWIRE_DATA_FILE", &data_file.0);
        if let Some(folder) = &self.cwd {
            process.current_dir(folder);
        }
        if let Some(account) = &self.user {
            process.uid(account.uid).gid(account.gid);
        }
        process
    }

    fn home(&self) -> OsString {
        let of_account = |account: &Account| account.home.clone().into_os_string();
        self.user.as_ref().map(of_account).or_else(|| std::env::var_os("HOME")).unwrap_or_else(
            || {
                let own = account::of_process();
                own.as_ref().map_or_else(|| "/".into(), of_account)
            },
        )
    }

    /// Why it could not be started: the system's word says neither what was missing nor for whom.
    fn explain(&self, error: &io::Error) -> String {
        let program = self.program.display();
        match (&self.cwd, &self.user) {
            (Some(folder), _) if !folder.is_dir() => {
                format!("{program} cannot be started in {}: no such folder", folder.display())
            }
            (_, Some(account)) => {
                format!("{program} cannot be started as {}: {error}", account.name)
            }
            _ => format!("{program} cannot be started: {error}"),
        }
    }
}

/// Sets what can only be set in the child itself.
fn prepare_child(process: &mut Command, umask: Option<u32>, result: OwnedFd) {
    let prepare = move || {
        if let Some(mask) = umask {
            rustix::process::umask(rustix::fs::Mode::from_bits_truncate(mask));
        }
        if result.as_raw_fd() == RESULT_FD {
            rustix::io::fcntl_setfd(&result, rustix::io::FdFlags::empty())?;
        } else {
            // SAFETY: in the child nobody uses what the parent had as descriptor 3, and it is not
            // closed by this owner, so that it passes to the program.
            let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(RESULT_FD) });
            rustix::io::dup2(&result, &mut target)?;
        }
        Ok(())
    };
    // SAFETY: umask, fcntl and dup2 are async-signal-safe (POSIX, 2.4.3), and nothing here
    // allocates or locks: an error is a plain number.
    unsafe { process.pre_exec(prepare) };
}

/// The data of a command as a file that its program can read and nobody else. Deleted when dropped.
pub(super) struct DataFile(PathBuf);

impl DataFile {
    fn create(command: CommandId, data: &[u8], owner: Option<&Account>) -> io::Result<Self> {
        let path = data_file_path(command);
        // What an agent that was killed has left; nobody else can guess the name beforehand.
        std::fs::remove_file(&path).ok();
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let this = Self(path);
        io::Write::write_all(&mut file, data)?;
        if let Some(account) = owner.filter(|account| !account.is_process()) {
            fchown(&file, Some(account.uid), Some(account.gid))?;
        }
        Ok(this)
    }
}

impl Drop for DataFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

/// Where a command's data lies while its program runs: systemd's runtime folder if there is one,
/// else the one for temporary files; in memory on most machines.
pub(super) fn data_file_path(command: CommandId) -> PathBuf {
    let of_systemd = std::env::var_os("RUNTIME_DIRECTORY")
        // Several are written with colons between them.
        .and_then(|all| std::env::split_paths(&all).next())
        .filter(|folder| folder.is_absolute());
    let folder = of_systemd.unwrap_or_else(std::env::temp_dir);
    Path::join(&folder, format!("bellwire-{command}.data"))
}

/// What a program reads: a JSON string as its text, `null` as nothing, the rest as compact JSON.
///
/// ```
/// use bellwire_client::agent::handler::input_of;
/// use bellwire_proto::Json;
/// assert_eq!(input_of(&Json::parse(r#"{ "a": [1.50, "x y"] }"#)?), br#"{"a":[1.50,"x y"]}"#);
/// assert_eq!(input_of(&Json::parse(r#""two\nlines""#)?), b"two\nlines");
/// # Ok::<(), bellwire_proto::json::InvalidJson>(())
/// ```
pub fn input_of(data: &Json) -> Vec<u8> {
    if data.is_null() {
        return Vec::new();
    }
    match data.read::<String>() {
        Ok(text) => text.into_bytes(),
        Err(_) => compact(data.as_str()).into_bytes(),
    }
}

/// JSON without the white space between its tokens; digits and order stay.
fn compact(json: &str) -> String {
    let (mut in_text, mut escaped) = (false, false);
    let kept = json.chars().filter(|c| {
        let keep = in_text || !c.is_ascii_whitespace();
        if *c == '"' && !escaped {
            in_text = !in_text;
        }
        escaped = in_text && *c == '\\' && !escaped;
        keep
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_json_keeps_what_is_in_quotes() {
        let json = r#"{ "a b" : "\\\" c" , "d" : [ 1.0 , "\\" ] }"#;
        assert_eq!(compact(json), r#"{"a b":"\\\" c","d":[1.0,"\\"]}"#);
    }
}
