//! The pipes of a program: the tails of its two outputs, its result, its progress, and the data on its standard input.
//!
//! The task that waits for the program serves all of them, in [`Streams::beside`]: no other task has to be joined or
//! aborted. Memory is bounded whatever the program writes.

use std::convert::Infallible;
use std::future::Future;

use bellwire_proto::limits::{OUTPUT_BYTES_MAX, RESULT_BYTES_MAX};
use bellwire_proto::{Json, Progress};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

use crate::agent::run::{ProgressSender, truncate_to_tail};

const MARKER: &[u8] = b"BELLWIRE_";
const RESULT_MARKER: &[u8] = b"BELLWIRE_RESULT=";
const PROGRESS_MARKER: &[u8] = b"BELLWIRE_PROGRESS=";
/// Bytes that are read of a result: white space around it does not count.
const RESULT_BYTES_READ_MAX: usize = RESULT_BYTES_MAX + 1024;
/// The longest UTF-8 character less one: so many more bytes are stored than are reported, so that the cut always falls
/// between characters.
const CHARACTER_BYTES: usize = 3;

/// The pipes of a program that was just started.
pub(super) struct Pipes {
    pub(super) stdin: Option<ChildStdin>,
    pub(super) data: Vec<u8>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
    pub(super) result: pipe::Receiver,
}

/// The pipes of a program, and what was read from them.
pub(super) struct Streams {
    feed: StdinFeed,
    stdout: Reader<ChildStdout, StdoutSink>,
    stderr: Reader<ChildStderr, Tail>,
    result: Reader<pipe::Receiver, BoundedResult>,
}

/// What a program wrote, ready for its outcome.
pub(super) struct Captured {
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) truncated: bool,
    pub(super) result: Result<Option<Json>, BadResult>,
}

/// Why a result cannot be reported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadResult {
    #[error("the result is longer than {RESULT_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the result is not UTF-8")]
    Encoding,
    #[error("the result cannot be reported: {0}")]
    Json(#[from] bellwire_proto::json::InvalidJson),
}

impl Streams {
    pub(super) fn new(pipes: Pipes, progress: ProgressSender) -> Self {
        let sink = StdoutSink { tail: Tail::default(), markers: Markers::new(progress) };
        Self {
            feed: StdinFeed { pipe: pipes.stdin, data: pipes.data, written_bytes: 0 },
            stdout: Reader { pipe: pipes.stdout, sink },
            stderr: Reader { pipe: pipes.stderr, sink: Tail::default() },
            result: Reader { pipe: Some(pipes.result), sink: BoundedResult::default() },
        }
    }

    /// Serves the pipes until `other` resolves. Nothing that was read is lost.
    pub(super) async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        let Self { feed, stdout, stderr, result } = self;
        let serve = async {
            tokio::join!(feed.run(), stdout.run(), stderr.run(), result.run());
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            biased;
            value = other => value,
            never = serve => match never {},
        }
    }

    /// Reads until every writer has closed its end.
    pub(super) async fn drain(&mut self) {
        tokio::join!(self.stdout.run(), self.stderr.run(), self.result.run());
    }

    pub(super) fn finish(self) -> Captured {
        let StdoutSink { tail, mut markers } = self.stdout.sink;
        markers.end_line();
        let (stdout, stdout_cut) = tail.finish();
        let (stderr, stderr_cut) = self.stderr.sink.finish();
        let raw = match self.result.sink {
            BoundedResult { bytes, .. } if bytes.iter().all(u8::is_ascii_whitespace) => {
                markers.result
            }
            head => Some(head),
        };
        Captured {
            stdout,
            stderr,
            truncated: stdout_cut || stderr_cut,
            result: raw.map(BoundedResult::read).transpose(),
        }
    }
}

/// The data for standard input. A program need not read them.
struct StdinFeed {
    pipe: Option<ChildStdin>,
    data: Vec<u8>,
    written_bytes: usize,
}

impl StdinFeed {
    async fn run(&mut self) {
        while let (Some(pipe), Some(rest @ [_, ..])) =
            (&mut self.pipe, self.data.get(self.written_bytes..))
        {
            match pipe.write(rest).await {
                Ok(n @ 1..) => self.written_bytes += n,
                Ok(0) | Err(_) => break,
            }
        }
        self.pipe = None;
    }
}

trait Sink {
    fn take(&mut self, chunk: &[u8]);
}

/// A pipe, read to its end into a sink. Dropping [`Reader::run`] loses nothing.
struct Reader<P, S> {
    pipe: Option<P>,
    sink: S,
}

impl<P: AsyncRead + Unpin, S: Sink> Reader<P, S> {
    async fn run(&mut self) {
        let mut chunk = vec![0; 8192];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut chunk).await {
                Ok(n @ 1..) => self.sink.take(chunk.get(..n).unwrap_or_default()),
                Ok(0) | Err(_) => self.pipe = None,
            }
        }
    }
}

/// The last bytes.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
    cut: bool,
}

impl Sink for Tail {
    fn take(&mut self, chunk: &[u8]) {
        const RETAINED: usize = OUTPUT_BYTES_MAX + CHARACTER_BYTES;
        self.bytes.extend_from_slice(chunk);
        // In large steps, so that not every read moves the rest.
        if self.bytes.len() > 2 * RETAINED {
            self.bytes.drain(..self.bytes.len() - RETAINED);
            self.cut = true;
        }
    }
}

impl Tail {
    /// The last [`OUTPUT_BYTES_MAX`] as text, and whether there was more.
    fn finish(self) -> (String, bool) {
        let start = self.bytes.len().saturating_sub(OUTPUT_BYTES_MAX + CHARACTER_BYTES);
        let end = self.bytes.get(start..).unwrap_or_default();
        let mut text = String::from_utf8_lossy(end).into_owned();
        let cut = truncate_to_tail(&mut text);
        (text, self.cut || start > 0 || cut)
    }
}

/// The first bytes of a result.
#[derive(Default)]
struct BoundedResult {
    bytes: Vec<u8>,
    too_large: bool,
}

impl Sink for BoundedResult {
    fn take(&mut self, chunk: &[u8]) {
        let capacity = RESULT_BYTES_READ_MAX - self.bytes.len();
        self.too_large |= chunk.len() > capacity;
        self.bytes.extend_from_slice(chunk.get(..capacity).unwrap_or(chunk));
    }
}

impl BoundedResult {
    fn read(self) -> Result<Json, BadResult> {
        if self.too_large {
            return Err(BadResult::TooLarge);
        }
        let text = std::str::from_utf8(&self.bytes).map_err(|_| BadResult::Encoding)?;
        let json = Json::parse(text)?;
        if json.as_str().len() > RESULT_BYTES_MAX { Err(BadResult::TooLarge) } else { Ok(json) }
    }
}

/// Standard output: its tail, and the marker lines in it.
struct StdoutSink {
    tail: Tail,
    markers: Markers,
}

impl Sink for StdoutSink {
    fn take(&mut self, chunk: &[u8]) {
        self.tail.take(chunk);
        self.markers.take(chunk);
    }
}

/// Finds the lines that begin with `BELLWIRE_`. Nothing is stored of other lines.
struct Markers {
    /// The beginning of a line that may be a marker line.
    line: Vec<u8>,
    /// This line is no marker line.
    ignoring_line: bool,
    result: Option<BoundedResult>,
    progress: ProgressSender,
}

impl Markers {
    fn new(progress: ProgressSender) -> Self {
        Self { line: Vec::new(), ignoring_line: false, result: None, progress }
    }

    fn take(&mut self, chunk: &[u8]) {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) =
                piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            self.more_of_line(text);
            if ends {
                self.end_line();
            }
        }
    }

    fn more_of_line(&mut self, text: &[u8]) {
        if self.ignoring_line {
            return;
        }
        // Of a line longer than any result, one byte more is stored than a result may have.
        let capacity =
            (RESULT_MARKER.len() + RESULT_BYTES_READ_MAX + 1).saturating_sub(self.line.len());
        self.line.extend_from_slice(text.get(..capacity).unwrap_or(text));
        let may_match = self.line.iter().zip(MARKER).all(|(a, b)| a == b);
        if !may_match {
            self.line.clear();
            self.ignoring_line = true;
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.ignoring_line = false;
        if let Some(result) = line.strip_prefix(RESULT_MARKER) {
            let mut head = BoundedResult::default();
            head.take(result);
            self.result = Some(head);
        } else if let Some(percent) = line.strip_prefix(PROGRESS_MARKER) {
            let percent = std::str::from_utf8(percent).ok().and_then(|p| p.trim().parse().ok());
            match percent.map(|p: f64| Progress::try_from(p)) {
                Some(Ok(progress)) => self.progress.send(progress),
                _ => tracing::debug!("a progress line has no number from 0 to 100"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::run;

    fn tail_of(chunks: &[&[u8]]) -> (String, bool) {
        let mut tail = Tail::default();
        chunks.iter().for_each(|chunk| tail.take(chunk));
        tail.finish()
    }

    #[test]
    fn a_tail_is_decoded_and_then_cut_on_a_character() {
        let long = "é".repeat(OUTPUT_BYTES_MAX);
        for shift in ["", "x", "xy", "xyz"] {
            let (text, cut) = tail_of(&[shift.as_bytes(), long.as_bytes(), b"!"]);
            assert!(cut && text.starts_with('é') && text.ends_with('!'), "{shift:?}");
            assert_eq!(text.len(), OUTPUT_BYTES_MAX - 1, "{shift:?}");
        }
        let exact = "x".repeat(OUTPUT_BYTES_MAX);
        assert_eq!(tail_of(&[exact.as_bytes()]), (exact, false));
    }

    #[test]
    fn bytes_that_are_no_text_grow_and_still_fit() {
        let (text, cut) = tail_of(&[&[0xff; OUTPUT_BYTES_MAX]]);
        assert!(cut && text.len() <= OUTPUT_BYTES_MAX);
        assert!(text.chars().all(|c| c == '\u{fffd}'));
        assert_eq!(tail_of(&[b"a\xffb"]), ("a\u{fffd}b".to_owned(), false));
    }

    #[test]
    fn marker_lines_are_found_however_the_pipe_cuts_them() {
        let text = b"noise BELLWIRE_RESULT=0\nBELLWIRE_PROGRESS=40\r\nBELLWIRE_RESULT=1\n\
            BELLWIRE_RESULT={\"a\":2}\nBELLWIRE_OTHER\nBELL";
        for size in 1..text.len() {
            let (sender, progress) = run::progress_channel();
            let mut markers = Markers::new(sender);
            text.chunks(size).for_each(|chunk| markers.take(chunk));
            markers.end_line();
            let result = markers.result.unwrap().read().unwrap();
            assert_eq!(result.as_str(), "{\"a\":2}", "in chunks of {size}");
            assert_eq!(progress.borrow().map(Progress::get), Some(40.0), "in chunks of {size}");
        }
    }

    #[test]
    fn a_result_of_64_kib_fits_and_one_byte_more_does_not() {
        let fits = format!("\"{}\"", "x".repeat(RESULT_BYTES_MAX - 2));
        let over = format!("\"{}\"", "x".repeat(RESULT_BYTES_MAX - 1));
        let huge = format!("\"{}\"", "x".repeat(3 * RESULT_BYTES_MAX));
        for (text, good) in [(fits, true), (over, false), (huge, false)] {
            let mut markers = Markers::new(run::progress_channel().0);
            markers.take(format!("BELLWIRE_RESULT={text}\n").as_bytes());
            let read = markers.result.unwrap().read();
            assert_eq!(read.is_ok(), good, "{} bytes", text.len());
            if !good {
                assert_eq!(read, Err(BadResult::TooLarge));
            }
        }
    }
}
