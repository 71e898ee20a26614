//! The engine in a simulated world: whatever crashes, no handler runs twice that must not.
//!
//! `BELLWIRE_SEED=n cargo test -p bellwire-client --lib engine` runs one history, `BELLWIRE_SEED=m..n` a range of
//! them. A failure prints its seed and a trace.

use std::time::Duration;

use bellwire_proto::{Action, DeliveryState, ErrorInfo, Json};

use super::*;
use crate::agent::journal::{Done, Record, Reserve};
use crate::agent::policy::OnRestart;

mod fixture;
mod hub;
mod judge;
mod reporting;
mod retention;
mod rules;
mod time;
mod world;

use world::{InjectedBug, World};

/// Histories per share. The shares run in parallel.
const SEEDS: u64 = 1500;

fn run_seeds(share: u64) {
    let requested = std::env::var("BELLWIRE_SEED").ok().map(|text| {
        let (first, end) = text.split_once("..").unwrap_or((&text, ""));
        let first: u64 = first.parse().unwrap();
        first..end.parse().unwrap_or(first + 1)
    });
    let seeds = match requested.clone() {
        Some(seeds) if share == 0 => seeds,
        Some(_) => 0..0,
        None => share * SEEDS..(share + 1) * SEEDS,
    };
    let mut report = judge::RunReport::default();
    for seed in seeds {
        match World::run(seed, None) {
            Ok(of_seed) => report.add(&of_seed),
            Err(fault) => panic!("{}\nBELLWIRE_SEED={seed}: {fault}", World::trace(seed, None)),
        }
    }
    println!("{report:?}");
    // A world without faults proves nothing.
    if requested.is_none() {
        assert!(
            report.starts > 5000 && report.deaths > 1500 && report.interrupted > 150,
            "{report:?}"
        );
        assert!(report.reruns > 50 && report.succeeded_by_reboot > 15, "{report:?}");
        assert!(report.timed_out > 50 && report.full > 50 && report.compactions > 50, "{report:?}");
        assert!(report.cancelled > 20, "{report:?}");
        assert!(report.forgotten > 1000 && report.dropped > 50, "{report:?}");
    }
}

#[test]
fn each_handler_runs_once_in_the_first_share_of_histories() {
    run_seeds(0);
}

#[test]
fn each_handler_runs_once_in_the_second_share_of_histories() {
    run_seeds(1);
}

#[test]
fn the_simulation_fails_without_start_records() {
    let caught =
        (0..SEEDS).find_map(|seed| World::run(seed, Some(InjectedBug::NoStartRecord)).err());
    let fault = caught.expect("without start records some handler runs twice, and it is seen");
    assert!(fault.contains("was started") || fault.contains("at the same time"), "{fault}");
}

#[test]
fn the_simulation_fails_when_the_hubs_clock_is_trusted() {
    let bug = Some(InjectedBug::TrustsHubClock);
    let mut faults = (0..SEEDS).filter_map(|seed| World::run(seed, bug).err());
    let mut missing = vec!["is forgotten after", "is dropped after", "is still retained"];
    while !missing.is_empty() {
        let fault = faults.next().unwrap_or_else(|| panic!("{missing:?} are not noticed"));
        missing.retain(|text| !fault.contains(text));
    }
}
