//! Is a pod enrolled, and what it connects to carried by the agent?

use crate::agent::Agent;
use crate::pod::Pod;
use crate::wait::{PATIENCE, eventually};
use crate::world::World;

/// What the agent tells of a pod of the namespace shop; null where nothing.
#[must_use]
pub fn pod_status(agent: &Agent, pod: &Pod) -> serde_json::Value {
    let status = agent.status().unwrap_or_default();
    let pods = status["pods"].as_array().cloned().unwrap_or_default();
    let name = format!("shop/{}", pod.name);
    let found = pods.into_iter().find(|p| p["pod"] == name);
    found.unwrap_or_default()
}

/// Does the agent tell of no such pod? No answer is no word of that.
#[must_use]
pub fn has_left(agent: &Agent, pod: &Pod) -> bool {
    let name = format!("shop/{}", pod.name);
    let status = agent.status();
    status.is_ok_and(|status| {
        let pods = status["pods"].as_array();
        pods.is_some_and(|pods| pods.iter().all(|row| row["pod"] != name))
    })
}

/// What is let go of loses its programs first, and the rules that its deliveries in flight
/// were routed by last.
///
/// # Panics
/// Where it does not lose them.
#[track_caller]
pub fn loses_its_rules(world: &World, pod: &Pod) {
    let rules = || world.capture_rules(pod).expect("rules");
    let gone = eventually(PATIENCE, || rules().is_empty());
    assert!(gone, "{}: {}", pod.name, rules());
}

#[must_use]
pub fn is_enrolled(agent: &Agent, pod: &Pod) -> bool {
    pod_status(agent, pod)["enrolled"] == true
}

/// # Panics
/// Where it does not.
#[track_caller]
pub fn becomes_enrolled(agent: &Agent, pod: &Pod) {
    let enrolled = eventually(PATIENCE, || is_enrolled(agent, pod));
    assert!(enrolled, "{}: {}", pod_status(agent, pod), agent.log());
}

/// Its sandbox is made anew, and the agent finds where it is by itself.
///
/// # Panics
/// Where it does not.
#[track_caller]
pub fn is_found_after_restart(world: &mut World, agent: &Agent, pod: &Pod) {
    let before = pod_status(agent, pod)["netns_cookie"].clone();
    world.restart(pod).expect("restarted");
    world.serve(pod).expect("a process");
    let moved = eventually(PATIENCE, || {
        let now = pod_status(agent, pod);
        now["enrolled"] == true && now["netns_cookie"] != before
    });
    assert!(moved, "{}: {}", pod_status(agent, pod), agent.log());
}

/// Connects of the node's pods that the agent has captured.
///
/// # Panics
/// Without an answer of the agent.
#[must_use]
pub fn captured(agent: &Agent) -> f64 {
    counted(agent, "connect_captured")
}

/// What the kernel programs have counted of an event.
///
/// # Panics
/// Without an answer of the agent.
#[must_use]
pub fn counted(agent: &Agent, event: &str) -> f64 {
    let metric = agent.metric("mesh_agent_kernel_events_total", &format!("\"{event}\""));
    metric.expect("a metric")
}

/// Twenty connections, all of them through the agent.
///
/// # Panics
/// Where they are not.
#[track_caller]
pub fn is_carried(world: &World, agent: &Agent, from: &Pod, to: &Pod) {
    let before = captured(agent);
    let args = ["--count", "20", "--inflight", "4"];
    let report = world.storm(from, &to.targets(), &args).expect("a report");
    assert_eq!(report["ok"], 20, "{report} {}", agent.log());
    let carried = eventually(PATIENCE, || (captured(agent) - before - 20.0).abs() < 0.5);
    assert!(carried, "{} captured of 20", captured(agent) - before);
}
