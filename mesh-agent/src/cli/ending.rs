//! How a verb ends that has an error.

use crate::ca;
use crate::config::Exit;

/// There is nobody or nothing to ask, or no answer: [`Exit::CannotAsk`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct CannotAsk(pub(super) String);

pub(super) fn of(error: &anyhow::Error) -> Exit {
    let is_done = || error.downcast_ref().is_some_and(ca::Error::is_done);
    if error.is::<CannotAsk>() {
        Exit::CannotAsk
    } else if is_done() {
        Exit::Degraded
    } else {
        Exit::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_be_asked_is_told_apart_from_a_no_whatever_is_said_around_it() {
        let none = anyhow::Error::new(CannotAsk("no agent".to_owned()));
        assert_eq!(of(&none), Exit::CannotAsk);
        assert_eq!(of(&none.context("ask")), Exit::CannotAsk);
        assert_eq!(of(&anyhow::Error::msg("it failed")), Exit::No);
    }

    #[test]
    fn what_is_done_is_not_called_failed_though_what_follows_it_is() {
        let half = ca::Error::Half {
            done: "authority a signs now".to_owned(),
            failed: "bundle.pem is not published".to_owned(),
            remedy: "start it again",
        };
        assert_eq!(of(&half.into()), Exit::Degraded);
        assert_eq!(of(&ca::Error::TooManyTokens.into()), Exit::No);
    }
}
