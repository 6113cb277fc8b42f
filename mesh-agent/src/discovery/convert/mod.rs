//! Istio's DestinationRules as TrafficPolicies, for people who move.
//!
//! Invariants: each field of a rule is translated, or told with the reason why not. A
//! field that is not understood, and one without which security would be less, is an
//! error, and nothing of its rule is translated. What comes out is read by the mesh
//! without a mistake.

mod fields;
mod rule;
mod said;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeSet;
use std::path::Path;

use said::{Note, Ports, note};

use super::documents::{Parsed, documents, parse_again};
use super::intern::Interner;
use super::origin::Place;
use super::tree::{self, Node};

/// What became of a file.
#[derive(Debug, Default)]
pub(crate) struct Converted {
    /// YAML; empty where nothing could be translated.
    pub(crate) policies: String,
    pub(crate) notes: Vec<Note>,
}

impl Converted {
    /// Of YAML documents: DestinationRules, and Services, which say how ports are called.
    #[must_use]
    pub(crate) fn of(text: &str) -> Self {
        let mut converted = Self::default();
        let texts = documents(text);
        let mut objects = Vec::new();
        for (line, text) in &texts {
            match tree::read(text) {
                Ok(node) => unpacked(node, &mut objects),
                Err(error) => {
                    let line = line + error.place.line.saturating_sub(1);
                    let why = format!("cannot be read: {}", error.message);
                    converted.error("", &format!("line {line}"), why);
                }
            }
        }
        let ports = ports(&objects);
        let mut taken = BTreeSet::new();
        let mut rules = 0;
        for object in &objects {
            if !is_rule(object) {
                converted.other(object);
                continue;
            }
            rules += 1;
            let reading = rule::read(object, &ports);
            converted.take(reading, &mut taken);
        }
        if rules == 0 {
            let why = "there is no DestinationRule of networking.istio.io".to_owned();
            converted.error("", "the file", why);
        }
        converted
    }

    #[must_use]
    pub(crate) fn has_errors(&self) -> bool {
        self.notes.iter().any(|note| note.is_error)
    }

    fn take(&mut self, reading: rule::Reading, taken: &mut BTreeSet<[Option<String>; 3]>) {
        let rule::Reading {
            rule,
            mut notes,
            policies,
        } = reading;
        let mut text = String::new();
        for policy in policies {
            let service = Some(policy.service.clone());
            if !taken.insert([policy.namespace.clone(), service, policy.section.clone()]) {
                let why = "another rule of the file is for the same, and one alone can hold";
                notes.push(note(&rule, "spec.host", why.to_owned(), true));
            }
            let written = write::policy(&policy);
            notes.extend(read_again(&rule, &written));
            text.push_str(&written);
        }
        if !notes.iter().any(|note| note.is_error) {
            self.policies.push_str(&text);
        }
        self.notes.extend(notes);
    }

    fn other(&mut self, object: &Node<'_>) {
        let kind = object["kind"].as_text().unwrap_or("what has no kind");
        if kind != "Service" {
            let name = object["metadata"]["name"].as_text().unwrap_or("?");
            let why = "is no DestinationRule of networking.istio.io".to_owned();
            self.notes
                .push(note("", &format!("{kind} {name}"), why, false));
        }
    }

    fn error(&mut self, rule: &str, field: &str, why: String) {
        self.notes.push(note(rule, field, why, true));
    }
}

/// What the mesh finds wrong with it: values that are out of its bounds.
fn read_again<'r>(rule: &'r str, written: &str) -> impl Iterator<Item = Note> + 'r {
    let place = Place::file(Path::new("policy"));
    let documents = parse_again(&place, written.as_bytes(), &[], &mut Interner::default());
    let problems = Parsed::of_documents(&place, &documents).problems;
    problems.into_iter().map(move |problem| {
        // Of the policy, not of the rule.
        let field = format!("TrafficPolicy's {}", problem.field);
        note(rule, &field, problem.message.clone(), problem.is_mistake())
    })
}

/// `kubectl get -o yaml` writes one list of them.
fn unpacked<'t>(mut node: Node<'t>, all: &mut Vec<Node<'t>>) {
    let is_list = node["kind"].as_text().is_some_and(|k| k.ends_with("List"));
    match is_list.then(|| node.take("items").into_list()) {
        Some(Ok(items)) => all.extend(items),
        _ if node.is_null() => {}
        _ => all.push(node),
    }
}

fn is_rule(object: &Node<'_>) -> bool {
    let version = object["apiVersion"].as_text().unwrap_or_default();
    object["kind"] == "DestinationRule" && version.starts_with("networking.istio.io/")
}

fn ports(objects: &[Node<'_>]) -> Ports {
    let services = objects.iter().filter(|object| object["kind"] == "Service");
    let of = |service: &Node<'_>| {
        let metadata = &service["metadata"];
        let text = |field: &str| metadata[field].as_text();
        let namespace = text("namespace").unwrap_or_default().to_owned();
        let key = (namespace, text("name").unwrap_or_default().to_owned());
        let ports = service["spec"]["ports"].items().iter();
        let named = ports.filter_map(|port| {
            let name = port["name"].as_text().map(str::to_owned);
            Some((fields::whole(&port["port"])?, name))
        });
        (key, named.collect())
    };
    services.map(of).collect()
}
