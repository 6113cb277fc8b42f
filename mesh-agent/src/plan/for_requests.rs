//! Which ports are for requests of HTTP and nothing else.

use std::sync::Arc;

use super::InForce;
use crate::detect::{self, Expected};
use crate::model::route::RouteKind;
use crate::model::traffic::counts_requests;
use crate::model::{OrigDst, Service, ServicePort, TargetPort, Workload};
use crate::policy;
use crate::route::{self, RouteDecision};

impl InForce {
    /// What is to be expected of a connection of a pod of `namespace` to a Service's port, by
    /// what is declared of it, its routes and its limits. `None`: by what it was before.
    pub(crate) fn expected_of(
        &self,
        (service, port): (&Service, &ServicePort),
        (called, namespace): (u16, &str),
    ) -> Option<Expected> {
        let routes = self.routes.of(&service.key, port.port);
        let kind = routes.and_then(|routes| routes.kind(namespace));
        let counts = counts_requests(&service.traffic(port).rate_limits);
        let is_asked = counts || kind.is_some_and(RouteKind::is_http);
        detect::expected(port.protocol, [called, target(port)], is_asked)
    }

    /// Whoever calls it there may send requests alone.
    #[must_use]
    pub(crate) fn is_called_for_requests(&self, to: OrigDst, namespace: &str) -> bool {
        match route::resolve(&self.snapshot, to) {
            RouteDecision::Service { service, port, .. } => {
                let expected = self.expected_of((service, port), (to.port(), namespace));
                expected == Some(Expected::Requests)
            }
            RouteDecision::Workload(_) | RouteDecision::External | RouteDecision::Refused(_) => {
                false
            }
        }
    }

    /// Of a pod's port, by the Services that lead there: what a caller claims of its way is not
    /// asked. It is declared so, a limit of requests holds there, or the application is told who
    /// calls: what passed as bytes could say that itself.
    #[must_use]
    pub(crate) fn is_for_requests(&self, (workload, own): (&Workload, u16)) -> bool {
        let is_unreadable = self.snapshot.unreadable_pods.contains(&workload.key);
        let is_told = workload.on_node.forwards_client_cert;
        let mut is_led_to = false;
        let mut says_so = |service: &Arc<Service>| {
            let leading = policy::leading(service, workload, own, is_unreadable);
            let mut ports = leading.iter().filter_map(|port| service.port(*port));
            ports.any(|port| {
                is_led_to = true;
                let is_asked = is_told || counts_requests(&service.traffic(port).rate_limits);
                let expected = detect::expected(port.protocol, [port.port, own], is_asked);
                expected == Some(Expected::Requests)
            })
        };
        let services = &self.snapshot.services;
        let mut near = services.in_namespace(&workload.key.namespace);
        // One of another namespace can lead here by its endpoints: its limits hold as well.
        let is_said = near.any(&mut says_so) || self.rates.services().any(&mut says_so);
        // What no Service speaks of is not declared to be anything else.
        is_said || (is_told && !is_led_to)
    }
}

fn target(port: &ServicePort) -> u16 {
    match port.target {
        TargetPort::Number(number) => number,
        TargetPort::Name(_) => port.port,
    }
}
