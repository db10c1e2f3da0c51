//! The queues of timers that are due and wait for a slot, that is, for permission to have a probe
//! in flight.
//!
//! A server that does not answer occupies a slot until its timeouts pass. If all timers shared one
//! queue, a thousand such servers would delay those that answer within a millisecond. So targets
//! whose last probe was slow have their own queue and at most three quarters of the slots. A probe
//! that turns out to be slow while prompt targets wait is cancelled and queued as a slow one.
//!
//! A single slot cannot be shared like that: while a slow probe has it, all prompt ones wait. There, slow
//! targets have an eighth of the time instead, and what prompt ones leave them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::sys::clock;

/// For how many times as long as the last slow probe took, prompt ones come first in a single slot.
const PROMPT_SHARE: u64 = 7;

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
    /// From when on slow timers are owed a single slot, in `CLOCK_MONOTONIC` nanoseconds.
    slow_owed_ns: u64,
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

    pub(super) fn pop(&mut self, slots: Slots, now_ns: u64) -> Option<usize> {
        let pace = self.turn(slots, now_ns)?;
        self.was_prompt = pace == Pace::Prompt;
        self.of(pace).pop_front()
    }

    /// Whether a timer may start its probe now.
    pub(super) fn may_start(&self, slots: Slots) -> bool {
        // Which one has its turn depends on the time, but not whether there is one.
        self.turn(slots, 0).is_some()
    }

    /// A probe that was slow, or has proved to be, gives its slot back after this time.
    pub(super) fn note_slow(&mut self, took: Duration, now_ns: u64) {
        let owed = now_ns.saturating_add(clock::ns(took).saturating_mul(PROMPT_SHARE));
        self.slow_owed_ns = self.slow_owed_ns.max(owed);
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

    fn turn(&self, slots: Slots, now_ns: u64) -> Option<Pace> {
        if slots.is_full() {
            return None;
        }
        let is_slow_waiting = !self.slow.is_empty();
        // Prompt timers come first, except that slow ones get an eighth of the slots in any case, and at
        // least every other turn until they have one slot: an eighth of a few slots is none.
        let is_slow_owed = match slots.limit {
            ..=1 => now_ns >= self.slow_owed_ns,
            limit => slots.slow < limit / 8 || (slots.slow == 0 && self.was_prompt),
        };
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
        assert_eq!(queue.pop(slots(16, 0, 0), 0), Some(0));
        assert_eq!(queue.pop(slots(16, 11, 11), 0), Some(1));
        assert_eq!(queue.pop(slots(16, 12, 12), 0), None);
        assert!(!queue.is_held_up(slots(16, 16, 12)));
        queue.push(200, Pace::Prompt);
        assert_eq!(queue.pop(slots(16, 12, 12), 0), Some(200));
        queue.push(200, Pace::Prompt);
        assert!(queue.is_held_up(slots(16, 16, 12)));
        // Slow timers get their eighth of the slots even if there are always prompt ones.
        assert_eq!(queue.pop(slots(16, 14, 1), 0), Some(2));
        assert_eq!(queue.pop(slots(16, 14, 2), 0), Some(200));
    }

    const SECOND: u64 = 1_000_000_000;

    /// How many prompt and slow probes a single slot takes in ten minutes. Twenty prompt timers are due `every`
    /// so often, and their probes take a hundredth of a second. A silent target's probe takes five seconds, and it
    /// is ready again at once.
    fn in_one_slot(every: u64) -> (usize, usize) {
        let (mut queue, mut due) = (ReadyQueue::default(), [0; 20]);
        let (mut now, mut prompt, mut slow) = (0, 0, 0);
        queue.push(99, Pace::Slow);
        while now < 600 * SECOND {
            for (at, due) in due.iter_mut().enumerate().filter(|(_, due)| **due <= now) {
                queue.push(at, Pace::Prompt);
                *due = u64::MAX;
            }
            match queue.pop(slots(1, 0, 0), now) {
                Some(99) => {
                    slow += 1;
                    now += 5 * SECOND;
                    queue.note_slow(Duration::from_secs(5), now);
                    queue.push(99, Pace::Slow);
                }
                Some(at) => {
                    prompt += 1;
                    due[at] = now + every;
                    now += SECOND / 100;
                }
                None => panic!("the silent one is always ready"),
            }
        }
        (prompt, slow)
    }

    #[test]
    fn a_silent_target_does_not_keep_the_only_slot_from_prompt_ones() {
        // Between two probes of the silent target each of the 20 prompt ones is probed. The run may end before the last
        // such round is complete.
        let (prompt, slow) = in_one_slot(2 * SECOND);
        assert!(prompt + 20 >= 20 * slow && slow > 100, "{prompt}, {slow}");
        // There is always a prompt one: an eighth of the time is the silent one's.
        let (prompt, slow) = in_one_slot(0);
        assert!((14..=16).contains(&slow), "{slow}");
        assert!(prompt > 50_000, "{prompt}");
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
            let first = [
                queue.pop(slots(limit, 0, 0), 0),
                queue.pop(slots(limit, 1, 0), 0),
            ];
            assert_eq!(first, [Some(0), Some(200)], "{limit}");
            // The second one waits until the first one's probe has ended.
            assert_eq!(queue.pop(slots(limit, 1, 1), 0), Some(1), "{limit}");
            assert_eq!(queue.pop(slots(limit, 1, 0), 0), Some(201), "{limit}");
        }
    }
}
