//! Who may connect to whom: authorization and peer authentication.
//!
//! An [`Authorizer`] follows its snapshot and is swapped with it. Order as
//! Istio's: a matching DENY, else one of the ALLOW policies that select the
//! workload must match, or else one of those of each Service that leads to the
//! port, else allowed. Invariants: only [`Authorizer::check`] makes a [`Permit`],
//! for one address and port; what is not understood, not known (an identity, an SNI) or
//! not decidable without HTTP is read the way that allows less.

mod authorizer;
mod check;
mod compile;
mod index;
mod peer;
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
pub use authorizer::{Authorizer, Here, Where};
pub use compile::{has_http, has_sni};
pub use peer::{Level, level, oldest, selects};
pub use principal::{localize, nobody};
pub use request::Request;
pub use status::PolicyStatus;

/// What a dry-run policy would have said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DryRun {
    pub rule: RuleRef,
    pub allowed: bool,
}

type DryRuns = SmallVec<[DryRun; 1]>;

/// Proof that policy lets a connection arrive at one address and port of a
/// pod; only [`Authorizer::check`] makes one, of the request that it checked: what it
/// consists of is private.
#[derive(Debug)]
pub struct Permit {
    destination: SocketAddr,
    rule: Option<RuleRef>,
    dry_run: DryRuns,
}

impl Permit {
    /// Where the connection may arrive, and nowhere else.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }

    /// The rule that allowed; `None` where no ALLOW policy selects the destination.
    #[must_use]
    pub fn rule(&self) -> Option<&RuleRef> {
        self.rule.as_ref()
    }

    #[must_use]
    pub fn dry_run(&self) -> &[DryRun] {
        &self.dry_run
    }
}

/// Policy said no.
#[derive(Debug)]
pub struct Deny {
    rule: RuleRef,
    dry_run: DryRuns,
}

impl Deny {
    /// The rule that denied; without index: an ALLOW policy of which no rule
    /// matched (the first by name), or a policy that is not understood.
    #[must_use]
    pub fn rule(&self) -> &RuleRef {
        &self.rule
    }

    #[must_use]
    pub fn dry_run(&self) -> &[DryRun] {
        &self.dry_run
    }
}

/// What is said of a connection, or of a request on one, by policy or by all that
/// a destination goes by: there are further reasons than policy to refuse.
#[derive(Debug)]
pub enum Verdict<D = Deny> {
    Permit(Permit),
    Deny(D),
    /// It depends on the request. Of a connection alone this is never said: what
    /// asks for HTTP is read there the way that allows less.
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
pub struct Considered {
    pub policy: Arc<str>,
    pub action: Action,
    pub dry_run: bool,
    /// The rule that matches, if any.
    pub matched: Option<RuleRef>,
    /// A rule of it looks at the caller's address.
    pub asks_address: bool,
    /// What it says and does not do.
    pub problem: Option<String>,
}
