//! Finds the service section in a whole Nauthilus file, which has it under one of two names among
//! many other sections.

use super::issue::{Issue, Path};
use super::keys::SERVICE_KEYS;
use super::unknown::is_misspelt;
use super::value::Value;

/// The documented name, and Nauthilus 3's.
const NAMES: [&[&str]; 2] = [
    &["backend_server_monitoring"],
    &["auth", "services", "backend_health_checks"],
];

/// A node that may be a table with named members.
pub(super) trait Members: Copy {
    /// The member of that name, if this is a table that has it and it is not null.
    fn member(self, name: &str) -> Option<Self>;

    /// The names of its members, also of those that are null; none if this is no table. At most
    /// [`MAX_NAMES`]: each is compared with the names of the section, which takes time.
    fn names(self) -> Vec<String>;
}

/// The most names that are compared.
pub(super) const MAX_NAMES: usize = 1_000;

impl Members for &Value {
    fn member(self, name: &str) -> Option<Self> {
        let Value::Map(entries) = self else {
            return None;
        };
        let (_, value) = entries.iter().find(|(key, _)| key == name)?;
        (*value != Value::Nil).then_some(value)
    }

    fn names(self) -> Vec<String> {
        let entries: &[(String, Value)] = match self {
            Value::Map(entries) => entries,
            _ => &[],
        };
        entries
            .iter()
            .take(MAX_NAMES)
            .map(|(name, _)| name.clone())
            .collect()
    }
}

/// The section and its path; `None` when neither is there.
///
/// # Errors
/// Both are there.
fn find<T: Members>(root: T) -> Result<Option<(Path, T)>, Issue> {
    let mut found = None;
    for name in NAMES {
        let mut at = Some(root);
        let mut path = Path::default();
        for step in name {
            at = at.and_then(|tree| tree.member(step));
            path = path.key(step);
        }
        match (at, &found) {
            (Some(_), Some((first, _))) => {
                let problem = format!("{first} is there, too; keep one of the two");
                return Err(path.issue(problem));
            }
            (Some(section), None) => found = Some((path, section)),
            (None, _) => {}
        }
    }
    Ok(found)
}

/// The mistake if neither section is found: one of them is empty, or its name is misspelt.
fn empty_or_misspelt<T: Members>(root: T) -> Option<Issue> {
    let mut misspelt = None;
    for steps in NAMES {
        let (name, parents) = steps.split_last()?;
        let mut path = Path::default();
        let mut parent = Some(root);
        for step in parents {
            parent = parent.and_then(|tree| tree.member(step));
            path = path.key(step);
        }
        for given in parent.map(Members::names).unwrap_or_default() {
            if given == *name {
                return Some(path.key(name).issue("table expected, got nothing"));
            }
            if misspelt.is_none() && is_misspelt(&given, name) {
                let problem = format!("unknown section; did you mean {name}?");
                misspelt = Some(path.key(&given).issue(problem));
            }
        }
    }
    misspelt
}

/// The section of a whole file.
///
/// # Errors
/// Neither or both of the two are there, or one is empty.
pub(super) fn in_file<T: Members>(root: T) -> Result<(Path, T), Issue> {
    if let Some(found) = find(root)? {
        return Ok(found);
    }
    if let Some(issue) = empty_or_misspelt(root) {
        return Err(issue);
    }
    let [documented, nested] = NAMES.map(|name| name.join("."));
    let mut problem = format!("section {documented} or {nested} expected, got neither");
    if let Some(key) = SERVICE_KEYS
        .iter()
        .find(|key| root.member(key.name).is_some())
    {
        problem.push_str(&format!(" ({} belongs inside it)", key.name));
    }
    Err(Path::default().issue(problem))
}

/// The section of a table: the table itself, unless it holds the section as a file does.
///
/// # Errors
/// Both sections are there, one is empty or misspelt, or keys of the section beside it.
pub(super) fn in_table(root: &Value) -> Result<(Path, &Value), Issue> {
    let Some((path, section)) = find(root)? else {
        return match empty_or_misspelt(root) {
            Some(issue) => Err(issue),
            None => Ok((Path::default(), root)),
        };
    };
    match SERVICE_KEYS
        .iter()
        .find(|key| root.member(key.name).is_some())
    {
        Some(key) => {
            let problem = format!("stands beside {path}; it belongs inside");
            Err(Path::default().key(key.name).issue(problem))
        }
        None => Ok((path, section)),
    }
}
