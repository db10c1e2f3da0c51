"""A login in nginx whose user is bound in a real Redis: route(), beside the same script called through lua-resty-redis
with kept connections, in the same worker. The script in Lua has all arguments except the deadline prepared; the module
computes them for each login."""

import hashlib
import json
import pathlib
import re
import tempfile

from lib import ROOT, Row, Unmeasured, quick

RUNS, SECONDS, CONNECTIONS = quick(3, 12), quick(1, 4), 32
USERS, NODES = 1000, 10
SCRIPTS = ROOT / "src/engine/cluster/scripts"
RESTY = pathlib.Path("/usr/share/lua/5.1/nginx/redis.lua")

ROWS = [
    Row("store_worker", "login with Redis, nginx's worker", "µs CPU/login", "lua-resty-redis", at_most=0.6),
    Row("store_total", "the same with the engine thread", "µs CPU/login", "lua-resty-redis", at_most=1.0),
    Row("store_p99", "p99 of a login with Redis", "ms", "lua-resty-redis", at_most=1.5),
    Row("store_engine", "the engine thread's part of a login", "µs CPU/login", "", at_most=33),
]

# Beside nginx.conf, whose blocks may not be as long.
DATA = """
local data = {{ users = {users}, digests = {digests}, servers = {{ {servers} }}, server_of = {{}}, script = [====[{script}]====] }}
for _, server in ipairs(data.servers) do
  data.server_of[server.node] = {{ ip = server.host, port = server.port }}
end
local nodes, at = "", 0
for index = 1, {nodes} do
  nodes = nodes .. "\\nnode" .. index .. "\\tum0"
end

-- The number of the next user.
function data.turn()
  at = at % {count} + 1
  return at
end

-- The login of a user by lua-resty-redis.
function data.login(index)
  local connection = require("nginx.redis"):new()
  connection:set_timeout(5000)
  assert(connection:connect("127.0.0.1", {redis}))
  local deadline = string.format("%d", (ngx.now() + 5) * 1000)
  local home = "node" .. index % {nodes} + 1
  local answer, problem = connection:evalsha(data.sha, 4, "{{resty}}:store", "{{resty}}:machines", "{{resty}}:users",
    "{{resty}}:user:" .. data.digests[index], deadline, "login", "machine", "86400000", "0", "30000", "move", "own", home,
    "unusable", home, nodes, "", "", "", "", "", "")
  if not answer then
    error(problem)
  end
  connection:set_keepalive(10000, 100)
  return data.server_of[answer[3]], answer[1]
end

return data
"""

HTTP = """
  init_by_lua_block {{
    nb, data = require("nauthilus_backend"), require("data")
    nb.configure({{
      log = "none", connect_interval = "10s", node_down_after = 0, node_up_after = 0,
      cluster = {{ redis = "redis://127.0.0.1:{redis}", timeout = "5s", prefix = "ours" }},
      backend_servers = data.servers,
    }})
  }}
  init_worker_by_lua_block {{
    nb.start()
  }}
"""

SERVER = """
    location /module {
      access_by_lua_block {
        local server, how = nb.route(data.users[data.turn()], { protocol = "imap" })
        ngx.header["Auth-Server"] = server.ip
        ngx.header["Auth-Port"] = server.port
        ngx.header["X-How"] = how
      }
      content_by_lua_block { ngx.exit(204) }
    }
    location /resty {
      access_by_lua_block {
        local server, how = data.login(data.turn())
        ngx.header["Auth-Server"] = server.ip
        ngx.header["Auth-Port"] = server.port
        ngx.header["X-How"] = how
      }
      content_by_lua_block { ngx.exit(204) }
    }
    location /load {
      content_by_lua_block {
        local connection = require("nginx.redis"):new()
        assert(connection:connect("127.0.0.1", ngx.var.arg_port))
        data.sha = assert(connection:script("LOAD", data.script))
        ngx.print(data.sha)
      }
    }
    location /hows {
      content_by_lua_block {
        for how, count in nb.metrics():gmatch('nauthilus_backend_routes_total{how="(%a+)"} (%d+)') do
          ngx.say(how, " ", count)
        end
      }
    }
    location /count { stub_status; }
"""


def lua_strings(texts):
    return "{ " + ", ".join(json.dumps(text) for text in texts) + " }"


def data(redis, ports):
    """The text of DATA for these ports."""
    users = [f"user{number:04d}@example.org" for number in range(USERS)]
    servers = ", ".join(f'{{ protocol = "imap", host = "127.0.0.1", port = {port}, node = "node{number}" }}'
                        for number, port in enumerate(ports, 1))
    return DATA.format(
        redis=redis, servers=servers, users=lua_strings(users), count=USERS, nodes=NODES,
        digests=lua_strings(hashlib.sha256(user.encode()).hexdigest() for user in users),
        script=(SCRIPTS / "common.lua").read_text() + (SCRIPTS / "login.lua").read_text(),
    )


def thread_cpu(pid, name):
    """Seconds of CPU of the threads with this name."""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == name:
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def measure(rows):
    # Imported here: only this part needs what the tests of nginx need.
    from lab import Backend, Nginx, all_cpu, main_thread_cpu, until, wrk  # pylint: disable=import-outside-toplevel
    from redis import Servers  # pylint: disable=import-outside-toplevel

    if not RESTY.exists():
        raise Unmeasured("lua-resty-redis is not installed (Debian's package lua-nginx-redis)")
    with tempfile.TemporaryDirectory(prefix="nb-bench-") as folder:
        servers = Servers(folder)
        backends = [Backend() for _ in range(NODES)]
        redis = servers.start("redis")["port"]
        nginx = Nginx(http=HTTP.format(redis=redis), server=SERVER)
        nginx.lua("data", data(redis, [backend.port for backend in backends]))
        try:
            worker = nginx.start().workers()[0]
            nginx.body(f"/load?port={redis}")
            # Binds each user.
            for name in ("module", "resty"):
                wrk(f"http://127.0.0.1:{nginx.port}/{name}", 2, CONNECTIONS)
                until(lambda n=name: nginx.get(f"/{n}")[1]["X-How"] == "bound", what=f"{name}: bound")

            def count():
                return int(nginx.body("/count").splitlines()[2].split()[2])

            def now():
                return main_thread_cpu(worker), all_cpu(worker), thread_cpu(worker, "nb-engine"), count()

            def run(name):
                """Worker, total, engine: µs a login; p99 in ms; logins a second."""
                before = now()
                rate, percentiles, said = wrk(f"http://127.0.0.1:{nginx.port}/{name}", SECONDS, CONNECTIONS)
                *cpu, requests = (b - a for a, b in zip(before, now()))
                if re.search("Non-2xx|Socket errors", said):
                    raise Unmeasured(f"{name}: {said}")
                return (*(seconds / requests * 1e6 for seconds in cpu), percentiles[99], rate)

            runs = {"module": [], "resty": []}
            for _ in range(RUNS):
                for name, all_runs in runs.items():
                    all_runs.append(run(name))
            hows = dict(line.split() for line in nginx.body("/hows").splitlines())
            nginx.assert_clean()
        finally:
            nginx.close()
            servers.stop_all()
            for backend in backends:
                backend.down()
    if others := {how: number for how, number in hows.items() if how not in ("new", "bound") and int(number)}:
        raise Unmeasured(f"logins were answered without Redis: {others}")
    ours, theirs = (list(zip(*runs[name])) for name in ("module", "resty"))
    rows["store_worker"].pairs(ours[0], theirs[0])
    rows["store_total"].pairs(ours[1], theirs[1])
    rows["store_p99"].pairs(ours[3], theirs[3])
    rows["store_engine"].alone(ours[2])
    rates = [sorted(one[4])[len(one[4]) // 2] for one in (ours, theirs)]
    rows["store_worker"].note = f"{rates[0]:.0f} logins a second, by lua-resty-redis {rates[1]:.0f}, {CONNECTIONS} at a time"
