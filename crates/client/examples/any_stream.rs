//! Prints the events of any stream, from any server.
//!
//! ```text
//! cargo run -p bellwire-client --example any_stream -- https://stream.wikimedia.org/v2/stream/recentchange
//! ```
//!
//! With a second argument the stream is the answer to a POST of that JSON, as language models stream theirs. A stream that
//! answers one request is read once: to reconnect would send the request again.
//!
//! ```text
//! cargo run -p bellwire-client --example any_stream -- http://127.0.0.1:11434/v1/chat/completions \
//!     '{"model":"m","stream":true,"messages":[{"role":"user","content":"Hello"}]}'
//! ```

use bellwire_client::EventSource;
use bellwire_client::event_source::Retry;
use http::Method;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let url = args.next().ok_or("usage: any_stream URL [JSON]")?;
    let mut source = match args.next() {
        None => EventSource::get(url)?,
        Some(json) => EventSource::builder(url)
            .method(Method::POST)
            .header("content-type", "application/json")
            .body(json)
            .retry(Retry::never())
            .build()?,
    };
    while let Some(event) = source.next_event().await? {
        println!("{}: {}", event.name(), event.data());
    }
    Ok(())
}
