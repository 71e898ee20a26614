//! What the store answers to the core and to the API.

mod store_kit;

use bellwire_core::record::{
    Change, ChunkRange, DeliveryRecord, Load, Loaded, PageMax, QueuePage, Seen, TargetChunk,
};
use bellwire_core::record::{IdempotencyKey, IdempotencyRecord};
use bellwire_hub::store::{
    BadCursor, CommandFilter, Cursor, DeviceFilter, PageRequest, Store, StoreError, Visible,
};
use bellwire_proto::limits::LIST_ROWS_MAX;
use bellwire_proto::{Counts, DeliveryState, ErrorInfo, Labels, Outcome, Progress, Seq};
use store_kit::*;

fn page(limit: u32) -> PageRequest {
    PageRequest { limit, after: None }
}

fn next(limit: u32, cursor: Option<String>) -> Option<PageRequest> {
    cursor.map(|cursor| PageRequest {
        limit,
        after: Some(cursor.parse().expect("a page gives good cursors")),
    })
}

/// The numbers of all commands that a filter gives, walked through in pages of `limit`.
fn walk(kit: &Kit, filter: &CommandFilter, limit: u32) -> Vec<u64> {
    let mut seqs = Vec::new();
    let mut request = Some(page(limit));
    while let Some(asked) = request {
        let page = read(kit.store.commands(filter.clone(), asked));
        assert!(page.items.len() <= limit as usize);
        seqs.extend(page.items.iter().map(|command| command.seq.get()));
        request = next(limit, page.next);
    }
    seqs
}

#[test]
fn every_member_of_a_delivery_survives() {
    let dir = tempfile::tempdir().unwrap();
    let mut full = delivery_in(1, "a", DeliveryState::Failed, 9);
    full.head.not_before = Some(at(5));
    full.counted = 3;
    full.sends = 7;
    full.rev = Some((1 << 53) - 1);
    full.late = true;
    full.forced = true;
    full.retry_at = Some(instant(1));
    full.run_until = Some(instant(2));
    full.cancelling_since = Some(instant(3));
    full.outcome = Outcome {
        progress: Some(Progress::try_from(33.5).unwrap()),
        exit_code: Some(-1),
        result: Some(json("{\"z\":1.50,\"a\":null}")),
        stdout: Some("tail\0\n".into()),
        stderr: Some(String::new()),
        truncated: Some(true),
        error: Some(ErrorInfo { code: "signal".into(), message: Some("é".into()) }),
    };
    let mut command = command(1);
    command.head = full.head.clone();
    command.created_by = Some("ops".into());

    let kit = Kit::open(dir.path());
    kit.commit(vec![Change::PutCommand(Box::new(command)), put(full.clone())]);
    assert_eq!(kit.delivery(1, "a").as_ref(), Some(&full));
    kit.close();
    let kit = Kit::open(dir.path());
    assert_eq!(kit.delivery(1, "a"), Some(full));
}

#[test]
fn a_device_is_loaded_with_what_is_live_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    kit.commit(vec![
        put_device("a"),
        put_command(2),
        put_command(1),
        put_command(3),
        put_command(4),
        put(delivery(2, "a")),
        put(delivery(1, "a")),
        put(delivery_in(3, "a", DeliveryState::Succeeded, 3)),
        put(delivery(4, "b")),
    ]);
    kit.commit(vec![put_queued("a", 2), put(delivery_in(4, "a", DeliveryState::Running, 4))]);
    let load = |name: &str, rows: usize| match kit
        .load(Load::Device(device(name), PageMax { rows, bytes: 1000 }))
    {
        Loaded::Device(loaded) => *loaded,
        other => panic!("not a device: {other:?}"),
    };
    let data = |seq: u64| json(&format!("{{\"n\":{seq}}}"));
    let loaded = load("a", 1);
    assert_eq!((loaded.known, loaded.queued), (true, 2));
    assert_eq!(loaded.active, [delivery_in(4, "a", DeliveryState::Running, 4)]);
    assert_eq!(loaded.queue.rows, [(delivery(1, "a"), data(1))]);
    assert!(loaded.queue.more, "there is another behind it");
    let next = Load::Queue(device("a"), Seq::new(1), PageMax { rows: 1, bytes: 1000 });
    let page = QueuePage { rows: vec![(delivery(2, "a"), data(2))], more: false };
    assert_eq!(kit.load(next), Loaded::Queue(device("a"), page));
    let stranger = load("c", 9);
    assert!(!stranger.known && stranger.queued == 0 && stranger.queue.rows.is_empty());
    kit.commit(vec![Change::DeleteDevice(device("a"))]);
    let removed = load("a", 9);
    assert!(!removed.known);
    assert_eq!(removed.queue.rows.len(), 2, "the deliveries of a removed device stay");
}

#[test]
fn loads_find_data_and_keys() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let key = |key: &str| IdempotencyKey { caller: "ops".into(), key: key.into() };
    let record = IdempotencyRecord {
        key: key("k"),
        fingerprint: [7; 32],
        command: id(1),
        device: None,
        expires: instant(1000),
    };
    kit.commit(vec![
        put_command(1),
        put(delivery(1, "b")),
        put(delivery(1, "a")),
        Change::PutIdempotency(Box::new(record.clone())),
    ]);
    let data = |seq: u64| kit.load(Load::Data(device("a"), Seq::new(seq)));
    let found = Some(json("{\"n\":1}"));
    assert_eq!(data(1), Loaded::Data(device("a"), Seq::new(1), found));
    assert_eq!(data(9), Loaded::Data(device("a"), Seq::new(9), None));
    assert_eq!(
        kit.load(Load::Idempotency(key("k"))),
        Loaded::Idempotency(key("k"), Some(Box::new(record)))
    );
    assert_eq!(kit.load(Load::Idempotency(key("other"))), Loaded::Idempotency(key("other"), None));
}

#[test]
fn a_command_to_many_is_found_with_its_targets_and_what_is_live_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let chunk = |names: &[&str]| TargetChunk {
        devices: names.iter().map(|n| device(n)).collect(),
        canary: false,
        // Which does not make them canaries.
        registered: names == ["c", "d"],
    };
    kit.commit(vec![
        put_command_to_many(1, 4),
        Change::PutTargets(Seq::new(1), chunk(&["a", "b"])),
        Change::PutTargets(Seq::new(1), chunk(&["c", "d"])),
    ]);
    let targets = |first: &str| kit.load(Load::Targets(Seq::new(1), device(first)));
    let data = json("{\"n\":1}");
    let found = Some((chunk(&["c", "d"]), data));
    assert_eq!(targets("c"), Loaded::Targets(Seq::new(1), device("c"), found));
    assert_eq!(targets("b"), Loaded::Targets(Seq::new(1), device("b"), None));

    let in_state = |name: &str, state| put(of_many(4, delivery_in(1, name, state, 1)));
    kit.commit(vec![
        in_state("a", DeliveryState::Succeeded),
        in_state("b", DeliveryState::Running),
        Change::DeleteTargets(Seq::new(1), device("a")),
        Change::PutCancel(Seq::new(1), true),
    ]);
    let Loaded::Command(_, Some(found)) = kit.load(Load::Command(id(1))) else { panic!() };
    assert_eq!((found.head.total, found.terminal), (4, 1));
    assert_eq!(found.first.unwrap().device, device("a"));
    let live = |after: Option<&str>| kit.load(Load::LiveOf(Seq::new(1), after.map(device), 10));
    assert_eq!(live(None), Loaded::LiveOf(Seq::new(1), vec![device("b")]));
    assert_eq!(live(Some("b")), Loaded::LiveOf(Seq::new(1), vec![]));
    kit.close();

    let kit = Kit::open(dir.path());
    let [job] = &kit.recovered.jobs[..] else { panic!("{:?}", kit.recovered) };
    let range = ChunkRange { first: device("c"), last: device("d"), targets: 2, canary: false };
    assert_eq!(
        (&job.chunks[..], job.cancel, job.head.seq),
        (&[range][..], Some(true), Seq::new(1))
    );
    // A counter moves with the row, however often that is written.
    for _ in 0..2 {
        kit.commit(vec![put(of_many(4, delivery_in(1, "b", DeliveryState::Failed, 2)))]);
    }
    let command = read(kit.store.command(id(1), Visible::all())).unwrap();
    let counts = Counts::from([(DeliveryState::Succeeded, 1), (DeliveryState::Failed, 1)]);
    assert_eq!((command.counts, command.total, command.done), (counts, 4, false));
}

#[test]
fn what_is_due_is_named_with_the_time_of_all_others() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let due = |seq: u64, name: &str, ms: u64| {
        let mut row = delivery_in(seq, name, DeliveryState::Running, 0);
        row.run_until = Some(instant(ms));
        vec![put_command(seq), put(row)]
    };
    kit.commit(due(1, "a", 10));
    kit.commit(due(2, "b", 20));
    kit.commit(due(3, "a", 15));
    kit.commit(due(4, "c", 30));
    let mut scheduled = delivery(5, "d");
    scheduled.scheduled_at = Some(at(25));
    kit.commit(vec![put_command(5), put(scheduled)]);
    let load = |ms, max| match kit.load(Load::Due(now_at(ms), max)) {
        Loaded::Due { rows, next, next_scheduled } => {
            let rows: Vec<_> = rows.iter().map(|(device, seq)| format!("{device}{seq}")).collect();
            (rows.join(" "), next, next_scheduled)
        }
        other => panic!("{other:?}"),
    };
    let (soon, later) = (Some(at(25)), |ms| Some(instant(ms)));
    assert_eq!(load(9, 10), (String::new(), later(10), soon));
    assert_eq!(load(10, 10), ("a1".into(), later(15), soon));
    assert_eq!(load(20, 2), ("a1 a3".into(), later(20), soon));
    assert_eq!(load(20, 10), ("a1 a3 b2".into(), later(30), soon));
    assert_eq!(load(30, 10), ("a1 a3 b2 c4 d5".into(), None, None));
}

#[test]
fn a_replay_follows_the_order_of_delivery() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    // Delivered in the order 2, 1, 4, 3 (the last two in the same millisecond as 5).
    let row =
        |seq, ms| vec![put_command(seq), put(delivery_in(seq, "a", DeliveryState::Delivered, ms))];
    for (seq, ms) in [(1, 20), (2, 10), (3, 40), (4, 30), (5, 40)] {
        kit.commit(row(seq, ms));
    }
    kit.commit(vec![put_command(6), put(delivery_in(6, "b", DeliveryState::Delivered, 15))]);
    kit.commit(vec![put_command(7), put(delivery_in(7, "a", DeliveryState::Succeeded, 15))]);
    let replay = |after: u64, now_ms: u64, rows_max: usize, bytes_max: usize| {
        let loaded = kit.load(Load::Delivered {
            device: device("a"),
            after: Seq::new(after),
            now: instant(now_ms),
            page_max: PageMax { rows: rows_max, bytes: bytes_max },
        });
        let Loaded::Delivered(_, rows) = loaded else { panic!("{loaded:?}") };
        for (row, data) in &rows {
            assert_eq!(*data, json(&format!("{{\"n\":{}}}", row.head.seq)));
        }
        rows.iter().map(|(row, _)| row.head.seq.get()).collect::<Vec<_>>()
    };
    const ALL: usize = usize::MAX;
    assert_eq!(replay(2, 0, ALL, ALL), [1, 4, 3, 5], "after 2, which came first");
    assert_eq!(replay(3, 0, ALL, ALL), [5]);
    assert_eq!(replay(5, 0, ALL, ALL), [0; 0]);
    assert_eq!(replay(0, 0, ALL, ALL), [2, 1, 4, 3, 5], "0 is before every command");
    assert_eq!(replay(7, 0, ALL, ALL), [0; 0], "7 was not delivered; none has a greater number");
    assert_eq!(replay(u64::MAX, 0, ALL, ALL), [0; 0]);
    assert_eq!(replay(0, 3_600_002, ALL, ALL), [4, 3, 5], "1 and 2 have expired");
    assert_eq!(replay(2, 0, 2, ALL), [1, 4]);
    assert_eq!(replay(2, 0, ALL, 8), [1, 4], "each has 7 bytes");
    assert_eq!(replay(2, 0, ALL, 0), [0; 0]);
}

#[test]
fn commands_come_newest_first_and_a_page_stays_when_commands_are_added() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    for seq in 1..=5 {
        kit.commit(vec![put_command(seq), put(delivery(seq, "a"))]);
    }
    let first = read(kit.store.commands(CommandFilter::default(), page(2)));
    kit.commit(vec![put_command(6), put(delivery(6, "a"))]);
    let request = next(2, first.next).unwrap();
    let second = read(kit.store.commands(CommandFilter::default(), request));
    let seqs: Vec<_> = second.items.iter().map(|c| c.seq.get()).collect();
    assert_eq!(seqs, [3, 2]);
    for limit in 1..=7 {
        assert_eq!(walk(&kit, &CommandFilter::default(), limit), [6, 5, 4, 3, 2, 1]);
    }
    let exact = read(kit.store.commands(CommandFilter::default(), page(6)));
    assert_eq!(exact.next, None, "a full page that is the last has no next");
}

#[test]
fn commands_are_filtered_by_a_delivery_that_fits_both_device_and_state() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    // 1 has two deliveries; its queued one is not the one of device a.
    kit.commit(vec![
        put_command_to_many(1, 2),
        put(of_many(2, delivery_in(1, "a", DeliveryState::Succeeded, 1))),
        put(of_many(2, delivery(1, "b"))),
        put_command(2),
        put(delivery(2, "a")),
        put_command(3),
        put(delivery_in(3, "b", DeliveryState::Succeeded, 3)),
    ]);
    let mut other = command(4);
    other.head.action = "reboot".parse().unwrap();
    kit.commit(vec![Change::PutCommand(Box::new(other)), put(delivery(4, "a"))]);

    let found = |device_name: Option<&str>, state, action: Option<&str>| {
        let filter = CommandFilter {
            device: device_name.map(device),
            state,
            action: action.map(|a| a.parse().unwrap()),
            ..CommandFilter::default()
        };
        let by_one = walk(&kit, &filter, 1);
        assert_eq!(by_one, walk(&kit, &filter, 100), "{filter:?}");
        by_one
    };
    let (queued, succeeded) = (Some(DeliveryState::Queued), Some(DeliveryState::Succeeded));
    assert_eq!(found(Some("a"), None, None), [4, 2, 1]);
    assert_eq!(found(Some("a"), queued, None), [4, 2]);
    assert_eq!(found(Some("a"), succeeded, None), [1]);
    assert_eq!(found(None, queued, None), [4, 2, 1]);
    assert_eq!(found(None, succeeded, None), [3, 1]);
    assert_eq!(found(None, None, Some("ping")), [3, 2, 1]);
    assert_eq!(found(Some("a"), queued, Some("ping")), [2]);
    assert_eq!(found(Some("nobody"), None, None), [0; 0]);

    let one = read(kit.store.command(id(1), Visible::all())).unwrap();
    assert_eq!(one.counts, [(DeliveryState::Queued, 1), (DeliveryState::Succeeded, 1)].into());
    assert!(!one.done);
    let three = read(kit.store.command(id(3), Visible::all())).unwrap();
    assert_eq!(three.counts, [(DeliveryState::Succeeded, 1)].into());
    assert!(three.done);
    assert_eq!(read(kit.store.command(id(9), Visible::all())), None);
}

#[test]
fn a_search_through_many_rows_continues_after_its_cursor() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let mut changes = vec![put_command(1), put(delivery_in(1, "a", DeliveryState::Dead, 1))];
    for seq in 2..=40_100 {
        changes.push(put_command(seq));
    }
    kit.commit(changes);
    let filter = CommandFilter { state: Some(DeliveryState::Dead), ..CommandFilter::default() };
    let first = read(kit.store.commands(filter.clone(), page(10)));
    assert!(first.items.is_empty(), "no page looks at every row");
    assert!(first.next.is_some());
    assert_eq!(walk(&kit, &filter, 10), [1]);
}

#[test]
fn the_deliveries_of_a_command_come_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    kit.commit(vec![
        put_command(1),
        put(delivery(1, "c")),
        put(delivery_in(1, "a", DeliveryState::Running, 1)),
        put(delivery(1, "b")),
    ]);
    let listed = |state, request: PageRequest| {
        let page = read(kit.store.deliveries(id(1), state, request, Visible::all())).unwrap();
        let names: Vec<_> = page.items.iter().map(|d| d.device.to_string()).collect();
        (names.join(" "), page.next)
    };
    let (names, cursor) = listed(None, page(2));
    assert_eq!(names, "a b");
    assert_eq!(listed(None, next(2, cursor).unwrap()), ("c".into(), None));
    assert_eq!(listed(Some(DeliveryState::Queued), page(2)), ("b c".into(), None));
    assert_eq!(read(kit.store.deliveries(id(2), None, page(2), Visible::all())), None);

    let snapshot = read(kit.store.snapshot(id(1), None, Visible::all())).unwrap();
    assert_eq!((snapshot.command.seq, snapshot.more), (Seq::new(1), false));
    let deliveries = snapshot.deliveries;
    let versions: Vec<_> = deliveries.iter().map(|(d, v)| (d.device.to_string(), *v)).collect();
    assert_eq!(versions, [("a".into(), 1), ("b".into(), 0), ("c".into(), 0)]);
    assert_eq!(read(kit.store.snapshot(id(2), None, Visible::all())), None);
}

#[test]
fn devices_come_by_name_and_by_label_with_what_waits_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let lyon = Labels::from([("site".into(), "lyon".into())]);
    let seen = Seen { at: at(7), address: Some("::1".into()), agent: None };
    kit.commit(vec![
        put_device("c"),
        put_device("b"),
        put_device("a"),
        Change::PutLabels(device("a"), lyon.clone()),
        Change::PutLabels(device("c"), lyon.clone()),
        Change::PutFacts(device("a"), json("{\"cpu\":4}")),
        Change::PutSeen(device("a"), seen.clone()),
        Change::PutLabels(device("nobody"), lyon.clone()),
        put_command(1),
        put(delivery(1, "a")),
        put_command(2),
        put(delivery_in(2, "a", DeliveryState::Sent, 1)),
        put_queued("a", 1),
    ]);
    let a = read(kit.store.device(device("a"))).unwrap();
    assert_eq!(a.queued, 1, "what was sent does not wait");
    assert_eq!(a.record.labels, lyon);
    assert_eq!(a.record.facts, json("{\"cpu\":4}"));
    assert_eq!(a.record.seen, Some(seen));
    assert_eq!(read(kit.store.device(device("nobody"))), None);

    let listed = |select: &str, after| {
        let filter = DeviceFilter { select: select.parse().unwrap(), ..DeviceFilter::default() };
        let part = read(kit.store.devices(filter, after, 2, 100));
        let names: Vec<_> = part.found.iter().map(|place| place.device.to_string()).collect();
        (names.join(" "), part.next)
    };
    let (names, next) = listed("", None);
    assert_eq!(names, "a b");
    assert_eq!(listed("", next), ("c".into(), None));
    assert_eq!(listed("site=lyon", None), ("a c".into(), None));
    assert_eq!(listed("site!=lyon", None), ("b".into(), None));
}

#[test]
fn a_cursor_of_another_list_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let with = |cursor| PageRequest { limit: 1, after: Some(cursor) };
    let by_name = with(Cursor::after_device(device("a")));
    let by_seq = with(Cursor::after_seq(Seq::new(1)));
    let is_bad = |error| matches!(error, StoreError::BadCursor(BadCursor));
    let commands = kit.store.commands(CommandFilter::default(), by_name);
    assert!(is_bad(try_read(commands).unwrap_err()));
    let deliveries = kit.store.deliveries(id(1), None, by_seq, Visible::all());
    assert!(is_bad(try_read(deliveries).unwrap_err()));
}

#[test]
fn a_page_of_long_deliveries_ends_early_and_the_next_continues_there() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let names: Vec<String> = (100..200).map(|n| format!("d{n}")).collect();
    let mut changes = vec![put_command(1)];
    changes.extend(names.iter().map(|name| {
        let outcome = Outcome { stdout: Some("x".repeat(64 * 1024)), ..Outcome::default() };
        put(DeliveryRecord { outcome, ..delivery_in(1, name, DeliveryState::Succeeded, 1) })
    }));
    kit.commit(changes);
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let request = PageRequest { limit: 1000, after: after.take() };
        let page = read(kit.store.deliveries(id(1), None, request, Visible::all())).unwrap();
        assert!(page.items.len() <= 64, "4 MiB are 64 of these, and not {}", page.items.len());
        listed.extend(page.items.iter().map(|delivery| delivery.device.to_string()));
        let Some(next) = page.next else { break };
        after = Some(next.parse().unwrap());
    }
    assert_eq!(listed, names);
}

/// A page that has passed as many devices as it may, all of them outside of the reader's scope, named the last in its cursor.
#[test]
fn a_cursor_shows_no_device_that_is_not_there_for_the_reader() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let hidden = LIST_ROWS_MAX as usize + 5;
    let register = |name: String, site: &str| {
        let mut record = device_record(&name);
        record.labels = Labels::from([("site".to_owned(), site.to_owned())]);
        Change::PutDevice(Box::new(record))
    };
    let rome = (0..hidden).map(|n| register(format!("rome-{n:06}"), "rome"));
    kit.commit(rome.chain([register("z".to_owned(), "lyon")]).collect());
    let names = (0..hidden).map(|n| format!("rome-{n:06}")).chain(["z".to_owned()]);
    let command = put_command_to_many(1, hidden as u64 + 1);
    let deliveries = names.map(|name| put(of_many(hidden as u64 + 1, delivery(1, &name))));
    kit.commit([command].into_iter().chain(deliveries).collect());

    let visible = Visible::by(Some("site=lyon".parse().unwrap()));
    let deliveries = read(kit.store.deliveries(id(1), None, page(10), visible.clone())).unwrap();
    let waits = read(kit.store.waits(id(1), page(10), visible.clone())).unwrap();
    assert!(deliveries.items.is_empty() && waits.items.is_empty());
    let cursors = [deliveries.next, waits.next].map(|next| next.expect("there are more"));
    for cursor in &cursors {
        assert_eq!(cursor.parse::<Cursor>().unwrap().device(), Err(BadCursor), "{cursor}");
    }
    kit.close();
    let kit = Kit::open(dir.path());
    let [deliveries, waits] = cursors.map(|cursor| next(10, Some(cursor)).unwrap());
    let rest = read(kit.store.deliveries(id(1), None, deliveries, visible.clone())).unwrap();
    assert_eq!(rest.items.iter().map(|d| d.device.as_str()).collect::<Vec<_>>(), ["z"]);
    assert_eq!(read(kit.store.waits(id(1), waits, visible)).unwrap().items.len(), 1);
}
