//! The queues of timers that are due and wait for a slot, that is, for permission to have a probe
//! in flight.
//!
//! A server that does not answer occupies a slot until its timeouts pass. If all timers shared one
//! queue, a thousand such servers would delay those that answer within a millisecond. So targets
//! whose last probe was slow have their own queue and at most three quarters of the slots. A probe
//! that turns out to be slow while prompt targets wait is cancelled and queued as a slow one.

use std::collections::VecDeque;

/// How fast a timer's probes complete, judged by the last conclusive one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pace {
    /// Fast, or not known yet.
    #[default]
    Prompt,
    /// After more than [`super::SLOW_AFTER`].
    Slow,
}

/// The timers that wait for a slot, by their index in the scheduler's list.
#[derive(Debug, Default)]
pub(super) struct ReadyQueue {
    prompt: VecDeque<usize>,
    slow: VecDeque<usize>,
    /// Whether the last timer that got a slot was a prompt one.
    was_prompt: bool,
}

/// The number of slots, in total and taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    pub limit: usize,
    pub taken: usize,
    /// How many of the taken ones belong to slow targets.
    pub slow: usize,
}

impl Slots {
    fn is_full(self) -> bool {
        self.taken >= self.limit
    }
}

impl ReadyQueue {
    pub(super) fn clear(&mut self) {
        self.prompt.clear();
        self.slow.clear();
    }

    pub(super) fn push(&mut self, at: usize, pace: Pace) {
        self.of(pace).push_back(at);
    }

    /// Adds a timer before all others of its pace.
    pub(super) fn push_first(&mut self, at: usize, pace: Pace) {
        self.of(pace).push_front(at);
    }

    pub(super) fn pop(&mut self, slots: Slots) -> Option<usize> {
        let pace = self.turn(slots)?;
        self.was_prompt = pace == Pace::Prompt;
        self.of(pace).pop_front()
    }

    /// Whether a timer may start its probe now.
    pub(super) fn may_start(&self, slots: Slots) -> bool {
        self.turn(slots).is_some()
    }

    /// Whether a prompt timer waits although all slots are taken.
    pub(super) fn is_held_up(&self, slots: Slots) -> bool {
        slots.is_full() && !self.prompt.is_empty()
    }

    fn of(&mut self, pace: Pace) -> &mut VecDeque<usize> {
        match pace {
            Pace::Prompt => &mut self.prompt,
            Pace::Slow => &mut self.slow,
        }
    }

    fn turn(&self, slots: Slots) -> Option<Pace> {
        if slots.is_full() {
            return None;
        }
        let is_slow_waiting = !self.slow.is_empty();
        // Prompt timers come first, except that slow ones get an eighth of the slots in any case, and at
        // least every other turn until they have one slot: an eighth of a few slots is none.
        let is_slow_owed = slots.slow < slots.limit / 8 || (slots.slow == 0 && self.was_prompt);
        let may_slow_start = slots.slow < (slots.limit * 3 / 4).max(1);
        if is_slow_waiting && is_slow_owed {
            Some(Pace::Slow)
        } else if !self.prompt.is_empty() {
            Some(Pace::Prompt)
        } else if is_slow_waiting && may_slow_start {
            Some(Pace::Slow)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(limit: usize, taken: usize, slow: usize) -> Slots {
        Slots { limit, taken, slow }
    }

    #[test]
    fn slow_targets_have_their_share_and_no_more() {
        let mut queue = ReadyQueue::default();
        for at in 0..100 {
            queue.push(at, Pace::Slow);
        }
        assert_eq!(queue.pop(slots(16, 0, 0)), Some(0));
        assert_eq!(queue.pop(slots(16, 11, 11)), Some(1));
        assert_eq!(queue.pop(slots(16, 12, 12)), None);
        assert!(!queue.is_held_up(slots(16, 16, 12)));
        queue.push(200, Pace::Prompt);
        assert_eq!(queue.pop(slots(16, 12, 12)), Some(200));
        queue.push(200, Pace::Prompt);
        assert!(queue.is_held_up(slots(16, 16, 12)));
        // Slow timers get their eighth of the slots even if there are always prompt ones.
        assert_eq!(queue.pop(slots(16, 14, 1)), Some(2));
        assert_eq!(queue.pop(slots(16, 14, 2)), Some(200));
    }

    #[test]
    fn one_slot_is_enough_for_both() {
        let mut queue = ReadyQueue::default();
        for at in [1, 2] {
            queue.push(at, Pace::Slow);
        }
        for at in [4, 5] {
            queue.push(at, Pace::Prompt);
        }
        queue.push_first(3, Pace::Prompt);
        let order = [0; 5].map(|slow| queue.pop(slots(1, 0, slow)));
        assert_eq!(order, [Some(3), Some(1), Some(4), Some(2), Some(5)]);
        assert_eq!(queue.pop(slots(1, 0, 0)), None);
    }

    /// More prompt timers than the slots can serve must not keep a slow one from its turn.
    #[test]
    fn slow_targets_have_a_slot_of_a_few_too() {
        for limit in 2..8 {
            let mut queue = ReadyQueue::default();
            for at in 0..100 {
                queue.push(at, Pace::Prompt);
            }
            queue.push(200, Pace::Slow);
            queue.push(201, Pace::Slow);
            let first = [queue.pop(slots(limit, 0, 0)), queue.pop(slots(limit, 1, 0))];
            assert_eq!(first, [Some(0), Some(200)], "{limit}");
            // The second one waits until the first one's probe has ended.
            assert_eq!(queue.pop(slots(limit, 1, 1)), Some(1), "{limit}");
            assert_eq!(queue.pop(slots(limit, 1, 0)), Some(201), "{limit}");
        }
    }
}
