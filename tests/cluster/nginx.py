#!/usr/bin/env python3
"""route() with a store in a real nginx: it waits without blocking the worker, and says where it cannot. Prints TAP."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "spec/support"), str(ROOT / "tests/lib")]
import control
import redis
from tap import check

CONFIGURATION = """
load_module /usr/lib/nginx/modules/ndk_http_module.so;
load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;
daemon off; worker_processes 1; error_log {folder}/error.log info; pid {folder}/pid;
events {{ worker_connections 256; }}
http {{
  access_log off;
  lua_package_cpath "{root}/build/luajit/?.so;;";
  init_by_lua_block {{
    require("nauthilus_backend").configure({{
      log = "none", node_down_after = 0,
      cluster = {{ redis = "redis://127.0.0.1:{redis}", timeout = "5s" }},
      backend_servers = {{ {servers} }},
    }})
  }}
  server {{
    listen 127.0.0.1:{port};
    location /route {{
      access_by_lua_block {{
        local server, how = require("nauthilus_backend").route(ngx.var.arg_user)
        ngx.say(server and server.node or "nil", " ", how)
        ngx.exit(200)
      }}
    }}
    location /late {{
      content_by_lua_block {{
        while not io.open("{folder}/go") do
          ngx.sleep(0.1)
        end
        local server, how = require("nauthilus_backend").route(ngx.var.arg_user)
        ngx.say(server and server.node or "nil", " ", how)
      }}
    }}
    location /set {{
      set_by_lua_block $problem {{ return select(2, pcall(require("nauthilus_backend").route, "x")) }}
      content_by_lua_block {{ ngx.say(ngx.var.problem) }}
    }}
    location /other {{ return 200 other; }}
  }}
}}
"""


SERVERS = {
    "a": '{{ protocol = "imap", host = "127.0.0.1", port = {redis}, node = "a" }},',
    "b": '{{ protocol = "imap", host = "127.0.0.1", port = {redis}, node = "b", tls_skip_verify = true }},',
}


def main():
    folder = tempfile.mkdtemp(prefix="nauthilus-backend-")
    os.chmod(folder, 0o755)
    servers = redis.Servers(folder)
    store, port = servers.start("one")["port"], control.free_port()
    path = os.path.join(folder, "nginx.conf")

    def configure(nodes):
        servers_of_nodes = "".join(SERVERS[node].format(redis=store) for node in nodes)
        text = CONFIGURATION.format(folder=folder, root=ROOT, redis=store, port=port, servers=servers_of_nodes)
        pathlib.Path(path).write_text(text, encoding="utf-8")

    def registered():
        machines = servers.cli("one", "KEYS\t{nauthilus_backend}:machines:*")["text"].split()
        texts = [servers.cli("one", f"HGET\t{machine}\tnodes")["text"] for machine in machines]
        return ["".join(line.split("\t")[0] for line in text.split("\n")) for text in texts]

    configure("ab")
    nginx = subprocess.Popen(["nginx", "-p", folder, "-c", path], stderr=subprocess.DEVNULL, preexec_fn=redis.die_with_parent)

    def get(uri):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{uri}", timeout=60) as answer:
            return answer.read().decode().strip()

    passed = []
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                get("/other")
                break
            except OSError:
                time.sleep(0.01)
        first = get("/route?user=alice")
        node = first.split()[0]
        passed.append(check("the first login binds", first in ("a new", "b new"), first))
        again = get("/route?user=alice")
        passed.append(check("the second one meets the binding", again == f"{node} bound", again))
        problem = get("/set")
        passed.append(check("a phase that cannot wait is named", problem == "route: cannot wait in nginx's phase 'set'", problem))
        servers.freeze("one")
        waiting = subprocess.Popen(["curl", "-s", f"http://127.0.0.1:{port}/route?user=alice"], stdout=subprocess.PIPE, text=True)
        time.sleep(0.2)
        other = get("/other")
        is_waiting = waiting.poll() is None
        passed.append(check("the worker serves others while a login waits", other == "other" and is_waiting, (other, is_waiting)))
        kept = waiting.communicate(timeout=60)[0].strip()
        passed.append(check("the login is answered from memory", kept == f"{node} remembered", kept))
        servers.thaw("one")
        end, last = time.monotonic() + 60, ""
        while time.monotonic() < end and last != f"{node} bound":
            last = get("/route?user=alice")
        passed.append(check("bindings are obeyed again", last == f"{node} bound", last))
        other = "b" if node == "a" else "a"
        # A request keeps the old worker, as a session does in the mail proxy.
        held = subprocess.Popen(["curl", "-s", f"http://127.0.0.1:{port}/late?user=alice"], stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)
        configure(other)
        nginx.send_signal(signal.SIGHUP)
        end = time.monotonic() + 60
        while time.monotonic() < end and registered() != [other]:
            # The first login starts the engine of the new worker.
            get("/route?user=zoe")
        # The old worker would register within 3 s.
        end, seen = time.monotonic() + 7, set()
        while time.monotonic() < end:
            seen.add(tuple(registered()))
            time.sleep(0.05)
        is_held = held.poll() is None
        passed.append(check("after a reload the new nodes alone are registered", seen == {(other,)} and is_held, (seen, is_held)))
        pathlib.Path(folder, "go").touch()
        late = held.communicate(timeout=60)[0].strip()
        passed.append(check("while the old worker answers its logins", late == f"{node} bound", late))
    finally:
        nginx.terminate()
        try:
            nginx.wait(30)
        except subprocess.TimeoutExpired:
            nginx.kill()
        servers.stop_all()
        subprocess.run(["rm", "-rf", folder], check=False)
    return 0 if all(passed) and len(passed) == 8 else 1


if __name__ == "__main__":
    sys.exit(main())
