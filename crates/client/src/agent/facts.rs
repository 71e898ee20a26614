//! What the agent tells of its device by itself: system, version, addresses, boot time.
//!
//! Read from `/proc`; what cannot be read is left out. Facts of the configuration come beside these
//! and win over them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, Ipv6Addr};

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
    let v4 = read("/proc/net/fib_trie").map(|text| local_v4(&text)).unwrap_or_default();
    let v6 = read("/proc/net/if_inet6").map(|text| local_v6(&text)).unwrap_or_default();
    let addresses: Vec<String> = v4.into_iter().chain(v6).take(ADDRESSES_MAX).collect();
    facts.extend(kernel.map(|kernel| ("kernel".to_owned(), kernel)));
    facts.extend(booted.map(|time| ("booted_at".to_owned(), time)));
    facts.insert("addresses".to_owned(), json!(addresses));
    facts.extend(own.clone());
    let text = serde_json::to_string(&facts).unwrap_or_default();
    Json::parse(&text).unwrap_or_default()
}

/// What stands in a file of the kernel's, or its beginning: a router's table of routes has many megabytes.
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

/// The machine's own addresses in the kernel's routing trie: a leaf `|-- a.b.c.d` whose next line
/// says `host LOCAL`.
fn local_v4(trie: &str) -> BTreeSet<String> {
    let lines = trie.lines().zip(trie.lines().skip(1));
    lines
        .filter(|(_, next)| next.trim_end().ends_with("/32 host LOCAL"))
        .filter_map(|(leaf, _)| leaf.trim().strip_prefix("|-- ")?.parse().ok())
        .filter(|address: &Ipv4Addr| !address.is_loopback())
        .map(|address| address.to_string())
        .collect()
}

/// Each line begins with an address in 32 hexadecimal digits. Those of the link alone say nothing
/// to anybody elsewhere.
fn local_v6(table: &str) -> BTreeSet<String> {
    table
        .lines()
        .filter_map(|line| u128::from_str_radix(line.split_whitespace().next()?, 16).ok())
        .map(Ipv6Addr::from)
        .filter(|address| !address.is_loopback() && !address.is_unicast_link_local())
        .map(|address| address.to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_boot_time_are_read_as_the_kernel_writes_them() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 10.1.2.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(local_v4(trie), BTreeSet::from(["10.1.2.3".to_owned()]));
        let table = "00000000000000000000000000000001 01 80 10 80 lo\nfe800000000000000000000000000001 02 40 20 80 eth0\n20010db8000000000000000000000007 02 40 00 80 eth0\n";
        assert_eq!(local_v6(table), BTreeSet::from(["2001:db8::7".to_owned()]));
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
