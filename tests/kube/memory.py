#!/usr/bin/env python3
"""What a pod of the cluster costs one agent in memory that is resident. No cluster is needed.

    unshare -n tests/kube/memory.py AGENT [PODS ...]

An API server of the script's own has so many pods of other nodes, and nothing else, when
the program AGENT starts; then as many again come one by one, are told their address, and
each tenth of them goes; then the agent starts again, with what it has on disk. Each
figure is taken when the agent has next to nothing to do. A further pod is the difference
of two such runs, by that of their pods. What it prints is for docs/performance.md.
"""

import json
import os
import queue
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler

PODS = "/api/v1/pods"
NAMESPACES = "/api/v1/namespaces"
CONDITIONS = ("Ready", "ContainersReady", "Initialized", "PodScheduled")
SINCE = "2026-01-01T00:00:00Z"
MB = 1e6


def meta(name, namespace=None, version=9, **more):
    space = {"namespace": namespace} if namespace else {}
    return {"name": name, **space, "resourceVersion": str(version), **more}


def space(n):
    return f"ns-{n // 100}"


def name(n):
    return f"app-{n // 10}-5d8f6c7b9d-x{n:05}"


def address(n):
    return f"10.{n // 62500}.{n // 250 % 250}.{n % 250 + 1}"


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


def pod(n, version, has_address):
    """One of ten of a Deployment, with what an API server has of it beside."""
    app = f"app-{n // 10}"
    token = {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
    container = {
        "name": "app",
        "image": "registry.example.com/shop/app:1.2.3",
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "env": [{"name": f"SETTING_{i}", "value": f"value-{i}"} for i in range(6)],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 5},
        "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets", "readOnly": True}],
    }
    status = {"phase": "Pending", "qosClass": "Burstable"}
    if has_address:
        status = {
            "phase": "Running",
            "podIP": address(n),
            "podIPs": [{"ip": address(n)}],
            "hostIP": "192.0.2.1",
            "conditions": [{"type": kind, "status": "True", "lastTransitionTime": SINCE} for kind in CONDITIONS],
            "containerStatuses": [{"name": "app", "ready": True, "state": {"running": {"startedAt": SINCE}}}],
        }
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{app}-5d8f6c7b9d", "uid": "x" * 36}
    written = {f"f:field-{i}": {"f:inner": {}} for i in range(30)}
    return {
        "metadata": meta(
            name(n),
            space(n),
            version,
            uid=f"3b2f7c1e-8d5a-4c6b-9e0f-{n:012}",
            labels={"app": app, "pod-template-hash": "5d8f6c7b9d"},
            ownerReferences=[owner],
            managedFields=[{"manager": "kubelet", "operation": "Update", "fieldsV1": written}],
        ),
        "spec": {
            "nodeName": f"other-{n % 500}",
            "serviceAccountName": app,
            "containers": [container],
            "volumes": [token],
        },
        "status": status,
    }


class Cluster:
    """What there is, and who watches pods."""

    def __init__(self, namespaces):
        self.lock = threading.Lock()
        self.version, self.pods, self.watches = 1000, {}, []
        names = ["kube-system", "default"] + [f"ns-{n}" for n in range(namespaces)]
        label = {"mesh-agent.io/enrolled": "true"}
        self.namespaces = [{"metadata": meta(name, uid=f"uid-{name}", labels=label)} for name in names]

    def tell(self, what, pod):
        line = compact({"type": what, "object": {"kind": "Pod", "apiVersion": "v1", **pod}}) + b"\n"
        for watch in self.watches:
            watch.put(line)

    def put(self, n, has_address=True):
        with self.lock:
            self.version += 1
            what = "MODIFIED" if n in self.pods else "ADDED"
            self.pods[n] = pod(n, self.version, has_address)
            self.tell(what, self.pods[n])

    def drop(self, n):
        with self.lock:
            self.version += 1
            gone = self.pods.pop(n)
            gone["metadata"]["resourceVersion"] = str(self.version)
            self.tell("DELETED", gone)

    def list(self, path):
        """All at once, as an API server gives it from memory, whatever limit is asked for."""
        with self.lock:
            pods, version = [self.pods[n] for n in sorted(self.pods)], self.version
        items = {PODS: pods, NAMESPACES: self.namespaces}.get(path, [])
        kind = path.rsplit("/", 1)[1].title()
        yield b'{"kind":"%sList","metadata":{"resourceVersion":"%d"},"items":[' % (kind.encode(), version)
        for at in range(0, len(items), 50):
            yield (b"," if at else b"") + b",".join(map(compact, items[at : at + 50]))
        yield b"]}\n"

    def watch(self, path):
        told = queue.Queue()
        if path == PODS:
            with self.lock:
                self.watches.append(told)
        try:
            while True:
                try:
                    data = told.get(timeout=20)
                    while not told.empty() and len(data) < 60_000:
                        data += told.get()
                except queue.Empty:
                    mark = {"kind": "X", "metadata": {"resourceVersion": str(self.version)}}
                    data = compact({"type": "BOOKMARK", "object": mark}) + b"\n"
                yield data
        finally:
            with self.lock:
                self.watches = [watch for watch in self.watches if watch is not told]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        path, _, query = self.path.partition("?")
        begin = self.cluster.watch if "watch=true" in query else self.cluster.list
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for data in begin(path):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:  # the agent has ended
            self.close_connection = True


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    request_queue_size = 64


def cgroups():
    with open("/proc/self/mounts") as mounts:
        return next(line.split()[1] for line in mounts if line.split()[2] == "cgroup2")


class Agent:
    def __init__(self, program, run, port):
        config = os.path.join(run, "kubeconfig")
        server = {"server": f"http://127.0.0.1:{port}"}
        said = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": server}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        }
        with open(config, "w") as file:
            json.dump(said, file)
        self.log = open(os.path.join(run, "log"), "a")
        flags = [
            "run", "--kubernetes", "--kubeconfig", config, "--node-name", "node1",
            "--run-dir", os.path.join(run, "run"), "--state-dir", os.path.join(run, "state"),
            "--workers", "1", "--log-format", "text", "--on-stop", "remove", "--access-log", "off",
        ]  # fmt: skip
        # It wants a cgroup of its own.
        self.cgroup = tempfile.mkdtemp(prefix="mesh-memory-", dir=cgroups())
        join = f'echo $$ > {self.cgroup}/cgroup.procs && exec "$0" "$@"'
        self.process = subprocess.Popen(["sh", "-c", join, program, *flags], stdout=self.log, stderr=self.log)
        self.peak = 0
        threading.Thread(target=self.watch_peak, daemon=True).start()

    def rss(self):
        """What is its own, in bytes: not what it has of files."""
        with open(f"/proc/{self.process.pid}/status") as lines:
            return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon")), 0)

    def watch_peak(self):
        while self.process.poll() is None:
            self.peak = max(self.peak, self.rss())
            time.sleep(0.02)

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def settle(self):
        """What it has, and had at most, when it has next to nothing to do."""
        last, quiet = 0.0, 0
        while quiet < 3:
            time.sleep(1.5)
            if self.process.poll() is not None:
                sys.exit(open(self.log.name).read()[-3000:])
            now = self.cpu()
            quiet = quiet + 1 if now - last < 0.08 else 0
            last = now
        peak, self.peak = self.peak, 0
        return self.rss(), peak

    def end(self):
        self.process.terminate()
        self.process.wait()
        os.rmdir(self.cgroup)


def measure(program, pods, run):
    cluster = Cluster(2 * pods // 100)
    Handler.cluster = cluster
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def start():
        return Agent(program, run, server.server_address[1])

    figures = {}

    def show(what):
        now, peak = agent.settle()
        figures[what] = now, len(cluster.pods)
        print(f"{len(cluster.pods):6} pods {what}: {now / MB:.1f} MB, at most {peak / MB:.1f}", flush=True)

    for n in range(pods):
        cluster.put(n)
    agent = start()
    show("listed")
    for has_address in (False, True):
        for n in range(pods, 2 * pods):
            cluster.put(n, has_address)
    for n in range(pods, 2 * pods, 10):
        cluster.drop(n)
    show("after as many came, changed, and a tenth of these went")
    agent.end()
    agent = start()
    show("after a start with what is on disk")
    agent.end()
    server.shutdown()
    return figures


if __name__ == "__main__":
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    sizes = [int(word) for word in sys.argv[2:]] or [2000, 10_000]
    all_of_them = []
    for pods in sizes:
        with tempfile.TemporaryDirectory(prefix="mesh-memory-") as run:
            all_of_them.append(measure(sys.argv[1], pods, run))
    for few, many in zip(all_of_them, all_of_them[1:]):
        for what, (now, pods) in many.items():
            each = (now - few[what][0]) / (pods - few[what][1])
            print(f"a further pod {what}: {each:.0f} bytes")
