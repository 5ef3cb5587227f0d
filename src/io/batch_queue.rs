//! A bounded queue of messages for one receiver. It refers to batches that a sink shares among receivers.
//!
//! The byte limit counts the memory kept alive: a batch counts completely until its last message has left. The owner of
//! the queue decides what happens beyond the limits, and counts what is lost.

use std::collections::VecDeque;
use std::sync::Arc;

use super::queue::MessageBatch;

/// The limits of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLimit {
    pub messages: usize,
    /// bytes that waiting messages keep in memory; the newest batch is kept even if it alone exceeds this
    pub bytes: usize,
}

impl QueueLimit {
    /// The limits while memory is short.
    pub fn short(self) -> QueueLimit {
        QueueLimit { messages: (self.messages / 8).max(1), bytes: self.bytes / 8 }
    }
}

/// What is left of a batch: the messages from `next` on.
#[derive(Clone, Debug)]
pub struct Rest {
    pub batch: Arc<MessageBatch>,
    /// its first message that still waits
    pub next: usize,
}

impl Rest {
    pub fn len(&self) -> usize {
        self.batch.len() - self.next
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The queue. Messages that were taken count until they are settled.
#[derive(Debug, Default)]
pub struct BatchQueue {
    rests: VecDeque<Rest>,
    messages: usize,
    bytes: usize,
}

impl BatchQueue {
    pub fn push(&mut self, batch: &Arc<MessageBatch>) {
        self.rests.push_back(Rest { batch: batch.clone(), next: 0 });
        self.messages += batch.len();
        self.bytes += batch.byte_len();
    }

    /// Takes the oldest rest. It counts as waiting until [`BatchQueue::settle`].
    pub fn take(&mut self) -> Option<Rest> {
        self.rests.pop_front()
    }

    /// Takes the oldest messages, at most `most`. They count as waiting until [`BatchQueue::settle`].
    pub fn take_up_to(&mut self, most: usize) -> Option<Rest> {
        let front = self.rests.front_mut()?;
        if front.len() <= most {
            return self.take();
        }
        let batch = Arc::new(front.batch.part(front.next, most));
        front.next += most;
        self.bytes += batch.byte_len();
        Some(Rest { batch, next: 0 })
    }

    /// Stops counting one message of a taken rest. The rest is later settled without it.
    pub fn parts_with_one(&mut self) {
        self.messages -= 1;
    }

    /// Settles a rest that was taken: its first `out` messages have left. With `back` the others wait again; otherwise
    /// they are lost. Returns the number of lost messages.
    pub fn settle(&mut self, rest: Rest, out: usize, back: bool) -> usize {
        self.messages -= out;
        let left = Rest { next: rest.next + out, ..rest };
        if !left.is_empty() && back {
            self.rests.push_front(left);
            return 0;
        }
        self.bytes -= left.batch.byte_len();
        self.messages -= left.len();
        left.len()
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        self.rests.is_empty()
    }

    pub fn batches(&self) -> usize {
        self.rests.len()
    }

    /// The number of messages that wait or are taken.
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// The bytes that these messages keep in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether these messages exceed `limit`.
    pub fn exceeds(&self, limit: QueueLimit) -> bool {
        self.messages > limit.messages || self.bytes > limit.bytes
    }

    /// Drops messages from the front until the limits hold; of the newest batch, only those beyond the limit of
    /// messages. Returns the number of lost messages.
    pub fn drop_oldest(&mut self, limit: QueueLimit) -> usize {
        let mut lost = 0;
        loop {
            let excess = self.messages.saturating_sub(limit.messages);
            let newest = self.rests.len() == 1;
            let Some(front) = self.rests.front_mut() else { return lost };
            if excess == 0 && (newest || self.bytes <= limit.bytes) {
                return lost;
            }
            let left = front.len();
            if excess >= left || (self.bytes > limit.bytes && !newest) {
                self.bytes -= front.batch.byte_len();
                self.messages -= left;
                self.rests.pop_front();
                lost += left;
            } else {
                front.next += excess;
                self.messages -= excess;
                lost += excess;
            }
        }
    }

    /// Drops all messages that wait. Returns their number.
    pub fn clear(&mut self) -> usize {
        let mut lost = 0;
        for rest in self.rests.drain(..) {
            self.bytes -= rest.batch.byte_len();
            self.messages -= rest.len();
            lost += rest.len();
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn batch(messages: usize) -> Arc<MessageBatch> {
        let ends = (1..=messages as u32).collect();
        Arc::new(MessageBatch::new(Bytes::from(vec![b'x'; messages]), ends, true, None))
    }

    #[test]
    fn the_oldest_messages_go_first() {
        let mut queue = BatchQueue::default();
        (0..3).for_each(|_| queue.push(&batch(4)));
        assert_eq!(queue.drop_oldest(QueueLimit { messages: 6, bytes: 100 }), 6);
        let rest = queue.take().expect("two are left of the second batch");
        assert_eq!((rest.next, rest.len(), queue.messages()), (2, 2, 6));
        assert_eq!(queue.settle(rest, 1, true), 0);
        assert_eq!((queue.messages(), queue.batches()), (5, 2));
        // A batch counts completely until its last message has left.
        assert_eq!(queue.drop_oldest(QueueLimit { messages: 100, bytes: 7 }), 1);
        assert_eq!(queue.drop_oldest(QueueLimit { messages: 100, bytes: 1 }), 0);
        assert_eq!((queue.clear(), queue.messages(), queue.is_empty()), (4, 0, true));
    }

    #[test]
    fn a_batch_can_be_taken_in_parts() {
        let mut queue = BatchQueue::default();
        queue.push(&batch(5));
        queue.push(&batch(2));
        let first = queue.take_up_to(3).expect("a part");
        let second = queue.take_up_to(3).expect("the rest of the batch");
        assert_eq!((first.len(), second.len(), second.next, queue.messages()), (3, 2, 3, 7));
        assert_eq!(queue.settle(first, 3, true) + queue.settle(second, 2, true), 0);
        assert!(queue.exceeds(QueueLimit { messages: 1, bytes: 100 }));
        assert!(!queue.exceeds(QueueLimit { messages: 2, bytes: 2 }), "only the second batch is alive");
    }

    #[test]
    fn what_was_taken_does_not_come_back_to_a_queue_that_ends() {
        let mut queue = BatchQueue::default();
        queue.push(&batch(3));
        let rest = queue.take().expect("a batch");
        assert_eq!((queue.settle(rest, 1, false), queue.messages()), (2, 0));
        assert!(!queue.exceeds(QueueLimit::default()));
    }
}
