//! Where the lines go, and which.

use std::path::PathBuf;

use super::record::Event;

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Target {
    #[default]
    Off,
    Stdout,
    File(PathBuf),
}

/// Which lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Events {
    /// Connections that were refused, or cut by a policy that changed.
    Refused,
    /// One line for each connection, at its end.
    Close,
    /// Also when it is opened, and while it lasts.
    #[default]
    All,
}

impl Events {
    pub(super) fn want(self, event: &Event) -> bool {
        match (self, event) {
            (Self::All, _) | (Self::Close, Event::Close(_)) => true,
            (Self::Refused, Event::Close(end)) => !end.was_allowed(),
            (Self::Close | Self::Refused, Event::Open | Event::Progress { .. }) => false,
        }
    }
}
