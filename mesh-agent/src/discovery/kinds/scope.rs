//! Whom a policy is for.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::meta::Meta;
use crate::discovery::fields::{Mistake, typed};
use crate::discovery::tree::Node;
use crate::model::ServiceKey;
use crate::model::policy::Scope;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetRef {
    #[serde(default)]
    group: String,
    kind: String,
    name: String,
    namespace: Option<String>,
}

pub(super) fn scope(
    spec: &Node<'_>,
    meta: &Meta,
    trusted: bool,
    mistakes: &mut Vec<Mistake>,
) -> Scope {
    let read = || -> Result<Scope, Mistake> {
        let mut targets: Vec<TargetRef> = Vec::new();
        if !spec["targetRefs"].is_null() {
            targets = typed(&spec["targetRefs"], "spec.targetRefs")?;
        }
        if !spec["targetRef"].is_null() {
            targets.push(typed(&spec["targetRef"], "spec.targetRef")?);
        }
        if spec["selector"].is_null() {
            return services(&targets, meta);
        }
        let selector: Selector = typed(&spec["selector"], "spec.selector")?;
        let wrong = |m: &str| Err(("spec.selector".to_owned(), m.to_owned()));
        if !targets.is_empty() {
            return wrong("not together with targetRefs");
        }
        let labels = selector.match_labels;
        if labels
            .iter()
            .any(|(k, v)| k.is_empty() || k.contains('*') || v.contains('*'))
        {
            return wrong("labels are compared exactly: no \"*\", no empty key");
        }
        // An empty selector is no selector.
        Ok(match labels.is_empty() {
            true => Scope::Namespace,
            false => Scope::Labels(labels),
        })
    };
    let scope = read().unwrap_or_else(|mistake| {
        mistakes.push(mistake);
        Scope::Namespace
    });
    if trusted { scope } else { Scope::Mesh }
}

fn services(targets: &[TargetRef], meta: &Meta) -> Result<Scope, Mistake> {
    let mut services = Vec::new();
    for (i, target) in targets.iter().enumerate() {
        let at = format!("spec.targetRefs[{i}]");
        if target.kind != "Service" || !matches!(target.group.as_str(), "" | "core") {
            return Err((at, format!("{:?} is not served, only Service", target.kind)));
        }
        if target
            .namespace
            .as_deref()
            .is_some_and(|n| n != meta.namespace())
        {
            return Err((
                at,
                "the Service must be in the policy's namespace".to_owned(),
            ));
        }
        services.push(ServiceKey::new(meta.namespace(), &target.name));
    }
    Ok(if services.is_empty() {
        Scope::Namespace
    } else {
        Scope::Services(services)
    })
}
