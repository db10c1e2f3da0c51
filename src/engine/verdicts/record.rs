//! The record of a target, and how it is stored in the words of its slot.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::health::{HealthState, Verdict, both};
use super::layout::*;
use super::memory::{Slot, VerdictTable};

/// The longest error text that is kept, in bytes.
pub const ERROR_MAX: usize = ERROR_WORDS * 8;

/// What is known of a target: the content of its slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// From connect-only probes, or from all probes if deep ones have no timer of their own.
    pub connect: HealthState,
    /// From deep probes that have a timer of their own.
    pub deep: Option<HealthState>,
    /// Milliseconds since 1970 at which the verdict last changed; 0 before the first.
    pub since_ms: u64,
    pub probes: u64,
    pub failures: u64,
    /// How often the verdict has changed.
    pub changes: u64,
    /// When the last probe of each kind started, in `CLOCK_MONOTONIC` nanoseconds; 0: never.
    pub connect_started_ns: u64,
    pub deep_started_ns: u64,
    /// How long the last probe took, stored in microseconds.
    pub latency: Option<Duration>,
    /// The address that the last good probe used.
    pub address: Option<IpAddr>,
    /// When the certificate expires, in seconds since 1970.
    pub not_after: Option<i64>,
    /// When the log last warned that the certificate expires soon, in milliseconds since 1970; 0:
    /// never.
    pub certificate_logged_ms: u64,
    /// Why the target's last probe failed; none after a good one. A good connect probe does not
    /// clear the reason of a failed deep one. One line, at most [`ERROR_MAX`] bytes.
    pub error: Option<String>,
}

impl Record {
    pub fn verdict(&self) -> Verdict {
        match self.deep {
            Some(deep) => both(self.connect.verdict, deep.verdict),
            None => self.connect.verdict,
        }
    }

    /// Gives the record as many health states as its target has probe timers: changed intervals may add or
    /// remove the timer of its deep probes. The verdict stays as it was, and changes no sooner than both health
    /// states would have: the counts are those of whichever is further from alive. Returns whether the record has
    /// changed.
    pub fn fit(&mut self, has_deep_timer: bool) -> bool {
        match (has_deep_timer, self.deep) {
            (true, None) => {
                self.deep = Some(self.connect);
                // Connect probes do not log in any more.
                self.connect.refusals = 0;
            }
            (false, Some(deep)) => {
                self.connect = HealthState {
                    verdict: self.verdict(),
                    failures: self.connect.failures.max(deep.failures),
                    successes: self.connect.successes.min(deep.successes),
                    refusals: deep.refusals,
                };
                self.deep = None;
            }
            _ => return false,
        }
        true
    }
}

impl VerdictTable {
    pub(super) fn read_words(&self, slot: Slot) -> Record {
        let get = |index| self.word(slot, index).load(Relaxed);
        Record {
            connect: HealthState::unpack(get(CONNECT_HEALTH)),
            deep: (get(HAS_DEEP_HEALTH) == 1).then(|| HealthState::unpack(get(DEEP_HEALTH))),
            since_ms: get(SINCE),
            probes: get(PROBES),
            failures: get(FAILURES),
            changes: get(CHANGES),
            connect_started_ns: get(CONNECT_STARTED),
            deep_started_ns: get(DEEP_STARTED),
            latency: get(LATENCY).checked_sub(1).map(Duration::from_micros),
            address: self.read_address(slot),
            not_after: Some(get(NOT_AFTER).cast_signed()).filter(|&at| at != 0),
            certificate_logged_ms: get(CERTIFICATE_LOGGED),
            error: self.read_error(slot),
        }
    }

    pub(super) fn write_words(&self, slot: Slot, record: &Record) {
        let put = |index, value| self.word(slot, index).store(value, Relaxed);
        put(CONNECT_HEALTH, record.connect.pack());
        put(DEEP_HEALTH, record.deep.unwrap_or_default().pack());
        put(HAS_DEEP_HEALTH, u64::from(record.deep.is_some()));
        put(SINCE, record.since_ms);
        put(PROBES, record.probes);
        put(FAILURES, record.failures);
        put(CHANGES, record.changes);
        put(CONNECT_STARTED, record.connect_started_ns);
        put(DEEP_STARTED, record.deep_started_ns);
        put(
            LATENCY,
            record.latency.map_or(0, |latency| {
                u64::try_from(latency.as_micros()).map_or(u64::MAX, |us| us.saturating_add(1))
            }),
        );
        self.write_address(slot, record.address);
        put(NOT_AFTER, record.not_after.unwrap_or(0).cast_unsigned());
        put(CERTIFICATE_LOGGED, record.certificate_logged_ms);
        self.write_error(slot, record.error.as_deref());
    }

    pub(super) fn read_verdict(&self, slot: Slot) -> Verdict {
        let verdict_in = |index| HealthState::unpack(self.word(slot, index).load(Relaxed)).verdict;
        if self.word(slot, HAS_DEEP_HEALTH).load(Relaxed) == 1 {
            both(verdict_in(CONNECT_HEALTH), verdict_in(DEEP_HEALTH))
        } else {
            verdict_in(CONNECT_HEALTH)
        }
    }

    pub(super) fn read_address(&self, slot: Slot) -> Option<IpAddr> {
        let get = |index| self.word(slot, index).load(Relaxed);
        let bits = u128::from(get(ADDRESS)) << 64 | u128::from(get(ADDRESS + 1));
        match get(FAMILY) {
            4 => Some(Ipv4Addr::from(u32::try_from(bits).ok()?).into()),
            6 => Some(Ipv6Addr::from(bits).into()),
            _ => None,
        }
    }

    fn write_address(&self, slot: Slot, address: Option<IpAddr>) {
        let (family, bits) = match address {
            None => (0, 0),
            Some(IpAddr::V4(ip)) => (4, u128::from(u32::from(ip))),
            Some(IpAddr::V6(ip)) => (6, u128::from(ip)),
        };
        let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or_default();
        self.word(slot, FAMILY).store(family, Relaxed);
        self.word(slot, ADDRESS).store(half(bits >> 64), Relaxed);
        self.word(slot, ADDRESS + 1).store(half(bits), Relaxed);
    }

    fn read_error(&self, slot: Slot) -> Option<String> {
        let length = self.word(slot, ERROR_LENGTH).load(Relaxed);
        let length = usize::try_from(length).ok()?.min(ERROR_MAX);
        if length == 0 {
            return None;
        }
        let mut bytes = Vec::with_capacity(ERROR_MAX);
        for index in 0..length.div_ceil(8) {
            bytes.extend(self.error_word(slot, index).load(Relaxed).to_ne_bytes());
        }
        bytes.truncate(length);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn write_error(&self, slot: Slot, error: Option<&str>) {
        let text = error.unwrap_or_default();
        let cut = (0..=text.len().min(ERROR_MAX))
            .rev()
            .find(|&at| text.is_char_boundary(at))
            .unwrap_or(0);
        let bytes = text.as_bytes().get(..cut).unwrap_or_default();
        for (index, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.error_word(slot, index)
                .store(u64::from_ne_bytes(word), Relaxed);
        }
        self.word(slot, ERROR_LENGTH)
            .store(u64::try_from(cut).unwrap_or(0), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(verdict: Verdict, failures: u16, successes: u16) -> HealthState {
        HealthState {
            verdict,
            failures,
            successes,
            refusals: 0,
        }
    }

    #[test]
    fn the_counts_of_a_timer_that_ends_are_not_lost() {
        use Verdict::{Alive, Dead, Unknown};
        let fitted = |connect, deep| {
            let mut record = Record {
                connect,
                deep: Some(deep),
                ..Record::default()
            };
            let before = record.verdict();
            assert!(record.fit(false) && record.deep.is_none());
            assert_eq!(record.verdict(), before);
            record.connect
        };
        // Good connect probes are no good deep ones.
        let well = state(Alive, 0, 12);
        assert_eq!(fitted(well, state(Dead, 3, 0)), state(Dead, 3, 0));
        assert_eq!(fitted(well, state(Dead, 0, 2)), state(Dead, 0, 2));
        assert_eq!(fitted(well, state(Alive, 2, 0)), state(Alive, 2, 0));
        assert_eq!(fitted(well, state(Unknown, 0, 0)), state(Unknown, 0, 0));
        assert_eq!(fitted(state(Dead, 4, 0), well), state(Dead, 4, 0));
        assert_eq!(fitted(well, state(Alive, 0, 3)), state(Alive, 0, 3));
    }
}
