"""TLS probes, resumed as in steady state and with full handshakes, beside HAProxy's checks of the
same server. Handshakes and resumptions are counted at the server, in a process of its own. The
limit is the same connections in a bare loop (benches/tls_floor.rs), one right after the other, so
that the processor's caches are warm for each. The loop verifies a chain each time, a probe only the first time."""

import subprocess
import time

from lib import Row, Unmeasured, alternate, built, cpu_seconds, quick
from peers import Certificates, HAProxy, Ours, TlsServer, loopback

TARGETS = 200
# Seconds until all targets have made their first handshake.
SETTLE, WINDOW, ROUNDS = 3, quick(3, 5), quick(1, 3)
# Of the bare loop.
CONNECTIONS = quick(1000, 3000)
HAPROXY = "HAProxy check-ssl verify none"

PROGRAMS = ["tls_server", "tls_floor"]
ROWS = [
    Row("tls13", "TLS 1.3 probe, resumed", "µs CPU", HAPROXY, at_most=0.55),
    Row("tls12", "TLS 1.2 probe, resumed", "µs CPU", HAPROXY, at_most=0.5),
    Row("tls_full", "TLS 1.3 probe, full handshake, chain known", "µs CPU", HAPROXY, at_most=1),
]


class Lab:
    """One server of one TLS version, and what probes it costs those who do."""

    def __init__(self, certificates, server):
        self.certificates, self.server = certificates, server
        self.targets = loopback(TARGETS, server.port)
        self.resumed = {}

    def per_probe(self, name, process):
        time.sleep(SETTLE)
        handshakes, resumed, _ = self.server.counts()
        cpu = cpu_seconds(process.pid)
        time.sleep(WINDOW)
        cpu = cpu_seconds(process.pid) - cpu
        now, now_resumed, _ = self.server.counts()
        made = now - handshakes
        if made < 0.9 * WINDOW * TARGETS:
            raise Unmeasured(f"{name}: {made} handshakes in {WINDOW} s, {WINDOW * TARGETS} expected")
        self.resumed[name] = (now_resumed - resumed) / made
        return cpu / made * 1e6

    def ours(self, name, full_every):
        keys = f'tls = true, tls_server_name = "localhost", tls_ca_file = "{self.certificates.ca}"'
        service = f'connect_interval = "1s", tls_full_handshake_interval = "{full_every}"'
        with Ours(self.targets, service, keys) as process:
            cost = self.per_probe(name, process)
            if process.status()[2]:
                raise Unmeasured("targets are dead: " + process.status()[4])
            return cost

    def haproxy(self):
        with HAProxy(self.targets, "inter 1s check-ssl verify none") as process:
            return self.per_probe("HAProxy", process)

    def bare(self, what):
        """The same, by the least that can be written with the same library."""
        numbers = [str(number) for number in (TARGETS, CONNECTIONS, 0)]
        command = [built("tls_floor"), str(self.server.port), str(self.certificates.ca), what, *numbers]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unmeasured("the bare loop: " + done.stderr[-300:])
        cost, resumed = map(int, done.stdout.split())
        if resumed != (CONNECTIONS if what == "resumed" else 0):
            raise Unmeasured(f"the bare loop resumed {resumed} of {CONNECTIONS}")
        return cost / 1000

    def note(self):
        return "resumed: " + ", ".join(f"{name} {share:.1%}" for name, share in self.resumed.items())


BARE = "a bare blocking loop of the same connections, back to back"
VERIFYING = "a bare blocking loop that verifies each chain, back to back"


def measure(rows):
    with Certificates() as certificates:
        with TlsServer(certificates.server, "1.3") as server:
            lab = Lab(certificates, server)
            figures = alternate(
                ROUNDS,
                haproxy=lab.haproxy,
                ours=lambda: lab.ours("ours", "1h"),
                bare=lambda: lab.bare("resumed"),
                full=lambda: lab.ours("ours, full", "0s"),
                bare_full=lambda: lab.bare("full"),
            )
            if lab.resumed["ours"] < 0.95 or lab.resumed["ours, full"] > 0:
                raise Unmeasured("not what was to be measured: " + lab.note())
            rows["tls13"].pairs(figures["ours"], figures["haproxy"])
            rows["tls13"].note = lab.note() + "; " + rows["tls13"].limited_by(figures["bare"], BARE)
            rows["tls_full"].pairs(figures["full"], figures["haproxy"])
            rows["tls_full"].note = rows["tls_full"].limited_by(figures["bare_full"], VERIFYING)
        with TlsServer(certificates.server, "1.2") as server:
            lab = Lab(certificates, server)
            figures = alternate(
                ROUNDS,
                haproxy=lab.haproxy,
                ours=lambda: lab.ours("ours", "1h"),
                bare=lambda: lab.bare("resumed"),
            )
            if lab.resumed["ours"] < 0.95:
                raise Unmeasured("not what was to be measured: " + lab.note())
            rows["tls12"].pairs(figures["ours"], figures["haproxy"])
            rows["tls12"].note = lab.note() + "; " + rows["tls12"].limited_by(figures["bare"], BARE)
