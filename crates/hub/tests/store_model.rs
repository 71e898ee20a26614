//! Random histories: whatever is asked of the store, it answers as the naive model does.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a panic in a test is its failure message"
)]

mod store_kit;

use std::time::Duration;

use bellwire_core::record::{
    AuditRecord, BatchMark, Change, DeliveryRecord, IdempotencyKey, IdempotencyRecord, Load,
    Loaded, PageMax, RolloutRecord, ScheduleRecord, Seen, TargetChunk, TokenRecord,
};
use bellwire_core::{RequestId, TargetQuery};
use bellwire_hub::store::{CommandFilter, DeviceFilter, PageRequest, Store, StoredDevice, Visible};
use bellwire_proto::device::{DeviceOrder, SortKey};
use bellwire_proto::facts::selectable;
use bellwire_proto::{
    Actor, AuditObject, Code, CommandId, Delivery, DeliveryState, DeviceId, ErrorInfo, Join,
    Labels, Members, Outcome, Progress, Role, RoleName, RolloutPlan, RolloutState, ScheduleId,
    SchedulePlan, Scope, Selector, Seq, Skipped, TokenId,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use store_kit::model::Model;
use store_kit::*;

const DEVICES: [&str; 4] = ["a", "b", "b.c", "B"];
const SEQS: u64 = 12;

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Change>),
    Restart,
}

fn name() -> impl Strategy<Value = &'static str> {
    select(DEVICES.as_slice())
}

fn a_delivery() -> impl Strategy<Value = DeliveryRecord> {
    let place = (1..=SEQS, name(), select(DeliveryState::ALL.as_slice()), 0..6u64);
    let counts = (0..5u32, 0..5u32, option::of(0..9u64), any::<bool>(), any::<bool>());
    let times = (option::of(0..6u64), option::of(0..60_000u64), option::of(0..90_000u64));
    let outcome = (option::of(0.0..100.0), option::of(any::<i64>()), option::of(".{0,9}"));
    let batch = option::of((0..4u64, 0..9u64));
    let all = (place, counts, times, outcome, batch);
    all.prop_map(|(place, counts, times, outcome, batch)| {
        let (seq, name, state, ms) = place;
        let mut row = of_many(DEVICES.len() as u64, delivery_in(seq, name, state, ms));
        row.scheduled_at = times.2.filter(|_| state == DeliveryState::Queued).map(at);
        (row.attempt, row.counted, row.rev, row.late, row.forced) = counts;
        row.awaits_window = row.scheduled_at.is_some() && row.late;
        row.retry_at = times.0.map(instant);
        row.batch = batch.map(|(number, ms)| BatchMark { number, began_at: at(ms) });
        row.run_until = row.run_until.and(times.1).map(instant);
        row.outcome = Outcome {
            progress: outcome.0.and_then(|p: f64| Progress::try_from(p).ok()),
            exit_code: outcome.1,
            result: outcome.2.as_deref().map(bellwire_proto::Json::text),
            stdout: outcome.2.clone(),
            stderr: None,
            truncated: row.late.then_some(true),
            error: outcome.2.map(ErrorInfo::of),
        };
        row
    })
}

fn a_rollout() -> impl Strategy<Value = RolloutRecord> {
    let plans = [
        r#"{"batch":"50%"}"#,
        r#"{"batch":1,"canary":"site=lyon","interval_s":5,"pause_s":1,"done_percent":50}"#,
        r#"{"batch":2,"abort":{"percent":50,"min":2,"cancel":true}}"#,
    ];
    let states =
        [RolloutState::Running, RolloutState::Paused, RolloutState::Aborted, RolloutState::Done];
    let progress = (0..4u64, 0..4u64, 0..4u64, 0..9u64);
    let ends = (option::of(0..9u64), option::of(0..9u64), option::of(".{0,9}"));
    let all = (select(plans.to_vec()), select(states.to_vec()), progress, ends);
    all.prop_map(|(plan, state, (batch, size, begun, ms), (not_before, ended, reason))| {
        let plan = RolloutPlan::take(&mut Members::parse(plan.as_bytes()).unwrap()).unwrap();
        let total = DEVICES.len() as u64;
        let new = RolloutRecord::new(plan, total, size, not_before.map(at), now_at(ms));
        let ended = ended.map(instant);
        let window = (begun % 2 == 1).then(window);
        RolloutRecord { state, batch, size, begun, ended, reason, window, ..new }
    })
}

fn token_id(n: u8) -> TokenId {
    TokenId::from_random([n; 10])
}

fn a_token() -> impl Strategy<Value = TokenRecord> {
    let select_of = option::of(select(vec!["site=lyon", "!site,os in (deb12)"]));
    let actions = option::of(vec(select(vec!["ping", "reboot"]), 1..3));
    let role = prop_oneof![
        Just(Role::Admin),
        Just(Role::Metrics),
        name().prop_map(|n| Role::Device(device(n))),
        (select_of, actions).prop_map(|(select, actions)| {
            let actions = actions.map(|names| names.iter().map(|a| a.parse().unwrap()).collect());
            let select = select.map(|text| text.parse().unwrap());
            Role::Operator(Box::new(Scope { select, actions }))
        }),
        (option::of(0..9u64), any::<bool>(), any::<bool>()).prop_map(
            |(uses_left, replace, approve)| {
                let labels = Labels::from([("site".to_owned(), "lyon".to_owned())]);
                Role::Join(Box::new(Join { labels, uses_left, replace, approve }))
            }
        ),
    ];
    (0..4u8, role, option::of(0..9u64), option::of(".{0,9}")).prop_map(|(n, role, ms, note)| {
        // What only a join token has is not changed on another.
        let n = if matches!(role, Role::Join(_)) { n % 2 } else { 2 + n % 2 };
        TokenRecord {
            id: token_id(n),
            digest: [n; 32],
            role,
            expires_at: ms.map(at),
            note: note.clone(),
            created_at: at(1),
            created_by: note,
            last_used_at: None,
        }
    })
}

fn schedule_id(n: u8) -> ScheduleId {
    ScheduleId::from_parts(n.into(), [n; 10])
}

fn a_schedule() -> impl Strategy<Value = ScheduleRecord> {
    let plans = vec![
        r#"{"name":"a","cron":"@daily","action":"ping","target":{"all":true}}"#,
        r#"{"name":"b","cron":"0 3 * * *","timezone":"Europe/Paris","action":"ping","data":{"n":1.50},"target":{"devices":["x","y"]},
            "ttl_s":0,"run_timeout_s":9,"rollout":{"batch":"10%"},"overlap":"queue","missed":"once"}"#,
    ];
    let times = (option::of(0..9u64), option::of(0..9u64), option::of((0..9u64, ".{0,9}")));
    (0..3u8, select(plans), times, option::of(".{0,9}"), any::<bool>()).prop_map(
        |(n, plan, (run, last, skipped), reason, paused)| {
            let (plan, _) = SchedulePlan::parse(plan.as_bytes(), 64).unwrap();
            let token = paused.then(|| token_id(n));
            ScheduleRecord {
                paused,
                reason,
                run: run.map(at),
                last: last.map(|ms| (at(ms), CommandId::from_parts(ms, [n; 10]))),
                skipped: skipped.map(|(ms, reason)| Skipped { at: at(ms), reason }),
                version: n.into(),
                ..ScheduleRecord::new(schedule_id(n), plan, token, at(7))
            }
        },
    )
}
fn an_entry() -> impl Strategy<Value = AuditRecord> {
    let code = option::of(select(Code::ALL));
    let role = option::of(select(RoleName::ALL.as_slice()));
    (0..9u64, code, role, option::of(name()), 1..9u64, option::of(0..2u64)).prop_map(
        |(ms, code, role, whom, count, refusal)| AuditRecord {
            at: at(ms),
            actor: Actor { token: whom.map(str::to_owned), role }.into(),
            address: whom.map(|n| [192, 0, 2, n.len() as u8].into()),
            verb: "send",
            object: AuditObject {
                device: whom.map(device),
                command: whom.map(|_| id(ms)),
                action: whom.map(|_| "ping".parse().unwrap()),
                token: whom.map(|_| token_id(1)),
                schedule: whom.map(|_| schedule_id(1)),
            },
            status: code.map_or(202, Code::status),
            code,
            count,
            refusal,
        },
    )
}
/// Facts, among them values that no selector can name, and members that are none.
const FACTS: [&str; 4] = [
    "{\"x\":1.0,\"os\":\"linux\"}",
    "{\"os\":\"Hello, you\",\"y\":true,\"z\":[1]}",
    "{\"os\":\"\\u006cinux\",\"b c\":1,\"n\":null}",
    "{}",
];

/// Selectors of which each part is a source, a look beside it, or both.
const SELECTORS: [&str; 18] = [
    "",
    "site",
    "!site",
    "site=lyon",
    "site!=lyon",
    "site in (lyon,rome)",
    "site in (lyon,oslo),os",
    "site notin (lyon,rome)",
    "site=lyon,os=deb12",
    "os,!site",
    "site=oslo",
    "facts.os=linux",
    "facts.os!=linux",
    "facts.os,facts.x=1.0",
    "facts.x!=1.0,site",
    "facts.y=true,!facts.z",
    "facts.os notin (linux),facts.os",
    "facts.n",
];

fn a_change() -> impl Strategy<Value = Change> {
    let labels = select(vec![("site", "lyon"), ("site", "rome"), ("os", "deb12")]);
    let labels = vec(labels, 0..2).prop_map(|pairs| {
        pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<Labels>()
    });
    let key = (select(vec!["", "ops"]), select(vec!["k", "l"]), 1..=SEQS, any::<u8>());
    prop_oneof![
        6 => a_delivery().prop_map(put),
        1 => name().prop_map(put_device),
        1 => (name(), labels).prop_map(|(n, labels)| Change::PutLabels(device(n), labels)),
        1 => (name(), select(FACTS.to_vec())).prop_map(|(n, facts)| Change::PutFacts(device(n), json(facts))),
        1 => (name(), 0..9u64).prop_map(|(n, ms)| {
            Change::PutSeen(device(n), Seen { at: at(ms), address: None, agent: Some(n.into()) })
        }),
        1 => name().prop_map(|n| Change::DeleteDevice(device(n))),
        1 => (name(), any::<bool>()).prop_map(|(n, yes)| Change::PutPending(device(n), yes)),
        2 => a_token().prop_map(|token| Change::PutToken(Box::new(token))),
        2 => a_schedule().prop_map(|row| Change::PutSchedule(Box::new(row))),
        1 => (0..3u8).prop_map(|n| Change::DeleteSchedule(schedule_id(n))),
        1 => (0..4u8, 0..9u64).prop_map(|(n, uses)| Change::PutUses(token_id(n), uses)),
        1 => (0..4u8, 0..9u64).prop_map(|(n, ms)| Change::PutLastUsed(token_id(n), at(ms))),
        1 => (0..4u8).prop_map(|n| Change::DeleteToken(token_id(n))),
        1 => name().prop_map(|n| Change::DeleteTokensOf(device(n))),
        2 => an_entry().prop_map(|record| Change::PutAudit(Box::new(record))),
        1 => (name(), 0..3u64).prop_map(|(n, queued)| put_queued(n, queued)),
        1 => (1..=SEQS, any::<bool>()).prop_map(|(seq, force)| Change::PutCancel(Seq::new(seq), force)),
        1 => (1..=SEQS).prop_map(|seq| Change::DeleteCancel(Seq::new(seq))),
        1 => (1..=SEQS, name(), any::<[bool; 2]>()).prop_map(|(seq, n, [canary, registered])| {
            let devices = vec![device(n), device("z")];
            Change::PutTargets(Seq::new(seq), TargetChunk { devices, canary, registered })
        }),
        1 => (1..=SEQS, name()).prop_map(|(seq, n)| Change::DeleteTargets(Seq::new(seq), device(n))),
        1 => (1..=SEQS, 1..=SEQS).prop_map(|(stage, seq)| {
            Change::AdoptTargets(Seq::new(stage), Seq::new(seq))
        }),
        1 => (1..=SEQS).prop_map(|seq| Change::DropTargets(Seq::new(seq))),
        2 => (1..=SEQS, a_rollout()).prop_map(|(seq, rollout)| put_rollout(seq, rollout)),
        1 => key.prop_map(|(caller, key, seq, byte)| {
            Change::PutIdempotency(Box::new(IdempotencyRecord {
                key: IdempotencyKey { caller: caller.into(), key: key.into() },
                fingerprint: [byte; 32],
                command: id(seq),
                device: Some(device("a")).filter(|_| byte % 2 == 0),
                expires: instant(1_000_000),
            }))
        }),
    ]
}

fn a_history() -> impl Strategy<Value = Vec<Step>> {
    vec(
        prop_oneof![9 => vec(a_change(), 1..6).prop_map(Step::Commit), 1 => Just(Step::Restart)],
        1..12,
    )
}

fn a_page() -> impl Strategy<Value = PageMax> {
    (0..6usize, 0..40usize).prop_map(|(rows, bytes)| PageMax { rows, bytes })
}

fn a_query() -> impl Strategy<Value = TargetQuery> {
    let selectors = vec!["site=lyon", "os,site!=rome", "facts.x=1.0"];
    let text = option::of(select(selectors));
    let scope = option::of(select(vec!["site=lyon", "!os"]));
    let canary = option::of(select(vec!["site", "!site", "facts.os=linux"]));
    // Some of them are not registered.
    let named = option::weighted(0.3, vec(select(vec!["a", "b", "b.c", "z"]), 0..5));
    let states = vec(select(DeliveryState::ALL.as_slice()), 1..5);
    let ended = option::of((1..=SEQS, states));
    (text, scope, canary, named, ended).prop_map(|(select, scope, canary, named, ended)| {
        let parse = |text: &str| -> Selector { text.parse().unwrap() };
        let named = named.map(|names| {
            let mut devices: Vec<DeviceId> = names.into_iter().map(device).collect();
            devices.sort_unstable();
            devices.dedup();
            devices
        });
        TargetQuery {
            select: select.map(parse),
            scope: scope.map(parse),
            canary: canary.map(parse),
            named,
            ended: ended.map(|(seq, states)| (id(seq), states)),
        }
    })
}

fn a_load() -> impl Strategy<Value = Load> {
    let key = (select(vec!["", "ops"]), select(vec!["k", "l", "m"]));
    prop_oneof![
        (name(), a_page()).prop_map(|(n, page_max)| Load::Device(device(n), page_max)),
        (name(), 0..SEQS, a_page()).prop_map(|(n, after, page_max)| Load::Queue(
            device(n),
            Seq::new(after),
            page_max
        )),
        (name(), vec(0..SEQS + 3, 0..4)).prop_map(|(n, seqs)| {
            Load::Deliveries(device(n), seqs.into_iter().map(Seq::new).collect())
        }),
        (1..=SEQS).prop_map(|seq| Load::Command(id(seq))),
        (1..=SEQS, name()).prop_map(|(seq, n)| Load::Targets(Seq::new(seq), device(n))),
        (1..=SEQS, option::of(name()), 0..5usize).prop_map(|(seq, after, max)| Load::LiveOf(
            Seq::new(seq),
            after.map(device),
            max
        )),
        (option::of(name()), 1..5usize, a_query()).prop_map(|(after, rows_max, query)| {
            Load::Found {
                request: RequestId(1),
                query: Box::new(query),
                after: after.map(device),
                rows_max,
            }
        }),
        (0..5u8).prop_map(|n| Load::Token(token_id(n))),
        (0..SEQS + 3).prop_map(|seq| Load::Data(device("a"), Seq::new(seq))),
        (name(), 1..=SEQS).prop_map(|(n, seq)| Load::Delivery(device(n), id(seq))),
        key.prop_map(|(caller, key)| {
            Load::Idempotency(IdempotencyKey { caller: caller.into(), key: key.into() })
        }),
        (0..90_000u64, 0..4usize).prop_map(|(ms, max)| Load::Due(now_at(ms), max)),
        (name(), 0..SEQS + 2, 3_600_000..3_600_012u64, a_page()).prop_map(
            |(n, after, now_ms, page_max)| Load::Delivered {
                device: device(n),
                after: Seq::new(after),
                now: instant(now_ms),
                page_max,
            }
        ),
    ]
}

fn a_filter() -> impl Strategy<Value = CommandFilter> {
    let state = option::of(select(DeliveryState::ALL.as_slice()));
    let action = option::of(select(vec!["ping", "reboot"]));
    (option::of(name()), state, action).prop_map(|(n, state, action)| CommandFilter {
        device: n.map(device),
        state,
        action: action.map(|a| a.parse().unwrap()),
        visible: Visible::all(),
    })
}

/// What is in pages of `limit`, together.
fn paged<T>(limit: u32, mut page: impl FnMut(PageRequest) -> bellwire_proto::Page<T>) -> Vec<T> {
    let mut items = Vec::new();
    let mut request = Some(PageRequest { limit, after: None });
    while let Some(asked) = request {
        let got = page(asked);
        assert!(got.items.len() <= limit as usize);
        assert!(got.next.is_none() || !got.items.is_empty(), "an empty page in a short list");
        items.extend(got.items);
        request = got.next.map(|c| PageRequest { limit, after: Some(c.parse().unwrap()) });
    }
    items
}

/// Lists in pages, filtered, as the model would.
fn compare_lists(kit: &Kit, model: &Model, filters: &[CommandFilter], limit: u32) {
    for filter in filters {
        let fits = |row: &&DeliveryRecord| {
            filter.device.as_ref().is_none_or(|d| row.device == *d)
                && filter.state.is_none_or(|state| row.state == state)
        };
        let any = filter.device.is_none() && filter.state.is_none();
        let expected: Vec<_> = model
            .commands()
            .rev()
            .filter(|c| filter.action.as_ref().is_none_or(|action| c.head.action == *action))
            .filter(|c| any || model.of(c.head.seq).any(|row| fits(&row)))
            .map(|c| model.shown(c))
            .collect();
        let listed = paged(limit, |page| read(kit.store.commands(filter.clone(), page)));
        assert_eq!(listed, expected, "{filter:?} in pages of {limit}");

        for command in model.commands() {
            let (seq, id) = (command.head.seq, command.head.id);
            let in_state = |row: &&DeliveryRecord| filter.state.is_none_or(|s| row.state == s);
            let expected: Vec<_> =
                model.of(seq).filter(in_state).map(DeliveryRecord::to_delivery).collect();
            let deliveries =
                |page| read(kit.store.deliveries(id, filter.state, page, Visible::all())).unwrap();
            assert_eq!(paged(limit, deliveries), expected, "deliveries of {seq}");
        }
    }
    for (n, (select, prefix)) in
        SELECTORS.iter().flat_map(|s| ["", "b", "a"].map(|p| (s, p))).enumerate()
    {
        let selector: Selector = select.parse().unwrap();
        let unseen_before = [None, Some(at(5)), Some(at(0))][n % 3];
        let pending = [None, None, Some(true), Some(false)][n % 4];
        let seen_ms = |row: &StoredDevice| row.record.seen.as_ref().map(|seen| seen.at);
        let fits = |row: &StoredDevice| {
            let record = &row.record;
            selector.selects(&record.labels, &selectable(&record.facts))
                && record.id.as_str().starts_with(prefix)
                && unseen_before
                    .is_none_or(|before| seen_ms(row).unwrap_or(record.created_at) < before)
                && pending.is_none_or(|pending| record.pending == pending)
        };
        for by in [SortKey::Id, SortKey::LastSeen, SortKey::Queued] {
            let mut expected: Vec<_> = model.view().devices.into_iter().filter(fits).collect();
            expected.sort_by_key(|row| match by {
                SortKey::Id => 0,
                SortKey::LastSeen => seen_ms(row).map_or(0, |at| at.unix_ms() + 1),
                SortKey::Queued => row.queued,
            });
            for descending in [false, true] {
                let filter = DeviceFilter {
                    select: selector.clone(),
                    prefix: prefix.into(),
                    unseen_before,
                    pending,
                    order: DeviceOrder { by, descending },
                    ..DeviceFilter::default()
                };
                assert_eq!(kit.devices(&filter, limit), expected, "{filter:?}");
                expected.reverse();
            }
            // Whom it selects of those named, in that order.
            let filter = DeviceFilter {
                select: selector.clone(),
                prefix: prefix.into(),
                unseen_before,
                pending,
                ..DeviceFilter::default()
            };
            let named: Vec<DeviceId> = ["z", "b.c", "a", "B", "b"].map(device).into();
            let of = |id: &&DeviceId| expected.iter().any(|row| row.record.id == **id);
            let fitting: Vec<DeviceId> = named.iter().filter(of).cloned().collect();
            assert_eq!(read(kit.store.devices_fitting(filter, named)), fitting);
        }
    }
}

/// One who sees a part of the fleet reads that part, and nothing else is there.
fn compare_scoped(kit: &Kit, model: &Model, filters: &[CommandFilter], limit: u32) {
    for select in ["site=lyon", "!site", "site=nowhere"] {
        let visible = Visible::by(Some(select.parse().unwrap()));
        for command in model.commands() {
            let (seq, id) = (command.head.seq, command.head.id);
            let expected = model.seen(command, &visible);
            assert_eq!(read(kit.store.command(id, visible.clone())), expected, "{select}: {seq}");
            let page = PageRequest { limit: 1000, after: None };
            let deliveries = read(kit.store.deliveries(id, None, page, visible.clone()));
            let seen = expected.is_some().then(|| model.seen_of(seq, &visible));
            assert_eq!(deliveries.map(|page| page.items), seen, "{select}: of {seq}");
            let snapshot = read(kit.store.snapshot(id, None, visible.clone()));
            let snapshot = snapshot.map(|s| s.deliveries.into_iter().map(|(d, _)| d).collect());
            assert_eq!(snapshot, seen, "{select}: snapshot of {seq}");
        }
        for filter in filters {
            let sees_device =
                |name: &DeviceId| model.devices().any(|d| d.id == *name && visible.sees(&d.labels));
            let fits = |row: &Delivery| {
                filter.device.as_ref().is_none_or(|d| row.device == *d)
                    && filter.state.is_none_or(|state| row.state == state)
            };
            let any = filter.device.is_none() && filter.state.is_none();
            let expected: Vec<_> = model
                .commands()
                .rev()
                .filter(|c| filter.action.as_ref().is_none_or(|action| c.head.action == *action))
                .filter(|_| filter.device.as_ref().is_none_or(sees_device))
                .filter(|c| any || model.seen_of(c.head.seq, &visible).iter().any(fits))
                .filter_map(|c| model.seen(c, &visible))
                .collect();
            let filter = CommandFilter { visible: visible.clone(), ..filter.clone() };
            let listed = paged(limit, |page| read(kit.store.commands(filter.clone(), page)));
            assert_eq!(listed, expected, "{filter:?} in pages of {limit}");
        }
        let expected: Vec<_> = model.devices().filter(|d| visible.sees(&d.labels)).collect();
        let filter = DeviceFilter { visible: visible.clone(), ..DeviceFilter::default() };
        let listed = kit.devices(&filter, limit);
        assert_eq!(listed.iter().map(|d| &d.record).collect::<Vec<_>>(), expected, "{select}");
    }
}

/// All that a search finds, and the canaries among it. How much is looked at for a page, the store decides.
fn found(mut load: Load, mut answer: impl FnMut(Load) -> Loaded) -> (Vec<DeviceId>, Vec<DeviceId>) {
    let (mut devices, mut canaries) = (Vec::new(), Vec::new());
    loop {
        let Loaded::Found(_, page) = answer(load.clone()) else { panic!("not found: {load:?}") };
        devices.extend(page.devices);
        canaries.extend(page.canaries);
        match (page.last, &mut load) {
            (Some(last), Load::Found { after, .. }) => *after = Some(last),
            _ => return (devices, canaries),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_store_answers_as_a_naive_one_would(
        history in a_history(),
        loads in vec(a_load(), 30),
        filters in vec(a_filter(), 6),
        limit in 1..5u32,
    ) {
        // In memory where there is one: what is durable is proven elsewhere.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut kit = Kit::open(dir.path());
        let mut model = Model::default();
        // Deliveries are of commands that are there, each with an action and data of its own.
        let mut commands = Vec::new();
        for seq in 1..=SEQS {
            let mut row = command(seq);
            row.head.action = if seq % 3 == 0 { "reboot" } else { "ping" }.parse().unwrap();
            row.head.run_timeout = Duration::from_secs(seq * 10);
            row.head.total = DEVICES.len() as u64;
            commands.push(row);
        }
        let first = commands.iter().cloned().map(|row| Change::PutCommand(Box::new(row))).collect();
        for step in [Step::Commit(first)].into_iter().chain(history) {
            match step {
                Step::Commit(mut changes) => {
                    for change in &mut changes {
                        if let Change::PutDelivery(row) = change {
                            row.head = commands[row.head.seq.get() as usize - 1].head.clone();
                        }
                    }
                    changes.iter().for_each(|change| model.apply(change));
                    kit.commit(changes);
                }
                Step::Restart => {
                    kit.close();
                    let recovered = model.recover(now_at(0));
                    kit = Kit::open(dir.path());
                    prop_assert_eq!(&kit.recovered, &recovered);
                }
            }
        }
        prop_assert_eq!(kit.view(&model), model.view());
        for load in loads {
            if matches!(load, Load::Found { .. }) {
                let expected = found(load.clone(), |load| model.answer(&load));
                prop_assert_eq!(found(load.clone(), |load| kit.load(load)), expected, "{:?}", load);
                continue;
            }
            let expected = model.answer(&load);
            prop_assert_eq!(kit.load(load), expected);
        }
        compare_lists(&kit, &model, &filters, limit);
        compare_scoped(&kit, &model, &filters, limit);
    }
}
