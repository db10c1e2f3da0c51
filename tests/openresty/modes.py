"""Other ways to run nginx: as one process, with Lua in threads, with a Lua state per request."""

import signal

from lab import (Backend, Nginx, Silent, alive, ask, descriptors, equal, mappings, own_threads,
                 run_tests, test, together, until, wrk)
from probing import STATUS, config, probers, the_prober

THREAD = """
local job = {}
function job.run(port)
  local nb = require("nauthilus_backend")
  local ports = {}
  for _, server in ipairs(nb.get_backend_servers()) do ports[#ports + 1] = server.port end
  local reason = nb.check_backend_connection("127.0.0.1", port, false, false)
  -- No request runs here: the context is the thread's own.
  nb.select_backend_server("192.0.2.1", port)
  local _, selected = nb.get_selected_backend_server()
  return table.concat(ports, " ") .. " " .. (reason or "good") .. " " .. selected
end
return job
"""


def single(backend, daemon):
    """An nginx that is its own worker: its process is what the pid file names."""
    nginx = Nginx(
        main=f"master_process off; daemon {daemon};",
        http=config([backend.port], 'connect_interval = "200ms",'), server=STATUS,
    )
    nginx.workers = lambda: [nginx.master()] if nginx.master() and alive(nginx.master()) else []
    return nginx


def test_one_process():
    for daemon in ("on", "off"):
        backend, silent = Backend(), Silent()
        nginx = single(backend, daemon)
        with test(f"one process is master and worker (daemon {daemon}): it probes and checks"):
            nginx.start(daemon == "off")
            until(lambda: the_prober(nginx), what="the prober")
            until(lambda: backend.count() > 2, what="probes")
            equal(nginx.body("/list"), str(backend.port))
            equal(nginx.body(f"/check?port={backend.port}").strip(), "good")
            equal(own_threads(nginx.master()), ["nb-engine", "nb-wake"], "threads")
            # No reload: in this mode nginx itself has no connections left after one.
        with test(f"and ends at once with a check in flight (daemon {daemon})"):
            client = ask(nginx.port, f"/silent?port={silent.port}")
            until(lambda: silent.connections() == 1, what="a check")
            took = nginx.stop()
            assert took < 15, took
            client.close()
            nginx.assert_clean()


def test_threads():
    backend, dead = Backend(), Backend()
    dead.down()
    nginx = Nginx(
        workers=2,
        main="thread_pool lua threads=4;",
        http=config([backend.port, dead.port], 'connect_interval = "200ms",'),
        server=STATUS + f"""
    location /thread {{ content_by_lua_block {{
      local ok, result = ngx.run_worker_thread("lua", "job", "run", {backend.port})
      ngx.print(ok and result or "failed: " .. tostring(result))
    }} }}
""",
    )
    nginx.lua("job", THREAD)
    nginx.start()
    with test("ngx.run_worker_thread: Lua states in other threads share the worker's engine"):
        until(lambda: nginx.body("/list") == str(backend.port), what="the verdicts")
        wanted = f"{backend.port} good {backend.port}"
        # No more at once than the Lua states that every version allows: ten per worker.
        threads, results = together(8, lambda: [nginx.body("/thread") for _ in range(40)])
        for thread in threads:
            thread.join()
        equal(results, [[wanted] * 40] * 8, "answers")
        for pid in nginx.workers():
            assert set(own_threads(pid)) <= {"nb-engine", "nb-wake"} and len(own_threads(pid)) <= 2
        equal(len(probers(nginx)), 1, "probers")
        nginx.assert_clean()
        took = nginx.stop(signal.SIGQUIT)
        assert took < 15, took


def test_code_cache_off():
    backend, silent = Backend(), Silent()
    nginx = Nginx(
        workers=2,
        http="  lua_code_cache off;\n" + config([backend.port], 'connect_interval = "200ms",'),
        server="    lua_check_client_abort on;\n" + STATUS,
    ).start()
    with test("lua_code_cache off: a Lua state for each request, one engine, no growth"):
        for _ in range(50):
            equal(nginx.body("/list"), str(backend.port))
            equal(nginx.body(f"/check?port={backend.port}").strip(), "good")
        worker = nginx.workers()[0]
        until(lambda: the_prober(nginx), what="one prober")
        wrk(f"http://127.0.0.1:{nginx.port}/check?port={backend.port}", 1)
        first = (descriptors(worker), mappings(worker), own_threads(worker))
        wrk(f"http://127.0.0.1:{nginx.port}/list", 2)
        wrk(f"http://127.0.0.1:{nginx.port}/check?port={backend.port}", 2)
        # A few more descriptors are no leak: a connection of wrk's may just be closing, and the role of the
        # prober moves.
        until(lambda: descriptors(worker) <= first[0] + 3, what=f"{first[0]} descriptors or so")
        # The engine must not keep anything of a closed Lua state; the allocators keep some of their mappings.
        assert mappings(worker) <= first[1] + 40, (first, mappings(worker))
        assert set(own_threads(worker)) <= {"nb-engine", "nb-wake"} and len(own_threads(worker)) <= 2
        equal(len(probers(nginx)), 1, "probers")
        seen = backend.count()
        until(lambda: backend.count() >= seen + 3, what="probes")
        nginx.assert_clean(allowed=r"lua_code_cache is off")
    with test("lua_code_cache off: Lua states end with checks in flight, and are used by none of them"):
        for _ in range(3):
            clients = [ask(nginx.port, f"/silent?port={silent.port}") for _ in range(20)]
            until(lambda: silent.connections() == 20, what="20 checks")
            # Half of the clients go; the other half's checks end later, beside new Lua states.
            for client in clients[::2]:
                client.close()
            until(lambda: silent.connections() == 10, 20, "the end of half of them")
            wrk(f"http://127.0.0.1:{nginx.port}/check?port={backend.port}", 1)
            for client in clients[1::2]:
                client.close()
            until(lambda: silent.connections() == 0, 20, "the end of the others")
        clients = [ask(nginx.port, f"/silent?port={silent.port}&timeout=300ms") for _ in range(20)]
        for client in clients:
            answer = b""
            while chunk := client.recv(65536):
                answer += chunk
            assert b"timeout" in answer or b"timed out" in answer, answer
        nginx.assert_clean(allowed=r"lua_code_cache is off")
    with test("lua_code_cache off: a worker leaves at once with checks in flight"):
        clients = [ask(nginx.port, f"/silent?port={silent.port}") for _ in range(20)]
        until(lambda: silent.connections() == 20, what="20 checks")
        took = nginx.stop()
        assert took < 15, took
        for client in clients:
            client.close()
        # The second one is what nginx's Lua module says of any semaphore that is waited for when
        # the worker ends and that belongs to the Lua state of a request.
        nginx.assert_clean(allowed=r"lua_code_cache is off|lua sema mm: freeing a block")


run_tests(test_one_process, test_threads, test_code_cache_off)
