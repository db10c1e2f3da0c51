"""The life of nginx's processes: who probes, who takes over, and what the others do."""

import os
import random
import shutil
import signal
import subprocess
import time

from lab import (ROOT, Backend, Nginx, alive, children, equal, in_time, own_threads, run_for,
                 run_tests, test, title_of, until)
from probing import STATUS, config, status, the_prober


def test_roles():
    backend = Backend()
    nginx = Nginx(
        workers=4,
        http=config([backend.port], 'connect_interval = "200ms",')
        + "  proxy_cache_path cache levels=1 keys_zone=one:1m;\n",
        server=STATUS,
    ).start()
    with test("one worker of four probes, and no other process of nginx has a thread of ours"):
        until(lambda: the_prober(nginx), what="one prober")
        until(lambda: backend.count() > 2, what="probes")
        equal(own_threads(nginx.master()), [], "threads of the master")
        helpers = [pid for pid in children(nginx.master()) if "cache" in title_of(pid)]
        assert helpers, "no cache manager"
        for pid in helpers:
            equal(own_threads(pid), [], title_of(pid))
        engines = [own_threads(pid) for pid in nginx.workers()]
        equal(sorted(map(tuple, engines)), [("nb-engine",)] * 3 + [("nb-engine", "nb-wake")], "threads")
    with test("each worker exits at once, asked politely or not"):
        for sign in (signal.SIGQUIT, signal.SIGTERM):
            for _ in range(3):
                pid = nginx.workers()[0]
                began = time.monotonic()
                os.kill(pid, sign)
                until(lambda: not alive(pid), what="its end")
                took = time.monotonic() - began
                assert took < 15, took
                # The master replaces only workers that ended without being told to.
                nginx.reload()
    with test("nginx stops at once with a prober at work"):
        took = nginx.stop(signal.SIGQUIT)
        assert took < 15, took
        nginx.assert_clean()


def test_kills():
    up, down = Backend(), Backend()
    down.down()
    fast = 0.2
    nginx = Nginx(
        workers=4,
        http=config([up.port, down.port], f"connect_interval = 0.2, fast_interval = {fast},"),
        server=STATUS,
    ).start()
    until(lambda: nginx.body("/list") == str(up.port), what="the verdicts")
    with test("50 times the probing worker is killed: another one takes over in time, and knows what it knew"):

        def gap():
            victim = until(lambda: the_prober(nginx), what="one prober")
            # Killed at any moment: while it sleeps, probes or publishes.
            time.sleep(random.uniform(0, fast / 2))
            began = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            until(lambda: the_prober(nginx, victim), what="another prober")
            took = time.monotonic() - began
            equal(nginx.body("/list"), str(up.port), "the list after a kill")
            until(lambda: len(nginx.workers()) == 4, what="four workers")
            return took

        in_time(gap, fast + 0.05, int(run_for(50)), "taken over")
        seen = up.count()
        until(lambda: up.count() > seen, what="a probe")
        equal({row[0] for row in status(nginx).values()}, {"alive", "dead"}, "verdicts")
        nginx.assert_clean(allowed=r"exited on signal 9")
    nginx.stop()


def test_stays_mapped():
    def in_maps(nginx):
        return "nauthilus_backend.so" in nginx.body("/maps")

    server = """
    location /load { content_by_lua_block { require("nauthilus_backend") ngx.say("loaded") } }
    location /maps { content_by_lua_block { ngx.print(io.open("/proc/self/maps"):read("*a")) } }
"""
    with test("the library stays mapped when the Lua state that loaded it is closed"):
        nginx = Nginx(http="  lua_code_cache off;\n", server=server).start()
        assert not in_maps(nginx)
        nginx.body("/load")
        assert in_maps(nginx)
        nginx.stop()
    with test("without the link flag it would not"):
        nginx = Nginx(http="  lua_code_cache off;\n", server=server)
        library = nginx.dir / "nauthilus_backend.so"
        flagged = nginx.dir / "flagged"
        shutil.move(library, flagged)
        subprocess.run(
            ["python3", str(ROOT / "tests/lib/elf_flags.py"), "--clear-nodelete", str(flagged), str(library)],
            check=True,
        )
        os.chmod(library, 0o755)
        nginx.start()
        nginx.body("/load")
        assert not in_maps(nginx)
        nginx.stop()


def test_reports():
    good, failing = Backend(), Backend()
    nginx = Nginx(
        workers=4,
        http=config([good.port, failing.port], 'connect_interval = "60s",', deep=False, start="") + """
  lua_shared_dict seen 1m;
  init_worker_by_lua_block {
    local ffi = require "ffi"
    ffi.cdef("typedef struct { long s; long ns; } nb_test_time; int clock_gettime(int, nb_test_time *);")
    local t = ffi.new("nb_test_time")
    function clock() ffi.C.clock_gettime(1, t) return tonumber(t.s) + tonumber(t.ns) / 1e9 end
    -- Each worker notes when its own view changes.
    ngx.timer.at(0, function()
      nb.wait_ready(10)
      local last
      while not ngx.worker.exiting() do
        local count = #nb.get_backend_servers()
        if count ~= last then
          ngx.shared.seen:set("at" .. ngx.worker.id(), clock())
          ngx.shared.seen:set("count" .. ngx.worker.id(), count)
          last = count
        end
        ngx.sleep(0.001)
      end
    end)
  }
""",
        server=STATUS + f"""
    location /report {{ content_by_lua_block {{
      local now = clock()
      nb.report_failure("127.0.0.1", {failing.port}, "refused")
      ngx.print(now, " ", ngx.worker.id())
    }} }}
    location /seen {{ content_by_lua_block {{
      for id = 0, 3 do
        ngx.say(ngx.shared.seen:get("count" .. id), " ", ngx.shared.seen:get("at" .. id))
      end
    }} }}
""",
    ).start()

    def views():
        rows = [line.split() for line in nginx.body("/seen").splitlines()]
        return [(int(count), float(at)) for count, at in rows if count != "nil"]

    with test("a reported failure reaches every worker's list within 50 ms, whoever reports it"):
        until(lambda: [count for count, _ in views()] == [2] * 4, what="both alive everywhere")
        reporters = set()

        def delay():
            failing.down()
            # A target is probed for reports at most once in 100 ms.
            time.sleep(0.12)
            at, reporter = nginx.body("/report").split()
            reporters.add(reporter)
            until(lambda: [count for count, _ in views()] == [1] * 4, what="one alive everywhere")
            latest = max(seen for _, seen in views())
            failing.up()
            time.sleep(0.12)
            nginx.body("/report")
            until(lambda: [count for count, _ in views()] == [2] * 4, what="two alive everywhere")
            return latest - float(at)

        in_time(delay, 0.05, 12, "all four workers")
        print(f"# reported by workers {sorted(reporters)}")
        nginx.assert_clean()
    nginx.stop()


def test_restricted_user():
    """nothing in these tests needs rights that the worker's user lacks"""
    if os.geteuid() != 0:
        return
    backend = Backend()
    nginx = Nginx(workers=2, http=config([backend.port], 'connect_interval = "200ms",'), server=STATUS)
    nginx.start()
    with test("the workers run as nobody, from a folder that is not theirs"):
        owner = os.stat(f"/proc/{nginx.workers()[0]}").st_uid
        equal(owner, __import__("pwd").getpwnam("nobody").pw_uid)
        until(lambda: backend.count() > 2, what="probes")
        equal(nginx.body(f"/check?port={backend.port}").strip(), "good")
        nginx.assert_clean()
    nginx.stop()


run_tests(test_roles, test_kills, test_stays_mapped, test_reports, test_restricted_user)
