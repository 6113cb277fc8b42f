//! `mesh-agent status routes`: how each route fares with each of its Services.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::listed;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RouteList {
    pub(crate) generation: u64,
    pub(crate) routes: Vec<RouteRow>,
    /// Of how many these are.
    pub(crate) total: usize,
}

/// One route with one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RouteRow {
    /// `HTTPRoute namespace/name`.
    pub(crate) route: String,
    /// `namespace/name`, with the port where one is named.
    pub(crate) service: String,
    pub(crate) conditions: Vec<ConditionRow>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConditionRow {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) holds: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// A line for each route and Service, and below it what is not as it should be.
#[must_use]
pub(crate) fn text(list: &RouteList) -> String {
    let none = "no route names a Service\n";
    listed::text(&list.routes, list.total, none, line)
}

fn line(text: &mut String, row: &RouteRow) {
    let reason = |kind: &str| {
        let one = row.conditions.iter().find(|one| one.kind == kind);
        one.map_or("-", |one| &*one.reason)
    };
    let _never = writeln!(
        text,
        "{}  for Service {}  {}, {}",
        row.route,
        row.service,
        reason("Accepted"),
        reason("ResolvedRefs"),
    );
    for one in &row.conditions {
        let is_as_it_should_be = one.holds && one.kind == "ResolvedRefs";
        if !is_as_it_should_be {
            let _never = writeln!(text, "    {}", one.message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_told_with_what_is_wrong_below_it() {
        let condition = |kind: &str, holds, reason: &str, message: &str| ConditionRow {
            kind: kind.to_owned(),
            holds,
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        let list = RouteList {
            generation: 1,
            routes: vec![RouteRow {
                route: "HTTPRoute shop/web".to_owned(),
                service: "shop/web:80".to_owned(),
                conditions: vec![
                    condition("Accepted", true, "Accepted", "it holds on port 80"),
                    condition(
                        "ResolvedRefs",
                        false,
                        "BackendNotFound",
                        "there is no Service shop/x",
                    ),
                ],
            }],
            total: 3,
        };
        assert_eq!(
            text(&list),
            "HTTPRoute shop/web  for Service shop/web:80  Accepted, BackendNotFound\n    it holds on port 80\n    there is no Service shop/x\n2 more are not shown\n"
        );
        assert_eq!(text(&RouteList::default()), "no route names a Service\n");
    }
}
