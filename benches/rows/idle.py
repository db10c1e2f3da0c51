"""A process with little to do: 100 targets at 10 s, ours and HAProxy in the same seconds. There are
many slices, since by chance one slice has a probe or two more than another."""

import time

from lib import Row, cpu_seconds, quick, wake_ups
from peers import HAProxy, Ours, listeners

TARGETS, INTERVAL = 100, 10
# Seconds. The first probes of all targets are made within one second, so the figures of that time are higher.
SETTLE, SLICE, SLICES = 3, 2.5, quick(4, 10)

ROWS = [
    Row("idle", f"idle, {TARGETS} targets at {INTERVAL} s", "µs CPU/s", "HAProxy", at_most=0.7),
    Row("wake_ups", "wake-ups per probe, idle", "", "", at_most=2),
]


def use(process):
    return cpu_seconds(process.pid), wake_ups(process.pid)


def measure(rows):
    with listeners(TARGETS) as targets:
        with Ours(targets, f'connect_interval = "{INTERVAL}s"') as ours:
            with HAProxy(targets, f"inter {INTERVAL}s") as haproxy:
                time.sleep(SETTLE)
                costs, wakes = {ours: [], haproxy: []}, {ours: [], haproxy: []}
                probes = []
                for _ in range(SLICES):
                    made = ours.status()[0]
                    before = {one: use(one) for one in costs}
                    began = time.monotonic()
                    time.sleep(SLICE)
                    took = time.monotonic() - began
                    for one, (cpu, woken) in before.items():
                        cpu_now, woken_now = use(one)
                        costs[one].append((cpu_now - cpu) / took * 1e6)
                        wakes[one].append((woken_now - woken) / took)
                    probes.append((ours.status()[0] - made) / took)
    rows["idle"].slices(costs[ours], costs[haproxy])
    rows["wake_ups"].alone([woken / made for woken, made in zip(wakes[ours], probes)])
    rows["wake_ups"].note = (
        f"a second: {sum(wakes[ours]) / SLICES:.1f}, HAProxy's {sum(wakes[haproxy]) / SLICES:.1f}, "
        f"for {sum(probes) / SLICES:.1f} probes"
    )
