//! Workloads that end, and those with parts that start before others.

use mesh_tests::kube::{Namespace, mesh};

use crate::shelf;

/// A container that runs before and beside the others, and one that only prepares: each
/// calls the server, as the one that does the work and ends.
const BEFORE: &str = "
      initContainers:
      - name: beside
        restartPolicy: Always
        image: cluster.local/busybox:1
        imagePullPolicy: Never
        command: [sh, -c, 'wget -qO /tmp/first http://shelf && exec sleep 600']
        startupProbe: {exec: {command: [grep, books, /tmp/first]}, periodSeconds: 1, failureThreshold: 60}
      - name: before
        image: cluster.local/busybox:1
        imagePullPolicy: Never
        command: [sh, -c, 'wget -qO- http://shelf']";

#[test]
fn jobs_with_native_sidecars_start_call_others_and_end() {
    let Some(mesh) = mesh() else { return };
    let ns = Namespace::new(mesh.cluster, "jobs", true).expect("a namespace");
    shelf::serve(&ns);
    let often = "for i in 1 2 3 4 5; do wget -qO- http://shelf || exit 1; done";
    let read = shelf::read(&ns, BEFORE, often);
    for part in ["before", "work"] {
        assert!(read(part).starts_with("books\n"), "{part}: {}", read(part));
    }
}
