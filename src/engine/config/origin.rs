//! Where a configuration was written, for errors that appear when it is put in force.

use std::path::{Path as FilePath, PathBuf};

use super::issue::Path;

/// The file and the lines of what cannot be checked before a configuration is put in force. It is
/// no part of what is configured, so all origins are equal: the same settings from another file,
/// or from other lines of it, are the same configuration.
#[derive(Clone, Debug, Default, Eq)]
pub struct ConfigOrigin {
    file: Option<PathBuf>,
    lines: Option<Lines>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Lines {
    /// The path of the section.
    section: String,
    log: usize,
    state_file: usize,
}

impl PartialEq for ConfigOrigin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl ConfigOrigin {
    /// In a YAML text; `line_at` has the line of the value at a path.
    pub(super) fn in_text(section: &Path, line_at: impl Fn(&Path) -> usize) -> Self {
        Self {
            file: None,
            lines: Some(Lines {
                section: section.to_string(),
                log: line_at(&section.key("log")),
                state_file: line_at(&section.key("state_file")),
            }),
        }
    }

    /// The same in a file.
    pub(super) fn in_file(self, file: &FilePath) -> Self {
        Self {
            file: Some(file.to_owned()),
            ..self
        }
    }

    /// `reason` (`log: why`) with the file and the line of the key `log`; as it is for a table.
    pub fn of_log(&self, reason: &str) -> String {
        self.place(reason, |lines| Some(lines.log))
    }

    /// The same for `state_file: why`.
    pub fn of_state_file(&self, reason: &str) -> String {
        self.place(reason, |lines| Some(lines.state_file))
    }

    /// The same for `backend_servers[2].tls_ca_file: why` and `cluster.key_file: why`, without a line.
    pub(super) fn of_target(&self, reason: &str) -> String {
        self.place(reason, |_| None)
    }

    fn place(&self, reason: &str, line: impl Fn(&Lines) -> Option<usize>) -> String {
        let mut out = String::new();
        if let Some(file) = &self.file {
            out.push_str(&format!("{}: ", file.display()));
        }
        if let Some(lines) = &self.lines {
            if let Some(line) = line(lines) {
                out.push_str(&format!("line {line}: "));
            }
            out.push_str(&format!("{}.", lines.section));
        }
        out.push_str(reason);
        out
    }
}
