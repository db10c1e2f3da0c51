#!/usr/bin/env python3
"""nginx with bindings in a real Redis: reloads and a binary upgrade under load change no user's node, and leave no
connection, descriptor or thread behind. Prints TAP."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "openresty"))
from lab import (Backend, Nginx, alive, children, descriptors, equal, free_port, own_threads, run_for,
                 run_tests, test, until)
import redis

SERVERS = redis.Servers(tempfile.mkdtemp(prefix="nb-lives-"))
USERS = 20
WORKERS = 2

HTTP = """
  init_by_lua_block {{
    nb = require("nauthilus_backend")
    nb.configure({{
      log = "none", node_down_after = 0, connect_timeout = "5s",
      cluster = {{ redis = "redis://127.0.0.1:{redis}", timeout = "10s", retention = "{retention}" }},
      backend_servers = {{
        {{ protocol = "imap", host = "127.0.0.1", port = {a}, node = "a" }},
        {{ protocol = "imap", host = "127.0.0.1", port = {b}, node = "b" }},
      }},
    }})
  }}
"""

SERVER = """
    location /route { access_by_lua_block {
      local server, how = nb.route(ngx.var.arg_user)
      ngx.header["X-User"] = ngx.var.arg_user
      ngx.print(server and server.node or "nil", " ", how)
      ngx.exit(200)
    } }
    location /worker { content_by_lua_block { ngx.print(ngx.worker.pid()) } }
"""

# wrk asks for users whose nodes are known; the answer has the name of the user, since it comes out of order.
LOAD = """
local nodes = { %s }
local user, wrong = 0, 0
function request()
  user = user %% #nodes + 1
  return wrk.format("GET", "/route?user=user" .. user)
end
function response(status, headers, body)
  local of = tonumber((headers["X-User"] or ""):match("%%d+"))
  if status ~= 200 or not of or body ~= nodes[of] .. " bound" then
    wrong = wrong + 1
    if wrong < 5 then io.stderr:write("got ", status, " ", body, "\\n") end
  end
end
"""


def cli(*words):
    return SERVERS.cli("one", "\t".join(words))["text"]


def connections():
    """How many clients are connected to Redis, but for the one that asks."""
    return len(re.findall(r"^id=", cli("CLIENT", "LIST"), re.M)) - 1


def node_of(nginx, user):
    return nginx.body(f"/route?user=user{user}").split()


def all_nodes(nginx):
    return [node_of(nginx, user)[0] for user in range(1, USERS + 1)]


def each_worker_answers(nginx, what):
    """Asks until each worker has routed somebody."""
    answered = set()

    def all_answered():
        answered.add(int(nginx.body("/worker")))
        node_of(nginx, 1)
        return answered >= set(nginx.workers())

    until(all_answered, 60, what)


def lives():
    port = SERVERS.start("one")["port"]
    backends = [Backend(port=free_port()) for _ in range(2)]

    def http(retention="1h"):
        return HTTP.format(redis=port, a=backends[0].port, b=backends[1].port, retention=retention)

    nginx = Nginx(workers=WORKERS, http=http(), server=SERVER).start()
    nodes = all_nodes(nginx)
    with test("bindings are used by all workers, over one connection of each"):
        equal(set(nodes), {"a", "b"}, "nodes")
        each_worker_answers(nginx, "an answer of each worker")
        until(lambda: connections() == WORKERS, 60, f"{WORKERS} connections, got {connections()}")
        equal(own_threads(nginx.master()), [], "threads of the master")
    master, first = nginx.master(), descriptors(nginx.master())
    held = sorted(map(descriptors, nginx.workers()))
    times = int(run_for(6))
    with test(f"{times} reloads under load: no user's node changes, every answer is the binding, nothing leaks"):
        script = nginx.dir / "load.lua"
        script.write_text(LOAD % ", ".join(f'"{node}"' for node in nodes))
        load = subprocess.Popen(
            ["wrk", "-t1", "-c4", "-d600s", "-s", str(script), f"http://127.0.0.1:{nginx.port}/"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        old = set()
        for index in range(times):
            old |= set(nginx.workers())
            # Each other one has another configuration.
            nginx.configure(http=http(f"{index % 2 + 1}h"))
            nginx.reload()
            each_worker_answers(nginx, "an answer of each new worker")
            equal(all_nodes(nginx), nodes, "nodes after a reload")
        load.send_signal(signal.SIGINT)
        output, errors = load.communicate(timeout=60)
        equal(errors, "", "wrong answers")
        requests = int(re.search(r"(\d+) requests in", output).group(1))
        print(f"# {requests} routes meanwhile")
        assert requests > 100 and "Non-2xx" not in output, output
        until(lambda: not any(map(alive, old)), 60, "the end of old workers")
        until(lambda: connections() == WORKERS, 60, f"{WORKERS} connections")
        until(lambda: descriptors(master) <= first, 60, f"{first} descriptors of the master")
        # wrk's connections are closed as the workers hear of their end.
        until(lambda: sorted(map(descriptors, nginx.workers())) <= held, 60, f"{held} descriptors of workers")
        equal(own_threads(master), [], "threads of the master")
        for pid in nginx.workers():
            assert set(own_threads(pid)) <= {"nb-engine", "nb-wake"} and len(own_threads(pid)) <= 2, own_threads(pid)
        equal(len(children(master)), WORKERS, "children of the master")
        nginx.assert_clean()
    with test("a binary upgrade changes no user's node, and the old workers' connections end"):
        os.kill(master, signal.SIGUSR2)
        until(lambda: nginx.master() not in (0, master), 60, "a new master")
        until(lambda: len(nginx.workers()) == WORKERS, 60, "new workers")
        # Both masters' workers answer now.
        for _ in range(3):
            equal(all_nodes(nginx), nodes, "nodes with both")
        os.kill(master, signal.SIGQUIT)
        until(lambda: not alive(master), 60, "the old master's end")
        each_worker_answers(nginx, "an answer of each new worker")
        equal(all_nodes(nginx), nodes, "nodes after the upgrade")
        until(lambda: connections() == WORKERS, 60, f"{WORKERS} connections")
        equal(own_threads(nginx.master()), [], "threads of the new master")
        nginx.assert_clean()
    with test("a worker that is killed is replaced by one that obeys the bindings"):
        victim = nginx.workers()[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in nginx.workers() and len(nginx.workers()) == WORKERS, 60, "a new worker")
        each_worker_answers(nginx, "an answer of each worker")
        equal(all_nodes(nginx), nodes, "nodes")
        until(lambda: connections() == WORKERS, 60, f"{WORKERS} connections")
    with test("nginx stops at once while Redis is frozen, with logins that wait"):
        SERVERS.freeze("one")
        waiting = [
            subprocess.Popen(["curl", "-s", f"http://127.0.0.1:{nginx.port}/route?user=user{user}"], stdout=subprocess.DEVNULL)
            for user in range(1, 5)
        ]
        time.sleep(0.1)
        took = nginx.stop()
        assert took < 8, took
        SERVERS.thaw("one")
        for one in waiting:
            one.wait(60)
        until(lambda: connections() == 0, 60, "no connection")
        nginx.assert_clean(allowed="exited on signal 9")


try:
    run_tests(lives)
finally:
    SERVERS.stop_all()
    subprocess.run(["rm", "-rf", SERVERS.folder], check=False)
