//! A pod that comes while no agent looks after the node: one has handed over, and the
//! next one has not looked yet.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mesh_tests::{becomes_enrolled, eventually, is_carried};

use super::{BURSTABLE, enrolled, finder, pair, reaches, spec};

#[test]
fn a_pod_that_comes_after_a_hand_over_is_held_until_the_next_agent_has_enrolled_it() {
    let (mut world, a, b) = pair();
    let outside = world.add(&spec("outside", BURSTABLE)).expect("a pod");
    world.serve(&outside).expect("a server");
    let agent = finder(&world, &[], &[]);
    becomes_enrolled(&agent, &a);
    // In the place of an agent that loads its programs for long: it has the lock.
    let offer = agent.run_dir().join("handover.sock");
    let mut asker = UnixStream::connect(offer).expect("asked");
    let mut said = String::new();
    asker.read_to_string(&mut said).expect("an answer");
    assert_eq!(said, "yours\n", "{}", agent.log());
    let pins = File::open(world.pins("n1")).expect("pins");
    pins.lock().expect("the lock");
    let late = world.add(&enrolled("late", BURSTABLE)).expect("a pod");
    world.serve(&late).expect("a process");
    let held = eventually(Duration::from_secs(10), || {
        !reaches(&world, &late, &outside)
    });
    assert!(held, "{}", agent.log());
    assert!(reaches(&world, &outside, &outside), "{}", agent.log());
    // It stays so whatever becomes of both.
    drop(pins);
    agent.kill9().expect("killed");
    assert!(!reaches(&world, &late, &outside));
    let agent = finder(&world, &[], &[]);
    becomes_enrolled(&agent, &late);
    is_carried(&world, &agent, &late, &b);
}
