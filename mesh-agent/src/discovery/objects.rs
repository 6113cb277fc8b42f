//! The served kinds, parsed strictly.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{Problem, policies};
use crate::model::policy::{AuthorizationPolicy, PeerAuthentication};

/// Where an object stands.
#[derive(Clone, Debug)]
pub struct Origin {
    pub file: std::path::PathBuf,
    pub line: u64,
}

/// One parsed object.
#[derive(Clone, Debug)]
pub struct Object {
    pub origin: Origin,
    pub meta: Meta,
    pub kind: Kind,
}

impl Object {
    /// `Kind namespace/name`.
    #[must_use]
    pub fn name(&self) -> String {
        let kind = match self.kind {
            Kind::Namespace => "Namespace",
            Kind::ServiceAccount => "ServiceAccount",
            Kind::Service(_) => "Service",
            Kind::EndpointSlice(_) => "EndpointSlice",
            Kind::Pod(_) => "Pod",
            Kind::Policy(_) => "AuthorizationPolicy",
            Kind::Peer(_) => "PeerAuthentication",
        };
        format!("{kind} {}/{}", self.meta.namespace(), self.meta.name)
    }

    pub(super) fn problem(&self, field: &str, message: String) -> Problem {
        Problem {
            file: self.origin.file.clone(),
            line: self.origin.line,
            object: self.name(),
            field: field.to_owned(),
            message,
        }
    }
}

#[derive(Clone, Debug)]
pub enum Kind {
    Namespace,
    ServiceAccount,
    Service(ServiceSpec),
    EndpointSlice(EndpointSlice),
    Pod(Box<Pod>),
    Policy(AuthorizationPolicy),
    Peer(PeerAuthentication),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    pub name: String,
    namespace: Option<String>,
    pub uid: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    pub deletion_timestamp: Option<String>,
}

impl Meta {
    /// Of an object whose metadata does not parse.
    pub(super) fn salvaged(namespace: Option<&str>, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.map(str::to_owned),
            ..Self::default()
        }
    }

    #[must_use]
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs", default)]
    pub cluster_ips: Vec<String>,
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    pub selector: Option<BTreeMap<String, String>>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    // Of no meaning for in-mesh traffic.
    #[serde(rename = "ipFamilies")]
    _ip_families: Option<IgnoredAny>,
    #[serde(rename = "ipFamilyPolicy")]
    _ip_family_policy: Option<IgnoredAny>,
    #[serde(rename = "internalTrafficPolicy")]
    _internal_traffic_policy: Option<IgnoredAny>,
    #[serde(rename = "sessionAffinity")]
    _session_affinity: Option<IgnoredAny>,
    #[serde(rename = "publishNotReadyAddresses")]
    _publish_not_ready: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum PortRef {
    Number(u16),
    Name(String),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    #[serde(default)]
    pub name: String,
    pub port: u16,
    pub target_port: Option<PortRef>,
    pub protocol: Option<String>,
    pub app_protocol: Option<String>,
    #[serde(rename = "nodePort")]
    _node_port: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSlice {
    pub address_type: String,
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    #[serde(default)]
    pub ports: Vec<EndpointPort>,
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    #[serde(rename = "metadata")]
    _metadata: IgnoredAny,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    pub addresses: Vec<String>,
    #[serde(default)]
    pub conditions: Conditions,
    pub zone: Option<String>,
    #[serde(rename = "targetRef")]
    _target_ref: Option<IgnoredAny>,
    #[serde(rename = "nodeName")]
    _node_name: Option<IgnoredAny>,
    #[serde(rename = "hostname")]
    _hostname: Option<IgnoredAny>,
    #[serde(rename = "hints")]
    _hints: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conditions {
    /// Missing means ready (EndpointSlice API).
    pub ready: Option<bool>,
    #[serde(rename = "serving")]
    _serving: Option<IgnoredAny>,
    #[serde(rename = "terminating")]
    _terminating: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointPort {
    #[serde(default)]
    pub name: String,
    pub port: u16,
    pub protocol: Option<String>,
    #[serde(rename = "appProtocol")]
    _app_protocol: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub spec: PodSpec,
    pub status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    pub node_name: String,
    pub service_account_name: Option<String>,
    pub host_network: bool,
    pub containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Container {
    pub ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    pub name: Option<String>,
    pub container_port: u16,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodStatus {
    pub phase: Option<String>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct PodIp {
    pub ip: String,
}

/// Parses one file of YAML documents; `List` kinds are unpacked.
#[must_use]
pub fn parse(file: &Path, bytes: &[u8]) -> (Vec<Object>, Vec<Problem>) {
    let mut objects = Vec::new();
    let mut problems = Vec::new();
    let problem = |line, message| Problem {
        file: file.to_owned(),
        line,
        object: String::new(),
        field: String::new(),
        message,
    };
    let Ok(text) = std::str::from_utf8(bytes) else {
        problems.push(problem(1, "the file is not UTF-8".to_owned()));
        return (objects, problems);
    };
    for (line, document) in documents(text) {
        let origin = Origin {
            file: file.to_owned(),
            line,
        };
        match serde_saphyr::from_str::<Value>(&document) {
            Ok(Value::Null) => {}
            Ok(value) => unpack(&origin, value, &mut objects, &mut problems),
            Err(e) => {
                let at = e
                    .location()
                    .map_or(line, |l| line + l.line().saturating_sub(1));
                problems.push(problem(at, e.without_snippet().to_string()));
                if let Some(value) = policies::salvage(&document) {
                    objects.push(policies::parse(&origin, &value, &mut problems));
                }
            }
        }
    }
    (objects, problems)
}

/// Documents with the line that each starts on.
fn documents(text: &str) -> Vec<(u64, String)> {
    let mut documents = vec![(1, String::new())];
    for (number, line) in (1_u64..).zip(text.lines()) {
        if line == "---" || line.starts_with("--- ") {
            documents.push((number + 1, String::new()));
        } else if let Some((_, document)) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    documents.retain(|(_, d)| {
        d.lines()
            .any(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#'))
    });
    documents
}

fn unpack(origin: &Origin, value: Value, objects: &mut Vec<Object>, problems: &mut Vec<Problem>) {
    if value["kind"] == "List" {
        match &value["items"] {
            Value::Array(items) => {
                for item in items {
                    unpack(origin, item.clone(), objects, problems);
                }
            }
            _ => problems.push(Problem {
                file: origin.file.clone(),
                line: origin.line,
                object: "List".to_owned(),
                field: "items".to_owned(),
                message: "expected a list".to_owned(),
            }),
        }
        return;
    }
    if policies::is_policy(&value) {
        return objects.push(policies::parse(origin, &value, problems));
    }
    match object(origin, &value) {
        Ok(object) => objects.push(object),
        Err(problem) => problems.push(*problem),
    }
}

fn object(origin: &Origin, value: &Value) -> Result<Object, Box<Problem>> {
    let api = value["apiVersion"].as_str().unwrap_or_default();
    let kind = value["kind"].as_str().unwrap_or_default();
    let name = format!(
        "{kind} {}/{}",
        value["metadata"]["namespace"].as_str().unwrap_or("default"),
        value["metadata"]["name"].as_str().unwrap_or("?"),
    );
    let problem = |field: String, message: String| {
        Box::new(Problem {
            file: origin.file.clone(),
            line: origin.line,
            object: name.clone(),
            field,
            message,
        })
    };
    let meta: Meta = typed(&value["metadata"], "metadata").map_err(|(f, m)| problem(f, m))?;
    let wrap = |e: (String, String)| problem(e.0, e.1);
    let kind = match (api, kind) {
        ("v1", "Namespace") => Kind::Namespace,
        ("v1", "ServiceAccount") => Kind::ServiceAccount,
        ("v1", "Service") => Kind::Service(typed(&value["spec"], "spec").map_err(wrap)?),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            Kind::EndpointSlice(typed(value, "").map_err(wrap)?)
        }
        ("v1", "Pod") => Kind::Pod(typed(value, "").map_err(wrap)?),
        _ => {
            let message = format!(
                "kind {kind:?} of {api:?} is not served; served are Namespace, ServiceAccount, Service, Pod (v1), EndpointSlice (discovery.k8s.io/v1), AuthorizationPolicy and PeerAuthentication (security.istio.io/v1)"
            );
            return Err(problem("kind".to_owned(), message));
        }
    };
    Ok(Object {
        origin: origin.clone(),
        meta,
        kind,
    })
}

/// A typed part of a document, or the path of the field at fault and why.
pub(super) fn typed<'v, T: Deserialize<'v>>(
    value: &'v Value,
    prefix: &str,
) -> Result<T, (String, String)> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        let field = match (prefix, path.as_str()) {
            ("", path) => path.to_owned(),
            (prefix, ".") => prefix.to_owned(),
            (prefix, path) => format!("{prefix}.{path}"),
        };
        (field, e.into_inner().to_string())
    })
}
