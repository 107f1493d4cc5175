//! New deployments on their way to the store: some are being made durable, the others wait their turn. Pure.

use std::collections::VecDeque;

/// How many deployments may be made durable at a time; what comes meanwhile waits.
pub(super) const CREATING_MAX: usize = 256;
/// How many may wait. With the largest specs that are taken this is about 100 MB.
pub(super) const WAITING_MAX: usize = 16_384;

/// The queue. Each that [`Queue::next`] gives out is followed by one [`Queue::done`].
#[derive(Debug)]
pub(super) struct Queue<T> {
    waiting: VecDeque<T>,
    creating: usize,
    /// The store has too much to do: nothing more is given to it for a moment.
    paused: bool,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), creating: 0, paused: false }
    }

    /// Whether there is no room for one more.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    /// How many wait or are being made durable.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.creating
    }

    /// One more waits, behind all others.
    pub(super) fn push(&mut self, create: T) {
        self.waiting.push_back(create);
    }

    /// The next one, if it may be made durable now.
    pub(super) fn next(&mut self) -> Option<T> {
        if self.paused || self.creating >= CREATING_MAX {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.creating += 1;
        Some(next)
    }

    /// One has become durable, or never will.
    pub(super) fn done(&mut self) {
        self.creating = self.creating.saturating_sub(1);
    }

    /// The store could not take one: it is the next again, after a pause. Answers whether the pause begins now.
    pub(super) fn again(&mut self, create: T) -> bool {
        self.done();
        self.waiting.push_front(create);
        !std::mem::replace(&mut self.paused, true)
    }

    /// The pause is over.
    pub(super) fn resume(&mut self) {
        self.paused = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_get_their_turn_in_order_and_not_too_many_at_once() {
        let mut queue = Queue::new();
        (0..WAITING_MAX).for_each(|n| queue.push(n));
        assert!(queue.is_full());
        let mut given = Vec::new();
        while given.len() < WAITING_MAX {
            let before = given.len();
            given.extend(std::iter::from_fn(|| queue.next()));
            assert!((1..=CREATING_MAX).contains(&(given.len() - before)), "{}", given.len() - before);
            (before..given.len()).for_each(|_| queue.done());
        }
        assert!(given.into_iter().eq(0..WAITING_MAX) && queue.len() == 0 && !queue.is_full());
    }

    #[test]
    fn what_the_store_could_not_take_comes_first_after_one_pause() {
        let mut queue = Queue::new();
        (0..3).for_each(|n| queue.push(n));
        let (first, second) = (queue.next().expect("one"), queue.next().expect("another"));
        assert!(queue.again(second), "the pause begins");
        assert!(!queue.again(first), "it has begun");
        assert_eq!(queue.next(), None, "not in the pause");
        queue.resume();
        assert_eq!(std::iter::from_fn(|| queue.next()).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
