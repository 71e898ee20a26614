//! A hub inside a server of your own: its routes beside yours, on one port, with one process.
//!
//! ```text
//! cargo run -p bellwire-hub --example integrate
//! curl http://127.0.0.1:8080/
//! curl -N http://127.0.0.1:8080/v1/devices/kiosk-7/stream &
//! curl -d hello http://127.0.0.1:8080/v1/send/kiosk-7/say
//! ```

use axum::Router;
use axum::routing::get;
use bellwire_hub::app::Hub;
use bellwire_hub::config::Config;
use bellwire_hub::listen::{ListenConfig, Listener};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let mut config = Config::default();
    config.data_dir = folder.path().join("hub");
    let hub = Hub::open(config).await?;

    let app = Router::new().route("/", get(async || "my own page\n")).merge(hub.router());

    // Any axum server will do. Under the hub's own listener an idle stream costs the least memory.
    let listener = Listener::bind(&["127.0.0.1:8080".parse()?], ListenConfig::default())?;
    let server = listener.serve(app);
    println!("http://127.0.0.1:8080/ until the end of the input");
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()))
        .await??;

    hub.drain();
    server.shutdown(std::time::Duration::from_secs(2)).await;
    hub.close().await;
    Ok(())
}
