"""Spellings of what a policy denies, and messages that two readers could take apart
differently, for the suite `servers`. Prints a report as JSON."""

import json
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

HOST = b"Host: main.test\r\n"
BYTES = range(1, 256)


def ask(to, data, patience=3):
    """Sends that on a connection of its own: (what came back, whether it was closed)."""
    host, port = to.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as s:
        s.settimeout(patience)
        got = b""
        try:
            s.sendall(data)
            while part := s.recv(65536):
                got += part
        except TimeoutError:
            return got, False
        except OSError:
            pass
        return got, True


def statuses(got):
    """Of all answers, in order; bodies of these servers have no line like it."""
    lines = [line for line in got.split(b"\n") if line.startswith(b"HTTP/1.")]
    return [line.split(b" ")[1].decode() for line in lines]


def all_of(to, cases, judge):
    """Each case's verdict: (list of what is told, status); in threads."""
    counts, told = {}, {}
    with ThreadPoolExecutor(24) as pool:
        for status, list_name, text in pool.map(judge, cases):
            counts[status] = counts.get(status, 0) + 1
            if list_name:
                told.setdefault(list_name, []).append(text)
    return {"count": len(cases), "statuses": counts, **told}


def request(target, host=HOST):
    return b"GET " + target + b" HTTP/1.1\r\n" + host + b"Connection: close\r\n\r\n"


# --- paths ----------------------------------------------------------------

def hidden_paths():
    """Spellings of /secret/x.txt, or what some server could take for it."""
    yield from [
        b"/secret/x.txt", b"//secret/x.txt", b"///secret///x.txt", b"/./secret/x.txt",
        b"/secret/./x.txt", b"/secret//x.txt", b"/open/../secret/x.txt",
        b"/open/./../secret/x.txt", b"/open//../secret/x.txt", b"/open/..//secret/x.txt",
        b"/open/%2e%2e/secret/x.txt", b"/open/%2E%2e/secret/x.txt", b"/open/.%2e/secret/x.txt",
        b"/open/%2e./secret/x.txt", b"/%2e/secret/x.txt", b"/secret/%2e/x.txt",
        b"/open/..%2fsecret/x.txt", b"/open/..%2Fsecret%2Fx.txt", b"/open%2f..%2fsecret/x.txt",
        b"/secret%2fx.txt", b"/secret%2Fx.txt", b"%2fsecret/x.txt", b"/%2fsecret/x.txt",
        b"/secret%5cx.txt", b"/secret\\x.txt", b"\\secret\\x.txt", b"/\\secret/x.txt",
        b"/open/..\\secret\\x.txt", b"/open/..%5csecret/x.txt", b"/open\\..\\secret/x.txt",
        b"/secret;a=b/x.txt", b"/secret;/x.txt", b"/secret/;/x.txt", b"/;/secret/x.txt",
        b"/;a=b/secret/x.txt", b"/open/..;/secret/x.txt", b"/open/..;a=b/secret/x.txt",
        b"/open/.;/../secret/x.txt", b"/secret/x.txt;jsessionid=1", b"/secret;x/x.txt;y",
        b"/secret%3b/x.txt", b"/secret%3ba=b/x.txt", b"/open/..%3b/secret/x.txt",
        b"/open/%2e%2e;/secret/x.txt", b"/secret/x.txt?", b"/secret/x.txt?a=/open/y.txt",
        b"/secret/x.txt#", b"/secret/x.txt#/open", b"/secret/x.txt%23", b"/secret/x.txt%3f",
        b"/open/y.txt#/../secret/x.txt", b"/secret/x.txt%00", b"/secret/x.txt%00.html",
        b"/secret/x.txt\x00", b"/secret%00/x.txt", b"/secret/x.txt/", b"/secret/x.txt/.",
        b"/secret/x.txt//", b"/secret/x.txt/..", b"/secret/x.txt/../x.txt", b"/secret/../secret/x.txt",
        b"/../secret/x.txt", b"/../../secret/x.txt", b"/%2e%2e/secret/x.txt",
        b"/open/../../secret/x.txt", b"secret/x.txt", b"./secret/x.txt", b"../secret/x.txt",
        b"/%2573ecret/x.txt", b"/%25%37%33ecret/x.txt", b"/%u0073ecret/x.txt",
        b"/secret%252fx.txt", b"/open/%252e%252e/secret/x.txt", b"/%%37%33ecret/x.txt",
        b"/%c0%afsecret/x.txt", b"/open/..%c0%afsecret/x.txt", b"/open/%c0%ae%c0%ae/secret/x.txt",
        b"/open/..%e0%80%afsecret/x.txt", b"/%c1%b3ecret/x.txt", b"/secret%e2%81%84x.txt",
        b"/\xc0\xafsecret/x.txt", b"/open/\xef\xbc\x8e\xef\xbc\x8e/secret/x.txt",
        b"/%ef%bd%93ecret/x.txt", b"/SECRET/x.txt", b"/Secret/X.TXT", b"/secret./x.txt",
        b"/secret.../x.txt", b"/secret%20/x.txt", b"/%20secret/x.txt", b"/secret+/x.txt",
        b"/secret/x.txt ", b"/secret/x.txt%20", b"/secret /x.txt", b" /secret/x.txt",
        b"\t/secret/x.txt", b"/secret\t/x.txt", b"/sec\rret/x.txt", b"/secret/x.txt\r",
        b"/~/secret/x.txt", b"/secret::$DATA/x.txt", b"/secret/x.txt::$DATA", b"/secret*/x.txt",
        b"/?/../secret/x.txt", b"?/secret/x.txt", b"/open/y.txt/../../secret/x.txt",
    ]
    for scheme in [b"http", b"HTTP", b"https", b"Http", b"ftp", b"ws", b""]:
        for rest in [b"main.test/secret/x.txt", b"main.test//secret/x.txt",
                     b"main.test/open/../secret/x.txt", b"main.test/%73ecret/x.txt",
                     b"main.test:80/secret/x.txt", b"x@main.test/secret/x.txt",
                     b"/secret/x.txt", b"main.test\\secret/x.txt", b"main.test/open/..;/secret/x.txt"]:
            yield scheme + b"://" + rest
    yield b"http:/secret/x.txt"
    yield b"http:secret/x.txt"
    yield b"//main.test/secret/x.txt"
    yield b"main.test/secret/x.txt"
    # Each letter escaped, in both cases, and all of them.
    for i, letter in enumerate(b"secret/x.txt"):
        rest = b"secret/x.txt"
        for form in (b"%%%02x", b"%%%02X", b"%%25%02x"):
            yield b"/" + rest[:i] + form % letter + rest[i + 1:]
    yield b"/" + b"".join(b"%%%02x" % letter for letter in b"secret/x.txt")
    # Every byte, escaped and as it is, where some server may drop, cut or fold it.
    for byte in BYTES:
        for form in (b"%%%02x" % byte, bytes([byte])):
            if form in (b"\n", b"\r"):
                continue
            yield b"/secret" + form + b"/x.txt"
            yield b"/" + form + b"secret/x.txt"
            yield b"/secret/" + form + b"x.txt"
            yield b"/secret/x.txt" + form
            yield b"/open/.." + form + b"/secret/x.txt"


def open_paths():
    """Neighbours of the same servers, which are all to be served."""
    return [
        b"/open/y.txt", b"//open/y.txt", b"/open//y.txt", b"/./open/y.txt", b"/open/../open/y.txt",
        b"/secret/../open/y.txt", b"/%6fpen/y.txt", b"/open/%79.txt", b"/open/y%2etxt",
        b"/secretary/x.txt", b"/%73ecretary/x.txt", b"/secret/%2e%2e/open/y.txt",
        b"/open/y.txt?/../secret/x.txt", b"/open/y.txt?a=%2Fsecret", b"/open/y.txt?\"<>|",
        b"/open/y.txt?a=;b", b"http://main.test/open/y.txt", b"http://MAIN.test/open/y.txt",
        b"/open/y.txt?%zz", b"/open/y.txt?\\",
    ]


def paths(to, name):
    # These two do not serve such a path, with and without a mesh.
    refuses = {"tomcat": (b'"<>|', b"?\\"), "golang": (b"//open", b"/./", b"/../", b"//y")}
    hidden = list(dict.fromkeys(hidden_paths()))
    cases = [(path, True) for path in hidden] + [(path, False) for path in open_paths()]

    def judge(case):
        path, is_hidden = case
        got, _ = ask(to, request(path))
        status = (statuses(got) or ["none"])[0]
        text = f"{path!r}: {got[:300]!r}"
        if is_hidden:
            # A line that ends within the target leaves a request behind it.
            return status, "reached" if b"kept-by-the-agent" in got else None, text
        fine = status == "200" or any(part in path for part in refuses.get(name, ()))
        return status, None if fine else "refused", text

    return all_of(to, cases, judge)


# --- hosts ----------------------------------------------------------------

def hidden_hosts():
    for host in [
        b"admin.test", b"ADMIN.test", b"Admin.Test", b"admin.test.", b"admin.test..",
        b"admin.test:80", b"admin.test:8080", b"admin.test:", b"admin.test.:80", b"admin.test:080",
        b"admin.test:99999", b"admin.test:abc", b" admin.test", b"admin.test ", b"\tadmin.test\t",
        b"x@admin.test", b"x:y@admin.test", b"admin.test@main.test", b"admin%2etest",
        b"%61dmin.test", b"admin.test%00", b"admin.test\x00main.test", b"admin.test/", b"admin.test/x",
        b"admin.test?", b"admin.test#", b"admin.test\\", b"admin.test, main.test",
        b"main.test, admin.test", b"admin.test;x", b"admin.test main.test", b"[admin.test]",
        b"\"admin.test\"", b"admin\xe3\x80\x82test", b"adm\xc4\xb1n.test", b"admin.test\x0b",
        b"admin.test\xa0", b"main.test\r\n admin.test", b"admin.test\r\n .", b"http://admin.test",
    ]:
        yield b"/open/y.txt", b"Host: " + host + b"\r\n"
    main, admin = b"Host: main.test\r\n", b"Host: admin.test\r\n"
    for lines in [
        main + admin, admin + main, admin + admin, b"Host : admin.test\r\n", b" Host: admin.test\r\n",
        main + b" admin.test\r\n", b"host: admin.test\r\n", b"HOST:admin.test\r\n",
        b"Host:\tadmin.test\r\n", b"Host: admin.test\nX: y\r\n", b"X: y\nHost: admin.test\r\n" + main,
        main + b"Host:\r\n admin.test\r\n", main + b"X-Forwarded-Host: admin.test\r\n",
        main + b"Forwarded: host=admin.test\r\n", main + b":authority: admin.test\r\n",
        main + b"Host\x00: admin.test\r\n", main + b"Host\t: admin.test\r\n",
        main + b"\x0bHost: admin.test\r\n", main + b"X: y\rHost: admin.test\r\n",
        main + b"Connection: host\r\n" + admin, admin + b"Connection: host\r\n",
    ]:
        yield b"/open/y.txt", lines
    for target in [b"http://admin.test/open/y.txt", b"HTTP://ADMIN.TEST/open/y.txt",
                   b"http://admin.test:80/open/y.txt", b"http://admin.test./open/y.txt",
                   b"http://x@admin.test/open/y.txt", b"http://admin.test:/open/y.txt",
                   b"https://admin.test/open/y.txt", b"http://admin%2etest/open/y.txt",
                   b"//admin.test/open/y.txt", b"http:///admin.test/open/y.txt",
                   b"http://main.test@admin.test/open/y.txt", b"http://admin.test\\@main.test/open/y.txt",
                   b"http://admin.test#@main.test/open/y.txt", b"http://admin.test?@main.test/open/y.txt"]:
        yield target, main
        yield target, b""
    for byte in BYTES:
        if byte not in b"\r\n":
            yield b"/open/y.txt", b"Host: admin.test" + bytes([byte]) + b"\r\n"
            yield b"/open/y.txt", b"Host: " + bytes([byte]) + b"admin.test\r\n"
            yield b"/open/y.txt", b"Host: admin" + bytes([byte]) + b".test\r\n"


def hosts(to, _name):
    plain = [b"main.test", b"MAIN.test", b"main.test.", b"main.test:8080", b"other.test",
             b"10.0.0.1", b"[::1]:80", b"administrator.test", b"xadmin.test", b"admin.tests"]
    cases = [(target, lines, True) for target, lines in hidden_hosts()]
    cases += [(b"/open/y.txt", b"Host: " + host + b"\r\n", False) for host in plain]

    def judge(case):
        target, lines, is_hidden = case
        got, _ = ask(to, request(target, lines))
        status = (statuses(got) or ["none"])[0]
        text = f"{target!r} {lines!r}: {got[:300]!r}"
        if is_hidden:
            return status, "reached" if b"kept-by-the-agent" in got else None, text
        return status, None if status == "200" else "refused", text

    return all_of(to, cases, judge)


# --- frames ---------------------------------------------------------------

SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
FIRST = re.compile(rb"[A-Z]+ +\S+ HTTP/1\.[01]\r?\n")
CLOSE = b"GET /over HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"


def post(lines, body=b"", path=b"/carrier", end=b"\r\n", first=None):
    first = first or b"POST " + path + b" HTTP/1.1\r\n"
    return first + HOST + lines + end + body


def lengths_and_chunks():
    """Which of two lengths holds? Bodies that hold a request for who takes the other."""
    by_length, by_chunks = b"0\r\n\r\n" + SMUGGLED, b"5c\r\nabc" + SMUGGLED
    chunked = [b"chunked", b"Chunked", b"CHUNKED", b" chunked", b"chunked ", b"\tchunked",
               b"\x0bchunked", b"chunked\x0b", b"\x0cchunked", b"xchunked", b"chunkedx", b"chunked,",
               b",chunked", b"chunked, identity", b"identity, chunked", b"identity", b"gzip, chunked",
               b"chunked, gzip", b"chunked, chunked", b"chunked;q=1", b"\"chunked\"", b"'chunked'",
               b"chunked\x00", b"\x00chunked", b"chun\x00ked", b"", b"cow", b"cow, chunked",
               b"chunked, cow", b"chunke\xc4\x8f", b"\xa0chunked", b"chunked\xa0", b"trailers",
               b"chunk\red", b"\r\n chunked", b"x\r\n chunked", b"chunked\r\n x"]
    names = [b"Transfer-Encoding", b"transfer-encoding", b"Transfer-Encoding ", b" Transfer-Encoding",
             b"Transfer-Encoding\t", b"Transfer-Encoding\x00", b"\x0bTransfer-Encoding",
             b"Transfer-Encoding\x0b", b"X: y\nTransfer-Encoding", b"X: y\rTransfer-Encoding",
             b"X: y\r\n Transfer-Encoding", b"\xefTransfer-Encoding", b"Transfer-Encoding\n"]
    for value in chunked:
        line = b"Transfer-Encoding: " + value + b"\r\n"
        length = b"Content-Length: 4\r\n"
        yield f"TE {value!r} and CL", "bad", post(line + length, by_chunks)
        yield f"CL and TE {value!r}", "bad", post(
            b"Content-Length: %d\r\n" % len(by_length) + line, by_length)
        if value.strip(b" \t").lower() != b"chunked":
            yield f"TE {value!r} alone", "any", post(line, by_length)
            yield f"TE {value!r} after chunked", "any", post(
                b"Transfer-Encoding: chunked\r\n" + line, by_length)
    # A name that is no token is refused.
    for name in names:
        line = name + b": chunked\r\n"
        yield f"{name!r} and CL", "bad", post(line + b"Content-Length: 4\r\n", by_chunks)
    # Some servers take the one for the other.
    yield "underscore", "bad", post(b"Transfer_Encoding: chunked\r\n", by_length)
    for name in [b"X-Transfer-Encoding", b"Transfer-Encodin", b"TransferEncoding"]:
        line = name + b": chunked\r\n"
        body = b"0\r\n\r\n"
        yield f"{name!r} means nothing", ["clear", "smuggled"], post(
            line + b"Content-Length: %d\r\n" % len(body), body, path=b"/clear") + SMUGGLED
    for first, second in [(b"4", b"5"), (b"5", b"4"), (b"4", b"4"), (b"0", b"4"), (b"4", b"0")]:
        yield f"CL {first} and {second}", "any" if first == second else "bad", post(
            b"Content-Length: " + first + b"\r\nContent-Length: " + second + b"\r\n", b"abcd")
    for value in [b"4, 5", b"+4", b"-4", b"-0", b"0x4", b"4;", b"4 4", b"4.0", b"4e0", b"", b" ",
                  b"four", b"4\x00", b"\x004", b"4\x0b", b"4,", b",4", b"4\xa0", b"\xef\xbc\x94",
                  b"18446744073709551620", b"99999999999999999999999999", b"4\r\n 5", b"\"4\"", b"1_0"]:
        yield f"CL {value!r}", "bad", post(b"Content-Length: " + value + b"\r\n", b"abcd" + SMUGGLED)
    for name in [b"Content-Length ", b"Content-Length\t", b" Content-Length", b"Content-Length\x00",
                 b"\x00Content-Length", b"X: y\nContent-Length", b"X: y\r Content-Length"]:
        yield f"{name!r}", "bad", post(name + b": %d\r\n" % len(SMUGGLED), SMUGGLED)
    for connection in [b"Content-Length", b"Transfer-Encoding", b"close, Content-Length"]:
        yield f"Connection {connection!r}", "any", post(
            b"Connection: " + connection + b"\r\nContent-Length: %d\r\n" % len(SMUGGLED), SMUGGLED)
        yield f"Connection {connection!r}, chunks", "any", post(
            b"Connection: " + connection + b"\r\nTransfer-Encoding: chunked\r\n", by_length)


def chunks():
    """Chunks that are none, or that one reader ends elsewhere than another."""
    for size in [b"+5", b"-5", b"0x5", b"0X5", b" 5", b"\t5", b"5 5", b"5\x00", b"\x005", b"5\x0b", b"",
                 b"g", b"5g", b"5,", b"5.0", b"10000000000000005", b"ffffffffffffffff",
                 b"fffffffffffffffff5", b"5\r", b"\r\n5", b"\n5", b"5\x80", b"0_5", b"5h"]:
        yield f"chunk size {size!r}", "bad-late", post(
            b"Transfer-Encoding: chunked\r\n", size + b"\r\nabcde\r\n0\r\n\r\n" + SMUGGLED)
    for line in [b"5\n", b"5;a\n", b"5;a=b\n", b"5;\n", b"5 \n", b"5;a\rb\r\n", b"5\r\r\n", b"5;\"\n\"\r\n"]:
        yield f"chunk line {line!r}", "bad-late", post(
            b"Transfer-Encoding: chunked\r\n", line + b"abcde\r\n0\r\n\r\n" + SMUGGLED)
    for between in [b"", b"\n", b"\r", b"x\r\n", b"\r\nx", b" \r\n", b"\r\n\r\n"]:
        yield f"behind a chunk {between!r}", "bad-late", post(
            b"Transfer-Encoding: chunked\r\n", b"5\r\nabcde" + between + b"0\r\n\r\n" + SMUGGLED)
    for end in [b"0\n\n", b"0\r\n\n", b"0\n\r\n", b"0\r\r\n", b"00\r\n\r\n", b"0 \r\n\r\n", b"0;a\r\n\r\n",
                b"0\r\nX: y\r\n\r\n", b"0\r\nX: y\n\n", b"0\r\nX y\r\n\r\n", b"0\r\n X: y\r\n\r\n",
                b"0\r\nContent-Length: 5\r\n\r\n", b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"0\r\nHost: admin.test\r\n\r\n", b"0\r\n" + SMUGGLED, b"0\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"]:
        yield f"end of chunks {end[:40]!r}", "any", post(
            b"Transfer-Encoding: chunked\r\n", b"5\r\nabcde\r\n" + end + SMUGGLED)
    for extension in [b";a", b";a=b", b";a=\"b\"", b" ;a", b"; a = b", b";" + b"a" * 200]:
        yield f"chunk extension {extension[:20]!r}", "any", post(
            b"Transfer-Encoding: chunked\r\n",
            b"5" + extension + b"\r\nabcde\r\n0\r\n\r\n" + SMUGGLED)
    # Each byte behind a size, and within its extension.
    for byte in [*range(1, 33), 0x7f, 0x80, 0xa0, 0xff]:
        byte = bytes([byte])
        yield f"size and {byte!r}", "any", post(
            b"Transfer-Encoding: chunked\r\n", b"5" + byte + b"\r\nabcde\r\n0\r\n\r\n" + SMUGGLED)
        yield f"extension with {byte!r}", "any", post(
            b"Transfer-Encoding: chunked\r\n",
            b"5;a" + byte + b"2c\r\nabcde\r\n0\r\n\r\n" + SMUGGLED)


def lines_and_versions():
    """Ends of lines, folds, versions."""
    get = b"GET /carrier HTTP/1.1"
    for name, data in {
        "bare LF": get + b"\nHost: main.test\n\n",
        "bare LF after the first line": get + b"\n" + HOST + b"\r\n",
        "bare LF within": get + b"\r\nHost: main.test\nX: y\r\n\r\n",
        "bare LF at the end": get + b"\r\n" + HOST + b"\n" + SMUGGLED,
        "bare CR at the end": get + b"\r\n" + HOST + b"\r" + SMUGGLED,
        "bare CR within": get + b"\r\nHost: main.test\rX: y\r\n\r\n",
        "CR CR LF": get + b"\r\r\nHost: main.test\r\n\r\n",
        "fold": get + b"\r\n" + HOST + b"X: y\r\n z\r\n\r\n",
        "fold with tab": get + b"\r\n" + HOST + b"X: y\r\n\tz\r\n\r\n",
        "fold at once": get + b"\r\n Host: main.test\r\n\r\n",
        "fold of nothing": get + b"\r\n" + HOST + b"X: y\r\n \r\n" + SMUGGLED,
        "NUL in a value": get + b"\r\n" + HOST + b"X: a\x00b\r\n\r\n",
        "NUL in a name": get + b"\r\n" + HOST + b"X\x00: b\r\n\r\n",
        "no colon": get + b"\r\n" + HOST + b"nothing\r\n\r\n",
        "no name": get + b"\r\n" + HOST + b": y\r\n\r\n",
        "blank in a name": get + b"\r\n" + HOST + b"X Y: z\r\n\r\n",
        "blank before the colon": get + b"\r\n" + HOST + b"X : z\r\n\r\n",
        "no host": get + b"\r\nX: y\r\n\r\n",
        "two hosts": get + b"\r\n" + HOST + HOST + b"\r\n",
        "version 1.2x": b"GET /carrier HTTP/1.1x\r\n" + HOST + b"\r\n",
        "version 2.0": b"GET /carrier HTTP/2.0\r\n" + HOST + b"\r\n",
        "version 0.9": b"GET /carrier HTTP/0.9\r\n" + HOST + b"\r\n",
        "version 1": b"GET /carrier HTTP/1\r\n" + HOST + b"\r\n",
        "version 1.": b"GET /carrier HTTP/1.\r\n" + HOST + b"\r\n",
        "version 01.1": b"GET /carrier HTTP/01.1\r\n" + HOST + b"\r\n",
        "version 1,1": b"GET /carrier HTTP/1,1\r\n" + HOST + b"\r\n",
        "version in small letters": b"GET /carrier http/1.1\r\n" + HOST + b"\r\n",
        "two blanks": b"GET  /carrier HTTP/1.1\r\n" + HOST + b"\r\n",
        "tabs": b"GET\t/carrier\tHTTP/1.1\r\n" + HOST + b"\r\n",
        "blank at the end": b"GET /carrier HTTP/1.1 \r\n" + HOST + b"\r\n",
        "NUL in the method": b"GE\x00T /carrier HTTP/1.1\r\n" + HOST + b"\r\n",
    }.items():
        yield name, "bad", data
    yield "no version", "bad", b"GET /carrier\r\n" + SMUGGLED
    for byte in [*range(1, 9), *range(11, 13), *range(14, 33), 0x7f]:
        byte = bytes([byte])
        if byte != b" ":
            yield f"name with {byte!r}", "bad", get + b"\r\n" + HOST + b"X" + byte + b"Y: z\r\n\r\n"
        yield f"method with {byte!r}", "bad", byte + get + b"\r\n" + HOST + b"\r\n"


def clear():
    """What is odd and clear is served; what follows is judged by itself."""
    chunked = b"Transfer-Encoding: chunked\r\n"
    for name, data in {
        "a length": post(b"Content-Length: 5\r\n", b"abcde", path=b"/clear"),
        "a length with blanks": post(b"Content-Length:   5  \r\n", b"abcde", path=b"/clear"),
        "a length with zeros": post(b"Content-Length: 0005\r\n", b"abcde", path=b"/clear"),
        "chunks": post(chunked, b"5\r\nabcde\r\n0\r\n\r\n", path=b"/clear"),
        "chunks of many zeros": post(chunked, b"0005\r\nabcde\r\n000\r\n\r\n", path=b"/clear"),
        "chunks with an extension": post(chunked, b"5;a=b\r\nabcde\r\n0\r\n\r\n", path=b"/clear"),
        "a request in a body": post(b"Content-Length: %d\r\n" % len(SMUGGLED), SMUGGLED, path=b"/clear"),
        "a request in a chunk": post(
            chunked, b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED), path=b"/clear"),
        "a body of GET": b"GET /clear HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nabcde",
        "an empty line before": b"\r\nGET /clear HTTP/1.1\r\n" + HOST + b"\r\n",
        "HEAD": b"HEAD /clear HTTP/1.1\r\n" + HOST + b"\r\n",
        "names in any case": b"GET /clear HTTP/1.1\r\nhOsT: main.test\r\n\r\n",
        "no blank behind a colon": b"GET /clear HTTP/1.1\r\nHost:main.test\r\n\r\n",
        "an empty value": b"GET /clear HTTP/1.1\r\n" + HOST + b"X:\r\n\r\n",
        "an upgrade that nobody takes": b"GET /clear HTTP/1.1\r\n" + HOST
            + b"Connection: upgrade\r\nUpgrade: chat\r\n\r\n",
        "h2c": b"GET /clear HTTP/1.1\r\n" + HOST
            + b"Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    }.items():
        yield name, ["clear", "smuggled"], data + SMUGGLED


def frames(to, _name):
    cases = [*lengths_and_chunks(), *chunks(), *lines_and_versions(), *clear()]

    def judge(case):
        name, kind, data = case
        if isinstance(kind, list):
            data += CLOSE
        got, closed = ask(to, data)
        codes = statuses(got)
        status = (codes or ["none"])[0]
        text = f"{name}: {codes} closed={closed}"
        match kind:
            case "bad":
                # A first line that is not HTTP's is no request: there is nothing to answer.
                is_none = not codes and not FIRST.match(data)
                fine = closed and (codes == ["400"] or is_none)
            case "bad-late":
                # The head is clear: it may have been answered before its body was seen.
                fine = closed and codes and codes[-1] in ("400", "405") and len(codes) == 1
            case "any":
                fine = all(code != "500" for code in codes)
            case _:
                # The second is the policy's to deny.
                fine = len(codes) == 3 and codes[0] in ("200", "405") and codes[1] == "403"
        return status, None if fine else "wrong", text

    report = all_of(to, cases, judge)
    ask(to, CLOSE)
    report["served"] = sum(b" /clear" in data for _, kind, data in cases if isinstance(kind, list))
    return report


report = {"paths": paths, "hosts": hosts, "frames": frames}[sys.argv[1]](*sys.argv[2:4])
print(json.dumps({"reached": [], "refused": [], "wrong": [], **report}))
