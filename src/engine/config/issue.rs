//! What is wrong with a configuration and where: a path of keys and a sentence.

use std::fmt;

use super::value::shortened;

/// One step from a table to what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// As the user wrote the key, which may be an alias.
    Key(String),
    /// Counted from 1, as Lua counts.
    Index(usize),
}

/// The way from the configuration's root to one of its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path(pub(super) Vec<Step>);

impl Path {
    pub(super) fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    /// `index` counts from 0, the path from 1.
    pub(super) fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index.saturating_add(1)))
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
pub(super) struct Issue {
    pub(super) path: Path,
    pub(super) problem: String,
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
        let path = Path::default().key("backend_servers").index(1).key("port");
        assert_eq!(path.to_string(), "backend_servers[2].port");
        assert_eq!(path.issue("no").to_string(), "backend_servers[2].port: no");
        assert_eq!(Path::default().issue("no").to_string(), "no");
    }
}
