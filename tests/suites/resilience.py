"""Servers that fail in one way or another, as a file says, and a client that never
tries again, for the suite `resilience`."""

import json
import os
import select
import socket
import struct
import sys
import threading
import time

# Ten times and more what others take.
SLOW = 0.1
GET = b"GET / HTTP/1.1\r\nHost: s\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 0\r\n\r\n"
# More than an agent sends another one before that has taken any.
LARGE = b"POST / HTTP/1.1\r\nHost: s\r\nContent-Length: 40000\r\n\r\n" + 40000 * b"x"
RST = struct.pack("ii", 1, 0)


# --- the server -----------------------------------------------------------

class Server:
    def __init__(self, name, port, mode_file):
        self.name, self.port, self.mode_file = name, port, mode_file
        self.mode, self.count, self.lock = "", 0, threading.Lock()
        self.listener, self.full, self.open = None, [], set()

    def listen(self):
        for s in self.full:
            s.close()
        self.full = []
        if self.listener is None:
            self.listener = socket.create_server(
                ("::", self.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
            self.listener.settimeout(0.01)

    def swallow(self):
        """A queue that is full: what comes is not answered at all."""
        if self.listener is not None:
            self.listener.close()
        self.listener = None
        full = socket.create_server(
            ("::", self.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=0)
        self.full = [full]
        for _ in range(4):
            s = socket.socket(socket.AF_INET6)
            s.setblocking(False)
            s.connect_ex(("::1", self.port))
            self.full.append(s)

    def follow(self):
        """What the file says; it is told when it holds."""
        with open(self.mode_file) as f:
            mode = f.read().strip()
        if mode == self.mode:
            return
        self.mode = mode
        if mode in ("refuse", "leave"):
            self.listener.close()
            self.listener = None
            # Who leaves ends what it is at; who is gone has no connections either.
            how = socket.SHUT_RD if mode == "leave" else socket.SHUT_RDWR
            with self.lock:
                ends = list(self.open)
            for s in ends:
                try:
                    s.shutdown(how)
                except OSError:
                    pass  # its client was faster
        elif mode in ("blackhole", "gone"):
            self.swallow()
        else:
            self.listen()
        with open(self.mode_file + ".is.new", "w") as f:
            f.write(mode)
        os.rename(self.mode_file + ".is.new", self.mode_file + ".is")

    def run(self):
        self.listen()
        while True:
            self.follow()
            if self.listener is None:
                time.sleep(0.01)
                continue
            try:
                s, _ = self.listener.accept()
            except TimeoutError:
                continue
            except OSError:
                self.listener.close()
                self.listener = None
                continue
            s.settimeout(None)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.mode == "reset":
                # As it sees it, that was a request.
                with self.lock:
                    self.count += 1
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
                s.close()
                continue
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def serve(self, s):
        with self.lock:
            self.open.add(s)
        try:
            f, before = s.makefile("rb"), 0
            while line := f.readline():
                is_http = line.startswith((b"GET ", b"POST "))
                length = lines(f) if is_http else 0
                if line.startswith(b"GET /state "):
                    # Whatever it does else.
                    with self.lock:
                        body = json.dumps([self.count, len(self.open)])
                    s.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
                    continue
                if line.startswith((b"GET /slow ", b"torn")):
                    # As servers that look after their clients: who hangs up is not answered.
                    if select.select([s], [], [], 200 * SLOW)[0] and not s.recv(1, socket.MSG_PEEK):
                        if line.startswith(b"torn"):
                            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
                        return
                with self.lock:
                    self.count += 1
                    count = self.count
                if self.mode == "die":
                    # Who comes is refused from now on, before anybody sees the connection end.
                    self.listener.shutdown(socket.SHUT_RDWR)
                    return
                if self.mode == "early":
                    body = json.dumps([self.name, count])
                    s.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode())
                    # What comes is the request, or nobody is answered any more.
                    if f.read(length) != length * b"x":
                        return
                    s.sendall(body.encode())
                    continue
                before += 1
                if self.mode == "turn" and before > 1:
                    time.sleep(10 * SLOW)
                    return
                if self.mode == "gone":
                    return
                if self.mode in ("hang", "blackhole", "turn"):
                    f.read()
                    return
                if self.mode == "spurn":
                    # Behind the client's end.
                    f.read()
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
                    return
                if self.mode in ("slow", "tardy"):
                    time.sleep(SLOW)
                # After so long, and the body behind that.
                after = [float(s) for s in self.mode.split(":")[1:]]
                if after:
                    time.sleep(after[0])
                if self.mode == "stream":
                    s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegin")
                    f.read()
                    return
                fails = self.mode.split(":")[0] in ("fail", "later", "tardy") or (self.mode == "half" and count % 2)
                body = json.dumps([self.name, count]) + "\n"
                if is_http:
                    status = "503 Service Unavailable" if fails else "200 OK"
                    retry = "Retry-After: 8\r\n" if self.mode == "later" else ""
                    head = f"HTTP/1.1 {status}\r\n{retry}Content-Length: {len(body)}\r\n\r\n"
                    if after[1:]:
                        s.sendall(head.encode())
                        time.sleep(after[1])
                        head = ""
                    s.sendall((head + body).encode())
                elif fails and self.mode == "half":
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
                    return
                else:
                    s.sendall(body.encode())
        except OSError:
            pass
        finally:
            with self.lock:
                self.open.discard(s)
            s.close()


def lines(f):
    """Of a head, but for its first; how long its body is."""
    length = 0
    while (line := f.readline()) not in (b"\r\n", b""):
        name, value = line.decode().split(":", 1)
        if name.lower() == "content-length":
            length = int(value)
    return length


# --- the client -----------------------------------------------------------

def call(to, kind, longest):
    """One connection, one question: (what came of it, who answered)."""
    host, port = to.rsplit(":", 1)
    try:
        s = socket.create_connection((host, int(port)), timeout=longest)
    except OSError as e:
        return type(e).__name__, None
    try:
        s.settimeout(longest)
        f = s.makefile("rb")
        if kind in ("tcp", "said"):
            s.sendall(b"who\n")
            if kind == "said":
                s.shutdown(socket.SHUT_WR)
            line = f.readline()
            return ("ok", json.loads(line)[0]) if line else ("closed", None)
        # With large ones another request comes behind, at once.
        s.sendall({"post": POST, "large": LARGE + GET}.get(kind, GET))
        if kind in ("half", "ended"):
            # It has asked for all that it will ask for, and says so: a while later, or at once.
            time.sleep(6 * SLOW if kind == "half" else 0)
            s.shutdown(socket.SHUT_WR)
        status, body = answered(f)
        if status == "closed":
            return status, None
        if kind == "large":
            status = max(status, answered(f)[0])
        who = json.loads(body)[0] if body.startswith("[") else body
        return ("ok" if status == "200" else status), who
    except OSError as e:
        return type(e).__name__, None
    finally:
        s.close()


def calls(to, kind, count, longest):
    """One after the other."""
    results, servers, times, begun = {}, {}, [], time.monotonic()
    for _ in range(count):
        asked = time.monotonic()
        what, who = call(to, kind, longest)
        times.append(time.monotonic() - asked)
        results[what] = results.get(what, 0) + 1
        servers[str(who)] = servers.get(str(who), 0) + 1
    times.sort()
    return {"results": results, "servers": servers, "took": time.monotonic() - begun,
            "p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100],
            "over_1s": sum(t > 1 for t in times)}


def leave(to, kind, count, after):
    """Asks for what takes long, and hangs up so many seconds later, one after the other."""
    host, port = to.rsplit(":", 1)
    for _ in range(count):
        with socket.create_connection((host, int(port)), timeout=20) as s:
            s.sendall(b"torn\n" if kind == "tcp" else GET.replace(b"/ ", b"/slow ", 1))
            time.sleep(after)
    return {"left": count}


def offered(to, kind, seconds, rate, longest):
    """So many calls a second, each at its time however long others take; latency is from
    that time on."""
    results, servers, times, lock = {}, {}, [], threading.Lock()
    turns, begun = iter(range(int(seconds * rate))), time.monotonic() + 0.1

    def one_after_another():
        while True:
            with lock:
                turn = next(turns, None)
            if turn is None:
                return
            due = begun + turn / rate
            time.sleep(max(0, due - time.monotonic()))
            what, who = call(to, kind, longest)
            with lock:
                times.append(time.monotonic() - due)
                results[what] = results.get(what, 0) + 1
                servers[str(who)] = servers.get(str(who), 0) + 1

    # More than wait at once where each third call takes as long as is allowed.
    threads = [threading.Thread(target=one_after_another) for _ in range(int(rate * longest))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times.sort()
    return {"results": results, "servers": servers, "count": len(times),
            "p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}


def answered(f):
    """The next answer: its status and body."""
    first = f.readline()
    body = f.read(lines(f))
    return (first.split(b" ")[1].decode() if first else "closed"), body.decode().strip()


def ask(f, s):
    """One request on a connection that is kept: its status."""
    s.sendall(GET)
    status, body = answered(f)
    return status if status in ("200", "closed") else f"{status} {body}"


def load(to, seconds, kinds):
    """From eight clients at most, as many of each kind, `kept` for GETs on connections that are
    kept; until it is told to end: what came of those of each kind."""
    host, port = to.rsplit(":", 1)
    results, lock, until = {}, threading.Lock(), time.monotonic() + seconds
    ended = threading.Event()

    def count(kind, what):
        with lock:
            of = results.setdefault(kind, {})
            of[what] = of.get(what, 0) + 1

    def kept():
        s = f = None
        while not ended.is_set() and time.monotonic() < until:
            if s is None:
                s = socket.create_connection((host, int(port)), timeout=20)
                f = s.makefile("rb")
            try:
                what = ask(f, s)
            except OSError as e:
                what = type(e).__name__
            if what != "200":
                s.close()
                s = None
            count("kept", "ok" if what == "200" else what)

    def fresh(kind):
        while not ended.is_set() and time.monotonic() < until:
            what, who = call(to, kind, 20)
            count(kind, what if what == "ok" else f"{what} {who}")

    each = [(kept, ()) if kind == "kept" else (fresh, (kind,)) for kind in kinds]
    threads = [threading.Thread(target=of, args=args) for of, args in 8 // len(each) * each]
    for thread in threads:
        thread.start()
    sys.stdin.readline()
    ended.set()
    for thread in threads:
        thread.join()
    return {"results": results}


def kept(to, count):
    """On so many connections once, and, when it is told to, once more: what came of that."""
    host, port = to.rsplit(":", 1)
    open_ones = [socket.create_connection((host, int(port)), timeout=20) for _ in range(count)]
    files = [s.makefile("rb") for s in open_ones]
    for f, s in zip(files, open_ones):
        ask(f, s)
    print(flush=True)
    sys.stdin.readline()
    results = [ask(f, s) for f, s in zip(files, open_ones)]
    return {"results": results}


if sys.argv[1] == "kept":
    print(json.dumps(kept(sys.argv[2], int(sys.argv[3]))))
elif sys.argv[1] == "load":
    print(json.dumps(load(sys.argv[2], float(sys.argv[3]), sys.argv[4:])))
elif sys.argv[1] == "offered":
    print(json.dumps(offered(sys.argv[2], sys.argv[3], *map(float, sys.argv[4:7]))))
elif sys.argv[1] == "leave":
    print(json.dumps(leave(*sys.argv[2:4], int(sys.argv[4]), float(sys.argv[5]))))
elif sys.argv[1] == "serve":
    Server(sys.argv[2], int(sys.argv[3]), sys.argv[4]).run()
else:
    print(json.dumps(calls(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))))
