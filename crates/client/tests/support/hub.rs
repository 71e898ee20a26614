//! Responses of a hub, as in the contract.

use bellwire_client::Controller;
use bellwire_proto::{Action, CommandId, DeviceId};

use super::{Server, within};

pub const ID: &str = "019283a4-7c1e-7b5a-8d2e-0123456789ab";
pub const JSON: &str = "200 OK\ncontent-type: application/json";

pub fn id() -> CommandId {
    ID.parse().unwrap()
}

pub fn kiosk() -> DeviceId {
    "kiosk:7@lyon~2".parse().unwrap()
}

pub fn reboot() -> Action {
    "reboot".parse().unwrap()
}

pub fn hub(server: &Server) -> Controller {
    Controller::new(server.url("")).unwrap()
}

pub fn delivery(state: &str) -> String {
    format!(
        r#"{{"command":"{ID}","seq":1042,"device":"{}","action":"reboot","state":"{state}",
        "attempt":1,"rev":3,"created_at":"2026-11-22T20:00:00.000Z",
        "updated_at":"2026-11-22T20:00:01.000Z","expires_at":"2026-11-22T21:00:00.000Z",
        "progress":40,"exit_code":0,"result":{{"b":1.50,"a":null}},"stdout":"pong\n","stderr":"",
        "truncated":false,"error":null,"late":false,"of_a_later_version":[1]}}"#,
        kiosk()
    )
    .replace('\n', "")
}

pub fn command(id: &str, done: bool) -> String {
    format!(
        r#"{{"id":"{id}","seq":1042,"action":"reboot","data":{{"b":1e2}},
        "created_at":"2026-11-22T20:00:00.000Z","created_by":null,
        "expires_at":"2026-11-22T21:00:00.000Z","total":2,"counts":{{"queued":2}},"done":{done}}}"#
    )
    .replace('\n', "")
}

pub fn device(name: &str) -> String {
    format!(
        r#"{{"id":"{name}","labels":{{"site":"lyon"}},"facts":{{"os":"deb12"}},"online":true,
        "connected_at":"2026-11-22T20:00:00.000Z","last_seen_at":"2026-11-22T20:00:00.000Z",
        "address":"127.0.0.1","agent":"curl","transport":"stream","queued":0,
        "created_at":"2026-11-22T20:00:00.000Z"}}"#
    )
    .replace('\n', "")
}

pub fn problem(code: &str) -> String {
    format!(r#"{{"type":"about:blank","title":"…","status":0,"detail":"why","code":"{code}"}}"#)
}

pub fn hello(device: &str, nonce: &str) -> String {
    format!(
        r#"{{"hub":"bellwire/0.1.0","device":"{device}","session":"s1","nonce":"{nonce}","heartbeat_s":15,"max_in_flight":1,"time_ms":1,"up_ms":0}}"#
    )
}

pub fn command_event() -> String {
    format!(
        r#"{{"id":"{ID}","seq":9,"action":"reboot","data":{{"n":1.0}},"attempt":1,"created_at":"2026-11-22T20:00:00.000Z","expires_at":"2026-11-22T21:00:00.000Z","ttl_s":3600,"run_timeout_s":300}}"#
    )
}

/// A call, and the server's side of it: returns the request and the result of the call.
pub async fn exchange<T>(
    server: &Server,
    call: impl Future<Output = T>,
    head: &str,
    body: &str,
) -> (T, String, String, Option<String>) {
    let side = async {
        let request = server.request().await;
        let line = format!("{} {}", request.method, request.target);
        let sent = String::from_utf8(request.body.clone()).unwrap();
        let content_type = request.header("content-type").map(str::to_owned);
        request.answer(head, body).await;
        (line, sent, content_type)
    };
    let (made, (line, sent, content_type)) =
        within("the call", async { tokio::join!(call, side) }).await;
    (made, line, sent, content_type)
}
