"""A mail server, aiosmtpd, and its clients for the suite `http`."""

import asyncio
import json
import smtplib
import socket
import sys
import time

from aiosmtpd.smtp import SMTP


class Taken:
    async def handle_DATA(self, server, session, envelope):
        return "250 taken"


async def serve(*ports):
    loop = asyncio.get_running_loop()
    for port in ports:
        await loop.create_server(lambda: SMTP(Taken(), hostname="mail.shop"), "0.0.0.0", int(port))
    await asyncio.Event().wait()


def greeted(host, *ports):
    """Milliseconds from the connect to the greeting: of the first connection to each port, and
    of the second."""
    times = [[], []]
    for port in ports:
        for which in times:
            begin = time.monotonic()
            with socket.create_connection((host, int(port)), timeout=20) as s:
                assert s.recv(100).startswith(b"220 mail.shop ")
                which.append((time.monotonic() - begin) * 1000)
                s.sendall(b"QUIT\r\n")
                assert s.recv(100).startswith(b"221 ")
    return times


def mails(to):
    """Codes of the greeting and of a mail that was sent."""
    host, port = to.split(":")
    client = smtplib.SMTP(timeout=20)
    code, _ = client.connect(host, int(port))
    client.ehlo("web.shop")
    client.mail("a@shop")
    client.rcpt("b@shop")
    taken, _ = client.data(b"a line\r\n")
    client.quit()
    return [code, taken]


if __name__ == "__main__":
    verb, *args = sys.argv[1:]
    if verb == "serve":
        asyncio.run(serve(*args))
    else:
        print(json.dumps(globals()[verb](*args)))
