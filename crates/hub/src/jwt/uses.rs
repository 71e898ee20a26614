//! Which JWTs have streams or wait, and by which key they were verified: they end with it. One is remembered until it expires,
//! because the end of its streams is not reported here.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bellwire_proto::limits::JWT_USES_MAX;
use bellwire_proto::{Timestamp, TokenId};

use super::keys::KeyTag;

#[derive(Debug, Default)]
pub(super) struct Uses(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    by_id: HashMap<TokenId, (KeyTag, Timestamp)>,
    /// At how many the expired ones are looked for.
    sweep_at: usize,
}

/// Fewer are not worth a walk over all of them.
const SWEEP_MIN: usize = 1024;

impl Uses {
    /// Remembers one; false when there is no space for it.
    pub(super) fn note(
        &self,
        id: TokenId,
        key: KeyTag,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> bool {
        let mut entries = self.entries();
        let full = entries.by_id.len() >= entries.sweep_at.clamp(SWEEP_MIN, JWT_USES_MAX);
        if full && !entries.by_id.contains_key(&id) {
            entries.by_id.retain(|_, (_, expires_at)| *expires_at > now);
            entries.sweep_at = entries.by_id.len() * 2;
            if entries.by_id.len() >= JWT_USES_MAX {
                return false;
            }
        }
        entries.by_id.insert(id, (key, expires_at));
        true
    }

    /// Forgets those of these keys, and gives them.
    pub(super) fn take(&self, keys: &[KeyTag]) -> Vec<TokenId> {
        let mut taken = Vec::new();
        self.entries().by_id.retain(|id, (key, _)| {
            let ends = keys.contains(key);
            if ends {
                taken.push(*id);
            }
            !ends
        });
        taken
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> TokenId {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&(n as u64).to_le_bytes());
        TokenId::from_random(random)
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    #[test]
    fn those_of_a_key_are_given_once_and_those_of_others_stay() {
        let uses = Uses::default();
        let (a, b) = (KeyTag::of_test(1), KeyTag::of_test(2));
        assert!(uses.note(id(1), a, at(10), at(0)) && uses.note(id(2), b, at(10), at(0)));
        assert!(uses.note(id(1), a, at(10), at(0)), "again");
        assert_eq!(uses.take(&[a]), [id(1)]);
        assert_eq!(uses.take(&[a]), []);
        assert_eq!(uses.take(&[a, b]), [id(2)]);
    }

    #[test]
    fn they_are_bounded_and_what_has_expired_makes_space() {
        let uses = Uses::default();
        let key = KeyTag::of_test(1);
        assert!((0..JWT_USES_MAX).all(|n| uses.note(id(n), key, at(10), at(0))));
        assert!(!uses.note(id(JWT_USES_MAX), key, at(10), at(9)), "one more");
        assert!(uses.note(id(0), key, at(20), at(9)), "one that is known");
        assert!(uses.note(id(JWT_USES_MAX), key, at(20), at(10)));
        assert_eq!(uses.take(&[key]).len(), 2);
    }
}
