"""Host names in nginx, which accepts only addresses at run time: the module resolves them while nginx reads
its configuration."""

import subprocess

from lab import Backend, Nginx, equal, run_tests, test, until

LIST = """
    location /ips { content_by_lua_block {
      local ips = {}
      for _, server in ipairs(nb.get_backend_servers()) do ips[#ips + 1] = server.ip .. ":" .. server.port end
      ngx.print(table.concat(ips, " "))
    } }
    location /ready { content_by_lua_block { ngx.print(tostring(nb.wait_ready(10))) } }
"""


def config(servers):
    listed = ", ".join(f'{{ protocol = "imap", host = "{host}", port = {port} }}' for host, port in servers)
    return f"""
  init_by_lua_block {{
    nb = require("nauthilus_backend")
    -- Nobody probes before the first request: the list is what the configuration found.
    nb.configure({{ log = "none", connect_interval = "1h", initial_state = "alive",
      backend_servers = {{ {listed} }} }})
    local first = nb.get_backend_servers()
    at_once = #first .. " " .. (first[1] and first[1].ip or "none")
  }}
"""


def test_names():
    one, two = Backend(), Backend()
    nginx = Nginx(
        http=config([("localhost", one.port), ("no-such-server.invalid", 143), ("127.0.0.1", two.port)]),
        server=LIST + "location /at_once { content_by_lua_block { ngx.print(at_once) } }",
    )
    nginx.start()
    with test("a name has its address before the first request, and one without is not listed"):
        equal(nginx.body("/at_once"), "2 127.0.0.1", "the master's list")
        equal(nginx.body("/ips"), f"127.0.0.1:{one.port} 127.0.0.1:{two.port}", "the first request's list")
    with test("wait_ready waits for the rest"):
        equal(nginx.body("/ready"), "true")
        equal(nginx.body("/ips"), f"127.0.0.1:{one.port} 127.0.0.1:{two.port}", "the list")
    with test("a reload with the same configuration looks up again, and keeps the list"):
        nginx.reload()
        until(lambda: nginx.body("/ips") == f"127.0.0.1:{one.port} 127.0.0.1:{two.port}", what="the list")
    with test("the master has no thread of ours"):
        names = subprocess.run(["ps", "-L", "-o", "comm=", "-p", str(nginx.master())],
                               capture_output=True, text=True, check=True).stdout
        assert "nb-" not in names, names
    nginx.assert_clean()
    nginx.stop()


run_tests(test_names)
