//! The servers: started as processes on a temporary folder, watched through `/proc`, killed in the
//! end.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use super::tls;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Hub,
    Floor,
    /// A hub that speaks TLS.
    TlsHub,
    /// Nothing but rustls: it ends each connection after its answer.
    TlsFloor,
    /// The same, which holds each connection.
    TlsHolder,
}

/// A server at work; killed when dropped.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Server {
    /// Starts a fresh one in a new folder below `parent`, with these variables set.
    pub(crate) fn start(
        kind: Kind,
        bellwire: &Path,
        parent: &Path,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("hubload-").tempdir_in(parent)?;
        let mut command = match kind {
            Kind::Hub => {
                let mut command = Command::new(bellwire);
                command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
                command.arg(folder.path().join("hub"));
                command
            }
            Kind::TlsHub => {
                let (cert, key) = tls::write_certificate(folder.path())?;
                let mut command = Command::new(bellwire);
                command.args(["serve", "--listen", "https://127.0.0.1:0", "--data-dir"]);
                command.arg(folder.path().join("hub"));
                command.env("BELLWIRE_TLS_CERT", cert).env("BELLWIRE_TLS_KEY", key);
                command
            }
            Kind::TlsFloor | Kind::TlsHolder => {
                tls::write_certificate(folder.path())?;
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("--serve-tls-floor").arg(folder.path());
                command.args((kind == Kind::TlsHolder).then_some("--hold"));
                command
            }
            Kind::Floor => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("--serve-floor").arg(folder.path());
                command
            }
        };
        let log = fs::File::create(folder.path().join("log"))?;
        let mut child = command
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", bellwire.display()))?;
        let stdout = child.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().rsplit_once("://").and_then(|(_, at)| at.parse().ok());
        match address {
            Some(address) => Ok(Self { child, address, folder }),
            None => {
                child.kill()?;
                child.wait()?;
                let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
                anyhow::bail!("the {kind} does not start: {line}{log}")
            }
        }
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its anonymous memory: what it allocated and touched, not its program or files.
    pub(crate) fn anon_bytes(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(self.proc("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: f64 = kib.context("no RssAnon")?.trim().parse()?;
        Ok(kib * 1024.0)
    }

    /// CPU of all its threads since it started, in seconds.
    pub(crate) fn cpu_s(&self) -> anyhow::Result<f64> {
        cpu_of(&self.proc("stat"))
    }

    /// What it logged, for an error's message.
    pub(crate) fn log_tail(&self, kind: Kind) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        format!("the {kind} (its log ends with {last:?})")
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.child.id()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended is fine.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hub => "hub",
            Self::Floor => "floor",
            Self::TlsHub => "hub over TLS",
            Self::TlsFloor => "floor of TLS",
            Self::TlsHolder => "floor of TLS that holds",
        })
    }
}

/// What the machine does beside the server and this client: with much of it, the figures are of
/// little use.
pub(crate) struct OtherLoad {
    start: Instant,
    busy_s: f64,
}

impl OtherLoad {
    pub(crate) fn begin(server: &Server) -> anyhow::Result<Self> {
        Ok(Self { start: Instant::now(), busy_s: Self::busy_s(server)? })
    }

    /// Cores that other processes used since.
    pub(crate) fn cores(&self, server: &Server) -> anyhow::Result<f64> {
        let busy_s = Self::busy_s(server)? - self.busy_s;
        Ok((busy_s / self.start.elapsed().as_secs_f64()).max(0.0))
    }

    fn busy_s(server: &Server) -> anyhow::Result<f64> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        let times: Vec<f64> = line.split_whitespace().filter_map(|t| t.parse().ok()).collect();
        // user, nice, system, idle, iowait, irq, softirq, steal, …: all but the two that wait, and
        // not guests, which are in user already.
        let busy: f64 = times
            .iter()
            .take(8)
            .enumerate()
            .filter_map(|(at, time)| (at != 3 && at != 4).then_some(time))
            .sum();
        let ours = cpu_of(Path::new("/proc/self/stat"))? + server.cpu_s()?;
        Ok(busy / ticks_per_s() - ours)
    }
}

/// User and system time of a process, all its threads.
fn cpu_of(stat: &Path) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(stat).context("the server has ended")?;
    // Fields 14 and 15; the name before them may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("no process name")?;
    let times: Vec<f64> =
        fields.split_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
    ensure!(times.len() == 2, "no times in {stat}");
    Ok(times.iter().sum::<f64>() / ticks_per_s())
}

fn ticks_per_s() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// Lets this process, and those that it starts, have as many open files as it may; gives how many.
pub(crate) fn raise_file_limit() -> anyhow::Result<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum.unwrap_or(u64::MAX))
}

/// A program that was built with this one.
pub(crate) fn beside_this(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(
        path.exists(),
        "{} is not there: build it with `cargo build --release`, or name another with --bellwire",
        path.display(),
    );
    Ok(path)
}
