//! The facts that the agent reports by itself: system, version, addresses, boot time.
//!
//! Read from the kernel and `/etc/os-release`; what cannot be read is omitted. Facts of the configuration are added, and
//! replace these where the names are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;

use bellwire_proto::limits::AGENT_FACT_ADDRESSES_MAX;
use bellwire_proto::{Json, Timestamp};
use serde_json::{Value, json};

/// Bytes of a file that are read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Characters of the system's name that are reported.
const OS_CHARS_MAX: usize = 200;

/// The facts as they are now, with the configured ones.
pub(super) fn now(configured: &BTreeMap<String, Value>) -> Json {
    let mut facts: BTreeMap<String, Value> = BTreeMap::from([
        ("agent".to_owned(), json!(concat!("bellwire/", env!("CARGO_PKG_VERSION")))),
        ("arch".to_owned(), json!(std::env::consts::ARCH)),
        ("os".to_owned(), json!(os())),
    ]);
    let kernel = read("/proc/sys/kernel/osrelease").map(|text| json!(text.trim()));
    let booted = read("/proc/stat").and_then(|text| boot_time(&text)).map(|time| json!(time));
    let addresses: Vec<IpAddr> = addresses().into_iter().take(AGENT_FACT_ADDRESSES_MAX).collect();
    facts.extend(kernel.map(|kernel| ("kernel".to_owned(), kernel)));
    facts.extend(booted.map(|time| ("booted_at".to_owned(), time)));
    facts.insert("addresses".to_owned(), json!(addresses));
    facts.extend(configured.clone());
    let text = serde_json::to_string(&facts).unwrap_or_default();
    Json::parse(&text).unwrap_or_default()
}

/// The text of a file, or its beginning.
fn read(path: &str) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The name of the distribution (os-release(5)), or that of the kernel.
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

/// The addresses of the interfaces that are up, IPv4 first; without those that other machines cannot use: loopback and
/// link-local IPv6.
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
    fn loopback_and_link_local_addresses_are_omitted_and_boot_time_is_the_kernels() {
        let reachable = |text: &str| is_reachable(&text.parse().unwrap());
        assert!(["10.1.2.3", "169.254.1.1", "2001:db8::7"].into_iter().all(reachable));
        assert!(!["127.0.0.1", "::1", "fe80::1"].into_iter().any(reachable));
        assert!(addresses().iter().all(is_reachable));
        let time = boot_time("cpu 1 2\nbtime 1700000000\n").unwrap();
        assert_eq!(time.unix_ms(), 1_700_000_000_000);
    }

    #[test]
    fn configured_facts_replace_those_of_the_agent() {
        let configured =
            BTreeMap::from([("os".to_owned(), json!("ours")), ("site".to_owned(), json!("lyon"))]);
        let facts: BTreeMap<String, Value> = now(&configured).read().unwrap();
        assert_eq!((&facts["os"], &facts["site"]), (&json!("ours"), &json!("lyon")));
        assert_eq!(facts["arch"], json!(std::env::consts::ARCH));
    }
}
