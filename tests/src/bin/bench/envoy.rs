//! A pair of Envoys with mutual TLS 1.3 between them: TCP proxies, and HTTP
//! connection managers for what is HTTP.
//!
//! Clients connect to the first one's address, without capture: that favours
//! Envoy. Two worker threads each, P-256 certificates.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mesh_tests::{Pod, World, eventually};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::mode::PORT;

/// cgroup of each node's Envoy.
pub(crate) const GROUP: &str = "envoy";
const NODES: [(&str, &str); 2] = [("n1", "10.77.0.201"), ("n2", "10.77.0.202")];
/// Listeners of n1 and n2: echo, bulk is the next, then HTTP/1.1, then HTTP/2.
const PLAIN: u16 = 15001;
const TLS: u16 = 15443;

const LISTENERS: [u16; 4] = [0, 1, 2, 3];

pub(crate) fn targets() -> [String; 4] {
    LISTENERS.map(|i| format!("{}:{}", NODES[0].1, PLAIN + i))
}

pub(crate) fn start(
    world: &World,
    server: &Pod,
    program: &Path,
) -> Result<Vec<(&'static str, Child)>> {
    certificates(world.dir())?;
    let dir = world.dir().display().to_string();
    let near = LISTENERS.map(|i| Hop {
        codec: codec(i),
        log: format!("{dir}/requests-near.log"),
        listen: PLAIN + i,
        listen_tls: "",
        to: format!("{{address: {}, port_value: {}}}", NODES[1].1, TLS + i),
        to_tls: "UpstreamTlsContext",
    });
    let far = LISTENERS.map(|i| Hop {
        codec: codec(i),
        log: format!("{dir}/requests-far.log"),
        listen: TLS + i,
        listen_tls: "DownstreamTlsContext",
        to: format!("{{address: {}, port_value: {}}}", server.v4(), PORT + i),
        to_tls: "",
    });
    let mut children = vec![];
    for (hops, (node, address)) in [near, far].iter().zip(NODES) {
        let config = configuration(hops, address, &dir);
        let at = (address, hops[3].listen);
        let child = spawn(world, (node, at), program, &config)?;
        children.push((node, child));
    }
    Ok(children)
}

/// In a cgroup of its own on the node, once it listens there.
pub(crate) fn spawn(
    world: &World,
    (node, (address, port)): (&str, (&str, u16)),
    program: &Path,
    config: &str,
) -> Result<Child> {
    let file = world.dir().join(format!("envoy-{node}.yaml"));
    fs::write(&file, config)?;
    let log = fs::File::create(world.dir().join(format!("envoy-{node}.log")))?;
    let mut child = world
        .on_node_apart(node, GROUP, program)?
        .arg("-c")
        .arg(&file)
        .args(["--concurrency", "2", "--log-level", "warning"])
        .args(["--disable-hot-restart"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("start Envoy")?;
    if let Err(error) = wait_for(world, node, address, port) {
        child.kill()?;
        child.wait()?;
        return Err(error);
    }
    Ok(child)
}

fn wait_for(world: &World, node: &str, address: &str, port: u16) -> Result<()> {
    let up = eventually(Duration::from_secs(20), || {
        let mut probe = world.on_node(node, "bash");
        let script = format!("exec 3<>/dev/tcp/{address}/{port}");
        let status = probe.args(["-c", &script]).stderr(Stdio::null()).status();
        status.is_ok_and(|s| s.success())
    });
    if up {
        return Ok(());
    }
    let log = fs::read_to_string(world.dir().join(format!("envoy-{node}.log")));
    bail!(
        "Envoy on {node} does not listen: {}",
        log.unwrap_or_default()
    )
}

fn certificates(dir: &Path) -> Result<()> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(vec![])?;
    // Not the leaf's default name, which would make the leaf look self-signed.
    ca.distinguished_name
        .push(rcgen::DnType::CommonName, "bench CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(dir.join("ca.pem"), ca.self_signed(&ca_key)?.pem())?;
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec!["envoy.bench".to_owned()])?;
    fs::write(dir.join("cert.pem"), leaf.signed_by(&key, &issuer)?.pem())?;
    fs::write(dir.join("key.pem"), key.serialize_pem())?;
    Ok(())
}

/// What is spoken on which of the ports, where it is HTTP.
fn codec(listener: u16) -> Option<&'static str> {
    match listener {
        2 => Some("HTTP1"),
        3 => Some("HTTP2"),
        _ => None,
    }
}

struct Hop {
    codec: Option<&'static str>,
    /// Of requests.
    log: String,
    listen: u16,
    listen_tls: &'static str,
    to: String,
    to_tls: &'static str,
}

fn configuration(hops: &[Hop], address: &str, dir: &str) -> String {
    let mut listeners = String::new();
    let mut clusters = String::new();
    for hop in hops {
        let port = hop.listen;
        let tls = transport(hop.listen_tls, dir);
        listeners.push_str(&format!(
            r#"  - address: {{socket_address: {{address: {address}, port_value: {port}}}}}
    filter_chains:
    - filters:
{filter}{tls}"#,
            filter = filter(hop)
        ));
        let (to, tls) = (&hop.to, transport(hop.to_tls, dir));
        let protocol = match hop.codec {
            Some("HTTP2") => HTTP2_UPSTREAM,
            _ => "",
        };
        clusters.push_str(&format!(
            r"  - name: c{port}
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {{thresholds: [{{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}}]}}
{protocol}    load_assignment:
      cluster_name: c{port}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {to}}}}}}}]}}]
{tls}"
        ));
    }
    format!("static_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}")
}

/// Of a cluster; HTTP/1.1 is what one has by itself.
const HTTP2_UPSTREAM: &str = r#"    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
"#;

/// What a listener does. Of HTTP as much as an agent does: a route, an access log and
/// metrics by default; no timeout.
fn filter(hop: &Hop) -> String {
    let cluster = format!("c{}", hop.listen);
    let Some(codec) = hop.codec else {
        return tcp_filter(&cluster);
    };
    let more = format!(
        r#"          codec_type: {codec}
          access_log:
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {log}
"#,
        log = hop.log
    );
    http_filter(&cluster, &more)
}

/// Of a listener whose bytes go to the cluster.
pub(crate) fn tcp_filter(cluster: &str) -> String {
    format!(
        r#"      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: {cluster}
"#
    )
}

/// Of a listener whose requests go to the cluster, without a timeout; `more`: fields of
/// the connection manager.
pub(crate) fn http_filter(cluster: &str, more: &str) -> String {
    format!(
        r#"      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
{more}          http_filters:
          - name: router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: {cluster}, timeout: 0s}}}}]
"#
    )
}

fn transport(context: &str, dir: &str) -> String {
    let required = match context {
        "" => return String::new(),
        "DownstreamTlsContext" => "require_client_certificate: true",
        _ => "sni: envoy.bench",
    };
    // The item of a filter chain and that of a cluster are indented differently.
    let pad = if context == "DownstreamTlsContext" {
        "      "
    } else {
        "    "
    };
    format!(
        r#"{pad}transport_socket:
{pad}  name: envoy.transport_sockets.tls
{pad}  typed_config:
{pad}    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{context}
{pad}    {required}
{pad}    common_tls_context:
{pad}      tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}
{pad}      tls_certificates: [{{certificate_chain: {{filename: {dir}/cert.pem}}, private_key: {{filename: {dir}/key.pem}}}}]
{pad}      validation_context: {{trusted_ca: {{filename: {dir}/ca.pem}}}}
"#
    )
}
