//! Programs under test: started for real, ended for real.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// The program with these arguments, and none of the settings for it that the environment of the tests may have.
pub fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_set_for_it = text.starts_with("BELLWIRE_")
            || text.to_ascii_lowercase().ends_with("_proxy")
            || text == "XDG_CONFIG_HOME";
        if is_set_for_it {
            command.env_remove(&name);
        }
    }
    command.env("NO_PROXY", "127.0.0.1");
    command
}

/// Makes the first admin token in a data folder, and gives its text.
pub fn admin_token(program: &str, data_dir: &Path) -> String {
    let args = ["token", "create", "--role", "admin", "--quiet", "--data-dir"];
    let output = command(program, &args).arg(data_dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// How long a program may take to print its address, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that runs. Killed when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Program {
    /// Starts `command`; what it prints is collected.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
        let output = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().unwrap(), &output);
        collect(child.stderr.take().unwrap(), &output);
        Self { child, output }
    }

    /// Starts `bellwire serve` on a data folder, on a loopback port that the kernel chooses; gives it and
    /// its address once it listens.
    pub fn serve_anywhere(bellwire: &str, data_dir: &Path) -> (Self, SocketAddr) {
        Self::serve(bellwire, data_dir, ([127, 0, 0, 1], 0).into())
    }

    /// The same on this address.
    pub fn serve(bellwire: &str, data_dir: &Path, listen: SocketAddr) -> (Self, SocketAddr) {
        let mut command = Command::new(bellwire);
        command.args(["serve", "--listen", &listen.to_string(), "--data-dir"]).arg(data_dir);
        let hub = Self::start(&mut command);
        let address = hub.address();
        (hub, address)
    }

    /// Starts `bellwire serve` with this file of settings in a folder, which gets its data too; gives it and the addresses of its
    /// listeners, which are so many.
    pub fn serve_with(
        bellwire: &str,
        folder: &Path,
        settings: &str,
        listeners: usize,
    ) -> (Self, Vec<SocketAddr>) {
        let file = folder.join("hub.toml");
        std::fs::write(&file, settings).unwrap();
        let mut serve = command(bellwire, &["serve", "--config"]);
        let hub = Self::start(serve.arg(&file).arg("--data-dir").arg(folder.join("hub")));
        hub.wait_for("ready;");
        let addresses = wait_until(&format!("{listeners} listeners to be named"), || {
            let output = hub.output();
            let urls = output.lines().filter_map(|line| line.split_once("listening on "));
            let addresses: Vec<SocketAddr> =
                urls.map(|(_, url)| url.split_once("://").unwrap().1.parse().unwrap()).collect();
            if addresses.len() == listeners { Ok(addresses) } else { Err(output) }
        });
        (hub, addresses)
    }

    /// Waits until a server says at which address it listens for plain HTTP, and gives that.
    pub fn address(&self) -> SocketAddr {
        let line = self.wait_for("listening on http://");
        let address = line.split("listening on http://").nth(1).unwrap();
        let address = address.split([' ', ',', ';']).next().unwrap();
        address.trim().parse().unwrap_or_else(|e| panic!("{e} in {line:?}"))
    }

    /// Waits for a line with `text` in what the program prints, and gives it.
    pub fn wait_for(&self, text: &str) -> String {
        wait_until(&format!("a line with {text:?}"), || {
            let output = self.output();
            let found = output.lines().find(|line| line.contains(text)).map(str::to_owned);
            found.ok_or(output)
        })
    }

    /// What it has printed so far, both outputs.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// SIGKILL, and wait until it has ended.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and wait for the end; gives the exit code.
    pub fn terminate(mut self) -> ExitStatus {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        wait_until("the program to end after SIGTERM", || {
            self.child.try_wait().unwrap().ok_or_else(|| self.output())
        })
    }

    /// Waits for the end; gives the exit code.
    pub fn wait(mut self) -> ExitStatus {
        wait_until("the program to end", || {
            self.child.try_wait().unwrap().ok_or_else(|| self.output())
        })
    }

    /// Whether it has ended by itself, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Already ended is fine.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn collect(pipe: impl Read + Send + 'static, into: &Arc<Mutex<String>>) {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut output = into.lock().unwrap();
            output.push_str(&line);
            output.push('\n');
        }
    });
}

/// Polls until there is an answer; after a generous bound, panics with what was waited for and the
/// last excuse.
pub fn wait_until<T, E: std::fmt::Display>(what: &str, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(excuse) if start.elapsed() > PATIENCE => {
                panic!("waited {PATIENCE:?} for {what}; last seen:\n{excuse}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Whether a process with this id runs; one that has ended and was not collected does not.
pub fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}
