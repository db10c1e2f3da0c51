"""The request context in nginx: one per request, and its headers at once."""

import concurrent.futures
import http.client
import pathlib
import socket
import subprocess
import time

from lab import Backend, Nginx, equal, finish, free_port, init_block, run_for, test, until, wrk

LIBRARY = """
-- What libraries do: the module's functions are kept when they load, once for all requests.
local nb = require("nauthilus_backend")
local select_server, apply = nb.select_backend_server, nb.apply_backend_result
return function(port, user)
  select_server("192.0.2.1", port)
  local result = nauthilus_backend_result.new()
  result:attributes({ user = user })
  ngx.sleep(math.random() / 100)
  apply(result)
end
"""

SERVER = """
    # Each request selects and applies what its arguments say, yields in between, and says what
    # its context holds at the end.
    location /own {
      access_by_lua_block {
        require("library")(ngx.var.arg_port, ngx.var.arg_user)
      }
      content_by_lua_block {
        ngx.sleep(math.random() / 100)
        local ip, port = nb.get_selected_backend_server()
        ngx.say(ip, " ", port, " ", nb.context():attributes().user)
      }
    }

    # nginx runs no access phase for subrequests.
    location /inner {
      rewrite_by_lua_block { require("library")(ngx.var.arg_port, ngx.var.arg_user) }
      content_by_lua_block {
        local ip, port = nb.get_selected_backend_server()
        ngx.say(ip, " ", port, " ", nb.context():attributes().user)
      }
    }

    location /sub {
      content_by_lua_block {
        nb.select_backend_server("192.0.2.1", 1)
        local inner = ngx.location.capture("/inner?port=2&user=inner")
        local ip, port = nb.get_selected_backend_server()
        ngx.say(inner.header["Auth-Port"], " ", inner.body:gsub("\\n", ""), ", ", port, " ",
          tostring(nb.context():attributes().user), " ", ngx.header["Auth-Port"])
      }
    }

    location /redirect {
      rewrite_by_lua_block {
        nb.select_backend_server("192.0.2.1", 1)
        ngx.exec("/after")
      }
    }
    location /kept_redirect {
      rewrite_by_lua_block {
        local result = nauthilus_backend_result.new()
        result:attributes({ user = ngx.var.arg_user })
        local context = nb.context()
        nb.apply_backend_result(result)
        assert(context:attributes().user == ngx.var.arg_user and context == nb.context())
        if ngx.var.arg_on then ngx.exec("/kept_after") end
      }
      content_by_lua_block { ngx.say("stayed") }
    }
    location /kept_after {
      content_by_lua_block {
        nb.select_backend_server("192.0.2.1", 7)
        nb.remove_from_backend_result({ "user" })
        ngx.say(nb.context():attributes().user, " ", (select(2, nb.get_selected_backend_server())), " ",
          #nb.get_removed_backend_attributes())
      }
    }
    location /after {
      content_by_lua_block {
        ngx.say(tostring(nb.get_selected_backend_server()), " ", ngx.header["Auth-Port"])
      }
    }

    location /headers {
      content_by_lua_block {
        local result = nauthilus_backend_result.new()
        result:attributes({ hostip = "192.0.2.7", uid = 1000, many = { "a", "b" } })
        nb.apply_backend_result(result)
        nb.select_backend_server("[2001:db8::1]", "993")
        nb.select_backend_server("2001:db8::2", 994)
        ngx.header["X-Nauthilus-Foreign"] = "x"
        nb.remove_from_backend_result({ "foreign" })
        result:attributes({ uid = 1001 })
        nb.apply_backend_result(result)
        ngx.say("done")
      }
    }

    location /refused {
      content_by_lua_block {
        nb.select_backend_server("192.0.2.1", 143)
        local function refused(f, ...)
          local ok, why = pcall(f, ...)
          assert(not ok and type(why) == "string", tostring(why))
        end
        refused(nb.select_backend_server, "192.0.2.1", 70000)
        refused(nb.select_backend_server, "bad host", 143)
        local result = nauthilus_backend_result.new()
        result:attributes({ evil = "a\\r\\nX-Evil: 1" })
        refused(nb.apply_backend_result, result)
        ngx.say(nb.get_selected_backend_server())
      }
    }

    location /sent {
      content_by_lua_block {
        ngx.say("begun")
        ngx.flush(true)
        local ok, why = pcall(nb.select_backend_server, "192.0.2.1", 143)
        ngx.say(tostring(ok), " ", why)
        ngx.say(tostring(nb.get_selected_backend_server()))
      }
    }

    location /with_context {
      content_by_lua_block {
        local context = nb.new_context()
        local function inner()
          nb.select_backend_server("192.0.2.9", 9)
          ngx.sleep(0.01)
          return select(2, nb.get_selected_backend_server())
        end
        local thread = ngx.thread.spawn(function()
          nb.select_backend_server("192.0.2.1", 1)
          ngx.sleep(0.005)
          return select(2, nb.get_selected_backend_server())
        end)
        local port = nb.with_context(context, inner)
        local _, other = ngx.thread.wait(thread)
        ngx.say(port, " ", other, " ", select(2, context:selected()), " ", ngx.header["Auth-Port"])
      }
    }

    # nginx does not return from these functions, and uses their coroutine for a later handler.
    location /left {
      access_by_lua_block {
        if ngx.var.arg_by ~= "nothing" then
          nb.with_context(nb.new_context(), function()
            nb.select_backend_server("192.0.2.66", 666)
            local ways = {
              exit = function() ngx.exit(403) end,
              ok = function() ngx.exit(ngx.OK) end,
              redirect = function() ngx.redirect("/fresh") end,
              exec = function() ngx.exec("/left?by=nothing") end,
              kill = function()
                ngx.thread.kill(ngx.thread.spawn(function()
                  nb.with_context(nb.new_context(), function()
                    nb.select_backend_server("192.0.2.67", 667)
                    ngx.sleep(60)
                  end)
                end))
                ngx.exit(ngx.OK)
              end,
            }
            ways[ngx.var.arg_by]()
          end)
        end
      }
      content_by_lua_block {
        local before = nb.get_selected_backend_server()
        nb.select_backend_server("192.0.2.1", 143)
        ngx.say(tostring(before))
      }
    }

    # A script may replace the table `ngx.ctx`.
    location /swapped {
      content_by_lua_block {
        nb.select_backend_server("192.0.2.1", 1)
        ngx.ctx = {}
        ngx.say((select(2, nb.get_selected_backend_server())))
      }
    }

    # What the log phase is told, and that it can decide nothing any more. `kept` are contexts that
    # scripts asked for, there or before.
    location /logged {
      content_by_lua_block {
        local port = tonumber(ngx.var.arg_port)
        if port then nb.select_backend_server("192.0.2.1", port) end
        if ngx.var.arg_keep == "content" then keep(nb.context(), port) end
        if ngx.var.arg_sub then ngx.location.capture("/inner?port=60000&user=inner") end
        local late = tonumber(ngx.var.arg_late)
        if late then nb.select_backend_server("192.0.2.1", late) end
        if ngx.var.arg_abort then ngx.sleep(0.2) end
        if ngx.var.arg_fail then error("as asked for") end
        ngx.say("done")
      }
      log_by_lua_block {
        local ip, port = nb.get_selected_backend_server()
        local context = nb.context()
        assert(context == nb.context())
        assert(select(2, context:selected()) == port)
        if ngx.var.arg_keep == "log" then keep(context, port) end
        local refused = not pcall(nb.select_backend_server, "192.0.2.9", 9)
        last_logged = tostring(port) .. " " .. tostring(refused)
      }
    }
    location /last_logged {
      content_by_lua_block {
        for _, one in ipairs(kept) do
          assert(select(2, one.context:selected()) == one.port)
        end
        ngx.say(last_logged)
      }
    }

    # A context that a script has been given does not change, whatever later requests do.
    location /keep {
      content_by_lua_block {
        local kept = package.loaded.kept or {}
        package.loaded.kept = kept
        local port = tonumber(ngx.var.arg_port)
        nb.select_backend_server("192.0.2.1", 1)
        kept[#kept + 1] = { context = nb.context(), port = port }
        assert(nb.context() == kept[#kept].context)
        nb.select_backend_server("192.0.2.1", port)
        for _, one in ipairs(kept) do
          assert(select(2, one.context:selected()) == one.port)
        end
        ngx.say("as they were")
      }
    }

    # Nothing of a request that has ended is in the next one, even while that one is in progress.
    location /clean {
      content_by_lua_block {
        local before = tostring(nb.get_selected_backend_server())
        local removed, groups = #nb.get_removed_backend_attributes(), nb.get_current_backend_result():groups()
        nb.select_backend_server("192.0.2.1", 1)
        local result = nauthilus_backend_result.new()
        result:attributes({ hostip = "192.0.2.7", uid = 1000, is = true, big = string.rep("x", 5000) })
        result:groups({ "staff" })
        nb.apply_backend_result(result)
        nb.remove_from_backend_result({ "Proxy-Host", "Other" })
        ngx.say(before, " ", removed, " ", #groups, " ", #ngx.header["X-Nauthilus-Big"], " ",
          ngx.header["X-Nauthilus-Is"], " ", ngx.header["X-Nauthilus-Uid"])
        if ngx.var.arg_fail then ngx.exit(500) end
      }
    }

    # A finaliser that uses the module while its Lua state is closed.
    location /closing {
      content_by_lua_block {
        nb.select_backend_server("192.0.2.1", 1)
        ngx.ctx.touched = true
        getmetatable(newproxy(true)).__gc = function()
          pcall(nb.get_selected_backend_server)
          pcall(nb.select_backend_server, "192.0.2.1", 2)
        end
        ngx.say("done")
      }
      log_by_lua_block { assert(select(2, nb.get_selected_backend_server()) == 1) }
    }

    location /filter {
      content_by_lua_block { ngx.say("body") }
      header_filter_by_lua_block { nb.select_backend_server("192.0.2.3", 3) }
    }
"""


# Two calls after which headers vanish, change and come, in the middle and at the ends; then one
# with as many as asked for.
MIXED = """
    location /mixed {
      content_by_lua_block {
        local result = nauthilus_backend_result.new()
        local function apply(attributes)
          result:attributes(attributes)
          nb.apply_backend_result(result)
        end
        nb.select_backend_server("192.0.2.1", 1)
        apply({ aa = "1", bbb = "22", cccc = "333", ddddd = "" })
        nb.context():reset()
        apply({ bbb = "4444", ee = "5" })
        nb.select_backend_server("2001:db8::1", 65535)
        nb.remove_from_backend_result({ "foreign", "ee" })
        ngx.say(writes)
      }
    }
    location /many {
      content_by_lua_block {
        local attributes = {}
        for number = 1, tonumber(ngx.var.arg_count) do
          attributes["a" .. number] = ("x"):rep(number)
        end
        local result = nauthilus_backend_result.new()
        result:attributes(attributes)
        nb.apply_backend_result(result)
        ngx.say(writes)
      }
    }
"""

# Counts the headers that are set through `ngx.header`.
COUNTED = """
  init_by_lua_block {
    writes = 0
    local real = ngx.header
    ngx.header = setmetatable({}, {
      __index = real,
      __newindex = function(_, name, value)
        writes = writes + 1
        real[name] = value
      end,
    })
    BEFORE_REQUIRE
    nb = require("nauthilus_backend")
    nb.configure({ log = "none", backend_servers = {} })
  }
"""

LOGGED = """
  lua_check_client_abort on;
  init_by_lua_block {
    BEFORE_REQUIRE
    nb = require("nauthilus_backend")
    nb.configure({ log = "none", backend_servers = {} })
    AFTER_REQUIRE
    last_logged, kept = "none", {}
    function keep(context, port)
      kept[#kept % 50 + 1] = { context = context, port = port }
    end
  }
"""

# An nginx in which the module cannot tell requests apart by itself.
NO_REQUESTS = 'require("resty.core.base").get_request = nil'

# An nginx whose Lua module is older or newer than those whose C functions the module knows.
UNKNOWN_VERSIONS = [f"ngx.config.ngx_lua_version = {version}" for version in ("10014", "10033", "nil")]


def ours(headers):
    return {k: v for k, v in headers.items() if k.startswith(("Auth-", "X-Nauthilus"))}


def check_reports(through_strings, main_part="", before_require=""):
    """What calls that change several headers set; `through_strings` where `ngx.header` does."""
    http_part = COUNTED.replace("BEFORE_REQUIRE", before_require)
    nginx = Nginx(http=http_part, server=MIXED, main=main_part).start()
    wanted = {"Auth-Server": "2001:db8::1", "Auth-Port": "65535", "X-Nauthilus-Bbb": "4444", "X-Nauthilus-Ee": "5"}
    # Called often enough to be compiled, and once more.
    for _ in range(200):
        _, headers, body = nginx.get("/mixed")
        equal(ours(headers), wanted)
        equal(int(body) > 0, through_strings, f"{body.strip()} writes through ngx.header")
    for count in (1, 2, 3, 15, 16, 17, 40):
        _, headers, body = nginx.get(f"/many?count={count}")
        equal(ours(headers), {f"X-Nauthilus-A{n}": "x" * n for n in range(1, count + 1)})
    nginx.assert_clean()
    nginx.stop()


def logged(before_require="", after_require=""):
    return LOGGED.replace("BEFORE_REQUIRE", before_require).replace("AFTER_REQUIRE", after_require)


def check_logged(**parts):
    """Requests of one connection mostly have one address in memory, one after the other."""
    nginx = Nginx(http=logged(**parts), server=SERVER)
    nginx.lua("library", LIBRARY)
    nginx.start()
    connection = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=10)

    def ask(path):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode().strip()

    for number in range(100):
        for query, wanted in (
            (f"port={number + 1}", f"{number + 1} true"),
            ("", "nil true"),
            (f"port={number + 1}&sub=1", f"{number + 1} true"),
            ("sub=1", "nil true"),
            # The subrequest's context is older than the request's.
            (f"sub=1&late={number + 1}", f"{number + 1} true"),
            (f"sub=1&late={number + 1}&keep=log", f"{number + 1} true"),
            (f"port={number + 1}&keep={'log' if number % 2 else 'content'}", f"{number + 1} true"),
        ):
            equal(ask("/logged?" + query), (200, "done"))
            equal(ask("/last_logged"), (200, wanted), query)
    nginx.assert_clean()
    # One whose client goes away before an answer, and one that fails: neither sent headers of its own.
    for number in range(20):
        with socket.create_connection(("127.0.0.1", nginx.port)) as client:
            client.sendall(f"GET /logged?port={number + 1}&abort=1 HTTP/1.0\r\n\r\n".encode())
            time.sleep(0.02)
        until(lambda wanted=number + 1: ask("/last_logged")[1].split()[0] == str(wanted), what="the log phase")
        equal(ask("/logged"), (200, "done"))
        equal(ask("/last_logged")[1].split()[0], "nil")
    connection.close()
    # nginx logs this about an aborted request, and nothing else.
    assert "traceback" not in nginx.log() and "panicked" not in nginx.log(), nginx.log()[-2000:]
    nginx.stop()


def check_null():
    """`ngx.null`, a light userdata, in the place of everything that the module takes."""
    nginx = Nginx(workers=1, http=init_block([free_port()]), server="""
    location /null {
      content_by_lua_block {
        local problems = require("light_userdata")(nb, require("nauthilus_backend_result"), ngx.null)
        ngx.say(#problems, " problems ", table.concat(problems, " "))
      }
    }
""")
    nginx.lua("light_userdata", pathlib.Path("spec/support/light_userdata.lua").read_text())
    nginx.start()
    with test("ngx.null is refused wherever it is given"):
        equal(nginx.body("/null").strip(), "0 problems")
    nginx.assert_clean()
    nginx.stop()


def main():
    backend = Backend()
    tls_port = free_port()
    nginx = Nginx(server=SERVER, workers=2)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        + ["-keyout", f"{nginx.dir}/key.pem", "-out", f"{nginx.dir}/cert.pem", "-subj", "/CN=localhost"],
        check=True,
        capture_output=True,
    )
    nginx.configure(http=init_block([backend.port]) + f"""
  server {{
    listen 127.0.0.1:{tls_port} ssl;
    ssl_certificate {nginx.dir}/cert.pem;
    ssl_certificate_key {nginx.dir}/key.pem;
    ssl_certificate_by_lua_block {{
      ngx.ctx.greeting = "from the handshake"
      pcall(nb.select_backend_server, "192.0.2.1", 1)
    }}
    location / {{
      content_by_lua_block {{
        local _, port = nb.get_selected_backend_server()
        nb.select_backend_server("192.0.2.1", ngx.var.arg_port)
        ngx.say(ngx.ctx.greeting, " ", tostring(port))
      }}
    }}
  }}
""")
    nginx.lua("library", LIBRARY)
    nginx.start()

    def own(number):
        port, user = 1 + number % 60000, f"user{number}"
        _, headers, body = nginx.get(f"/own?port={port}&user={user}")
        wanted = (f"192.0.2.1 {port} {user}", str(port), user)
        got = (body.strip(), headers.get("Auth-Port"), headers.get("X-Nauthilus-User"))
        return None if got == wanted else (got, wanted)

    with test("requests that yield never see each other's context"):
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            wrong = [w for w in pool.map(own, range(int(run_for(2000)))) if w]
        equal(wrong[:5], [], "answers with another request's context")

    with test("a subrequest has a context and headers of its own"):
        equal(nginx.body("/sub").strip(), "2 192.0.2.1 2 inner, 1 nil 1")

    with test("an internal redirect leaves context and headers as they are"):
        equal(nginx.body("/redirect").strip(), "192.0.2.1 1")

    with test("whose context a script has, too, whoever had the place before"):
        for number in range(50):
            equal(nginx.body(f"/kept_redirect?user=u{number}").strip(), "stayed")
            equal(nginx.body(f"/kept_redirect?user=v{number}&on=1").strip(), f"v{number} 7 1")

    with test("and with a Lua state for each request"):
        each = Nginx(http="lua_code_cache off;" + logged(), server=SERVER).start()
        for number in range(5):
            equal(each.body(f"/kept_redirect?user=v{number}&on=1").strip(), f"v{number} 7 1")
            equal(each.body("/closing").strip(), "done")
        assert "exited on signal" not in each.log(), each.log()[-2000:]
        each.stop()

    with test("requests of one TLS connection do not inherit a context"):
        command = ["curl", "-ks"] + [f"https://127.0.0.1:{tls_port}/?port={p}" for p in (5, 6, 7)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        equal(done.stdout.splitlines(), ["from the handshake nil"] * 3)

    with test("headers are set and cleared at once, each once"):
        _, headers, _ = nginx.get("/headers")
        got = {k: v for k, v in headers.items() if k.startswith(("Auth-", "X-Nauthilus"))}
        equal(got, {
            "Auth-Server": "2001:db8::2",
            "Auth-Port": "994",
            "X-Nauthilus-Hostip": "192.0.2.7",
            "X-Nauthilus-Uid": "1001",
            "X-Nauthilus-Many": "a,b",
        })

    with test("a refused call changes nothing"):
        _, headers, body = nginx.get("/refused")
        equal((headers["Auth-Port"], body.strip()), ("143", "192.0.2.1143"))
        assert "X-Evil" not in headers and "X-Nauthilus-Evil" not in headers

    with test("after the headers were sent a call raises and says so"):
        begun, refused, selected = nginx.body("/sent").strip().splitlines()
        equal((begun, selected), ("begun", "nil"))
        assert refused.startswith("false ") and "headers were already sent" in refused, refused

    with test("the context does not depend on ngx.ctx"):
        for _ in range(20):
            equal(nginx.body("/swapped").strip(), "1")

    with test("nothing of a request that ended is in a later one"):
        for number in range(200):
            # A request that fails while it is in progress ends like any other.
            if number % 3 == 0:
                nginx.get("/clean?fail=1")
            _, headers, body = nginx.get("/clean")
            equal(body.strip(), "nil 0 0 5000 true 1000")
            equal(headers["Auth-Port"], "1")

    with test("the log phase is told what its own request decided"):
        check_logged()

    with test("and with the compiler off"):
        check_logged(after_require="jit.off()")

    with test("and where contexts are kept with ngx.ctx"):
        check_logged(before_require=NO_REQUESTS)

    with test("a context that a script keeps stays as it is"):
        for port in range(1, 100):
            equal(nginx.body(f"/keep?port={port}").strip(), "as they were")
            nginx.body("/clean")

    with test("with_context holds across yields, for its own coroutine"):
        equal(nginx.body("/with_context").strip(), "9 1 9 1")

    with test("with_context ends with its coroutine, however that ends"):
        for way in ("exit", "ok", "redirect", "exec", "kill"):
            for _ in range(3):
                status, headers, body = nginx.get(f"/left?by={way}")
                if status == 200:
                    equal((body.strip(), headers["Auth-Server"]), ("nil", "192.0.2.1"))
                for _ in range(3):
                    status, headers, body = nginx.get("/left?by=nothing")
                    equal((body.strip(), headers["Auth-Server"]), ("nil", "192.0.2.1"))

    with test("the header filter can select"):
        equal(nginx.get("/filter")[1]["Auth-Port"], "3")

    with test("no error was logged"):
        nginx.assert_clean()
    nginx.stop()

    with test("headers are set past ngx.header, whichever vanish, change or come"):
        check_reports(False)

    with test("and are the same where they are set through it"):
        for version in UNKNOWN_VERSIONS:
            check_reports(True, before_require=version)

    with test("or without the FFI"):
        check_reports(True, main_part="env NAUTHILUS_BACKEND_FFI=0;")

    with test("require in a handler warns of no global write, and defines the globals"):
        lazy = Nginx(server="""
    location / {
      access_by_lua_block {
        local nb = require("nauthilus_backend")
        nb.select_backend_server("192.0.2.1", 143)
        nauthilus_backend_result.new()
        dynamic_loader("nauthilus_backend")
      }
      content_by_lua_block { ngx.say(type(nauthilus_backend_result), type(dynamic_loader), #require("nauthilus_backend").get_backend_servers()) }
    }
""").start()
        for _ in range(3):
            equal(lazy.body("/").strip(), "tablefunction0")
        wrk(f"http://127.0.0.1:{lazy.port}/", 1)
        lazy.assert_clean()
        assert "[warn]" not in lazy.log() and "[error]" not in lazy.log(), lazy.log()[-2000:]
        lazy.stop()
    check_null()
    finish()


main()
