"""A pod of the suite reuse: a server that says its name, and a client that does as told.

Steps come on standard input, each answered by one line:
`connect HOST PORT SOURCE` (source `-`: the kernel's choice) with what came back,
`heard` with the names of the clients whose words came through since it was asked last.
"""

import errno
import socket
import sys
import threading

NAME = sys.argv[1]
heard = []


def serve(port):
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("::", port))
    listener.listen(64)
    while True:
        client, _ = listener.accept()
        answer(client)


def answer(client):
    try:
        client.settimeout(5)
        said = client.recv(200).decode(errors="replace").split()
        # Anything else is none of ours, an agent's handshake for example.
        if said[:1] == ["from"]:
            heard.append(said[1])
            client.sendall(NAME.encode())
    except OSError:
        pass
    finally:
        client.close()


def connect(host, port, source):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(10)
    try:
        if source != "-":
            s.bind((source, 0))
        s.connect((host, int(port)))
        s.sendall(b"from " + NAME.encode())
        return s.recv(100).decode(errors="replace") or "EOF"
    except OSError as error:
        return "error " + errno.errorcode.get(error.errno, str(error))
    finally:
        s.close()


for port in sys.argv[2:]:
    threading.Thread(target=serve, args=(int(port),), daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    step, *words = line.split()
    if step == "connect":
        print(connect(*words), flush=True)
    else:
        told, heard = heard, []
        print("heard", *told, flush=True)
