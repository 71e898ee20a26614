//! Names to addresses, by the system's resolver, within a time that is less than that for connecting.
//!
//! `getaddrinfo` blocks for as long as the system's resolver likes: half a minute where the DNS server is silent. Each call
//! has a thread of its own, which is not waited for, neither after the limit nor when the process ends; a runtime waits for
//! its blocking threads, and its pool is shared. The number of such threads is bounded.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::settings::Cause;
use super::slots::Slots;

/// How long a lookup may take: our choice, above the 5 s after which resolvers query their second server, and below the time for
/// connecting, so that the error is of the name and not of the server.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(8);
/// When a lookup that lasts is reported: our choice.
const LOOKUP_NOTICE: Duration = Duration::from_secs(3);

/// The lookups at a time in this process: our choice. Each holds a thread while the system's resolver waits.
static LOOKUPS: Slots = Slots::new(32);

/// Finds the addresses of a name; blocks.
type Lookup = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// The resolver of a transport.
#[derive(Clone)]
pub(super) struct Resolver {
    lookup: Arc<Lookup>,
}

impl Resolver {
    pub(super) fn of_system() -> Self {
        Self { lookup: Arc::new(|name| Ok((name, 0).to_socket_addrs()?.collect())) }
    }

    /// The addresses of a name; their port means nothing.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<SocketAddr>, Cause> {
        let addresses = start(name, Arc::clone(&self.lookup))?;
        let answered = async {
            tokio::pin!(addresses);
            tokio::select! {
                addresses = &mut addresses => return addresses,
                () = sleep(LOOKUP_NOTICE) => {}
            }
            tracing::warn!("waiting for the DNS server, which has not answered for {name} yet");
            addresses.await
        };
        match timeout(LOOKUP_TIMEOUT, answered).await {
            Ok(Ok(addresses)) => {
                Ok(addresses.map_err(|source| NotFound { name: name.to_owned(), source })?)
            }
            Ok(Err(_)) => Err("the thread of the lookup has ended".into()),
            Err(_) => Err(Silent { name: name.to_owned() }.into()),
        }
    }
}

/// The DNS server has no address for the name, or there is no DNS server.
#[derive(Debug, thiserror::Error)]
#[error("name {name:?} not found{}", unless_unknown(.source))]
pub(super) struct NotFound {
    name: String,
    source: io::Error,
}

/// The system's reason, if it is another than that nothing has the name: the end of a sentence.
fn unless_unknown(error: &io::Error) -> String {
    // The standard library has no kind for it (EAI_NONAME), and begins with this text.
    let text = error.to_string();
    let reason = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
    match reason {
        "Name or service not known" | "Name does not resolve" => String::new(),
        reason => format!(": {reason}"),
    }
}

/// The DNS server did not answer in time.
#[derive(Debug, thiserror::Error)]
#[error(
    "the DNS server did not answer for {name} within {} s: check the network and the name servers in /etc/resolv.conf",
    LOOKUP_TIMEOUT.as_secs()
)]
struct Silent {
    name: String,
}

/// Starts a lookup in a thread of its own.
fn start(
    name: &str,
    lookup: Arc<Lookup>,
) -> io::Result<oneshot::Receiver<io::Result<Vec<SocketAddr>>>> {
    let Some(slot) = LOOKUPS.take() else {
        let message = format!("{} other names wait for the DNS server already", LOOKUPS.max());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    };
    let (sender, addresses) = oneshot::channel();
    let name = name.to_owned();
    std::thread::Builder::new().name("lookup".to_owned()).spawn(move || {
        let _slot = slot;
        // The receiver may have been dropped.
        sender.send(lookup(&name)).ok();
    })?;
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A silent DNS server held `eventsource-request` for 45 s, and the end of the process for 35 s more.
    #[tokio::test(start_paused = true)]
    async fn a_lookup_without_an_answer_ends_within_its_limit_and_is_not_waited_for() {
        let (release, wait) = mpsc::sync_channel::<()>(1);
        let wait = std::sync::Mutex::new(wait);
        let silent = Resolver {
            lookup: Arc::new(move |_| {
                wait.lock().unwrap().recv().ok();
                Ok(Vec::new())
            }),
        };
        let error = silent.addresses("hub.test").await.unwrap_err().to_string();
        assert!(error.contains("DNS server did not answer for hub.test within 8 s"), "{error}");
        drop(release);
    }

    #[tokio::test]
    async fn addresses_and_errors_are_those_of_the_lookup() {
        let found = "127.0.0.1:0".parse().unwrap();
        let one = Resolver { lookup: Arc::new(move |_| Ok(vec![found])) };
        assert_eq!(one.addresses("hub.test").await.unwrap(), [found]);
        let none = Resolver { lookup: Arc::new(|_| Err(io::Error::other("no such name"))) };
        let error = none.addresses("hub.test").await.unwrap_err();
        assert_eq!(error.to_string(), "name \"hub.test\" not found: no such name");
        assert_eq!(error.source().unwrap().to_string(), "no such name");
    }
}
