//! Pods in sandboxes of their own (gVisor, Kata), which cannot be captured, and pods of other
//! meshes.

use std::time::Duration;

use mesh_tests::{becomes_enrolled, eventually, is_carried, pod_status};

use super::{BURSTABLE, enrolled, finder, pair};

#[test]
fn a_pod_in_a_sandbox_is_refused_and_one_of_another_mesh_is_left_alone() {
    let (mut world, a, b) = pair();
    let kata = enrolled("kata", BURSTABLE).spec("runtimeClassName: kata-qemu");
    let kata = world.add(&kata).expect("a pod");
    let istio = enrolled("istio", BURSTABLE)
        .spec("initContainers: [{name: istio-proxy, restartPolicy: Always}]");
    let istio = world.add(&istio).expect("a pod");
    world.serve(&kata).expect("a process");
    world.serve(&istio).expect("a process");
    let agent = finder(&world, &[], &[]);
    becomes_enrolled(&agent, &a);
    let refused = pod_status(&agent, &kata);
    assert_eq!(refused["enrolled"], false, "{refused}");
    assert_eq!(refused["reason"], "SandboxedRuntime");
    assert!(
        refused["message"].to_string().contains("kata-qemu"),
        "{refused}"
    );
    assert_eq!(world.capture_rules(&istio).expect("rules"), "");
    // What cannot be captured is closed; what is another mesh's is as it was.
    let report = world
        .storm(&kata, &b.targets()[2..], &["--count", "4"])
        .expect("a report");
    assert_eq!(report["ok"], 0, "{report}");
    let report = world.storm(&istio, &istio.targets()[2..], &["--count", "4"]);
    assert_eq!(report.expect("a report")["ok"], 4);
}

#[test]
fn a_sandbox_is_known_by_the_handler_of_its_class_and_an_unknown_class_is_refused() {
    let (mut world, a, b) = pair();
    let class = |name: &str, handler: &str| {
        format!(
            "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {{name: {name}}}\nhandler: {handler}\n"
        )
    };
    world
        .write_config("secure-class", &class("secure", "runsc"))
        .expect("a class");
    let [secure, late] = ["secure", "late"].map(|name| {
        let pod = enrolled(name, BURSTABLE).spec(&format!("runtimeClassName: {name}"));
        let pod = world.add(&pod).expect("a pod");
        world.serve(&pod).expect("a process");
        pod
    });
    let agent = finder(&world, &[], &[]);
    becomes_enrolled(&agent, &a);
    for (pod, reason, said) in [
        (&secure, "SandboxedRuntime", "runsc"),
        (&late, "UnknownRuntime", "late is not known"),
    ] {
        let refused = pod_status(&agent, pod);
        assert_eq!(refused["reason"], reason, "{refused}");
        assert!(refused["message"].to_string().contains(said), "{refused}");
        let report = world.storm(pod, &b.targets()[2..], &["--count", "4"]);
        assert_eq!(report.expect("a report")["ok"], 0, "{refused}");
    }
    world
        .write_config("late-class", &class("late", "runc"))
        .expect("a class");
    becomes_enrolled(&agent, &late);
    is_carried(&world, &agent, &late, &b);
    // A class that goes takes no pod out that was captured by it.
    world.remove_config("late-class").expect("no class");
    let told = eventually(Duration::from_secs(10), || {
        let warning = pod_status(&agent, &late)["warning"].to_string();
        warning.contains("late is not known")
    });
    assert!(told, "{}", pod_status(&agent, &late));
    is_carried(&world, &agent, &late, &b);
}
