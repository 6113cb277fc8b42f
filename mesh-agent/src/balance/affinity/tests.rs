use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::balance::Attempt;
use crate::balance::testing::{Picker, endpoint, service};
use crate::balance::{Balancer, Health};
use crate::model::Service;

const LASTS: Duration = Duration::from_secs(10);

fn of(pods: &[(u8, &str)]) -> Arc<Service> {
    let endpoints = pods.iter().map(|(n, uid)| endpoint(*n, uid, "n1"));
    service(endpoints.collect(), Some(LASTS))
}

fn all() -> Vec<(u8, &'static str)> {
    vec![(1, "a"), (2, "b"), (3, "c"), (4, "d")]
}

/// Two workers of one agent.
struct World {
    workers: [Balancer; 2],
    affinity: Arc<Affinity>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let affinity = Arc::<Affinity>::default();
        let health = Arc::new(Health::new(Instant::now()));
        Self {
            workers: [0, 1].map(|index| Balancer::new(index, affinity.clone(), health.clone())),
            affinity,
            now: Instant::now(),
        }
    }

    fn pick(&mut self, worker: usize, client: &str, service: &Arc<Service>) -> u8 {
        let picker = Picker::on("n1", None).pod(client);
        let at = (&mut Attempt::default(), self.now);
        let picked = picker.pick(&mut self.workers[worker], service, at);
        picked.expect("one")
    }
}

#[test]
fn a_pod_keeps_its_endpoint_on_every_worker_while_others_come_and_go() {
    let mut world = World::new();
    let before = of(&all());
    let clients: Vec<String> = (0..100).map(|n| format!("pod-{n}")).collect();
    let mut first: BTreeMap<&str, u8> = BTreeMap::new();
    for client in &clients {
        first.insert(client, world.pick(0, client, &before));
    }
    let used: std::collections::BTreeSet<_> = first.values().collect();
    assert_eq!(used.len(), 4, "clients are spread");
    let more: Vec<_> = all().into_iter().chain([(5, "e"), (6, "f")]).collect();
    let more = of(&more);
    for client in &clients {
        for worker in [1, 0] {
            assert_eq!(world.pick(worker, client, &more), first[&**client]);
        }
    }
    // One goes: its clients alone go elsewhere, and stay there when it is back.
    let fewer = of(&all()[1..]);
    for client in &clients {
        let now = world.pick(1, client, &fewer);
        match first[&**client] {
            1 => assert_ne!(now, 1),
            same => assert_eq!(now, same),
        }
        assert_eq!(world.pick(0, client, &before), now);
    }
}

#[test]
fn a_session_ends_when_its_client_makes_no_connection_for_so_long() {
    let mut world = World::new();
    // One that goes elsewhere as soon as it may.
    let (few, many) = (of(&all()[..1]), of(&all()));
    let moves = (0..100).map(|n| format!("pod-{n}")).find(|client| {
        let mut other = World::new();
        other.pick(0, client, &many) != 1
    });
    let client = moves.expect("one");
    assert_eq!(world.pick(0, &client, &few), 1);
    for _ in 0..3 {
        // Each connection begins the time anew.
        world.now += LASTS - Duration::from_secs(1);
        assert_eq!(world.pick(1, &client, &many), 1);
    }
    world.now += LASTS;
    assert_ne!(world.pick(0, &client, &many), 1);
}

#[test]
fn who_has_the_name_of_a_pod_that_is_made_anew_is_another_client_and_another_endpoint() {
    let mut world = World::new();
    let mut differs = 0;
    for n in 0..20 {
        let (one, other) = (format!("uid-{n}"), format!("uid-{n}-again"));
        let service = of(&all());
        differs += usize::from(world.pick(0, &one, &service) != world.pick(0, &other, &service));
    }
    assert!(differs > 5, "{differs} of 20 have another");
    // The endpoint's pod is made anew at its address: no session goes on there.
    let client = (0..100).map(|n| format!("pod-{n}")).find(|client| {
        world.pick(0, client, &of(&[(1, "a")])) == 1
            && world.pick(0, client, &of(&[(1, "anew"), (2, "b")])) == 2
    });
    assert!(client.is_some());
}

#[test]
fn a_restarted_agent_sends_a_client_to_the_same_endpoint() {
    let service = of(&all());
    for n in 0..50 {
        let client = format!("pod-{n}");
        let [before, after] = [(); 2].map(|()| World::new().pick(0, &client, &service));
        assert_eq!(before, after);
    }
}

#[test]
fn the_table_is_bounded_and_the_one_used_longest_ago_makes_room() {
    let mut world = World::new();
    let (few, many) = (of(&all()[..1]), of(&all()));
    world.pick(0, "kept", &few);
    for n in 0..2 * MAX_SESSIONS {
        world.pick(0, &format!("pod-{n}"), &few);
        if n % 1_000 == 0 {
            world.pick(1, "kept", &few);
        }
        assert!(world.affinity.len() <= MAX_SESSIONS);
    }
    assert_eq!(world.affinity.len(), MAX_SESSIONS);
    let turns = world.affinity.0.iter().map(|part| part.lock().turns.len());
    assert_eq!(turns.sum::<usize>(), MAX_SESSIONS);
    assert_eq!(world.pick(0, "kept", &many), 1);
}

#[test]
fn another_attempt_is_for_another_endpoint_and_the_session_goes_with_it() {
    let mut world = World::new();
    let service = of(&all());
    let first = world.pick(0, "pod", &service);
    let picker = Picker::on("n1", None).pod("pod");
    let mut attempt = Attempt::default();
    let mut pick = |world: &mut World| {
        let at = (&mut attempt, world.now);
        picker.pick(&mut world.workers[0], &service, at)
    };
    assert_eq!(pick(&mut world), Some(first));
    let second = pick(&mut world).expect("another");
    assert_ne!(second, first);
    assert_eq!(world.pick(1, "pod", &service), second);
}

/// A worker that is not run while it holds a lock keeps those of its part alone.
#[test]
fn clients_do_not_wait_for_each_other() {
    let mut world = World::new();
    let service = of(&all());
    let affinity = world.affinity.clone();
    let _held = affinity.0[0].lock();
    let is_free = |client: &str| {
        let key = Key {
            client: client.into(),
            service: service.key.clone(),
            port: 80,
            is_ipv4: true,
        };
        !hash_of(&key).is_multiple_of(PARTS as u64)
    };
    let clients = (0..100).map(|n| format!("pod-{n}"));
    let free: Vec<String> = clients.filter(|client| is_free(client)).collect();
    assert!(free.len() > 80, "{}", free.len());
    for client in &free {
        world.pick(0, client, &service);
    }
}
