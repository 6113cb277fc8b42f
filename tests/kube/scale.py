#!/usr/bin/env python3
"""What a large cluster's API costs one agent.

    CLUSTER_NODES=1 ./with.sh ./scale.py AGENT

Fills a real API server with Services, a slice of ten endpoints for each, and
AuthorizationPolicies, and starts the program AGENT beside the node's kubelet. Then:
time and memory until all is in force, one endpoint changed many times, pods that come,
change and go, and a start from disk without the API server. Pods have names of nodes
that are not there: nothing runs. What it prints is for docs/performance.md.
"""

import http.client
import json
import os
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
STATE = os.environ["CLUSTER_STATE"]
PORT = int(os.environ["CLUSTER_API_PORT"])
SERVICES, ENDPOINTS, POLICIES, PODS = 5000, 10, 500, 4000
NAMESPACES = 500
RUN = os.path.join(STATE, "scale")
NODE_NET = "10.250.0.1:6443"


def kubectl(*words, text=None):
    subprocess.run(["kubectl", *words], input=text, text=True, check=True, stdout=subprocess.DEVNULL)


class Api:
    """One connection with the admin's certificate."""

    def __init__(self):
        pki = os.path.join(STATE, "pki")
        context = ssl.create_default_context(cafile=os.path.join(pki, "ca.crt"))
        context.load_cert_chain(os.path.join(pki, "admin.crt"), os.path.join(pki, "admin.key"))
        self.http = http.client.HTTPSConnection("127.0.0.1", PORT, context=context)

    def call(self, verb, path, body=None, kind="application/json"):
        text = None if body is None else json.dumps(body)
        self.http.request(verb, path, text, {"Content-Type": kind})
        answer = self.http.getresponse()
        said = answer.read()
        if answer.status >= 300 and answer.status != 409:
            raise RuntimeError(f"{verb} {path}: {answer.status} {said[:300]}")
        return said


def all_of(calls, threads=6):
    """Makes the calls, some at a time."""
    calls = iter(list(calls))
    lock, failed = threading.Lock(), []

    def work():
        api = Api()
        while not failed:
            with lock:
                call = next(calls, None)
            if call is None:
                return
            try:
                api.call(*call)
            except Exception as error:  # told at the end
                failed.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed:
        raise failed[0]


def meta(name, namespace=None, **more):
    return {"name": name, **({"namespace": namespace} if namespace else {}), **more}


def fill():
    each = range(NAMESPACES)
    names = [f"ns-{n}" for n in each]
    all_of(("POST", "/api/v1/namespaces", {"metadata": meta(name)}) for name in names)
    all_of(
        ("POST", f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": meta("default")})
        for name in names
    )

    def services():
        for n in range(SERVICES):
            namespace, name = f"ns-{n % NAMESPACES}", f"svc-{n}"
            ports = [{"name": "http", "port": 80, "targetPort": 8080}]
            spec = {"ports": ports, "selector": {"app": name}}
            yield "POST", f"/api/v1/namespaces/{namespace}/services", {
                "metadata": meta(name, labels={"app": name}),
                "spec": spec,
            }

    all_of(services())
    all_of(
        ("POST", f"/apis/discovery.k8s.io/v1/namespaces/{space}/endpointslices", one)
        for space, one in (slice_of(n) for n in range(SERVICES))
    )

    def policies():
        for n in range(POLICIES):
            namespace = f"ns-{n % NAMESPACES}"
            rules = [{"from": [{"source": {"namespaces": [namespace, f"ns-{n // 2}"]}}]}]
            spec = {"selector": {"matchLabels": {"app": f"svc-{n}"}}, "rules": rules}
            path = f"/apis/security.istio.io/v1/namespaces/{namespace}/authorizationpolicies"
            yield "POST", path, {
                "apiVersion": "security.istio.io/v1",
                "kind": "AuthorizationPolicy",
                "metadata": meta(f"policy-{n}"),
                "spec": spec,
            }

    all_of(policies())


def address(number):
    return f"172.{16 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"


def slice_of(n, ready=True):
    endpoints = [
        {
            "addresses": [address(n * ENDPOINTS + e)],
            "conditions": {"ready": ready or e > 0},
            "nodeName": f"other-{n % 100}",
        }
        for e in range(ENDPOINTS)
    ]
    return f"ns-{n % NAMESPACES}", {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta(f"svc-{n}-x", labels={"kubernetes.io/service-name": f"svc-{n}"}),
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    }


class Agent:
    def __init__(self, program, name):
        self.run = os.path.join(RUN, name)
        os.makedirs(self.run, exist_ok=True)
        config = os.path.join(RUN, "kubeconfig")
        with open(os.environ["KUBECONFIG"]) as admin, open(config, "w") as own:
            own.write(admin.read().replace(f"127.0.0.1:{PORT}", NODE_NET))
        self.log = open(os.path.join(RUN, name + ".log"), "w")
        flags = [
            "run", "--kubernetes", "--kubeconfig", config, "--node-name", "node1",
            "--run-dir", self.run, "--state-dir", os.path.join(RUN, "state"),
            "--host-cgroup-dir", "/sys/fs/cgroup/unified", "--workers", "1", "--log-format", "text",
            "--on-stop", "remove", "--access-log", "off",
        ]  # fmt: skip
        node = os.path.join(HERE, "node.sh")
        self.begun = time.monotonic()
        self.process = subprocess.Popen([node, "exec", "1", program, *flags], stdout=self.log, stderr=self.log)

    def ask(self, page="/status"):
        """None while it does not answer."""
        try:
            unix = socket.socket(socket.AF_UNIX)
            unix.settimeout(5)
            unix.connect(os.path.join(self.run, "admin.sock"))
            unix.sendall(f"GET {page} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            said = b""
            while more := unix.recv(1 << 16):
                said += more
            unix.close()
            return json.loads(said.split(b"\r\n\r\n", 1)[1])
        except (OSError, ValueError, IndexError):
            return None

    def until(self, is_so, seconds=180, pause=0.01):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            status = self.ask()
            if status and is_so(status):
                return status
            time.sleep(pause)
        sys.exit(f"it did not come to that: {open(self.log.name).read()[-3000:]}")

    def generation(self):
        return self.ask()["generation"]

    def rss(self):
        with open(f"/proc/{self.process.pid}/status") as lines:
            parts = {line.split(":")[0]: line.split()[1] for line in lines if ":" in line and len(line.split()) > 1}
        return {name: int(parts[name]) / 1024 for name in ("VmRSS", "RssAnon", "VmHWM")}

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def settle(self):
        """Until it has next to nothing to do."""
        last = self.cpu()
        while True:
            time.sleep(2)
            now = self.cpu()
            if now - last < 0.1:
                return
            last = now

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait()


def show(what, value):
    print(f"{what}: {value}", flush=True)


def pods(agent):
    """Made, told their address, changed; each tenth is deleted."""
    agent.settle()
    before = agent.rss()

    def at(n):
        return f"/api/v1/namespaces/ns-{n % NAMESPACES}/pods"

    def made():
        for n in range(PODS):
            container = {"name": "app", "image": "cluster.local/app:1", "ports": [{"name": "http", "containerPort": 8080}]}
            yield "POST", at(n), {
                "metadata": meta(f"app-{n // 10}-5d8f6c7b9d-{n:05}", labels={"app": f"svc-{n // 10}", "pod-template-hash": f"{n // 10:x}"}),
                "spec": {"nodeName": f"other-{n % 100}", "containers": [container], "automountServiceAccountToken": False},
            }

    def told():
        for n in range(PODS):
            ip = address(60_000 + n)
            status = {
                "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "10.9.0.1",
                "conditions": [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady", "Initialized", "PodScheduled")],
            }  # fmt: skip
            path = f"{at(n)}/app-{n // 10}-5d8f6c7b9d-{n:05}/status"
            yield "PATCH", path, {"status": status}, "application/merge-patch+json"

    def gone():
        for n in range(0, PODS, 10):
            yield "DELETE", f"{at(n)}/app-{n // 10}-5d8f6c7b9d-{n:05}", {"gracePeriodSeconds": 0}

    begun, cpu = time.monotonic(), agent.cpu()
    all_of(made())
    all_of(told())
    all_of(gone())
    took = time.monotonic() - begun
    left = PODS - len(range(0, PODS, 10))
    kind = lambda status: next(k for k in status["source"]["kinds"] if k["kind"] == "Pod")
    agent.until(lambda status: kind(status)["objects"] >= left)
    agent.settle()
    for name, value in agent.rss().items():
        each = (value - before[name]) * 1024 / left
        show(f"{left} pods more, {name}", f"{before[name]:.1f} -> {value:.1f} MB, {each:.2f} KB a pod")
    show("pods: seconds, CPU of the agent", f"{took:.1f} {agent.cpu() - cpu:.2f}")


def endpoint(agent):
    api, times, cpus = Api(), [], []
    for turn in range(20):
        namespace, one = slice_of(7, ready=turn % 2 == 1)
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{one['metadata']['name']}"
        before, cpu = agent.generation(), agent.cpu()
        begun = time.monotonic()
        api.call("PUT", path, one)
        agent.until(lambda status: status["generation"] > before, pause=0.001)
        times.append((time.monotonic() - begun) * 1000)
        cpus.append((agent.cpu() - cpu) * 1000)
        time.sleep(0.3)
    show("endpoint, ms to effect: median, worst", f"{statistics.median(times):.0f} {max(times):.0f}")
    show("endpoint, CPU ms with the asking: mean", f"{statistics.mean(cpus):.1f}")


def control_plane(name, how):
    with open(os.path.join(STATE, "run", name + ".pid")) as pid:
        os.kill(int(pid.read().split()[0]), how)


def main():
    program = os.path.abspath(sys.argv[1])
    os.makedirs(RUN, exist_ok=True)
    kubectl("apply", "-k", os.path.join(HERE, "../../deploy/components/istio-crds"))
    kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    # They would make slices, take pods away that are nowhere, and write rules for all.
    for name in ("kube-controller-manager", "kube-scheduler", "node1-kube-proxy"):
        control_plane(name, signal.SIGKILL)
    begun = time.monotonic()
    fill()
    show("filled in seconds", f"{time.monotonic() - begun:.0f}")
    known = lambda status: status["source"].get("is_known") and status["generation"] > 0
    for turn in range(3):
        subprocess.run(["rm", "-rf", os.path.join(RUN, "state")], check=True)
        agent = Agent(program, f"first-{turn}")
        agent.until(known)
        show("first snapshot, seconds, CPU", f"{time.monotonic() - agent.begun:.2f} {agent.cpu():.2f}")
        agent.settle()
        show("MB after it", agent.rss())
        if turn < 2:
            agent.end()
    endpoint(agent)
    before = agent.cpu()
    time.sleep(10)
    show("idle, CPU ms a second", f"{(agent.cpu() - before) * 100:.1f}")
    pods(agent)
    agent.end()
    control_plane("kube-apiserver", signal.SIGKILL)
    for turn in range(2):
        agent = Agent(program, f"disk-{turn}")
        status = agent.until(known)
        show("from disk, seconds, CPU", f"{time.monotonic() - agent.begun:.2f} {agent.cpu():.2f}")
        agent.settle()
        show("MB after it", agent.rss())
        show("problems", [problem["what"][:100] for problem in status["problems"]])
        agent.end(signal.SIGKILL if turn == 0 else signal.SIGTERM)


main()
