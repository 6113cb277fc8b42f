//! Clients that end their side before they are answered: hang up, or have said all they will.

use super::*;
use crate::model::traffic::BalanceBy;

const COUNT: usize = 20_000;

/// What a client does behind its first bytes, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// It ends its side and is answered.
    Waits,
    /// It ends its side, and servers reset it for that.
    Leaves,
}

/// Connections of many clients, some of them at once: what breakers make of it. `broken`: an
/// endpoint that resets whoever ends its side.
struct Shop {
    balancer: Balancer,
    service: Arc<Service>,
    now: Instant,
    open: Vec<(InFlight, Outcome)>,
    broken: Option<u8>,
    changes: Vec<Change>,
    lost: usize,
}

impl Shop {
    fn new(endpoints: u8, by: BalanceBy) -> Self {
        let all = (1..=endpoints).map(|n| endpoint(n, &format!("uid-{n}"), "n1"));
        let mut service = service(all.collect(), None);
        let of = Arc::get_mut(&mut service).expect("one");
        Arc::make_mut(&mut of.traffic).load_balancer.by = by;
        Self {
            balancer: balancer(0),
            service,
            now: Instant::now(),
            open: Vec::new(),
            broken: None,
            changes: Vec::new(),
            lost: 0,
        }
    }

    /// One comes, and `width` are open then: the others end by chance.
    fn comes(&mut self, client: Client, width: usize) {
        self.now += Duration::from_millis(10);
        let draw = Draw {
            kind: Kind::Connection,
            ..draw(self.now)
        };
        let attempt = (&mut Attempt::default(), draw);
        let picked = Picker::on("n1", None).begin(&mut self.balancer, &self.service, attempt);
        let (at, mut load) = picked.expect("one");
        load.took(self.now);
        let is_reset = client == Client::Leaves || self.broken == Some(at);
        self.lost += usize::from(is_reset && client == Client::Waits);
        let outcome = match is_reset {
            true => Outcome::ResetBehindEnd,
            false => Outcome::Success,
        };
        self.open.push((load, outcome));
        while self.open.len() >= width {
            let one = random(self.open.len() as u64) as usize;
            let (mut load, outcome) = self.open.swap_remove(one);
            self.changes.extend(load.end(outcome, self.now, &random));
        }
    }
}

const BY: [BalanceBy; 4] = [
    BalanceBy::PeakEwma,
    BalanceBy::LeastRequest,
    BalanceBy::Random,
    BalanceBy::RoundRobin,
];

#[test]
fn clients_that_hang_up_eject_nobody_that_resets_them_for_it() {
    for by in BY {
        for endpoints in [2, 3, 10] {
            for leave in [1, 5, 20, 50, 80, 95, 100] {
                for width in [1, 8] {
                    let mut shop = Shop::new(endpoints, by.clone());
                    for _ in 0..COUNT / 10 {
                        let client = match random(100) < leave {
                            true => Client::Leaves,
                            false => Client::Waits,
                        };
                        shop.comes(client, width);
                    }
                    let what = (&by, endpoints, leave, width);
                    assert_eq!(shop.changes, [], "{what:?}");
                }
            }
        }
    }
}

/// They come in the same order each time: some that are answered, and one that hangs up.
#[test]
fn clients_in_step_with_the_turns_of_endpoints_eject_nobody() {
    for by in BY {
        for endpoints in 2..6 {
            let mut shop = Shop::new(endpoints, by.clone());
            for n in 0..COUNT / 5 {
                let client = match n % usize::from(endpoints) {
                    0 => Client::Leaves,
                    _ => Client::Waits,
                };
                shop.comes(client, 1);
            }
            assert_eq!(shop.changes, [], "{by:?} {endpoints}");
        }
    }
}

#[test]
fn one_that_resets_whoever_ends_its_side_is_ejected_where_others_answer() {
    for by in [
        BalanceBy::PeakEwma,
        BalanceBy::LeastRequest,
        BalanceBy::Random,
    ] {
        let mut shop = Shop::new(3, by.clone());
        (0..100).for_each(|_| shop.comes(Client::Waits, 4));
        shop.broken = Some(2);
        (0..200).for_each(|_| shop.comes(Client::Waits, 4));
        let is_ejected = |change: &&Change| matches!(change, Change::Ejected { .. });
        let ejected = shop.changes.iter().filter(is_ejected).count();
        assert_eq!(ejected, 1, "{by:?}: {:?}", shop.changes);
        // It costs as many until it is known, and then its probes.
        let before = shop.lost;
        (0..2_000).for_each(|_| shop.comes(Client::Waits, 4));
        let lost = shop.lost - before;
        println!("{by:?}: {before} lost, then {lost} of 2,000");
        assert!(before <= 32 && lost <= 4, "{by:?}: {before}, {lost}");
        shop.broken = None;
        (0..6_000).for_each(|_| shop.comes(Client::Waits, 4));
        assert_eq!(shop.changes.last(), Some(&Change::Returned), "{by:?}");
    }
}

/// A client that hangs up is a bad probe: it neither brings an endpoint back nor keeps it out,
/// and the next one is not sent there at once.
#[test]
fn a_probe_that_is_reset_behind_its_client_s_end_is_followed_by_the_next_later() {
    let mut shop = Shop::new(2, BalanceBy::PeakEwma);
    let mut failed = 0;
    while shop.changes.is_empty() {
        failed += 1;
        shop.now += Duration::from_millis(1);
        let (at, mut load) = begin(&mut shop.balancer, &shop.service, shop.now);
        let outcome = match at {
            2 => Outcome::Failure(Failure::Reset),
            _ => Outcome::Success,
        };
        shop.changes.extend(load.end(outcome, shop.now, &random));
        assert!(failed < 1_000);
    }
    shop.broken = Some(2);
    (0..1_000).for_each(|_| shop.comes(Client::Waits, 1));
    assert!(
        (4..=10).contains(&shop.lost),
        "{} in ten seconds",
        shop.lost
    );
    shop.broken = None;
    (0..200).for_each(|_| shop.comes(Client::Waits, 1));
    assert_eq!(shop.changes.last(), Some(&Change::Returned));
}
