"""What the suite `streams` has beside the servers and clients of `http.py`, which is
behind it: connections that last, and many at once."""

import hashlib
import json
import random
import socket
import sys
import threading
import time

NOTES, IDS, NOTED = {}, {}, threading.Lock()


def note(what):
    with NOTED:
        NOTES[what] = NOTES.get(what, 0) + 1


def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    s.close()


def percentile(times, part):
    return sorted(times)[min(len(times) - 1, int(len(times) * part))] if times else 0


def in_threads(width, work):
    threads = [threading.Thread(target=work, args=(i,)) for i in range(width)]
    join(threads)


# --- the server -----------------------------------------------------------

def serve_streams(port, idle="0"):
    """`idle`: a connection without a request is closed after so many seconds."""
    threading.stack_size(256 * 1024)
    listener = socket.create_server(("::", int(port)), family=socket.AF_INET6,
                                    dualstack_ipv6=True, backlog=4096)
    while True:
        s, _ = listener.accept()
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=streamed, args=(s, float(idle)), daemon=True).start()


def streamed(s, idle):
    try:
        while stream_one(s, s.makefile("rb"), idle):
            pass
    except (OSError, ValueError):
        pass
    finally:
        s.close()


def stream_one(s, f, idle):
    """One request; false where the connection ends behind it."""
    s.settimeout(idle or None)
    first, headers = head(f)
    if first is None:
        return False
    s.settimeout(None)
    method, target, _ = first.split(" ", 2)
    part = target.split("?")[0].split("/")
    h = dict(headers)
    if part[1] == "socket":
        frame = f"frame {part[2]}".encode()
        s.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n"
                  b"Upgrade: websocket\r\n\r\n" + frame)
        socket_end(s, f, part[3], part[2].encode())
        return False
    if part[1] == "events":
        s.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                  b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(int(part[3])):
            time.sleep(float(part[2]))
            event = f"data: {time.monotonic()}\n\n".encode()
            s.sendall(f"{len(event):x}\r\n".encode() + event + b"\r\n")
        s.sendall(b"0\r\n\r\n")
        return True
    if part[1] == "both":
        left = int(h["content-length"])
        s.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n".encode())
        while left:
            piece = f.read1(min(left, 262144))
            if not piece:
                return False
            s.sendall(piece)
            left -= len(piece)
        return True
    if part[1] == "bytes":
        size = int(part[2])
        s.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        for piece in pattern(size):
            s.sendall(piece)
        return True
    if part[1] == "length-and-chunks":
        s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
                  b"5\r\nhello\r\n0\r\n\r\n")
        return True
    if part[1] == "cut-chunks":
        s.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        return False
    got = digest(body(f, headers))
    text = json.dumps({"first": first, "body": got})
    if part[1] == "notes":
        with NOTED:
            text = json.dumps(NOTES)
    elif part[1] == "times":
        # How often each of these was asked for.
        with NOTED:
            text = json.dumps([IDS.get(one, 0) for one in part[2].split(",")])
    elif part[1] == "id":
        with NOTED:
            IDS[part[2]] = IDS.get(part[2], 0) + 1
    if part[1] == "old":
        # A server of HTTP/1.0 that keeps its connections.
        s.sendall(f"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: {len(text)}"
                  f"\r\n\r\n{text}".encode())
    else:
        answer(s, "200 OK", text)
    return True


def socket_end(s, f, mode, number):
    """What the server sees of an end is noted, or is its own."""
    if mode == "client-fin":
        s.sendall(b"bye " + f.read())
    elif mode == "server-fin":
        s.shutdown(socket.SHUT_WR)
        note("heard" if f.read() == b"hello " + number else "not heard")
    elif mode == "client-reset":
        try:
            f.read()
            note("fin")
        except ConnectionResetError:
            note("reset")
    elif mode == "server-reset":
        f.read(6 + len(number))
        reset(s)


# --- clients --------------------------------------------------------------

MODES = ["client-fin", "server-fin", "client-reset", "server-reset"]


def notes(to):
    s = connect(to)
    s.sendall(b"GET /notes HTTP/1.1\r\nHost: a\r\n\r\n")
    return json.loads(response(s.makefile("rb"))[2])


def sockets(to, count, width, silence="0"):
    """So many upgrades, a quarter ending in each way; what is not as it should be is
    told. `silence`: seconds between the first frame and the next."""
    odd, count, width = [], int(count), int(width)

    def one(number):
        mode = MODES[number % 4]
        s = connect(to)
        s.sendall(f"GET /socket/{number}/{mode} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n"
                  "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        f = s.makefile("rb")
        first, _ = head(f)
        assert first and first.split(" ")[1] == "101", first
        frame, hello = f"frame {number}".encode(), f"hello {number}".encode()
        got = f.read(len(frame))
        assert got == frame, got
        time.sleep(float(silence))
        if mode == "server-fin":
            assert f.read() == b"", "more than the frame"
        s.sendall(hello)
        if mode == "client-fin":
            s.shutdown(socket.SHUT_WR)
            got = f.read()
            assert got == b"bye " + hello, got
        elif mode == "client-reset":
            reset_behind(s, f)
            return
        elif mode == "server-reset":
            try:
                got = f.read()
                raise AssertionError(f"an end and no reset: {got}")
            except ConnectionResetError:
                pass
        s.close()

    def some(worker):
        for number in range(worker, count, width):
            try:
                one(number)
            except (OSError, AssertionError) as e:
                odd.append(f"{MODES[number % 4]}: {type(e).__name__} {e}")

    in_threads(width, some)
    return {"odd": odd[:20], "failed": len(odd)}


def reset_behind(s, f):
    # A file of the socket would keep it open.
    f.close()
    reset(s)


def events(to, silence, count):
    """How late each event came, in milliseconds, and whether the answer was whole."""
    s = connect(to)
    s.settimeout(float(silence) + 20)
    f = s.makefile("rb")
    s.sendall(f"GET /events/{silence}/{count} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    _, headers = head(f)
    late = []
    for piece in body(f, headers):
        late.append((time.monotonic() - float(piece.split()[1])) * 1000)
    return late


def asks_again(to, pause):
    """Two requests on one connection, so long after each other."""
    told = []
    try:
        s = connect(to)
        f = s.makefile("rb")
        for i in range(2):
            time.sleep(float(pause) if i else 0)
            s.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            answered = response(f)
            told.append(answered and answered[0])
    except OSError as e:
        told.append(type(e).__name__)
    return told


def both(to, size):
    """As much up as down at once; true where the same came back."""
    s, size, sums = connect(to), int(size), [None, None]
    f = s.makefile("rb")
    s.settimeout(60)
    s.sendall(f"POST /both HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode())

    def up():
        h = hashlib.sha256()
        for piece in pattern(size):
            h.update(piece)
            s.sendall(piece)
        sums[0] = [size, h.hexdigest()]

    sender = threading.Thread(target=up)
    sender.start()
    _, headers = head(f)
    sums[1] = digest(body(f, headers))
    sender.join()
    return sums[0] == sums[1]


def odd_ones(to):
    """Messages that proxies are known to break, one after the other."""
    told = {}
    s = connect(to)
    f = s.makefile("rb")
    s.sendall(b"GET /old HTTP/1.1\r\nHost: a\r\n\r\n")
    told["old"] = response(f)[0]
    s.sendall(b"POST /old HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
              b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
    told["upload to old"] = json.loads(response(f)[2])["body"][0]
    s = connect(to)
    f = s.makefile("rb")
    s.sendall(b"GET /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
              b"5\r\nhello\r\n0\r\n\r\n")
    told["get with body"] = json.loads(response(f)[2])["body"][0]
    s.sendall(b'GET /q?a="<b>" HTTP/1.1\r\nHost: a\r\n\r\n')
    told["query"] = json.loads(response(f)[2])["first"]
    s.sendall(b"GET /length-and-chunks HTTP/1.1\r\nHost: a\r\n\r\n")
    told["length and chunks"] = response(f)[0]
    told["cut to 1.0"] = raw(to, "GET /cut-chunks HTTP/1.0\\r\\n\\r\\n")["end"]
    return told


def race(to, idle, spread, seconds, width):
    """Requests on kept connections, each `idle` after the one before, give or take
    `spread`: by method, those that failed; and of the POSTs how many failed ones the
    server saw, and how many it saw twice."""
    end = time.monotonic() + float(seconds)
    failed, asked, posts, lock = {"GET": {}, "POST": {}}, {"GET": 0, "POST": 0}, [], threading.Lock()

    def one(worker):
        s, number = None, 0
        while time.monotonic() < end:
            method = "GET" if number % 2 else "POST"
            name = f"{worker}-{number}"
            number += 1
            length = "Content-Length: 4\r\n" if method == "POST" else ""
            try:
                if s is None:
                    s = connect(to)
                    f = s.makefile("rb")
                s.sendall(f"{method} /id/{name} HTTP/1.1\r\nHost: a\r\n{length}\r\n".encode()
                          + (b"once" if length else b""))
                told = response(f)
                what = "fin" if told is None else str(told[0])
            except OSError as e:
                what = type(e).__name__
            with lock:
                asked[method] += 1
                if method == "POST":
                    posts.append((name, what))
                if what != "200":
                    failed[method][what] = failed[method].get(what, 0) + 1
            if what != "200":
                s = None
            pause = float(idle) * (1 + random.uniform(-1, 1) * float(spread))
            time.sleep(pause)

    in_threads(int(width), one)
    s = connect(to)
    f = s.makefile("rb")
    seen = []
    for at in range(0, len(posts), 500):
        ids = ",".join(name for name, _ in posts[at:at + 500])
        s.sendall(f"GET /times/{ids} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        seen += json.loads(response(f)[2])
    times = [(what, times) for (_, what), times in zip(posts, seen)]
    return {
        "asked": asked, "failed": failed,
        "twice": sum(times > 1 for _, times in times),
        "lost": sum(times == 0 for what, times in times if what == "200"),
        "failed and seen": sum(times > 0 for what, times in times if what != "200"),
    }


def paced(to, rate, seconds):
    """So many requests a second, every other one on a connection of its own."""
    width, times, odd, lock = 4, [], [], threading.Lock()
    begin = time.monotonic()

    def one(worker):
        kept, number = None, 0
        while True:
            due = begin + (number * width + worker) / float(rate)
            number += 1
            if due > begin + float(seconds):
                return
            time.sleep(max(0, due - time.monotonic()))
            asked, what = time.monotonic(), None
            try:
                if kept is None:
                    kept = connect(to)
                s = kept if number % 2 else connect(to)
                s.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
                told = response(s.makefile("rb"))
                what = None if told and told[0] == 200 else str(told and told[0])
                if s is not kept:
                    s.close()
            except OSError as e:
                what = type(e).__name__
            with lock:
                times.append((time.monotonic() - asked) * 1000)
                if what:
                    odd.append(what)
                    kept = None

    in_threads(width, one)
    return {"asked": len(times), "odd": odd[:20], "failed": len(odd),
            "p50": percentile(times, 0.5), "p99": percentile(times, 0.99)}


RANGES = ",".join(f"5-{i}" for i in range(1000))
BEGINS = {
    "headers": "GET /slow HTTP/1.1\r\nHost: a\r\n",
    "body": "POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n",
    "read": "GET /bytes/4000000 HTTP/1.1\r\nHost: a\r\n\r\n",
    "range": f"GET /bytes/200000 HTTP/1.1\r\nHost: a\r\nRange: bytes=0-,{RANGES}\r\n\r\n",
}


def slow(to, mode, count):
    """So many clients that are slow in one of slowhttptest's ways, until the standard
    input ends; how many of them the agent still had then."""
    host, port = to.rsplit(":", 1)
    held = []
    for _ in range(int(count)):
        s = socket.socket(socket.AF_INET)
        if mode in ("read", "range"):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.settimeout(5)
        try:
            s.connect((host, int(port)))
            s.sendall(BEGINS[mode].encode())
            s.setblocking(False)
            held.append(s)
        except OSError:
            s.close()
    opened, ended = len(held), threading.Event()
    print("open", flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    while not ended.wait(1):
        for s in list(held):
            try:
                if mode == "headers":
                    s.send(b"X-A: b\r\n")
                elif mode == "body":
                    s.send(b"a")
                elif not s.recv(1):
                    raise ConnectionError("ended")
            except BlockingIOError:
                pass
            except OSError:
                held.remove(s)
                s.close()
    print(json.dumps({"opened": opened, "left": len(held)}), flush=True)


