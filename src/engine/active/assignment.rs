//! Which slots and node places of a verdict table the targets and nodes of a configuration have.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::ActiveConfig;
use crate::engine::config::Config;
use crate::engine::routing::{Node, Nodes};
use crate::engine::target::{Secret, Target};
use crate::engine::verdicts::{IdentityHash, NodePlace, Slot, VerdictTable, hash_identity};

/// The slots and node places of a configuration in a table.
pub(super) struct Assigned {
    pub slots: Vec<Slot>,
    pub nodes: Nodes,
    pub node_places: Vec<NodePlace>,
}

impl Assigned {
    /// In the table of `last`. Targets with the password that they had keep their slots: those of `before`, the
    /// configuration in force, and those of `last`, which may have been prepared after it. `None` where the table
    /// is full.
    pub(super) fn after(
        last: &ActiveConfig,
        before: &ActiveConfig,
        identities: &[IdentityHash],
        config: &Config,
    ) -> Option<Self> {
        let passwords = passwords_of(identities, config);
        let kept = |identity: &IdentityHash| {
            let password = *passwords.get(identity)?;
            let known = [before, last].into_iter();
            let mut of_table = known.filter(|known| Arc::ptr_eq(&known.table, &last.table));
            of_table.find_map(|known| known.slot_of(identity, password))
        };
        Self::of(&last.table, identities, config, kept)
    }

    /// `None` where the table is full.
    pub(super) fn of(
        table: &VerdictTable,
        identities: &[IdentityHash],
        config: &Config,
        kept: impl Fn(&IdentityHash) -> Option<Slot>,
    ) -> Option<Self> {
        let mut nodes = Nodes::of(&config.targets);
        if config.cluster.is_some() {
            nodes.compute_digests();
        }
        let names: Vec<u64> = nodes.list.iter().map(Node::name_hash).collect();
        Some(Self {
            slots: table.assign(identities, kept)?,
            node_places: table.assign_nodes(&names)?,
            nodes,
        })
    }
}

/// The password of the first target of each identity, which does not contain it.
fn passwords_of<'a>(
    identities: &'a [IdentityHash],
    config: &'a Config,
) -> HashMap<&'a IdentityHash, &'a Option<Secret>> {
    let passwords = config.targets.iter().map(|target| &target.test_password);
    // Of equal identities the first one is inserted last.
    identities.iter().zip(passwords).rev().collect()
}

/// The identity of each target, in their order.
pub(super) fn identities_of(config: &Config) -> Vec<IdentityHash> {
    let targets = config.targets.iter();
    targets
        .map(|target| hash_identity(&target.identity()))
        .collect()
}

/// The index of each target with a key that an earlier one has, behind that of the first with this key;
/// in the order of the targets.
pub(super) fn namesakes(targets: &[Arc<Target>]) -> Vec<(usize, usize)> {
    let mut firsts = HashMap::with_capacity(targets.len());
    let keys = targets.iter().map(|target| target.key()).enumerate();
    keys.filter_map(|(index, key)| match firsts.entry(key) {
        Entry::Occupied(first) => Some((*first.get(), index)),
        Entry::Vacant(place) => {
            place.insert(index);
            None
        }
    })
    .collect()
}

/// The indices of the first target of each identity, sorted by hash.
pub(super) fn firsts(identities: &[IdentityHash]) -> Vec<u32> {
    let mut firsts: Vec<u32> = (0..).take(identities.len()).collect();
    let hash = |at: &u32| usize::try_from(*at).ok().and_then(|at| identities.get(at));
    // By index as well: of equal identities the first one is in front and is kept.
    firsts.sort_unstable_by_key(|at| (hash(at), *at));
    firsts.dedup_by_key(|at| hash(at));
    firsts.shrink_to_fit();
    firsts
}
