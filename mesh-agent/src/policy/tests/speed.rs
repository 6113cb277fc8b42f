//! Figures for people: `cargo xtask bench --policy`.

use std::hint::black_box;
use std::time::Instant;

use super::verdicts::{id, request, thousand};

const ROUNDS: u32 = 20_000;

#[test]
#[ignore = "prints figures"]
fn checks_per_second() {
    let (authorizer, workloads) = thousand();
    let (known, stranger) = (id("ns-1"), id("ns-2"));
    let cases = [
        (
            "allowed by the last of 70 rules, past 30 that deny",
            Some(&known),
            80,
            true,
        ),
        ("denied: no rule of 100 matches", Some(&stranger), 80, false),
        ("denied: no rule has the port", Some(&known), 81, false),
        ("denied: plaintext", None, 80, false),
    ];
    for (what, source, port, expected) in cases {
        let mut fastest = u128::MAX;
        for _ in 0..5 {
            let start = Instant::now();
            for round in 0..ROUNDS {
                let workload = &workloads[round as usize % workloads.len()];
                let request = request(source, workload, port);
                assert_eq!(
                    black_box(authorizer.check(black_box(&request))).is_permit(),
                    expected
                );
            }
            fastest = fastest.min(start.elapsed().as_nanos());
        }
        println!("{what}: {} ns a check", fastest / u128::from(ROUNDS));
    }
}
