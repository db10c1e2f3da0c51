"""Each function in each phase of nginx: the table of docs/hosts.md, cell by cell."""

import socket
import ssl
import subprocess

from lab import Backend, Nginx, Silent, check, equal, finish, free_port, lua_servers, test, until

# What each phase may do. "wait": yields; "headers": sets response headers.
# Where it may not, the error names the phase, or says that the headers were sent.
PHASES = {
    #                 wait,  headers
    "init": (False, "request"),
    "init_worker": (False, "request"),
    "set": (False, True),
    "server_rewrite": (True, True),
    "rewrite": (True, True),
    "access": (True, True),
    "content": (True, True),
    "header_filter": (False, True),
    "body_filter": (False, "sent"),
    "log": (False, "sent"),
    "balancer": (False, True),
    "timer": (True, "request"),
    "ssl_cert": (True, "request"),
    "ssl_client_hello": (False, "request"),
    "ssl_session_store": (False, "request"),
    "ssl_session_fetch": (False, "request"),
    "exit_worker": (False, "request"),
}

CELLS = r"""
local nb = require("nauthilus_backend")
local port, silent = %d, %d

-- What a call did: "ok", what it returned, or the error it raised.
local function outcome(ok, value)
  if not ok then
    return type(value) == "string" and "raised: " .. value or "raised a " .. type(value)
  end
  return tostring(value)
end

local calls = {
  get_backend_servers = function() return #nb.get_backend_servers() end,
  select_backend_server = function() nb.select_backend_server("127.0.0.1", 143) return "ok" end,
  apply_backend_result = function()
    local result = nauthilus_backend_result.new()
    result:attributes({ phase = ngx.get_phase() })
    nb.apply_backend_result(result)
    return "ok"
  end,
  remove_from_backend_result = function() nb.remove_from_backend_result({ "absent" }) return "ok" end,
  get_selected_backend_server = function() return (nb.get_selected_backend_server()) end,
  check_backend_connection = function() local got = nb.check_backend_connection("127.0.0.1", port, false, false) return got end,
  ["check:wait"] = function()
    -- What is done already needs no wait: this one never is.
    local check = nb.start_check("127.0.0.1", silent, false, true, { tls_timeout = "1m" })
    local got = check:wait(0.01)
    check:cancel()
    return got
  end,
  start_check = function() local check = nb.start_check("127.0.0.1", port, false, false) return type(check) end,
  wait_ready = function() local got = nb.wait_ready(5) return got end,
  report_failure = function() return nb.report_failure("127.0.0.1", port) end,
  status = function() return type(nb.status().targets) end,
  is_health_check = function() return nb.is_health_check("nobody") end,
  new_context = function() return nb.with_context(nb.new_context(), function()
    nb.select_backend_server("127.0.0.1", 993)
    return select(2, nb.get_selected_backend_server())
  end) end,
}

return function(phase)
  local names = {}
  for name in pairs(calls) do names[#names + 1] = name end
  table.sort(names)
  local lines = { "phase=" .. ngx.get_phase() }
  for _, name in ipairs(names) do
    lines[#lines + 1] = name .. "=" .. outcome(pcall(calls[name])):gsub("\n", " ")
  end
  local file = assert(io.open("%s/cells." .. phase, "w"))
  file:write(table.concat(lines, "\n"), "\n")
  file:close()
end
"""


def make():
    backend, silent = Backend(), Silent()
    tls_port = free_port()
    nginx = Nginx()
    nginx.dir.chmod(0o777)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        + ["-keyout", f"{nginx.dir}/key.pem", "-out", f"{nginx.dir}/cert.pem", "-subj", "/CN=localhost"],
        check=True,
        capture_output=True,
    )
    nginx.lua("cells", CELLS % (backend.port, silent.port, nginx.dir))
    nginx.configure(
        http=f"""
  init_by_lua_block {{
    require("nauthilus_backend").configure({{
      log = "none", connect_interval = "300ms", backend_servers = {lua_servers([backend.port])},
    }})
    require("cells")("init")
  }}
  init_worker_by_lua_block {{ require("cells")("init_worker") }}
  exit_worker_by_lua_block {{ require("cells")("exit_worker") }}
  upstream balanced {{
    server 0.0.0.1;
    balancer_by_lua_block {{
      require("cells")("balancer")
      require("ngx.balancer").set_current_peer("127.0.0.1", {nginx.port})
    }}
  }}
  server {{
    listen 127.0.0.1:{tls_port} ssl;
    ssl_certificate {nginx.dir}/cert.pem;
    ssl_certificate_key {nginx.dir}/key.pem;
    # With TLS 1.3 or tickets the server keeps no sessions, so nginx does not run this phase.
    ssl_protocols TLSv1.2;
    ssl_session_tickets off;
    ssl_client_hello_by_lua_block {{ require("cells")("ssl_client_hello") }}
    ssl_certificate_by_lua_block {{ require("cells")("ssl_cert") }}
    return 200;
  }}
  ssl_session_store_by_lua_block {{ require("cells")("ssl_session_store") }}
  ssl_session_fetch_by_lua_block {{ require("cells")("ssl_session_fetch") }}
""",
        server="""
    server_rewrite_by_lua_block { require("cells")("server_rewrite") }
    location /phases {
      set_by_lua_block $unused { require("cells")("set") return "" }
      rewrite_by_lua_block { require("cells")("rewrite") }
      access_by_lua_block { require("cells")("access") }
      content_by_lua_block { require("cells")("content") ngx.say("body") }
      header_filter_by_lua_block { require("cells")("header_filter") }
      body_filter_by_lua_block { require("cells")("body_filter") }
      log_by_lua_block { require("cells")("log") }
    }
    location /timer {
      content_by_lua_block {
        assert(ngx.timer.at(0, function() require("cells")("timer") end))
      }
    }
    location /balancer { proxy_pass http://balanced/ok; }
    location /ok { return 200; }
""",
    )
    return (backend, silent), nginx, tls_port


def wanted(name, phase):
    """What the cell of a function and a phase must hold: a predicate and its words."""
    waits, headers = PHASES[phase]
    if name == "get_backend_servers":
        return lambda got: got == "1", "1 server"
    if name in ("select_backend_server", "apply_backend_result", "remove_from_backend_result"):
        if headers is True:
            return lambda got: got == "ok", "ok"
        words = "no request" if headers == "request" else "headers were already sent"
        return (
            lambda got: got.startswith("raised: ") and words in got and f"'{phase}'" in got
            and "cells.lua:" in got and name in got,
            f"an error at cells.lua with '{words}' and '{phase}'",
        )
    if name == "get_selected_backend_server":
        if headers == "request":
            return lambda got: "no request" in got and f"'{phase}'" in got, "no request"
        return lambda got: got in ("127.0.0.1", "nil"), "an address or nil"
    if name == "check:wait" and phase == "init":
        return lambda got: "starts no thread" in got, "refused"
    if name in ("check_backend_connection", "check:wait"):
        if waits:
            return lambda got: got == "nil", "nil"
        return (
            lambda got: "cannot wait" in got and f"'{phase}'" in got and "cells.lua:" in got,
            "an error with the phase",
        )
    if name == "wait_ready":
        if waits:
            return lambda got: got == "true", "true"
        # All verdicts are there: nothing is waited for.
        return lambda got: got == "true" or ("cannot wait" in got and f"'{phase}'" in got), "true or the phase"
    if name == "start_check":
        if phase == "init":
            return lambda got: "starts no thread" in got, "refused"
        return lambda got: got == "table", "a check"
    return {
        "report_failure": (lambda got: got == "true", "true"),
        "status": (lambda got: got == "table", "table"),
        "is_health_check": (lambda got: got == "false", "false"),
        "new_context": (lambda got: got == "993", "993"),
    }[name]


def cells(nginx, phase):
    path = nginx.dir / f"cells.{phase}"
    text = until(lambda: path.exists() and path.read_text(), what=f"{path}\n{nginx.log()[-2000:]}")
    return dict(line.split("=", 1) for line in text.splitlines())


def main():
    _peers, nginx, tls_port = make()
    try:
        nginx.start()
    except AssertionError as problem:
        if "server_rewrite" not in str(problem):
            raise
        # lua-nginx-module before 0.10.22
        nginx.configure(server=nginx.server.replace('server_rewrite_by_lua_block { require("cells")("server_rewrite") }', ""))
        PHASES.pop("server_rewrite")
        nginx.start()
    nginx.get("/phases")
    nginx.get("/timer")
    nginx.get("/balancer")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    session = None
    for _ in range(2):
        # The second connection offers the session of the first.
        with socket.create_connection(("127.0.0.1", tls_port), 10) as plain:
            with context.wrap_socket(plain, server_hostname="localhost", session=session) as connection:
                session = connection.session
    until(lambda: (nginx.dir / "cells.timer").exists(), what="the timer")
    nginx.stop()
    for phase in PHASES:
        got = cells(nginx, phase)
        with test(f"the phase is {phase}"):
            equal(got.pop("phase"), phase)
        for name, value in got.items():
            right, words = wanted(name, phase)
            check(f"{name} in {phase}", right(value), f"got {value}, wanted {words}")
    with test("nothing bad was logged in any phase"):
        nginx.assert_clean()
    finish()


main()
