//! Promise: commands reach an agent by the best way that its network lets through, and `agent status` says which one that is.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use bellwire_testkit::{AgentScene, Http, Program, begin, until, wait_until};
use serde_json::Value;

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");
const PING: &str = "[actions.ping]\nrun = [\"/bin/echo\", \"pong\"]\n";

/// A proxy before the hub that releases a stream when it has ended, and passes everything else on.
fn buffer(hub: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(hub) = TcpStream::connect(hub) else { continue };
            let (mut up_from, mut up_to) = (client.try_clone().unwrap(), hub.try_clone().unwrap());
            std::thread::spawn(move || {
                std::io::copy(&mut up_from, &mut up_to).ok();
                // The hub does not notice that the client is gone.
            });
            std::thread::spawn(move || hold_streams(hub, client));
        }
    });
    address
}

fn hold_streams(mut hub: TcpStream, mut client: TcpStream) {
    let (mut held, mut chunk, mut is_stream) = (Vec::new(), [0; 4096], false);
    while let Ok(length @ 1..) = hub.read(&mut chunk) {
        held.extend_from_slice(&chunk[..length]);
        is_stream |= String::from_utf8_lossy(&held).contains("text/event-stream");
        if !is_stream && client.write_all(&std::mem::take(&mut held)).is_err() {
            break;
        }
    }
    client.write_all(&held).ok();
    client.shutdown(Shutdown::Both).ok();
    hub.shutdown(Shutdown::Both).ok();
}

/// What `agent status` says of the connection.
fn connection(scene: &AgentScene) -> Value {
    let mut status = Command::new(BELLWIRE);
    status.args(["agent", "status", "--json", "--config"]).arg(scene.path("agent.toml"));
    let output = status.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let status: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in {text:?}"));
    status["connection"].clone()
}

fn until_carried(scene: &AgentScene, carrier: &str) -> Value {
    wait_until(&format!("commands to arrive by {carrier}"), || {
        let shown = connection(scene);
        let proven = !shown["carrier_why"].as_str().unwrap_or("").contains("being proven");
        if shown["carrier"] == carrier && proven { Ok(shown) } else { Err(shown.to_string()) }
    })
}

/// Behind it the hub showed the agent online, and no command ever arrived.
#[test]
fn behind_a_proxy_that_buffers_streams_commands_arrive_by_poll() {
    let data = tempfile::tempdir().unwrap();
    let (_hub, address) = Program::serve_anywhere(BELLWIRE, data.path());
    let http = Http(address);
    let scene = AgentScene::new(BELLWIRE, &format!("hub = \"http://{}\"\n{PING}", buffer(address)));
    let agent = scene.agent();
    agent.wait_for("connected");
    until(http, &begin(http, "ping"), "succeeded");
    let shown = until_carried(&scene, "poll");
    let why = shown["carrier_why"].as_str().unwrap();
    assert!(why.contains("stream"), "{shown}");
    until(http, &begin(http, "ping"), "succeeded");
    let device = http.get("/v1/devices/kiosk").unwrap().json();
    assert_eq!(
        (&device["online"], &device["transport"]),
        (&true.into(), &"poll".into()),
        "{device}"
    );
}

#[test]
fn where_nothing_is_in_between_the_stream_carries_and_what_is_known_is_stored() {
    let data = tempfile::tempdir().unwrap();
    let (_hub, address) = Program::serve_anywhere(BELLWIRE, data.path());
    let http = Http(address);
    let scene = AgentScene::new(BELLWIRE, &format!("hub = \"http://{address}\"\n{PING}"));
    let agent = scene.agent();
    let shown = until_carried_after(&agent, &scene, "stream");
    assert!(shown["carrier_why"].is_null() && shown["carrier_since_s"].is_u64(), "{shown}");
    let device = http.get("/v1/devices/kiosk").unwrap().json();
    assert_eq!((&device["online"], &device["transport"]), (&true.into(), &"stream".into()));
    let known = std::fs::read_to_string(scene.path("state").join("network.json")).unwrap();
    assert!(known.contains("\"rung\":\"plain\""), "{known}");
    until(http, &begin(http, "ping"), "succeeded");
}

#[test]
fn of_several_urls_and_proxies_the_first_that_works_is_used_and_shown() {
    let data = tempfile::tempdir().unwrap();
    let (_hub, address) = Program::serve_anywhere(BELLWIRE, data.path());
    let http = Http(address);
    // Bound and closed again: connections to it are refused.
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let scene = AgentScene::new(
        BELLWIRE,
        &format!(
            "hub = [\"http://{refused}\", \"http://{address}\"]\nproxy = [\"http://{refused}\", \"none\"]\n{PING}"
        ),
    );
    let agent = scene.agent();
    let shown = until_carried_after(&agent, &scene, "stream");
    assert_eq!(
        (&shown["hub"], &shown["proxy"]),
        (&format!("http://{address}/").into(), &"none".into())
    );
    assert!(shown["hub_why"].as_str().unwrap().contains("proxy"), "{shown}");
    until(http, &begin(http, "ping"), "succeeded");
}

/// A forward proxy for plain HTTP: what it gets names the whole URL, and goes to the hub. It refuses streams.
fn proxy(hub: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(hub) = TcpStream::connect(hub) else { continue };
            let (mut from_hub, mut to_client) =
                (hub.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                std::io::copy(&mut from_hub, &mut to_client).ok();
                to_client.shutdown(Shutdown::Both).ok();
            });
            std::thread::spawn(move || refuse_streams(client, hub));
        }
    });
    address
}

fn refuse_streams(mut client: TcpStream, mut hub: TcpStream) {
    let mut chunk = [0; 16 * 1024];
    while let Ok(length @ 1..) = client.read(&mut chunk) {
        // An agent's request is one write.
        if String::from_utf8_lossy(&chunk[..length]).contains("/stream?") {
            let refusal =
                "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            client.write_all(refusal.as_bytes()).ok();
            break;
        }
        if hub.write_all(&chunk[..length]).is_err() {
            break;
        }
    }
    client.shutdown(Shutdown::Both).ok();
    hub.shutdown(Shutdown::Both).ok();
}

/// It was stored, and shown, as `environment`: without the proxy the agent went on to poll, for a day at most.
#[test]
fn what_was_found_out_through_a_proxy_of_the_environment_is_no_hint_without_it() {
    let data = tempfile::tempdir().unwrap();
    let (_hub, address) = Program::serve_anywhere(BELLWIRE, data.path());
    let scene = AgentScene::new(BELLWIRE, &format!("hub = \"http://{address}\"\n{PING}"));
    let proxy = format!("http://u:s3cret@{}", proxy(address));
    let agent =
        Program::start(scene.agent_command().env_remove("NO_PROXY").env("HTTP_PROXY", &proxy));
    let shown = until_carried_after(&agent, &scene, "poll");
    let shown_proxy = proxy.replace("u:s3cret@", "") + "/";
    assert_eq!(shown["proxy"], *shown_proxy, "{shown}");
    let known = scene.path("state").join("network.json");
    let text = wait_until("the suspension of the stream to be stored", || {
        let text = std::fs::read_to_string(&known).map_err(|error| error.to_string())?;
        if text.contains("\"rung\":\"rest\"") { Ok(text) } else { Err(text) }
    });
    assert!(text.contains(&shown_proxy) && !text.contains("s3cret"), "{text}");
    drop(agent);
    let agent = scene.agent();
    let shown = until_carried_after(&agent, &scene, "stream");
    assert_eq!(shown["proxy"], "none", "{shown}");
}

fn until_carried_after(agent: &Program, scene: &AgentScene, carrier: &str) -> Value {
    agent.wait_for("connected");
    until_carried(scene, carrier)
}
