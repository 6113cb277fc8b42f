//! Endpoints that answer late, or not at all.

use super::*;

#[test]
fn an_endpoint_that_hangs_is_avoided_once_others_answer() {
    let shop = Shop::new();
    for kind in ["http", "tcp"] {
        assert_eq!(shop.calls(kind, 100).failed(), 0);
        shop.mode("c", "hang");
        let calls = shop.calls_within(kind, 300, "1.5");
        println!("{kind}: {calls:?}");
        assert!(calls.failed() <= 8, "{calls:?}\n{}", shop.agents[0].log());
        shop.mode("c", "ok");
        shop.until_back(kind, "c");
    }
}

#[test]
fn an_endpoint_that_is_ten_times_slower_gets_little_until_it_is_quick_again() {
    let shop = Shop::new();
    assert_eq!(shop.calls("http", 100).failed(), 0);
    shop.mode("c", "slow");
    let calls = shop.calls("http", 1_000);
    println!("slow: {calls:?}");
    assert_eq!(calls.failed(), 0, "{calls:?}\n{}", shop.agents[0].log());
    assert!(calls.of("c") < 50, "{calls:?}");
    assert_eq!(shop.ejections(), 0, "what is slow does not fail");
    shop.mode("c", "ok");
    shop.until_back("http", "c");
}

#[test]
fn an_endpoint_that_swallows_connections_holds_up_few_and_fails_none() {
    let shop = Shop::new();
    for kind in ["http", "tcp"] {
        assert_eq!(shop.calls(kind, 100).failed(), 0);
        shop.mode("c", "blackhole");
        let calls = shop.calls(kind, 500);
        println!("blackhole, {kind}: {calls:?}");
        assert_eq!(calls.failed(), 0, "{calls:?}\n{}", shop.agents[0].log());
        assert!(calls.report["over_1s"].as_u64() <= Some(2), "{calls:?}");
        shop.mode("c", "ok");
        shop.until_back(kind, "c");
    }
}

#[test]
fn what_two_of_three_refuse_is_taken_by_the_third() {
    for kind in ["http", "tcp"] {
        let shop = Shop::new();
        for server in ["b", "c"] {
            shop.mode(server, "refuse");
        }
        let calls = shop.calls(kind, 60);
        assert_eq!(calls.failed(), 0, "{calls:?}\n{}", shop.agents[0].log());
        assert_eq!(calls.of("d"), 60, "{calls:?}");
    }
}
