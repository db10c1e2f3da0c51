//! Which timers are due and wait for a slot, and whose turn it is.
//!
//! A server that answers nothing holds a slot for as long as its timeouts allow. Were all slots
//! given out in order, a thousand such servers would take the turns of those that answer within
//! a millisecond. So targets whose last probe was slow have a queue of their own and at most
//! three quarters of the slots; and a probe that turns out to be slow while others wait is called
//! off and made again from there.

use std::collections::VecDeque;

/// How a timer's probes end, as far as is known from the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pace {
    /// Soon; or nothing is known yet.
    #[default]
    Prompt,
    /// After more than [`super::SLOW_AFTER`].
    Slow,
}

/// Timers by their number.
#[derive(Debug, Default)]
pub(super) struct ReadyQueue {
    prompt: VecDeque<usize>,
    slow: VecDeque<usize>,
}

/// How many slots there are, and how many are taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    pub limit: usize,
    pub taken: usize,
    /// Of those taken, how many by slow targets.
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

    /// Before all others of its pace.
    pub(super) fn push_first(&mut self, at: usize, pace: Pace) {
        self.of(pace).push_front(at);
    }

    pub(super) fn pop(&mut self, slots: Slots) -> Option<usize> {
        let pace = self.turn(slots)?;
        self.of(pace).pop_front()
    }

    /// Whether one may start.
    pub(super) fn may_start(&self, slots: Slots) -> bool {
        self.turn(slots).is_some()
    }

    /// Whether a prompt one waits for a slot to become free.
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
        // The prompt ones come first, but never take all turns.
        let is_slow_owed = slots.slow < slots.limit / 8;
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
        // Where prompt ones never end, slow ones have their turn all the same.
        assert_eq!(queue.pop(slots(16, 14, 1)), Some(2));
        assert_eq!(queue.pop(slots(16, 14, 2)), Some(200));
    }

    #[test]
    fn one_slot_is_enough_for_both() {
        let mut queue = ReadyQueue::default();
        queue.push(1, Pace::Slow);
        queue.push(2, Pace::Prompt);
        queue.push_first(3, Pace::Prompt);
        let order = [0; 3].map(|slow| queue.pop(slots(1, 0, slow)));
        assert_eq!(order, [Some(3), Some(2), Some(1)]);
        assert_eq!(queue.pop(slots(1, 0, 0)), None);
    }
}
