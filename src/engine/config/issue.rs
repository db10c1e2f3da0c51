//! A mistake in a configuration: the path of keys to it, and a sentence.

use std::fmt;

use super::text::shortened;

/// One step from a table to what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// As the user wrote the key, which may be an alias.
    Key(String),
    /// Counted from 1, as Lua counts.
    Index(usize),
}

impl Step {
    /// To the item at `index`, counted from 0.
    pub fn item(index: usize) -> Self {
        Self::Index(index.saturating_add(1))
    }
}

/// The way from the configuration's root to one of its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path(pub(super) Vec<Step>);

impl Path {
    pub(super) fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    pub(super) fn issue(self, problem: impl Into<String>) -> Issue {
        Issue {
            path: self,
            problem: problem.into(),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    if at > 0 {
                        f.write_str(".")?;
                    }
                    f.write_str(&shortened(key))?;
                }
            }
        }
        Ok(())
    }
}

/// Why a configuration is refused: `backend_servers[2].port: integer 1..65535 expected, got 70000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    pub(super) path: Path,
    pub(super) problem: String,
}

impl Issue {
    /// An issue with an empty path. Callers that know where the value stands add steps in front.
    pub fn new(problem: impl Into<String>) -> Self {
        Path::default().issue(problem)
    }

    /// The same issue with one more step in front of its path. Only errors build a path, step by step on
    /// their way out: reading a value without an error allocates none.
    #[must_use]
    pub fn under(mut self, step: Step) -> Self {
        self.path.0.insert(0, step);
        self
    }

    /// The same issue with all of `path` in front of its own.
    #[must_use]
    pub(super) fn within(mut self, path: &Path) -> Self {
        let mut steps = path.0.clone();
        steps.append(&mut self.path.0);
        self.path.0 = steps;
        self
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.0.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_lua_would_index_it() {
        let issue = Issue::new("no");
        assert_eq!(issue.to_string(), "no");
        let issue = issue.under(Step::Key("port".to_owned()));
        let issue = issue.under(Step::item(1));
        assert_eq!(issue.to_string(), "[2].port: no");
        let list = Path::default().key("a").key("backend_servers");
        let issue = issue.within(&list);
        assert_eq!(issue.path.to_string(), "a.backend_servers[2].port");
        assert_eq!(issue.to_string(), "a.backend_servers[2].port: no");
    }
}
