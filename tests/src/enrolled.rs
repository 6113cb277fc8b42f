//! Is a pod enrolled, and what it connects to carried by the agent?

use std::time::Duration;

use crate::agent::Agent;
use crate::pod::Pod;
use crate::wait::eventually;
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

#[must_use]
pub fn is_enrolled(agent: &Agent, pod: &Pod) -> bool {
    pod_status(agent, pod)["enrolled"] == true
}

/// # Panics
/// Where it does not within ten seconds.
#[track_caller]
pub fn becomes_enrolled(agent: &Agent, pod: &Pod) {
    let enrolled = eventually(Duration::from_secs(10), || is_enrolled(agent, pod));
    assert!(enrolled, "{}: {}", pod_status(agent, pod), agent.log());
}

/// Its sandbox is made anew, and the agent finds where it is by itself.
///
/// # Panics
/// Where it does not within ten seconds.
#[track_caller]
pub fn is_found_after_restart(world: &mut World, agent: &Agent, pod: &Pod) {
    let before = pod_status(agent, pod)["netns_cookie"].clone();
    world.restart(pod).expect("restarted");
    world.serve(pod).expect("a process");
    let moved = eventually(Duration::from_secs(10), || {
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
    let carried = eventually(Duration::from_secs(5), || {
        (captured(agent) - before - 20.0).abs() < 0.5
    });
    assert!(carried, "{} captured of 20", captured(agent) - before);
}
