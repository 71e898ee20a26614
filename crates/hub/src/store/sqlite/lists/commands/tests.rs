use std::path::Path;

use bellwire_proto::CommandId;
use rusqlite::StatementStatus;

use super::super::super::schema;
use super::*;
use crate::store::Visible;

/// Commands to one device, the older half of them ended.
const SINGLE: i64 = 400;
/// Commands to many, which are newer, and to how many.
const TO_MANY: i64 = 5;
const DEVICES: i64 = 1000;
/// Rows that a page may look at here.
const ROWS_MAX: u32 = 60;
/// Steps of SQLite's machine for one row, at most: finding it, and a second table's row for it.
const STEPS_OF_A_ROW: i32 = 60;

/// A file with many queued deliveries, few that succeeded and none that failed.
fn filled() -> Connection {
    let mut connection = Connection::open_in_memory().unwrap();
    connection.set_prepared_statement_cache_capacity(64);
    schema::migrate(&mut connection, Path::new("memory")).unwrap();
    let filling = connection.transaction().unwrap();
    let command = |seq: i64, total: i64| {
        let mut random = [0; 10];
        random[2..].copy_from_slice(&seq.to_be_bytes());
        let id = CommandId::from_parts(1, random).to_bytes();
        filling
            .prepare_cached(
                "INSERT INTO commands (seq, id, action, created_at, expires_at, run_timeout_ms,
                    created, total, online_only, data)
                 VALUES (?1, ?2, 'ping', 0, 9, 9, 0, ?3, 0, 'null')",
            )
            .unwrap()
            .execute(params![seq, id, total])
            .unwrap();
    };
    let deliver = |seq: i64, device: &str, state: i64| {
        filling
            .prepare_cached(
                "INSERT INTO deliveries (seq, device, state, attempt, sends, counted, version,
                    updated_at, updated, expires, flags)
                 VALUES (?1, ?2, ?3, 0, 0, 0, 1, 0, 0, 9, 0)",
            )
            .unwrap()
            .execute(params![seq, device, state])
            .unwrap();
    };
    for seq in 1..=SINGLE {
        command(seq, 1);
        deliver(seq, "solo", if seq <= SINGLE / 2 { 5 } else { 0 });
    }
    for seq in SINGLE + 1..=SINGLE + TO_MANY {
        command(seq, DEVICES);
        (0..DEVICES).for_each(|n| deliver(seq, &format!("d{n}"), 0));
        filling.execute("INSERT INTO counts VALUES (?1, 0, ?2)", [seq, DEVICES]).unwrap();
    }
    filling.commit().unwrap();
    connection
}

/// What SQLite has done for the searches on this connection. (Statements keep their counters in the
/// cache.)
fn steps(connection: &Connection) -> i32 {
    [
        ACTIVE,
        ACTIVE_OF_DEVICE,
        READY,
        READY_OF_DEVICE,
        SCHEDULED,
        ENDED_OF_DEVICE,
        ALL,
        BY_STATE,
        BY_DEVICE,
    ]
    .iter()
    .map(|sql| connection.prepare_cached(sql).unwrap().get_status(StatementStatus::VmStep))
    .sum()
}

fn filter(device: Option<&str>, state: Option<DeliveryState>) -> CommandFilter {
    CommandFilter {
        device: device.map(|name| name.parse().unwrap()),
        state,
        action: None,
        ..CommandFilter::default()
    }
}

#[test]
fn no_page_of_commands_looks_at_more_rows_than_it_may_whatever_the_filter() {
    // `?state=queued` read the whole index of what is queued for each page, `?state=failed` every delivery of
    // a command to many, and `?device=` all that the device ever ran.
    let connection = filled();
    for device in [None, Some("solo"), Some("d1"), Some("nobody")] {
        let states = [DeliveryState::Queued, DeliveryState::Sent, DeliveryState::Failed];
        for state in [None].into_iter().chain(states.map(Some)) {
            let filter = filter(device, state);
            let before = steps(&connection);
            let page = within(&connection, &filter, 10, None, ROWS_MAX).unwrap();
            let steps = steps(&connection) - before;
            let most = STEPS_OF_A_ROW * i32::try_from(ROWS_MAX).unwrap();
            assert!(steps <= most, "{filter:?}: {steps} steps for {} items", page.items.len());
        }
    }
}

#[test]
fn the_pages_of_a_search_give_every_command_that_fits_once_and_newest_first() {
    let connection = filled();
    let cases = [
        (None, None, "TRUE"),
        (None, Some(DeliveryState::Queued), "state = 0"),
        (None, Some(DeliveryState::Succeeded), "state = 5"),
        (None, Some(DeliveryState::Running), "state = 3"),
        (Some("solo"), None, "device = 'solo'"),
        (Some("solo"), Some(DeliveryState::Succeeded), "device = 'solo' AND state = 5"),
        (Some("d1"), Some(DeliveryState::Queued), "device = 'd1' AND state = 0"),
        (Some("nobody"), None, "FALSE"),
    ];
    for (device, state, fits) in cases {
        let sql = format!("SELECT DISTINCT seq FROM deliveries WHERE {fits} ORDER BY seq DESC");
        let mut statement = connection.prepare(&sql).unwrap();
        let expected: Vec<u64> = statement
            .query_map([], |row| rows::uint(row, 0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        // With room for all deliveries of the one way, and with so little that the other is taken.
        for rows_max in [ROWS_MAX, 20_000] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let filter = filter(device, state);
                let page = within(&connection, &filter, 7, after, rows_max).unwrap();
                found.extend(page.items.iter().map(|command| command.seq.get()));
                let Some(next) = page.next else { break };
                after = Some(next.parse::<Cursor>().unwrap().seq().unwrap());
            }
            assert_eq!(found, expected, "{device:?} {state:?} {rows_max}");
        }
    }
}

#[test]
fn a_page_for_a_scope_ends_when_the_deliveries_that_were_compared_are_enough() {
    // Each command to many was compared with the scope, delivery by delivery, and a page looked at 20,000 commands.
    let connection = filled();
    let visible = Visible::by(Some("site=lyon".parse().unwrap()));
    let scoped = CommandFilter { visible, ..CommandFilter::default() };
    let rows_max = 2 * u32::try_from(DEVICES).unwrap();
    let page = within(&connection, &scoped, 10, None, rows_max).unwrap();
    assert_eq!(page.items.len(), 0);
    let after = page.next.unwrap().parse::<Cursor>().unwrap().seq().unwrap().get();
    let first = u64::try_from(SINGLE + TO_MANY).unwrap();
    assert_eq!(after, first - 1, "two commands of {DEVICES} deliveries");
}
