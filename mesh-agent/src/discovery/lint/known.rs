//! Who there is, for rules that name somebody.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::model::policy::{Pattern, ServiceAccount};
use crate::model::{Name, Snapshot, SpiffeId};

/// Identities of all pods, in the mesh or not yet.
#[derive(Debug, Default)]
pub(super) struct Known {
    accounts: BTreeMap<Name, BTreeSet<String>>,
    principals: BTreeSet<String>,
}

impl Known {
    /// Looks at the namespace again. Are there other identities now?
    pub(super) fn look(&mut self, namespace: &Name, snapshot: &Snapshot) -> bool {
        let domain = &snapshot.settings.trust_domain;
        let id = |account: &str| SpiffeId::new(domain, namespace, account).ok();
        let workloads = snapshot.workloads.in_namespace(namespace);
        let mut now: BTreeSet<&str> = workloads.map(|w| &*w.service_account).collect();
        now.retain(|account| id(account).is_some());
        let before = self.accounts.get(namespace);
        let count = before.map_or(0, BTreeSet::len);
        if count == now.len() && before.is_none_or(|b| b.iter().eq(now.iter())) {
            return false;
        }
        for account in before.into_iter().flatten() {
            if let Some(id) = id(account) {
                self.principals.remove(id.principal());
            }
        }
        for account in &now {
            let id = id(account).map(|id| id.principal().to_owned());
            self.principals.extend(id);
        }
        let now: BTreeSet<String> = now.into_iter().map(str::to_owned).collect();
        match now.is_empty() {
            true => drop(self.accounts.remove(namespace)),
            false => drop(self.accounts.insert(namespace.clone(), now)),
        }
        true
    }

    pub(super) fn is_principal(&self, pattern: &Pattern) -> bool {
        match pattern {
            Pattern::Exact(exact) => self.principals.contains(exact),
            Pattern::Prefix(prefix) => {
                let from: (Bound<&str>, Bound<&str>) = (Bound::Included(prefix), Bound::Unbounded);
                let next = self.principals.range::<str, _>(from).next();
                next.is_some_and(|principal| principal.starts_with(prefix.as_str()))
            }
            Pattern::Suffix(_) | Pattern::Present => {
                self.principals.iter().any(|p| pattern.matches(p))
            }
        }
    }

    pub(super) fn is_namespace(&self, pattern: &Pattern) -> bool {
        match pattern {
            Pattern::Exact(exact) => self.accounts.contains_key(exact.as_str()),
            _ => self
                .accounts
                .keys()
                .any(|name| pattern.matches(name.as_str())),
        }
    }

    pub(super) fn is_account(&self, account: &ServiceAccount) -> bool {
        let accounts = self.accounts.get(account.namespace.as_str());
        accounts.is_some_and(|accounts| accounts.contains(&account.name))
    }
}
