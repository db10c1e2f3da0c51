"""How long after its listener was closed a server leaves the list, in an nginx worker that does
not probe itself, and in HAProxy. Both probe the same listeners, which are closed at the same moments."""

import http.client
import random
import socket
import time

from lab import Nginx, free_port, lua_servers, until
from lib import Row, Unmeasured, quick
from peers import HAProxy

TARGETS, ROUNDS = quick(40, 200), {1: quick(2, 6), 3: quick(1, 5)}
INTERVAL, FAST = 1.0, 0.1
GOLDEN = (5**0.5 - 1) / 2
# Seconds: the longest time between two reads of one list, which limits how exact the figures are.
POLL = 0.002

HAPROXY = "HAProxy, fastinter 100ms"
ROWS = [
    Row("detection_1", "detection, interval 1 s, threshold 1", "ms", HAPROXY, at_most=1),
    Row("detection_3", "detection, interval 1 s, threshold 3", "ms", HAPROXY, at_most=1),
    Row("independence", "detection beside a silent server", "ms", "detection alone", at_most=1.1),
]

SERVER = """
    location /alive { content_by_lua_block {
      local ports = {}
      for index, server in ipairs(nb.get_backend_servers()) do ports[index] = server.port end
      ngx.print(ngx.worker.pid(), " ", nb.status().probing and "prober" or "reader", " ", table.concat(ports, ","))
    } }
    location /list { content_by_lua_block {
      local ports = {}
      for index, server in ipairs(nb.get_backend_servers()) do ports[index] = server.port end
      ngx.print(table.concat(ports, ","))
    } }
"""


class Listener:
    """A port that can be closed and opened again."""

    def __init__(self):
        self.socket, self.port = None, free_port()
        self.open()

    def open(self):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("127.0.0.1", self.port))
        self.socket.listen(64)

    def close(self):
        self.socket.close()
        return time.monotonic()


class Workers:
    """Two workers of nginx; `alive` asks the one that does not probe."""

    def __init__(self, listeners, threshold, silent=""):
        servers = lua_servers([one.port for one in listeners])
        if silent:
            servers = servers[:-1] + f", {silent} }}"
        keys = f'connect_interval = "{INTERVAL}s", fast_interval = "{FAST}s", failure_threshold = {threshold}'
        self.nginx = Nginx(
            workers=2,
            http=f"""
  init_by_lua_block {{
    nb = require("nauthilus_backend")
    nb.configure({{ log = "none", {keys}, backend_servers = {servers} }})
  }}
  init_worker_by_lua_block {{ nb.start() }}
""",
            server=SERVER,
        ).start()
        self.connection = until(self._reader, 10, "a worker that does not probe")

    def _reader(self):
        """A connection to that worker: it stays with the worker that accepted it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.nginx.port, timeout=10)
        said = self._ask(connection, "/alive").split()
        if said[1] == "reader":
            return connection
        connection.close()
        return None

    @staticmethod
    def _ask(connection, path):
        connection.request("GET", path)
        return connection.getresponse().read().decode()

    def alive(self):
        return {int(port) for port in self._ask(self.connection, "/list").split(",") if port}

    def close(self):
        self.connection.close()
        self.nginx.close()


class Watched:
    """One observer of the lists: when it saw each closed listener leave, round by round."""

    def __init__(self, alive):
        self.alive, self.rounds = alive, []

    def note_missing(self, closed, pending):
        present = self.alive()
        now = time.monotonic()
        for port in [port for port in pending if port not in present]:
            pending.remove(port)
            self.rounds[-1].append((now - closed[port]) * 1000)


def one_round(listeners, observers):
    """Closes each listener at a moment of its own, until all have seen it; then opens them.

    The moments are spread evenly over an interval, and so are those of any targets that follow
    each other in the list (the golden section sees to that). The probes of one observer come
    all together, those of another one by one in the list's order: either way all moments
    between two probes are met, and chance has little to say."""
    for observer in observers:
        observer.rounds.append([])
    start, step = time.monotonic() + 0.01, INTERVAL / len(listeners)
    order = sorted(range(len(listeners)), key=lambda index: index * GOLDEN % 1)
    plan = [(start + step * (at + random.random()), listeners[index]) for at, index in enumerate(order)]
    closed, pending = {}, {observer: set() for observer in observers}
    while plan or any(pending.values()):
        while plan and plan[0][0] <= time.monotonic():
            one = plan.pop(0)[1]
            closed[one.port] = one.close()
            for ports in pending.values():
                ports.add(one.port)
        for observer, ports in pending.items():
            if ports:
                observer.note_missing(closed, ports)
        if time.monotonic() > start + 30:
            raise Unmeasured("a closed listener is still in a list after 30 s")
        time.sleep(POLL / 2)
    for one in listeners:
        one.open()
    ports = {one.port for one in listeners}
    until(lambda: all(ports <= observer.alive() for observer in observers), 20, "all alive again")
    # Lets at least one more interval pass, so that each probe timer runs at its usual time again.
    time.sleep(random.uniform(1.1, 1.4) * INTERVAL)


def trials(threshold, with_silent):
    """Latencies in ms, round by round: ours, HAProxy's, ours beside a server that accepts and says nothing."""
    listeners = [Listener() for _ in range(TARGETS)]
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(1024)
    key = f'{{ protocol = "imap", host = "127.0.0.1", port = {silent.getsockname()[1]}, deep_check = true }}'
    ours, beside = Workers(listeners, threshold), None
    options = f"inter {INTERVAL:g}s fastinter {FAST * 1000:g}ms downinter {FAST * 1000:g}ms fall {threshold} rise 1"
    try:
        with HAProxy([("127.0.0.1", one.port) for one in listeners], options) as haproxy:
            by_index = [one.port for one in listeners]
            observers = [Watched(ours.alive), Watched(lambda: {by_index[i] for i in haproxy.up()})]
            if with_silent:
                beside = Workers(listeners, threshold, key)
                observers.append(Watched(beside.alive))
            time.sleep(2.5 * INTERVAL)
            for _ in range(ROUNDS[threshold]):
                one_round(listeners, observers)
    finally:
        ours.close()
        if beside:
            beside.close()
        for one in [*listeners, silent]:
            one.close()
    return [observer.rounds for observer in observers]


def measure(rows):
    alone, haproxy, beside = trials(1, True)
    rows["detection_1"].trials(alone, haproxy).note = f"{sum(map(len, alone))} closings"
    rows["independence"].trials(beside, alone)
    alone, haproxy = trials(3, False)
    rows["detection_3"].trials(alone, haproxy).note = f"{sum(map(len, alone))} closings"
