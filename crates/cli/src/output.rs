//! The one place where the programs write to standard output and standard error.
//!
//! Standard output is the answer: that it cannot be written is an error, which a tool reports and a service logs and
//! survives. Standard error is for people: where it cannot be written, nothing more can be reported, and the program goes on.
//! The macros of `std` and `anstream` panic instead, as on a full disk.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};

/// Why standard output was not written.
#[derive(Debug)]
pub struct StdoutError(io::Error);

impl Display for StdoutError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "standard output cannot be written: {}", self.0)
    }
}

impl std::error::Error for StdoutError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Writes a line to standard output; without its colours, unless that is a terminal or a flag decides. A pipe whose reader
/// has ended, as `head` does, is not an error.
///
/// # Errors
/// When it cannot be written, as on a full disk.
pub fn line(text: impl Display) -> Result<(), StdoutError> {
    unless_pipe_is_closed(consumed_line(text))
}

/// As [`line()`], for a reader who must not miss a line: a pipe whose reader has ended is an error.
///
/// # Errors
/// When it cannot be written, or its reader has ended.
pub fn consumed_line(text: impl Display) -> Result<(), StdoutError> {
    let text = format!("{text}\n");
    let mut stdout = anstream::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(StdoutError)
}

/// Writes bytes to standard output as they are.
///
/// # Errors
/// As [`line()`].
pub fn bytes(bytes: &[u8]) -> Result<(), StdoutError> {
    let mut stdout = io::stdout().lock();
    unless_pipe_is_closed(
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(StdoutError),
    )
}

/// Writes a line to standard error, if that can be written.
pub fn stderr_line(text: impl Display) {
    let text = format!("{text}\n");
    anstream::stderr().lock().write_all(text.as_bytes()).ok();
}

/// Replaces the last line of standard error, a terminal, if that can be written: for a person who waits.
pub fn stderr_progress(text: impl Display) {
    // Erases the line: ECMA-48, EL.
    let text = format!("\r\x1b[2K{text}");
    let mut stderr = io::stderr().lock();
    stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()).ok();
}

/// Prints what clap answers: help and version on standard output, a mistake on standard error. Returns the exit code.
pub fn print_clap_error(error: &clap::Error) -> u8 {
    let printed = error.print().map_err(StdoutError);
    match unless_pipe_is_closed(printed) {
        Err(e) if !error.use_stderr() => {
            stderr_line(format_args!("error: {e}"));
            1
        }
        _ => u8::try_from(error.exit_code()).unwrap_or(1),
    }
}

fn unless_pipe_is_closed(written: Result<(), StdoutError>) -> Result<(), StdoutError> {
    match written {
        Err(StdoutError(e)) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
