//! Of what an object consists, and what is left where it is none.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::model::WorkloadKey;

/// What of an object cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Labels,
    Annotations,
    Node,
    Account,
    HostNetwork,
    Phase,
    Addresses,
    Ports,
    Selector,
    Endpoints,
    /// A pod's runtime class, and the handler of one.
    Class,
    /// What a route, a grant or a TrafficPolicy says.
    Route,
    /// Which object it is: a guess stands for it.
    Name,
    /// Of a policy that is kept without being named: whether it is what cannot be read.
    Hidden,
    /// Of a policy that is kept without being named, nothing: it is in its place no more, and
    /// is kept only while there are mistakes.
    Gone,
    /// Nothing is lost by it.
    Nothing,
}

impl Part {
    const ALL: [Self; 16] = [
        Self::Labels,
        Self::Annotations,
        Self::Node,
        Self::Account,
        Self::HostNetwork,
        Self::Phase,
        Self::Addresses,
        Self::Ports,
        Self::Selector,
        Self::Endpoints,
        Self::Class,
        Self::Route,
        Self::Name,
        Self::Hidden,
        Self::Gone,
        Self::Nothing,
    ];
}

/// Some of them. Each object has one, and most are empty: it is as small as one
/// number.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Parts(u16);

impl Parts {
    pub(in crate::discovery) fn insert(&mut self, part: Part) {
        self.0 |= 1 << part as u16;
    }

    pub(in crate::discovery) fn contains(self, part: Part) -> bool {
        self.0 & (1 << part as u16) != 0
    }

    pub(in crate::discovery) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(in crate::discovery) fn iter(self) -> impl Iterator<Item = Part> {
        Part::ALL
            .into_iter()
            .filter(move |part| self.contains(*part))
    }
}

impl Extend<Part> for Parts {
    fn extend<I: IntoIterator<Item = Part>>(&mut self, parts: I) {
        parts.into_iter().for_each(|part| self.insert(part));
    }
}

impl FromIterator<Part> for Parts {
    fn from_iter<I: IntoIterator<Item = Part>>(parts: I) -> Self {
        let mut all = Self::default();
        all.extend(parts);
        all
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// It may be a pod of the mesh, a Service, or a namespace in the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unknown {
    /// It may be about these, unless another object is.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// It may be about any address, unless another object is.
    pub(crate) hides_addresses: bool,
    /// Pods that it may be about.
    pub(crate) pods: BTreeSet<WorkloadKey>,
    /// It may be about pods that it does not name.
    pub(crate) hides_pods: bool,
    /// Namespaces that it may put into the mesh.
    pub(crate) namespaces: BTreeSet<String>,
    /// It may put any namespace into the mesh.
    pub(crate) hides_namespaces: bool,
}

impl Unknown {
    /// Of which nothing is known.
    pub(in crate::discovery) fn anything() -> Self {
        Self {
            hides_addresses: true,
            hides_pods: true,
            hides_namespaces: true,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_those_that_were_put_in() {
        for (at, part) in Part::ALL.into_iter().enumerate() {
            assert_eq!(part as usize, at);
            let parts: Parts = [part, part].into_iter().collect();
            assert_eq!(parts.iter().collect::<Vec<_>>(), [part]);
            assert!(parts.contains(part) && !parts.is_empty());
        }
        let all: Parts = Part::ALL.into_iter().collect();
        assert_eq!(all.iter().collect::<Vec<_>>(), Part::ALL);
        assert!(Parts::default().is_empty());
    }
}
