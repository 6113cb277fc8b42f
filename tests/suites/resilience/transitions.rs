//! What an agent still tells of an ejection when it is over.

use super::*;

#[test]
fn what_became_of_an_endpoint_is_told_with_its_cause_when_it_is_over() {
    let shop = Shop::new();
    let transitions = || {
        let list = shop.agents[0].ask("/endpoints").expect("a page");
        list["transitions"].as_array().expect("rows").clone()
    };
    assert_eq!(transitions(), [] as [Value; 0]);
    shop.mode("c", "fail");
    shop.until_ejected("http");
    shop.mode("c", "ok");
    shop.until_back("http", "c");
    let told = transitions();
    let [first, last] = [told.last(), told.first()].map(|row| row.expect("some"));
    println!("{told:#?}");
    let is = |row: &Value, from: &str, to: &str, cause: &str| {
        let endpoint = format!("{}:{APP_PORT}", shop.servers[1].v4());
        assert_eq!(
            (&row["service"], &row["pod"]),
            (&"shop/s".into(), &"shop/c".into())
        );
        assert_eq!(row["endpoint"], endpoint.as_str(), "{row}");
        let [was, is, why] = ["from", "to", "cause"].map(|field| &row[field]);
        assert_eq!((was, is, why), (&from.into(), &to.into(), &cause.into()));
    };
    is(first, "used", "ejected", "consecutive_failures");
    assert_eq!(first["last_failure"], "status");
    assert!(first["lasts_seconds"].as_f64() >= Some(1.0), "{first}");
    is(last, "probed", "used", "probe_succeeded");
    assert!(first["at"].as_str() < last["at"].as_str(), "{told:?}");
    // Whatever failed between the two were probes.
    for row in &told[1..told.len() - 1] {
        is(row, "probed", "ejected", "probe_failed");
    }
}
