//! Which file a program is: the search that the system makes when it starts one.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::Program;

/// The search path of a process that has no `PATH`.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a program cannot be started: the caller, or the configuration, names the wrong file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// There is no such file. Holds the name as it was given.
    #[error("there is no such program: {0}")]
    NotFound(PathBuf),
    /// The file is no regular file with an execute permission. Holds its path.
    #[error("it cannot be executed: {0}")]
    NotExecutable(PathBuf),
    /// It is a script, and the interpreter in its first line is not on this machine.
    #[error("the script {} needs {}, which is not there: install it, or correct its first line", .script.display(), .interpreter.display())]
    Interpreter {
        /// The script's path.
        script: PathBuf,
        /// The interpreter, as the first line names it.
        interpreter: PathBuf,
    },
    /// It is a script whose first line ends with CR LF, as Windows writes it, so that no interpreter is found. Holds its path.
    #[error(
        "the script {} has lines that end with CR LF, as Windows writes them, and the kernel looks for an interpreter with the CR in its name: sed -i 's/\\r$//' {}", .0.display(), .0.display()
    )]
    CarriageReturn(PathBuf),
    /// It is a script that begins with a byte order mark, as editors of Windows write it, so that the kernel sees no `#!`. Holds
    /// its path.
    #[error("the script {} begins with a byte order mark, so that the kernel sees no #!: sed -i '1s/^\\xef\\xbb\\xbf//' {}", .0.display(), .0.display())]
    ByteOrderMark(PathBuf),
    /// It is a script whose first line is `#!` and nothing else. Holds its path.
    #[error("the first line of the script {} names no interpreter: write #!/bin/sh, for example", .0.display())]
    NoInterpreter(PathBuf),
    /// It is a binary that the kernel refuses.
    #[error("the program {} {fault}", .file.display())]
    Binary {
        /// Its path.
        file: PathBuf,
        /// What is wrong with it: the rest of a sentence.
        fault: String,
    },
}

impl From<ProgramError> for io::Error {
    fn from(error: ProgramError) -> Self {
        match error {
            ProgramError::NotFound(_)
            | ProgramError::Interpreter { .. }
            | ProgramError::CarriageReturn(_) => Errno::NOENT.into(),
            ProgramError::NotExecutable(_) => Errno::ACCESS.into(),
            ProgramError::ByteOrderMark(_)
            | ProgramError::NoInterpreter(_)
            | ProgramError::Binary { .. } => Errno::NOEXEC.into(),
        }
    }
}

/// The `PATH` of this process.
pub(super) fn own_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_else(|| PATH.into())
}

impl Program {
    /// The absolute path of the file that is executed: the name itself if there is a slash in it, else the first
    /// in `PATH`, as the program gets it, that can be run. What is relative, in the name or in `PATH`, is relative to
    /// the folder that the program starts in, as for execvp(3) after chdir(2).
    ///
    /// # Errors
    /// When there is none, or none that can be run.
    pub fn file(&self) -> Result<PathBuf, ProgramError> {
        let name = Path::new(&self.program);
        let candidates: Vec<PathBuf> = if self.program.as_encoded_bytes().contains(&b'/') {
            vec![name.to_owned()]
        } else {
            let path = self.variable(OsStr::new("PATH")).map_or_else(own_path, OsStr::to_owned);
            std::env::split_paths(&path).map(|folder| folder.join(name)).collect()
        };
        let mut not_executable = None;
        for candidate in candidates {
            let in_cwd = self.cwd.as_ref().map_or(candidate.clone(), |cwd| cwd.join(&candidate));
            let Ok(path) = std::path::absolute(in_cwd) else { continue };
            match std::fs::metadata(&path) {
                Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => {
                    return Ok(path);
                }
                Ok(_) => not_executable = not_executable.or(Some(path)),
                Err(_) => {}
            }
        }
        Err(not_executable
            .map_or_else(|| ProgramError::NotFound(name.to_owned()), ProgramError::NotExecutable))
    }
}

/// Whether it is a text without `#!`: the kernel refuses it, and some C libraries hand it to a shell.
pub(crate) fn is_nameless_script(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(4).read_to_end(&mut start));
    let is_text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    read.is_ok() && !start.starts_with(b"#!") && start.iter().all(is_text)
}

#[cfg(test)]
mod tests {
    use super::super::Environment;
    use super::*;

    #[test]
    fn a_program_is_found_as_execvp_finds_it() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("1"), folder.path().join("2"));
        for (folder, mode) in [(&first, 0o644), (&second, 0o755)] {
            std::fs::create_dir(folder).unwrap();
            let file = folder.join("tool");
            std::fs::write(&file, "echo\n").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let both = std::env::join_paths([&first, &second]).unwrap();
        let file = |program: &OsStr, path: &OsStr| {
            let variables = vec![("PATH".into(), path.to_owned())];
            Program::new(program, [""; 0]).environment(Environment::Cleared(variables)).file()
        };
        let found = file("tool".as_ref(), &both).unwrap();
        assert_eq!(found, second.join("tool"), "what cannot be executed is passed over");
        assert!(is_nameless_script(&found) && !is_nameless_script(Path::new("/bin/sh")));
        let only = file("tool".as_ref(), first.as_os_str());
        assert_eq!(only.unwrap_err(), ProgramError::NotExecutable(first.join("tool")));
        let none = file("no-such".as_ref(), &both);
        assert_eq!(none.unwrap_err(), ProgramError::NotFound("no-such".into()));
        assert!(file(second.as_os_str(), &both).is_err(), "a folder is no program");
    }
}
