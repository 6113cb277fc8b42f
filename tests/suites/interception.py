"""Pods that say random markers, a line each, and write down what they said.

serve PORT SAID        answers each line with a marker of its own
talk SAID HEARD TO...  short connections and one long one to each of TO
"""
import secrets
import socket
import sys
import threading
import time

PAUSE = 0.02
PATIENCE = 2


class Lines:
    """A file that several threads append to."""

    def __init__(self, path):
        self.file, self.lock = open(path, "a"), threading.Lock()

    def write(self, line):
        with self.lock:
            self.file.write(line + "\n")
            self.file.flush()

    def marker(self):
        """A new one, written down before anybody can see it."""
        marker = secrets.token_hex(16)
        self.write(marker)
        return marker.encode() + b"\n"


def answer(stream, said):
    try:
        with stream, stream.makefile("rb") as lines:
            for _ in lines:
                stream.sendall(said.marker())
    except OSError:
        pass


def serve(port, said):
    listener = socket.create_server(
        ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
    )
    print("serving", flush=True)
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=answer, args=(stream, said), daemon=True).start()


def talk(to, said, heard, lines):
    """Connections one after the other, `lines` markers each way in each."""
    address, port = to.rsplit(":", 1)
    while True:
        try:
            with socket.create_connection((address.strip("[]"), port), PATIENCE) as stream:
                with stream.makefile("rb") as answers:
                    for _ in range(lines):
                        stream.sendall(said.marker())
                        reply = answers.readline()
                        if not reply.endswith(b"\n"):
                            break
                        heard.write(reply.decode().strip())
                        time.sleep(PAUSE)
        except OSError:
            # So that the tries without an agent are counted, too.
            said.marker()
            time.sleep(PAUSE)


def main():
    mode, *rest = sys.argv[1:]
    if mode == "serve":
        serve(int(rest[0]), Lines(rest[1]))
        return
    said, heard = Lines(rest[0]), Lines(rest[1])
    for to in rest[2:]:
        for lines in (1, 1_000_000):
            args = (to, said, heard, lines)
            threading.Thread(target=talk, args=args, daemon=True).start()
    print("talking", flush=True)
    threading.Event().wait()


main()
