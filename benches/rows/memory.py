"""Resident memory for each further target, after a round of probes, beside HAProxy's for each
further server. All four processes run at once: they do not share what they are asked for."""

import contextlib
import time

from lib import Row, quick, resident_kb
from peers import HAProxy, OursFromFile, loopback, one_listener

FEW, MANY, INTERVAL = 100, quick(2000, 10000), quick(3, 10)
ROUNDS = quick(1, 2)

ROWS = [Row("memory", f"memory per target, {MANY} against {FEW}", "bytes", "HAProxy, per server", at_most=0.25)]


def grown(few, many):
    return (resident_kb(many.pid) - resident_kb(few.pid)) * 1024 / (MANY - FEW)


def measure(rows):
    ours, haproxy = [], []
    for _ in range(ROUNDS):
        with one_listener() as port, contextlib.ExitStack() as stack:
            few, many = loopback(FEW, port), loopback(MANY, port)
            mine = [stack.enter_context(OursFromFile(t, f"connect_interval: {INTERVAL}s")) for t in (few, many)]
            theirs = [stack.enter_context(HAProxy(t, f"inter {INTERVAL}s")) for t in (few, many)]
            time.sleep(1.3 * INTERVAL)
            ours.append(grown(*mine))
            haproxy.append(grown(*theirs))
            resident = [f"{resident_kb(p.pid) / 1024:.1f}" for p in (*mine, *theirs)]
    rows["memory"].pairs(ours, haproxy)
    rows["memory"].note = "MiB, few and many: ours {} and {}, HAProxy {} and {}".format(*resident)
