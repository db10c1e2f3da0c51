"""The life of nginx's processes: who probes, and what reloads, kills and upgrades leave behind."""

import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import threading
import time

import lab
from lab import (ROOT, Backend, Nginx, alive, children, descriptors, equal, finish, init_block,
                 lua_servers, mappings, own_threads, run_for, test, title_of, until, wrk)

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
    location /hold { content_by_lua_block { ngx.sleep(tonumber(ngx.var.arg_seconds)) ngx.say("held") } }
    location /check { content_by_lua_block {
      ngx.say(nb.check_backend_connection("127.0.0.1", tonumber(ngx.var.arg_port), false, false) or "good")
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
    """Workers that probe: only the elected one has a thread that waits for reports."""
    return [pid for pid in nginx.workers() if "nb-wake" in own_threads(pid)]


def the_prober(nginx, *but):
    found = [pid for pid in probers(nginx) if pid not in but]
    return found[0] if len(found) == 1 else 0


def status(nginx):
    rows = (line.split() for line in nginx.body("/status").splitlines())
    return {int(port): (verdict, int(probes)) for port, verdict, probes in rows}


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
                assert took < 0.5, took
                # The master replaces only those that died of themselves.
                nginx.reload()
    with test("nginx stops at once with a prober at work"):
        took = nginx.stop(signal.SIGQUIT)
        assert took < 1, took
        nginx.assert_clean()


def test_counted():
    """Probes counted at the listener, also while workers are killed and nginx is reloaded."""
    backend = Backend()
    interval, seconds = (1.0, 60.0) if "SOAK" in os.environ else (0.25, 10.0)
    nginx = Nginx(workers=4, http=config([backend.port], f"connect_interval = {interval},"), server=STATUS)
    nginx.start()
    until(lambda: backend.count() > 1, what="probes")

    def count(disturb=None):
        first, end = backend.count(), time.monotonic() + seconds
        while time.monotonic() < end:
            if disturb:
                disturb()
            time.sleep(interval)
        return (backend.count() - first) / (seconds / interval)

    with test("with four workers each target is probed once per interval"):
        share = count()
        print(f"# {share:.3f} probes per interval")
        assert 0.9 <= share <= 1.1, share

    def kill():
        os.kill(until(lambda: the_prober(nginx), what="one prober"), signal.SIGKILL)

    calls = iter(range(10**9))

    def disturb():
        turn = next(calls)
        if turn % 8 == 3:
            kill()
        elif turn % 8 == 7:
            os.kill(nginx.master(), signal.SIGHUP)

    with test("also while workers are killed and nginx is reloaded"):
        share = count(disturb)
        print(f"# {share:.3f} probes per interval")
        # A kill may cost up to the time of a take-over, and a probe that was under way is made
        # again.
        assert 0.85 <= share <= 1.15, share
    nginx.stop()


def test_kills():
    backend = Backend()
    fast = 0.2
    nginx = Nginx(
        workers=4,
        http=config([backend.port], f"connect_interval = 0.2, fast_interval = {fast},"),
        server=STATUS,
    ).start()
    with test("50 times the probing worker is killed, and another one takes over in time"):
        gaps = []
        for _ in range(int(run_for(50))):
            victim = until(lambda: the_prober(nginx), what="one prober")
            began = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            until(lambda: the_prober(nginx, victim), what="another prober")
            gaps.append(time.monotonic() - began)
            until(lambda: len(nginx.workers()) == 4, what="four workers")
        gaps.sort()
        print(f"# taken over after {statistics.median(gaps) * 1000:.0f} ms (median), {gaps[-1] * 1000:.0f} ms (longest)")
        assert gaps[-1] <= fast + 0.05, gaps[-5:]
        seen = backend.count()
        until(lambda: backend.count() > seen, what="a probe")
        equal(nginx.body("/list"), str(backend.port))
        nginx.assert_clean(allowed=r"exited on signal 9")
    nginx.stop()


def test_reloads():
    up, down = Backend(), Backend()
    down.down()
    times = int(run_for(40))
    nginx = Nginx(
        workers=2,
        # A dead target is looked at every 20 s: nothing but memory tells that it is dead.
        http=config([up.port, down.port], 'connect_interval = "20s", fast_interval = "20s",'),
        server=STATUS,
    ).start()
    until(lambda: nginx.body("/list") == str(up.port), 30, "the dead target's verdict")
    probes = status(nginx)[down.port][1]
    script = nginx.dir / "list.lua"
    script.write_text(
        f"""
local wrong = 0
function response(status, _, body)
  if status ~= 200 or body ~= "{up.port}" then
    wrong = wrong + 1
    if wrong < 5 then io.stderr:write("got ", status, " ", body, "\\n") end
  end
end
"""
    )
    old = set(nginx.workers())
    nginx.reload()
    until(lambda: not any(map(alive, old)), what="the end of old workers")
    master = nginx.master()
    before = (descriptors(master), mappings(master), own_threads(master))
    load = subprocess.Popen(
        ["wrk", "-t1", "-c16", "-d600s", "-s", str(script), f"http://127.0.0.1:{nginx.port}/list"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    with test(f"{times} reloads under load: each answer is right, and nothing leaks"):
        began = time.monotonic()
        for _ in range(times):
            old |= set(nginx.workers())
            nginx.reload()
        print(f"# {(time.monotonic() - began) / times * 1000:.0f} ms for a reload")
        until(lambda: not any(map(alive, old)), what="the end of old workers")
        load.send_signal(signal.SIGINT)
        output, errors = load.communicate(timeout=30)
        equal(errors, "", "wrong answers")
        assert "Non-2xx" not in output, output
        assert int(re.search(r"(\d+) requests in", output).group(1)) > 1000, output
        # The master closes its channels to workers as it hears of their end.
        until(lambda: descriptors(master) <= before[0], what=f"{before[0]} descriptors of the master")
        after = (descriptors(master), mappings(master), own_threads(master))
        # The allocator of nginx and Lua keeps a mapping more or less.
        assert after[1] <= before[1] + 10, (before, after)
        equal(after[2], [], "threads of the master")
        until(lambda: the_prober(nginx), what="one prober")
        for pid in nginx.workers():
            assert len(own_threads(pid)) <= 2, own_threads(pid)
        nginx.assert_clean()
    with test("the dead target was not probed for being dead, nor alive for not being probed"):
        now = status(nginx)[down.port]
        equal(now[0], "dead")
        assert now[1] <= probes + 1 + (time.monotonic() - began) / 15, (probes, now)

    with test("a reload with another configuration keeps what is known of targets that stay"):
        third = Backend()
        nginx.configure(http=config(
            [third.port, down.port, up.port], 'connect_interval = "20s", fast_interval = "20s",'
        ))
        nginx.reload()
        equal(nginx.body("/list").split(), [str(third.port), str(up.port)])
        equal({port: row[0] for port, row in status(nginx).items()},
              {third.port: status(nginx)[third.port][0], down.port: "dead", up.port: "alive"})
        until(lambda: status(nginx)[third.port][0] == "alive", 40, "a first verdict of the new one")
        nginx.configure(http=config([up.port], 'connect_interval = "20s",'))
        nginx.reload()
        equal(nginx.body("/list"), str(up.port))
    with test("a bad configuration stops neither nginx nor the old one"):
        workers = set(nginx.workers())
        nginx.configure(http=config([70000]))
        os.kill(nginx.master(), signal.SIGHUP)
        until(lambda: "backend_servers[1].port" in nginx.log(), what="the error")
        equal(set(nginx.workers()), workers, "workers")
        equal(nginx.body("/list"), str(up.port))
    nginx.stop()


def test_old_workers():
    backend = Backend()
    nginx = Nginx(workers=2, http=config([backend.port], 'connect_interval = "200ms",'), server=STATUS)
    nginx.start()
    with test("an old worker that is kept by a request stops probing, and others go on"):
        olds = nginx.workers()
        until(lambda: the_prober(nginx), what="one prober")
        holds = [threading.Thread(target=nginx.body, args=("/hold?seconds=4",)) for _ in range(8)]
        for hold in holds:
            hold.start()
        time.sleep(0.2)
        os.kill(nginx.master(), signal.SIGHUP)

        def handed_over():
            shutting = [pid for pid in olds if alive(pid)]
            return (
                shutting
                and all("nb-wake" not in own_threads(pid) for pid in shutting)
                and the_prober(nginx) not in (0, *olds)
            )

        until(handed_over, 2, "a prober of the new generation, beside old workers that live")
        seen, began = backend.count(), time.monotonic()
        time.sleep(1.5)
        rate = (backend.count() - seen) / (time.monotonic() - began) * 0.2
        assert 0.7 <= rate <= 1.3, f"{rate} probes per interval"
        assert any(map(alive, olds)), "the old workers were to live on"
        for hold in holds:
            hold.join()
        nginx.assert_clean()
    nginx.stop()


def test_upgrade():
    backend = Backend()
    nginx = Nginx(workers=2, http=config([backend.port], 'connect_interval = "200ms",'), server=STATUS)
    nginx.start()
    with test("a binary upgrade: the new nginx answers and probes, the old one leaves"):
        old = nginx.master()
        until(lambda: the_prober(nginx), what="one prober")
        os.kill(old, signal.SIGUSR2)
        until(lambda: nginx.master() not in (0, old), what="a new master")
        new = nginx.master()
        until(lambda: len(nginx.workers()) == 2 and the_prober(nginx), what="new workers")
        os.kill(old, signal.SIGQUIT)
        until(lambda: not alive(old), what="the old master's end")
        equal(nginx.body("/list"), str(backend.port))
        equal(own_threads(new), [], "threads of the new master")
        seen = backend.count()
        until(lambda: backend.count() >= seen + 3, what="probes")
        nginx.assert_clean()
    nginx.stop()


def test_code_cache_off():
    backend = Backend()
    nginx = Nginx(
        workers=2,
        http="  lua_code_cache off;\n" + config([backend.port], 'connect_interval = "200ms",'),
        server=STATUS,
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
        # A connection of wrk's may be about to be closed, and the role of the prober moves.
        until(lambda: descriptors(worker) <= first[0] + 3, what=f"{first[0]} descriptors or so")
        # The engine keeps no state of a Lua state; allocators keep some of their mappings.
        assert mappings(worker) <= first[1] + 40, (first, mappings(worker))
        assert set(own_threads(worker)) <= {"nb-engine", "nb-wake"} and len(own_threads(worker)) <= 2
        equal(len(probers(nginx)), 1, "probers")
        seen = backend.count()
        until(lambda: backend.count() >= seen + 3, what="probes")
        nginx.assert_clean(allowed=r"lua_code_cache is off")
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
          ngx.shared.seen:set("count" .. ngx.worker.id(), count)
          ngx.shared.seen:set("at" .. ngx.worker.id(), clock())
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
        delays, reporters = [], set()
        for _ in range(12):
            failing.down()
            # Reports of one target are heeded once in 100 ms.
            time.sleep(0.12)
            at, reporter = nginx.body("/report").split()
            reporters.add(reporter)
            until(lambda: [count for count, _ in views()] == [1] * 4, what="one alive everywhere")
            delays.append(max(seen for _, seen in views()) - float(at))
            failing.up()
            time.sleep(0.12)
            nginx.body("/report")
            until(lambda: [count for count, _ in views()] == [2] * 4, what="two alive everywhere")
        delays.sort()
        print(f"# all four workers after {statistics.median(delays) * 1000:.1f} ms (median), "
              f"{delays[-1] * 1000:.1f} ms (longest); reported by workers {sorted(reporters)}")
        assert delays[-1] <= 0.05, delays
        nginx.assert_clean()
    nginx.stop()


def test_restricted_user():
    """nothing of this needs rights that the worker's user lacks"""
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


TESTS = [test_roles, test_counted, test_kills, test_reloads, test_old_workers, test_upgrade,
         test_code_cache_off, test_stays_mapped, test_reports, test_restricted_user]

for each in TESTS:
    if os.environ.get("ONLY", each.__name__) == each.__name__:
        try:
            each()
        except Exception as problem:  # pylint: disable=broad-except
            lab.report(False, each.__name__, repr(problem))
finish()
