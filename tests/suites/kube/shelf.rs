//! A server with books on the second node, and jobs on the first that read there.

use mesh_tests::kube::Namespace;

const SERVER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: shelf, namespace: @NS@, labels: {app: shelf}}
spec:
  nodeName: node2
  hostname: first
  subdomain: shelves
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
---
apiVersion: v1
kind: Service
metadata: {name: shelves, namespace: @NS@}
spec:
  clusterIP: None
  selector: {app: shelf}
  ports: [{name: web, port: 8080}]
";

const READER: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: reader, namespace: @NS@}
spec:
  backoffLimit: 0
  template:
    spec:
      nodeName: node1
      restartPolicy: Never
      terminationGracePeriodSeconds: 1@BEFORE@
      containers:
      - name: work
        image: cluster.local/busybox:1
        imagePullPolicy: Never
        command: [sh, -c, '@WORK@']
";

/// It has a Service of its name, and a name of its own in a headless one.
pub(crate) fn serve(ns: &Namespace<'_>) {
    ns.apply(SERVER).expect("a server");
    ns.wait_ready("shelf").expect("it is ready");
}

/// Runs a job to its end; what each of its containers has read. `before`: those that
/// start before.
pub(crate) fn read<'n>(
    ns: &'n Namespace<'_>,
    before: &str,
    work: &str,
) -> impl Fn(&str) -> String + 'n {
    let job = READER.replace("@BEFORE@", before).replace("@WORK@", work);
    ns.apply(&job).expect("a job");
    let Namespace { cluster, name } = ns;
    let done = format!("-n {name} wait --for=condition=Complete job/reader --timeout=60s");
    if let Err(error) = cluster.kubectl(&done) {
        panic!("{error:#}\n{}", cluster.state());
    }
    move |part| {
        let log = cluster.kubectl(&format!("-n {name} logs job/reader -c {part}"));
        log.expect("its log")
    }
}
