//! What operators have set: the state of a target or a node, the weight of a node.
//!
//! A setting is kept by name, so that it survives a changed configuration, and it only ends by its
//! own `until`. Any process may set one. Of two settings of the same thing the one with the later
//! time counts, in whichever order they arrive: so all processes that share a table or a state file
//! agree.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::layout::*;
use super::memory::VerdictTable;
use super::texts::{cut, from_words, pack_lengths, to_words};

/// The longest name, reason and author, in bytes.
pub const WHAT_MAX: usize = 288;
pub const REASON_MAX: usize = 288;
pub const BY_MAX: usize = 128;

/// The state that an operator gives to a target or a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperatorState {
    /// Probes decide.
    #[default]
    Auto,
    /// It is not listed and gets no new users; users that it has stay.
    Drain,
    /// It is not listed and its users are moved away.
    Maintenance,
}

impl OperatorState {
    pub const ALL: [Self; 3] = [Self::Auto, Self::Drain, Self::Maintenance];

    /// The name in `set_target_state` and `status()`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// One thing that an operator can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    State(OperatorState),
    /// The weight of a node; `None`: the configured one.
    Weight(Option<u16>),
}

impl Setting {
    fn pack(self) -> u64 {
        match self {
            Self::State(OperatorState::Auto) => 1,
            Self::State(OperatorState::Drain) => 2,
            Self::State(OperatorState::Maintenance) => 3,
            Self::Weight(None) => 1 << 32,
            Self::Weight(Some(weight)) => 1 << 32 | 1 << 16 | u64::from(weight),
        }
    }

    fn unpack(word: u64) -> Option<Self> {
        if word >> 32 == 1 {
            let weight = u16::try_from(word & 0xffff).ok()?;
            return Some(Self::Weight((word >> 16 & 1 == 1).then_some(weight)));
        }
        Some(Self::State(match word {
            1 => OperatorState::Auto,
            2 => OperatorState::Drain,
            3 => OperatorState::Maintenance,
            _ => return None,
        }))
    }

    fn is_weight(self) -> bool {
        matches!(self, Self::Weight(_))
    }

    /// Whether it is the same as no setting. It is kept all the same, so that an older setting of
    /// the same thing, such as one in a state file, does not come back.
    fn is_default(self) -> bool {
        matches!(self, Self::State(OperatorState::Auto) | Self::Weight(None))
    }
}

/// What an operator has set, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// A target's key, or `node:` and a node's name.
    pub what: String,
    pub setting: Setting,
    /// Milliseconds since 1970.
    pub since_ms: u64,
    /// When it ends by itself, in milliseconds since 1970; 0: never.
    pub until_ms: u64,
    pub reason: String,
    pub by: String,
}

impl Operator {
    /// Whether it has an effect at this time, in milliseconds since 1970.
    pub fn is_in_force(&self, now_ms: u64) -> bool {
        !self.setting.is_default() && (self.until_ms == 0 || now_ms < self.until_ms)
    }

    /// Whether `other` is a setting of the same thing and as late or later: then this one need not
    /// be sent.
    pub fn is_settled_by(&self, other: &Self) -> bool {
        self.is_of_same(other) && other.order() >= self.order()
    }

    /// Whether this is a setting of the same thing and later than `other`.
    pub fn is_later_than(&self, other: &Self) -> bool {
        self.is_of_same(other) && self.order() > other.order()
    }

    /// Of two settings of the same thing the greater one counts. Of the same millisecond, in which
    /// two processes may have set different ones, it is always the same one of both.
    fn order(&self) -> (u64, u64, u64, &str, &str) {
        let Self {
            since_ms, until_ms, ..
        } = *self;
        let value = self.setting.pack();
        (since_ms, value, until_ms, &self.reason, &self.by)
    }

    fn is_of_same(&self, other: &Self) -> bool {
        self.what == other.what && self.setting.is_weight() == other.setting.is_weight()
    }
}

/// The result of [`VerdictTable::set_operator`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    Done,
    /// The same setting or a later one of the same thing is there already.
    Older,
    /// The table is full, and every setting in it is in force.
    Full,
}

impl VerdictTable {
    /// Changes with each setting.
    pub fn operators_sequence(&self) -> u64 {
        self.header(OPERATORS_SEQUENCE).load(Acquire)
    }

    /// All settings, also those that have ended. Waits at most about 10 ms for a writer.
    pub fn operators(&self) -> Vec<Operator> {
        self.consistent(self.header(OPERATORS_SEQUENCE), || self.read_operators())
    }

    /// A number that changes with each setting.
    pub fn operators_version(&self) -> u64 {
        self.header(OPERATORS_SEQUENCE).load(Acquire)
    }

    /// Stores a setting unless a later one of the same thing is stored; texts that are too long are
    /// cut, and `?` replaces control characters. Readers get a new generation, and the prober is
    /// woken.
    pub fn set_operator(&self, wanted: &Operator) -> Set {
        // The state file replaces control characters by `?`. If the table kept them, a follower would find
        // that the setting in the file differs from its own, and ask the writer to store it again and again.
        let of_line =
            |text: &str, most: usize| cut(&text.replace(char::is_control, "?"), most).to_owned();
        let wanted = Operator {
            what: of_line(&wanted.what, WHAT_MAX),
            reason: of_line(&wanted.reason, REASON_MAX),
            by: of_line(&wanted.by, BY_MAX),
            ..wanted.clone()
        };
        let sequence = self.header(OPERATORS_SEQUENCE);
        let done = loop {
            let (seen, known) = self.seen(sequence, |seen| (seen, self.read_operators()));
            let place = match place_for(&wanted, &known) {
                Ok(place) => place,
                Err(refused) => return refused,
            };
            if let Some(ticket) = self.claim(sequence, seen) {
                self.write_operator(place, &wanted);
                let used = u64::try_from(known.len().max(place + 1)).unwrap_or(0);
                self.header(OPERATORS_USED).store(used, Release);
                break self.end(sequence, ticket);
            }
        };
        self.bump_generation();
        self.wake_prober();
        if done {
            Set::Done
        } else {
            // Another writer took the settings over while this one was stopped, so this setting may
            // be damaged: it is stored again.
            self.set_operator(&wanted)
        }
    }

    fn read_operators(&self) -> Vec<Operator> {
        let used = self.header(OPERATORS_USED).load(Acquire);
        let used = usize::try_from(used).unwrap_or(OPERATORS).min(OPERATORS);
        (0..used).map(|place| self.read_operator(place)).collect()
    }

    fn read_operator(&self, place: usize) -> Operator {
        let get = |index| self.operator_word(place, index).load(Relaxed);
        let words =
            (0..OPERATOR_TEXT_WORDS).map(|index| self.operator_word(place, OPERATOR_TEXT + index));
        let [what, reason, by, _] = from_words(get(OPERATOR_LENGTHS), words);
        Operator {
            what,
            // An unknown value has no effect.
            setting: Setting::unpack(get(OPERATOR_VALUE))
                .unwrap_or(Setting::State(OperatorState::Auto)),
            since_ms: get(OPERATOR_SINCE),
            until_ms: get(OPERATOR_UNTIL),
            reason,
            by,
        }
    }

    fn write_operator(&self, place: usize, operator: &Operator) {
        let put = |index, value| self.operator_word(place, index).store(value, Relaxed);
        put(OPERATOR_VALUE, operator.setting.pack());
        put(OPERATOR_SINCE, operator.since_ms);
        put(OPERATOR_UNTIL, operator.until_ms);
        let texts = [
            operator.what.as_str(),
            operator.reason.as_str(),
            operator.by.as_str(),
            "",
        ];
        put(OPERATOR_LENGTHS, pack_lengths(&texts));
        for (index, word) in to_words(&texts)
            .into_iter()
            .take(OPERATOR_TEXT_WORDS)
            .enumerate()
        {
            put(OPERATOR_TEXT + index, word);
        }
    }

    fn operator_word(&self, place: usize, index: usize) -> &std::sync::atomic::AtomicU64 {
        self.at(self.places.operators + place * OPERATOR + index)
    }

    pub(super) fn inherit_operators(&self, before: &Self) {
        for operator in before.operators() {
            self.set_operator(&operator);
        }
    }
}

/// The index at which a setting is stored: that of the same thing, the first free one, or that of
/// the oldest setting that is not in force.
fn place_for(wanted: &Operator, known: &[Operator]) -> Result<usize, Set> {
    if let Some(place) = known.iter().position(|one| one.is_of_same(wanted)) {
        let is_later = known
            .get(place)
            .is_some_and(|one| wanted.is_later_than(one));
        return if is_later { Ok(place) } else { Err(Set::Older) };
    }
    if known.len() < OPERATORS {
        return Ok(known.len());
    }
    let now = crate::sys::clock::unix_ms();
    let idle = known
        .iter()
        .enumerate()
        .filter(|(_, one)| !one.is_in_force(now));
    idle.min_by_key(|(_, one)| one.since_ms)
        .map(|(place, _)| place)
        .ok_or(Set::Full)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(what: &str, setting: Setting, since_ms: u64) -> Operator {
        Operator {
            what: what.to_owned(),
            setting,
            since_ms,
            until_ms: 0,
            reason: "kernel update".to_owned(),
            by: "ann".to_owned(),
        }
    }

    #[test]
    fn the_later_setting_counts_in_any_order() {
        let drain = operator("node:a", Setting::State(OperatorState::Drain), 10);
        let auto = operator("node:a", Setting::State(OperatorState::Auto), 20);
        let weight = operator("node:a", Setting::Weight(Some(0)), 5);
        for order in [[&drain, &auto, &weight], [&auto, &weight, &drain]] {
            let table = VerdictTable::new(1).unwrap();
            for one in order {
                table.set_operator(one);
            }
            let mut known = table.operators();
            known.sort_by_key(|one| one.since_ms);
            assert_eq!(known, [weight.clone(), auto.clone()]);
        }
    }

    #[test]
    fn of_two_settings_of_one_millisecond_all_keep_the_same_one() {
        let drain = operator("node:a", Setting::State(OperatorState::Drain), 10);
        let auto = operator("node:a", Setting::State(OperatorState::Auto), 10);
        let kept = [[&drain, &auto], [&auto, &drain]].map(|order| {
            let table = VerdictTable::new(1).unwrap();
            for one in order {
                table.set_operator(one);
            }
            table.operators()
        });
        assert_eq!(kept[0], kept[1]);
        assert_ne!(drain.is_settled_by(&auto), auto.is_settled_by(&drain));
        assert!(drain.is_settled_by(&drain) && !drain.is_later_than(&drain));
    }

    #[test]
    fn a_setting_is_the_same_after_it_was_written_to_the_state_file_and_read() {
        let table = VerdictTable::new(1).unwrap();
        table.set_operator(&Operator {
            reason: "it\u{92}s \"time\"\n".to_owned(),
            by: "\u{80}ann\\".to_owned(),
            ..operator("node:a", Setting::State(OperatorState::Drain), 10)
        });
        let [stored] = <[Operator; 1]>::try_from(table.operators()).unwrap();
        let line = crate::engine::state_file::format::operator_line(&stored);
        let rest = line.trim_end().strip_prefix("operator ").unwrap();
        let read = crate::engine::state_file::format::read_operator(rest).unwrap();
        assert_eq!(read, stored);
        assert_eq!(stored.reason, "it?s \"time\"?");
    }

    #[test]
    fn each_setting_moves_the_generation_and_wakes_the_prober() {
        let table = VerdictTable::new(1).unwrap();
        let drain = operator(
            "imap://192.0.2.1:143",
            Setting::State(OperatorState::Drain),
            10,
        );
        assert_eq!(table.set_operator(&drain), Set::Done);
        assert_eq!((table.generation(), table.wakes()), (1, 1));
        assert_eq!(table.set_operator(&drain), Set::Older);
        assert_eq!((table.generation(), table.wakes()), (1, 1));
    }

    #[test]
    fn a_full_table_gives_up_what_changes_nothing() {
        let table = VerdictTable::new(1).unwrap();
        for number in 0..OPERATORS {
            let state = if number == 7 {
                OperatorState::Auto
            } else {
                OperatorState::Drain
            };
            let what = format!("node:{number}");
            assert_eq!(
                table.set_operator(&operator(&what, Setting::State(state), 1)),
                Set::Done
            );
        }
        let one = operator("node:x", Setting::Weight(Some(5)), 2);
        assert_eq!(table.set_operator(&one), Set::Done);
        let known = table.operators();
        assert_eq!(known.len(), OPERATORS);
        assert_eq!(known[7], one);
        let drain = Setting::State(OperatorState::Drain);
        assert_eq!(table.set_operator(&operator("node:x", drain, 3)), Set::Full);
    }

    #[test]
    fn a_setting_ends_by_itself() {
        let mut one = operator("node:a", Setting::State(OperatorState::Maintenance), 1);
        assert!(one.is_in_force(u64::MAX));
        one.until_ms = 100;
        assert!(one.is_in_force(99) && !one.is_in_force(100));
    }

    #[test]
    fn writers_on_several_threads_lose_nothing() {
        let table = std::sync::Arc::new(VerdictTable::new(1).unwrap());
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let table = table.clone();
                std::thread::spawn(move || {
                    for number in 0..50 {
                        let what = format!("node:{writer}-{number}");
                        table.set_operator(&operator(&what, Setting::Weight(Some(7)), 1));
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        let known = table.operators();
        assert_eq!(known.len(), 200);
        assert!(
            known
                .iter()
                .all(|one| one.by == "ann" && one.reason == "kernel update")
        );
    }
}
