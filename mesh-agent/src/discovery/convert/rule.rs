//! One DestinationRule: for which Service it is, and what of it can be said.

use super::fields::{self, Fields};
use super::said::{Note, Parts, Policy, Ports, note};
use crate::discovery::tree::{Node, View};

/// What a rule says, and what is not translated.
pub(super) struct Reading {
    pub(super) rule: String,
    pub(super) notes: Vec<Note>,
    pub(super) policies: Vec<Policy>,
}

const SUBSET: &str =
    "a version of a Service is a Service of its own here, which routes name and weigh";

pub(super) fn read(object: &Node<'_>, ports: &Ports) -> Reading {
    let text = |field: &str| object["metadata"][field].as_text();
    let (namespace, name) = (text("namespace"), text("name"));
    let rule = match namespace {
        Some(namespace) => format!("DestinationRule {namespace}/{}", name.unwrap_or("?")),
        None => format!("DestinationRule {}", name.unwrap_or("?")),
    };
    let mut reading = Reading {
        rule,
        notes: Vec::new(),
        policies: Vec::new(),
    };
    let spec = &object["spec"];
    let host = reading.host(&spec["host"], namespace);
    for (key, value) in spec.fields() {
        let at = format!("spec.{key}");
        match key {
            "host" | "trafficPolicy" => {}
            "subsets" => reading.subsets(value, &at),
            "exportTo" => reading.left(&at, "a TrafficPolicy is for all callers"),
            "workloadSelector" => {
                reading.error(&at, "a TrafficPolicy is for all callers, not for some");
            }
            _ => reading.error(&at, fields::UNKNOWN),
        }
    }
    let name = match name {
        Some(name) => name,
        None => {
            reading.error("metadata.name", "is missing");
            return reading;
        }
    };
    if let Some((service, namespace)) = host {
        let whole = Policy {
            namespace,
            name: name.to_owned(),
            service,
            section: None,
            parts: Parts::new(),
        };
        reading.policies(whole, &spec["trafficPolicy"], ports);
    }
    reading
}

impl Reading {
    fn error(&mut self, at: &str, why: impl Into<String>) {
        let note = note(&self.rule, at, why.into(), true);
        self.notes.push(note);
    }

    fn left(&mut self, at: &str, why: impl Into<String>) {
        let note = note(&self.rule, at, why.into(), false);
        self.notes.push(note);
    }

    /// The Service and its namespace, as far as the rule says it.
    fn host(&mut self, host: &Node<'_>, own: Option<&str>) -> Option<(String, Option<String>)> {
        let text = host.as_text().unwrap_or_default();
        let labels: Vec<&str> = text.split('.').collect();
        let (service, namespace) = match labels[..] {
            [service] => (service, own),
            [service, namespace, "svc", ..] => (service, Some(namespace)),
            _ => ("", None),
        };
        if service.is_empty() || service.contains('*') {
            let why = format!("{text:?} is no Service of the cluster: NAME, or NAME.NAMESPACE.svc");
            self.error("spec.host", why);
            return None;
        }
        if own.is_some_and(|own| namespace != Some(own)) {
            let why = "the policy stands in the Service's namespace, and is for all callers";
            self.left("spec.host", why);
        }
        Some((service.to_owned(), namespace.map(str::to_owned)))
    }

    fn policies(&mut self, mut whole: Policy, said: &Node<'_>, ports: &Ports) {
        let at = "spec.trafficPolicy";
        whole.parts = self.parts(said, at);
        let mut all = Vec::new();
        for (i, port) in said["portLevelSettings"].items().iter().enumerate() {
            let at = format!("{at}.portLevelSettings[{i}]");
            let mut parts = self.parts(port, &at);
            // Istio's settings of a port are whole: nothing of the host's is beside them.
            for part in whole.parts.keys() {
                parts.entry(part).or_default();
            }
            match self.section(&whole, &port["port"], ports, &at) {
                Some(section) => all.push(Policy {
                    namespace: whole.namespace.clone(),
                    name: format!("{}-{section}", whole.name),
                    service: whole.service.clone(),
                    section: Some(section),
                    parts,
                }),
                None => continue,
            }
        }
        if !whole.parts.is_empty() {
            all.insert(0, whole);
        }
        self.policies = all;
    }

    /// The port's name.
    fn section(&mut self, of: &Policy, port: &Node<'_>, all: &Ports, at: &str) -> Option<String> {
        let number = fields::whole(&port["number"]);
        let Some(number) = number else {
            self.error(&format!("{at}.port.number"), "is no port");
            return None;
        };
        let key = (of.namespace.clone().unwrap_or_default(), of.service.clone());
        let name = all.get(&key).and_then(|ports| ports.get(&number));
        if let Some(Some(name)) = name {
            return Some(name.clone());
        }
        let why = match name {
            Some(_) => format!("a policy names ports by name, and port {number} has none"),
            None => format!(
                "a policy names ports by name: put the Service into the file, for that of {number}"
            ),
        };
        self.left(at, why);
        None
    }

    fn parts(&mut self, said: &Node<'_>, at: &str) -> Parts {
        let mut fields = Fields::default();
        match said.view() {
            View::Null => {}
            View::Mapping(_) => fields.walk(said, "", at),
            _ => self.error(at, "expected a mapping"),
        }
        for (at, why, is_error) in std::mem::take(&mut fields.notes) {
            match is_error {
                true => self.error(&at, why),
                false => self.left(&at, why),
            }
        }
        fields.parts
    }

    /// Nothing of them is translated; where one has TLS of its own that is an error.
    fn subsets(&mut self, subsets: &Node<'_>, at: &str) {
        for (i, subset) in subsets.items().iter().enumerate() {
            let at = format!("{at}[{i}]");
            let name = subset["name"].as_text().unwrap_or("?");
            self.left(&at, format!("{name}: {SUBSET}"));
            let mut all = vec![(&subset["trafficPolicy"], format!("{at}.trafficPolicy"))];
            let ports = subset["trafficPolicy"]["portLevelSettings"].items();
            all.extend(
                ports
                    .iter()
                    .enumerate()
                    .map(|(i, port)| (port, format!("{at}.trafficPolicy.portLevelSettings[{i}]"))),
            );
            for (said, at) in all {
                for (at, why, is_error) in fields::guarded(said, &at) {
                    if is_error {
                        self.error(&at, why);
                    }
                }
            }
        }
    }
}
