//! Many rules cost as much as few, and nothing is made where nothing is edited.

use super::world::*;
use crate::model::route::RouteKind;
use crate::route::http::index::{Index, Place};

#[test]
fn of_ten_thousand_rules_a_request_is_compared_with_those_of_its_path() {
    let mut index = Index::default();
    for number in 0..10_000 {
        let path = format!("/svc/{number}").into_bytes().into_boxed_slice();
        let place = if number % 2 == 0 {
            Place::Prefix(path)
        } else {
            Place::Exact(path)
        };
        index.insert(&place, number);
    }
    let asked = |path: &str| {
        let mut count = 0;
        let found = index.find(Some(path.as_bytes()), |_| {
            count += 1;
            true
        });
        (found, count)
    };
    assert_eq!(asked("/svc/5000/deep/down"), (Some(5_000), 1));
    assert_eq!(asked("/svc/5001"), (Some(5_001), 1));
    assert_eq!(asked("/svc/5001/deep"), (None, 0));
    assert_eq!(asked("/other"), (None, 0));
}

#[test]
fn what_nothing_is_edited_of_borrows() {
    let filter =
        crate::model::http_route::Filter::RequestHeaders(modifier(&[("a", "b")], &[], &[]));
    let rules = [
        filtered(to("echo-v1", [prefix("/v1")]), [filter]),
        rule(&[("echo-v2", 1)]),
    ];
    let world = World::new([route_of(RouteKind::Http, (NS, "r"), None, rules)]);
    for path in ["/v1/x", "/"] {
        let got = world.ask(&get(path));
        assert!(
            matches!(
                got,
                Got::To {
                    is_borrowed: true,
                    ..
                }
            ),
            "{got:?}"
        );
    }
}
