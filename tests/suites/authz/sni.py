"""A server of TLS and of other protocols, and clients that ask it for names."""

import json
import socket
import ssl
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor


def served(s, context, log):
    """Says by which name it was asked, then gives back each line; what is no TLS it
    answers in the open."""
    s.settimeout(30)
    try:
        first = s.recv(1, socket.MSG_PEEK)
        if first != b"\x16":
            log(f"plain {first!r}")
            s.recv(4096)
            s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" if first == b"G" else b"plain\n")
            return
        log("tls")
        asked = []
        context.sni_callback = lambda tls, name, _: asked.append(name)
        with context.wrap_socket(s, server_side=True) as tls:
            tls.sendall(f"{asked[0]}\n".encode())
            while line := tls.recv(4096):
                tls.sendall(line)
    except OSError:
        pass
    finally:
        s.close()


def serve(port, certificate, log):
    lines = open(log, "a", buffering=1)
    listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    while True:
        s, _ = listener.accept()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        log = lambda what: lines.write(f"{what}\n")
        threading.Thread(target=served, args=(s, context, log), daemon=True).start()


def client():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def connect(to):
    host, port = to.rsplit(":", 1)
    s = socket.create_connection((host.strip("[]"), int(port)), 10)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.settimeout(15)
    return s


class Spoken:
    """TLS over a socket that its user sends himself."""

    def __init__(self, name):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = client().wrap_bio(self.incoming, self.outgoing, server_hostname=name)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        self.hello = self.outgoing.read()

    def said(self, s):
        """What the server says behind the handshake."""
        while True:
            try:
                self.tls.do_handshake()
                said = self.tls.read(100)
                if said:
                    return said.decode().strip()
            except ssl.SSLWantReadError:
                pass
            s.sendall(self.outgoing.read())
            piece = s.recv(65536)
            if not piece:
                return "fin"
            self.incoming.write(piece)


def tls(to, name, how="whole"):
    spoken = Spoken(None if name == "-" else name)
    hello = spoken.hello
    assert name == "-" or name.encode() in hello, "as it was written"
    parts, pause = [hello], 0.05
    if how == "split":
        parts = [hello[:1], hello[1:60], hello[60:-1], hello[-1:]]
    elif how == "odd":
        parts = [hello.replace(name.encode(), name.encode()[:-1] + b"\n")]
    elif how == "newer":
        parts = [hello[:2] + b"\x05" + hello[3:]]
    elif how == "half":
        parts = [hello[:60]]
    s = connect(to)
    if how == "late":
        time.sleep(1.5)
    for part in parts:
        s.sendall(part)
        time.sleep(pause if len(parts) > 1 else 0)
    if how == "half":
        s.recv(1)
        return "fin"
    return spoken.said(s)


def says(to, text):
    s = connect(to)
    s.sendall(text.encode().decode("unicode_escape").encode())
    return s.recv(100).decode().split("\r\n")[0].strip() or "fin"


def told(way):
    try:
        return way()
    except OSError as e:
        return type(e).__name__


def names(to, *asked):
    """What comes of each, one after the other."""
    print(json.dumps([told(lambda: tls(to, name)) for name in asked]))


def cases(to):
    """By each way to begin, all at once: what came of it."""
    ways = {
        "asked": lambda: tls(to, "a.example"),
        "capitals": lambda: tls(to, "A.Example"),
        "other": lambda: tls(to, "b.example"),
        "beneath": lambda: tls(to, "x.a.example"),
        "none": lambda: tls(to, "-"),
        "split": lambda: tls(to, "a.example", "split"),
        "other split": lambda: tls(to, "b.example", "split"),
        "odd": lambda: tls(to, "a.example", "odd"),
        "newer": lambda: tls(to, "a.example", "newer"),
        "half": lambda: tls(to, "b.example", "half"),
        "late": lambda: tls(to, "a.example", "late"),
        "other late": lambda: tls(to, "b.example", "late"),
        "bytes": lambda: says(to, "\\x00\\x01bytes\\n"),
        "http": lambda: says(to, "GET / HTTP/1.1\\r\\nHost: a.example\\r\\n\\r\\n"),
    }

    with ThreadPoolExecutor(len(ways)) as pool:
        print(json.dumps(dict(zip(ways, pool.map(told, ways.values())))))


def hold(to, name):
    """Gives each line of its input to the server, and prints what comes back."""
    s = client().wrap_socket(connect(to), server_hostname=None if name == "-" else name)
    s.recv(100)
    print("open", flush=True)
    for line in sys.stdin:
        try:
            s.sendall(line.encode())
            print(s.recv(100).decode().strip() or "fin", flush=True)
        except OSError as e:
            print(type(e).__name__, flush=True)


globals()[sys.argv[1]](*sys.argv[2:])
