//! The exit statuses of the command, and the failure of a subcommand.

use std::process::ExitCode;

/// The exit status of the command. Scripts rely on the numbers, so they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    Good,
    /// A check failed, a file has mistakes, an engine refused or did not answer.
    Bad,
    /// The command line is wrong.
    Usage,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(match status {
            ExitStatus::Good => 0,
            ExitStatus::Bad => 1,
            ExitStatus::Usage => 2,
        })
    }
}

impl ExitStatus {
    pub(crate) fn good_if(is_good: bool) -> Self {
        if is_good { Self::Good } else { Self::Bad }
    }
}

/// Why a subcommand failed.
#[derive(Debug)]
pub(crate) struct CommandFailure {
    pub(crate) status: ExitStatus,
    pub(crate) reason: String,
}

impl CommandFailure {
    pub(crate) fn bad(reason: impl Into<String>) -> Self {
        Self {
            status: ExitStatus::Bad,
            reason: reason.into(),
        }
    }

    pub(crate) fn usage(reason: impl Into<String>) -> Self {
        Self {
            status: ExitStatus::Usage,
            reason: reason.into(),
        }
    }
}
