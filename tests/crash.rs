//! A command that was answered 2xx survives `kill -9`.
//!
//! A real hub is killed with SIGKILL again and again in the middle of load and started again on the
//! same folder. Every command that was answered 2xx must then be found, have been delivered, and
//! have ended; and no device may have received a command twice with the same attempt.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bellwire_testkit::{Http, Program, wait_until};

const KILLS: usize = 50;
const DEVICES: usize = 8;
const SENDERS: usize = 3;
/// Commands answered between two kills: the kill falls into the middle of the next ones.
const ANSWERED_PER_KILL: usize = 12;

/// What all threads share.
#[derive(Default)]
struct Shared {
    /// Ids of the commands that were answered 2xx, with their device.
    promised: Mutex<Vec<(String, usize)>>,
    answered: AtomicUsize,
    /// Attempts received, by device and command.
    attempts: Mutex<HashMap<(usize, String), Vec<u64>>>,
    stop_sending: AtomicBool,
    stop: AtomicBool,
}

#[test]
fn what_was_answered_survives_fifty_kills_under_load() {
    let bellwire = env!("CARGO_BIN_EXE_bellwire");
    let folder = tempfile::tempdir().unwrap();
    let (mut hub, address) = Program::serve_anywhere(bellwire, folder.path());
    let http = Http(address);
    let shared = Arc::new(Shared::default());
    let senders: Vec<_> = (0..SENDERS).map(|n| spawn(&shared, move |s| send(s, http, n))).collect();
    let devices: Vec<_> =
        (0..DEVICES).map(|n| spawn(&shared, move |s| listen(s, http, n))).collect();

    for kill in 1..=KILLS {
        let goal = shared.answered.load(Ordering::SeqCst) + ANSWERED_PER_KILL;
        wait_until(&format!("load before kill {kill}"), || {
            let answered = shared.answered.load(Ordering::SeqCst);
            if answered >= goal {
                Ok(())
            } else {
                Err(format!("{answered} of {goal}\n{}", hub.output()))
            }
        });
        hub.kill();
        (hub, _) = Program::serve(bellwire, folder.path(), address);
    }

    shared.stop_sending.store(true, Ordering::SeqCst);
    senders.into_iter().for_each(|t| t.join().unwrap());
    let promised = shared.promised.lock().unwrap().clone();
    assert!(promised.len() >= KILLS * ANSWERED_PER_KILL, "there was load: {}", promised.len());
    for (id, device) in &promised {
        wait_until(&format!("command {id} of d{device} to end"), || ended(http, id));
    }
    shared.stop.store(true, Ordering::SeqCst);
    assert_eq!(hub.terminate().code(), Some(0), "an orderly end after all that");
    devices.into_iter().for_each(|t| t.join().unwrap());

    let attempts = shared.attempts.lock().unwrap();
    for (id, device) in &promised {
        let attempts = attempts.get(&(*device, id.clone()));
        assert!(attempts.is_some(), "command {id} was answered and never reached d{device}");
    }
    for ((device, id), attempts) in attempts.iter() {
        assert!(
            attempts.windows(2).all(|pair| pair[0] < pair[1]),
            "d{device} received {id} with attempts {attempts:?}: they must rise"
        );
    }
}

#[test]
fn a_command_to_many_reaches_every_device_over_kills_while_it_is_expanded() {
    let bellwire = env!("CARGO_BIN_EXE_bellwire");
    let folder = tempfile::tempdir().unwrap();
    let (mut hub, address) = Program::serve_anywhere(bellwire, folder.path());
    let http = Http(address);
    let devices: Vec<String> = (0..5000).map(|n| format!("many-{n}")).collect();
    let body = serde_json::json!({"action": "work", "target": {"devices": devices}}).to_string();
    let answer = http.post_json("/v1/commands", &body).unwrap();
    assert_eq!(answer.status, 202, "{}", answer.json());
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let counted = || {
        let answer = http.get(&format!("/v1/commands/{id}")).map_err(|e| e.to_string())?;
        assert_eq!(answer.status, 200, "it was answered 2xx and is lost: {}", answer.json());
        Ok::<u64, String>(answer.json()["counts"]["queued"].as_u64().unwrap_or(0))
    };
    for kill in 1..=5 {
        // In the middle of it, further on each time.
        let before = counted().unwrap();
        wait_until(&format!("progress before kill {kill}"), || {
            let now = counted()?;
            if now > before || now == 5000 { Ok(()) } else { Err(format!("{now} of 5000")) }
        });
        hub.kill();
        (hub, _) = Program::serve(bellwire, folder.path(), address);
    }
    wait_until("all deliveries", || match counted()? {
        5000 => Ok(()),
        now => Err(format!("{now} of 5000")),
    });
    let mut after = String::new();
    let mut found = std::collections::BTreeSet::new();
    loop {
        let page = http.get(&format!("/v1/commands/{id}/deliveries?limit=1000{after}")).unwrap();
        let page = page.json();
        for delivery in page["items"].as_array().unwrap() {
            found.insert(delivery["device"].as_str().unwrap().to_owned());
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert!(devices.iter().all(|device| found.contains(device)), "{} of 5000", found.len());
    assert_eq!(hub.terminate().code(), Some(0));
}

fn spawn(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let shared = Arc::clone(shared);
    std::thread::spawn(move || work(&shared))
}

/// Sends to one device after the other, and writes down what was answered 2xx.
fn send(shared: &Shared, http: Http, sender: usize) {
    for n in 0.. {
        if shared.stop_sending.load(Ordering::SeqCst) {
            return;
        }
        let device = (sender + n) % DEVICES;
        let target = format!("/v1/send/d{device}/work?ttl=1h");
        // While the hub is down nothing is answered, and nothing was promised.
        let Ok(answer) = http.post_json(&target, &format!("{{\"sender\":{sender},\"n\":{n}}}"))
        else {
            std::thread::yield_now();
            continue;
        };
        match answer.status {
            202 => {
                let id = answer.json()["command"].as_str().unwrap().to_owned();
                shared.promised.lock().unwrap().push((id, device));
                shared.answered.fetch_add(1, Ordering::SeqCst);
            }
            429 | 503 => std::thread::yield_now(),
            other => panic!("a send was answered {other}: {}", answer.json()),
        }
    }
}

/// Listens for ever; records each command and answers it, once or not at all.
fn listen(shared: &Shared, http: Http, device: usize) {
    while !shared.stop.load(Ordering::SeqCst) {
        let Ok(mut stream) = http.stream(&format!("/v1/devices/d{device}/stream")) else {
            std::thread::yield_now();
            continue;
        };
        while let Ok(Some((name, data, _))) = stream.event() {
            if name != "command" {
                continue;
            }
            let command: serde_json::Value = serde_json::from_str(&data).unwrap();
            let id = command["id"].as_str().unwrap().to_owned();
            let attempt = command["attempt"].as_u64().unwrap();
            let target = format!("/v1/devices/d{device}/commands/{id}/status");
            shared.attempts.lock().unwrap().entry((device, id)).or_default().push(attempt);
            // An answer that is lost with the hub is made good by the next sending.
            http.post_json(&target, r#"{"state":"succeeded"}"#).ok();
        }
    }
}

fn ended(http: Http, id: &str) -> Result<(), String> {
    let answer = http.get(&format!("/v1/commands/{id}")).map_err(|e| e.to_string())?;
    assert_eq!(answer.status, 200, "command {id} was answered 2xx and is lost: {}", answer.json());
    let command = answer.json();
    if command["counts"]["succeeded"] == 1 { Ok(()) } else { Err(command.to_string()) }
}
