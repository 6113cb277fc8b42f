//! What a reference of a route names.

use super::reading::Reading;
use crate::discovery::tree::Node;
use crate::model::ServiceKey;
use crate::model::route::{BackendRef, BackendTarget};

/// What is no Service is no fault of the route: its share is an error.
pub(super) fn target(
    reading: &mut Reading<'_>,
    value: &Node<'_>,
    at: &str,
    namespace: &str,
) -> Option<BackendTarget> {
    let group = reading.text(&value["group"], &format!("{at}.group"));
    let group = group.unwrap_or_default();
    let kind = reading.text(&value["kind"], &format!("{at}.kind"));
    let kind = kind.unwrap_or("Service");
    let name = reading.some(&value["name"], &format!("{at}.name"))?;
    let own = reading.text(&value["namespace"], &format!("{at}.namespace"));
    let own = own.filter(|own| !own.is_empty()).unwrap_or(namespace);
    let port = reading.port(&value["port"], &format!("{at}.port"));
    if kind != "Service" || !matches!(group, "" | "core") {
        let text = format!("{group}/{kind} {own}/{name}");
        return Some(BackendTarget::Invalid(text.trim_start_matches('/').into()));
    }
    if value["port"].is_null() {
        reading.wrong(&format!("{at}.port"), "is missing: a Service needs one");
    }
    Some(BackendTarget::Service(BackendRef {
        service: ServiceKey::new(own, name),
        port: port?,
    }))
}
