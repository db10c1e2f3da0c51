"""Requests of an nginx worker while 100 verdicts a second change, and while none does.

Some servers open and close their listeners. Half of them are always closed. In a disturbed slice
these are servers that the module probes, and which half is closed changes all the time; in a quiet
slice they are servers that nobody probes. So in both kinds of slice the same number of servers is
probed and listed, and the same number of listeners opens and closes. The CPU time of the thread of
nginx's event loop is measured; the probes run on the engine thread.

One run of wrk lasts through all slices. The worker reports its CPU time and its number of requests
at the same moment, and each disturbed slice is compared with the mean of the two slices around it."""

import socket
import subprocess
import threading
import time

from lab import Backend, Nginx, free_port
from lib import Row, Unmeasured, quick

LISTED, FLAPPING, CHANGES = 10, 40, 100
# Seconds. The first part of each slice is not measured: verdicts follow a change only after up to 50 ms, the
# interval.
SLICES, SETTLE, SLICE = quick(6, 40), 0.1, 0.25

ROWS = [
    Row("flapping", f"request in nginx while {CHANGES} verdicts a second change", "µs CPU/request", "none changes",
        at_most=1.05)
]

CONFIGURE = """
  init_by_lua_block {{
    nb = require("nauthilus_backend")
    nb.configure({{ log = "none", connect_interval = "50ms", fast_interval = "50ms", backend_servers = {{ {servers} }} }})
  }}
  init_worker_by_lua_block {{
    nb.start()
    requests = 0
    local ffi = require("ffi")
    ffi.cdef([[ int clock_gettime(int, long *); ]])
    local time = ffi.new("long[2]")
    -- CPU of this thread in ns, requests so far, and the list's generation.
    function used()
      ffi.C.clock_gettime(3, time)
      return string.format("%.0f %d %d", tonumber(time[0]) * 1e9 + tonumber(time[1]), requests, nb.status().generation)
    end
  }}
"""

SERVER = """
    location /used { content_by_lua_block { ngx.print(used()) } }
    location /request {
      access_by_lua_block {
        requests = requests + 1
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
    """Closes one listener and opens another, again and again: of the probed ones while `disturbing` is set,
    else of others, so that the work is the same in both cases."""

    def __init__(self):
        super().__init__(daemon=True)
        self.disturbing, self.ended = threading.Event(), threading.Event()
        self.probed, self.others = self.listeners(), self.listeners()
        self.ports = [port for port, _ in self.probed]

    @classmethod
    def listeners(cls):
        """Pairs of port and listener; of every second one it is closed."""
        ports = [free_port() for _ in range(FLAPPING)]
        return [(port, cls.listen(port) if index % 2 else None) for index, port in enumerate(ports)]

    @staticmethod
    def listen(port):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", port))
        one.listen(64)
        return one

    def run(self):
        while not self.ended.wait(2 / CHANGES):
            some = self.probed if self.disturbing.is_set() else self.others
            # The first two in the list were changed the longest ago; one of them is closed.
            for port, one in [some.pop(0), some.pop(0)]:
                some.append((port, self.listen(port) if one is None else one.close()))


def target(protocol, port):
    return f'{{ protocol = "{protocol}", host = "127.0.0.1", port = {port} }}'


def measure(rows):
    flapper, listed = Flapper(), [Backend() for _ in range(LISTED)]
    servers = [target("imap", one.port) for one in listed] + [target("pop3", port) for port in flapper.ports]
    nginx = Nginx(http=CONFIGURE.format(servers=", ".join(servers)), server=SERVER).start()

    def used():
        return list(map(int, nginx.body("/used").split()))

    def a_slice(disturbed):
        """Microseconds of CPU per request, and changes a second."""
        (flapper.disturbing.set if disturbed else flapper.disturbing.clear)()
        time.sleep(SETTLE)
        began, before = time.monotonic(), used()
        time.sleep(SLICE)
        cpu, requests, changes = (b - a for a, b in zip(before, used()))
        return cpu / requests / 1e3, changes / (time.monotonic() - began)

    seconds = 1 + 1.5 * (2 * SLICES + 1) * (SETTLE + SLICE)
    command = ["wrk", "-t1", "-c32", f"-d{seconds:.0f}s", f"http://127.0.0.1:{nginx.port}/request"]
    load = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        flapper.start()
        time.sleep(1)
        slices = [a_slice(index % 2 == 1) for index in range(2 * SLICES + 1)]
        if load.poll() is not None:
            raise Unmeasured("wrk ended before the last slice")
        nginx.assert_clean()
    finally:
        flapper.ended.set()
        load.kill()
        load.wait()
        nginx.close()
        for one in listed:
            one.down()
    costs, changes = zip(*slices)
    mean = sum(changes[1::2]) / SLICES
    if mean < 0.8 * CHANGES:
        raise Unmeasured(f"only {mean:.0f} changes a second")
    quiet = [(a + b) / 2 for a, b in zip(costs[0::2], costs[2::2])]
    rows["flapping"].slices(costs[1::2], quiet).note = f"{mean:.0f} changes a second, and {max(changes[0::2]):.0f}"
