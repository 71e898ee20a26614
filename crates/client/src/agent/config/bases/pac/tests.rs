//! Promise: a PAC file that is slow or broken delays no other proxy, and ends no connection that works.

use std::path::Path;

use super::*;
use crate::agent::config::transport;

const HUBS: [&str; 2] = ["https://a.test", "http://a.test"];
/// Runs into its limit.
const ENDLESS: &str = "function FindProxyForURL() { for (;;) {} }";

fn bases_of(file: &Path, others: &[ProxySetting]) -> PacBases {
    let location = format!("pac+file://{}", file.display()).parse().unwrap();
    let proxies: Vec<_> =
        std::iter::once(ProxySetting::Pac(location)).chain(others.iter().cloned()).collect();
    let hubs = HUBS.map(|hub| hub.parse().unwrap()).to_vec();
    PacBases::new(hubs, &proxies, transport()).unwrap()
}

async fn listed(bases: &PacBases) -> Vec<String> {
    let bases = bases.bases().await.unwrap();
    bases.iter().map(|base| format!("{} {}", base.hub.url.scheme(), base.proxy)).collect()
}

/// Each URL was an evaluation of its own, one after the other, with the limit of one.
#[tokio::test]
async fn a_script_is_evaluated_once_for_all_hubs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("proxy.pac");
    std::fs::write(&file, "var n = 0; function FindProxyForURL() { return 'PROXY p:' + ++n }")
        .unwrap();
    let bases = bases_of(&file, &[]);
    assert_eq!(listed(&bases).await, ["https http://p:1", "http http://p:2"]);
}

/// The hub was reached by the other proxy after 30 s.
#[tokio::test]
async fn the_other_proxies_are_listed_while_a_slow_script_is_evaluated() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("proxy.pac");
    std::fs::write(&file, ENDLESS).unwrap();
    let bases = bases_of(&file, &[ProxySetting::Direct]);
    assert_eq!(listed(&bases).await, ["https none", "http none"]);
    let problem = bases.0.files().next().unwrap().problem().unwrap();
    assert!(problem.contains("still being evaluated"), "{problem}");
    let alone = bases_of(&file, &[]).bases().await.map(|bases| bases.len()).unwrap_err();
    let text = alone.to_string();
    assert!(text.contains("proxy.pac") && text.contains("still being evaluated"), "{text}");
}

#[tokio::test]
async fn a_file_that_becomes_slow_or_broken_lists_what_it_did_before() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("proxy.pac");
    std::fs::write(&file, "function FindProxyForURL() { return 'PROXY p:1' }").unwrap();
    let bases = bases_of(&file, &[ProxySetting::Direct]);
    let before = listed(&bases).await;
    assert_eq!(before, ["https http://p:1", "https none", "http http://p:1", "http none"]);
    for script in ["function FindProxyForURL() { throw 'no' }", "var", ENDLESS] {
        std::fs::write(&file, script).unwrap();
        assert_eq!(listed(&bases).await, before, "{script}");
        assert!(!bases.is_stale(), "{script}");
    }
}

/// A script of ten seconds was run again at each try.
#[tokio::test]
async fn a_failure_is_remembered_until_the_file_or_the_network_is_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("proxy.pac");
    // Only the first of them that is evaluated within a millisecond would be the same.
    std::fs::write(&file, "throw Math.random()").unwrap();
    let bases = bases_of(&file, &[ProxySetting::Direct]);
    let problem = || bases.0.files().next().unwrap().problem().unwrap();
    listed(&bases).await;
    let first = problem();
    assert!(first.contains("threw"), "{first}");
    listed(&bases).await;
    assert_eq!(problem(), first, "evaluated again");
    bases.network_changed();
    listed(&bases).await;
    assert_ne!(problem(), first, "not evaluated again in another network");
    std::fs::write(&file, "function FindProxyForURL() { return 'DIRECT' }").unwrap();
    listed(&bases).await;
    assert_eq!(bases.0.files().next().unwrap().problem(), None);
}
