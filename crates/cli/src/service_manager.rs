//! Notifications to systemd (sd_notify(3)): ready, watchdog, stopping. Without a service manager nothing is sent.
//!
//! Not the crate sd-notify: as of 0.5 it supports no abstract socket names, which older systemd sets (CentOS 7), and its
//! send blocks when the service manager does not read.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// The service manager, if there is one.
pub(crate) struct ServiceManager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// From `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub(crate) fn from_environment() -> Self {
        let variable = |name| std::env::var(name).ok();
        let pid = variable("WATCHDOG_PID").and_then(|pid| pid.parse().ok());
        let for_us = pid.is_none_or(|pid: u32| pid == std::process::id());
        let watchdog = variable("WATCHDOG_USEC").and_then(|usec| usec.parse().ok());
        Self {
            socket: std::env::var_os("NOTIFY_SOCKET").and_then(|name| connect(name.as_bytes())),
            watchdog: watchdog.filter(|usec| for_us && *usec > 0).map(Duration::from_micros),
        }
    }

    /// Sends a notification. Nothing depends on whether it arrives.
    pub(crate) fn send(&self, state: &str) {
        if let Some(socket) = &self.socket {
            socket.send(state.as_bytes()).ok();
        }
    }

    /// Sends a keepalive twice per watchdog interval. Never resolves. The task that does the work must poll it, so that
    /// it stops when that task hangs.
    pub(crate) async fn keep_alive(&self) -> std::convert::Infallible {
        let Some(watchdog) = self.watchdog else {
            return std::future::pending().await;
        };
        let mut ticks = interval((watchdog / 2).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.send("WATCHDOG=1");
        }
    }
}

/// A path, or a name in the abstract namespace behind an `@`.
fn connect(name: &[u8]) -> Option<UnixDatagram> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name).ok()?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)).ok()?,
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect_addr(&address).ok()?;
    // A service manager that does not read must not block the agent.
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_arrive_at_a_path_and_at_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let at_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("bellwire-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let at_name = UnixDatagram::bind_addr(&abstract_address).unwrap();
        for (listener, name) in [
            (at_path, path.as_os_str().as_bytes().to_vec()),
            (at_name, format!("@{name}").into_bytes()),
        ] {
            let manager = ServiceManager { socket: connect(&name), watchdog: None };
            manager.send("READY=1");
            let mut read = [0; 64];
            let length = listener.recv(&mut read).unwrap();
            assert_eq!(&read[..length], b"READY=1");
        }
    }
}
