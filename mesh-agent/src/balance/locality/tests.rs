use proptest::prelude::*;

use super::*;
use crate::model::traffic::LoadBalancer;

/// Of each distance: how many work, are used though they do not work, and are left out.
fn of(distances: [(usize, usize, usize); 3]) -> Vec<Part> {
    let all = [Distance::Node, Distance::Zone, Distance::Far];
    let mut members = Vec::new();
    for (distance, (working, kept, out)) in all.into_iter().zip(distances) {
        let mut add = |count: usize, works: bool, is_used: bool| {
            for _ in 0..count {
                members.push(Member {
                    at: u32::try_from(members.len()).expect("a number"),
                    distance,
                    works,
                    is_used,
                });
            }
        };
        add(working, true, true);
        add(kept, false, true);
        add(out, false, false);
    }
    parts(&members)
}

fn shares(distances: [(usize, usize, usize); 3]) -> Vec<u64> {
    of(distances).iter().map(|part| part.share).collect()
}

#[test]
fn a_part_gives_away_what_it_has_lost_beyond_what_is_planned_for() {
    assert!(of([(0, 0, 0); 3]).is_empty());
    assert_eq!(shares([(2, 0, 0), (0, 0, 0), (0, 0, 0)]), [1_000]);
    assert_eq!(shares([(2, 0, 0), (0, 0, 0), (9, 0, 0)]), [1_000, 0]);
    assert_eq!(shares([(0, 0, 0), (3, 0, 1), (1, 0, 0)]), [1_000, 0]);
    // 1.4 times the half, and the third.
    assert_eq!(shares([(0, 0, 0), (2, 0, 2), (4, 0, 0)]), [700, 300]);
    assert_eq!(shares([(1, 0, 2), (0, 0, 0), (3, 0, 0)]), [466, 534]);
    // What is used although it does not work earns nothing.
    assert_eq!(shares([(0, 0, 0), (0, 1, 1), (1, 0, 0)]), [0, 1_000]);
    // The nearest are all left out.
    assert_eq!(shares([(0, 0, 2), (1, 0, 0), (3, 0, 0)]), [1_000, 0]);
    assert_eq!(shares([(1, 0, 3), (1, 0, 1), (9, 0, 0)]), [350, 650, 0]);
    // Too little works in all together: by what works.
    assert_eq!(shares([(1, 0, 3), (1, 0, 3), (0, 0, 0)]), [500, 500]);
    // Nothing works: all are alike.
    assert_eq!(shares([(0, 1, 0), (0, 0, 0), (0, 3, 0)]), [250, 750]);
}

fn burden(milliseconds: Option<u32>, waiting: u32) -> Burden {
    Burden {
        latency: milliseconds.map(|ms| ms as f32 / 1000.0),
        is_stale: milliseconds.is_none(),
        pending: waiting,
        waiting,
        most: u32::MAX,
    }
}

#[test]
fn one_that_is_slower_keeps_less_the_more_it_is() {
    let keeps = |near: Burden, far: Burden| keeps(&near, &far, 150);
    let of = |near, far| keeps(burden(Some(near), 1), burden(Some(far), 1));
    assert_eq!([of(10, 10), of(15, 10), of(1, 10)], [1_000; 3]);
    assert_eq!(of(30, 10), 250, "the half, squared");
    assert!(of(100, 10) < 25);
    // Nobody knows how quick the far one is: a few go to see, by one at a time.
    assert_eq!(keeps(burden(Some(100), 1), burden(None, 0)), 875);
    assert_eq!(keeps(burden(Some(100), 1), burden(None, 1)), 1_000);
    // It hangs: what piles up there says so.
    assert!(keeps(burden(None, 64), burden(None, 1)) < 300);
    // And the near one is looked at where there is no news of it.
    let mut old = burden(Some(5_000), 0);
    old.is_stale = true;
    assert_eq!(keeps(old, burden(Some(10), 1)), 1_000);
}

#[test]
fn one_that_has_its_share_of_the_limit_gets_no_more_while_others_have_not() {
    let mut traffic = Traffic {
        load_balancer: LoadBalancer::default(),
        ..Traffic::default()
    };
    traffic.limits.max_requests = 40;
    let most = |kind, count| most(&traffic.limits, kind, (count, 150));
    assert_eq!(most(Kind::Request, 4), 15);
    assert_eq!(most(Kind::Request, 1_000), 1);
    assert!(most(Kind::Connection, 4) > 1_000_000_000, "there is none");
    let of = |pending| Burden {
        most: 15,
        ..burden(Some(10), pending)
    };
    assert_eq!(keeps(&of(15), &of(14), 150), 0);
    assert_eq!(keeps(&of(14), &of(14), 150), 1_000);
    assert_eq!(keeps(&of(15), &of(15), 150), 1_000, "nobody has less");
}

proptest! {
    /// Shares are a whole, each is of somebody, and no part has one that does not work while
    /// another does.
    #[test]
    fn shares_are_a_whole(
        distances in [(0_usize..4, 0_usize..4, 0_usize..4), (0..4, 0..4, 0..4), (0..4, 0..4, 0..4)],
        luck in 0..ALL,
    ) {
        let parts = of(distances);
        let used: usize = distances.iter().map(|(working, kept, _)| working + kept).sum();
        prop_assert_eq!(parts.last().map_or(0, |part| part.end), used);
        if parts.is_empty() {
            return Ok(());
        }
        prop_assert_eq!(parts.iter().map(|part| part.share).sum::<u64>(), ALL);
        let chosen = parts[part_of(&parts, luck)];
        prop_assert!(chosen.share > 0);
        prop_assert!(chosen.working > 0 || parts.iter().all(|part| part.working == 0));
        let usable: Vec<u32> = (0..u32::try_from(used).expect("few")).collect();
        prop_assert!(!settled(&parts, &usable, Some(luck)).is_empty());
        prop_assert!(!settled(&parts, &usable, None).is_empty());
    }
}
