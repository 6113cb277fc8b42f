"""A server and many clients of one pod that ask at once."""

import hashlib
import http.client
import http.server
import json
import sys
import threading


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.tell(int(self.path[1:]))

    def do_POST(self):
        self.tell(len(self.rfile.read(int(self.headers["content-length"]))))

    def tell(self, size):
        self.send_response(200)
        self.send_header("content-length", str(size))
        self.end_headers()
        self.wfile.write(pattern(size))

    def log_message(self, *_):
        pass


def pattern(size):
    block = bytes(range(251))
    return (block * (size // 251 + 1))[:size]


def is_whole(answer, size):
    body = answer.read()
    if answer.status != 200:
        print(answer.status, body[:100], file=sys.stderr, flush=True)
        return False
    return hashlib.sha256(body).digest() == hashlib.sha256(pattern(size)).digest()


def serve(port):
    server = Server(("0.0.0.0", int(port)), Handler)
    print("ready", flush=True)
    server.serve_forever()


class Clients:
    """Each with a connection that stays."""

    def __init__(self, to, count):
        host, port = to.rsplit(":", 1)
        self.new = lambda: http.client.HTTPConnection(host, int(port), timeout=20)
        self.all = [self.new() for _ in range(count)]
        for one in self.all:
            # Another one is beside each, but the first.
            one.auto_open = True
            self.ask(one, "GET", 10)
            one.auto_open = False

    def ask(self, one, method, size):
        try:
            if method == "GET":
                one.request("GET", f"/{size}")
            else:
                one.request("POST", "/", pattern(size))
            return is_whole(one.getresponse(), size)
        except (OSError, http.client.HTTPException) as problem:
            print(method, size, repr(problem), file=sys.stderr, flush=True)
            return False

    def head(self, size):
        """Another client, whose first head is that large; is its answer whole?"""
        one = self.new()
        try:
            one.request("GET", "/10", headers={"x-long": "x" * size})
            return is_whole(one.getresponse(), 10)
        except OSError as problem:
            print(size, repr(problem), file=sys.stderr, flush=True)
            return False
        finally:
            one.close()

    def rounds(self, count, method="GET", size=100):
        """All at once, so many times; how many answers were whole."""
        whole = []

        def one(connection):
            whole.append(sum(self.ask(connection, method, size) for _ in range(count)))

        threads = [threading.Thread(target=one, args=(each,)) for each in self.all]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(whole)


def told(value):
    print(json.dumps(value), flush=True)


def steps(to, count):
    """One line of a step's name and arguments each; what came of it is one line."""
    clients = Clients(to, int(count))
    told("open")
    stalled = None
    for step in sys.stdin:
        name, *args = step.split()
        if name == "rounds":
            told(clients.rounds(int(args[0]), args[1], int(args[2])))
        elif name == "head":
            told(clients.head(int(args[0])))
        elif name == "stall":
            # It has asked, and reads nothing but the head.
            clients.all[0].request("GET", f"/{args[0]}")
            stalled = (clients.all.pop(0).getresponse(), int(args[0]))
            told(stalled[0].status)
        elif name == "read":
            told(is_whole(*stalled))


globals()[sys.argv[1]](*sys.argv[2:])
