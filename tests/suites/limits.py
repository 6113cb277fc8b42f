"""A server and clients for the suite `limits`."""

import collections
import http.client
import http.server
import json
import socket
import sys
import threading
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        if self.path.startswith("/slow/"):
            time.sleep(float(self.path.split("/")[2]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.send_header("X-Target", self.path)
        self.end_headers()
        self.wfile.write(b"ok")

    do_PUT = do_GET

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128
    daemon_threads = True


def ask(connection, headers):
    connection.request("GET", "/", headers=headers)
    answer = connection.getresponse()
    answer.read()
    return answer


def pace(host, port, rate, seconds):
    """So many requests a second, each at its time, over four kept connections; how many were
    asked late."""
    counts, lock = collections.Counter(), threading.Lock()
    begin = time.monotonic() + 0.2

    def part(first):
        connection = http.client.HTTPConnection(host, port, timeout=20)
        own = collections.Counter()
        for turn in range(first, int(rate * seconds), 4):
            time.sleep(max(0, begin + turn / rate - time.monotonic()))
            own["late"] += time.monotonic() - begin - turn / rate > 0.05
            own[ask(connection, {}).status] += 1
        with lock:
            counts.update(own)

    threads = [threading.Thread(target=part, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - begin
    return {"took": took, **{str(status): n for status, n in counts.items()}}


def some(host, port, count, *lines):
    """Status and headers of each of so many requests, one after the other."""
    connection = http.client.HTTPConnection(host, port, timeout=20)
    headers = dict(line.split("=", 1) for line in lines)
    answers = []
    for _ in range(count):
        answer = ask(connection, headers)
        named = {name.lower(): value for name, value in answer.getheaders()}
        answers.append([answer.status, named])
    return answers


def targets(host, port, *requests):
    """Status of each of `METHOD TARGET`, and the target that the server got."""
    connection = http.client.HTTPConnection(host, port, timeout=20)
    told = []
    for request in requests:
        method, target = request.split(" ", 1)
        connection.request(method, target)
        answer = connection.getresponse()
        answer.read()
        told.append([answer.status, answer.getheader("x-target")])
    return told


def timed(host, port, count):
    """Status of so many requests, one after the other, and how long each took."""
    connection = http.client.HTTPConnection(host, port, timeout=60)
    told = []
    for _ in range(count):
        begin = time.monotonic()
        answer = ask(connection, {})
        told.append([answer.status, time.monotonic() - begin])
    return told


def leave(host, port, seconds):
    """Asks, and goes away before the answer."""
    with socket.create_connection((host, port), timeout=5) as s:
        s.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(seconds)
    return True


def connect(host, port, count):
    """Which of so many connections carry a byte there and back."""
    carried = []
    for _ in range(count):
        try:
            with socket.create_connection((host, port), timeout=5) as s:
                s.sendall(b"\x00echo")
                carried.append(s.recv(5) == b"\x00echo")
        except OSError:
            carried.append(False)
    return carried


def bytes_first(host, port, count):
    """So many connections that are no HTTP, to their end."""
    for _ in range(count):
        try:
            with socket.create_connection((host, port), timeout=5) as s:
                s.sendall(b"\x00\r\n\r\n")
                s.shutdown(socket.SHUT_WR)
                while s.recv(4096):
                    pass
        except OSError:
            pass
    return count


def each(host, port, count, pause):
    """Status of so many requests, each on a connection of its own, so long after it is
    made; 0: none came."""
    told = []
    for _ in range(count):
        try:
            connection = http.client.HTTPConnection(host, port, timeout=5)
            connection.connect()
            time.sleep(pause)
            told.append(ask(connection, {}).status)
            connection.close()
        except (OSError, http.client.HTTPException):
            told.append(0)
    return told


def parted(host, port, count, pause, first):
    """So many connections at once: each says `first`, and the rest of a request so long
    after it. Status of each; 0: none came."""
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    told, lock = [], threading.Lock()

    def one():
        status = 0
        try:
            with socket.create_connection((host, port), timeout=30) as s:
                s.sendall(request[:first])
                time.sleep(pause)
                s.sendall(request[first:])
                line = s.makefile("rb").readline()
                status = int(line.split()[1]) if line else 0
        except OSError:
            pass
        with lock:
            told.append(status)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(told)


def crowd(host, port, count, seconds):
    """So many requests, 200 ms one after the other, each of which takes the server so long.
    Of each: status, the agent's reason, when its answer came."""
    told, begin = [None] * count, time.monotonic()

    def one(turn):
        connection = http.client.HTTPConnection(host, port, timeout=20)
        connection.request("GET", f"/slow/{seconds}")
        answer = connection.getresponse()
        answer.read()
        told[turn] = [answer.status, answer.getheader("x-mesh-reason"), time.monotonic() - begin]

    threads = [threading.Thread(target=one, args=(turn,)) for turn in range(count)]
    for turn, thread in enumerate(threads):
        time.sleep(max(0, begin + turn * 0.2 - time.monotonic()))
        thread.start()
    for thread in threads:
        thread.join()
    return told


def answered(s, seconds, says=b""):
    s.settimeout(seconds)
    try:
        s.sendall(says)
        return s.recv(5) == b"\x00echo"
    except OSError as e:
        return type(e).__name__


def later(host, port):
    """A connection that the agent has looked at before the next one comes."""
    s = socket.create_connection((host, port), timeout=5)
    time.sleep(0.3)
    return s


def turns(host, port):
    """Three connections at once that are no HTTP, where there is a place for one, and for
    another one that waits: what becomes of the third, of the second before the first has
    ended, and behind that."""
    a, b, c = (later(host, port) for _ in range(3))
    a.sendall(b"\x00")
    told = [answered(c, 5, b"\x00echo"), answered(b, 0.3, b"\x00echo"), answered(a, 5, b"echo")]
    a.close()
    return [*told, answered(b, 5)]


def echo(port):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        s, _ = listener.accept()
        s.sendall(s.recv(5, socket.MSG_WAITALL))
        s.close()


verb, *args = sys.argv[1:]
if verb == "serve":
    Server(("::", int(args[0])), Handler).serve_forever()
elif verb == "echo":
    echo(int(args[0]))
else:
    host, port = args[0].rsplit(":", 1)
    host, port = host.strip("[]"), int(port)
    if verb == "pace":
        said = pace(host, port, float(args[1]), float(args[2]))
    elif verb == "some":
        said = some(host, port, int(args[1]), *args[2:])
    elif verb == "targets":
        said = targets(host, port, *args[1:])
    elif verb == "bytes":
        said = bytes_first(host, port, int(args[1]))
    elif verb == "each":
        said = each(host, port, int(args[1]), float(args[2]))
    elif verb == "parted":
        said = parted(host, port, int(args[1]), float(args[2]), int(args[3]))
    elif verb == "timed":
        said = timed(host, port, int(args[1]))
    elif verb == "leave":
        said = leave(host, port, float(args[1]))
    elif verb == "crowd":
        said = crowd(host, port, int(args[1]), float(args[2]))
    elif verb == "turns":
        said = turns(host, port)
    elif verb == "connect":
        said = connect(host, port, int(args[1]))
    print(json.dumps(said))
