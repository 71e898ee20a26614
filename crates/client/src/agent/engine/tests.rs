//! The engine in a simulated world: whatever dies, no handler runs twice that must not.
//!
//! `BELLWIRE_SEED=n cargo test -p bellwire-client --lib engine` runs that history alone, and
//! `BELLWIRE_SEED=m..n` as many as are wanted; a failure names its seed and tells what happened.

use super::*;
use crate::agent::journal::Done;

mod bench;
mod hub;
mod judge;
mod kept;
mod rules;
mod told;
mod world;

use world::World;

/// Histories of each share; the shares run side by side.
const SEEDS: u64 = 1500;

fn run_seeds(share: u64) {
    let asked = std::env::var("BELLWIRE_SEED").ok().map(|text| {
        let (first, end) = text.split_once("..").unwrap_or((&text, ""));
        let first: u64 = first.parse().unwrap();
        first..end.parse().unwrap_or(first + 1)
    });
    let seeds = match asked.clone() {
        Some(seeds) if share == 0 => seeds,
        Some(_) => 0..0,
        None => share * SEEDS..(share + 1) * SEEDS,
    };
    let mut told = judge::Told::default();
    for seed in seeds {
        match World::run(seed, false) {
            Ok(of_seed) => told.add(&of_seed),
            Err(fault) => panic!("{}\nBELLWIRE_SEED={seed}: {fault}", World::trace(seed, false)),
        }
    }
    println!("{told:?}");
    // A world in which nothing goes wrong proves nothing.
    if asked.is_none() {
        assert!(told.starts > 5000 && told.deaths > 1500 && told.interrupted > 150, "{told:?}");
        assert!(told.reruns > 50 && told.succeeded_by_reboot > 15, "{told:?}");
        assert!(told.timed_out > 50 && told.full > 50 && told.compactions > 50, "{told:?}");
        assert!(told.cancelled > 20, "{told:?}");
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
fn the_simulation_bites_when_the_start_record_is_left_out() {
    let caught = (0..SEEDS).find_map(|seed| World::run(seed, true).err());
    let fault = caught.expect("without start records some handler runs twice, and it is seen");
    assert!(fault.contains("was started") || fault.contains("beside"), "{fault}");
}
