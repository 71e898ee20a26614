//! The core in a simulated world: whatever happens, the promises of the contract hold.
//!
//! Each run is decided by its seed. `BELLWIRE_SEED=n cargo test -p bellwire-core --test simulation`
//! runs that one alone; a failure names its seed and tells the last events.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic here is the message")]

mod world;

use world::World;

/// Seeds of each of the tests below, which run side by side.
const SEEDS: u64 = 500;

fn run_seeds(share: u64) {
    let one = std::env::var("BELLWIRE_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let seeds = match one {
        Some(seed) if seed / SEEDS == share => seed..seed + 1,
        Some(_) => 0..0,
        None => share * SEEDS..(share + 1) * SEEDS,
    };
    let mut commands = 0;
    for seed in seeds {
        let story = World::run(seed, None, false);
        if story.verdict.is_err() {
            tell(seed);
        }
        commands += story.commands;
    }
    println!("{commands} commands");
}

/// Lives through a failure again, and tells what came before.
fn tell(seed: u64) -> ! {
    let story = World::run(seed, None, true);
    let events: Vec<String> = story.trace.into_iter().collect();
    panic!("{}\nBELLWIRE_SEED={seed}: {:?}", events.join("\n"), story.verdict);
}

#[test]
fn promises_hold_in_the_first_share_of_seeds() {
    run_seeds(0);
}

#[test]
fn promises_hold_in_the_second_share_of_seeds() {
    run_seeds(1);
}

#[test]
fn promises_hold_in_the_third_share_of_seeds() {
    run_seeds(2);
}

#[test]
fn promises_hold_in_the_fourth_share_of_seeds() {
    run_seeds(3);
}
