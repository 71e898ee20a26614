//! What a long queue costs: the same work at a device with ten queued commands and at one with very
//! many, in one run.
//!
//! Eight senders fill the queue of a device that is offline; the rate is taken over the first and
//! over the last part of it. Then the device connects, and reports each command as succeeded, which
//! sends it the next: the rate of such exchanges is taken with all of the queue still there, and
//! with ten.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::ensure;

use crate::connection::Connection;

/// Senders at once, each on a connection of its own.
const SENDERS: usize = 8;
/// Exchanges that a rate is taken over.
pub(crate) const EXCHANGES: usize = 1000;
/// What the queue is short with.
pub(crate) const SHORT: usize = 10;

/// Rates per second, each at a long and at a short queue.
pub(crate) struct Rates {
    pub(crate) sends: [f64; 2],
    pub(crate) reports: [f64; 2],
}

impl Rates {
    /// How many times longer the work takes at the long queue: of sends and of reports.
    pub(crate) fn ratios(&self) -> [f64; 2] {
        [self.sends, self.reports].map(|[long, short]| short / long)
    }
}

/// Measures a hub whose `queue_max` is `queued`.
pub(crate) fn measure(address: SocketAddr, queued: usize) -> anyhow::Result<Rates> {
    let part = (queued / 10).clamp(SHORT, 5000);
    let short_sends = send(address, "long", part)?;
    send(address, "long", queued - 2 * part)?;
    let long_sends = send(address, "long", part)?;
    send(address, "short", EXCHANGES + SHORT)?;
    Ok(Rates {
        sends: [long_sends, short_sends],
        reports: [exchange(address, "long")?, exchange(address, "short")?],
    })
}

/// Sends so many commands to a device from all senders; how many a second.
fn send(address: SocketAddr, device: &str, count: usize) -> anyhow::Result<f64> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let share = |sender| count / SENDERS + usize::from(sender < count % SENDERS);
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                scope.spawn(move || Connection::open(address)?.send(device, share(sender)))
            })
            .collect();
        for sender in senders {
            sender.join().map_err(|_| anyhow::anyhow!("a sender panicked"))??;
        }
        anyhow::Ok(())
    })?;
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Has a device receive commands and report each; how many a second.
fn exchange(address: SocketAddr, device: &str) -> anyhow::Result<f64> {
    let mut stream = Connection::open(address)?;
    stream.request(&format!("GET /v1/devices/{device}/stream"), "")?;
    let mut reports = Connection::open(address)?;
    let mut start = Instant::now();
    for n in 0..EXCHANGES {
        if n == SHORT {
            start = Instant::now();
        }
        let id = stream.next_command()?;
        let target = format!("POST /v1/devices/{device}/commands/{id}/status");
        reports.request(&target, r#"{"state":"succeeded"}"#)?;
        ensure!(reports.answer()? == 200, "a report was refused");
    }
    Ok((EXCHANGES - SHORT) as f64 / start.elapsed().as_secs_f64())
}
