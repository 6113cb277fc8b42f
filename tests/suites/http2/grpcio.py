"""A server and a client of grpcio for the suite `http2`; messages are bytes, methods those
of the server in grpc.go."""

import json
import sys
import threading
import time
from concurrent import futures

import grpc

left = [0]


def serve(name, port, age=None):
    def unary(request, context):
        context.set_trailing_metadata([("x-name", name)])
        return request

    def echo(requests, context):
        yield from requests

    def download(request, context):
        for i in range(int(request)):
            yield str(i).encode()

    def upload(requests, context):
        return str(sum(len(request) for request in requests)).encode()

    def fail(request, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: \u00e9%")

    def late(request, context):
        over = threading.Event()
        context.add_callback(over.set)
        over.wait()
        left[0] += 1
        return b""

    def told(request, context):
        return str(left[0]).encode()

    unary_unary = grpc.unary_unary_rpc_method_handler
    methods = {
        "Unary": unary_unary(unary),
        "Stream": grpc.stream_stream_rpc_method_handler(echo),
        "Download": grpc.unary_stream_rpc_method_handler(download),
        "Upload": grpc.stream_unary_rpc_method_handler(upload),
        "Fail": unary_unary(fail),
        "Late": unary_unary(late),
        "Left": unary_unary(told),
    }
    options = [("grpc.so_reuseport", 0)]
    if age:
        options += [("grpc.max_connection_age_ms", int(age)),
                    ("grpc.max_connection_age_grace_ms", 10_000)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=100), options=options)
    handler = grpc.method_handlers_generic_handler("test.Echo", methods)
    server.add_generic_rpc_handlers([handler])
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    server.wait_for_termination()


def result(e):
    return [e.code().name, e.details()]


def call(channel, method, message=b"x", **how):
    """Status, its text, length of the answer, and who answered."""
    try:
        answer, told = channel.unary_unary(method).with_call(message, **how)
        names = [value for key, value in told.trailing_metadata() if key == "x-name"]
        return ["OK", "", len(answer), names]
    except grpc.RpcError as e:
        return result(e)


def unary(channel, size):
    return call(channel, "/test.Echo/Unary", int(size) * b"x")


def fails(channel):
    """A status without a message before it, and a method that is not there."""
    return [call(channel, "/test.Echo/Fail"), call(channel, "/test.Echo/None")[0]]


def stream(channel, count):
    """Messages that are answered one by one, each sent when the one before has come back."""
    turn = threading.Semaphore(1)

    def messages():
        for i in range(int(count)):
            turn.acquire()
            yield str(i).encode()

    got = []
    for message in channel.stream_stream("/test.Echo/Stream")(messages()):
        got.append(int(message))
        turn.release()
    return got == list(range(int(count)))


def ways(channel, count):
    """One message up and many down, and the other way round."""
    down = channel.unary_stream("/test.Echo/Download")(count.encode())
    down = [int(message) for message in down] == list(range(int(count)))
    up = channel.stream_unary("/test.Echo/Upload")(1000 * b"x" for _ in range(int(count)))
    return [down, int(up)]


def has_left(channel, count):
    """Its server was told that so many calls are over."""
    for _ in range(500):
        answer = channel.unary_unary("/test.Echo/Left")(b"")
        if int(answer) >= int(count):
            return int(answer) == int(count)
        time.sleep(0.02)
    return False


def ends(channel):
    """A call whose time is over, and one that is taken back."""
    late = call(channel, "/test.Echo/Late", timeout=0.2)[0]
    first = has_left(channel, 1)
    taken_back = channel.unary_unary("/test.Echo/Late").future(b"x")
    # It is there when a call behind it on the connection is.
    call(channel, "/test.Echo/Unary")
    taken_back.cancel()
    return [late, first, taken_back.code().name, has_left(channel, 2)]


def aged(channel, rate, seconds, streams):
    """So many calls a second for so many seconds, and long streams beside them: how each
    ended. A call that is late is made all the same."""
    counts, lock, begin = {}, threading.Lock(), time.monotonic()
    until = begin + float(seconds)

    def count(what):
        with lock:
            counts[what] = counts.get(what, 0) + 1

    def long():
        turn = threading.Semaphore(1)

        def messages():
            while time.monotonic() < until:
                turn.acquire()
                yield 100 * b"x"
                time.sleep(0.05)

        try:
            for _ in channel.stream_stream("/test.Echo/Stream")(messages()):
                turn.release()
            count("stream whole")
        except grpc.RpcError as e:
            count(f"stream {result(e)}")

    def calls(first, each):
        for n in range(first, int(rate) * int(seconds), each):
            time.sleep(max(0, begin + n / int(rate) - time.monotonic()))
            told = call(channel, "/test.Echo/Unary", 100 * b"x")
            count(told[0] if told[0] == "OK" else str(told))

    threads = [threading.Thread(target=calls, args=(i, 4)) for i in range(4)]
    for i in range(int(streams)):
        threads.append(threading.Thread(target=long))
    for i, thread in enumerate(threads):
        thread.start()
        # They begin on several connections of the server.
        time.sleep(0.05 if i >= 4 else 0)
    for thread in threads:
        thread.join()
    return counts


if __name__ == "__main__":
    verb, *args = sys.argv[1:]
    if verb == "serve":
        serve(*args)
    else:
        with grpc.insecure_channel(args[0]) as channel:
            print(json.dumps(globals()[verb](channel, *args[1:])))
