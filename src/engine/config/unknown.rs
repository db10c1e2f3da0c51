//! The error for an unknown key, with the known keys that were most likely meant.

use super::keys::{CLUSTER_KEYS, Key, SERVICE_KEYS, TARGET_KEYS};

/// Names that other programs use for a key of this module, or that could mean several of its keys. If
/// none of these keys is valid in the table that has the name, nothing is suggested: the key that is spelt
/// most like it would mislead.
const OTHER_NAMES: &[(&[&str], &[&str])] = &[
    (
        &[
            "proxy_protocol",
            "proxy",
            "proxy_v2",
            "send_proxy",
            "send_proxy_v2",
        ],
        &["haproxy_v2"],
    ),
    (&["ssl", "use_tls", "use_ssl"], &["tls"]),
    (&["starttls"], &["tls_mode"]),
    (
        &["timeout"],
        &["connect_timeout", "tls_timeout", "deep_timeout"],
    ),
    (
        &["interval"],
        &["connect_interval", "deep_interval", "fast_interval"],
    ),
    (&["inter"], &["connect_interval"]),
    (&["fastinter", "downinter"], &["fast_interval"]),
    (&["fall"], &["failure_threshold"]),
    (&["rise"], &["recovery_threshold"]),
    (&["name"], &["host", "node"]),
    (&["address", "addr", "server"], &["host"]),
    (&["user", "login"], &["test_username"]),
    (&["enabled", "enable", "disabled", "disable"], &[]),
];

/// The most keys that an error suggests. A name that resembles more keys than this says nothing about what
/// was meant.
const MAX_SUGGESTED: usize = 4;

const CLUSTER: &str = "cluster";

/// All tables of keys, by what an error calls them.
const TABLES: [(&[Key], &str); 3] = [
    (SERVICE_KEYS, "the service section"),
    (TARGET_KEYS, "a target"),
    (CLUSTER_KEYS, CLUSTER),
];

/// The error for a key that is in neither `keys` nor `extra`.
pub(super) fn unknown(name: &str, keys: &[Key], extra: &[&str]) -> String {
    let first = keys.first().map(|key| key.name);
    let is_here = |table: &[Key]| table.first().map(|key| key.name) == first;
    let has = |table: &[Key]| table.iter().any(|key| key.is_named(name));
    let here = TABLES.iter().find(|(table, _)| is_here(table));
    let belongs = |owner: &str| {
        let (_, here) = here?;
        Some(format!("unknown key of {here}; it belongs to {owner}"))
    };
    let mut owners = TABLES.iter().filter(|(table, _)| has(table));
    let owner = owners.next().map_or("", |(_, owner)| owner);
    // Keys of `cluster` have common names, such as `timeout`. In another table such a name probably means
    // a key of that table, so similar keys of it are suggested first.
    if let Some(told) = belongs(owner).filter(|_| !owner.is_empty() && owner != CLUSTER) {
        return told;
    }
    let names: Vec<&str> = keys
        .iter()
        .flat_map(|key| key.aliases.iter().copied().chain([key.name]))
        .chain(extra.iter().copied())
        .collect();
    let likely = likely(&written(name), &names);
    match likely.split_last() {
        None => belongs(owner)
            .filter(|_| !owner.is_empty())
            .unwrap_or_else(|| "unknown key".to_owned()),
        Some((only, [])) => format!("unknown key; did you mean {only}?"),
        Some((last, others)) => {
            format!("unknown key; did you mean {} or {last}?", others.join(", "))
        }
    }
}

/// The names among `known` that `name` may have been meant for.
fn likely<'n>(name: &str, known: &[&'n str]) -> Vec<&'n str> {
    if let Some((_, meant)) = OTHER_NAMES
        .iter()
        .find(|(others, _)| others.contains(&name))
    {
        return known
            .iter()
            .copied()
            .filter(|key| meant.contains(key))
            .collect();
    }
    let has_words = |key: &&str| format!("_{key}_").contains(&format!("_{name}_"));
    let parts: Vec<&str> = known.iter().copied().filter(has_words).collect();
    if (2..=MAX_SUGGESTED).contains(&parts.len()) {
        return parts;
    }
    nearest(name, known.iter().copied()).into_iter().collect()
}

/// A name in the spelling that keys have.
fn written(name: &str) -> String {
    // No key is nearly as long as `MAX_COMPARED`.
    if name.len() > MAX_COMPARED {
        return name.to_owned();
    }
    name.to_ascii_lowercase().replace('-', "_")
}

/// The longest name that is compared with others, in bytes: comparing takes time that grows with
/// the length.
const MAX_COMPARED: usize = 64;

/// Whether `name` is a misspelling of `expected`: a few letters differ.
pub(super) fn is_misspelt(name: &str, expected: &str) -> bool {
    const MAX_DIFFERENCE: usize = 4;
    name.len().abs_diff(expected.len()) <= MAX_DIFFERENCE
        && strsim::damerau_levenshtein(&written(name), expected) <= MAX_DIFFERENCE
}

/// The known name a user most likely meant: a third of it may differ, or one name may be a
/// part of the other (`username`, `hostname`); case does not count.
pub fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if name.len() > MAX_COMPARED {
        return None;
    }
    let name = written(name);
    known
        .map(|candidate| (strsim::damerau_levenshtein(&name, candidate), candidate))
        .filter(|(distance, candidate)| {
            let part = name.len() > 2 && candidate.contains(&name) || name.contains(candidate);
            part || *distance <= (candidate.len() / 3).max(1)
        })
        .min()
        .map(|(_, candidate)| candidate)
}
