//! The audit log: an entry is on disk with the change that it names, or neither is. Contract, section 6, "Audit".

use bellwire_core::record::AuditRecord;
use bellwire_core::{Answer, RequestId};
use bellwire_proto::{AuditObject, Timestamp};

use crate::harness::{Harness, device};

fn entry(verb: &'static str) -> AuditRecord {
    AuditRecord {
        at: Timestamp::from_unix_ms(0),
        actor: Default::default(),
        address: None,
        verb,
        object: AuditObject::default(),
        status: 200,
        code: None,
        count: 1,
        refusal: None,
    }
}

impl Harness {
    fn logged(&self) -> Vec<(&'static str, u16)> {
        self.store.disk.audit.iter().map(|row| (row.verb, row.status)).collect()
    }

    fn audited(&mut self, verb: &'static str) -> RequestId {
        let request = self.request();
        self.hub.audit(request, entry(verb));
        request
    }
}

#[test]
fn an_entry_is_in_the_transaction_of_its_change_and_a_refusal_or_a_repetition_leaves_none() {
    let mut h = Harness::new();
    let request = h.audited("device.put");
    h.hub.handle_put_device(request, device("d"), Default::default(), h.now);
    h.settle();
    assert_eq!(h.logged(), [("device.put", 201)], "what was created is 201");
    let request = h.audited("device.approve");
    h.hub.handle_approve(request, device("stranger"), h.now);
    h.settle();
    assert!(matches!(h.answer(request), Answer::Problem(_)));
    let request = h.audited("device.delete");
    h.hub.handle_delete_device(request, device("d"), h.now);
    h.settle();
    assert_eq!(h.logged(), [("device.put", 201), ("device.delete", 200)]);
    assert_eq!(h.hub.footprint().audits, 0, "nothing remains of what was refused");
}

#[test]
fn a_command_is_logged_when_it_is_stored_and_not_when_its_sender_is_answered() {
    let mut h = Harness::new();
    let request = RequestId(900_001);
    h.hub.audit(request, entry("send"));
    let mut send = bellwire_core::Send::new(
        device("d"),
        "ping".parse().unwrap(),
        bellwire_proto::Json::null(),
    );
    send.wait = bellwire_proto::Seconds::new(30);
    h.hub.handle_send(request, send, [7; 10], h.now);
    h.settle();
    assert!(!h.is_answered(request), "it waits for the end");
    assert_eq!(h.logged(), [("send", 200)]);
    assert!(h.store.disk.audit[0].object.command.is_some());
    h.hub.handle_abandoned(request, h.now);
    h.settle();
    assert_eq!(h.hub.footprint().audits, 0);
}
