"""An HTTP/1 server and clients for the suite `http`, without a library in between
where bytes and ends count."""

import collections
import hashlib
import json
import socket
import ssl
import sys
import threading
import time


def line(f):
    return f.readline(65537)


def head(f):
    """First line and header lines; names in lower case."""
    first = line(f)
    while first == b"\r\n":
        first = line(f)
    if not first:
        return None, None
    headers = []
    while True:
        l = line(f)
        if l in (b"\r\n", b""):
            return first.decode("latin-1").strip(), headers
        name, value = l.decode("latin-1").split(":", 1)
        headers.append((name.lower(), value.strip()))


def body(f, headers, until_close=False):
    """Yields the pieces of a body; ValueError where it is cut."""
    h = dict(headers)
    if "chunked" in h.get("transfer-encoding", ""):
        while True:
            size = int(line(f).split(b";")[0], 16)
            if size == 0:
                while line(f) not in (b"\r\n", b""):
                    pass
                return
            left = size
            while left:
                piece = f.read(min(left, 65536))
                if not piece:
                    raise ValueError("cut")
                left -= len(piece)
                yield piece
            f.read(2)
    elif "content-length" in h:
        left = int(h["content-length"])
        while left:
            piece = f.read(min(left, 65536))
            if not piece:
                raise ValueError("cut")
            left -= len(piece)
            yield piece
    elif until_close:
        while piece := f.read(65536):
            yield piece


def pattern(size):
    block = bytes((i * 7 + (i >> 8)) & 0xFF for i in range(65536))
    while size > 0:
        yield block[:size]
        size -= len(block)


def digest(pieces):
    h, n = hashlib.sha256(), 0
    for piece in pieces:
        h.update(piece)
        n += len(piece)
    return [n, h.hexdigest()]


# --- the server -----------------------------------------------------------

# The last requests, for who asks.
SEEN = collections.deque(maxlen=10000)


def answer(s, status, text, headers=()):
    text = text.encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(text)}", *headers, "", ""]
    s.sendall("\r\n".join(lines).encode() + text)


def serve_one(s, name, number):
    f = s.makefile("rb")
    asked = 0
    while True:
        first, headers = head(f)
        if first is None:
            return
        asked += 1
        method, target, version = first.split(" ")
        path = target.split("?")[0]
        h = dict(headers)
        if method == "CONNECT":
            s.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            while piece := f.read1(65536):
                s.sendall(piece)
            s.sendall(b"bye")
            return
        if path == "/early":
            answer(s, "413 Too Large", "too large\n", ["Connection: close"])
            return
        if path == "/refuse":
            answer(s, "417 Expectation Failed", "no\n", ["Connection: close"])
            return
        if h.get("expect", "").lower() == "100-continue":
            s.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if path.endswith("/upgrade"):
            s.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n"
                      b"Upgrade: echo\r\n\r\nfirst frame")
            while piece := f.read1(65536):
                s.sendall(piece)
            s.sendall(b"bye")
            return
        if path in ("/silent", f"/silent/{name}"):
            f.read()
            return
        if path == "/reset":
            s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return
        if path == "/cut":
            s.sendall(b"HTTP/1.0 200 OK\r\n\r\nhalf")
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return
        try:
            got = digest(body(f, headers))
        except ValueError:
            return
        if path == "/seen":
            answer(s, "200 OK", json.dumps(list(SEEN)) + "\n")
            continue
        SEEN.append({"first": first, "body": got, "route": h.get("x-route"),
                     "length": h.get("content-length"), "type": h.get("content-type")})
        if path.startswith("/busy/"):
            answer(s, "503 Busy", "busy\n", [f"Retry-After: {path.split('/')[2]}"])
            continue
        if path == "/until-close":
            s.sendall(b"HTTP/1.1 200 OK\r\nX-Number: 1\r\n\r\nall of it")
            return
        if path == "/hints":
            s.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        if path.startswith("/hints/"):
            s.sendall(int(path.split("/")[2]) * b"HTTP/1.1 103 Early Hints\r\n\r\n")
        if path.startswith("/bytes/"):
            size = int(path.split("/")[2])
            s.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
            for piece in pattern(size):
                s.sendall(piece)
            continue
        if path.startswith("/chunks/"):
            s.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n")
            for piece in pattern(int(path.split("/")[2])):
                s.sendall(f"{len(piece):x};a=b\r\n".encode() + piece + b"\r\n")
            s.sendall(b"0\r\nX-End: yes\r\n\r\n")
            continue
        told = {
            "name": name, "first": first, "headers": headers, "body": got,
            "connection": number, "asked": asked,
            "peer": s.getpeername()[0],
        }
        answer(s, "200 OK", json.dumps(told) + "\n", [v for n, v in headers if n == "x-answer"])
        if h.get("connection") == "close":
            return


def guarded(s, name, number):
    try:
        serve_one(s, name, number)
    except OSError:
        pass
    finally:
        s.close()


def server(name, port, greeting):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True,
                                    backlog=512)
    number = 0
    while True:
        s, _ = listener.accept()
        number += 1
        if greeting:
            s.sendall(f"220 {greeting}\r\n".encode())
            threading.Thread(target=echo, args=(s,), daemon=True).start()
        else:
            threading.Thread(target=guarded, args=(s, name, number), daemon=True).start()


def echo(s):
    try:
        while piece := s.recv(65536):
            s.sendall(piece)
    except OSError:
        pass
    s.close()


# --- clients --------------------------------------------------------------

def connect(to):
    host, port = to.rsplit(":", 1)
    s = socket.create_connection((host.strip("[]"), int(port)), timeout=20)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def response(f, is_head=False):
    """Status, headers, and the body as text."""
    first, headers = head(f)
    if first is None:
        return None
    status = int(first.split(" ")[1])
    text = b""
    if not is_head and status >= 200 and status not in (204, 304):
        text = b"".join(body(f, headers, until_close=True))
    return [status, headers, text.decode("latin-1")]


def raw(to, *texts):
    """Each text is sent, and what comes until the end is told."""
    s = connect(to)
    for text in texts:
        s.sendall(text.encode().decode("unicode_escape").encode("latin-1"))
    got, end = b"", "fin"
    try:
        while piece := s.recv(65536):
            got += piece
    except ConnectionResetError:
        end = "reset"
    except TimeoutError:
        end = "timeout"
    return {"got": got.decode("latin-1"), "end": end}


def keep_alive(to, count, host="server"):
    s = connect(to)
    f = s.makefile("rb")
    answers = []
    for i in range(int(count)):
        s.sendall(f"GET /{i} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        status, _, text = response(f)
        answers.append([status, json.loads(text) if status == 200 else text])
    return answers


def asked(to, count, text):
    """The same request so often on one connection: of each status (0: the connection was reset),
    headers, and what the server says of it."""
    s = connect(to)
    f = s.makefile("rb")
    answers = []
    for _ in range(int(count)):
        s.sendall(text.encode().decode("unicode_escape").encode("latin-1"))
        try:
            status, headers, body = response(f, text.startswith("HEAD "))
        except ConnectionResetError:
            return [{"status": 0, "headers": [], "told": {}}]
        told = json.loads(body) if body.startswith("{") else {}
        answers.append({"status": status, "headers": headers, "told": told})
    return answers


def pipelined(to, count):
    s = connect(to)
    f = s.makefile("rb")
    s.sendall(b"".join(f"GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
                       for i in range(int(count))))
    return [json.loads(response(f)[2])["first"] for _ in range(int(count))]


def upload(to, size, chunked):
    s = connect(to)
    f = s.makefile("rb")
    size = int(size)
    if chunked == "chunked":
        s.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pattern(size):
            s.sendall(f"{len(piece):X}\r\n".encode() + piece + b"\r\n")
        s.sendall(b"0\r\n\r\n")
    else:
        s.sendall(f"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode())
        for piece in pattern(size):
            s.sendall(piece)
    told = json.loads(response(f)[2])
    return [told["body"], digest(pattern(size))]


def download(to, path, size):
    s = connect(to)
    f = s.makefile("rb")
    s.sendall(f"GET /{path}/{size} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    first, headers = head(f)
    got = digest(body(f, headers))
    # The connection is good for another one.
    s.sendall(b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n")
    return [got, digest(pattern(int(size))), response(f)[0]]


def expects(to, path):
    s = connect(to)
    f = s.makefile("rb")
    s.sendall(f"POST /{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
              "Expect: 100-continue\r\n\r\n".encode())
    status = response(f)[0]
    if status != 100:
        return [status]
    s.sendall(b"hello")
    return [status, json.loads(response(f)[2])["body"][0]]


def hints(to):
    s = connect(to)
    f = s.makefile("rb")
    s.sendall(b"GET /hints HTTP/1.1\r\nHost: a\r\n\r\n")
    return [response(f)[0], response(f)[0]]


def many_hints(to, count):
    """All that comes before the answer, and the answer, or an end without one."""
    s = connect(to)
    f = s.makefile("rb")
    s.sendall(f"GET /hints/{count} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    told = []
    try:
        while not told or told[-1] == 103:
            one = response(f)
            told.append(one[0] if one else "cut")
    except OSError:
        told.append("cut")
    return [told.count(103), told[-1]]


def upgrade(to, end):
    s = connect(to)
    s.sendall(b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
    f = s.makefile("rb")
    first, _ = head(f)
    frame = f.read(11).decode()
    s.sendall(b"ping pong")
    echoed = f.read(9).decode()
    if end == "reset":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.close()
        return [first, frame, echoed]
    s.shutdown(socket.SHUT_WR)
    return [first, frame, echoed, f.read().decode()]


def tunnel(to, later=""):
    """CONNECT: its status, and what becomes of bytes of another protocol behind it; where it
    is refused, of the next request on the connection. Later: behind another request, when the
    standard input ends."""
    s = connect(to)
    f = s.makefile("rb")
    if later:
        s.sendall(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        response(f)
        print("open", flush=True)
        sys.stdin.read()
    s.sendall(b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n")
    status, headers = head(f)
    status = int(status.split(" ")[1])
    if status // 100 == 2:
        s.sendall(b"\0any bytes")
        s.shutdown(socket.SHUT_WR)
        return [status, f.read().decode("latin-1")]
    b"".join(body(f, headers))
    s.sendall(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
    return [status, response(f)[0]]


def lasting(to):
    """Asks once, and once more when the standard input ends."""
    s = connect(to)
    f = s.makefile("rb")
    for said in ("open", "answered"):
        s.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = response(f)
        print(said if answer and answer[0] == 200 else answer, flush=True)
        sys.stdin.read()


def held(to, request):
    """Another protocol, until the server ends it or the standard input does."""
    s = connect(to)
    s.sendall(request.encode().decode("unicode_escape").encode("latin-1"))
    f = s.makefile("rb")
    head(f)
    f.read(11)
    print("open", flush=True)

    def finish():
        sys.stdin.read()
        s.shutdown(socket.SHUT_WR)

    threading.Thread(target=finish, daemon=True).start()
    try:
        s.settimeout(None)
        f.read()
        end = "fin"
    except ConnectionResetError:
        end = "reset"
    print(end, flush=True)
    return end


def begun(to, path, count, size):
    """So many uploads, half of each: the rest when the standard input ends. The answers'
    statuses."""
    half = int(size) // 2
    request = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {2 * half}\r\n\r\n"
    open_now = [connect(to) for _ in range(int(count))]
    for s in open_now:
        s.sendall(request.encode() + half * b"x")
    print("open", flush=True)
    sys.stdin.read()
    for s in open_now:
        s.sendall(half * b"x")
    print(json.dumps([response(s.makefile("rb"))[0] for s in open_now]), flush=True)


def leaving(to, path):
    """An upload whose answer is waited for until the standard input ends."""
    s = connect(to)
    s.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi".encode())
    print("open", flush=True)
    sys.stdin.read()
    s.setblocking(False)
    try:
        print(len(s.recv(100)), flush=True)
    except BlockingIOError:
        print("left", flush=True)
    s.close()


def deaf(to, path):
    """Asks until nothing more is taken, reads no answer, and stays until the standard
    input ends."""
    s = connect(to)
    s.settimeout(2)
    requests = f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() * 400
    try:
        while True:
            s.sendall(requests)
    except TimeoutError:
        print("stuck", flush=True)
    sys.stdin.read()


def slow_line(to, size, rate, how="stays"):
    """Takes so many bytes a second of an answer; how many came, and how it ended. `ends`: its own
    side, behind its request."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    host, port = to.rsplit(":", 1)
    s.connect((host, int(port)))
    s.sendall(f"GET /bytes/{size} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    if how == "ends":
        s.shutdown(socket.SHUT_WR)
    s.settimeout(60)
    got, end = s.recv(1), "whole"
    print("open", flush=True)
    try:
        while b"\r\n\r\n" not in got or len(got.split(b"\r\n\r\n", 1)[1]) < int(size):
            more = s.recv(4096)
            if not more:
                end = "fin"
                break
            got += more
            time.sleep(len(more) / float(rate))
    except OSError as e:
        end = type(e).__name__
    print(end, flush=True)


def early(to, count):
    """Large uploads that are answered before they are whole."""
    seen = {}
    for _ in range(int(count)):
        s = connect(to)
        f = s.makefile("rb")
        told = "none"
        try:
            s.sendall(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n")
            for piece in pattern(2000000):
                s.sendall(piece)
        except OSError:
            pass
        try:
            told = str(response(f)[0])
        except OSError as e:
            told = type(e).__name__
        seen[told] = seen.get(told, 0) + 1
    return seen


def greeted(to, count):
    """Milliseconds from the connect to the first byte, of each connection."""
    times = []
    for _ in range(int(count)):
        begin = time.monotonic()
        s = connect(to)
        assert s.recv(100) == b"220 ready\r\n"
        times.append((time.monotonic() - begin) * 1000)
        s.sendall(b"EHLO\r\n")
        assert s.recv(100) == b"EHLO\r\n"
        s.close()
    return times


def stray(to, count):
    """Requests of a client that looks at every port, each with its connection's end
    right behind it; how many were taken for HTTP."""
    refused = 0
    for _ in range(int(count)):
        s = connect(to)
        s.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        s.shutdown(socket.SHUT_WR)
        got = b""
        while piece := s.recv(65536):
            got += piece
        refused += got.startswith(b"HTTP/1.1 ")
        s.close()
    return refused


def name_of(to):
    """Whom a server that speaks first says to be."""
    return connect(to).recv(100).decode().split()[1]


def names_of(to, count):
    """The same, of so many connections: how often each."""
    return collections.Counter(name_of(to) for _ in range(int(count)))


def name_by_hello(to, name):
    """The same, where the client's TLS asks for a name before that; how it ended
    where it is not taken."""
    context = ssl.create_default_context()
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    try:
        s = connect(to)
        s.sendall(out.read())
        return s.makefile("rb").readline().decode().split()[1]
    except (OSError, IndexError) as e:
        return type(e).__name__


def late(to, seconds):
    """A client that says nothing for a while, and then asks."""
    s = connect(to)
    time.sleep(float(seconds))
    s.sendall(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
    return response(s.makefile("rb"))[0]


def parted(to, count, pause, *parts):
    """So many connections at once, each part so long behind the one before: names of
    the header lines that the application saw, or how it ended."""
    told, lock = [], threading.Lock()

    def one():
        s = connect(to)
        try:
            for i, part in enumerate(parts):
                time.sleep(float(pause) if i else 0)
                s.sendall(part.encode().decode("unicode_escape").encode("latin-1"))
            answer = response(s.makefile("rb"))
            seen = [name for name, _ in json.loads(answer[2])["headers"]] if answer else "fin"
        except (OSError, ValueError) as e:
            seen = type(e).__name__
        with lock:
            told.append(seen)

    join([threading.Thread(target=one) for _ in range(int(count))])
    return told


def teased(to, count, pause):
    """So many connections that begin like a request, and end so long after that."""
    def one(i):
        s = connect(to)
        s.sendall([b"", b"G", b"GET / HTTP/1.1"][i % 3])
        time.sleep(float(pause))
        s.close()

    join([threading.Thread(target=one, args=(i,)) for i in range(int(count))])
    return int(count)


def load(to, seconds, connections, path="/"):
    """Requests on kept connections until the time is over: by status and by name."""
    end = time.monotonic() + float(seconds)
    statuses, names, lock = {}, {}, threading.Lock()

    def one():
        s = f = None
        while time.monotonic() < end:
            name = ""
            try:
                if s is None:
                    s = connect(to)
                    f = s.makefile("rb")
                s.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                told = response(f)
                if told is None:
                    status, s = "closed", None
                else:
                    status = str(told[0])
                    name = json.loads(told[2])["name"] if told[0] == 200 else ""
            except OSError as e:
                status, s = type(e).__name__, None
            with lock:
                statuses[status] = statuses.get(status, 0) + 1
                names[name] = names.get(name, 0) + 1

    join([threading.Thread(target=one) for _ in range(int(connections))])
    return {"statuses": statuses, "names": names}


def kept(to, connections):
    """Until input ends: GET and POST by turns every few ms on kept connections, without a try
    again; whoever is told that its connection closes makes another one. At each line, and in
    the end, what became of all of them is told, and how many connections were made."""
    told, lock, over = {"connections": 0}, threading.Lock(), threading.Event()

    def count(what):
        with lock:
            told[what] = told.get(what, 0) + 1

    def one(n):
        s, i = None, 0
        while not over.is_set():
            i += 1
            try:
                if s is None:
                    s = connect(to)
                    f = s.makefile("rb")
                    count("connections")
                line = "POST /" if i % 2 else "GET /"
                s.sendall(f"{line} HTTP/1.1\r\nHost: a\r\nContent-Length: {i % 2}\r\n\r\n".encode()
                          + i % 2 * b"x")
                got = response(f)
                count("closed" if got is None else str(got[0]))
                if got is None or "close" in dict(got[1]).get("connection", ""):
                    s = None
            except OSError as e:
                count(type(e).__name__)
                s = None
            # Some are idle when it happens, and some are not.
            over.wait(0.005 * (n % 4))

    threads = [threading.Thread(target=one, args=(n,)) for n in range(int(connections))]
    for thread in threads:
        thread.start()
    for _ in sys.stdin:
        with lock:
            print(json.dumps(told), flush=True)
    over.set()
    for thread in threads:
        thread.join()
    print(json.dumps(told), flush=True)


def counted(to, count, connections):
    """So many requests on that many connections: by the server's name, or how they ended."""
    names, lock = {}, threading.Lock()

    def one():
        s = connect(to)
        f = s.makefile("rb")
        own = {}
        for _ in range(int(count) // int(connections)):
            s.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            status, _, text = response(f)
            name = json.loads(text)["name"] if status == 200 else str(status)
            own[name] = own.get(name, 0) + 1
        with lock:
            for name, n in own.items():
                names[name] = names.get(name, 0) + n

    join([threading.Thread(target=one) for _ in range(int(connections))])
    return names


def join(threads):
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def turns(to, seconds, connections, rate):
    """So many requests a second while the route changes: turn 2n leads to b, 2n+1 to
    c, and marks request and answer with its number. What does not belong together is
    told, and how many were right. Whoever is late asks all the same."""
    right, odd, seen, lock = [0], [], set(), threading.Lock()
    begin, each = time.monotonic(), int(connections) / float(rate)
    due = round(float(seconds) / each)

    def fault(told):
        if told is None:
            return "closed", None
        status, headers, text = told
        if status != 200:
            return str(status), None
        turn, body = dict(headers).get("x-turn"), json.loads(text)
        if dict(body["headers"]).get("x-turn") != turn:
            return f"answer of turn {turn}, request of another", None
        if body["name"] != "bc"[int(turn) % 2]:
            return f"turn {turn} at {body['name']}", None
        return None, int(turn)

    def one():
        s, turns_seen, own_right = connect(to), set(), 0
        f = s.makefile("rb")
        for n in range(due):
            time.sleep(max(0, begin + n * each - time.monotonic()))
            try:
                s.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                what, turn = fault(response(f))
            except OSError as e:
                what, turn = type(e).__name__, None
            turns_seen.add(turn)
            own_right += what is None
            if what:
                odd.append(what)
                s = connect(to)
                f = s.makefile("rb")
        with lock:
            right[0] += own_right
            seen.update(turns_seen - {None})

    join([threading.Thread(target=one) for _ in range(int(connections))])
    return {"right": right[0], "odd": odd[:20], "turns": len(seen)}


if __name__ == "__main__":
    verb, *args = sys.argv[1:]
    if verb == "serve":
        greetings = {"greets": "ready", "names": args[0]}
        server(args[0], int(args[1]), next((greetings[arg] for arg in args[2:]), None))
    elif verb in ("held", "lasting", "deaf", "begun", "leaving", "kept", "slow_line"):
        globals()[verb](*args)
    else:
        print(json.dumps(globals()[verb](*args)))
