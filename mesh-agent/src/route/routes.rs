//! The compiled routes of all Services.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::attached::{self, Group};
use super::connections::{ConnectionDecision, ConnectionGroup};
use super::http::{Decision, HttpGroup};
use super::share::Share;
use crate::model::route::RouteKind;
use crate::model::{Name, RequestHead, ServiceKey, Sharded, Snapshot};

/// A copy shares what it has in common with the original.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes {
    /// By port.
    of: Sharded<ServiceKey, Arc<[Arc<ServiceRoutes>]>>,
}

impl Routes {
    /// `None`: nobody has a route there, and the Service's own endpoints it is.
    #[must_use]
    pub(crate) fn of(&self, service: &ServiceKey, port: u16) -> Option<&Arc<ServiceRoutes>> {
        let ports = self.of.get(service)?;
        let at = ports
            .binary_search_by_key(&port, |routes| routes.port)
            .ok()?;
        Some(&ports[at])
    }

    /// Of `services` what they are by the snapshot; of others what they were.
    #[must_use]
    pub(crate) fn update(&self, snapshot: &Snapshot, services: &BTreeSet<ServiceKey>) -> Self {
        let mut all = self.clone();
        for service in services {
            let ports = compile(snapshot, service);
            all.of
                .set(service.clone(), (!ports.is_empty()).then(|| ports.into()));
        }
        all
    }

    /// Of everything that the snapshot has.
    #[must_use]
    pub(crate) fn compile(snapshot: &Snapshot) -> Self {
        let services = snapshot.attached.iter().map(|(key, _)| key.clone());
        Self::default().update(snapshot, &services.collect())
    }
}

fn compile(snapshot: &Snapshot, key: &ServiceKey) -> Vec<Arc<ServiceRoutes>> {
    let Some(service) = snapshot.services.get(key) else {
        return Vec::new();
    };
    let mut ports: Vec<u16> = service.ports.iter().map(|port| port.port).collect();
    ports.sort_unstable();
    ports.dedup();
    let routes = ports.into_iter().filter_map(|port| {
        let groups = attached::groups(snapshot, service, port);
        let compiled = groups.into_iter().map(|(namespace, group)| {
            let group = Arc::new(compile_group(snapshot, key, &group));
            (namespace, group)
        });
        let mut groups: HashMap<Name, Arc<Compiled>, RandomState> = compiled.collect();
        let producer = groups.remove(&key.namespace);
        let is_any = producer.is_some() || !groups.is_empty();
        is_any.then(|| {
            Arc::new(ServiceRoutes {
                port,
                producer,
                consumers: groups,
            })
        })
    });
    routes.collect()
}

fn compile_group(snapshot: &Snapshot, parent: &ServiceKey, group: &Group) -> Compiled {
    let permits = |route: &_, to: &_| attached::permits(snapshot, parent, route, to);
    match group.kind.is_http() {
        true => Compiled::Http(HttpGroup::new(group.kind, &group.routes, &permits)),
        false => {
            let routes = ConnectionGroup::new(group.kind, &group.routes, &permits);
            Compiled::Connections(routes)
        }
    }
}

#[derive(Debug)]
enum Compiled {
    Http(HttpGroup),
    Connections(ConnectionGroup),
}

/// The routes of one port of a Service.
#[derive(Debug)]
pub(crate) struct ServiceRoutes {
    port: u16,
    /// Of the Service's own namespace.
    producer: Option<Arc<Compiled>>,
    /// Of callers' namespaces.
    consumers: HashMap<Name, Arc<Compiled>, RandomState>,
}

impl ServiceRoutes {
    fn group(&self, caller_namespace: &str) -> Option<&Compiled> {
        let own = self.consumers.get(caller_namespace);
        own.or(self.producer.as_ref()).map(|group| &**group)
    }

    /// Which kind of rules a caller gets: of [`RouteKind::Http`] and
    /// [`RouteKind::Grpc`] `decide_at` is asked for each request, of the others
    /// `decide_connection` for each connection.
    #[must_use]
    pub(crate) fn kind(&self, caller_namespace: &str) -> Option<RouteKind> {
        Some(match self.group(caller_namespace)? {
            Compiled::Http(group) => group.kind,
            Compiled::Connections(group) => group.kind,
        })
    }

    /// As [`Self::decide_at`], and no session goes on.
    #[cfg(test)]
    pub(crate) fn decide(
        &self,
        head: &RequestHead<'_>,
        caller_namespace: &str,
        random: impl FnMut(u64) -> u64,
    ) -> Decision<'_> {
        self.decide_at(head, caller_namespace, None, random)
    }

    /// Of one request. Sessions that last go on, by what `now` tells, in seconds since 1970;
    /// `None`: none does. `random` gives a number below its argument, each as often as any other.
    #[must_use]
    pub(crate) fn decide_at(
        &self,
        head: &RequestHead<'_>,
        caller_namespace: &str,
        now: Option<fn() -> u64>,
        mut random: impl FnMut(u64) -> u64,
    ) -> Decision<'_> {
        match self.group(caller_namespace) {
            None => Decision::Implicit,
            Some(Compiled::Http(group)) => group.decide(head, (self.port, now), &mut random),
            // What is for connections says the same of each request on one.
            Some(Compiled::Connections(group)) => {
                Decision::of_connection(group.decide(None, &mut random))
            }
        }
    }

    /// Each decision that there can be of the request, with its share, for people.
    #[must_use]
    pub(crate) fn every(
        &self,
        head: &RequestHead<'_>,
        caller_namespace: &str,
    ) -> Vec<(Share, Decision<'_>)> {
        match self.group(caller_namespace) {
            None => vec![(Share::ALL, Decision::Implicit)],
            Some(Compiled::Http(group)) => group.every(head, self.port),
            Some(Compiled::Connections(group)) => {
                let all = group.every(None).into_iter();
                all.map(|(share, one)| (share, Decision::of_connection(one)))
                    .collect()
            }
        }
    }

    /// Of a connection of which only its bytes, or the name in its TLS hello, are
    /// known. Rules about requests say nothing of one that has none.
    #[must_use]
    pub(crate) fn decide_connection(
        &self,
        sni: Option<&str>,
        caller_namespace: &str,
        mut random: impl FnMut(u64) -> u64,
    ) -> ConnectionDecision<'_> {
        match self.group(caller_namespace) {
            None | Some(Compiled::Http(_)) => ConnectionDecision::Implicit,
            Some(Compiled::Connections(group)) => group.decide(sni, &mut random),
        }
    }

    /// Each decision that there can be of the connection, with its share, for people. `sni`:
    /// lower case.
    #[must_use]
    pub(crate) fn every_connection(
        &self,
        caller_namespace: &str,
        sni: Option<&str>,
    ) -> Vec<(Share, ConnectionDecision<'_>)> {
        match self.group(caller_namespace) {
            None | Some(Compiled::Http(_)) => vec![(Share::ALL, ConnectionDecision::Implicit)],
            Some(Compiled::Connections(group)) => group.every(sni),
        }
    }
}
