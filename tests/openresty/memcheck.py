"""nginx under valgrind: start, requests, checks, a reload and the end. What counts is an error
with the module in its stack: nginx and LuaJIT have some of their own."""

import os
import pathlib
import re
import shutil
import signal

from lab import ROOT, Backend, BlackHole, Nginx, check, children, equal, finish, init_block, test, until

VALGRIND = [
    "valgrind", "--trace-children=no", "--num-callers=40", "--leak-check=full",
    "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite", "--log-file={log}/vg.%p",
    f"--suppressions={ROOT}/tests/lib/valgrind.supp",
]


def blocks(text):
    """The errors of a valgrind log: runs of lines between blank ones."""
    found = re.split(r"^==\d+== ?\n", text, flags=re.M)
    return [block for block in found if re.search(r"Invalid|uninitialised|Mismatched|lost in loss|overlap", block)]


def main():
    if not shutil.which("valgrind"):
        check("memcheck # SKIP valgrind is not installed", True)
        finish()
    backend, hole = Backend(), BlackHole()
    nginx = Nginx(
        workers=2,
        # Without the compiler every line of Lua runs through the C code of the interpreter.
        http=init_block([backend.port], 'connect_interval = "200ms",')
        + "  init_worker_by_lua_block { nb.get_backend_servers() }\n",
        server=f"""
    location /route {{ access_by_lua_block {{
      local server = nb.get_backend_servers()[1]
      nb.select_backend_server(server.ip, server.port)
      local result = nauthilus_backend_result.new()
      result:attributes({{ hostip = server.ip, many = {{ "a", 1, true }} }})
      nb.apply_backend_result(result)
      nb.remove_from_backend_result({{ "absent" }})
      pcall(nb.select_backend_server, "bad host", 0)
      collectgarbage()
      ngx.exit(204) }} }}
    location /check {{ content_by_lua_block {{
      ngx.say(nb.check_backend_connection("127.0.0.1", {backend.port}, false, false, {{ deep_check = true, protocol = "imap" }}) or "good")
      nb.start_check("127.0.0.1", {hole.port}, false, false):cancel()
      nb.report_failure("127.0.0.1", {backend.port}) nb.status() collectgarbage() }} }}
    location /hole {{ lua_check_client_abort on; content_by_lua_block {{
      nb.check_backend_connection("127.0.0.1", {hole.port}, false, false, {{ connect_timeout = "300ms" }}) ngx.say("end") }} }}
""",
    )
    nginx.binary = [word.format(log=nginx.dir) for word in VALGRIND] + nginx.binary
    nginx.dir.chmod(0o777)
    # Under valgrind a process cannot rename itself. All children are workers here.
    nginx.workers = lambda: children(nginx.master())
    nginx.start()

    def requests():
        for _ in range(20):
            status, headers, _ = nginx.get("/route", timeout=60)
            equal((status, headers.get("Auth-Port")), (204, str(backend.port)))
            equal(nginx.get("/check", timeout=60)[2].strip(), "good")
        equal(nginx.get("/hole", timeout=60)[2].strip(), "end")

    with test("nginx answers under valgrind, before and after a reload"):
        requests()
        old = nginx.workers()
        os.kill(nginx.master(), signal.SIGHUP)
        until(lambda: not set(old) & set(nginx.workers()), 60, "new workers")
        requests()
        nginx.stop(signal.SIGQUIT)
    with test("no error of the module's in any process"):
        logs = list(pathlib.Path(nginx.dir).glob("vg.*"))
        assert len(logs) >= 5, logs
        finished = [log for log in logs if "ERROR SUMMARY" in log.read_text()]
        assert finished, "no process was followed to its end"
        ours = [b for log in logs for b in blocks(log.read_text()) if "nauthilus_backend" in b]
        print(f"# {len(finished)} of {len(logs)} processes followed to their end")
        assert not ours, "\n".join(ours[:5])
    finish()


main()
