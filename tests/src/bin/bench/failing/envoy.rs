//! One Envoy beside the client, without TLS: it judges the endpoints themselves.

use std::path::Path;
use std::process::Child;

use anyhow::Result;
use mesh_tests::{APP_PORT, Pod, World};

use crate::envoy::{http_filter, spawn, tcp_filter};

const ADDRESS: &str = "10.77.0.201";
const HTTP: u16 = 15001;
const TCP: u16 = 15002;

/// Ends with the value.
pub(super) struct Envoy(Child);

impl Drop for Envoy {
    fn drop(&mut self) {
        // Ended already: nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Envoy {
    pub(super) fn start(
        world: &World,
        servers: &[Pod],
        detects: bool,
        program: &Path,
    ) -> Result<Self> {
        let config = configuration(servers, detects);
        spawn(world, ("n1", (ADDRESS, HTTP)), program, &config).map(Self)
    }

    pub(super) fn target(&self, kind: &str) -> String {
        let port = if kind == "http" { HTTP } else { TCP };
        format!("{ADDRESS}:{port}")
    }
}

fn configuration(servers: &[Pod], detects: bool) -> String {
    let endpoints: Vec<String> = servers
        .iter()
        .map(|pod| {
            let (address, port) = (pod.v4(), APP_PORT);
            format!("{{endpoint: {{address: {{socket_address: {{address: {address}, port_value: {port}}}}}}}}}")
        })
        .collect();
    let endpoints = endpoints.join(", ");
    let (policy, detection) = match detects {
        // Five failures in a row, for 30 s and longer each time. By default no more than a
        // tenth may be out, which of three is nobody.
        true => (
            "LEAST_REQUEST",
            "    outlier_detection: {max_ejection_percent: 50}\n",
        ),
        false => ("ROUND_ROBIN", ""),
    };
    let (http, tcp) = (http_filter("s", ""), tcp_filter("s"));
    format!(
        r"static_resources:
  listeners:
  - address: {{socket_address: {{address: {ADDRESS}, port_value: {HTTP}}}}}
    filter_chains:
    - filters:
{http}  - address: {{socket_address: {{address: {ADDRESS}, port_value: {TCP}}}}}
    filter_chains:
    - filters:
{tcp}  clusters:
  - name: s
    type: STATIC
    connect_timeout: 5s
    lb_policy: {policy}
{detection}    load_assignment:
      cluster_name: s
      endpoints: [{{lb_endpoints: [{endpoints}]}}]
"
    )
}
