//! Outlier detection that is switched off, and breakers that are open all the same.

use super::*;

/// The same Service, and another worker's view of its endpoints.
fn switched_off(of: &Arc<Service>, before: &Balancer) -> (Arc<Service>, Balancer) {
    let mut service = Service::clone(of);
    let mut traffic = Traffic::default();
    traffic.outlier_detection.is_on = false;
    service.traffic = Arc::new(traffic);
    let worker = Balancer::new(1, Arc::default(), before.health.clone());
    (Arc::new(service), worker)
}

/// It was ejected before that, or by another Service of its pod.
#[test]
fn one_that_was_ejected_is_used_where_nobody_is_to_be() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b"), (3, "c")]);
    let (service, now) = (only(&snapshot), Instant::now());
    let mut with = balancer(0);
    fail(&mut with, service, 2, now);
    assert_eq!(shares(&mut with, service, now)[2], 0);
    let (off, mut without) = switched_off(service, &with);
    let [_, used @ ..] = shares(&mut without, &off, now);
    assert!(used.iter().all(|n| (250..420).contains(n)), "{used:?}");
    assert_eq!(shares(&mut with, service, now)[2], 0, "there it still is");
    // What it does there closes its breaker, for all.
    let later = now + Duration::from_secs(5);
    for _ in 0..100 {
        let (_, mut load) = begin(&mut without, &off, later);
        answered(&mut load, later);
    }
    assert!(shares(&mut with, service, later)[2] > 100);
}
