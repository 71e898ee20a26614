//! A classic server with a format and actions of one's own: events whose data is Base64, for bodies
//! that are no text, and an action `firmware` beside the usual ones.
//!
//! ```text
//! cargo run -p bellwire-hub --example extend
//! curl -N http://127.0.0.1:8889/poll/kiosk-7 &
//! head -c 6 /dev/urandom | curl --data-binary @- http://127.0.0.1:8889/firmware/kiosk-7
//! ```
//!
//! The listener then reads an event `firmware` with an id, whose data is the six bytes in Base64.

use base64::prelude::{BASE64_STANDARD, Engine};
use bellwire_hub::http::classic::{Classic, ClassicConfig, EventFormat, WithIds};
use bellwire_hub::listen::{ListenConfig, Listener};
use http::HeaderValue;

/// Any bytes; listeners get them as Base64.
#[derive(Debug)]
struct Binary;

impl EventFormat for Binary {
    fn media_type(&self) -> HeaderValue {
        HeaderValue::from_static("application/octet-stream")
    }

    fn data(&self, body: &[u8]) -> Result<String, String> {
        if body.is_empty() {
            return Err("the firmware is empty".to_owned());
        }
        Ok(BASE64_STANDARD.encode(body))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let classic = Classic::start(ClassicConfig::new(WithIds(Binary)).actions(["firmware"]))?;
    let listener = Listener::bind(&["127.0.0.1:8889".parse()?], ListenConfig::default())?;
    let server = listener.serve(classic.router());
    println!("http://127.0.0.1:8889/ until the end of the input");
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()))
        .await??;

    tokio::task::spawn_blocking(move || classic.shutdown(2000)).await?;
    server.shutdown(std::time::Duration::from_secs(2)).await;
    Ok(())
}
