//! What `watch` has printed in a pipe, and what has changed since.

use std::collections::{BTreeMap, HashMap};

use super::source::Row;
use super::table;

/// The rows that were printed last. Several targets may have one key: a row is found by its key and by how
/// many rows before it have the same one.
#[derive(Default)]
pub(super) struct Printed(BTreeMap<(String, usize), Row>);

impl Printed {
    /// The rows whose verdict or state is not what was printed last, by name, and a row for each that is gone.
    pub(super) fn changes(&mut self, rows: &[Row]) -> Vec<Row> {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let mut now = BTreeMap::new();
        let mut changes = Vec::new();
        for row in table::sorted(rows, false) {
            let count = counts.entry(&row.key).or_default();
            let place = (row.key.clone(), *count);
            *count += 1;
            let before = self.0.remove(&place);
            if before.is_none_or(|before| !before.is_like(row)) {
                changes.push(row.clone());
            }
            now.insert(place, row.clone());
        }
        let gone = std::mem::replace(&mut self.0, now);
        changes.extend(gone.into_values().map(Row::gone));
        changes
    }
}

impl Row {
    fn is_like(&self, other: &Self) -> bool {
        (&self.verdict, &self.state) == (&other.verdict, &other.state)
    }

    /// The row of a target that is not configured any more, or of a setting that has ended.
    fn gone(self) -> Self {
        let state = if self.is_target() { "gone" } else { "auto" };
        Self {
            key: self.key,
            state: state.to_owned(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, verdict: &str, state: &str) -> Row {
        Row {
            key: key.to_owned(),
            verdict: verdict.to_owned(),
            state: state.to_owned(),
            ..Row::default()
        }
    }

    fn changed(printed: &mut Printed, rows: &[Row]) -> Vec<[String; 3]> {
        let changes = printed.changes(rows).into_iter();
        changes
            .map(|row| [row.key, row.verdict, row.state])
            .collect()
    }

    #[test]
    fn targets_with_one_key_are_told_apart() {
        let mut printed = Printed::default();
        let rows = [row("a", "alive", "auto"), row("a", "dead", "auto")];
        assert_eq!(changed(&mut printed, &rows).len(), 2);
        assert!(changed(&mut printed, &rows).is_empty());
        let rows = [row("a", "alive", "auto"), row("a", "alive", "auto")];
        assert_eq!(changed(&mut printed, &rows), [["a", "alive", "auto"]]);
        assert!(changed(&mut printed, &rows).is_empty());
    }

    #[test]
    fn what_is_gone_is_a_change() {
        let mut printed = Printed::default();
        let target = row("imap://a:1", "alive", "auto");
        let node = row("node:a", "", "drain");
        printed.changes(&[target.clone(), target.clone(), node]);
        let changes = changed(&mut printed, &[target]);
        let expected = [["imap://a:1", "", "gone"], ["node:a", "", "auto"]];
        assert_eq!(changes, expected);
    }
}
