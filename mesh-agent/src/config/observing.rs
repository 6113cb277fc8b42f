//! What is looked at: which connections, and which lines of the log.

use clap::{Args, ValueEnum};

use crate::observe::{AccessLogEvents, ConnectionFilter};

/// Which connections are listed.
#[derive(Debug, Args)]
pub(crate) struct Listed {
    /// Most that are listed.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Only those of this pod, NAMESPACE/NAME, at either end.
    #[arg(long)]
    pod: Option<String>,
    /// Only those of this SPIFFE id, at either end.
    #[arg(long)]
    principal: Option<String>,
    /// Only those that are carried, or that were refused.
    #[arg(long, value_enum)]
    state: Option<State>,
}

impl Listed {
    #[must_use]
    pub(crate) fn filter(self) -> ConnectionFilter {
        let state = self.state.and_then(|state| state.to_possible_value());
        ConnectionFilter {
            limit: self.limit,
            pod: self.pod,
            principal: self.principal,
            state: state.map(|value| value.get_name().to_owned()),
            id: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum State {
    /// Carried now.
    Open,
    /// Refused lately: the last 256 of each worker.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lines {
    /// Connections that were refused, or cut by a policy that changed.
    Refused,
    /// One for each connection, at its end.
    Close,
    /// Also when it is opened, and every 10 s while it lasts.
    All,
}

impl From<Lines> for AccessLogEvents {
    fn from(lines: Lines) -> Self {
        match lines {
            Lines::Refused => Self::Refused,
            Lines::Close => Self::Close,
            Lines::All => Self::All,
        }
    }
}
