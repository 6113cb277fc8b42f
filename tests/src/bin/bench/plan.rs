//! What is measured. A new mode is a new entry in [`PLANS`].

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Nothing,
    /// Agents that speak plaintext to each other.
    Agents,
    /// Agents with certificates of the authority, and a policy.
    SecureAgents,
    Envoys,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    /// What it is compared with: mostly the direct mode of the same topology.
    pub(crate) baseline: &'static str,
    pub(crate) server_node: &'static str,
    pub(crate) carrier: Carrier,
    pub(crate) setting: Setting,
}

/// What the agents are told beside their defaults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) configuration: &'static [&'static str],
    pub(crate) arguments: &'static [&'static str],
    /// About one question: not part of the whole, but where it is named. Its requests go to
    /// the Service of three pods, `all`.
    pub(crate) is_extra: bool,
}

const USUAL: Setting = Setting {
    configuration: &[POLICY],
    arguments: &[],
    is_extra: false,
};
const EXTRA: Setting = Setting {
    is_extra: true,
    ..USUAL
};
const NONE: Setting = Setting {
    configuration: &[],
    ..USUAL
};

pub(crate) const PLANS: &[Plan] = &[
    Plan {
        name: "direct, one node",
        baseline: "direct, one node",
        server_node: "n1",
        carrier: Carrier::Nothing,
        setting: NONE,
    },
    Plan {
        name: "agent, one node",
        baseline: "direct, one node",
        server_node: "n1",
        carrier: Carrier::Agents,
        setting: NONE,
    },
    Plan {
        name: "direct, two nodes",
        baseline: "direct, two nodes",
        server_node: "n2",
        carrier: Carrier::Nothing,
        setting: NONE,
    },
    Plan {
        name: "agents, two nodes, plaintext",
        baseline: "direct, two nodes",
        server_node: "n2",
        carrier: Carrier::Agents,
        setting: NONE,
    },
    Plan {
        name: "agents, two nodes, mTLS",
        baseline: "direct, two nodes",
        server_node: "n2",
        carrier: Carrier::SecureAgents,
        setting: USUAL,
    },
    Plan {
        name: "envoys, two nodes, mTLS",
        baseline: "direct, two nodes",
        server_node: "n2",
        carrier: Carrier::Envoys,
        setting: NONE,
    },
    Plan {
        name: "without balancing",
        baseline: "without balancing",
        server_node: "n2",
        carrier: Carrier::SecureAgents,
        setting: Setting {
            configuration: &[POLICY, NO_BALANCING],
            ..EXTRA
        },
    },
    Plan {
        name: "defaults, beside without balancing",
        baseline: "without balancing",
        server_node: "n2",
        carrier: Carrier::SecureAgents,
        setting: EXTRA,
    },
    Plan {
        name: "without policy, routes and log",
        baseline: "without policy, routes and log",
        server_node: "n2",
        carrier: Carrier::SecureAgents,
        setting: Setting {
            configuration: &[],
            arguments: &["--access-log", "off"],
            ..EXTRA
        },
    },
    Plan {
        name: "policy, routes and log, beside without",
        baseline: "without policy, routes and log",
        server_node: "n2",
        carrier: Carrier::SecureAgents,
        setting: Setting {
            configuration: &[POLICY, ROUTES],
            ..EXTRA
        },
    },
];

/// Who may connect, decided by the identity in the certificate.
const POLICY: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: server, namespace: shop}
spec:
  selector: {matchLabels: {role: server}}
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]
";

/// The breaker off, and the endpoint by chance.
const NO_BALANCING: &str = "apiVersion: mesh-agent.io/v1alpha1
kind: TrafficPolicy
metadata: {name: all, namespace: shop}
spec:
  targetRefs: [{group: \"\", kind: Service, name: all}]
  loadBalancer: {type: Random}
  outlierDetection: {enabled: false}
";

/// Several rules, of which the last one matches, and a policy about paths.
const ROUTES: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all, namespace: shop}
spec:
  parentRefs: [{group: \"\", kind: Service, name: all, port: 9002}]
  rules:
  - matches: [{path: {type: Exact, value: /health}}]
    backendRefs: [{name: all, port: 9002}]
  - matches: [{headers: [{name: x-canary, value: always}]}]
    backendRefs: [{name: all, port: 9002}]
  - matches: [{path: {type: PathPrefix, value: /}}]
    backendRefs: [{name: all, port: 9002}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: all, namespace: shop}
spec:
  parentRefs: [{group: \"\", kind: Service, name: all, port: 9003}]
  rules:
  - matches: [{method: {service: bench.Other}}]
    backendRefs: [{name: all, port: 9003}]
  - matches: [{method: {service: bench.Bench}}]
    backendRefs: [{name: all, port: 9003}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec:
  selector: {matchLabels: {role: server}}
  action: DENY
  rules:
  - to: [{operation: {paths: [/admin, /admin/*], ports: [\"9002\", \"9003\"]}}]
";
