//! What has arrived, on whichever way: the cursor, and a bounded memory of attempts.

use std::collections::{HashSet, VecDeque};

use bellwire_proto::{CommandId, Seq};

use super::deadlines::RECEIVED_MAX;

#[derive(Debug)]
pub(super) struct Received {
    cursor: Option<Seq>,
    order: VecDeque<(CommandId, u32)>,
    known: HashSet<(CommandId, u32)>,
}

impl Received {
    pub(super) fn new(cursor: Option<Seq>) -> Self {
        Self { cursor, order: VecDeque::new(), known: HashSet::new() }
    }

    pub(super) fn cursor(&self) -> Option<Seq> {
        self.cursor
    }

    /// Whether it is new. The oldest is forgotten when there are more than [`RECEIVED_MAX`]: it would be delivered again,
    /// and its receiver knows the command.
    pub(super) fn insert(&mut self, id: CommandId, seq: Seq, attempt: u32) -> bool {
        self.cursor = self.cursor.max(Some(seq));
        if !self.known.insert((id, attempt)) {
            return false;
        }
        self.order.push_back((id, attempt));
        if self.order.len() > RECEIVED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> CommandId {
        format!("01930000-0000-7000-8000-{n:012x}").parse().unwrap()
    }

    #[test]
    fn each_attempt_is_new_once_and_the_memory_is_bounded() {
        let mut received = Received::new(None);
        assert!(received.insert(id(1), Seq::new(5), 1));
        assert!(!received.insert(id(1), Seq::new(5), 1), "the other way carried it, too");
        assert!(received.insert(id(1), Seq::new(5), 2), "the hub sent it again");
        assert!(received.insert(id(2), Seq::new(4), 1));
        assert_eq!(received.cursor(), Some(Seq::new(5)), "the highest");
        for n in 0..3 * RECEIVED_MAX {
            received.insert(id(100 + n), Seq::new(6), 1);
        }
        assert_eq!((received.order.len(), received.known.len()), (RECEIVED_MAX, RECEIVED_MAX));
    }
}
