//! Promise: whatever stands between device and hub, each command arrives, none is delivered twice, and requests per hour are
//! bounded. A simulated hub and middlebox in virtual time; a failure prints the seed of its world.

use super::*;

mod hub;
mod network;
mod rules;
mod world;

use network::Middlebox;
use world::{InjectedBug, World};

const SEEDS: u64 = 20;
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// A network, within which time a command arrives, and how many requests per hour are allowed.
struct Scene {
    name: &'static str,
    middlebox: Middlebox,
    arrives_ms: u64,
    requests_per_hour: u64,
    /// What carries at the end, where that does not depend on the moment.
    carrier: Option<Carrier>,
}

fn scene(name: &'static str, middlebox: Middlebox, arrives_ms: u64, requests: u64) -> Scene {
    Scene { name, middlebox, arrives_ms, requests_per_hour: requests, carrier: Some(Carrier::Poll) }
}

fn scenes() -> Vec<Scene> {
    use Middlebox as M;
    let streams = |name, middlebox, arrives_ms, requests| Scene {
        carrier: Some(Carrier::Stream),
        ..scene(name, middlebox, arrives_ms, requests)
    };
    let commands = 200;
    vec![
        streams("nothing", M::Pass { latency_ms: 20 }, 500, 8),
        streams("a far link", M::Pass { latency_ms: 150 }, 2_500, 8),
        streams("a satellite", M::Pass { latency_ms: 800 }, 8_000, 8),
        scene("a full buffer", M::FullBuffer, 2_000, commands + 220),
        Scene {
            carrier: Some(Carrier::CompatStream),
            ..scene("one write behind", M::OneBehind, 3_000, 20)
        },
        scene("a trickle", M::Trickle, 2_000, commands + 220),
        Scene { carrier: None, ..scene("a maximum of 60 s", M::MaxAge { ms: 60_000 }, 2_000, 700) },
        Scene {
            carrier: None,
            ..scene("a maximum of 10 s", M::MaxAge { ms: 10_000 }, 2_000, 1_000)
        },
        streams("an idle limit of 12 s", M::IdleLimit { ms: 12_000 }, 2_000, 700),
        scene("a first byte within 8 s", M::FirstByte { ms: 8_000, streams: false }, 2_000, 1_000),
        scene("a first byte within 4 s", M::FirstByte { ms: 4_000, streams: false }, 37_000, 600),
        streams(
            "a first byte within 8 s, and streams",
            M::FirstByte { ms: 8_000, streams: true },
            2_000,
            8,
        ),
        scene("no streams", M::DenyStream, 2_000, commands + 220),
        streams("silent loss", M::SilentLoss { every_ms: 10 * MINUTE }, 25_000, 100),
        streams("a portal for 5 min", M::Portal { from: HOUR, to: HOUR + 5 * MINUTE }, 90_000, 60),
        streams(
            "no network for 10 min",
            M::Down { from: HOUR, to: HOUR + 10 * MINUTE, silent: false },
            90_000,
            150,
        ),
        streams(
            "a silent network for 10 min",
            M::Down { from: HOUR, to: HOUR + 10 * MINUTE, silent: true },
            90_000,
            150,
        ),
        streams(
            "a proxy that is frozen for 10 min",
            M::Frozen { from: HOUR, to: HOUR + 10 * MINUTE },
            90_000,
            150,
        ),
    ]
}

fn check(share: u64) {
    for scene in scenes() {
        for seed in (0..SEEDS).filter(|seed| seed % 2 == share) {
            let Scene { name, middlebox, arrives_ms, requests_per_hour, carrier } = &scene;
            let report = World::run(seed, middlebox, None)
                .and_then(|report| {
                    report.judge(*arrives_ms, *requests_per_hour, *carrier).map(|()| report)
                })
                .unwrap_or_else(|fault| panic!("{name}, seed {seed}: {fault}"));
            assert!(report.commands > 50, "{name}, seed {seed}: {report:?}");
        }
    }
}

#[test]
fn every_command_arrives_once_in_the_first_half_of_worlds() {
    check(0);
}

#[test]
fn every_command_arrives_once_in_the_second_half_of_worlds() {
    check(1);
}

/// What was written right after a probe pushed it through a middlebox that is one write behind, which then held a command back
/// for as long as nothing else was written.
#[test]
fn busy_devices_find_out_too_whether_a_stream_passes_each_write_on() {
    let pass =
        |latency_ms| (Middlebox::Pass { latency_ms }, 3 * latency_ms + 2_000, Carrier::Stream);
    for (middlebox, arrives_ms, carrier) in
        [(Middlebox::OneBehind, 3_000, Carrier::CompatStream), pass(20), pass(150), pass(800)]
    {
        for (seed, pause_max_ms) in
            (0..SEEDS).zip([800, 1_000, 1_500, 2_000, 4_000].into_iter().cycle())
        {
            let report = World::run_with(seed, &middlebox, None, pause_max_ms, 15 * MINUTE);
            let judged = report.and_then(|report| report.judge(arrives_ms, 100, Some(carrier)));
            judged.unwrap_or_else(|fault| {
                panic!("{middlebox:?}, seed {seed}, {pause_max_ms} ms: {fault}")
            });
        }
    }
}

/// A network that becomes another one every ten minutes, with and without notice.
#[test]
fn every_command_arrives_once_while_the_network_changes() {
    for seed in 0..3 * SEEDS {
        let report = World::run(seed, &Middlebox::Changing, None);
        let judged = report.and_then(|report| report.judge(150_000, 1_200, None));
        judged.unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
    }
}

#[test]
fn the_judge_detects_each_injected_bug() {
    let stream = Some(Carrier::Stream);
    for (bug, middlebox, carrier, fault) in [
        (InjectedBug::DeliversTwice, Middlebox::Pass { latency_ms: 20 }, stream, "twice"),
        (InjectedBug::IgnoresPolls, Middlebox::FullBuffer, None, "arrived"),
        (InjectedBug::IgnoresCuts, Middlebox::MaxAge { ms: 60_000 }, None, "arrived"),
        (InjectedBug::NeverSuspends, Middlebox::FullBuffer, None, "requests"),
        (InjectedBug::NeverConfirms, Middlebox::Pass { latency_ms: 20 }, stream, "carries"),
    ] {
        let judged = (0..SEEDS).find_map(|seed| {
            World::run(seed, &middlebox, Some(bug))
                .and_then(|report| report.judge(2_000, 420, carrier))
                .err()
        });
        let found = judged.unwrap_or_else(|| panic!("{bug:?} is not noticed"));
        assert!(found.contains(fault), "{bug:?}: {found}");
    }
}
