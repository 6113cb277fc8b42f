//! Rules about requests, for ports that are declared to carry none.

use std::sync::Arc;

use super::{Linter, is_behind};
use crate::discovery::objects::Object;
use crate::discovery::problem::Code;
use crate::model::policy::{Action, AuthorizationPolicy, Operation, Rule, Scope};
use crate::model::{AppProtocol, Service, ServicePort, TargetPort, Workload};
use crate::policy;

impl Linter<'_> {
    /// What comes to such a port is no request, so a DENY by request denies all of it, and
    /// an ALLOW lets nothing in.
    pub(super) fn http_ports(&mut self, object: &Object, policy: &AuthorizationPolicy) {
        for (i, rule) in policy.rules.iter().enumerate() {
            if !policy::has_http(rule) {
                continue;
            }
            for service in self.declared(policy) {
                for port in service.ports.iter().filter(|port| carries_none(port)) {
                    let own = !matches!(policy.scope, Scope::Services(_));
                    if numbers(port, own).any(|number| covers(rule, number)) {
                        let (name, number) = (&service.key, port.port);
                        let effect = match policy.action {
                            Action::Allow => "the rule grants nothing there",
                            Action::Deny => "the rule denies its connections",
                        };
                        let message = format!(
                            "port {number} of Service {name} is declared as no HTTP, and no request is seen there: {effect}"
                        );
                        let field = format!("spec.rules[{i}]");
                        self.tell(object, Code::NotHttp, &field, message);
                    }
                }
            }
        }
    }

    /// The Services that the policy is about, as far as they declare such a port.
    fn declared(&self, policy: &AuthorizationPolicy) -> Vec<Arc<Service>> {
        let services = &self.snapshot.services;
        let declares = |service: &&Arc<Service>| service.ports.iter().any(carries_none);
        match &policy.scope {
            Scope::Services(names) => {
                let named = names.iter().filter_map(|name| services.get(name));
                named.filter(declares).cloned().collect()
            }
            Scope::Mesh | Scope::Namespace | Scope::Labels(_) => {
                let near = services.in_namespace(&policy.namespace).filter(declares);
                near.filter(|service| self.is_about(policy, service))
                    .cloned()
                    .collect()
            }
        }
    }

    fn is_about(&self, policy: &AuthorizationPolicy, service: &Service) -> bool {
        let has = |workload: &Workload| match &policy.scope {
            Scope::Labels(labels) => labels
                .iter()
                .all(|(k, v)| workload.labels.get(k) == Some(v)),
            Scope::Mesh | Scope::Namespace | Scope::Services(_) => true,
        };
        let mut near = self.snapshot.workloads.in_namespace(&policy.namespace);
        near.any(|workload| has(workload) && is_behind(service, workload))
    }
}

fn carries_none(port: &ServicePort) -> bool {
    match port.protocol {
        AppProtocol::Tcp | AppProtocol::Tls => true,
        AppProtocol::Unspecified | AppProtocol::Http1 | AppProtocol::Http2 | AppProtocol::Grpc => {
            false
        }
    }
}

/// The pods' own, or the Service's.
fn numbers(port: &ServicePort, own: bool) -> impl Iterator<Item = u16> {
    let target = match port.target {
        TargetPort::Number(number) => Some(number),
        TargetPort::Name(_) => None,
    };
    let endpoints = port.endpoints.iter().map(|e| e.addr.port());
    let of_pods = endpoints.chain(target).filter(move |_| own);
    of_pods.chain((!own).then_some(port.port))
}

fn covers(rule: &Rule, port: u16) -> bool {
    let may_be = |to: &Operation| {
        let ports = &to.ports;
        let named = ports.values.is_empty() || ports.values.contains(&port);
        named && !ports.not_values.contains(&port)
    };
    rule.to.is_empty() || rule.to.iter().any(may_be)
}
