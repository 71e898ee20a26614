//! `eventsource-request`: sends one event through a classic server.
//!
//! The original prints the outcome on standard output, failures included, and so does this. Standard error has what it waits
//! for.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]
#![allow(unreachable_pub, reason = "a program has no public interface")]

use std::process::ExitCode;

use bellwire::classic::address::{origin, path_part};
use bellwire::classic::log;
use bellwire::{argv, output};
use bellwire_client::transport::{HttpTransport, Request, Transport as _};
use bellwire_proto::limits::{CLASSIC_ANSWER_BYTES_MAX, CLASSIC_ANSWER_TIMEOUT};
use bellwire_proto::python_json;
use bytes::{Bytes, BytesMut};
use clap::{ArgAction, Parser};
use futures_util::TryStreamExt as _;
use http::{HeaderValue, Method, StatusCode, header};

const EXAMPLE: &str = "\
Example:
  eventsource-request -P 8888 kiosk-7 ping 'hello'
      sends hello to the listener kiosk-7, and prints the (empty) answer

Exit codes: 0 sent; 1 not sent, the reason is on standard output; 2 usage.";

/// Sends an event to the listener of a token.
#[derive(Parser)]
#[command(name = "eventsource-request", version, disable_version_flag = true, after_help = EXAMPLE)]
struct Args {
    /// The token whose listener gets the event.
    token: String,
    /// The event's name: ping, close, or what else the server knows.
    action: String,
    /// The event's data.
    #[arg(default_value = "", hide_default_value = true)]
    data: String,
    /// Host of the server.
    #[arg(short = 'H', long, default_value = "127.0.0.1")]
    host: String,
    /// Port of the server.
    #[arg(short = 'P', long, default_value_t = 8888)]
    port: u16,
    /// DATA is JSON: it is checked, and sent as Python prints it.
    #[arg(short, long)]
    json: bool,
    /// Print the version.
    #[arg(long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// Why nothing was sent: the text in brackets, and the server's message.
struct Failure {
    reason: String,
    message: Option<String>,
}

fn main() -> ExitCode {
    let args: Args = match argv::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    log::init(false);
    let (mut line, code) = match send(&args) {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(Failure { reason, message }) => {
            let message = message.map(|message| format!(": {message}")).unwrap_or_default();
            (format!("Unable to send request ({reason}){message}").into(), ExitCode::FAILURE)
        }
    };
    line.push(b'\n');
    if let Err(error) = output::bytes(&line) {
        output::stderr_line(format_args!("eventsource-request: {error}"));
        return ExitCode::FAILURE;
    }
    code
}

fn send(args: &Args) -> Result<Vec<u8>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failure)?;
    let request = request(args)?;
    runtime.block_on(async {
        let exchange = tokio::time::timeout(CLASSIC_ANSWER_TIMEOUT, exchange(request));
        exchange.await.map_err(|_| failure("no answer: timed out"))?
    })
}

fn request(args: &Args) -> Result<Request, Failure> {
    let Args { host, port, action, token, data, json, .. } = args;
    let origin = origin("http", host, *port);
    let (body, media_type) = if *json {
        (python_json::rewrite(data).map_err(failure)?, "application/json")
    } else {
        (data.clone(), "text/plain; charset=utf-8")
    };
    let is_empty = body.is_empty();
    let mut request = Request::new(Bytes::from(body));
    *request.method_mut() = Method::POST;
    let url = format!("{origin}/{}/{}", path_part(action), path_part(token));
    *request.uri_mut() = url.parse().map_err(|error| failure(format!("{url}: {error}")))?;
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    if is_empty {
        // The transport treats it as no body at all, and older servers require a length.
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    Ok(request)
}

async fn exchange(request: Request) -> Result<Vec<u8>, Failure> {
    let transport = HttpTransport::new().map_err(failure)?;
    let (head, mut body) = transport.send(request).await.map_err(failure)?.into_parts();
    let mut answer = BytesMut::new();
    while let Some(chunk) = body.try_next().await.map_err(failure)? {
        answer.extend_from_slice(&chunk);
        if answer.len() > CLASSIC_ANSWER_BYTES_MAX {
            return Err(failure(format!(
                "the answer is longer than {CLASSIC_ANSWER_BYTES_MAX} bytes"
            )));
        }
    }
    if head.status.is_success() {
        return Ok(answer.into());
    }
    Err(Failure {
        reason: format!("HTTP Error {}", named(head.status)),
        message: Some(page_message(&String::from_utf8_lossy(&answer))),
    })
}

/// The message of a classic server's page; of any other page, its first line.
fn page_message(page: &str) -> String {
    let first_line = page.lines().next().unwrap_or_default();
    let body = page.rsplit_once("<body>").map_or(first_line, |(_, body)| body);
    body.split("</body>").next().unwrap_or_default().trim_end().to_owned()
}

/// `404: Not Found`.
fn named(status: StatusCode) -> String {
    format!("{}: {}", status.as_u16(), status.canonical_reason().unwrap_or_default())
}

fn failure(reason: impl ToString) -> Failure {
    Failure { reason: reason.to_string(), message: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_taken_out_of_the_page() {
        let page =
            "<html><title>404: Not Found</title><body>404: Target is not connected</body></html>\n";
        assert_eq!(page_message(page), "404: Target is not connected");
        assert_eq!(page_message("no upstream\nat all\n"), "no upstream");
        assert_eq!(page_message(""), "");
    }
}
