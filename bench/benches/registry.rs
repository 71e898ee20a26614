//! Pages of a great registry of devices, beside plain SQL over the same file.
//!
//! A hub in this process serves a store with so many devices; each kind of page is requested over HTTP, the first, one in the
//! middle and the last. The floor reads as many rows of the same file with SQLite alone: it knows where they are, and
//! nothing of scopes, presence or JSON.
//!
//! `cargo bench -p bellwire-bench --bench registry -- [DEVICES]`, a million by default.

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use bellwire_hub::app::Bound;
use bellwire_hub::config::Config;
use rusqlite::{Connection, OpenFlags, params};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Items on a page.
const LIMIT: usize = 100;
/// How often each page is requested.
const TIMES: usize = 30;
/// Devices that poll, and so are online for 40 s.
const ONLINE: usize = 1000;

/// A list, and the floor for it: SQL that gives the names of its pages, from `?1` on, `?2` at most.
struct List {
    query: &'static str,
    floor: &'static str,
}

const LISTS: &[List] = &[
    List {
        query: "",
        floor: "SELECT device FROM devices WHERE device > ?1 ORDER BY device LIMIT ?2",
    },
    List {
        query: "sort=-id",
        floor: "SELECT device FROM devices WHERE device > ?1 ORDER BY device DESC LIMIT ?2",
    },
    List {
        query: "select=rack%3Dr7",
        floor: "SELECT device FROM labels WHERE key = 'rack' AND value = 'r7' AND device > ?1 ORDER BY device LIMIT ?2",
    },
    List {
        query: "select=facts.serial+in+(s7,s500000)",
        floor: "SELECT device FROM facts WHERE key = 'serial' AND value IN ('s7', 's500000') AND device > ?1 LIMIT ?2",
    },
    List {
        query: "select=site%3Dlyon,facts.os%3Dlinux,!spare",
        floor: "SELECT device FROM labels WHERE key = 'site' AND value = 'lyon' AND device > ?1 ORDER BY device LIMIT ?2",
    },
    List {
        query: "select=!rack",
        floor: "SELECT device FROM devices WHERE device > ?1 ORDER BY device LIMIT ?2",
    },
    List {
        query: "prefix=device-00001",
        floor: "SELECT device FROM devices WHERE device >= 'device-00001' AND device > ?1 ORDER BY device LIMIT ?2",
    },
    List {
        query: "sort=-last_seen_at",
        floor: "SELECT device FROM devices WHERE device > ?1 ORDER BY seen_at DESC, device DESC LIMIT ?2",
    },
    List {
        query: "sort=-last_seen_at&select=rack%3Dr7",
        floor: "SELECT device FROM labels WHERE key = 'rack' AND value = 'r7' AND device > ?1 ORDER BY device LIMIT ?2",
    },
    List {
        query: "sort=-queued",
        floor: "SELECT device FROM queues WHERE queued > 1 AND device > ?1 ORDER BY queued DESC, device DESC LIMIT ?2",
    },
    List {
        query: "unseen=29d",
        floor: "SELECT device FROM devices WHERE device > ?1 ORDER BY device LIMIT ?2",
    },
    List {
        query: "online=true",
        floor: "SELECT device FROM devices WHERE device > ?1 ORDER BY device LIMIT ?2",
    },
    List {
        query: "online=false",
        floor: "SELECT device FROM devices WHERE device > ?1 ORDER BY device LIMIT ?2",
    },
];

fn main() -> Outcome<()> {
    let devices = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(1_000_000);
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("hub");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let config = |data: &Path| -> Outcome<Config> {
        let mut config = Config::default();
        config.listen = vec!["127.0.0.1:0".parse()?];
        config.data_dir = data.to_owned();
        config.drain = Duration::ZERO;
        Ok(config)
    };
    // Once empty, so that the tables are the hub's own.
    let made = runtime
        .block_on(async { Ok::<_, Box<dyn Error>>(Bound::bind(config(&data)?).await?.serve()) })?;
    runtime.block_on(made.shutdown());
    let started = Instant::now();
    fill(&data.join("bellwire.db"), devices)?;
    println!("{devices} devices in {:.0} s", started.elapsed().as_secs_f64());

    let running = runtime
        .block_on(async { Ok::<_, Box<dyn Error>>(Bound::bind(config(&data)?).await?.serve()) })?;
    let addr = running.listeners().first().ok_or("it listens nowhere")?.address;
    let file =
        Connection::open_with_flags(data.join("bellwire.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    println!(
        "{:<46} {:<7} {:>8} {:>8} {:>9} {:>6}",
        "list", "page", "p50 ms", "max ms", "floor ms", "ratio"
    );
    for list in LISTS {
        online(addr, devices)?;
        measure(addr, &file, list)?;
    }
    runtime.block_on(running.shutdown());
    Ok(())
}

/// Requests the pages of a list, and reads as many rows beside it.
fn measure(addr: SocketAddr, file: &Connection, list: &List) -> Outcome<()> {
    let mut hub = Http::to(addr)?;
    // The cursors of some hundred pages, of which the middle one and the last are looked at.
    let mut cursors = vec![String::new()];
    let mut items = Vec::new();
    loop {
        let after = cursors.last().cloned().unwrap_or_default();
        let page = hub.get(&format!("/v1/devices?limit={LIMIT}&{}{after}", list.query))?;
        items.push(page.get("items").and_then(|items| items.as_array()).map_or(0, Vec::len));
        match page.get("next").and_then(|next| next.as_str()) {
            Some(next) if cursors.len() < 20_000 => cursors.push(format!("&after={next}")),
            _ => break,
        }
    }
    let last = cursors.len() - 1;
    let pages = [("first", 0), ("middle", last / 2), ("last", last)];
    for (name, at) in pages.into_iter().take(if last == 0 { 1 } else { 3 }) {
        let after = cursors.get(at).cloned().unwrap_or_default();
        let path = format!("/v1/devices?limit={LIMIT}&{}{after}", list.query);
        let (mut times, mut floors) = (Vec::new(), Vec::new());
        for _ in 0..TIMES {
            let started = Instant::now();
            let page = hub.get(&path)?;
            times.push(started.elapsed());
            let names = page.get("items").and_then(|items| items.as_array()).cloned();
            let names = names.unwrap_or_default();
            let first =
                names.first().and_then(|device| device.get("id")?.as_str()).unwrap_or_default();
            let started = Instant::now();
            floor(file, list, first, names.len())?;
            floors.push(started.elapsed());
        }
        times.sort_unstable();
        floors.sort_unstable();
        let ms = |time: Option<&Duration>| time.map_or(0.0, Duration::as_secs_f64) * 1000.0;
        let (p50, most, floor) =
            (ms(times.get(TIMES / 2)), ms(times.last()), ms(floors.get(TIMES / 2)));
        let count = items.get(at).copied().unwrap_or_default();
        let page = format!("{name} {count}");
        println!(
            "{:<46} {page:<11} {p50:>8.2} {most:>8.2} {floor:>9.2} {:>6.1}",
            list.query,
            p50 / floor
        );
    }
    println!("{:<46} {} pages, {} devices", "", cursors.len(), items.iter().sum::<usize>());
    Ok(())
}

/// The names and whole rows of a page, by SQLite alone.
fn floor(file: &Connection, list: &List, first: &str, count: usize) -> Outcome<usize> {
    // From just before the first on, so that the same rows are read.
    let before = first.get(..first.len().saturating_sub(1)).unwrap_or_default();
    let by_name = !list.floor.contains("DESC");
    let mut names = file.prepare_cached(list.floor)?;
    let names = names
        .query_map(params![if by_name { before } else { "" }, i64::try_from(count)?], |row| {
            row.get::<_, String>(0)
        })?;
    let mut row = file.prepare_cached("SELECT * FROM devices WHERE device = ?1")?;
    let mut bytes = 0;
    for name in names {
        bytes += row
            .query_row([name?], |row| row.get_ref(6)?.as_str().map(str::len).map_err(Into::into))
            .unwrap_or(0);
    }
    Ok(bytes)
}

/// Has some devices poll.
fn online(addr: SocketAddr, devices: usize) -> Outcome<()> {
    let mut hub = Http::to(addr)?;
    for n in 0..ONLINE.min(devices) {
        let device = n * (devices / ONLINE.min(devices));
        hub.get(&format!("/v1/devices/device-{device:07}/commands?wait=0"))?;
    }
    Ok(())
}

/// Devices as the hub would have stored them: four labels and five facts, seen within 30 days, a tenth with a queue.
fn fill(path: &Path, devices: usize) -> Outcome<()> {
    let mut file = Connection::open(path)?;
    file.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -400000")?;
    let now = i64::try_from(
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis(),
    )?;
    let transaction = file.transaction()?;
    {
        let mut device = transaction.prepare(
            "INSERT INTO devices (device, created_at, seen_at, seen_address, seen_agent, labels, facts)
             VALUES (?1, ?2, ?3, '192.0.2.7', 'bellwire/0.1.0', ?4, ?5)",
        )?;
        let mut queue = transaction.prepare("INSERT INTO queues VALUES (?1, ?2)")?;
        for n in 0..devices {
            // A stride that is prime to the number of devices: what is side by side by name is not so by anything else.
            let at = n * 7919 % devices;
            let name = format!("device-{n:07}");
            let site = ["lyon", "oslo", "rome"].get(at % 3).copied().unwrap_or_default();
            let spare = if at.is_multiple_of(10) { r#","spare":"""# } else { "" };
            let labels = format!(
                r#"{{"os":"deb{}","rack":"r{}","site":"{site}"{spare}}}"#,
                11 + at % 2,
                at % (devices / 100).max(1)
            );
            let facts = format!(
                r#"{{"os":"linux","cpus":{},"serial":"s{at}","version":"2.{}","kernel":"6.1.0-{}"}}"#,
                1 << (at % 4),
                at % 50,
                at % 20
            );
            let seen = now - i64::try_from(at)? * 2_592_000_000 / i64::try_from(devices)?;
            device.execute(params![name, now - 3_000_000_000, seen, labels, facts])?;
            if at.is_multiple_of(10) {
                queue.execute(params![name, i64::try_from(1 + at % 100)?])?;
            }
        }
        transaction.execute_batch(
            "INSERT INTO labels SELECT j.key, d.device, j.value FROM devices d, json_each(d.labels) j;
             INSERT INTO facts SELECT j.key, d.device, CAST(j.value AS TEXT) FROM devices d, json_each(d.facts) j;
             INSERT INTO label_counts SELECT key, value, count(*) FROM labels GROUP BY key, value;",
        )?;
    }
    transaction.commit()?;
    file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}

/// A connection that is used again and again.
struct Http(TcpStream);

impl Http {
    fn to(addr: SocketAddr) -> Outcome<Self> {
        let socket = TcpStream::connect(addr)?;
        socket.set_nodelay(true)?;
        Ok(Self(socket))
    }

    fn get(&mut self, path: &str) -> Outcome<serde_json::Value> {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes())?;
        let (mut got, mut buffer) = (Vec::new(), [0; 65_536]);
        let head = loop {
            let n = self.0.read(&mut buffer)?;
            got.extend_from_slice(buffer.get(..n).unwrap_or_default());
            if let Some(at) = got.windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
            if n == 0 {
                return Err("the hub closed the connection".into());
            }
        };
        let text =
            String::from_utf8_lossy(got.get(..head).unwrap_or_default()).to_ascii_lowercase();
        if !text.starts_with("http/1.1 200") {
            return Err(format!("{path}: {text}").into());
        }
        let length: usize = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .ok_or("an answer without a length")?
            .trim()
            .parse()?;
        let mut body = got.split_off(head);
        let already = body.len();
        body.resize(length, 0);
        self.0.read_exact(body.get_mut(already..).unwrap_or_default())?;
        Ok(serde_json::from_slice(&body)?)
    }
}
