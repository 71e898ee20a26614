//! Commands to many, and rollouts, survive `kill -9`.
//!
//! A real hub is killed with SIGKILL at points that a seed decides while it looks for the targets of a command to 2,000
//! devices, expands it, and rolls another out. Every device must have exactly one delivery of each, in the order in which they
//! were sent; no batch may be skipped, and a rollout that was paused stays so.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bellwire_testkit::{Http, Program, Random, wait_until};
use serde_json::{Value, json};

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");
const DEVICES: u64 = 2000;
/// A rollout has ten batches.
const BATCH: u64 = DEVICES / 10;
/// Every so many devices one is asked in which order it gets its commands.
const ASKED: usize = 50;

/// A hub that is killed and started again on its folder and its address.
struct Hub {
    folder: tempfile::TempDir,
    program: Option<Program>,
    address: SocketAddr,
}

impl Hub {
    /// With all devices registered: a command to their names does that, as it reaches them.
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (program, address) = Program::serve_anywhere(BELLWIRE, folder.path());
        let hub = Self { folder, program: Some(program), address };
        let devices: Vec<String> = (0..DEVICES).map(name).collect();
        let zeroth = json!({"action": "zeroth", "target": {"devices": devices}});
        let zeroth = hub.send(&zeroth, "zeroth").unwrap();
        wait_until("the devices", || match expanded(hub.http(), &zeroth)? {
            DEVICES => Ok(()),
            now => Err(format!("{now} of {DEVICES}")),
        });
        hub
    }

    fn http(&self) -> Http {
        Http(self.address)
    }

    fn kill(&mut self) {
        self.program.take().unwrap().kill();
        let (program, _) = Program::serve(BELLWIRE, self.folder.path(), self.address);
        self.program = Some(program);
    }

    /// Its id, if it was answered.
    fn send(&self, command: &Value, key: &str) -> Option<String> {
        send(self.http(), command, key)
    }
}

fn send(http: Http, command: &Value, key: &str) -> Option<String> {
    let body = command.to_string();
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
    let answer = http.request("POST", "/v1/commands", &headers, body.as_bytes()).ok()?;
    assert_eq!(answer.status, 202, "{}", answer.json());
    Some(answer.json()["id"].as_str().unwrap().to_owned())
}

/// Rising as their numbers do.
fn name(number: u64) -> String {
    format!("many-{number:04}")
}

/// The command as it is; an error while the hub is away.
fn command(http: Http, id: &str) -> Result<Value, String> {
    let answer = http.get(&format!("/v1/commands/{id}")).map_err(|e| e.to_string())?;
    assert_eq!(answer.status, 200, "it was answered 2xx and is lost: {}", answer.json());
    Ok(answer.json())
}

/// The devices of its deliveries in the order of the list, those in this state alone.
fn deliveries(http: Http, id: &str, state: &str) -> Result<Vec<String>, String> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let target = format!("/v1/commands/{id}/deliveries?limit=1000{state}{after}");
        let page = http.get(&target).map_err(|e| e.to_string())?.json();
        let items = page["items"].as_array().unwrap().iter();
        found.extend(items.map(|d| d["device"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(found),
        }
    }
}

/// Each device is there, and none twice.
fn assert_one_for_each(http: Http, id: &str) {
    let expected: Vec<String> = (0..DEVICES).map(name).collect();
    let found = deliveries(http, id, "").unwrap();
    assert!(found == expected, "of {id}: {} deliveries, for {DEVICES} devices", found.len());
}

fn expanded(http: Http, id: &str) -> Result<u64, String> {
    Ok(command(http, id)?["counts"]["queued"].as_u64().unwrap_or(0))
}

#[test]
fn a_command_to_all_has_one_delivery_at_each_device_and_its_place_in_the_order_over_kills() {
    let mut random = Random::new(0x5eed_0001);
    let mut hub = Hub::start();
    let http = hub.http();
    // In the middle of the first one, which the second then waits for where that has not come yet.
    let devices: Vec<String> = (0..DEVICES).map(name).collect();
    let first = json!({"action": "first", "target": {"devices": devices}});
    let first = hub.send(&first, "first").unwrap();
    let goal = random.from(1, DEVICES - 1);
    wait_until("the first command to be on its way", || match expanded(http, &first)? {
        now if now >= goal => Ok(()),
        now => Err(format!("{now} of {goal}")),
    });
    hub.kill();

    // While its targets are looked for, before it is answered or after. Its sender tries again with the same key.
    let to_all = json!({"action": "second", "target": {"all": true}});
    let mut second = None;
    for _ in 0..6 {
        let sending = {
            let to_all = to_all.clone();
            std::thread::spawn(move || send(http, &to_all, "second"))
        };
        // No event shows how far a request is that is not answered.
        std::thread::sleep(Duration::from_millis(random.from(0, 60)));
        hub.kill();
        let answered = sending.join().unwrap();
        assert!(
            second.is_none() || answered.is_none() || second == answered,
            "one key, one command"
        );
        second = second.or(answered);
    }
    let second = wait_until("an answer", || hub.send(&to_all, "second").ok_or("none"));
    let shown = command(http, &second).unwrap();
    assert_eq!(shown["total"], DEVICES, "{shown}");
    let third: Vec<String> = (0..DEVICES).step_by(ASKED).map(name).collect();
    for device in &third {
        let answer = http.post_json(&format!("/v1/send/{device}/third"), "").unwrap();
        assert_eq!(answer.status, 202);
    }
    for _ in 0..3 {
        let before = expanded(http, &second).unwrap();
        let goal = random.from(before, DEVICES);
        wait_until("the second command to be further on", || match expanded(http, &second)? {
            now if now >= goal => Ok(()),
            now => Err(format!("{now} of {goal}")),
        });
        hub.kill();
    }

    for id in [&first, &second] {
        wait_until("all deliveries", || match expanded(http, id)? {
            DEVICES => Ok(()),
            now => Err(format!("{now} of {DEVICES}")),
        });
        assert_one_for_each(http, id);
    }
    for device in &third {
        assert_eq!(actions_of(http, device), ["zeroth", "first", "second", "third"], "at {device}");
    }
    let commands = http.get("/v1/commands?limit=1000").unwrap().json();
    let to_many = commands["items"].as_array().unwrap().iter().filter(|c| c["total"] == DEVICES);
    assert_eq!(to_many.count(), 3, "one key, one command");
}

/// What a device gets, one after the other.
fn actions_of(http: Http, device: &str) -> Vec<String> {
    let mut actions = Vec::new();
    loop {
        let target = format!("/v1/devices/{device}/commands?wait=0");
        let polled = http.get(&target).unwrap().json();
        let Some(command) = polled["commands"].as_array().unwrap().first() else { return actions };
        actions.push(command["action"].as_str().unwrap().to_owned());
        let id = command["id"].as_str().unwrap();
        let status = format!("/v1/devices/{device}/commands/{id}/status");
        assert_eq!(http.post_json(&status, r#"{"state":"succeeded"}"#).unwrap().status, 200);
    }
}

#[test]
fn a_rollout_reaches_each_device_once_and_skips_no_batch_over_kills() {
    let mut random = Random::new(0x5eed_0002);
    let mut hub = Hub::start();
    let http = hub.http();
    let rollout = json!({"action": "update", "target": {"all": true}, "rollout": {"batch": "10%"}});
    let id = hub.send(&rollout, "rollout").unwrap();

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                work(http, &id);
            }
        });
        let guard = StopAtEnd(&stop);
        let succeeded = |shown: &Value| shown["counts"]["succeeded"].as_u64().unwrap_or(0);
        let mut batch = 0;
        for kill in 1..=8 {
            let goal = random.from((kill - 1) * BATCH, kill * BATCH);
            let shown = wait_until(&format!("{goal} to have succeeded"), || {
                let shown = command(http, &id)?;
                if succeeded(&shown) >= goal { Ok(shown) } else { Err(shown.to_string()) }
            });
            let began = shown["rollout"]["batch"].as_u64().unwrap();
            assert!(began >= batch, "batch {batch} had begun, and now it is {began}");
            batch = began;
            if kill == 5 {
                let paused = http.post_json(&format!("/v1/commands/{id}/pause"), "").unwrap();
                assert_eq!(paused.json()["rollout"]["state"], "paused");
                hub.kill();
                let paused = command(http, &id).unwrap();
                assert_eq!(paused["rollout"]["state"], "paused", "over a kill too");
                http.post_json(&format!("/v1/commands/{id}/resume"), "").unwrap();
            } else {
                hub.kill();
            }
            let listed = deliveries(http, &id, "").unwrap();
            let shown = command(http, &id).unwrap();
            let begun = shown["rollout"]["batch"].as_u64().unwrap();
            let in_order: Vec<String> = (0..listed.len() as u64).map(name).collect();
            assert!(listed == in_order, "the first {} by name have begun", listed.len());
            assert!(listed.len() as u64 <= begun * BATCH, "{} in {begun} batches", listed.len());
            assert!(
                succeeded(&shown) >= begun.saturating_sub(1) * BATCH,
                "batch {begun} begins when those before have ended: {shown}"
            );
        }
        let shown = wait_until("the end of the rollout", || {
            let shown = command(http, &id)?;
            if shown["done"] == true { Ok(shown) } else { Err(shown.to_string()) }
        });
        assert_eq!(
            shown["rollout"],
            json!({"state": "done", "batch": 10, "batches": 10, "reason": null})
        );
        assert_eq!(shown["counts"], json!({"succeeded": DEVICES}));
        drop(guard);
    });
    assert_one_for_each(http, &id);
}

/// The thread beside ends with the test, however that ends.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Every device that has begun reports that it has succeeded. What is lost with the hub is reported again.
fn work(http: Http, id: &str) {
    for device in deliveries(http, id, "&state=queued").unwrap_or_default() {
        let status = format!("/v1/devices/{device}/commands/{id}/status");
        if http.post_json(&status, r#"{"state":"succeeded"}"#).is_err() {
            return;
        }
    }
}
