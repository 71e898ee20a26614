//! Entries of the audit log that were committed together, as the bytes of one row.
//!
//! Who, from where, what and how it ended are the same in most entries of a busy hub: what an entry shares with the one
//! before it is left out, and a send takes some 30 bytes.
//!
//! The format is that of `docs/store.md`, "The audit log": a byte with its version, then the entries. A number is written in
//! base 128, the lowest seven bits first (LEB128); a text is its length and its UTF-8.

use bellwire_core::record::AuditRecord;
use bellwire_proto::{
    Actor, AuditEntry, AuditObject, Code, CommandId, RoleName, ScheduleId, Timestamp,
};

/// Entries of one block at most. A reader of one entry decodes as many.
pub(super) const BLOCK_ENTRIES_MAX: u64 = 256;
/// How far the times of a block's entries may be apart, in milliseconds: it is deleted as a whole.
const BLOCK_SPAN_MS: u64 = 1000;

/// The first byte: the version of this encoding.
const V1: u8 = 1;

/// Which parts of an entry follow, in this order. The others are absent.
mod part {
    /// `ACTOR` to `CODE`, verb and status are those of the entry before: none of them follows.
    pub(super) const REPEATED: u64 = 1;
    pub(super) const DEVICE: u64 = 1 << 1;
    pub(super) const COMMAND: u64 = 1 << 2;
    pub(super) const TOKEN: u64 = 1 << 3;
    pub(super) const COUNT: u64 = 1 << 4;
    pub(super) const ACTOR: u64 = 1 << 5;
    pub(super) const ROLE: u64 = 1 << 6;
    pub(super) const ADDRESS: u64 = 1 << 7;
    pub(super) const ACTION: u64 = 1 << 8;
    pub(super) const CODE: u64 = 1 << 9;
    pub(super) const SCHEDULE: u64 = 1 << 10;
}

/// A block that fills up.
#[derive(Debug, Default)]
pub(super) struct Block {
    bytes: Vec<u8>,
    entries: u64,
    first_at_ms: u64,
    last_at_ms: u64,
    /// The last entry that was written in full.
    full: Option<AuditRecord>,
}

impl Block {
    /// Adds an entry, if it fits.
    pub(super) fn push(&mut self, record: &AuditRecord) -> bool {
        let at_ms = record.at.unix_ms();
        if self.entries == 0 {
            self.bytes.push(V1);
            self.first_at_ms = at_ms;
        } else if self.entries >= BLOCK_ENTRIES_MAX
            || at_ms.abs_diff(self.first_at_ms) > BLOCK_SPAN_MS
        {
            return false;
        }
        let AuditRecord { actor, address, object, code, count, .. } = record;
        let repeated = self.full.as_ref().is_some_and(|full| repeats(full, record));
        let given = |bit, is_there: bool| if is_there { bit } else { 0 };
        let mut parts = given(part::DEVICE, object.device.is_some())
            | given(part::COMMAND, object.command.is_some())
            | given(part::TOKEN, object.token.is_some())
            | given(part::SCHEDULE, object.schedule.is_some())
            | given(part::COUNT, *count != 1);
        parts |= if repeated {
            part::REPEATED
        } else {
            given(part::ACTOR, actor.token.is_some())
                | given(part::ROLE, actor.role.is_some())
                | given(part::ADDRESS, address.is_some())
                | given(part::ACTION, object.action.is_some())
                | given(part::CODE, code.is_some())
        };
        let out = &mut self.bytes;
        put_number(out, parts);
        // From the entry before; after a step backwards it wraps around.
        put_number(out, at_ms.wrapping_sub(self.last_at_ms));
        self.last_at_ms = at_ms;
        if let Some(device) = &object.device {
            put_text(out, device.as_str());
        }
        if let Some(command) = object.command {
            out.extend_from_slice(&command.to_bytes());
        }
        if let Some(token) = object.token {
            put_text(out, token.as_str());
        }
        if let Some(schedule) = object.schedule {
            out.extend_from_slice(&schedule.to_bytes());
        }
        if *count != 1 {
            put_number(out, *count);
        }
        if !repeated {
            self.put_repeatable(record);
            self.full = Some(record.clone());
        }
        self.entries += 1;
        true
    }

    fn put_repeatable(&mut self, record: &AuditRecord) {
        let AuditRecord { actor, address, verb, object, status, code, .. } = record;
        let address = address.map(|address| address.to_string());
        let out = &mut self.bytes;
        let texts = [
            actor.token.as_deref(),
            actor.role.map(RoleName::as_str),
            address.as_deref(),
            object.action.as_ref().map(|action| action.as_str()),
            code.map(Code::as_str),
            Some(verb),
        ];
        texts.into_iter().flatten().for_each(|text| put_text(out, text));
        put_number(out, u64::from(*status));
    }

    /// How many entries it has.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// The time of its first entry.
    pub(super) fn first_at(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.first_at_ms)
    }

    /// What is written of it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Begins the next one, in the same memory.
    pub(super) fn clear(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        *self = Self { bytes, ..Self::default() };
    }
}

/// Whether all that an entry may share with one before it is the same.
fn repeats(full: &AuditRecord, record: &AuditRecord) -> bool {
    full.actor == record.actor
        && full.address == record.address
        && full.verb == record.verb
        && full.object.action == record.object.action
        && full.status == record.status
        && full.code == record.code
}

/// A block that is read. Ends with an error when the bytes are not of this format.
#[derive(Debug)]
pub(super) struct Entries<'a> {
    bytes: &'a [u8],
    next_id: u64,
    at_ms: u64,
    /// The last entry that was written in full.
    full: Option<AuditEntry>,
}

/// The bytes of a block are damaged, or of a newer program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a row of the audit log is damaged")]
pub(super) struct Damaged;

impl<'a> Entries<'a> {
    /// The entries of a block whose first has this id.
    pub(super) fn of(block: &'a [u8], first: u64) -> Result<Self, Damaged> {
        match block.split_first() {
            Some((&V1, bytes)) => Ok(Self { bytes, next_id: first, at_ms: 0, full: None }),
            _ => Err(Damaged),
        }
    }

    fn read(&mut self) -> Option<AuditEntry> {
        let parts = self.number()?;
        let has = |bit| parts & bit != 0;
        self.at_ms = self.at_ms.wrapping_add(self.number()?);
        let (at, id) = (Timestamp::from_unix_ms(self.at_ms), self.next_id);
        let device = if has(part::DEVICE) { Some(self.text()?.parse().ok()?) } else { None };
        let command = if has(part::COMMAND) { Some(self.id()?) } else { None };
        let token = if has(part::TOKEN) { Some(self.text()?.parse().ok()?) } else { None };
        let schedule = if has(part::SCHEDULE) { Some(self.id()?) } else { None };
        let count = if has(part::COUNT) { self.number()? } else { 1 };
        if !has(part::REPEATED) {
            self.full = Some(self.repeatable(parts)?);
        }
        self.next_id = self.next_id.saturating_add(1);
        let mut entry = self.full.clone()?;
        (entry.id, entry.at, entry.count) = (id, at, count);
        let (command, schedule) =
            (command.map(CommandId::from_bytes), schedule.map(ScheduleId::from_bytes));
        entry.object = AuditObject { device, command, token, schedule, ..entry.object };
        Some(entry)
    }

    /// What an entry may share with later ones.
    fn repeatable(&mut self, parts: u64) -> Option<AuditEntry> {
        let mut text = |bit| if parts & bit != 0 { self.text().map(Some) } else { Some(None) };
        let token = text(part::ACTOR)?.map(str::to_owned);
        let role = text(part::ROLE)?;
        let address = text(part::ADDRESS)?.map(str::to_owned);
        let action = text(part::ACTION)?;
        let code = text(part::CODE)?;
        let verb = self.text()?.to_owned();
        let status = u16::try_from(self.number()?).ok()?;
        let role_named = |name: &str| RoleName::ALL.into_iter().find(|role| role.as_str() == name);
        let code_named = |name: &str| Code::ALL.iter().copied().find(|code| code.as_str() == name);
        Some(AuditEntry {
            id: 0,
            at: Timestamp::from_unix_ms(0),
            actor: Actor { token, role: role.and_then(role_named) },
            address,
            verb,
            object: AuditObject {
                action: action.map(|name| name.parse().ok()).unwrap_or_default(),
                ..AuditObject::default()
            },
            status,
            code: code.and_then(code_named),
            count: 1,
        })
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let (&byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        std::str::from_utf8(text).ok()
    }

    fn id(&mut self) -> Option<[u8; 16]> {
        let (bytes, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*bytes)
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<AuditEntry, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let read = self.read().ok_or(Damaged);
        if read.is_err() {
            self.bytes = &[];
        }
        Some(read)
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn record(at_ms: u64) -> AuditRecord {
        AuditRecord {
            at: Timestamp::from_unix_ms(at_ms),
            actor: Arc::new(Actor {
                token: Some("jwt:ada\t\"é".to_owned()),
                role: Some(RoleName::Operator),
            }),
            address: Some("2001:db8::7".parse().unwrap()),
            verb: "send",
            object: AuditObject {
                device: Some("kiosk-7".parse().unwrap()),
                command: Some(CommandId::from_parts(at_ms, [7; 10])),
                action: Some("ping".parse().unwrap()),
                ..AuditObject::default()
            },
            status: 202,
            code: None,
            count: 1,
            refusal: None,
        }
    }

    fn expected(record: &AuditRecord, id: u64) -> AuditEntry {
        let AuditRecord { at, actor, address, verb, object, status, code, count, .. } =
            record.clone();
        let (actor, address) = ((*actor).clone(), address.map(|address| address.to_string()));
        AuditEntry { id, at, actor, address, verb: verb.to_owned(), object, status, code, count }
    }

    #[test]
    fn entries_are_read_as_they_were_written_and_what_repeats_is_written_once() {
        let mut block = Block::default();
        let mut other = record(1_900_000_000_001);
        (other.actor, other.address, other.object) = Default::default();
        (other.code, other.count, other.status) = (Some(Code::NotFound), u64::MAX, 404);
        other.object.token = Some(bellwire_proto::TokenId::from_random([3; 10]));
        other.object.schedule = Some(ScheduleId::from_parts(9, [9; 10]));
        // The third is of a clock that was set back.
        let records = [record(1_900_000_000_000), other, record(1_899_999_999_999)];
        let records = [&records[..], &vec![record(1_900_000_000_002); 100]].concat();
        assert!(records.iter().all(|record| block.push(record)));
        let read: Vec<_> =
            Entries::of(block.bytes(), 7).unwrap().collect::<Result<_, _>>().unwrap();
        let all = records.iter().zip(7..).map(|(record, id)| expected(record, id));
        assert_eq!(read, all.collect::<Vec<_>>());
        let before = block.bytes().len();
        assert!(block.push(&record(1_900_000_000_002)));
        assert_eq!(block.bytes().len() - before, 1 + 1 + 8 + 16, "parts, time, device, command");
    }

    #[test]
    fn a_block_is_bounded_in_entries_and_in_time() {
        let mut block = Block::default();
        assert!((0..BLOCK_ENTRIES_MAX).all(|_| block.push(&record(5_000))));
        assert!(!block.push(&record(5_000)));
        block.clear();
        assert!(block.push(&record(5_000)) && block.push(&record(4_000)));
        assert!(!block.push(&record(6_001)) && !block.push(&record(3_999)));
        assert_eq!((block.entries(), block.first_at().unix_ms()), (2, 5_000));
    }

    #[test]
    fn damaged_bytes_are_an_error_and_no_panic() {
        let mut block = Block::default();
        assert!(block.push(&record(1)));
        let first = block.bytes().len();
        assert!(block.push(&record(2)));
        let whole = block.bytes();
        for length in 0..whole.len() {
            let read = Entries::of(&whole[..length], 1);
            let entries: Result<Vec<_>, _> = read.and_then(Iterator::collect);
            assert_eq!(entries.is_ok(), [1, first].contains(&length), "{length} bytes");
        }
        for at in 0..whole.len() {
            for value in [0, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.to_vec();
                bytes[at] = value;
                let _any = Entries::of(&bytes, u64::MAX - 1).map(|entries| entries.count());
            }
        }
    }
}
