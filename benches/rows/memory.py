"""Resident memory for each further target, after a round of probes, beside HAProxy's for each
further server: configured by a file, and by a Lua table, whose memory in Lua is counted as well.
All processes run at the same time; only memory that they do not share is counted."""

import contextlib
import time

from lib import Row, quick, resident_kb
from peers import HAProxy, Ours, OursFromFile, loopback, one_listener

FEW, MANY, INTERVAL = 100, quick(2000, 10000), quick(3, 5)
ROUNDS = quick(1, 2)

ROWS = [
    Row("memory", f"memory per target, {MANY} against {FEW}", "bytes", "HAProxy, per server", at_most=0.6),
    Row("memory_table", "the same, configured by a Lua table", "bytes", "HAProxy, per server", at_most=0.6),
    Row("memory_settings", "the same, each with settings of its own", "bytes", "HAProxy, per server", at_most=0.6),
]

# What each target has besides, in Lua: texts that differ between targets take memory for each. No deep
# checks: what those in flight take depends on how many there are, not on how many targets.
SETTINGS = f"""
  connect_interval = "{INTERVAL}s", deep_interval = "1h", fast_interval = "700ms", failure_threshold = 3,
  recovery_threshold = 2, connect_timeout = "4s", tls_timeout = "4s", deep_timeout = "9s",
  test_username = "probe" .. #list .. "@example.org", test_password = "secret" .. #list, test_mailbox = "Box" .. #list,
  helo_name = "probe" .. #list .. ".example.org", source_address = "127.0.0.1", tls_min_version = "1.3",
  tls_server_name = "imap" .. #list .. ".example.org", node = "node" .. #list, pool = "pool" .. #list % 10,
  weight = 50, vital = false,
"""


def grown(few, many):
    return (resident_kb(many.pid) - resident_kb(few.pid)) * 1024 / (MANY - FEW)


def measure(rows):
    ours, table, settings, haproxy = [], [], [], []
    for _ in range(ROUNDS):
        with one_listener() as port, contextlib.ExitStack() as stack:
            sizes = loopback(FEW, port), loopback(MANY, port)

            def pair(make, sizes=sizes, stack=stack):
                return [stack.enter_context(make(targets)) for targets in sizes]

            processes = [
                pair(lambda targets: OursFromFile(targets, f"connect_interval: {INTERVAL}s")),
                pair(lambda targets: Ours(targets, f'connect_interval = "{INTERVAL}s"')),
                pair(lambda targets: Ours(targets, f'connect_interval = "{INTERVAL}s"', SETTINGS)),
                pair(lambda targets: HAProxy(targets, f"inter {INTERVAL}s")),
            ]
            time.sleep(1.3 * INTERVAL)
            for figures, two in zip((ours, table, settings, haproxy), processes):
                figures.append(grown(*two))
            resident = [f"{resident_kb(p.pid) / 1024:.1f}" for two in processes for p in two]
    rows["memory"].pairs(ours, haproxy)
    rows["memory_table"].pairs(table, haproxy)
    rows["memory_settings"].pairs(settings, haproxy)
    rows["memory"].note = (
        "MiB, few and many: ours {} and {}, from a table {} and {}, with settings {} and {}, HAProxy {} and {}"
    ).format(*resident)
