//! The settings that decide which node a user belongs on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::issue::{Issue, Step};
use super::keys::{self, Key, MAX_NAME, MAX_SEPARATOR};
use super::reader::Reader;
use crate::engine::target::{Placement, Target};

/// When a node may be given users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeUsable {
    /// While all of its vital targets are alive.
    All,
    /// While any of its targets is alive.
    Any,
    /// While a target of it that the filter matches is alive.
    Match,
}

/// The part of a user's name that decides on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserKey {
    /// All of it, ASCII letters in lower case.
    Lower,
    /// All of it as it is.
    Exact,
    /// The part before the last `@`, in lower case; all of it where there is none.
    Local,
    /// The part after the last `@`, in lower case; nothing where there is none.
    Domain,
}

/// How users are routed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutingSettings {
    pub node_usable: NodeUsable,
    /// How long a target has to be dead before routing leaves it. At most 24 h.
    pub node_down_after: Duration,
    /// How long a target has to be alive again before routing returns to it. At most 24 h.
    pub node_up_after: Duration,
    pub user_key: UserKey,
    /// A user's name is cut off at the first of these; never empty.
    pub master_separator: Option<String>,
    /// The local part of a user's name is cut off at the first of these; never empty.
    pub detail_separator: Option<String>,
    /// How long after a node began to drain its last binding ends. At most 24 h.
    pub drain_time: Duration,
}

impl Default for RoutingSettings {
    /// The settings of a configuration without any of these keys.
    fn default() -> Self {
        Self {
            node_usable: NodeUsable::All,
            node_down_after: Duration::from_secs(10),
            node_up_after: Duration::from_secs(30),
            user_key: UserKey::Lower,
            master_separator: None,
            detail_separator: None,
            drain_time: Duration::from_secs(15 * 60),
        }
    }
}

pub(super) fn settings(reader: &Reader<'_>) -> Result<RoutingSettings, Issue> {
    let separator = |key: &Key| -> Result<Option<String>, Issue> {
        let text = reader.text(key, |text| (1..=MAX_SEPARATOR).contains(&text.len()))?;
        Ok(text.map(str::to_owned))
    };
    Ok(RoutingSettings {
        node_usable: match reader.choice_or_default(&keys::NODE_USABLE)? {
            "any" => NodeUsable::Any,
            "match" => NodeUsable::Match,
            _ => NodeUsable::All,
        },
        node_down_after: reader.duration_or_default(&keys::NODE_DOWN_AFTER)?,
        node_up_after: reader.duration_or_default(&keys::NODE_UP_AFTER)?,
        user_key: match reader.choice_or_default(&keys::USER_KEY)? {
            "exact" => UserKey::Exact,
            "local" => UserKey::Local,
            "domain" => UserKey::Domain,
            _ => UserKey::Lower,
        },
        master_separator: separator(&keys::MASTER_SEPARATOR)?,
        detail_separator: separator(&keys::DETAIL_SEPARATOR)?,
        drain_time: reader.duration_or_default(&keys::DRAIN_TIME)?,
    })
}

/// The node, pool and weight of a target, from its table.
pub(super) fn placement(reader: &Reader<'_>) -> Result<Placement, Issue> {
    let name = |key: &Key| -> Result<Option<Box<str>>, Issue> {
        Ok(reader.text(key, is_name)?.map(Box::from))
    };
    Ok(Placement {
        node: name(&keys::NODE)?,
        pool: name(&keys::POOL)?.unwrap_or_default(),
        weight: u16::try_from(reader.integer_or_default(&keys::WEIGHT)?)
            .map_err(|_| reader.missing(&keys::WEIGHT))?,
        vital: reader.boolean_or_default(&keys::VITAL)?,
    })
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && !text.contains(char::is_control)
}

/// Checks that the targets of each node are in one pool and have one weight. `list`: what the
/// configuration calls the list of them.
pub(super) fn check_nodes(targets: &[Arc<Target>], list: &str) -> Result<(), Issue> {
    let mut first = None;
    each_node_conflict(targets.iter().enumerate(), list, &mut |issue| {
        first.get_or_insert(issue);
    });
    first.map_or(Ok(()), Err)
}

/// Passes every contradiction between targets of one node to `report`. `targets`: with their
/// indexes in the list.
pub(super) fn each_node_conflict<'t>(
    targets: impl Iterator<Item = (usize, &'t Arc<Target>)>,
    list: &str,
    report: &mut dyn FnMut(Issue),
) {
    let mut first_of: HashMap<String, (usize, &Arc<Target>)> = HashMap::new();
    for (index, target) in targets {
        let (first, before) = *first_of
            .entry(target.node().into_owned())
            .or_insert((index, target));
        let (here, there) = (&target.placement, &before.placement);
        let (key, expected, got) = if here.pool != there.pool {
            (
                &keys::POOL,
                format!("{:?}", there.pool),
                format!("{:?}", here.pool),
            )
        } else if here.weight != there.weight {
            (
                &keys::WEIGHT,
                there.weight.to_string(),
                here.weight.to_string(),
            )
        } else {
            continue;
        };
        let problem = format!(
            "{expected} expected as in {list}[{}], a target of the same node {:?}; got {got}",
            first + 1,
            target.node(),
        );
        report(
            Issue::new(problem)
                .under(Step::Key(key.name.to_owned()))
                .under(Step::item(index))
                .under(Step::Key(list.to_owned())),
        );
    }
}
