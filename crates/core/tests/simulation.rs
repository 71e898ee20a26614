//! The core in a simulated world: whatever happens, the promises of the contract hold.
//!
//! Each run is decided by its seed. `BELLWIRE_SEED=n cargo test -p bellwire-core --test simulation`
//! runs that one alone; a failure names its seed and prints the last events. That the judge would see a
//! broken promise is shown too, by worlds in which the store or the driver has a bug on purpose.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic here is the message")]

mod world;

use world::{InjectedBug, World};

/// Seeds of each of the tests below, which run side by side.
const SEEDS: u64 = 750;

fn run_seeds(share: u64) {
    let one = std::env::var("BELLWIRE_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let seeds = match one {
        Some(seed) if seed / SEEDS == share => seed..seed + 1,
        Some(_) => 0..0,
        None => share * SEEDS..(share + 1) * SEEDS,
    };
    let mut commands = 0;
    for seed in seeds {
        let report = World::run(seed, None, false);
        if report.verdict.is_err() {
            replay(seed);
        }
        commands += report.commands;
    }
    println!("{commands} commands");
}

/// Repeats a failure, and prints what came before it.
fn replay(seed: u64) -> ! {
    let report = World::run(seed, None, true);
    let events: Vec<String> = report.trace.into_iter().collect();
    panic!("{}\nBELLWIRE_SEED={seed}: {:?}", events.join("\n"), report.verdict);
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

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..60 {
        let [once, again] = [(); 2].map(|()| World::run(seed, None, true));
        assert_eq!(once.digest, again.digest, "the outputs of seed {seed} differ");
        assert_eq!(once.commands, again.commands, "the store after seed {seed} differs");
    }
}

/// In some world with this bug in it a promise is broken, and the judge says which.
fn is_seen(bug: InjectedBug, expected: &str) {
    is_seen_in(40, bug, expected);
}

/// The same in some of so many worlds.
fn is_seen_in(worlds: u64, bug: InjectedBug, expected: &str) {
    let mut verdicts = Vec::new();
    for seed in 0..worlds {
        match World::run(seed, Some(bug), false).verdict {
            Err(verdict) if verdict.contains(expected) => return,
            Err(verdict) => verdicts.push(verdict),
            Ok(()) => {}
        }
    }
    panic!("{bug:?} is not seen as \"{expected}\" but as {verdicts:#?}");
}

#[test]
fn a_store_that_loses_what_it_said_was_on_disk_is_seen() {
    is_seen(InjectedBug::StoreLies, "shows what is not on disk");
}

#[test]
fn a_store_that_finds_nothing_due_is_seen() {
    is_seen(InjectedBug::StoreForgetsWhatIsDue, "it never ended");
}

#[test]
fn a_store_that_counts_sendings_anew_after_a_restart_is_seen() {
    is_seen(InjectedBug::StoreForgetsAttempts, "was sent again as attempt");
}

#[test]
fn a_store_that_forgets_targets_of_a_command_to_many_is_seen() {
    is_seen_in(200, InjectedBug::StoreForgetsTargets, " deliveries");
}

#[test]
fn a_store_that_forgets_the_batches_of_a_rollout_is_seen() {
    is_seen_in(400, InjectedBug::StoreForgetsBatches, "more than the batches have");
}

#[test]
fn a_store_that_forgets_which_times_of_a_schedule_were_decided_is_seen() {
    is_seen_in(200, InjectedBug::StoreForgetsTimes, "is decided again");
}

#[test]
fn a_store_that_forgets_a_run_of_a_schedule_is_seen() {
    is_seen_in(400, InjectedBug::StoreForgetsRuns, "a run ");
}

#[test]
fn a_hub_that_sends_outside_of_a_window_is_seen() {
    is_seen_in(100, InjectedBug::WindowsAreLate, "window: device");
}

#[test]
fn a_hub_that_has_a_command_wait_past_an_opening_is_seen() {
    is_seen_in(100, InjectedBug::WindowsAreLate, "window: that is not when it opens next");
}

#[test]
fn a_driver_that_writes_twice_is_seen() {
    is_seen(InjectedBug::DriverWritesTwice, "was sent again as attempt");
}

#[test]
fn a_driver_that_loses_answers_is_seen() {
    is_seen(InjectedBug::DriverLosesAnswers, "was never answered");
}

#[test]
fn a_driver_that_does_not_wait_for_the_store_is_seen() {
    is_seen(InjectedBug::DriverDoesNotWait, "not on disk");
}

#[test]
fn a_driver_that_writes_after_the_bye_is_seen() {
    is_seen(InjectedBug::DriverWritesAfterBye, "after its bye");
}
