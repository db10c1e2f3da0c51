"""Very many healthy IMAPS targets, each logged into, with default timeouts: none may be marked
dead by the load of probing them all. Each failed probe would be a verdict (threshold 1)."""

import time

from lib import Row, Unmeasured, cpu_seconds, quick
from peers import Certificates, Ours, TlsServer, loopback

TARGETS, INTERVAL, ROUNDS = quick(1000, 10000), quick(4, 10), quick(2, 3)

PROGRAMS = ["tls_server"]
ROWS = [
    Row("crowd", f"{TARGETS} healthy IMAPS targets with login at {INTERVAL} s, marked dead", "verdicts", "", at_most=0)
]


def measure(rows):
    with Certificates() as certificates, TlsServer(certificates.server, "1.3") as server:
        keys = f"""tls = true, tls_server_name = "localhost", tls_ca_file = "{certificates.ca}",
          deep_check = true, test_username = "probe", test_password = "secret" """
        service = f'connect_interval = "{INTERVAL}s"'
        with Ours(loopback(TARGETS, server.port), service, keys) as ours:
            cpu, began = cpu_seconds(ours.pid), time.monotonic()
            time.sleep(ROUNDS * INTERVAL)
            cpu, took = cpu_seconds(ours.pid) - cpu, time.monotonic() - began
            probes, failures, dead, unknown, example = ours.status()
            logins = server.counts()[2]
    # With fewer probes than this the measured load is not the one that the row promises.
    if unknown or probes < 0.9 * (ROUNDS - 1) * TARGETS or logins < probes - failures:
        raise Unmeasured(f"{probes} probes, {logins} logins, {unknown} targets without a verdict: {example}")
    rows["crowd"].alone([max(failures, dead)])
    rows["crowd"].note = f"{probes} probes in {took:.0f} s, {cpu / took:.1%} of a processor"
    if failures:
        rows["crowd"].note += f"; {example}"
