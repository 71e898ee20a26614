//! Changes that a test makes up, in virtual time; and those of a real kernel, in a network of the test's own.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bellwire_testkit::has_own_network;

use super::*;

/// A machine whose state the test sets.
#[derive(Clone, Default)]
struct Machine {
    asleep_ms: Arc<AtomicU64>,
    state: Arc<Mutex<Snapshot>>,
    looks: Arc<AtomicUsize>,
}

impl Machine {
    fn wake(&self) -> Wake {
        let (asleep, machine) = (Arc::clone(&self.asleep_ms), self.clone());
        let probes = Probes {
            asleep_ms: Arc::new(move || asleep.load(Ordering::Relaxed)),
            snapshot: Arc::new(move || {
                machine.looks.fetch_add(1, Ordering::Relaxed);
                machine.state.lock().unwrap().clone()
            }),
            compare_every: NETWORK_COMPARE_EVERY,
        };
        Wake::of(None, probes)
    }

    fn gains_address(&self, address: &str) {
        let address = ("eth0".to_owned(), address.parse().unwrap());
        self.state.lock().unwrap().addresses.insert(address);
    }
}

#[tokio::test(start_paused = true)]
async fn a_suspension_is_noticed_once_and_a_short_one_is_not() {
    let machine = Machine::default();
    let mut wake = machine.wake();
    machine.asleep_ms.store(ASLEEP_MS_MIN - 1, Ordering::Relaxed);
    tokio::time::timeout(3 * NETWORK_COMPARE_EVERY, wake.changed()).await.unwrap_err();
    machine.asleep_ms.store(8 * 3_600_000, Ordering::Relaxed);
    // The address is of the same change: it is not reported again.
    machine.gains_address("10.0.0.7");
    let asleep = Instant::now();
    assert_eq!(wake.changed().await, WakeReason::Resumed);
    assert!(asleep.elapsed() <= CLOCKS_EVERY + 2 * NETWORK_QUIET, "{:?}", asleep.elapsed());
    tokio::time::timeout(3 * NETWORK_COMPARE_EVERY, wake.changed()).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn what_nothing_announces_is_noticed_within_30_s() {
    let machine = Machine::default();
    let mut wake = machine.wake();
    machine.gains_address("2001:db8::7");
    let since = Instant::now();
    assert_eq!(wake.changed().await, WakeReason::Address);
    assert!(since.elapsed() <= NETWORK_COMPARE_EVERY + NETWORK_QUIET, "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_change_while_no_call_waits_is_reported_by_the_next_call() {
    let machine = Machine::default();
    let mut wake = machine.wake();
    for _ in 0..50 {
        tokio::time::timeout(Duration::from_millis(700), wake.changed()).await.unwrap_err();
    }
    machine.gains_address("10.0.0.7");
    tokio::time::sleep(10 * NETWORK_COMPARE_EVERY).await;
    assert_eq!(wake.changed().await, WakeReason::Address);
}

#[tokio::test(start_paused = true)]
async fn a_network_that_is_never_quiet_is_looked_at_every_few_seconds_and_no_oftener() {
    let machine = Machine::default();
    let mut wake = machine.wake();
    let looks = |machine: &Machine| machine.looks.load(Ordering::Relaxed);
    let before = looks(&machine);
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(100) {
        wake.expect_changes();
        tokio::time::timeout(Duration::from_millis(500), wake.changed()).await.unwrap_err();
    }
    let looks = looks(&machine) - before;
    assert!((18..=25).contains(&looks), "{looks} looks in 100 s");
}

/// Runs `ip` with these arguments.
fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// Without the announcements it would wait for an hour.
fn wake_by_announcements(files: Vec<PathBuf>) -> Wake {
    let probes = Probes { compare_every: Duration::from_secs(3600), ..Probes::of_machine(files) };
    Wake::of(Some(Announcements::new().unwrap()), probes)
}

async fn reason(wake: &mut Wake, change: &str) -> WakeReason {
    let reason = tokio::time::timeout(Duration::from_secs(60), wake.changed()).await;
    reason.unwrap_or_else(|_| panic!("not noticed: {change}"))
}

#[tokio::test]
async fn new_addresses_and_default_routes_of_the_kernel_are_noticed_as_they_are_announced() {
    let name = "path::wake::tests::new_addresses_and_default_routes_of_the_kernel_are_noticed_as_they_are_announced";
    if !has_own_network(name) {
        return;
    }
    ip("link add up0 type veth peer name up1");
    ip("link set up1 up");
    let mut wake = wake_by_announcements(Vec::new());
    let changes = [
        ("addr add 192.0.2.7/24 dev up0", None),
        ("link set up0 up", Some(WakeReason::Address)),
        ("addr add 2001:db8::7/64 dev up0 nodad", Some(WakeReason::Address)),
        ("route add default via 192.0.2.1 metric 50", Some(WakeReason::Route)),
        ("route add 198.51.100.0/24 via 192.0.2.1", None),
        ("route add default via 192.0.2.2 metric 10", Some(WakeReason::Route)),
        ("route del default via 192.0.2.2 metric 10", Some(WakeReason::Route)),
        ("-6 route add default via 2001:db8::1", Some(WakeReason::Route)),
        ("addr add 192.0.2.8/24 dev up0", Some(WakeReason::Address)),
    ];
    for (change, expected) in changes {
        ip(change);
        if let Some(expected) = expected {
            assert_eq!(reason(&mut wake, change).await, expected, "{change}");
        }
    }
}

#[tokio::test]
async fn another_content_of_a_file_of_proxies_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("proxy.pac");
    let probes = Probes {
        compare_every: Duration::from_millis(1),
        snapshot: {
            let file = file.clone();
            // Without the network of this machine, which may change meanwhile.
            Arc::new(move || Snapshot {
                files: Snapshot::take(std::slice::from_ref(&file)).files,
                ..Snapshot::default()
            })
        },
        ..Probes::of_machine(Vec::new())
    };
    let mut wake = Wake::of(None, probes);
    for content in ["one", "two"] {
        std::fs::write(&file, content).unwrap();
        assert_eq!(reason(&mut wake, content).await, WakeReason::Proxy);
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(reason(&mut wake, "removed").await, WakeReason::Proxy);
}
