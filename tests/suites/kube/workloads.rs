//! Workloads that end, and those with parts that start before others.

use mesh_tests::kube::{Namespace, mesh};

const SERVER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: shelf, namespace: @NS@, labels: {app: shelf}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: cluster.local/busybox:1
    imagePullPolicy: Never
    command: [sh, -c, 'echo books >/www/index.html; exec httpd -f -p \"[::]:8080\" -h /www']
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: shelf, namespace: @NS@}
spec:
  selector: {app: shelf}
  ports: [{port: 80, targetPort: 8080}]
";

/// A container that runs before and beside the others, one that only prepares, and
/// one that does the work and ends; each calls the server.
const JOB: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: reader, namespace: @NS@}
spec:
  backoffLimit: 0
  template:
    spec:
      nodeName: node1
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
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
        command: [sh, -c, 'wget -qO- http://shelf']
      containers:
      - name: work
        image: cluster.local/busybox:1
        imagePullPolicy: Never
        command: [sh, -c, 'for i in 1 2 3 4 5; do wget -qO- http://shelf || exit 1; done']
";

#[test]
fn jobs_with_native_sidecars_start_call_others_and_end() {
    let Some(mesh) = mesh() else { return };
    let ns = Namespace::new(mesh.cluster, "jobs", true).expect("a namespace");
    ns.apply(SERVER).expect("a server");
    ns.wait_ready("shelf").expect("it is ready");
    ns.apply(JOB).expect("a job");
    let done = "-n jobs wait --for=condition=Complete job/reader --timeout=60s";
    if let Err(error) = mesh.cluster.kubectl(done) {
        panic!("{error:#}\n{}", mesh.cluster.state());
    }
    for part in ["before", "work"] {
        let read = format!("-n jobs logs job/reader -c {part}");
        let read = mesh.cluster.kubectl(&read).expect("its log");
        assert!(read.starts_with("books\n"), "{part}: {read}");
    }
}
