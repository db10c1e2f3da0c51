"""Requests of an nginx worker while 100 verdicts a second change, and while none does.

Half of some servers besides those that are listed are always closed; in the disturbed runs which
half it is changes all the time. So both kinds of run probe as often and list as many. What is
measured is the thread of nginx's event loop: the engine's own thread does the probing."""

import socket
import threading
import time

from lab import Backend, Nginx, main_thread_cpu, wrk
from lib import Row, Unmeasured, quick

LISTED, FLAPPING, CHANGES = 10, 40, 100
SECONDS, ROUNDS = quick(1, 2), quick(2, 8)

ROWS = [
    Row("flapping", f"request in nginx while {CHANGES} verdicts a second change", "µs CPU/request", "none changes",
        at_most=1.05)
]

CONFIGURE = """
  init_by_lua_block {{
    nb = require("nauthilus_backend")
    nb.configure({{ log = "none", connect_interval = "50ms", fast_interval = "50ms", backend_servers = {{ {servers} }} }})
  }}
  init_worker_by_lua_block {{ nb.start() }}
"""

SERVER = """
    location /generation { content_by_lua_block { ngx.print(nb.status().generation) } }
    location /request {
      access_by_lua_block {
        local servers = nb.get_backend_servers()
        local chosen, count = {}, 0
        for index = 1, #servers do
          local server = servers[index]
          if server.protocol == "imap" then
            count = count + 1
            chosen[count] = server
          end
        end
        local server = chosen[math.random(count)]
        nb.select_backend_server(server.ip, server.port)
      }
      content_by_lua_block { ngx.exit(204) }
    }
"""


class Flapper(threading.Thread):
    """Closes one server and opens another, again and again, while `disturbing` is set."""

    def __init__(self):
        super().__init__(daemon=True)
        self.disturbing, self.ended = threading.Event(), threading.Event()
        self.open, self.closed = [], []
        for index in range(FLAPPING):
            one = self.listen(0)
            self.open.append((one.getsockname()[1], one))
            if index % 2:
                self.close_first()
        self.ports = [port for port, _ in self.open] + self.closed

    @staticmethod
    def listen(port):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", port))
        one.listen(64)
        return one

    def close_first(self):
        port, one = self.open.pop(0)
        one.close()
        self.closed.append(port)

    def run(self):
        while not self.ended.is_set():
            if self.disturbing.wait(0.1):
                self.close_first()
                port = self.closed.pop(0)
                self.open.append((port, self.listen(port)))
                time.sleep(2 / CHANGES)


def target(protocol, port):
    return f'{{ protocol = "{protocol}", host = "127.0.0.1", port = {port} }}'


def measure(rows):
    flapper, listed = Flapper(), [Backend() for _ in range(LISTED)]
    servers = [target("imap", one.port) for one in listed] + [target("pop3", port) for port in flapper.ports]
    nginx = Nginx(http=CONFIGURE.format(servers=", ".join(servers)), server=SERVER).start()
    worker, url = nginx.workers()[0], f"http://127.0.0.1:{nginx.port}/request"
    changes = []

    def cost(disturbed):
        (flapper.disturbing.set if disturbed else flapper.disturbing.clear)()
        time.sleep(0.3)
        generation, began = int(nginx.body("/generation")), time.monotonic()
        before = main_thread_cpu(worker)
        _, _, output = wrk(url, SECONDS, 32)
        spent = main_thread_cpu(worker) - before
        if disturbed:
            took = time.monotonic() - began
            changes.append((int(nginx.body("/generation")) - generation) / took)
        return spent / int(output.split(" requests in ")[0].split()[-1]) * 1e6

    try:
        wrk(url, 1, 32)
        flapper.start()
        pairs = [(cost(True), cost(False)) for _ in range(ROUNDS)]
        nginx.assert_clean()
    finally:
        flapper.ended.set()
        nginx.close()
        for one in listed:
            one.down()
    if min(changes) < CHANGES / 2:
        raise Unmeasured(f"only {min(changes):.0f} changes a second")
    rows["flapping"].pairs(*zip(*pairs)).note = f"{sum(changes) / len(changes):.0f} changes a second"
