//! What the exit code of every verb means: the one table of them.

use std::process::ExitCode;

/// How a verb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Yes; or it was done.
    Yes,
    /// No; or it failed.
    No,
    /// The command line is not understood; clap ends so by itself.
    Usage,
    /// There is nobody or nothing to ask, or no answer.
    CannotAsk,
    /// Yes, but not whole.
    Degraded,
}

impl Exit {
    pub(crate) const ALL: [Self; 5] = [
        Self::Yes,
        Self::No,
        Self::Usage,
        Self::CannotAsk,
        Self::Degraded,
    ];

    #[must_use]
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Yes => 0,
            Self::No => 1,
            Self::Usage => 2,
            Self::CannotAsk => 3,
            Self::Degraded => 4,
        }
    }

    /// For people; the same for all verbs.
    #[must_use]
    pub(crate) fn means(self) -> &'static str {
        match self {
            Self::Yes => "yes, or done: ready, allowed, no mistakes, nothing is missing",
            Self::No => {
                "no, or failed: not ready, refused (by some endpoint at least), mistakes, something needed is missing"
            }
            Self::Usage => "the command line is not understood",
            Self::CannotAsk => {
                "cannot ask: no agent answers, there is no such file, pod or Service, or no certain answer"
            }
            Self::Degraded => {
                "degraded: it works, or is done, and something with it does not or is not; what is printed says what, and what to do"
            }
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// For `--help`.
#[must_use]
pub(crate) fn help() -> String {
    let lines = Exit::ALL.map(|exit| format!("  {}  {}", exit.code(), exit.means()));
    format!("Exit codes of all commands:\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usage_error_has_the_code_that_clap_ends_with() {
        use clap::CommandFactory as _;
        let error =
            crate::config::Cli::command().error(clap::error::ErrorKind::UnknownArgument, "");
        assert_eq!(error.exit_code(), i32::from(Exit::Usage.code()));
    }

    #[test]
    fn every_ending_has_a_code_of_its_own() {
        let codes: std::collections::BTreeSet<u8> = Exit::ALL.map(Exit::code).into();
        assert_eq!(codes.len(), Exit::ALL.len());
    }
}
