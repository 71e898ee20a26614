//! `bellwire demo`: what a newcomer runs first. A real hub, a real appliance, real commands, and a
//! `kill -9` in between; each step with the line that does the same by hand.
//!
//! Everything is on loopback and in a temporary folder, and removed afterwards.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use bellwire_client::api::CommandChange;
use bellwire_client::transport::HttpTransport;
use bellwire_client::{Controller, SendOptions};
use bellwire_proto::{Delivery, DeliveryState, Device, DeviceId, Transport};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use crate::args::fleet::Demo;
use crate::exit;
use crate::out::{self, BOLD, DIM, GOOD, StdoutError};

/// The appliance's name.
const KIOSK: &str = "kiosk-7";
/// How long a step may take before it is a failure.
const STEP: Duration = Duration::from_secs(30);

/// The appliance's two actions. A file of the user's own could look just like this.
const HANDLER: &str = r#"#!/bin/sh
# Run by `bellwire listen kiosk-7 --exec`: the action is in the environment, the data on stdin.
case "$BELLWIRE_ACTION" in
  ping)  echo pong ;;
  hello) read -r name || true; echo "hello, $name" ;;
  *)     echo "no such action: $BELLWIRE_ACTION" >&2; exit 64 ;;
esac
"#;

pub(crate) async fn run(args: Demo) -> anyhow::Result<u8> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // However this function ends, the processes end and the folder is removed.
    tokio::select! {
        done = play(args.keep) => done.map(|()| exit::OK),
        _ = interrupt.recv() => Ok(exit::OK),
        _ = terminate.recv() => Ok(exit::OK),
    }
}

async fn play(keep: bool) -> anyhow::Result<()> {
    let start = Instant::now();
    let folder = tempfile::Builder::new().prefix("bellwire-demo-").tempdir()?;
    let bellwire = std::env::current_exe().context("where this program is")?;
    let setup = Setup { bellwire, folder: folder.path().to_owned() };
    setup.write_handler()?;
    out::line(format_args!(
        "A hub, an appliance, three commands and a crash. All on this machine, in {}.",
        folder.path().display()
    ))?;
    let mut stage = Stage::build(setup).await?;
    stage.send_to_connected().await?;
    stage.send_over_a_crash().await?;
    out::line(format_args!(
        "\n{GOOD}Nothing was lost.{GOOD:#} {DIM}{}{DIM:#}",
        out::span(start.elapsed())
    ))?;
    if keep {
        stage.stay_up().await?;
    }
    stage.appliance.kill().await?;
    stage.hub.kill().await?;
    Ok(())
}

/// The hub and the appliance that run.
struct Stage {
    setup: Setup,
    address: SocketAddr,
    url: String,
    api: Controller,
    hub: Child,
    device: DeviceId,
    appliance: Child,
}

impl Stage {
    async fn build(setup: Setup) -> anyhow::Result<Self> {
        let folder = setup.folder.display();
        title("A hub starts")?;
        let (hub, address) = setup.hub(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let url = format!("http://{address}");
        by_hand(&format!("bellwire serve --listen {address} --data-dir {folder}/hub"))?;
        // Requests to loopback use no proxy, whatever is set.
        let direct = HttpTransport::builder().no_proxy().build()?;
        let api = Controller::builder(&url).transport(direct).build()?;

        title("An appliance connects, and holds one HTTP response open")?;
        by_hand(&format!("bellwire listen {KIOSK} --hub {url} --exec {folder}/kiosk.sh"))?;
        let (device, appliance) = (KIOSK.parse()?, setup.appliance(&url)?);
        // It polls until it has proven the stream. Between two polls its death would show after 40 s only.
        until(&api, &device, |device| device.transport == Some(Transport::Stream)).await?;
        print("online")?;
        Ok(Self { setup, address, url, api, hub, device, appliance })
    }

    async fn send_to_connected(&self) -> anyhow::Result<()> {
        let Self { api, device, url, .. } = self;
        title("A command, and its answer")?;
        by_hand(&format!("curl -X POST '{url}/v1/send/{KIOSK}/ping?wait=10s'"))?;
        let ping = api.send(device, &"ping".parse()?, &SendOptions::default()).await?;
        shown(ping.state)?;
        follow(api, &ping).await?;

        title("One with data")?;
        by_hand(&format!(
            "curl -H 'Content-Type: text/plain' -d world '{url}/v1/send/{KIOSK}/hello?wait=10s'"
        ))?;
        let hello = SendOptions::default().text("world");
        let hello = api.send(device, &"hello".parse()?, &hello).await?;
        shown(hello.state)?;
        follow(api, &hello).await
    }

    async fn send_over_a_crash(&mut self) -> anyhow::Result<()> {
        let Self { setup, address, url, api, hub, device, appliance } = self;
        title("The appliance disconnects; a command waits for it")?;
        appliance.kill().await?;
        until(api, device, |device| !device.online).await?;
        by_hand(&format!(
            "curl -H 'Content-Type: text/plain' -d again '{url}/v1/send/{KIOSK}/hello'"
        ))?;
        let again = SendOptions::default().text("again");
        let waiting = api.send(device, &"hello".parse()?, &again).await?;
        print(&format!("{} (202: it is on disk)", waiting.state))?;

        title("The hub is killed with SIGKILL, and started again")?;
        by_hand(&format!("kill -9 {}", hub.id().unwrap_or_default()))?;
        hub.kill().await?;
        (*hub, _) = setup.hub(*address).await?;
        by_hand(&format!("curl '{url}/v1/commands/{}'", waiting.command))?;
        let command = api.command(waiting.command).await?;
        let states: Vec<&str> = command.counts.keys().map(|state| state.as_str()).collect();
        print(&format!("still there: {}", states.join(", ")))?;

        title("The appliance reconnects")?;
        *appliance = setup.appliance(url)?;
        follow(api, &waiting).await
    }

    /// Until the program is interrupted.
    async fn stay_up(&mut self) -> anyhow::Result<()> {
        let url = &self.url;
        out::line(format_args!(
            "\nHub and appliance stay up until Ctrl-C:\n  bellwire send {KIOSK} ping --wait 10s --hub {url}\n  \
             bellwire devices --hub {url}\n  curl -N '{url}/v1/events'"
        ))?;
        tokio::select! {
            ended = self.hub.wait() => bail!("the hub ended: {}", ended?),
            ended = self.appliance.wait() => bail!("the appliance ended: {}", ended?),
        }
    }
}

/// The files and programs of the demo.
struct Setup {
    bellwire: PathBuf,
    folder: PathBuf,
}

impl Setup {
    fn write_handler(&self) -> anyhow::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o700).open(self.handler())?;
        std::io::Write::write_all(&mut &file, HANDLER.as_bytes())?;
        Ok(())
    }

    fn handler(&self) -> PathBuf {
        self.folder.join("kiosk.sh")
    }

    /// Starts a hub and waits until it prints its address.
    async fn hub(&self, listen: SocketAddr) -> anyhow::Result<(Child, SocketAddr)> {
        let mut hub = self
            .program("hub.log")?
            .args(["serve", "--listen", &listen.to_string(), "--data-dir"])
            .arg(self.folder.join("hub"))
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = hub.stdout.take().context("the hub has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await? {
                if let Some((_, address)) = line.split_once("listening on http://") {
                    return Ok(address.parse()?);
                }
            }
            bail!("the hub did not start: {}", log(&self.folder.join("hub.log")))
        };
        let address = timeout(STEP, listening).await.context("the hub did not start in time")??;
        Ok((hub, address))
    }

    fn appliance(&self, url: &str) -> anyhow::Result<Child> {
        let mut command = self.program("appliance.log")?;
        command.args(["listen", KIOSK, "--hub", url, "--exec"]).arg(self.handler());
        Ok(command.stdout(Stdio::null()).spawn()?)
    }

    /// This program, with its standard error in a file of the folder, without the environment's
    /// settings for a real hub.
    fn program(&self, log: &str) -> anyhow::Result<Command> {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join(log))?;
        let mut command = Command::new(&self.bellwire);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BELLWIRE_") {
                command.env_remove(name);
            }
        }
        // As for the demo's own requests.
        command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
        command.stdin(Stdio::null()).stderr(log).kill_on_drop(true);
        Ok(command)
    }
}

fn log(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Waits until the hub shows the appliance so.
async fn until(
    api: &Controller,
    device: &DeviceId,
    is_so: impl Fn(&Device) -> bool,
) -> anyhow::Result<()> {
    let seen = async {
        loop {
            match api.device(device).await {
                Ok(device) if is_so(&device) => return,
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(STEP, seen).await.context("the appliance was not seen in time")
}

/// Shows each state of a command after the one in which it was shown last, until its end.
async fn follow(api: &Controller, sent: &Delivery) -> anyhow::Result<()> {
    let mut changes = api.watch(sent.command)?;
    let mut last: Option<Box<Delivery>> = None;
    let mut state = sent.state;
    let changes_shown = async {
        while let Some(change) = changes.next().await {
            match change? {
                CommandChange::Delivery(delivery) => {
                    // A delivery may change and its state not: the first that is reported is how it stands.
                    if std::mem::replace(&mut state, delivery.state) != delivery.state {
                        shown(delivery.state)?;
                    }
                    last = Some(delivery);
                }
                _ => break,
            }
        }
        anyhow::Ok(())
    };
    timeout(STEP, changes_shown).await.context("the command did not end in time")??;
    match last {
        Some(delivery) if delivery.state == DeliveryState::Succeeded => {
            let took = out::span(delivery.updated_at.since(delivery.created_at));
            let stdout = delivery.outcome.stdout.unwrap_or_default();
            out::line(format_args!(
                "   {BOLD}{}{BOLD:#} {DIM}after {took}{DIM:#}",
                stdout.trim_end()
            ))?;
            Ok(())
        }
        other => {
            bail!("the command did not succeed: {:?}", other.map(|d| (d.state, d.outcome.error)))
        }
    }
}

fn title(text: &str) -> Result<(), StdoutError> {
    out::line(format_args!("\n{BOLD}{text}{BOLD:#}"))
}

/// The command line with the same effect.
fn by_hand(line: &str) -> Result<(), StdoutError> {
    out::line(format_args!("   {DIM}$ {line}{DIM:#}"))
}

fn shown(state: DeliveryState) -> Result<(), StdoutError> {
    let style = out::style_of(state);
    out::line(format_args!("   {style}{state}{style:#}"))
}

fn print(text: &str) -> Result<(), StdoutError> {
    out::line(format_args!("   {text}"))
}
