//! A program on a terminal of its own, as a person who types sees it: `script` of util-linux makes the terminal.

use std::io::{Read, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::process::wait_until;

/// A terminal with one program. Killed when dropped.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: Option<ChildStdin>,
    screen: Arc<Mutex<Vec<u8>>>,
}

/// The key that interrupts.
pub const CTRL_C: &str = "\u{3}";

impl Terminal {
    /// Starts `program` on a terminal, with these variables in its environment and no others of Bellwire's.
    pub fn start(program: &str, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let quoted = |word: &&str| format!("'{}'", word.replace('\'', r"'\''"));
        let words: Vec<String> = [program].iter().chain(args).map(quoted).collect();
        let mut command = Command::new("script");
        // Without `exec`, some shells stay above the program, and Ctrl-C gives their exit code instead of its own.
        let line = format!("exec {}", words.join(" "));
        command.args(["--quiet", "--return", "--flush", "--command", &line]);
        command.arg("/dev/null").envs(environment.iter().copied()).env("TERM", "xterm");
        for (name, _) in std::env::vars_os() {
            let set = environment.iter().any(|(variable, _)| name.to_str() == Some(variable));
            if !set && name.to_string_lossy().starts_with("BELLWIRE_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("script (util-linux) does not start: {e}"));
        let screen = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().unwrap(), &screen);
        let keyboard = child.stdin.take();
        Self { child, keyboard, screen }
    }

    /// All that was on the screen so far.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// Waits until this was on the screen.
    pub fn shows(&self, text: &str) {
        wait_until(&format!("{text:?} on the screen"), || {
            let screen = self.screen();
            if screen.contains(text) { Ok(()) } else { Err(screen) }
        });
    }

    /// Types this.
    pub fn types(&mut self, keys: &str) {
        let keyboard = self.keyboard.as_mut().unwrap();
        keyboard.write_all(keys.as_bytes()).unwrap();
        keyboard.flush().unwrap();
    }

    /// Waits for the end of the program; gives its exit code and all that was on the screen.
    pub fn ends(mut self) -> (i32, String) {
        let status = wait_until("the program on the terminal to end", || {
            self.child.try_wait().unwrap().ok_or_else(|| self.screen())
        });
        (status.code().unwrap_or(-1), self.screen())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Without a keyboard, `script` ends its program. Already ended is fine.
        self.keyboard.take();
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn collect(mut pipe: impl Read + Send + 'static, into: &Arc<Mutex<Vec<u8>>>) {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut piece) {
            into.lock().unwrap().extend_from_slice(&piece[..length]);
        }
    });
}
