//! Cursors that name a device which the reader must not see: encrypted.
//!
//! A page for a reader who sees a part of the fleet ends with a device that is there for the reader, if it has one. A search
//! that looked at as many rows as it may and found none can only go on from a row of others: its cursor is sealed with a
//! key of this store, so that nothing can be read from it, its length included. The key is in the table `meta`, for a
//! client may hold a cursor over a restart.

use bellwire_proto::limits::DEVICE_CHARS_MAX;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::store::{BadCursor, Cursor};

/// The parts of the key: a column of numbers holds 64 bits of it.
const KEYS: [&str; 4] = ["cursor_key_0", "cursor_key_1", "cursor_key_2", "cursor_key_3"];

/// Characters that are sealed: a cursor with the longest name of a device, its kind and its position, as base64.
const SEALED_CHARS: usize = (1 + 8 + DEVICE_CHARS_MAX).div_ceil(3) * 4;

pub(super) struct Seal(LessSafeKey);

impl Seal {
    /// The key of this store, made when there is none. To be called before anything else writes.
    pub(super) fn of(connection: &Connection) -> Result<Self> {
        let mut key = [0; 32];
        // All parts of it, or none.
        let transaction = connection.unchecked_transaction()?;
        for (name, bytes) in KEYS.into_iter().zip(key.chunks_exact_mut(8)) {
            let found: Option<i64> = connection
                .query_row("SELECT value FROM meta WHERE key = ?1", [name], |row| row.get(0))
                .optional()?;
            let part = match found {
                Some(part) => part,
                None => {
                    let part = random().map_err(to_sqlite)?;
                    let part = i64::from_ne_bytes(part);
                    connection.execute("INSERT INTO meta VALUES (?1, ?2)", params![name, part])?;
                    part
                }
            };
            bytes.copy_from_slice(&part.to_be_bytes());
        }
        transaction.commit()?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, &key);
        key.map(|key| Self(LessSafeKey::new(key))).map_err(to_sqlite)
    }

    /// The same cursor, of which nothing can be read. Without randomness there is none, and the list ends.
    pub(super) fn seal(&self, cursor: &Cursor) -> Option<Cursor> {
        let nonce: [u8; NONCE_LEN] = random().ok()?;
        // All are of one length: the text, and zeros, which no cursor has.
        let mut sealed = cursor.to_string().into_bytes();
        sealed.resize(SEALED_CHARS.max(sealed.len()), 0);
        let key = Nonce::assume_unique_for_key(nonce);
        self.0.seal_in_place_append_tag(key, Aad::empty(), &mut sealed).ok()?;
        Some(Cursor::sealed([&nonce[..], &sealed].concat()))
    }

    /// The cursor that was sealed, or this one if it is not.
    ///
    /// # Errors
    /// When it was sealed by another store, or made up.
    pub(super) fn open(&self, cursor: Cursor) -> std::result::Result<Cursor, BadCursor> {
        let Some(bytes) = cursor.as_sealed() else { return Ok(cursor) };
        let (nonce, sealed) = bytes.split_first_chunk().ok_or(BadCursor)?;
        let (nonce, mut sealed) = (Nonce::assume_unique_for_key(*nonce), sealed.to_vec());
        let text = self.0.open_in_place(nonce, Aad::empty(), &mut sealed).map_err(|_| BadCursor)?;
        let text = std::str::from_utf8(text).map_err(|_| BadCursor)?;
        text.trim_end_matches('\0').parse()
    }
}

fn random<const N: usize>() -> std::result::Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// The machine has no randomness: opening fails as it does when the disk does.
fn to_sqlite(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

#[cfg(test)]
mod tests {
    use bellwire_proto::device::SortKey;

    use super::*;
    use crate::store::DevicePosition;

    fn store() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        let meta = "CREATE TABLE meta (key TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL)";
        connection.execute_batch(meta).unwrap();
        connection
    }

    #[test]
    fn a_sealed_cursor_shows_neither_the_name_nor_its_length_and_lives_as_long_as_the_store() {
        let store = store();
        let seal = Seal::of(&store).unwrap();
        let named = |name: &str| Cursor::after_device(name.parse().unwrap());
        let position =
            DevicePosition { device: "b".repeat(128).parse().unwrap(), value: 1_700_000_000_000 };
        let cursors = [
            named("a"),
            named(&"b".repeat(128)),
            Cursor::after_position(SortKey::LastSeen, position),
        ];
        let text = |cursor| seal.seal(cursor).unwrap().to_string();
        let [short, ..] = &cursors;
        assert_ne!(text(short), text(short), "it does not distinguish two devices either");
        for cursor in &cursors {
            assert_eq!(text(cursor).len(), text(short).len());
            let sealed: Cursor = text(cursor).parse().unwrap();
            assert!(sealed.device().is_err(), "it cannot be read without the key");
            assert_eq!(seal.open(sealed.clone()).as_ref(), Ok(cursor));
            assert_eq!(Seal::of(&store).unwrap().open(sealed).as_ref(), Ok(cursor));
            assert_eq!(seal.open(cursor.clone()).as_ref(), Ok(cursor), "one that is not sealed");
        }
    }

    #[test]
    fn a_sealed_cursor_of_another_store_or_one_that_was_made_up_is_refused() {
        let (seal, other) = (Seal::of(&store()).unwrap(), Seal::of(&store()).unwrap());
        let cursor = other.seal(&Cursor::after_device("a".parse().unwrap())).unwrap();
        assert_eq!(seal.open(cursor), Err(BadCursor));
        for length in [0, 1, 12, 13, 28, 156] {
            assert_eq!(seal.open(Cursor::sealed(vec![7; length])), Err(BadCursor));
        }
    }
}
