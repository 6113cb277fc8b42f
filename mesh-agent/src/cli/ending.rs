//! How a verb ends that has an error.

use crate::config::Exit;

/// There is nobody or nothing to ask, or no answer: [`Exit::CannotAsk`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct CannotAsk(pub(super) String);

pub(super) fn of(error: &anyhow::Error) -> Exit {
    match error.is::<CannotAsk>() {
        true => Exit::CannotAsk,
        false => Exit::No,
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
}
