//! What the agent tells of its device by itself: system, version, addresses, boot time.
//!
//! Read from the kernel and `/etc/os-release`; what cannot be read is left out. Facts of the configuration come beside these
//! and win over them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;

use bellwire_proto::{Json, Timestamp};
use serde_json::{Value, json};

/// Addresses that are told at most: facts have a limit, and a container host has hundreds. All that
/// is told from here stays far below the 4 KiB that the configuration leaves for it.
const ADDRESSES_MAX: usize = 32;
/// So much of a file is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The longest name of a system that is told, in characters.
const OS_CHARS_MAX: usize = 200;

/// The facts as they are now, with those given.
pub(super) fn now(own: &BTreeMap<String, Value>) -> Json {
    let mut facts: BTreeMap<String, Value> = BTreeMap::from([
        ("agent".to_owned(), json!(concat!("bellwire/", env!("CARGO_PKG_VERSION")))),
        ("arch".to_owned(), json!(std::env::consts::ARCH)),
        ("os".to_owned(), json!(os())),
    ]);
    let kernel = read("/proc/sys/kernel/osrelease").map(|text| json!(text.trim()));
    let booted = read("/proc/stat").and_then(|text| boot_time(&text)).map(|time| json!(time));
    let addresses: Vec<IpAddr> = addresses().into_iter().take(ADDRESSES_MAX).collect();
    facts.extend(kernel.map(|kernel| ("kernel".to_owned(), kernel)));
    facts.extend(booted.map(|time| ("booted_at".to_owned(), time)));
    facts.insert("addresses".to_owned(), json!(addresses));
    facts.extend(own.clone());
    let text = serde_json::to_string(&facts).unwrap_or_default();
    Json::parse(&text).unwrap_or_default()
}

/// What stands in a file, or its beginning.
fn read(path: &str) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The name that the distribution gives itself, or that of the kernel.
fn os() -> String {
    let release = read("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let name = name.map_or(std::env::consts::OS, |name| name.trim_matches('"'));
    name.chars().take(OS_CHARS_MAX).collect()
}

fn boot_time(stat: &str) -> Option<Timestamp> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    let seconds: u64 = seconds.trim().parse().ok()?;
    Some(Timestamp::from_unix_ms(seconds.saturating_mul(1000)))
}

/// The addresses of the interfaces that are up, those of version 4 first. Loopback, and what is valid on one link alone,
/// reach nothing from elsewhere.
fn addresses() -> BTreeSet<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default().into_iter();
    let up = interfaces.filter(if_addrs::Interface::is_oper_up).map(|interface| interface.ip());
    up.filter(is_reachable).collect()
}

fn is_reachable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_reach_nothing_are_left_out_and_boot_time_is_the_kernels() {
        let reachable = |text: &str| is_reachable(&text.parse().unwrap());
        assert!(["10.1.2.3", "169.254.1.1", "2001:db8::7"].into_iter().all(reachable));
        assert!(!["127.0.0.1", "::1", "fe80::1"].into_iter().any(reachable));
        assert!(addresses().iter().all(is_reachable));
        let time = boot_time("cpu 1 2\nbtime 1700000000\n").unwrap();
        assert_eq!(time.unix_ms(), 1_700_000_000_000);
    }

    #[test]
    fn own_facts_win_and_all_of_it_is_one_object() {
        let own =
            BTreeMap::from([("os".to_owned(), json!("ours")), ("site".to_owned(), json!("lyon"))]);
        let facts: BTreeMap<String, Value> = now(&own).read().unwrap();
        assert_eq!((&facts["os"], &facts["site"]), (&json!("ours"), &json!("lyon")));
        assert_eq!(facts["arch"], json!(std::env::consts::ARCH));
    }
}
