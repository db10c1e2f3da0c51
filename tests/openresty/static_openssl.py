"""nginx with OpenSSL linked in statically, as `--with-openssl` builds it: TLS is refused, and nothing dies."""

import os
import pathlib
import shutil
import signal
import subprocess

from lab import ROOT, Backend, Nginx, alive, check, equal, run_tests, test, until

RESTY_CORE = pathlib.Path("/usr/share/lua/5.1/resty/core.lua")
FOLDER = ROOT / "build/nginx-static"

CONFIG = """
  init_by_lua_block {
    local nb = require("nauthilus_backend")
    local function configure(tls)
      return pcall(nb.configure, { connect_interval = "50ms", log = "none", backend_servers = {
        { protocol = "imap", host = "127.0.0.1", port = %d },
        { protocol = "imap", host = "127.0.0.1", port = %d, tls = tls, tls_skip_verify = true },
      } })
    end
    local _, refusal = configure(true)
    REFUSAL = tostring(refusal)
    assert(configure(false))
  }
  init_worker_by_lua_block { require("nauthilus_backend").start() }
"""

SERVER = """
  location = /refusal { content_by_lua_block { ngx.print(REFUSAL) } }
  location = /list {
    content_by_lua_block { ngx.print(#require("nauthilus_backend").get_backend_servers()) }
  }
  location = /check {
    content_by_lua_block {
      local nb = require("nauthilus_backend")
      ngx.print(nb.check_backend_connection("127.0.0.1", %d, false, true, { tls_skip_verify = true }))
    }
  }
"""

UPGRADES, RELOADS, CHECKS = 2, 5, 20


def test_static_openssl():
    if not shutil.which("apt-get"):
        check("# SKIP an nginx with OpenSSL linked in: there is no apt-get to ask for its sources", True)
        return
    built = subprocess.run([ROOT / "tests/openresty/build_static", FOLDER], capture_output=True, text=True, check=False)
    with test("such an nginx is built from the distribution's sources"):
        equal(built.returncode, 0, built.stderr)
    binary = built.stdout.strip()
    with test("it has an OpenSSL of its own, without threads, that libraries see"):
        needed = subprocess.run(["readelf", "-d", binary], capture_output=True, text=True, check=True).stdout
        assert "libssl" not in needed and "libcrypto" not in needed, needed
        symbols = subprocess.run(["nm", "-D", "--defined-only", binary], capture_output=True, text=True, check=True)
        assert " T SSL_CTX_new\n" in symbols.stdout
    first, second = Backend(), Backend()
    nginx = Nginx(
        binary=[binary],
        workers=2,
        modules=None,
        http=CONFIG % (first.port, second.port),
        server=SERVER % second.port,
    )
    # Built without regular expressions, which would need one more library.
    (nginx.dir / "resty").mkdir()
    lines = RESTY_CORE.read_text().splitlines()
    nginx.lua("resty/core", "\n".join(line for line in lines if "resty.core.regex" not in line))
    nginx.start()
    with test("a configuration with TLS is refused, and the error names what helps"):
        refusal = nginx.body("/refusal")
        assert "backend_servers[2].tls: TLS is not possible in this process: " in refusal, refusal
        assert "vendored-openssl" in refusal and "SSL_CTX_new" in refusal, refusal
        print("# " + refusal)
    with test("without TLS it works, and checks with TLS say why not, across reloads and upgrades"):
        for _ in range(RELOADS):
            until(lambda: nginx.body("/list") == "2", what="both targets")
            for _ in range(CHECKS):
                reason = nginx.body("/check")
                assert reason.startswith("internal: TLS is not possible in this process: "), reason
            old = set(nginx.workers())
            nginx.reload()
            until(lambda: not old & set(nginx.workers()), what="new workers")
        for _ in range(UPGRADES):
            old = nginx.master()
            os.kill(old, signal.SIGUSR2)
            until(lambda: nginx.master() not in (0, old), what="a new master")
            until(lambda: len(nginx.workers()) == 2, what="its workers")
            os.kill(old, signal.SIGQUIT)
            until(lambda: not alive(old), what="the end of the old master")
            until(lambda: nginx.body("/list") == "2", what="both targets")
    with test("no process died"):
        nginx.assert_clean()
    nginx.stop()


run_tests(test_static_openssl)
