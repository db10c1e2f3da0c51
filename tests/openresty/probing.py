"""An nginx whose workers share an engine, and who of them probes."""

from lab import lua_servers, own_threads

STATUS = """
    location /list { content_by_lua_block {
      local ports = {}
      for _, server in ipairs(nb.get_backend_servers()) do ports[#ports + 1] = server.port end
      ngx.print(table.concat(ports, " "))
    } }
    location /status { content_by_lua_block {
      for _, target in ipairs(nb.status().targets) do
        ngx.say(target.port, " ", target.verdict, " ", target.probes)
      end
    } }
    location /worker { content_by_lua_block { ngx.print(ngx.worker.pid()) } }
    # Answers only when a file of this name exists.
    location /hold { content_by_lua_block {
      ngx.log(ngx.NOTICE, "holds a request")
      repeat
        ngx.sleep(0.05)
        local file = io.open(ngx.var.arg_until)
      until file
      ngx.say("held")
    } }
    location /check { content_by_lua_block {
      ngx.say(nb.check_backend_connection("127.0.0.1", tonumber(ngx.var.arg_port), false, false) or "good")
    } }
    # A check of a server that says nothing.
    location /silent { content_by_lua_block {
      ngx.say(nb.check_backend_connection("127.0.0.1", tonumber(ngx.var.arg_port), false, true,
        { tls_timeout = ngx.var.arg_timeout or "30s", coalesce = false }))
    } }
"""

START = "  init_worker_by_lua_block { nb.get_backend_servers() }\n"


def config(ports, keys="", deep=True, start=START):
    servers = lua_servers(ports, deep_check="true" if deep else "false")
    return f"""
  init_by_lua_block {{
    nb = require("nauthilus_backend")
    nb.configure({{ log = "none", {keys} backend_servers = {servers} }})
  }}
{start}"""


def probers(nginx):
    """Workers that probe: only the prober has a thread that waits for reports."""
    return [pid for pid in nginx.workers() if "nb-wake" in own_threads(pid)]


def the_prober(nginx, *but):
    found = [pid for pid in probers(nginx) if pid not in but]
    return found[0] if len(found) == 1 else 0


def status(nginx):
    rows = (line.split() for line in nginx.body("/status").splitlines())
    return {int(port): (verdict, int(probes)) for port, verdict, probes in rows}
