//! The names that a request's scripts removed from its base result.

use std::collections::BTreeSet;

use super::super::attribute_name::AttributeName;

/// Up to this many names a linear search is faster than a tree.
const FEW: usize = 8;

/// Names, each once.
#[derive(Debug, Default)]
pub(super) struct Removed {
    /// In order of the calls.
    names: Vec<AttributeName>,
    /// The same names, for searching; empty while there are at most [`FEW`].
    sorted: BTreeSet<AttributeName>,
}

impl Removed {
    pub(super) const fn new() -> Self {
        Self {
            names: Vec::new(),
            sorted: BTreeSet::new(),
        }
    }

    /// In order of the calls.
    pub(super) fn names(&self) -> &[AttributeName] {
        &self.names
    }

    pub(super) fn contains(&self, name: &[u8]) -> bool {
        if self.sorted.is_empty() {
            self.names.iter().any(|known| **known == *name)
        } else {
            self.sorted.contains(name)
        }
    }

    /// Adds a name unless it is there.
    pub(super) fn add(&mut self, name: &[u8]) {
        if self.contains(name) {
            return;
        }
        let name = AttributeName::new(name);
        self.names.push(name.clone());
        if !self.sorted.is_empty() {
            self.sorted.insert(name);
        } else if self.names.len() > FEW {
            self.sorted.extend(self.names.iter().cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_there_once_in_the_order_it_came() {
        let mut removed = Removed::new();
        for count in 0..3 * FEW {
            assert_eq!(removed.names().len(), count);
            let name = format!("n{}", 3 * FEW - count);
            assert!(!removed.contains(name.as_bytes()), "{name}");
            for _ in 0..2 {
                removed.add(name.as_bytes());
                assert!(removed.contains(name.as_bytes()), "{name}");
            }
        }
        let names: Vec<String> = removed.names().iter().map(|n| format!("{n:?}")).collect();
        let wanted: Vec<String> = (1..=3 * FEW).rev().map(|n| format!("\"n{n}\"")).collect();
        assert_eq!(names, wanted);
    }
}
