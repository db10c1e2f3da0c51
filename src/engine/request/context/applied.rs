//! The attributes that a request's results were applied with, and which call set each.

use std::collections::BTreeMap;

use super::super::attribute_name::AttributeName;
use super::super::result::{AttributeValue, Attributes};

/// The attributes applied so far.
#[derive(Debug, Default)]
pub(super) enum Applied {
    #[default]
    Nothing,
    /// The attributes of one result: the only one, or a later one that set every name anew.
    Once(Attributes),
    /// Of several calls; with each name the number of the call that set it.
    Merged {
        calls: u64,
        by_name: BTreeMap<AttributeName, (u64, AttributeValue)>,
    },
}

impl Applied {
    /// Merges the attributes of one more result: the later value of a name wins.
    pub(super) fn add(&mut self, attributes: &Attributes) {
        if attributes.is_empty() {
            return;
        }
        // This result sets every name that earlier ones have set, so it replaces them all.
        if matches!(self, Self::Nothing)
            || self.iter().all(|(_, name, _)| attributes.contains(name))
        {
            *self = Self::Once(attributes.clone());
            return;
        }
        let (call, mut by_name) = match std::mem::take(self) {
            Self::Merged { calls, by_name } => (calls.saturating_add(1), by_name),
            before => {
                let own = |(call, name, value): (u64, &AttributeName, &AttributeValue)| {
                    (name.clone(), (call, value.clone()))
                };
                (2, before.iter().map(own).collect())
            }
        };
        for (name, value) in attributes.iter() {
            by_name.insert(name.clone(), (call, value.clone()));
        }
        *self = Self::Merged {
            calls: call,
            by_name,
        };
    }

    /// Number of the call (from 1), name and value, sorted by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &AttributeName, &AttributeValue)> {
        let (once, merged) = match self {
            Self::Nothing => (None, None),
            Self::Once(attributes) => (Some(attributes), None),
            Self::Merged { by_name, .. } => (None, Some(by_name)),
        };
        let once = once
            .into_iter()
            .flat_map(|attributes| attributes.iter().map(|(name, value)| (1, name, value)));
        let merged = merged.into_iter().flat_map(|by_name| {
            by_name
                .iter()
                .map(|(name, (call, value))| (*call, name, value))
        });
        once.chain(merged)
    }
}
