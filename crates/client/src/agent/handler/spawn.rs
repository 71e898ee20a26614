//! Starts the process of a program: environment, pipes, group, umask, user.
//!
//! A program gets descriptors 0 to 3 and default signals, whatever the agent was started with, and the kernel runs it,
//! never a shell. For this and the umask the standard library has no safe interface: [`prepare_child`], and the
//! [`Image`] that it executes, are the only unsafe code of this crate.
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
use super::find::{ProgramError, own_path};
use super::output::Pipes;
use super::{Environment, Program};

/// The descriptor on which a program may write its result.
const RESULT_FD: RawFd = 3;

/// A process that was started, with what belongs to it.
pub(super) struct Spawned {
    pub(super) child: Child,
    pub(super) streams: Pipes,
    pub(super) data_file: DataFile,
}

impl Program {
    /// Starts the program for a command. The error is the message of the outcome.
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
        let file = self.executable().map_err(|error| match error {
            ProgramError::Interpreter { .. } | ProgramError::CarriageReturn(_) => {
                format!("{} cannot be started: {error}", self.program.display())
            }
            _ => self.explain(&error.into()),
        })?;
        let data = input_of(&command.data);
        let other = self.user.as_ref().filter(|account| !account.is_process());
        let owner = other.map(|account| (account.uid, account.gid));
        let data_file = data_dir
            .file(command.id, &data, owner)
            .map_err(|e| format!("the file for the data cannot be written: {e}"))?;
        let mut process = self.process(command, device, &data_file);
        let (result, result_of_child) =
            io::pipe().map_err(|e| format!("no pipe can be created: {e}"))?;
        let image = self.image(&file, &process).map_err(|e| self.explain(&e))?;
        prepare_child(&mut process, self.umask, result_of_child.into(), image);
        let spawned = process.spawn().map_err(|e| self.explain(&e));
        // Closes the child's end of the pipe in this process, so that reading it ends when the child closes it.
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

    /// What is executed, with arguments and environment.
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
            argv: CStrings::of(self.argv().map(OsStr::to_owned))?,
            environment: CStrings::of(variables)?,
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

    /// Why it could not be started: the system's error names neither the folder nor the user.
    fn explain(&self, error: &io::Error) -> String {
        let program = self.program.display();
        match (&self.cwd, &self.user) {
            (Some(folder), _) if !folder.is_dir() => {
                format!("{program} cannot be started in {}: no such folder", folder.display())
            }
            // The file is there: the kernel misses the loader that it names.
            _ if error.raw_os_error() == Some(libc::ENOENT) && self.executable().is_ok() => {
                format!(
                    "{program} cannot be started: the loader that it needs is not there; it was built for another C library (see: file {program})"
                )
            }
            (_, Some(account)) => {
                format!("{program} cannot be started as {}: {error}", account.name)
            }
            _ if error.raw_os_error() == Some(libc::ENOEXEC) => format!(
                "{program} cannot be started: it is neither a program for this machine nor a script that begins with #!"
            ),
            _ => format!("{program} cannot be started: {error}"),
        }
    }
}

/// The arguments of execve(2). The standard library calls `execvp` instead, which in some C libraries hands what the
/// kernel refuses to a shell: a file of zeros, as a power cut may leave one, then succeeds.
struct Image {
    file: CString,
    argv: CStrings,
    environment: CStrings,
}

impl Image {
    /// Executes it; returns only when the kernel refuses. To be called between fork and exec.
    fn run(&self) -> io::Error {
        let (argv, environment) = (&self.argv.pointers, &self.environment.pointers);
        // SAFETY: async-signal-safe (POSIX, 2.4.3); all that it reads was allocated before the fork and ends with a
        // null.
        unsafe { libc::execve(self.file.as_ptr(), argv.as_ptr(), environment.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// C strings, and an array of pointers to them that ends with a null.
struct CStrings {
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

// SAFETY: the pointers lead to strings that it owns itself, on the heap, and never changes.
unsafe impl Send for CStrings {}
// SAFETY: as for `Send`.
unsafe impl Sync for CStrings {}

impl CStrings {
    fn of(texts: impl IntoIterator<Item = OsString>) -> io::Result<Self> {
        let strings: Vec<CString> = texts
            .into_iter()
            .map(|text| CString::new(text.into_vec()))
            .collect::<Result<_, _>>()?;
        let pointers = strings.iter().map(|text| text.as_ptr());
        let pointers = pointers.chain([std::ptr::null()]).collect();
        Ok(Self { _strings: strings, pointers })
    }
}

/// Sets what can only be set in the child itself, between fork and exec, and executes the program.
fn prepare_child(process: &mut Command, umask: Option<u32>, result: OwnedFd, image: Image) {
    let descriptors = descriptors_above(RESULT_FD);
    let prepare = move || {
        // SAFETY: all of these are async-signal-safe (POSIX, 2.4.3), take plain numbers, and return an error for an
        // invalid one; nothing here allocates or locks. The parent's descriptor 3 is replaced in this process alone,
        // which does not use it. It is not the pipe by which the standard library reports that exec failed: the
        // result's pipe was created before that one, and has the lowest free numbers.
        let set = unsafe {
            if let Some(mask) = umask {
                libc::umask(mask);
            }
            // A program does not expect the signals to be ignored that the agent, or its parent, ignores.
            for signal in 1..=libc::SIGRTMAX() {
                libc::signal(signal, libc::SIG_DFL);
            }
            // The agent's own close at exec in any case; these are the ones that it was started with.
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
    // SAFETY: the closure does only what its own comment allows.
    unsafe { process.pre_exec(prepare) };
}

/// The open descriptors of this process above `first`.
fn descriptors_above(first: RawFd) -> Vec<RawFd> {
    let names = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|descriptor| *descriptor > first)
        .collect()
}
