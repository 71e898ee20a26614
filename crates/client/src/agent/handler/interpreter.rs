//! Whether the interpreter of a script is there: the kernel's error for one that is not reads as if the script were missing.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::Program;
use super::elf;
use super::find::ProgramError;

/// Bytes of the first line that the kernel reads (BINPRM_BUF_SIZE).
const LINE_BYTES_MAX: u64 = 256;
/// What some editors of Windows put before UTF-8; the kernel then sees no `#!`.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl Program {
    /// As [`Program::file`], and its interpreter can be executed too, if it is a script.
    ///
    /// # Errors
    /// When the kernel would refuse to execute it.
    pub fn executable(&self) -> Result<PathBuf, ProgramError> {
        let file = self.file()?;
        let Some(start) = start(&file) else { return Ok(file) };
        if start.strip_prefix(BYTE_ORDER_MARK).is_some_and(|rest| rest.starts_with(b"#!")) {
            return Err(ProgramError::ByteOrderMark(file));
        }
        if let Some(fault) = elf::fault(&start) {
            return Err(ProgramError::Binary { file, fault });
        }
        let Some(line) = first_line(&start) else { return Ok(file) };
        if line.ends_with(b"\r") {
            return Err(ProgramError::CarriageReturn(file));
        }
        let mut words =
            line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
        let Some(interpreter) = words.next() else {
            return Err(ProgramError::NoInterpreter(file));
        };
        let missing = |interpreter: &[u8]| ProgramError::Interpreter {
            script: file.clone(),
            interpreter: path(interpreter),
        };
        // A relative one is looked for in the folder of the script's process, as everything relative.
        let at = self.working_dir().map_or(path(interpreter), |cwd| cwd.join(path(interpreter)));
        if !at.exists() {
            return Err(missing(interpreter));
        }
        // `env` looks for its argument in PATH.
        if let (true, Some(name), None) = (at.ends_with("env"), words.next(), words.next())
            && !name.starts_with(b"-")
            && !name.contains(&b'=')
            && self.named(OsStr::from_bytes(name)).file().is_err()
        {
            return Err(missing(name));
        }
        Ok(file)
    }

    /// Another program in the same environment.
    fn named(&self, name: &OsStr) -> Self {
        Self { program: name.to_owned(), ..self.clone() }
    }
}

/// What the kernel looks at to decide how to execute a file; `None` if this process may not read it.
fn start(file: &Path) -> Option<Vec<u8>> {
    let mut start = Vec::new();
    File::open(file).ok()?.take(LINE_BYTES_MAX).read_to_end(&mut start).ok()?;
    Some(start)
}

/// What follows `#!` in the first line of a script.
fn first_line(start: &[u8]) -> Option<&[u8]> {
    start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()
}

fn path(bytes: &[u8]) -> PathBuf {
    OsStr::from_bytes(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// The kernel said "No such file" of a script that was there: it had come from Windows, or its interpreter had not.
    #[test]
    fn a_script_without_its_interpreter_is_named_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("script");
        let found = |first_line: &str| {
            std::fs::write(&file, format!("{first_line}\n")).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
            Program::new(&file, [""; 0]).executable().map_err(|error| error.to_string())
        };
        for good in
            ["#!/bin/sh", "#! /bin/sh -e", "#!/usr/bin/env sh", "#!/usr/bin/env -S sh -e", "x"]
        {
            assert_eq!(found(good).as_ref(), Ok(&file), "{good}");
        }
        for (bad, named) in [
            ("#!/no/such/python -u", "/no/such/python"),
            ("#!/bin/sh\r", "CR LF"),
            ("#!/usr/bin/env sh\r", "CR LF"),
            ("#!/usr/bin/env no-such-python", "no-such-python"),
            ("\u{feff}#!/bin/sh", "byte order mark"),
            ("#!", "names no interpreter"),
            ("#! \t", "names no interpreter"),
            ("\x7fELF", "is cut off"),
        ] {
            let error = found(bad).unwrap_err();
            assert!(error.contains(named) && error.contains("script"), "{bad}: {error}");
        }
    }
}
