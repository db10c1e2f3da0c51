"""What the module costs a request of the access phase: worker CPU per request of a route that
lists 10 servers, filters them by protocol, picks one, selects it and applies one attribute,
against the same on constant Lua tables, and of one that routes a user instead: the list and the names of headers are there, the script
has a table of attributes and sets the same three headers. Medians of alternating slices of time,
in several processes. Beside them run the three headers alone, without attributes, and what plain Lua
cannot do with less where each caller is to have a list and a result of its own and the request
remembers what was decided: three tables more, which nothing checks or converts. With PARTS set it
also measures the steps one by one, beside the three headers alone; ONLY="constant module" measures
only these routes; with BENCH_JSON set, the figures of each slice are its last line."""

import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/openresty"))
from lab import Backend, Nginx, lua_servers, main_thread_cpu  # pylint: disable=wrong-import-position

# Seconds. The first part of each slice is not measured: the load only begins again in it.
SETTLE, SLICE = 0.05, 0.25

INIT = """
  init_by_lua_block {{
    nb = require("nauthilus_backend")
    nb.configure({{ log = "none", connect_interval = "10s", backend_servers = {servers} }})
    constant = {servers}
    for _, server in ipairs(constant) do server.ip = server.host end
  }}
"""

# `ours` and its baseline do the same work in the same words; `list` copies, since a script may change its
# list.
ROUTE = """
      access_by_lua_block {{
        local servers = {list}
        local chosen, count = {{}}, 0
        for index = 1, #servers do
          local server = servers[index]
          if server.protocol == "imap" then
            count = count + 1
            chosen[count] = server
          end
        end
        local server = chosen[turn(count)]
        {act}
      }}
      content_by_lua_block {{ ngx.exit(204) }}
"""

HEADERS = """
        ngx.header["Auth-Server"] = server.ip
        ngx.header["Auth-Port"] = server.port
        ngx.header["X-Nauthilus-Hostip"] = server.ip"""

PLAIN = """
        ngx.header["Auth-Server"] = server.ip
        ngx.header["Auth-Port"] = server.port
        local attributes = { hostip = server.ip }
        for name, value in pairs(attributes) do
          ngx.header[header_of[name]] = value
        end"""

MODULE = """
        nb.select_backend_server(server.ip, server.port)
        local result = nauthilus_backend_result.new()
        result:attributes({ hostip = server.ip })
        nb.apply_backend_result(result)"""

# Plain Lua with tables of the caller's own.
OWN = """
        remember(server.ip, server.port)
        local result = setmetatable({}, class)
        result:attributes({ hostip = server.ip })
        merge(result)"""

OWN_FUNCTIONS = """
    local new_table, header = require("table.new"), ngx.header
    function copied()
      local copy = new_table(#constant, 0)
      for index = 1, #constant do copy[index] = constant[index] end
      return copy
    end
    function remember(ip, port)
      local ctx = ngx.ctx
      ctx.ip, ctx.port = ip, port
      header["Auth-Server"], header["Auth-Port"] = ip, port
    end
    class = {}
    class.__index = class
    function class.attributes(result, attributes)
      local copy = {}
      for name, value in next, attributes do copy[name] = value end
      result.values = copy
    end
    header_of = { hostip = "X-Nauthilus-Hostip" }
    function merge(result)
      ngx.ctx.applied = result.values
      for name, value in next, result.values do header[header_of[name]] = value end
    end
"""

# What each part costs, when asked for (PARTS=1).
PARTS = {
    "list": ("nb.get_backend_servers()", HEADERS),
    "select": ("constant", """
        nb.select_backend_server(server.ip, server.port)
        ngx.header["X-Nauthilus-Hostip"] = server.ip"""),
    "apply": ("constant", """
        ngx.header["Auth-Server"] = server.ip
        ngx.header["Auth-Port"] = server.port
        local result = nauthilus_backend_result.new()
        result:attributes({ hostip = server.ip })
        nb.apply_backend_result(result)"""),
    "result": ("constant", HEADERS + """
        local result = nauthilus_backend_result.new()"""),
    "attributes": ("constant", HEADERS + """
        local result = nauthilus_backend_result.new()
        result:attributes({ hostip = server.ip })"""),
    "context": ("constant", HEADERS + """
        local context = nb.context()"""),
}


# A route instead of a list and a pick.
ROUTED = """
      access_by_lua_block {
        local server = nb.route(user(), { protocol = "imap" })
        nb.select_backend_server(server.ip, server.port)
        local result = nauthilus_backend_result.new()
        result:attributes({ hostip = server.ip })
        nb.apply_backend_result(result)
      }
      content_by_lua_block { ngx.exit(204) }
"""


ROUTES = {
    "constant": ("constant", PLAIN),
    "module": ("nb.get_backend_servers()", MODULE),
    "own": ("copied()", OWN),
    "headers": ("constant", HEADERS),
    "routed": ("", ""),
}


def location(name, source, act):
    return ROUTED if name == "routed" else ROUTE.format(list=source, act=act)


def nginx_with(routes, **options):
    """One that has these routes, not started, and the backends that its module lists."""
    backends = [Backend() for _ in range(10)]
    nginx = Nginx(
        http=INIT.format(servers=lua_servers([b.port for b in backends]))
        + """
  init_worker_by_lua_block {
    local at = 0
    function turn(count) at = at + 1 return at % count + 1 end
    local users = {}
    for index = 1, 1000 do users[index] = string.format("user%04d@example.org", index) end
    function user() return users[turn(1000)] end
    nb.get_backend_servers()
"""
        + OWN_FUNCTIONS
        + "  }\n",
        server="".join(
            f"    location /{name} {{{location(name, *route)}    }}\n"
            for name, route in routes.items()
        )
        + "    location /count { stub_status; }\n",
        **options,
    )
    return nginx, backends


def check_route(nginx, name):
    """Requests a route once, and ends the run where the answer is not the one that the route is for."""
    status, headers, _ = nginx.get("/" + name)
    if status != 204 or "X-Nauthilus-Hostip" not in headers:
        raise SystemExit(f"/{name}: {status} {headers}")


class Load:
    """wrk, which sends requests to a route inside `with`, and is stopped (SIGSTOP) outside."""

    def __init__(self, url):
        command = ["wrk", "-t1", "-c32", "-d600s", url]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.process.send_signal(signal.SIGSTOP)

    def __enter__(self):
        self.process.send_signal(signal.SIGCONT)
        time.sleep(SETTLE)

    def __exit__(self, *_):
        if self.process.poll() is not None:
            raise SystemExit("wrk ended before its time")
        self.process.send_signal(signal.SIGSTOP)

    def end(self):
        self.process.kill()
        self.process.wait()


def count(nginx):
    """How many requests this nginx has answered since its start."""
    return int(nginx.body("/count").splitlines()[2].split()[2])


def measure(routes, rounds):
    """Of each route, in turn: microseconds of CPU per request, and requests a second."""
    nginx, _backends = nginx_with(routes)
    worker = nginx.start().workers()[0]
    for name in routes:
        check_route(nginx, name)
    loads = {name: Load(f"http://127.0.0.1:{nginx.port}/{name}") for name in routes}
    cost, rates = {name: [] for name in routes}, {name: [] for name in routes}

    def now():
        return time.monotonic(), main_thread_cpu(worker), count(nginx)

    try:
        # LuaJIT compiles during the first two rounds, which are not counted.
        for number in range(-2, rounds):
            for name, load in loads.items():
                with load:
                    before = now()
                    time.sleep(SLICE)
                    seconds, cpu, requests = (b - a for a, b in zip(before, now()))
                if number >= 0:
                    cost[name].append(cpu / requests * 1e6)
                    rates[name].append(requests / seconds)
    finally:
        for load in loads.values():
            load.end()
    nginx.assert_clean()
    nginx.stop()
    return cost, rates


def main():
    routes = {**ROUTES, **PARTS} if os.environ.get("PARTS") else ROUTES
    if only := os.environ.get("ONLY", "").split():
        routes = {name: routes[name] for name in only}
    rounds, starts = int(os.environ.get("ROUNDS", "12")), int(os.environ.get("STARTS", "3"))
    cost, rates = {name: [] for name in routes}, {name: [] for name in routes}
    # Which traces LuaJIT makes depends on chance, and a process keeps them; so several processes are
    # measured.
    for _ in range(starts):
        for all_figures, figures in zip((cost, rates), measure(routes, rounds)):
            for name, values in figures.items():
                all_figures[name] += values
    for name, values in cost.items():
        # Each slice is compared with the one that ran next to it: what disturbs the machine disturbs both.
        ratio = statistics.median(m / c for m, c in zip(values, cost["constant"]))
        print(f"{name:12} {statistics.median(values):6.2f} us of worker CPU per request, {ratio:.3f} x")
    if "BENCH_JSON" in os.environ:
        print(json.dumps({"cost": cost, "rates": rates}))


if __name__ == "__main__":
    main()
