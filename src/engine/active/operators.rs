//! Operators' settings, applied to the targets and nodes of the active configuration.

use std::collections::HashMap;
use std::time::Duration;

use super::ActiveConfig;
use crate::engine::config::shortened;
use crate::engine::state_file::saved::Saved;
use crate::engine::target::Target;
use crate::engine::verdicts::{Event, EventKind, Operator, OperatorState, Set, Setting};
use crate::sys::clock;

/// The prefix of a node's name, which tells it from a target's key.
const NODE: &str = "node:";

/// How often storing a setting is tried if other processes keep setting the same thing at that moment.
const TRIES: usize = 100;

/// The settings that were in force when they were read.
#[derive(Debug, Default)]
pub struct OperatorSettings {
    states: HashMap<String, OperatorState>,
    weights: HashMap<String, u16>,
    /// When the states were set, in milliseconds since 1970.
    since: HashMap<String, u64>,
    /// When the first of them ends by itself, in milliseconds since 1970.
    first_end_ms: Option<u64>,
}

impl OperatorSettings {
    /// The state of a target: its own or its node's, whichever is stricter.
    pub fn state_of(&self, target: &Target) -> OperatorState {
        if self.states.is_empty() {
            return OperatorState::Auto;
        }
        let of = |what: &str| self.states.get(what).copied().unwrap_or_default();
        of(&target.key()).max(of(&format!("{NODE}{}", target.node())))
    }

    /// Since when the target or its node is draining, in milliseconds since 1970; 0: it is not.
    pub fn drain_since_ms(&self, target: &Target) -> u64 {
        if self.state_of(target) != OperatorState::Drain {
            return 0;
        }
        let of = |what: &str| {
            let is_drain = self.states.get(what) == Some(&OperatorState::Drain);
            self.since.get(what).copied().filter(|_| is_drain)
        };
        let both = [of(&target.key()), of(&format!("{NODE}{}", target.node()))];
        both.into_iter().flatten().min().unwrap_or(0)
    }

    /// The state that an operator has set for a node, and since when, in milliseconds since 1970; 0: none
    /// was set.
    pub fn state_of_node(&self, node: &str) -> (OperatorState, u64) {
        let of = format!("{NODE}{node}");
        match self.states.get(&of) {
            None | Some(OperatorState::Auto) => (OperatorState::Auto, 0),
            Some(state) => (*state, self.since.get(&of).copied().unwrap_or(0)),
        }
    }

    /// Whether operators' settings allow a target in the list.
    pub fn lists(&self, target: &Target) -> bool {
        self.state_of(target) == OperatorState::Auto
    }

    /// When the first of the settings ends by itself, in milliseconds since 1970.
    pub(super) fn first_end_ms(&self) -> Option<u64> {
        self.first_end_ms
    }

    /// The weight that was set for a node; `None` where the configured one applies.
    pub fn weight_of(&self, node: &str) -> Option<u16> {
        if self.weights.is_empty() {
            return None;
        }
        self.weights.get(&format!("{NODE}{node}")).copied()
    }
}

/// A setting that an operator requests.
#[derive(Clone, Debug)]
pub struct OperatorRequest {
    /// A target's key, or `node:` and a node's name.
    pub what: String,
    pub setting: Setting,
    pub reason: String,
    pub by: String,
    /// How long it lasts; `None`: until it is set again.
    pub lasting: Option<Duration>,
}

impl ActiveConfig {
    /// The settings that are in force now.
    pub fn operator_settings(&self) -> OperatorSettings {
        let now = clock::unix_ms();
        let mut settings = OperatorSettings::default();
        let all = self.table.operators();
        for operator in all.into_iter().filter(|one| one.is_in_force(now)) {
            if operator.until_ms > 0 {
                let end = settings.first_end_ms.unwrap_or(operator.until_ms);
                settings.first_end_ms = Some(end.min(operator.until_ms));
            }
            match operator.setting {
                Setting::State(state) => {
                    settings
                        .since
                        .insert(operator.what.clone(), operator.since_ms);
                    settings.states.insert(operator.what, state);
                }
                Setting::Weight(Some(weight)) => {
                    settings.weights.insert(operator.what, weight);
                }
                Setting::Weight(None) => {}
            }
        }
        settings
    }

    /// The operators' settings in force, each with its author and reason, sorted by target or node.
    pub fn operators_in_force(&self) -> Vec<Operator> {
        let now = clock::unix_ms();
        let mut all = self.table.operators();
        all.retain(|one| one.is_in_force(now));
        all.sort_by(|a, b| a.what.cmp(&b.what));
        all
    }

    /// Whether this configuration has a target with this key or a node with this name.
    fn knows(&self, what: &str) -> bool {
        let mut targets = self.config.targets.iter();
        match what.strip_prefix(NODE) {
            Some(node) => targets.any(|target| target.node() == node),
            None => targets.any(|target| *target.key() == *what),
        }
    }

    /// Stores an operator's setting, for all processes that share the table or the state file.
    ///
    /// # Errors
    /// Where the name is unknown, or there is no room for more.
    pub fn operate(&self, wanted: OperatorRequest) -> Result<(), String> {
        if !self.knows(&wanted.what) {
            let shown = shortened(&wanted.what);
            return Err(format!("no such target or node: \"{shown}\""));
        }
        let now = clock::unix_ms();
        let mut operator = Operator {
            since_ms: now,
            until_ms: wanted
                .lasting
                .map_or(0, |time| now.saturating_add(clock::ms(time)).max(1)),
            what: wanted.what,
            setting: wanted.setting,
            reason: wanted.reason,
            by: wanted.by,
        };
        for _ in 0..TRIES {
            let known = self.table.operators();
            let last = known.iter().filter(|one| one.what == operator.what);
            // Later than the last setting of the same thing, even if the clock was set back since then:
            // an older setting would be refused.
            let after = last.map(|one| one.since_ms.saturating_add(1));
            operator.since_ms = after.fold(now, u64::max);
            if self.set_operator(&operator)? == Set::Done {
                return Ok(());
            }
        }
        Err(format!(
            "not set: other processes changed the same setting {TRIES} times meanwhile"
        ))
    }

    /// Stores a setting, unless the same thing was set later.
    ///
    /// # Errors
    /// There is no room for more.
    pub fn set_operator(&self, operator: &Operator) -> Result<Set, String> {
        let before = self.table.operators();
        let now = clock::unix_ms();
        let before = before.iter().find(|one| operator.is_later_than(one));
        let from = before.filter(|one| one.is_in_force(now));
        let from = from.map_or_else(|| unset(operator.setting), |one| one.setting);
        match self.table.set_operator(operator) {
            done @ Set::Done => {
                self.table.add_event(
                    &Event::new(EventKind::Operator, operator.what.clone())
                        .change(name_of(from), name_of(operator.setting))
                        .reason(operator.reason.clone())
                        .by(operator.by.clone()),
                );
                Ok(done)
            }
            Set::Older => Ok(Set::Older),
            Set::Full => Err("there is no room for more settings".to_owned()),
        }
    }

    /// Takes over what operators have set in other processes of a state file. What was already
    /// there when the configuration came into force is no event: see
    /// [`ActiveConfig::restore_operators`].
    pub fn learn_operators(&self, saved: &Saved) {
        for operator in &saved.operators {
            // Without room for more, the next content is tried again.
            let _ = self.set_operator(operator);
        }
    }

    /// Replaces settings whose time has ended by the default. This gives readers a new generation,
    /// which the passing of time alone does not.
    pub fn end_settings(&self) {
        let now = clock::unix_ms();
        for operator in self.table.operators() {
            if operator.until_ms == 0 || now < operator.until_ms {
                continue;
            }
            let setting = unset(operator.setting);
            // The time of the end, not the present: every process that ends the setting then stores
            // the same.
            let ended = Operator {
                setting,
                since_ms: operator.until_ms.max(operator.since_ms.saturating_add(1)),
                until_ms: 0,
                reason: "its time is over".to_owned(),
                ..operator
            };
            // Fails where the same thing was set again meanwhile; that setting stays.
            let _ = self.set_operator(&ended);
        }
    }
}

/// The default of the same kind of setting.
fn unset(setting: Setting) -> Setting {
    match setting {
        Setting::State(_) => Setting::State(OperatorState::Auto),
        Setting::Weight(_) => Setting::Weight(None),
    }
}

fn name_of(setting: Setting) -> String {
    match setting {
        Setting::State(state) => state.name().to_owned(),
        Setting::Weight(None) => "as configured".to_owned(),
        Setting::Weight(Some(weight)) => format!("weight {weight}"),
    }
}
