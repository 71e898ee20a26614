//! The last events of each token, for listeners that reconnect with `Last-Event-ID`.
//!
//! Bounded three ways: the last [`EVENTS_MAX`] events of a token, [`TOKENS_MAX`] tokens, and
//! [`BYTES_MAX`] bytes in all. Beyond the last two, the history of the token that was written to
//! least recently is dropped; a single token beyond the bytes loses its oldest events.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bellwire_proto::limits::{
    CLASSIC_HISTORY_BYTES_MAX as BYTES_MAX, CLASSIC_HISTORY_EVENTS_MAX as EVENTS_MAX,
    CLASSIC_HISTORY_TOKENS_MAX as TOKENS_MAX,
};

use crate::plane::{Frame, Framing};

#[derive(Default)]
pub(super) struct History {
    tokens: HashMap<Arc<[u8]>, VecDeque<(u64, Frame)>>,
    /// The tokens by the id of their last event, which is unique.
    by_age: BTreeMap<u64, Arc<[u8]>>,
    bytes: usize,
}

impl History {
    /// Stores an event. Ids rise within a token.
    pub(super) fn push(&mut self, token: &Arc<[u8]>, id: u64, frame: Frame) {
        let events = self.tokens.entry(token.clone()).or_default();
        if let Some((last_id, _)) = events.back() {
            self.by_age.remove(last_id);
        }
        self.by_age.insert(id, token.clone());
        self.bytes += size(&frame);
        events.push_back((id, frame));
        if events.len() > EVENTS_MAX
            && let Some((_, oldest)) = events.pop_front()
        {
            self.bytes -= size(&oldest);
        }
        while self.bytes > BYTES_MAX || self.tokens.len() > TOKENS_MAX {
            self.forget();
        }
    }

    /// The events of a token after `last_id`, oldest first.
    pub(super) fn after(&self, token: &[u8], last_id: u64) -> impl Iterator<Item = &Frame> {
        let events = self.tokens.get(token).into_iter().flatten();
        events.filter(move |(id, _)| *id > last_id).map(|(_, frame)| frame)
    }

    /// Drops the least recently written token, or the oldest event of the only one.
    fn forget(&mut self) {
        if self.by_age.len() > 1 {
            let oldest = self.by_age.pop_first();
            let events = oldest.and_then(|(_, token)| self.tokens.remove(&token));
            self.bytes -= events.iter().flatten().map(|(_, frame)| size(frame)).sum::<usize>();
        } else if let Some(events) = self.tokens.values_mut().next()
            && let Some((_, frame)) = events.pop_front()
        {
            self.bytes -= size(&frame);
        }
    }
}

fn size(frame: &Frame) -> usize {
    frame.bytes(Framing::Chunked).len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: usize) -> Arc<[u8]> {
        format!("kiosk-{number}").into_bytes().into()
    }

    fn retained(history: &History, token: &[u8], last_id: u64) -> Vec<String> {
        let text =
            |frame: &Frame| String::from_utf8(frame.bytes(Framing::UntilClose).to_vec()).unwrap();
        history.after(token, last_id).map(text).collect()
    }

    #[test]
    fn the_last_hundred_events_of_a_token_are_retained() {
        let mut history = History::default();
        for id in 0..150 {
            history.push(&token(0), id, Frame::new(format!("{id}").as_bytes()));
        }
        let all: Vec<String> = (50..150).map(|id| id.to_string()).collect();
        assert_eq!(retained(&history, &token(0), 3), all);
        assert_eq!(retained(&history, &token(0), 147), ["148", "149"]);
        assert!(retained(&history, &token(0), 149).is_empty());
        assert!(retained(&history, &token(1), 0).is_empty());
    }

    #[test]
    fn beyond_its_bounds_the_least_recently_written_token_is_dropped() {
        let mut history = History::default();
        for number in 0..=TOKENS_MAX {
            history.push(&token(number), number as u64 + 1, Frame::new(b"x"));
            // Token 0 is written to again and again.
            let id = (TOKENS_MAX + number + 2) as u64;
            if number == TOKENS_MAX - 1 {
                history.push(&token(0), id, Frame::new(b"y"));
            }
        }
        assert_eq!(history.tokens.len(), TOKENS_MAX);
        assert_eq!(retained(&history, &token(0), 0), ["x", "y"]);
        assert!(retained(&history, &token(1), 0).is_empty(), "the oldest is gone");
        assert_eq!(retained(&history, &token(TOKENS_MAX), 0), ["x"]);
    }

    #[test]
    fn the_bytes_of_all_events_are_bounded() {
        let mut history = History::default();
        let big = Frame::new(&vec![b'x'; BYTES_MAX / 4]);
        for id in 0..10 {
            history.push(&token(0), id, big.clone());
            assert!(history.bytes <= BYTES_MAX, "after event {id}: {} bytes", history.bytes);
        }
        assert_eq!(history.after(&token(0), 0).count(), 3, "a token alone loses its oldest events");
        history.push(&token(1), 10, big);
        assert_eq!(history.after(&token(0), 0).count(), 0, "the older token goes first");
        assert_eq!(history.after(&token(1), 0).count(), 1);
    }
}
