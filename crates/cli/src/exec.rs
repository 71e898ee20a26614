//! Runs a program for a command: no shell, data on standard input, the end of its output kept.
//!
//! Used by `listen --exec`. The program is the leader of its own process group, so that what it
//! started ends with it when the command is cancelled.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use bellwire_proto::limits::OUTPUT_BYTES_MAX;
use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{DeviceId, Json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

/// How long a cancelled program may take to end before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(5);
/// How long output is still read after the program has ended: what it left running may hold the
/// pipe open for ever.
const DRAIN: Duration = Duration::from_secs(1);

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The exit code; 128+n when signal n ended it.
    pub(crate) exit_code: i64,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    /// The end of standard output.
    pub(crate) stdout: String,
    /// The end of standard error.
    pub(crate) stderr: String,
    /// Whether output was cut.
    pub(crate) truncated: bool,
    /// Whether it was told to stop.
    pub(crate) cancelled: bool,
}

/// Runs `argv` for a command until it ends or `cancel` is told (or dropped).
///
/// # Errors
/// When the program cannot be started.
pub(crate) async fn run(
    argv: &[OsString],
    device: &DeviceId,
    command: &CommandEvent,
    cancel: oneshot::Receiver<()>,
) -> std::io::Result<Run> {
    let (program, args) = argv.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut child = Command::new(program)
        .args(args)
        .env("BELLWIRE_COMMAND", command.id.to_string())
        .env("BELLWIRE_ACTION", command.action.as_str())
        .env("BELLWIRE_DEVICE", device.as_str())
        .env("BELLWIRE_ATTEMPT", command.attempt.to_string())
        .env("BELLWIRE_EXPIRES_AT", command.expires_at.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let input = child.stdin.take();
    let data = input_of(&command.data);
    // A program that does not read its input is no failure; nor is one that closes it early.
    let feed = tokio::spawn(async move {
        if let Some(mut input) = input {
            input.write_all(&data).await.ok();
        }
    });
    let stdout = Tail::of(child.stdout.take());
    let stderr = Tail::of(child.stderr.take());
    let (status, cancelled) = end_of(&mut child, cancel).await?;
    feed.abort();
    let (stdout, stderr) = (stdout.finish().await, stderr.finish().await);
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    Ok(Run {
        exit_code: status.code().map_or_else(|| 128 + i64::from(signal.unwrap_or(0)), i64::from),
        signal,
        truncated: stdout.1 || stderr.1,
        stdout: stdout.0,
        stderr: stderr.0,
        cancelled,
    })
}

/// Waits for the end, and sees to it when the command is cancelled: TERM, then KILL, to the whole
/// group.
async fn end_of(
    child: &mut Child,
    cancel: oneshot::Receiver<()>,
) -> std::io::Result<(std::process::ExitStatus, bool)> {
    tokio::select! {
        status = child.wait() => return Ok((status?, false)),
        Ok(()) = cancel => {}
    }
    let group =
        child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    let signal_group = |signal| {
        if let Some(group) = group {
            rustix::process::kill_process_group(group, signal).ok();
        }
    };
    signal_group(rustix::process::Signal::TERM);
    let status = match tokio::time::timeout(KILL_AFTER, child.wait()).await {
        Ok(status) => status?,
        Err(_) => {
            signal_group(rustix::process::Signal::KILL);
            child.wait().await?
        }
    };
    signal_group(rustix::process::Signal::KILL);
    Ok((status, true))
}

/// What a program reads: a JSON string as its text, `null` as nothing, the rest as JSON.
pub(crate) fn input_of(data: &Json) -> Vec<u8> {
    if data.is_null() {
        return Vec::new();
    }
    match data.read::<String>() {
        Ok(text) => text.into_bytes(),
        Err(_) => data.as_str().as_bytes().to_vec(),
    }
}

/// Reads a pipe to its end and keeps the last [`OUTPUT_BYTES_MAX`] bytes.
struct Tail(tokio::task::JoinHandle<()>, std::sync::Arc<std::sync::Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    cut: bool,
}

impl Tail {
    fn of(pipe: Option<impl AsyncRead + Unpin + Send + 'static>) -> Self {
        let kept = std::sync::Arc::new(std::sync::Mutex::new(Kept::default()));
        let into = std::sync::Arc::clone(&kept);
        let reader = tokio::spawn(async move {
            let Some(mut pipe) = pipe else { return };
            let mut chunk = vec![0; 8192];
            while let Ok(n @ 1..) = pipe.read(&mut chunk).await {
                let Ok(mut kept) = into.lock() else { return };
                kept.bytes.extend_from_slice(chunk.get(..n).unwrap_or_default());
                // Cut in large steps, so that a chatty program does not move the rest each time.
                if kept.bytes.len() > 4 * OUTPUT_BYTES_MAX {
                    let surplus = kept.bytes.len() - OUTPUT_BYTES_MAX;
                    kept.bytes.drain(..surplus);
                    kept.cut = true;
                }
            }
        });
        Self(reader, kept)
    }

    /// The text, and whether something before it was cut.
    async fn finish(self) -> (String, bool) {
        let Self(mut reader, kept) = self;
        if tokio::time::timeout(DRAIN, &mut reader).await.is_err() {
            reader.abort();
        }
        let kept = kept.lock().map(|mut kept| std::mem::take(&mut *kept)).unwrap_or_default();
        let (text, cut) = last_of(&String::from_utf8_lossy(&kept.bytes));
        (text, cut || kept.cut)
    }
}

/// The last [`OUTPUT_BYTES_MAX`] bytes of a text, whole characters only, and whether that is less
/// than all.
fn last_of(text: &str) -> (String, bool) {
    let mut start = text.len().saturating_sub(OUTPUT_BYTES_MAX);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    (text.get(start..).unwrap_or_default().to_owned(), start > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_proto::{CommandId, Seq, Timestamp};

    fn command(data: &str) -> CommandEvent {
        CommandEvent {
            id: CommandId::from_parts(1, [0; 10]),
            seq: Seq::new(1),
            action: "greet".parse().unwrap(),
            data: Json::parse(data).unwrap(),
            attempt: 2,
            created_at: Timestamp::from_unix_ms(0),
            expires_at: Timestamp::from_unix_ms(0),
            ttl_s: 60,
            run_timeout_s: 60,
        }
    }

    async fn sh(script: &str, data: &str) -> Run {
        let argv: Vec<OsString> = ["/bin/sh", "-c", script].map(Into::into).to_vec();
        let (_keep, cancel) = oneshot::channel();
        run(&argv, &"kiosk".parse().unwrap(), &command(data), cancel).await.unwrap()
    }

    #[tokio::test]
    async fn data_comes_on_standard_input_and_the_rest_in_the_environment() {
        let run =
            sh("cat; echo \" $BELLWIRE_ACTION $BELLWIRE_DEVICE $BELLWIRE_ATTEMPT\"", "\"a\\nb\"")
                .await;
        assert_eq!((run.exit_code, run.stdout.as_str()), (0, "a\nb greet kiosk 2\n"));
        assert_eq!(sh("cat", "null").await.stdout, "");
        assert_eq!(sh("cat", "{\"v\": 1.0}").await.stdout, "{\"v\": 1.0}");
    }

    #[tokio::test]
    async fn exit_codes_and_signals_are_told_apart() {
        let run = sh("echo oops >&2; exit 3", "null").await;
        assert_eq!((run.exit_code, run.signal, run.stderr.as_str()), (3, None, "oops\n"));
        let run = sh("kill -9 $$", "null").await;
        assert_eq!((run.exit_code, run.signal), (137, Some(9)));
    }

    #[tokio::test]
    async fn only_the_end_of_long_output_is_kept() {
        let run = sh("yes 0123456789 | head -c 1000000; echo end", "null").await;
        assert!(run.truncated && run.stdout.ends_with("end\n"));
        assert_eq!(run.stdout.len(), OUTPUT_BYTES_MAX);
    }

    #[tokio::test]
    async fn a_cancelled_program_ends_with_all_that_it_started() {
        let argv: Vec<OsString> =
            ["/bin/sh", "-c", "echo up; sleep 1000 & wait"].map(Into::into).to_vec();
        let (tell, cancel) = oneshot::channel();
        tell.send(()).unwrap();
        let run = run(&argv, &"k".parse().unwrap(), &command("null"), cancel).await.unwrap();
        assert!(run.cancelled);
    }

    #[test]
    fn output_is_cut_between_characters() {
        let text = "é".repeat(OUTPUT_BYTES_MAX);
        let (tail, cut) = last_of(&format!("x{text}"));
        assert!(cut && tail.len() <= OUTPUT_BYTES_MAX && tail.starts_with('é'));
    }
}
