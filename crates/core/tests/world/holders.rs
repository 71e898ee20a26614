//! Operators who make and revoke tokens, and appliances that enrol with them.

use bellwire_core::record::TokenRecord;
use bellwire_core::{Answer, Enrolment};
use bellwire_proto::{DeviceId, Join, Labels, Role, Timestamp, TokenId};

use super::judge::Requested;
use super::{Input, Owner, World};

/// A token that the hub has answered, or was requested to make.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    pub(crate) token: TokenId,
    role: Role,
}

impl Holder {
    pub(crate) fn role(&self) -> &Role {
        &self.role
    }
}

impl World {
    pub(super) fn acts_on_tokens(&mut self, index: usize) {
        match self.random.from(0, 9) {
            0..3 => self.makes_token(index),
            3..8 => self.enrols(index),
            8 => self.revokes(index),
            _ => self.approves(index),
        }
    }

    /// Mostly join tokens with few uses, for which many compete.
    fn makes_token(&mut self, index: usize) {
        let mut role = Role::Join(Box::new(Join {
            labels: Labels::from([("site".to_owned(), "lyon".to_owned())]),
            uses_left: self.random.pick(&[None, Some(1), Some(2), Some(5)]),
            replace: self.random.percent(40),
            approve: self.random.percent(20),
        }));
        match self.random.from(0, 9) {
            0 => role = Role::Operator(Box::default()),
            1 | 2 => role = Role::Device(self.enrolling_device()),
            3 if self.profile.closes => role = Role::Admin,
            _ => {}
        }
        let expires_at = self.random.percent(20).then(|| {
            let ms = self.random.from(1000, 60_000);
            Timestamp::from_unix_ms(self.clock().wall.unix_ms() + ms)
        });
        let record = TokenRecord {
            id: TokenId::from_random(self.random.bytes()),
            digest: [7; 32],
            role: role.clone(),
            expires_at,
            note: None,
            created_at: self.clock().wall,
            created_by: None,
            last_used_at: None,
        };
        self.holders.push(Holder { token: record.id, role });
        let requested = Requested::MakeToken(Box::new(record.clone()));
        self.request(Owner::Client(index), requested, |request| {
            Input::CreateToken(request, Box::new(record))
        });
    }

    fn enrols(&mut self, index: usize) {
        let joins = self.holders.iter().filter(|holder| matches!(holder.role, Role::Join(_)));
        let joins: Vec<TokenId> = joins.map(|holder| holder.token).collect();
        if joins.is_empty() {
            return;
        }
        let join = joins[self.random.index(joins.len())];
        // Several at once, for the last use.
        for _ in 0..self.random.from(1, 3) {
            let enrolment = Enrolment {
                join,
                device: self.enrolling_device(),
                facts: None,
                token: TokenId::from_random(self.random.bytes()),
                digest: [9; 32],
            };
            let requested = self.judge.enrolling(join, enrolment.token);
            self.request(Owner::Client(index), requested, |request| {
                Input::Enroll(request, Box::new(enrolment))
            });
        }
        if self.random.percent(30) {
            let at = self.clock().wall;
            self.reaches(Input::TokenUsed(join, at));
        }
    }

    fn revokes(&mut self, index: usize) {
        if self.holders.is_empty() {
            return;
        }
        let at = self.random.index(self.holders.len());
        let token = self.holders[at].token;
        self.request(Owner::Client(index), Requested::Revoke(token), |request| {
            Input::Revoke(request, token)
        });
    }

    fn approves(&mut self, index: usize) {
        let device = self.enrolling_device();
        self.request(Owner::Client(index), Requested::Approve, |request| {
            Input::Approve(request, device)
        });
    }

    /// Few names for all, and now and then that of a device that listens.
    fn enrolling_device(&mut self) -> DeviceId {
        if self.random.percent(20) {
            let index = self.random.index(self.devices.len());
            return self.devices[index].id.clone();
        }
        format!("new-{}", self.random.from(0, 5)).parse().unwrap()
    }

    /// The token with which a device listens: one that was made for it, if there is one.
    pub(super) fn token_of(&mut self, device: &DeviceId) -> Option<TokenId> {
        let of = |holder: &&Holder| holder.role.device() == Some(device);
        let tokens: Vec<TokenId> = self.holders.iter().filter(of).map(|h| h.token).collect();
        (!tokens.is_empty()).then(|| tokens[self.random.index(tokens.len())])
    }

    pub(super) fn reach_hub_with_token(&mut self, input: Input) {
        let now = self.clock();
        match input {
            Input::CreateToken(request, record) => {
                self.hub.handle_create_token(request, *record, now);
            }
            Input::Revoke(request, token) => self.hub.handle_revoke_token(request, token, now),
            Input::Enroll(request, enrolment) => self.hub.handle_enroll(request, *enrolment, now),
            Input::Approve(request, device) => self.hub.handle_approve(request, device, now),
            Input::TokenUsed(token, at) => self.hub.handle_tokens_used([(token, at)], now),
            Input::Schedule(request, op) => self.hub.handle_schedule(request, op, now),
            _ => {}
        }
    }
}

/// Whether an answer fits a request about tokens; what it promises is judged beside.
pub(crate) fn is_answer_about_tokens(requested: &Requested, answer: &Answer) -> bool {
    matches!(
        (requested, answer),
        (Requested::MakeToken(_) | Requested::Revoke(_), Answer::Done)
            | (Requested::Enroll { .. }, Answer::Enrolled { .. })
            | (Requested::Approve, Answer::Device { created: false })
    )
}
