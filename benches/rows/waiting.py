"""Requests of an nginx worker beside 1,000 checks of a black hole in flight on it.

A second worker has no checks, and the two are measured in turn, in short runs: the processors on
which the kernel runs wrk and the worker change a p99 by half, and other work of the machine changes
it to many times as much (most runs of either worker have 0.2 ms, some 1 or 3 ms). So many short
runs are more exact than few long ones. The 1,000 packets that the kernel repeats each second for
the checks change no p99."""

import socket

from lab import Backend, BlackHole, Nginx, init_block, until, wrk
from lib import Row, Unmeasured, quick, raise_descriptor_limit

CHECKS, PAIRS, ROUNDS = quick(300, 1000), quick(3, 4), quick(1, 6)
# Seconds. The checks must not end by themselves: the clients close their connections, which cancels them.
TIMEOUT = 30

ROWS = [
    Row("waiting", f"p99 of requests beside {CHECKS} black-hole checks", "ms", "none in flight", at_most=2)
]

SERVER = """
    lua_check_client_abort on;
    location /other {{ content_by_lua_block {{ ngx.say("other") }} }}
    location /hole {{ content_by_lua_block {{
      nb.check_backend_connection("127.0.0.1", {port}, false, false, {{ connect_timeout = "{timeout}s", coalesce = false }})
    }} }}
"""


def ask(port):
    client = socket.create_connection(("127.0.0.1", port), 30)
    client.sendall(b"GET /hole HTTP/1.0\r\nHost: x\r\n\r\n")
    return client


def measure(rows):
    raise_descriptor_limit(4 * CHECKS + 500)
    good, hole = Backend(), BlackHole()
    alone, beside = (
        Nginx(
            http=init_block([good.port], 'connect_interval = "60s",'),
            main="worker_rlimit_nofile 16384;",
            server=SERVER.format(port=hole.port, timeout=TIMEOUT),
        ).start()
        for _ in range(2)
    )

    def p99(nginx):
        return wrk(f"http://127.0.0.1:{nginx.port}/other", 1)[1][99]

    def in_flight():
        return hole.in_flight() >= CHECKS

    ours, baseline = [], []
    try:
        p99(alone), p99(beside)
        for _ in range(ROUNDS):
            clients = [ask(beside.port) for _ in range(CHECKS)]
            until(in_flight, what="checks in flight")
            ours.append([])
            baseline.append([])
            for _ in range(PAIRS):
                ours[-1].append(p99(beside))
                baseline[-1].append(p99(alone))
            if not in_flight():
                raise Unmeasured(f"{hole.in_flight()} of {CHECKS} checks were still in flight")
            for client in clients:
                client.close()
            until(lambda: hole.in_flight() == 0, TIMEOUT, "the checks' end")
        beside.assert_clean()
    finally:
        alone.close()
        beside.close()
        good.down()
    rows["waiting"].trials(ours, baseline)
