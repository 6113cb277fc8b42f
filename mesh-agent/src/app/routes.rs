//! What `mesh-agent status routes` shows.

use crate::admin::MAX_ROWS;
use crate::admin::routes::{ConditionRow, RouteList, RouteRow};
use crate::model::Snapshot;
use crate::model::route::{ParentRef, Route};
use crate::route::{self, Firsts, RouteCondition};

pub(super) fn list(snapshot: &Snapshot) -> RouteList {
    let routes = snapshot.routes.iter();
    let mut firsts = Firsts::default();
    let mut rows = routes.flat_map(|route| {
        let of_parent = |status: route::ParentStatus| RouteRow {
            route: route.key.to_string(),
            service: service(route, &status.parent),
            conditions: status.conditions.into_iter().map(condition).collect(),
        };
        let all = route::status_by(&mut firsts, snapshot, route).into_iter();
        all.map(of_parent)
    });
    let shown: Vec<RouteRow> = rows.by_ref().take(MAX_ROWS).collect();
    let total = shown.len() + rows.count();
    RouteList {
        generation: snapshot.generation,
        routes: shown,
        total,
    }
}

fn service(route: &Route, parent: &ParentRef) -> String {
    let namespace = parent.namespace.as_ref().unwrap_or(&route.key.namespace);
    let mut text = format!("{namespace}/{}", parent.name);
    if let Some(section) = &parent.section {
        text.push_str(&format!(" port {section:?}"));
    }
    if let Some(port) = parent.port {
        text.push_str(&format!(":{port}"));
    }
    text
}

fn condition(one: RouteCondition) -> ConditionRow {
    ConditionRow {
        kind: one.kind.to_owned(),
        holds: one.holds,
        reason: one.reason.to_owned(),
        message: one.message,
    }
}
