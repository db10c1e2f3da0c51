"""Resident memory for each further target, after a round of probes, beside HAProxy's for each
further server: configured by a file, and by a Lua table, which is Lua's own and counted as well.
All processes run at once: they do not share what they are asked for."""

import contextlib
import time

from lib import Row, quick, resident_kb
from peers import HAProxy, Ours, OursFromFile, loopback, one_listener

FEW, MANY, INTERVAL = 100, quick(2000, 10000), quick(3, 5)
ROUNDS = quick(1, 2)

ROWS = [
    Row("memory", f"memory per target, {MANY} against {FEW}", "bytes", "HAProxy, per server", at_most=0.25),
    Row("memory_table", "the same, configured by a Lua table", "bytes", "HAProxy, per server", at_most=0.25),
]


def grown(few, many):
    return (resident_kb(many.pid) - resident_kb(few.pid)) * 1024 / (MANY - FEW)


def measure(rows):
    ours, table, haproxy = [], [], []
    for _ in range(ROUNDS):
        with one_listener() as port, contextlib.ExitStack() as stack:
            sizes = loopback(FEW, port), loopback(MANY, port)

            def pair(make, sizes=sizes, stack=stack):
                return [stack.enter_context(make(targets)) for targets in sizes]

            processes = [
                pair(lambda targets: OursFromFile(targets, f"connect_interval: {INTERVAL}s")),
                pair(lambda targets: Ours(targets, f'connect_interval = "{INTERVAL}s"')),
                pair(lambda targets: HAProxy(targets, f"inter {INTERVAL}s")),
            ]
            time.sleep(1.3 * INTERVAL)
            for figures, two in zip((ours, table, haproxy), processes):
                figures.append(grown(*two))
            resident = [f"{resident_kb(p.pid) / 1024:.1f}" for two in processes for p in two]
    rows["memory"].pairs(ours, haproxy)
    rows["memory_table"].pairs(table, haproxy)
    rows["memory"].note = "MiB, few and many: ours {} and {}, from a table {} and {}, HAProxy {} and {}".format(*resident)
