"""An IMAP login over TLS at a real Dovecot, beside the same dialogue in a straight blocking
client (benches/straight.rs) that makes a full handshake each time. Only the client's CPU counts; both
keep the same pace. The limit is the same client with resumed sessions: it is the cost of the dialogue
itself. All take turns in short slices, so that other work of the machine affects all of them alike.

Dovecot's login processes serve many connections here ("high-performance mode"). By default each
process serves one connection and has its own keys for session tickets, so that no client can resume."""

import contextlib
import socket
import subprocess
import threading
import time

from lib import Row, Unmeasured, alternate, built, cpu_seconds, median_ratio, quick
from peers import Dovecot, Ours, logging_in

PAUSE_MS, SETTLE, SLICE, ROUNDS, ROUNDS_BY_DEFAULT = 50, 0.5, 1.5, quick(1, 9), quick(1, 4)
# How many handshakes are counted for the share of resumed ones.
SEEN = quick(8, 20)
# Bytes. The server's first flight in TLS 1.3 is longer than this with a certificate, and shorter without one.
WITH_CERTIFICATE = 400

PROGRAMS = ["straight"]
ROWS = [
    Row("deep", "IMAP deep probe with login over TLS, Dovecot", "µs CPU", "straight blocking client", at_most=0.85)
]


def straight(program, facts, *how):
    count = int(SLICE * 1000) // PAUSE_MS
    command = [program, facts["imaps"], facts["ca"], str(count), str(PAUSE_MS), *how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unmeasured("the straight client: " + done.stderr[-300:])
    return int(done.stdout) / 1000


def probing(port, facts):
    return Ours([("127.0.0.1", port)], f'connect_interval = "{PAUSE_MS}ms"', logging_in(facts))


def probes_since(before, after):
    probes, failures = after[0] - before[0], after[1] - before[1]
    if failures or not probes:
        raise Unmeasured(f"{failures} of {probes} probes failed: {after[4]}")
    return probes


def ours(facts):
    with probing(facts["imaps"], facts) as process:
        time.sleep(SETTLE)
        before, cpu = process.status(), cpu_seconds(process.pid)
        time.sleep(SLICE)
        cpu, after = cpu_seconds(process.pid) - cpu, process.status()
        return cpu / probes_since(before, after) * 1e6


class Relay:
    """Stands between a client and the server, and sees how long the server's first words are."""

    def __init__(self, port):
        self.server, self.first_words = ("127.0.0.1", int(port)), []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self.relay, args=(client,), daemon=True).start()

    def relay(self, client):
        with contextlib.suppress(OSError), client, socket.create_connection(self.server) as server:
            server.sendall(client.recv(65536))
            words = server.recv(65536)
            self.first_words.append(len(words))
            client.sendall(words)
            threading.Thread(target=self.copy, args=(client, server), daemon=True).start()
            self.copy(server, client)

    @staticmethod
    def copy(source, to):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)


def share_resumed(facts):
    """The share of our handshakes that were resumed, from a run of its own."""
    relay = Relay(facts["imaps"])
    with contextlib.closing(relay.listener), probing(relay.port, facts) as process:
        before = process.status()
        # The first logins at a server that has just started take longer.
        end = time.monotonic() + 10
        while time.monotonic() < end and process.status()[0] - before[0] < SEEN:
            time.sleep(0.1)
        probes_since(before, process.status())
    # The first handshake has no session to resume.
    seen = relay.first_words[1:]
    return sum(size < WITH_CERTIFICATE for size in seen) / max(len(seen), 1)


def measure(rows):
    program = built("straight")

    def figures(facts, rounds, **more):
        others = {"straight": "full", **more}
        ways = {name: lambda how=how: straight(program, facts, how) for name, how in others.items()}
        return alternate(rounds, ours=lambda: ours(facts), **ways)

    with Dovecot(keeps_logins=True) as dovecot:
        resumed = share_resumed(dovecot.facts)
        kept = figures(dovecot.facts, ROUNDS, limit="resumed")
    with Dovecot() as dovecot:
        resumed_by_default = share_resumed(dovecot.facts)
        default = figures(dovecot.facts, ROUNDS_BY_DEFAULT)
    row = rows["deep"].pairs(kept["ours"], kept["straight"])
    row.note = (
        f"{row.limited_by(kept['limit'], 'the same client where it resumes as well')}; "
        f"ours resumed {resumed:.0%} of its handshakes; at a Dovecot with a login process for each "
        f"connection, its default, {resumed_by_default:.0%}: "
        f"ratio {median_ratio(default['ours'], default['straight']):.2f}"
    )
