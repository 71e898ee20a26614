//! Tokens and enrolment. Contract, section 6, "Tokens".

use std::time::Duration;

use bellwire_core::record::TokenRecord;
use bellwire_core::{
    AccessChange, Answer, Enrolment, HubEvent, Listen, Peer, Poll, RequestId, SessionId, TokenUse,
};
use bellwire_proto::limits::{CONFLICT_REPLACED_MAX, CONFLICT_WINDOW};
use bellwire_proto::{Code, DeviceChange, Join, Json, Labels, Role, Seconds, Timestamp, TokenId};

use crate::harness::{Harness, device};

fn id(n: u8) -> TokenId {
    TokenId::from_random([n; 10])
}

fn record(n: u8, role: Role) -> TokenRecord {
    TokenRecord {
        id: id(n),
        digest: [n; 32],
        role,
        expires_at: None,
        note: None,
        created_at: Timestamp::from_unix_ms(0),
        created_by: None,
        last_used_at: None,
    }
}

fn join(uses_left: Option<u64>, replace: bool, approve: bool) -> Role {
    let labels = Labels::from([("site".to_owned(), "lyon".to_owned())]);
    Role::Join(Box::new(Join { labels, uses_left, replace, approve }))
}

impl Harness {
    fn ask_to_create(&mut self, record: TokenRecord) -> RequestId {
        let request = self.request();
        self.hub.handle_create_token(request, record, self.now);
        self.settle();
        request
    }

    fn create(&mut self, n: u8, role: Role) {
        let request = self.ask_to_create(record(n, role));
        assert!(matches!(self.answer(request), Answer::Done));
    }

    fn revoke(&mut self, n: u8) -> Answer {
        let request = self.request();
        self.hub.handle_revoke_token(request, id(n), self.now);
        self.settle();
        self.answer(request)
    }

    fn ask_to_enroll(&mut self, with: u8, who: &str, token: u8) -> RequestId {
        let request = self.request();
        let facts = Some(Json::parse(r#"{"os":"deb12"}"#).unwrap());
        let enrolment = Enrolment {
            join: id(with),
            device: device(who),
            facts,
            token: id(token),
            digest: [token; 32],
        };
        self.hub.handle_enroll(request, enrolment, self.now);
        self.settle();
        request
    }

    /// Whether it is pending, or the refusal.
    fn enroll(&mut self, with: u8, who: &str, token: u8) -> Result<bool, Code> {
        let request = self.ask_to_enroll(with, who, token);
        match self.answer(request) {
            Answer::Enrolled { pending } => Ok(pending),
            Answer::Problem(problem) => Err(problem.code),
            answer => panic!("an enrolment is answered by {answer:?}"),
        }
    }

    fn listen_as(&mut self, who: &str, n: u8) -> SessionId {
        let own = self.store.disk.tokens.get(&id(n)).and_then(|token| token.role.device());
        let own = own == Some(&device(who));
        let token = Some(TokenUse { id: id(n), expires_at: None, own });
        self.listen_with(who, Listen { token, ..Listen::default() })
    }

    fn poll_as(&mut self, who: &str, token: Option<TokenId>) -> RequestId {
        let request = self.request();
        let wait = Seconds::new(25);
        let poll = Poll { wait, last_event_id: None, peer: Peer::default(), token };
        self.hub.handle_poll(request, device(who), poll, self.now);
        self.settle();
        request
    }

    fn code(&mut self, request: RequestId) -> Code {
        self.delivery(request).unwrap_err().code
    }

    fn uses_left(&self, n: u8) -> Option<u64> {
        self.store.disk.tokens[&id(n)].role.join().unwrap().uses_left
    }
}

#[test]
fn a_token_is_answered_once_it_is_on_disk() {
    let mut harness = Harness::new();
    harness.disk_held = true;
    let request = harness.ask_to_create(record(1, Role::Admin));
    assert!(!harness.is_answered(request) && harness.access.is_empty());
    harness.disk_held = false;
    harness.settle();
    assert!(matches!(harness.answer(request), Answer::Done));
    assert_eq!(harness.access, [AccessChange::Closed]);
    assert!(!harness.hub.is_open());
    harness.restart();
    assert!(!harness.hub.is_open());
}

#[test]
fn the_first_admin_token_ends_streams_and_polls_without_a_token_and_no_others() {
    let mut harness = Harness::new();
    harness.create(2, Role::Device(device("till")));
    let (anonymous, held) = (harness.listen("kiosk"), harness.listen_as("till", 2));
    let poll = harness.poll_as("kiosk", None);
    harness.create(1, Role::Admin);
    assert_eq!(harness.received(anonymous), ["bye revoked"]);
    assert!(harness.received(held).is_empty());
    assert_eq!(harness.code(poll), Code::Unauthenticated);
    // Nobody is created on sight any more.
    let (request, _) = harness.ask_to_listen("stranger", Listen::default());
    assert_eq!(harness.code(request), Code::UnknownDevice);
    harness.create(3, Role::Admin);
    assert!(harness.received(held).is_empty(), "the second closes nothing");
}

#[test]
fn a_stream_that_opens_while_the_first_admin_token_is_written_ends_too() {
    let mut harness = Harness::new();
    harness.put("kiosk");
    harness.disk_held = true;
    harness.ask_to_create(record(1, Role::Admin));
    let late = harness.listen("kiosk");
    harness.disk_held = false;
    harness.settle();
    assert_eq!(harness.received(late), ["bye revoked"]);
}

#[test]
fn revoking_a_token_ends_its_streams_and_polls_and_no_others() {
    let mut harness = Harness::new();
    harness.create(1, Role::Admin);
    harness.create(2, Role::Device(device("kiosk")));
    harness.create(3, Role::Device(device("till")));
    let (kiosk, till) = (harness.listen_as("kiosk", 2), harness.listen_as("till", 3));
    let (mine, other) =
        (harness.poll_as("kiosk", Some(id(2))), harness.poll_as("till", Some(id(3))));
    harness.send("kiosk");
    assert_eq!(harness.received(kiosk), ["command 1 #1"]);
    let _answered_with_the_command = harness.answer(mine);
    let mine = harness.poll_as("kiosk", Some(id(2)));
    assert!(matches!(harness.revoke(2), Answer::Done));
    assert_eq!(harness.received(kiosk), ["bye revoked"]);
    assert_eq!(harness.code(mine), Code::Unauthenticated);
    assert!(harness.received(till).is_empty() && !harness.is_answered(other));
    assert!(harness.access.contains(&AccessChange::Token(id(2))));
    assert!(!harness.online("kiosk") && harness.online("till"));
    // What it had been sent is sent again to its next stream.
    harness.create(4, Role::Device(device("kiosk")));
    let again = harness.listen_as("kiosk", 4);
    assert_eq!(harness.received(again), ["command 1 #2"]);
}

#[test]
fn two_tokens_of_a_device_work_side_by_side() {
    let mut harness = Harness::new();
    harness.create(2, Role::Device(device("kiosk")));
    harness.create(3, Role::Device(device("kiosk")));
    let stream = harness.listen_as("kiosk", 3);
    harness.revoke(2);
    assert!(harness.received(stream).is_empty());
}

#[test]
fn an_unknown_token_cannot_be_revoked_nor_the_last_admin_token() {
    let mut harness = Harness::new();
    let code = |answer| match answer {
        Answer::Problem(problem) => problem.code,
        answer => panic!("{answer:?}"),
    };
    assert_eq!(code(harness.revoke(9)), Code::NotFound);
    harness.create(1, Role::Admin);
    assert_eq!(code(harness.revoke(1)), Code::Conflict, "it would open the hub");
    harness.create(2, Role::Admin);
    assert!(matches!(harness.revoke(1), Answer::Done));
    assert_eq!(code(harness.revoke(1)), Code::NotFound);
    assert_eq!(code(harness.revoke(2)), Code::Conflict);
}

#[test]
fn a_stream_ends_when_its_token_expires() {
    let mut harness = Harness::new();
    let expires_at = Some(harness.now.wall.after(Duration::from_secs(60)));
    let streams = [("kiosk", 2, true), ("panel", 3, false)].map(|(who, n, own)| {
        let token = Some(TokenUse { id: id(n), expires_at, own });
        harness.listen_with(who, Listen { token, ..Listen::default() })
    });
    harness.pass(59.0);
    assert!(streams.iter().all(|stream| harness.received(*stream).is_empty()));
    harness.pass(1.5);
    assert!(streams.iter().all(|stream| harness.received(*stream) == ["bye revoked"]));
    assert_eq!(harness.hub.footprint().tokens, 0);
}

/// A clock that was set back by a day kept what it had opened alive for that day.
#[test]
fn a_stream_ends_in_its_time_though_the_wall_clock_is_set_back() {
    for step_s in [-86_400, 30] {
        let mut harness = Harness::new();
        let expires_at = Some(harness.now.wall.after(Duration::from_secs(60)));
        let token = Some(TokenUse { id: id(2), expires_at, own: true });
        let stream = harness.listen_with("kiosk", Listen { token, ..Listen::default() });
        harness.step_wall_clock(step_s);
        harness.pass(if step_s < 0 { 59.0 } else { 29.0 });
        assert!(harness.received(stream).is_empty(), "too early, after {step_s} s");
        harness.pass(1.5);
        assert_eq!(harness.received(stream), ["bye revoked"], "after {step_s} s");
    }
}

#[test]
fn a_device_token_registers_its_device() {
    let mut harness = Harness::new();
    harness.create(1, Role::Admin);
    harness.create(2, Role::Device(device("kiosk")));
    harness.listen_as("kiosk", 2);
    assert!(harness.online("kiosk"));
}

#[test]
fn an_enrolment_registers_the_device_with_the_labels_of_its_join_token() {
    let mut harness = Harness::new();
    harness.create(1, Role::Admin);
    harness.create(2, join(Some(2), false, false));
    assert_eq!(harness.enroll(2, "kiosk", 3), Ok(false));
    let row = &harness.store.disk.devices[&device("kiosk")];
    assert_eq!(row.labels["site"], "lyon");
    assert_eq!(row.facts.as_str(), r#"{"os":"deb12"}"#);
    assert!(!row.pending);
    let token = &harness.store.disk.tokens[&id(3)];
    assert_eq!(token.role, Role::Device(device("kiosk")));
    assert_eq!(token.created_by.as_deref(), Some(id(2).as_str()));
    assert_eq!(harness.uses_left(2), Some(1));
}

#[test]
fn a_join_token_is_used_as_often_as_it_says_and_no_more() {
    let mut harness = Harness::new();
    harness.create(2, join(Some(2), false, false));
    harness.disk_held = true;
    let requests =
        [("a", 11), ("b", 12), ("c", 13)].map(|(who, n)| harness.ask_to_enroll(2, who, n));
    harness.disk_held = false;
    harness.settle();
    let answers = requests.map(|request| harness.answer(request));
    assert!(matches!(answers[0], Answer::Enrolled { .. }), "{answers:?}");
    assert!(matches!(answers[1], Answer::Enrolled { .. }), "{answers:?}");
    assert!(matches!(&answers[2], Answer::Problem(p) if p.code == Code::Unauthenticated));
    assert_eq!(harness.uses_left(2), Some(0));
    harness.restart();
    assert_eq!(harness.enroll(2, "d", 14), Err(Code::Unauthenticated));
}

#[test]
fn an_enrolment_that_is_refused_or_lost_in_a_crash_takes_no_use() {
    let mut harness = Harness::new();
    harness.create(2, join(Some(1), false, false));
    harness.put("taken");
    assert_eq!(harness.enroll(2, "taken", 3), Err(Code::Conflict));
    harness.disk_held = true;
    harness.ask_to_enroll(2, "lost", 4);
    harness.restart();
    harness.disk_held = false;
    assert_eq!(harness.uses_left(2), Some(1));
    assert_eq!(harness.enroll(2, "kiosk", 5), Ok(false));
}

#[test]
fn only_a_join_token_that_works_enrols() {
    let mut harness = Harness::new();
    harness.create(1, Role::Admin);
    harness.create(2, join(None, false, false));
    let mut expired = record(3, join(None, false, false));
    expired.expires_at = Some(harness.now.wall);
    harness.ask_to_create(expired);
    for (with, why) in [(1, "an admin's"), (3, "expired"), (9, "unknown")] {
        assert_eq!(harness.enroll(with, "kiosk", 20), Err(Code::Unauthenticated), "{why}");
    }
    harness.revoke(2);
    assert_eq!(harness.enroll(2, "kiosk", 20), Err(Code::Unauthenticated), "revoked");
}

#[test]
fn a_token_that_says_replace_takes_a_name_over_with_all_that_was_its() {
    let mut harness = Harness::new();
    harness.create(2, join(None, true, false));
    harness.enroll(2, "kiosk", 3).unwrap();
    let old = harness.listen_as("kiosk", 3);
    assert_eq!(harness.enroll(2, "kiosk", 4), Ok(false));
    assert_eq!(harness.received(old), ["bye revoked"]);
    assert!(!harness.store.disk.tokens.contains_key(&id(3)));
    assert!(harness.access.contains(&AccessChange::Device(device("kiosk"))));
    let new = harness.listen_as("kiosk", 4);
    assert!(harness.received(new).is_empty());
}

#[test]
fn a_device_that_must_be_approved_is_pending_until_then() {
    let mut harness = Harness::new();
    harness.create(2, join(None, false, true));
    assert_eq!(harness.enroll(2, "kiosk", 3), Ok(true));
    assert!(harness.store.disk.devices[&device("kiosk")].pending);
    for _ in 0..2 {
        let request = harness.request();
        harness.hub.handle_approve(request, device("kiosk"), harness.now);
        harness.settle();
        assert!(matches!(harness.answer(request), Answer::Device { created: false }));
    }
    assert!(!harness.store.disk.devices[&device("kiosk")].pending);
    let request = harness.request();
    harness.hub.handle_approve(request, device("nobody"), harness.now);
    harness.settle();
    assert_eq!(harness.code(request), Code::UnknownDevice);
}

#[test]
fn a_device_that_is_removed_loses_its_tokens() {
    let mut harness = Harness::new();
    harness.create(2, Role::Device(device("kiosk")));
    let stream = harness.listen_as("kiosk", 2);
    assert!(matches!(harness.delete("kiosk"), Answer::Done));
    assert_eq!(harness.received(stream), ["bye revoked"]);
    assert!(harness.store.disk.tokens.is_empty());
    assert!(harness.access.contains(&AccessChange::Device(device("kiosk"))));
}

#[test]
fn two_agents_that_take_the_stream_from_each_other_are_a_conflict_until_it_is_quiet() {
    let mut harness = Harness::new();
    let changed = |harness: &Harness| {
        let changed = |event: &&HubEvent| {
            matches!(event, HubEvent::Device { change: DeviceChange::Changed, .. })
        };
        harness.events.iter().filter(changed).count()
    };
    let conflict = |harness: &Harness| harness.hub.presence(&device("kiosk"), harness.now).conflict;
    for _ in 0..=CONFLICT_REPLACED_MAX {
        harness.listen("kiosk");
        harness.pass(20.0);
    }
    assert!(!conflict(&harness), "five were replaced");
    harness.listen("kiosk");
    assert!(conflict(&harness) && changed(&harness) == 1);
    harness.pass(CONFLICT_WINDOW.as_secs_f64() - 1.0);
    assert!(conflict(&harness));
    harness.pass(2.0);
    assert!(!conflict(&harness) && changed(&harness) == 2);
}

/// It was forgotten with the last stream, and the device shown as active at once.
#[test]
fn a_conflict_lasts_ten_quiet_minutes_though_both_agents_are_gone() {
    let mut harness = Harness::new();
    let conflict = |harness: &Harness| harness.hub.presence(&device("kiosk"), harness.now).conflict;
    let mut last = harness.listen("kiosk");
    for _ in 0..=CONFLICT_REPLACED_MAX {
        last = harness.listen("kiosk");
    }
    assert!(conflict(&harness));
    harness.close(last);
    harness.pass(CONFLICT_WINDOW.as_secs_f64() - 60.0);
    assert!(!harness.online("kiosk") && conflict(&harness));
    harness.pass(120.0);
    assert!(!conflict(&harness));
    assert_eq!(harness.hub.footprint().devices, 0, "it is forgotten then");
}

#[test]
fn what_is_remembered_of_a_device_is_forgotten_when_its_labels_change() {
    let mut harness = Harness::new();
    harness.put("kiosk");
    assert_eq!(harness.access, [AccessChange::Device(device("kiosk"))]);
}
