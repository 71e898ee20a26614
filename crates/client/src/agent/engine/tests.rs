//! The engine in a simulated world: whatever dies, no handler runs twice that must not.
//!
//! `BELLWIRE_SEED=n cargo test -p bellwire-client --lib engine` runs that history alone; a failure
//! names its seed and tells what happened.

use super::*;

mod hub;
mod judge;
mod random;
mod rules;
mod world;

use world::World;

/// Histories of each share; the shares run side by side.
const SEEDS: u64 = 300;

fn run_seeds(share: u64) {
    let one = std::env::var("BELLWIRE_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let seeds = match one {
        Some(seed) if seed / SEEDS == share => seed..seed + 1,
        Some(_) => 0..0,
        None => share * SEEDS..(share + 1) * SEEDS,
    };
    let mut told = judge::Told::default();
    for seed in seeds {
        let (trace, verdict) = World::run(seed, false);
        match verdict {
            Ok(of_seed) => told.add(&of_seed),
            Err(fault) => panic!("{}\nBELLWIRE_SEED={seed}: {fault}", trace.join("\n")),
        }
    }
    println!("{told:?}");
    // A world in which nothing goes wrong proves nothing.
    if one.is_none() {
        assert!(told.starts > 1000 && told.deaths > 300 && told.interrupted > 30, "{told:?}");
        assert!(told.reruns > 10 && told.succeeded_by_reboot > 3, "{told:?}");
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
    let caught = (0..SEEDS).find_map(|seed| World::run(seed, true).1.err());
    let fault = caught.expect("without start records some handler runs twice, and it is seen");
    assert!(fault.contains("was started") || fault.contains("beside itself"), "{fault}");
}
