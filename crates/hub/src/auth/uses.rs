//! When tokens were last used, to the minute: noted at once, and written for many tokens together.
//!
//! A fleet that connects uses thousands of tokens within a second. A transaction for each would cost more than all else that
//! a token costs a request, for a time of which nothing is promised: it may be lost in a crash. It is written some seconds later, before
//! tokens are shown, and when the hub drains.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bellwire_proto::{Timestamp, TokenId};
use tokio::sync::Notify;

/// Uses that wait at most: 100 KiB. The more are written together, the more of them are in the same page of the store.
const WAITING_MAX: usize = 4096;
/// Uses in one transaction, at most: the writer of the store is busy with them for a millisecond.
const WRITTEN_AT_ONCE_MAX: usize = 512;
/// How long a use may wait to be written.
pub(crate) const USES_WRITTEN_AFTER: Duration = Duration::from_secs(5);

/// The uses that have yet to be written.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    noted: Mutex<Vec<(TokenId, u64)>>,
    /// Wakes the task that writes them.
    noting: Arc<Notify>,
}

/// Transactions, each with tokens and when they were used.
pub(crate) type Written = Vec<Vec<(TokenId, Timestamp)>>;

impl Uses {
    /// A token was used in this minute since the epoch. Gives what is to be written now, since no more of them may wait.
    pub(super) fn note(&self, token: TokenId, minute: u64) -> Written {
        let mut noted = self.noted();
        noted.push((token, minute));
        if noted.len() == 1 {
            self.noting.notify_one();
        }
        if noted.len() < WAITING_MAX {
            return Vec::new();
        }
        let full = std::mem::take(&mut *noted);
        drop(noted);
        to_write(full)
    }

    /// All that waits.
    pub(crate) fn take(&self) -> Written {
        let noted = std::mem::take(&mut *self.noted());
        to_write(noted)
    }

    /// Notified when the first is noted of those that wait.
    pub(crate) fn noting(&self) -> Arc<Notify> {
        self.noting.clone()
    }

    fn noted(&self) -> MutexGuard<'_, Vec<(TokenId, u64)>> {
        // Nothing panics while it is held.
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The latest use of each, in the order of the table, so that rows of one page are written together.
fn to_write(mut noted: Vec<(TokenId, u64)>) -> Written {
    noted.sort_unstable_by(|(a, a_minute), (b, b_minute)| a.cmp(b).then(b_minute.cmp(a_minute)));
    noted.dedup_by_key(|(token, _)| *token);
    let at = |&(token, minute): &_| (token, Timestamp::from_unix_ms(minute * 60_000));
    noted.chunks(WRITTEN_AT_ONCE_MAX).map(|part| part.iter().map(at).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(n: usize) -> TokenId {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&n.to_be_bytes());
        TokenId::from_random(random)
    }

    #[test]
    fn uses_wait_to_be_written_together_and_no_more_of_them_than_may() {
        let uses = Uses::default();
        for n in 1..WAITING_MAX {
            assert!(uses.note(token(n), 1).is_empty(), "{n}");
        }
        let written = uses.note(token(WAITING_MAX), 1);
        assert!(written.iter().all(|part| part.len() <= WRITTEN_AT_ONCE_MAX));
        let written: Vec<TokenId> = written.concat().iter().map(|(token, _)| *token).collect();
        assert_eq!((written.len(), written.is_sorted()), (WAITING_MAX, true));
        assert!(uses.take().is_empty(), "each once");
        assert!(uses.note(token(1), 2).is_empty());
        assert_eq!(uses.take().concat().len(), 1);
    }

    #[test]
    fn of_several_uses_of_a_token_the_latest_is_written() {
        let uses = Uses::default();
        for (n, minute) in [(2, 7), (1, 5), (2, 8), (1, 4)] {
            assert!(uses.note(token(n), minute).is_empty());
        }
        let minutes = |n: u64| Timestamp::from_unix_ms(n * 60_000);
        assert_eq!(uses.take().concat(), [(token(1), minutes(5)), (token(2), minutes(8))]);
    }
}
