"""An IMAP login over TLS at a real Dovecot, beside the same dialogue in a straight blocking
client (benches/straight.rs). Only the client's CPU counts; both keep the same pace."""

import subprocess
import time

from lib import Row, Unmeasured, alternate, built, cpu_seconds, quick
from peers import Dovecot, Ours

PAUSE_MS, WINDOW, ROUNDS = 50, quick(3, 6), quick(1, 5)

PROGRAMS = ["straight"]
ROWS = [
    Row("deep", "IMAP deep probe with login over TLS, Dovecot", "µs CPU", "straight blocking client", at_most=0.7)
]


def straight(program, facts):
    count = WINDOW * 1000 // PAUSE_MS
    command = [program, facts["imaps"], facts["ca"], str(count), str(PAUSE_MS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unmeasured("the straight client: " + done.stderr[-300:])
    return int(done.stdout) / 1000


def ours(facts):
    keys = f"""tls = true, deep_check = true, tls_ca_file = "{facts["ca"]}",
      test_username = "probe", test_password = "secret" """
    with Ours([("127.0.0.1", facts["imaps"])], f'connect_interval = "{PAUSE_MS}ms"', keys) as process:
        time.sleep(1)
        before, cpu = process.status(), cpu_seconds(process.pid)
        time.sleep(WINDOW)
        cpu, after = cpu_seconds(process.pid) - cpu, process.status()
        probes, failures = after[0] - before[0], after[1] - before[1]
        if failures or not probes:
            raise Unmeasured(f"{failures} of {probes} probes failed: {after[4]}")
        return cpu / probes * 1e6


def measure(rows):
    program = built("straight")
    with Dovecot() as dovecot:
        figures = alternate(
            ROUNDS, ours=lambda: ours(dovecot.facts), straight=lambda: straight(program, dovecot.facts)
        )
    rows["deep"].pairs(figures["ours"], figures["straight"])
