"""What a plain connect probe costs the whole process, beside HAProxy's check of the same ports.

Probes are counted in the kernel, which knows the connections that were begun; nobody else may
open many meanwhile."""

import time

from lib import Row, Unmeasured, alternate, connections_opened, cpu_seconds, quick
from peers import HAProxy, Ours, listeners

TARGETS = quick(500, 2000)
# Seconds. The module makes the first probes of all targets within one second, so that time is not measured.
SETTLE, WINDOW, ROUNDS = 2, quick(3, 4), quick(2, 4)

ROWS = [Row("tcp", f"TCP connect probe, {TARGETS} targets at 1 s", "µs CPU", "HAProxy check", at_most=0.8)]


def per_probe(process, counted=lambda: None):
    """Microseconds of CPU per probe of a process that makes TARGETS of them a second."""
    time.sleep(SETTLE)
    own = counted()
    began, opened, cpu = time.monotonic(), connections_opened(), cpu_seconds(process.pid)
    time.sleep(WINDOW)
    cpu = cpu_seconds(process.pid) - cpu
    opened, took = connections_opened() - opened, time.monotonic() - began
    expected = took * TARGETS if own is None else counted() - own
    if not 0.9 < opened / expected < 1.1:
        raise Unmeasured(f"{opened} connections were opened where {expected:.0f} were expected")
    return cpu / opened * 1e6


def of_ours(targets):
    with Ours(targets, 'connect_interval = "1s"') as process:
        cost = per_probe(process, lambda: process.status()[0])
        if process.status()[2]:
            raise Unmeasured("targets are dead: " + process.status()[4])
        return cost


def of_haproxy(targets):
    with HAProxy(targets, "inter 1s") as process:
        return per_probe(process)


def measure(rows):
    with listeners(TARGETS) as targets:
        figures = alternate(ROUNDS, ours=lambda: of_ours(targets), haproxy=lambda: of_haproxy(targets))
    rows["tcp"].pairs(figures["ours"], figures["haproxy"])
