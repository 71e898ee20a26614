//! From a command to a process: environment, pipes, group, umask, user.
//!
//! A program gets descriptors 0 to 3 and default signals, whatever the agent was started with, and is run by
//! the kernel or not at all. That and the umask have no safe way in the standard library: [`prepare_child`],
//! and the [`Image`] that it becomes, are the only unsafe code of this crate.
#![expect(unsafe_code, reason = "pre_exec runs between fork and exec")]

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::process::Stdio;

use bellwire_proto::DeviceId;
use bellwire_proto::stream::CommandEvent;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::super::fault;
use super::super::run::{DataDir, DataFile, input_of};
use super::account::{self, Account};
use super::find::own_path;
use super::output::Pipes;
use super::{Environment, Program};

/// The descriptor on which a program may write its result.
const RESULT_FD: RawFd = 3;

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
        data_dir: &DataDir,
    ) -> Result<Spawned, String> {
        if let Some(account) = self.user.as_ref().filter(|account| !account.is_process())
            && !rustix::process::geteuid().is_root()
        {
            return Err(format!("only an agent that runs as root can become {}", account.name));
        }
        let file = self.file().map_err(|error| self.explain(&error.into()))?;
        let data = input_of(&command.data);
        let other = self.user.as_ref().filter(|account| !account.is_process());
        let owner = other.map(|account| (account.uid, account.gid));
        let data_file = data_dir
            .file(command.id, &data, owner)
            .map_err(|e| format!("the file for the data cannot be made: {e}"))?;
        let mut process = self.process(command, device, &data_file);
        let (result, result_of_child) =
            io::pipe().map_err(|e| format!("no pipe can be made: {e}"))?;
        let image = self.image(&file, &process).map_err(|e| self.explain(&e))?;
        prepare_child(&mut process, self.umask, result_of_child.into(), image);
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
            process.env_clear().env("PATH", own_path()).env("HOME", self.home());
            process.envs(more.iter().map(|(name, value)| (name, value)));
        }
        process
            .env("BELLWIRE_COMMAND", command.id.to_string())
            .env("BELLWIRE_ACTION", command.action.as_str())
            .env("BELLWIRE_DEVICE", device.as_str())
            .env("BELLWIRE_ATTEMPT", command.attempt.to_string())
            .env("BELLWIRE_EXPIRES_AT", command.expires_at.to_string())
            .env("BELLWIRE_DATA_FILE", data_file.path());
        if let Some(folder) = &self.cwd {
            process.current_dir(folder);
        }
        if let Some(account) = self.user.as_ref().filter(|account| !account.is_process()) {
            process.uid(account.uid).gid(account.gid);
        }
        process
    }

    /// What the kernel is to run, and what that finds.
    fn image(&self, file: &Path, process: &Command) -> io::Result<Image> {
        let mut variables: BTreeMap<OsString, OsString> = match &self.environment {
            Environment::Inherited => std::env::vars_os().collect(),
            Environment::Cleared(_) => BTreeMap::new(),
        };
        for (name, value) in process.as_std().get_envs() {
            variables.remove(name);
            variables.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        }
        let variables = variables.into_iter().map(|(mut variable, value)| {
            variable.push("=");
            variable.push(value);
            variable
        });
        Ok(Image {
            file: CString::new(file.as_os_str().as_bytes())?,
            argv: Texts::of(self.argv().map(OsStr::to_owned))?,
            environment: Texts::of(variables)?,
        })
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
            _ if error.raw_os_error() == Some(libc::ENOEXEC) => format!(
                "{program} cannot be started: it is no program of this machine, nor a script that begins with #!"
            ),
            _ => format!("{program} cannot be started: {error}"),
        }
    }
}

/// What the kernel is to run. The standard library asks `execvp` for that, which in some C libraries hands what
/// the kernel refuses to a shell: a file of zeros, as a power cut may leave one, then ends well.
struct Image {
    file: CString,
    argv: Texts,
    environment: Texts,
}

impl Image {
    /// Becomes it. It returns only when the kernel refuses, and says why. To be called between fork and exec.
    fn run(&self) -> io::Error {
        let (argv, environment) = (&self.argv.pointers, &self.environment.pointers);
        // SAFETY: async-signal-safe (POSIX, 2.4.3), and all that it reads was made before the fork and ends
        // with a null.
        unsafe { libc::execve(self.file.as_ptr(), argv.as_ptr(), environment.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// Texts, and pointers to them with a null at their end.
struct Texts {
    _texts: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

// SAFETY: the pointers lead to what it owns itself, on the heap, which nobody changes.
unsafe impl Send for Texts {}
// SAFETY: see there.
unsafe impl Sync for Texts {}

impl Texts {
    fn of(texts: impl IntoIterator<Item = OsString>) -> io::Result<Self> {
        let texts: Vec<CString> = texts
            .into_iter()
            .map(|text| CString::new(text.into_vec()))
            .collect::<Result<_, _>>()?;
        let pointers = texts.iter().map(|text| text.as_ptr());
        let pointers = pointers.chain([std::ptr::null()]).collect();
        Ok(Self { _texts: texts, pointers })
    }
}

/// Sets what can only be set in the child itself, between fork and exec, and has the kernel run it.
fn prepare_child(process: &mut Command, umask: Option<u32>, result: OwnedFd, image: Image) {
    let descriptors = descriptors_past(RESULT_FD);
    let prepare = move || {
        // SAFETY: all of these are async-signal-safe (POSIX, 2.4.3), take plain numbers, and answer
        // with an error where a number is none; nothing here allocates or locks. What the parent had
        // as descriptor 3 is replaced in this process alone, where it is of no use. In particular it
        // is not the pipe by which the standard library tells that exec failed: the result's pipe was
        // made before that one, and has the lowest free numbers.
        let set = unsafe {
            if let Some(mask) = umask {
                libc::umask(mask);
            }
            // What the agent ignores, or whoever started it did, a program does not expect to.
            for signal in 1..=libc::SIGRTMAX() {
                libc::signal(signal, libc::SIG_DFL);
            }
            // Ours end with exec in any case; these are the ones that the agent was started with.
            for descriptor in &descriptors {
                libc::fcntl(*descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
            }
            if result.as_raw_fd() == RESULT_FD {
                libc::fcntl(RESULT_FD, libc::F_SETFD, 0)
            } else {
                libc::dup2(result.as_raw_fd(), RESULT_FD)
            }
        };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
        Err(image.run())
    };
    // SAFETY: see there.
    unsafe { process.pre_exec(prepare) };
}

/// What this process has open past a descriptor.
fn descriptors_past(first: RawFd) -> Vec<RawFd> {
    let names = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|descriptor| *descriptor > first)
        .collect()
}
