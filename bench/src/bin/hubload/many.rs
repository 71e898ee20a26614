//! What a command to many costs: how soon it is answered and at all its devices, and what another sender notices of it.
//!
//! Devices are registered and offline. One sender, with one request in flight, sends to other devices all the time; the
//! same of it is measured for some seconds before the command, and from the command until each of its devices has a delivery.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::connection::Connection;
use crate::figures::Latency;
use crate::server::Server;

/// Connections that register the devices.
const REGISTRARS: usize = 32;
/// Devices of the other sender.
const OTHERS: usize = 900;
/// How long the other sender is measured before each command.
const BEFORE: Duration = Duration::from_secs(4);
/// Between two looks at how far a command is.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// After this a command has failed to reach its devices.
const EXPANDED_WITHIN: Duration = Duration::from_secs(120);

/// How one command to many went.
pub(crate) struct Figures {
    pub(crate) target: &'static str,
    pub(crate) total: u64,
    pub(crate) answered_s: f64,
    pub(crate) expanded_s: f64,
    pub(crate) before: Latency,
    pub(crate) meanwhile: Latency,
    /// The most private memory seen meanwhile, beyond what there was before.
    pub(crate) anon_bytes: f64,
}

/// What the other sender measures, until it is to stop.
#[derive(Default)]
struct Other {
    stop: AtomicBool,
    /// When a request began, and how long it took.
    sends: Mutex<Vec<(Instant, Duration)>>,
}

pub(crate) fn measure(server: &Server, devices: usize) -> anyhow::Result<Vec<Figures>> {
    let address = server.address();
    register(address, devices)?;
    let half: Vec<String> = (0..devices / 2).map(name).collect();
    let targets = [
        ("all", json!({"all": true})),
        ("select", json!({"select": "site=lyon"})),
        ("devices", json!({"devices": half})),
    ];
    let other = Other::default();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| other.send(address));
        let figures: anyhow::Result<Vec<Figures>> =
            targets.into_iter().map(|(name, target)| one(server, name, &target, &other)).collect();
        other.stop.store(true, Ordering::Release);
        sender.join().map_err(|_| anyhow::anyhow!("the other sender panicked"))??;
        figures
    })
}

fn name(n: usize) -> String {
    format!("d{n:07}")
}

/// Half of the devices are in lyon.
fn register(address: SocketAddr, devices: usize) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let registrar = |first| {
            let mut connection = Connection::open(address)?;
            for n in (first..devices).step_by(REGISTRARS) {
                let site = if n % 2 == 0 { "lyon" } else { "rome" };
                let labels = json!({"labels": {"site": site}}).to_string();
                connection.json(&format!("PUT /v1/devices/{}", name(n)), &labels)?;
            }
            anyhow::Ok(())
        };
        let registrars: Vec<_> =
            (0..REGISTRARS).map(|first| scope.spawn(move || registrar(first))).collect();
        registrars.into_iter().try_for_each(|registrar| {
            registrar.join().map_err(|_| anyhow::anyhow!("a registrar panicked"))?
        })
    })
}

fn one(
    server: &Server,
    target: &'static str,
    body: &Value,
    other: &Other,
) -> anyhow::Result<Figures> {
    let mut connection = Connection::open(server.address())?;
    let began = Instant::now();
    std::thread::sleep(BEFORE);
    let anon = server.anon_bytes()?;
    let envelope = json!({"action": "ping", "target": body, "ttl_s": 3600}).to_string();
    let sent = Instant::now();
    let command = connection.json("POST /v1/commands", &envelope)?;
    let answered = sent.elapsed();
    let id = command.get("id").and_then(Value::as_str).context("a command without an id")?;
    let total =
        command.get("total").and_then(Value::as_u64).context("a command without a total")?;
    let mut anon_most = anon;
    loop {
        let shown = connection.json(&format!("GET /v1/commands/{id}"), "")?;
        let counts =
            shown.get("counts").and_then(Value::as_object).context("a command without counts")?;
        anon_most = anon_most.max(server.anon_bytes()?);
        if counts.values().filter_map(Value::as_u64).sum::<u64>() >= total {
            break;
        }
        ensure!(sent.elapsed() < EXPANDED_WITHIN, "it has not reached its devices: {shown}");
        std::thread::sleep(LOOK_EVERY);
    }
    let expanded = sent.elapsed();
    Ok(Figures {
        target,
        total,
        answered_s: answered.as_secs_f64(),
        expanded_s: expanded.as_secs_f64(),
        before: other.between(began, sent),
        meanwhile: other.between(sent, sent + expanded),
        anon_bytes: anon_most - anon,
    })
}

impl Other {
    fn send(&self, address: SocketAddr) -> anyhow::Result<()> {
        let mut connection = Connection::open(address)?;
        for n in 0.. {
            if self.stop.load(Ordering::Acquire) {
                break;
            }
            let began = Instant::now();
            connection.send(&format!("other-{}", n % OTHERS), 1)?;
            let took = began.elapsed();
            self.sends
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .push((began, took));
        }
        Ok(())
    }

    /// What began in this time.
    fn between(&self, from: Instant, to: Instant) -> Latency {
        let sends = self.sends.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let within = sends.iter().filter(|(began, _)| (from..to).contains(began));
        Latency::of(
            within.map(|(_, took)| took.as_micros().try_into().unwrap_or(u32::MAX)).collect(),
        )
    }
}
