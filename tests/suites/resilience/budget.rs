//! A retry budget in the words of the Gateway API.

use super::*;

fn budget(min_retries: u32) -> String {
    format!(
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\n\
         metadata: {{name: s, namespace: shop}}\n\
         spec:\n  targetRefs: [{{group: \"\", kind: Service, name: s}}]\n  retryConstraint:\n    \
         budget: {{percent: 0, interval: 1h}}\n    \
         minRetryRate: {{count: {min_retries}, interval: 1h}}\n"
    )
}

impl Shop {
    /// Reason of each policy's condition, by its kind.
    fn fares(&self) -> Vec<(String, String)> {
        let list = self.agents[0].ask("/traffic").expect("a page");
        let row = |row: &Value| {
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            (text(&row["kind"]), text(&row["condition"]["reason"]))
        };
        list["policies"]
            .as_array()
            .expect("rows")
            .iter()
            .map(row)
            .collect()
    }

    /// How often servers were asked by so many requests beyond these.
    fn retried(&self, count: u64) -> u64 {
        let before = self.asked_all();
        let calls = self.calls("http", count);
        // Beyond the budget the servers' own answer passes.
        assert_eq!(calls.report["results"]["503"], count, "{calls:?}");
        self.asked_all() - before - count
    }
}

#[test]
fn servers_see_as_many_retries_as_an_x_backend_traffic_policy_has_and_a_traffic_policy_goes_first()
{
    let shop = Shop::new();
    let own = |says: &str| {
        let says = format!("outlierDetection: {{enabled: false}}\n  {says}");
        shop.write("traffic", &traffic_policy("s", &["s"], &says));
    };
    own("timeouts: {idle: 1h}");
    shop.route("retry: {codes: [503], attempts: 2, backoff: 1ms}");
    for server in ["b", "c", "d"] {
        shop.mode(server, "fail");
    }
    shop.write("budget", &budget(5));
    let [own_kind, other] = ["TrafficPolicy", "XBackendTrafficPolicy"];
    let fare = |kind: &str, reason: &str| (kind.to_owned(), reason.to_owned());
    assert_eq!(
        shop.fares(),
        [fare(own_kind, "Accepted"), fare(other, "Accepted")]
    );
    assert_eq!(shop.retried(20), 5);
    assert_eq!(shop.retried(5), 0);
    shop.write("budget", &budget(7));
    assert_eq!(shop.retried(20), 2);

    own("retryBudget: {percent: 0, interval: 1h, minRetryRate: {count: 10, interval: 1h}}");
    assert_eq!(
        shop.fares(),
        [fare(own_kind, "Accepted"), fare(other, "Conflicted")]
    );
    assert_eq!(shop.retried(20), 3);
    // What it does not understand is not in force, and is told.
    shop.write("budget", "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\n\
         metadata: {name: s, namespace: shop}\n\
         spec: {targetRefs: [{group: \"\", kind: Service, name: s}], retryConstraint: {percent: 5}}\n");
    assert_eq!(
        shop.fares(),
        [fare(own_kind, "Accepted"), fare(other, "Invalid")]
    );
    assert_eq!(shop.retried(5), 0);
}
