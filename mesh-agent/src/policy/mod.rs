//! Who may connect to whom: authorization and peer authentication.
//!
//! An [`Authorizer`] follows its snapshot and is swapped with it. Order as
//! Istio's: a matching DENY, else one of the ALLOW policies that select the
//! workload must match, or else one of those of each Service that leads to the
//! port, else allowed. Invariants: only [`Authorizer::check`] makes a [`Permit`],
//! for one address and port, and of what a request decides only for that request; what
//! is not understood or not known (an identity, a token) is read the way that allows
//! less, and so is what servers read differently.

mod authorizer;
mod check;
mod compile;
mod head;
mod index;
mod peer;
mod predicate;
mod principal;
mod reach;
mod request;
mod status;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::model::RuleRef;
use crate::model::policy::Action;
#[cfg(test)]
pub(crate) use authorizer::Rejudged;
pub(crate) use authorizer::{Authorizer, Here, Where};
pub(crate) use compile::{has_http, is_unserved};
pub(crate) use head::may_be;
pub(crate) use peer::{Level, level, oldest, selects};
pub(crate) use predicate::Needs;
pub(crate) use principal::{localize, nobody};
pub(crate) use reach::leading;
pub(crate) use request::Request;
pub(crate) use status::{PolicyStatus, UNSERVED};

/// What a dry-run policy would have said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DryRun {
    pub(crate) rule: RuleRef,
    pub(crate) allowed: bool,
}

type DryRuns = SmallVec<[DryRun; 1]>;

/// Proof that policy lets a connection or a request arrive at one address and port of
/// a pod; only [`Authorizer::check`] makes one, of the request that it checked: what it
/// consists of is private.
#[derive(Debug)]
pub(crate) struct Permit {
    destination: SocketAddr,
    rule: Option<RuleRef>,
    dry_run: DryRuns,
}

impl Permit {
    /// Where the connection may arrive, and nowhere else.
    #[must_use]
    pub(crate) fn destination(&self) -> SocketAddr {
        self.destination
    }

    /// The rule that allowed; `None` where no ALLOW policy selects the destination.
    #[must_use]
    pub(crate) fn rule(&self) -> Option<&RuleRef> {
        self.rule.as_ref()
    }

    #[must_use]
    pub(crate) fn dry_run(&self) -> &[DryRun] {
        &self.dry_run
    }
}

/// Policy said no.
#[derive(Debug)]
pub(crate) struct Deny {
    rule: RuleRef,
    by: Action,
    dry_run: DryRuns,
}

impl Deny {
    /// The rule that denied; without index: an ALLOW policy of which no rule
    /// matched (the first by name), or a policy that is not understood.
    #[must_use]
    pub(crate) fn rule(&self) -> &RuleRef {
        &self.rule
    }

    /// As Istio's access log says it, in the details of a 403.
    #[must_use]
    pub(crate) fn details(&self) -> String {
        let by_rule = self.by == Action::Deny;
        let (namespace, policy) = self.rule.policy.split_once('/').unwrap_or_default();
        let matched = match self.rule.rule {
            Some(rule) => format!("ns[{namespace}]-policy[{policy}]-rule[{rule}]"),
            // It is not understood, and denies all.
            None if by_rule => format!("ns[{namespace}]-policy[{policy}]"),
            None => "none".to_owned(),
        };
        format!("rbac_access_denied_matched_policy[{matched}]")
    }

    #[must_use]
    pub(crate) fn dry_run(&self) -> &[DryRun] {
        &self.dry_run
    }
}

/// What is said of a connection, or of a request on one, by policy or by all that
/// a destination goes by: there are further reasons than policy to refuse.
#[derive(Debug)]
pub(crate) enum Verdict<D = Deny> {
    Permit(Permit),
    Deny(D),
    /// It depends on what comes: the head of a request, or the name in a TLS hello. It
    /// is no leave for anything, and never said of a request.
    NeedsRequest,
}

impl<D> Verdict<D> {
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn is_permit(&self) -> bool {
        matches!(self, Self::Permit(_))
    }

    /// The same, where no is said in other words.
    pub(crate) fn map_deny<E>(self, deny: impl FnOnce(D) -> E) -> Verdict<E> {
        match self {
            Self::Permit(permit) => Verdict::Permit(permit),
            Self::Deny(said) => Verdict::Deny(deny(said)),
            Self::NeedsRequest => Verdict::NeedsRequest,
        }
    }
}

/// One policy that was looked at, for `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Considered {
    pub(crate) policy: Arc<str>,
    pub(crate) action: Action,
    pub(crate) dry_run: bool,
    /// The rule that matches, if any.
    pub(crate) matched: Option<RuleRef>,
    /// A rule may match: the request says it.
    pub(crate) needs_request: bool,
    /// A rule of it looks at the caller's address.
    pub(crate) asks_address: bool,
    /// What it says and does not do.
    pub(crate) problem: Option<String>,
}
