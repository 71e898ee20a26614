//! How many durable sends the store alone takes, with nothing else at work.
//!
//! One send is what the core does with a command for a device that listens without answering: a
//! transaction with the command and its delivery (`sent`), and once that is on disk a second with
//! the delivery (`delivered`). As many sends as asked for are always under way.
//!
//! `cargo run --release -p bellwire-hub --example store_load -- [SECONDS] [IN_FLIGHT] [DEVICES] [DIR]`

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::sleep;
use std::time::Duration;

use bellwire_core::record::{
    Change, CommandHead, CommandRecord, Committed, DeliveryRecord, Loaded, Txn, TxnId,
};
use bellwire_core::{Instant, Now};
use bellwire_hub::store::{Options, SqliteStore, Store, StoreError, StoreEvents};
use bellwire_proto::{Action, CommandId, DeliveryState, DeviceId, Json, Seq, Timestamp};

struct Load {
    store: OnceLock<Weak<SqliteStore>>,
    devices: Vec<DeviceId>,
    action: Action,
    data: Json,
    started: std::time::Instant,
    next_seq: AtomicU64,
    sends: AtomicU64,
    groups: AtomicU64,
    longest_gap_us: AtomicU64,
    last_us: AtomicU64,
}

impl Load {
    fn now(&self) -> Now {
        let wall = Timestamp::from_unix_ms(1_700_000_000_000).after(self.started.elapsed());
        Now { instant: Instant::from_ms(wall.unix_ms()), wall }
    }

    fn delivery(&self, seq: u64) -> DeliveryRecord {
        // A stride that is prime to any sensible number of devices spreads them over the index.
        let at = usize::try_from(seq.wrapping_mul(7919)).unwrap_or_default() % self.devices.len();
        let device = self.devices.get(at).cloned();
        let now = self.now();
        let mut random = [0; 10];
        random[2..].copy_from_slice(&seq.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
        let head = CommandHead {
            id: CommandId::from_parts(now.wall.unix_ms(), random),
            seq: Seq::new(seq),
            action: self.action.clone(),
            total: 1,
            created_at: now.wall,
            created: now.instant,
            expires_at: now.wall.after(Duration::from_secs(3600)),
            run_timeout: Duration::from_secs(300),
            not_before: None,
            window: None,
        };
        let row = DeliveryRecord::new(head, device.expect("the remainder is within the list"), now);
        DeliveryRecord { state: DeliveryState::Sent, attempt: 1, sends: 1, ..row }
    }

    /// Transactions of a send: `2 * seq` makes it, `2 * seq + 1` ends it.
    fn send(&self, store: &SqliteStore) {
        let seq = self.next_seq.fetch_add(1, Ordering::Relaxed);
        let delivery = self.delivery(seq);
        let command = CommandRecord {
            head: delivery.head.clone(),
            data: self.data.clone(),
            created_by: None,
            select: None,
            parent: None,
            online_only: false,
        };
        let changes =
            vec![Change::PutCommand(Box::new(command)), Change::PutDelivery(Box::new(delivery))];
        store.submit(Txn::new(TxnId(2 * seq), changes));
    }

    fn end(&self, store: &SqliteStore, seq: u64) {
        let mut row = self.delivery(seq);
        row.state = DeliveryState::Delivered;
        row.version = 1;
        let changes = vec![Change::PutDelivery(Box::new(row))];
        store.submit(Txn::new(TxnId(2 * seq + 1), changes));
    }
}

impl StoreEvents for Load {
    fn committed(&self, committed: Vec<Committed>) {
        let now_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or_default();
        let gap = now_us - self.last_us.swap(now_us, Ordering::Relaxed);
        self.longest_gap_us.fetch_max(gap, Ordering::Relaxed);
        self.groups.fetch_add(1, Ordering::Relaxed);
        let Some(store) = self.store.get().and_then(Weak::upgrade) else { return };
        for committed in committed {
            let TxnId(txn) = committed.id();
            if txn % 2 == 0 {
                self.sends.fetch_add(1, Ordering::Relaxed);
                self.end(&store, txn / 2);
                self.send(&store);
            }
        }
    }

    fn loaded(&self, _: Vec<Loaded>) {}

    fn failed(&self, error: StoreError) {
        eprintln!("{error}");
    }
}

/// Seconds of CPU that this process has used: `utime` and `stime` of proc_pid_stat(5), in ticks of
/// 10 ms on every Linux that there is.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = after_name.split(' ').skip(11).take(2).filter_map(|t| t.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let seconds: u64 = args.next().map_or(Ok(10), |a| a.parse())?;
    let in_flight: u64 = args.next().map_or(Ok(64), |a| a.parse())?;
    let devices: usize = args.next().map_or(Ok(10_000), |a| a.parse())?;
    let dir = args.next().unwrap_or_else(|| std::env::temp_dir().display().to_string());
    let folder = tempfile::tempdir_in(dir)?;

    let names = (0..devices).map(|i| format!("d{i}").parse());
    let load = Arc::new(Load {
        store: OnceLock::new(),
        devices: names.collect::<Result<_, _>>()?,
        action: "x".parse()?,
        data: Json::text(&"x".repeat(100)),
        started: std::time::Instant::now(),
        next_seq: AtomicU64::new(1),
        sends: AtomicU64::new(0),
        groups: AtomicU64::new(0),
        longest_gap_us: AtomicU64::new(0),
        last_us: AtomicU64::new(0),
    });
    let (store, _) = SqliteStore::open(folder.path(), Options::default())?;
    let store = Arc::new(store);
    let _first = load.store.set(Arc::downgrade(&store));
    store.start(Arc::clone(&load) as _)?;
    for _ in 0..in_flight {
        load.send(&store);
    }

    println!("  sends/s  commits/s  us CPU/send  longest gap ms  MiB on disk");
    for _ in 0..seconds {
        let (sends, groups, cpu) =
            (load.sends.load(Ordering::Relaxed), load.groups.load(Ordering::Relaxed), cpu_s());
        sleep(Duration::from_secs(1));
        let done = load.sends.load(Ordering::Relaxed) - sends;
        let mut bytes = 0;
        for entry in std::fs::read_dir(folder.path())? {
            bytes += entry?.metadata()?.len();
        }
        println!(
            "{done:>9} {:>10} {:>12.1} {:>15.1} {:>12}",
            load.groups.load(Ordering::Relaxed) - groups,
            (cpu_s() - cpu) * 1e6 / done as f64,
            load.longest_gap_us.swap(0, Ordering::Relaxed) as f64 / 1e3,
            bytes >> 20,
        );
    }
    store.close();
    Ok(())
}
