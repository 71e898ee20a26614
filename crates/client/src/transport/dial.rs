//! A TCP connection to a name: its addresses in the order of RFC 8305 ("happy eyeballs"), so that a network where one family of
//! addresses leads nowhere costs a quarter of a second and not the whole time for connecting.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::resolve::Resolver;
use super::settings::Cause;

/// Between the beginnings of two attempts: RFC 8305, section 8, "Connection Attempt Delay".
const ATTEMPT_EVERY: Duration = Duration::from_millis(250);
/// How long one attempt may take: our choice. A SYN is sent again after 1 s and 3 s. With three attempts before it, it ends within the
/// 5 s of a poll that is not held and of a proof, so that their errors have its reason.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
/// Addresses of a name that are tried: our choice.
const ADDRESSES_MAX: usize = 16;
/// Failed addresses that an error names.
const SHOWN_MAX: usize = 4;
/// A peer that is gone without notice is noticed after a minute of silence: a probe each 15 s, of which three may be lost; and what
/// was sent and is not confirmed for 30 s is lost (`TCP_USER_TIMEOUT`, RFC 5482). Our choice, below what a person waits.
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES_MAX: u32 = 3;
#[cfg(target_os = "linux")]
const UNCONFIRMED_MAX: Duration = Duration::from_secs(30);

/// No address could be connected to. Its source is the first failure.
#[derive(Debug)]
pub(super) struct Unreachable {
    failures: Vec<(SocketAddr, io::Error)>,
}

impl Unreachable {
    /// Whether an address was reached, and refuses the connection.
    pub(super) fn is_refused(&self) -> bool {
        let refused = io::ErrorKind::ConnectionRefused;
        self.failures.iter().any(|(_, error)| error.kind() == refused)
    }
}

impl StdError for Unreachable {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.failures.first().map(|(_, error)| error as _)
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.failures.iter().take(SHOWN_MAX);
        let shown: Vec<_> =
            shown.map(|(address, error)| format!("{address}: {}", reason_text(error))).collect();
        let more = self.failures.len().saturating_sub(SHOWN_MAX);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        write!(f, "{}{more}", shown.join(", "))
    }
}

/// The system's reason without its number, in the middle of a sentence.
pub(super) fn reason_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        // A second capital is that of an abbreviation.
        Some(first) if !chars.as_str().starts_with(|c: char| c.is_uppercase()) => {
            format!("{}{}", first.to_lowercase(), chars.as_str())
        }
        _ => text.to_owned(),
    }
}

/// Connects to the first address of `host`, a name or an address, that answers. An IPv6 address may have brackets.
pub(super) async fn tcp(resolver: &Resolver, host: &str, port: u16) -> Result<TcpStream, Cause> {
    connect(addresses(resolver, host, port).await?).await
}

/// The addresses of `host`, in the order in which they are tried.
pub(super) async fn addresses(
    resolver: &Resolver,
    host: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, Cause> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let mut found = resolver.addresses(bare).await?;
    found.iter_mut().for_each(|address| address.set_port(port));
    Ok(interleaved(found))
}

/// Connects to the first of these that answers.
pub(super) async fn connect(addresses: Vec<SocketAddr>) -> Result<TcpStream, Cause> {
    let socket = first(addresses, |address| async move {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer");
        timeout(ATTEMPT_TIMEOUT, TcpStream::connect(address)).await.map_err(late).flatten()
    })
    .await?;
    socket.set_nodelay(true)?;
    watch(&socket)?;
    Ok(socket)
}

/// Has the system notice a dead peer.
fn watch(socket: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new().with_time(PROBE_EVERY).with_interval(PROBE_EVERY);
    socket.set_tcp_keepalive(&keepalive.with_retries(PROBES_MAX))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNCONFIRMED_MAX))?;
    Ok(())
}

/// The families in alternation, the resolver's first one first (RFC 8305, section 4).
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == is_first);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut ordered = Vec::new();
    while ordered.len() < ADDRESSES_MAX {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            break;
        }
        ordered.extend(pair.into_iter().flatten());
    }
    ordered
}

/// The first success. The next attempt begins when the last one has failed, or has taken its time.
async fn first<T, F: Future<Output = io::Result<T>>>(
    addresses: Vec<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, Cause> {
    if addresses.is_empty() {
        return Err("the name has no address".into());
    }
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failures = Vec::new();
    loop {
        if let Some(address) = waiting.next() {
            let attempt = attempt(address);
            attempts.push(async move { (address, attempt.await) });
        } else if attempts.is_empty() {
            return Err(Unreachable { failures }.into());
        }
        let is_last = waiting.len() == 0;
        tokio::select! {
            Some((address, outcome)) = attempts.next() => match outcome {
                Ok(connected) => return Ok(connected),
                Err(error) => failures.push((address, error)),
            },
            () = sleep(ATTEMPT_EVERY), if !is_last => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 80)).collect()
    }

    #[test]
    fn the_families_alternate_and_the_first_one_stays_first() {
        for (found, ordered) in [
            (&["::1", "::2", "::3", "10.0.0.1"][..], &["::1", "10.0.0.1", "::2", "::3"][..]),
            (&["10.0.0.1", "10.0.0.2", "::1"], &["10.0.0.1", "::1", "10.0.0.2"]),
            (&["10.0.0.1"], &["10.0.0.1"]),
            (&[], &[]),
        ] {
            assert_eq!(interleaved(addresses(found)), addresses(ordered));
        }
        let many = (1..=100).map(|i| SocketAddr::new(IpAddr::from([10, 0, 0, i]), 80)).collect();
        assert_eq!(interleaved(many).len(), ADDRESSES_MAX);
    }

    /// When each address was tried, and what came of it, in virtual time: an address with `::dead` never answers.
    async fn race(list: &[&str]) -> (Result<SocketAddr, String>, Vec<(SocketAddr, u128)>) {
        let (begin, tried) = (Instant::now(), Mutex::new(Vec::new()));
        let outcome = first(addresses(list), |address| {
            tried.lock().unwrap().push((address, begin.elapsed().as_millis()));
            async move {
                match address.ip().to_string().as_str() {
                    "::dead" => std::future::pending().await,
                    "10.0.0.9" => Err(io::ErrorKind::ConnectionRefused.into()),
                    _ => Ok(address),
                }
            }
        });
        let outcome = timeout(Duration::from_secs(3600), outcome).await;
        (outcome.expect("an outcome").map_err(|e| e.to_string()), tried.into_inner().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_leads_nowhere_delays_the_next_one_by_a_quarter_of_a_second() {
        let (outcome, tried) = race(&["::dead", "10.0.0.1", "::1"]).await;
        let expected = addresses(&["::dead", "10.0.0.1"]);
        assert_eq!(outcome, Ok(expected[1]));
        assert_eq!(tried, [(expected[0], 0), (expected[1], 250)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_refuses_delays_nothing_and_all_are_named_when_none_is_left() {
        let (outcome, tried) = race(&["10.0.0.9", "10.0.0.1"]).await;
        assert!(outcome.is_ok() && tried.iter().all(|(_, at_ms)| *at_ms == 0), "{tried:?}");
        let (outcome, _) = race(&["10.0.0.9"; 6]).await;
        let error = outcome.unwrap_err();
        assert!(
            error.contains("10.0.0.9:80: connection refused") && error.ends_with("and 2 more"),
            "{error}"
        );
        assert!(race(&[]).await.0.unwrap_err().contains("no address"));
    }
}
