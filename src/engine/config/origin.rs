//! Where a configuration was written, for errors that appear when it is put in force.

use std::path::{Path as FilePath, PathBuf};

use super::issue::Path;
use super::text::shown_path;

/// The file, and the lines of the keys whose values are only checked when the configuration is put in
/// force. All origins compare as equal: the same settings from another file, or from other lines, are the
/// same configuration, and putting it in force again must change nothing.
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
    /// The origin in a YAML text. `line_at` returns the line of the value at a path.
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

    /// The same origin with the file's path.
    pub(super) fn in_file(self, file: &FilePath) -> Self {
        Self {
            file: Some(file.to_owned()),
            ..self
        }
    }

    /// Puts the file and the line of the key `log` in front of `reason` (`log: why`). Returns `reason`
    /// unchanged if the configuration came from a table.
    pub fn of_log(&self, reason: &str) -> String {
        self.place(reason, |lines| Some(lines.log))
    }

    /// Like [`Self::of_log`], for `state_file: why`.
    pub fn of_state_file(&self, reason: &str) -> String {
        self.place(reason, |lines| Some(lines.state_file))
    }

    /// Like [`Self::of_log`], for `backend_servers[2].tls_ca_file: why` and `cluster.key_file: why`; without
    /// a line, since only those of `log` and `state_file` are kept.
    pub(super) fn of_target(&self, reason: &str) -> String {
        self.place(reason, |_| None)
    }

    fn place(&self, reason: &str, line: impl Fn(&Lines) -> Option<usize>) -> String {
        let mut out = String::new();
        if let Some(file) = &self.file {
            out.push_str(&format!("{}: ", shown_path(file)));
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
