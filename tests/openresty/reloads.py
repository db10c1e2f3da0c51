"""Reloads and binary upgrades: what they keep, what they leave behind."""

import os
import re
import signal
import socket
import subprocess
import time

from lab import (Backend, Nginx, alive, ask, children, descriptors, equal, free_port, mappings,
                 own_threads, run_for, run_tests, test, until)
from probing import STATUS, config, status, the_prober


class Load:
    """wrk asks without pause for /list until it is told to end; each answer must be `body`."""

    SCRIPT = """
local wrong = 0
function response(status, _, body)
  if status ~= 200 or body ~= "%s" then
    wrong = wrong + 1
    if wrong < 5 then io.stderr:write("got ", status, " ", body, "\\n") end
  end
end
"""

    def __init__(self, nginx, body, *extra):
        script = nginx.dir / "load.lua"
        script.write_text(self.SCRIPT % body)
        self.process = subprocess.Popen(
            ["wrk", "-t1", "-c8", "-d600s", *extra, "-s", str(script), f"http://127.0.0.1:{nginx.port}/list"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )

    def end(self):
        """wrk's report of it."""
        self.process.send_signal(signal.SIGINT)
        output, errors = self.process.communicate(timeout=30)
        equal(errors, "", "wrong answers")
        assert "Non-2xx" not in output, output
        assert int(re.search(r"(\d+) requests in", output).group(1)) > 1000, output
        return output


class Holdings:
    """The resources of a process that could leak."""

    def __init__(self, pid):
        self.descriptors, self.mappings, self.threads = descriptors(pid), mappings(pid), own_threads(pid)

    def __repr__(self):
        return f"{self.descriptors} descriptors, {self.mappings} mappings, threads {self.threads}"

    def assert_no_more_than(self, before):
        # Each allocator may keep a mapping more or less; a mapping that leaks with each reload would show a
        # hundred times.
        assert self.descriptors <= before.descriptors and self.mappings <= before.mappings + 10, (before, self)


def serve_anew(nginx):
    """A reload, until each worker of before has closed its listener, and each new one answered."""
    nginx.reload()
    new, answered = set(nginx.workers()), set()

    def all_answered():
        answered.add(int(nginx.body("/worker")))
        assert answered <= new, f"{answered - new} answered after a reload to {new}"
        return answered == new

    until(all_answered, what="an answer of each new worker")


def test_reloads():
    up, down = Backend(), Backend()
    down.down()
    times = int(run_for(200))
    nginx = Nginx(
        workers=2,
        # A dead target is probed every 20 s: only the memory that workers share tells them earlier that it is
        # dead.
        http=config([up.port, down.port], 'connect_interval = "20s", fast_interval = "20s",'),
        server=STATUS,
    ).start()
    until(lambda: nginx.body("/list") == str(up.port), 30, "the dead target's verdict")
    probes = status(nginx)[down.port][1]
    old = set(nginx.workers())
    serve_anew(nginx)
    until(lambda: not any(map(alive, old)), what="the end of old workers")
    until(lambda: the_prober(nginx), what="one prober")
    master = nginx.master()
    # The number of descriptors of each worker; the prober has more than the others.
    before, before_workers = Holdings(master), sorted(map(descriptors, nginx.workers()))
    loads = [
        Load(nginx, up.port),
        # A server may close a connection that it keeps between two requests, also as one comes.
        # Of requests with a connection of their own none may fail.
        Load(nginx, up.port, "-H", "Connection: close"),
    ]
    with test(f"{times} reloads under load: each answer is right, no request fails, and nothing leaks"):
        began = time.monotonic()
        for _ in range(times):
            old |= set(nginx.workers())
            serve_anew(nginx)
        print(f"# {(time.monotonic() - began) / times * 1000:.0f} ms for a reload")
        until(lambda: not any(map(alive, old)), what="the end of old workers")
        reports = [load.end() for load in loads]
        print("# " + ", ".join(re.search(r"(\d+ requests in [\d.]+.)", text).group(1) for text in reports))
        assert "Socket errors" not in reports[1], reports[1]
        # The master closes its channels to workers as it hears of their end.
        until(lambda: descriptors(master) <= before.descriptors, what=f"{before} of the master")
        Holdings(master).assert_no_more_than(before)
        equal(own_threads(master), [], "threads of the master")
        until(lambda: the_prober(nginx), what="one prober")
        # Connections of wrk's are closed as the workers hear of their end.
        until(lambda: sorted(map(descriptors, nginx.workers())) <= before_workers, what=f"{before_workers} descriptors of workers")
        for pid in nginx.workers():
            assert set(own_threads(pid)) <= {"nb-engine", "nb-wake"} and len(own_threads(pid)) <= 2, own_threads(pid)
        equal(len(children(master)), 2, "children of the master")
        print(f"# the master before: {before}, after: {Holdings(master)}")
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
        serve_anew(nginx)
        equal(nginx.body("/list").split(), [str(third.port), str(up.port)])
        equal({port: row[0] for port, row in status(nginx).items()},
              {third.port: status(nginx)[third.port][0], down.port: "dead", up.port: "alive"})
        until(lambda: status(nginx)[third.port][0] == "alive", 40, "a first verdict of the new one")
        nginx.configure(http=config([up.port], 'connect_interval = "20s",'))
        serve_anew(nginx)
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
        released = nginx.dir / "released"
        holds = [ask(nginx.port, f"/hold?until={released}") for _ in range(8)]
        until(lambda: nginx.log().count("holds a request") == 8, what="8 requests")
        os.kill(nginx.master(), signal.SIGHUP)

        def handed_over():
            shutting = [pid for pid in olds if alive(pid)]
            return (
                shutting
                and all("nb-wake" not in own_threads(pid) for pid in shutting)
                and the_prober(nginx) not in (0, *olds)
            )

        until(handed_over, what="a prober of the new generation, beside old workers that live")
        seen, began = backend.count(), time.monotonic()
        until(lambda: backend.count() >= seen + 15, what="probes")
        # Intervals vary by 5 %, and a late probe may be followed by one on time; two probers would
        # have made them in half the time. The time is read after the count, which may have grown meanwhile.
        come = backend.count() - seen
        most = (time.monotonic() - began) / 0.2 * 1.06 + 3
        assert come <= most, f"{come} probes, not {most}"
        assert any(map(alive, olds)), "the old workers were to live on"
        released.touch()
        for hold in holds:
            with hold:
                assert hold.makefile().read().endswith("held\n"), "the answer of an old worker"
        nginx.assert_clean()
    nginx.stop()


# Makes a setting as an operator, and returns what a worker then shows of it.
OPERATORS = """
    location /set { content_by_lua_block {
      local options = { reason = "new disk", by = "ann" }
      if ngx.var.arg_weight then
        nb.set_node_weight(ngx.var.arg_node, tonumber(ngx.var.arg_weight), options)
      else
        nb.set_target_state(ngx.var.arg_what, ngx.var.arg_state, options)
      end
      ngx.print("set")
    } }
    location /states { content_by_lua_block {
      local said = { ngx.worker.pid() }
      for _, target in ipairs(nb.status().targets) do said[#said + 1] = target.port .. "=" .. target.state end
      for _, node in ipairs(nb.nodes()) do said[#said + 1] = node.node .. "=" .. node.weight end
      ngx.print(table.concat(said, " "))
    } }
"""


def test_operators():
    kept, drained, third = Backend(), Backend(), Backend()
    keys = 'connect_interval = "200ms",'
    nginx = Nginx(workers=2, http=config([kept.port, drained.port], keys), server=STATUS + OPERATORS).start()

    def each_worker_says(*expected):
        answers = {}

        def said():
            worker, *words = nginx.body("/states").split()
            answers[int(worker)] = words
            return set(answers) >= set(nginx.workers()) and all(
                answers[worker] == list(expected) for worker in nginx.workers()
            )

        until(said, what=f"{expected} of each worker, not {answers}")

    with test("what an operator sets in one worker counts in each, and after a reload with another configuration"):
        until(lambda: the_prober(nginx), what="one prober")
        equal(nginx.body(f"/set?what=imap://127.0.0.1:{drained.port}&state=drain"), "set")
        equal(nginx.body("/set?node=127.0.0.1&weight=7"), "set")
        each_worker_says(f"{kept.port}=auto", f"{drained.port}=drain", "127.0.0.1=7")
        equal(nginx.body("/list"), str(kept.port))
        # The target is not in this configuration, but its setting is kept.
        nginx.configure(http=config([kept.port, third.port], keys))
        serve_anew(nginx)
        each_worker_says(f"{kept.port}=auto", f"{third.port}=auto", "127.0.0.1=7")
        nginx.configure(http=config([third.port, drained.port, kept.port], 'connect_interval = "100ms",'))
        serve_anew(nginx)
        each_worker_says(f"{third.port}=auto", f"{drained.port}=drain", f"{kept.port}=auto", "127.0.0.1=7")
        equal(nginx.body("/list"), f"{third.port} {kept.port}")
        equal(nginx.body(f"/set?what=imap://127.0.0.1:{drained.port}&state=auto"), "set")
        each_worker_says(f"{third.port}=auto", f"{drained.port}=auto", f"{kept.port}=auto", "127.0.0.1=7")
        nginx.assert_clean()
    nginx.stop()


def probes_go_on(*backends):
    seen = [backend.count() for backend in backends]
    until(lambda: all(backend.count() >= least + 3 for backend, least in zip(backends, seen)), what="probes")


def shown_by_workers(nginx):
    """For each worker the ports of its targets."""
    shown = {}

    def all_answered():
        worker, *words = nginx.body("/states").split()
        shown[int(worker)] = [int(word.split("=")[0]) for word in words if "127.0.0.1" not in word]
        return set(shown) >= set(nginx.workers())

    until(all_answered, what="an answer of each worker")
    return [shown[worker] for worker in nginx.workers()]


def refused(why, http, lua, line):
    """A reload that nginx refuses after `configure`, with these parts of the configuration: its log then has
    this line."""
    kept, dies, removed, new = Backend(), Backend(), Backend(), Backend()
    old = [kept.port, dies.port, removed.port]
    nginx = Nginx(
        workers=2,
        http=config(old, 'connect_interval = "200ms", fast_interval = "200ms",'),
        server=STATUS + OPERATORS,
    ).start()
    # What is known at once after a reload comes from the old workers: the next probes come seconds later. Deep
    # probes get a timer and a health state of their own.
    changed = config(
        [new.port, dies.port, kept.port], 'connect_interval = "3s", fast_interval = "3s", deep_interval = "4s",'
    )
    with test(f"{why}: nginx refuses the reload, and its old workers go on as before"):
        until(lambda: the_prober(nginx), what="one prober")
        probes_go_on(kept, dies, removed)
        workers = set(nginx.workers())
        more = lua.replace("PORT", str(new.port))
        nginx.configure(http=changed.replace("\n  }", f"\n    {more}\n  }}", 1) + http)
        os.kill(nginx.master(), signal.SIGHUP)
        until(lambda: line in nginx.log(), what="the refusal")
        probes_go_on(kept, dies, removed)
        equal(set(nginx.workers()), workers, "workers")
        dies.down()
        until(lambda: nginx.body("/list") == f"{kept.port} {removed.port}", what="the verdict of a dead server")
        equal(shown_by_workers(nginx), [old] * 2)
    with test(f"{why}: a worker that nginx starts in place of one that died serves what the others do"):
        prober = until(lambda: the_prober(nginx), what="one prober")
        os.kill(prober, signal.SIGKILL)
        until(lambda: not alive(prober) and len(nginx.workers()) == 2, what="another worker")
        equal(shown_by_workers(nginx), [old] * 2)
        until(lambda: the_prober(nginx), what="one prober")
        probes_go_on(kept, removed)
        equal(new.count(), 0, "probes of a server of the refused configuration")
    with test(f"{why}: the next reload takes over what the old workers found out meanwhile"):
        before = status(nginx)[kept.port]
        nginx.configure(http=changed)
        serve_anew(nginx)
        equal(nginx.body("/list"), f"{new.port} {kept.port}")
        now = status(nginx)
        equal((now[dies.port][0], now[kept.port][0]), ("dead", "alive"))
        assert now[kept.port][1] >= before[1], (before, now)
        until(lambda: status(nginx)[new.port][0] == "alive", what="a first verdict of the new one")
        equal(shown_by_workers(nginx), [[new.port, dies.port, kept.port]] * 2)
    nginx.stop()


def test_refused():
    # nginx runs `init_by_lua` first, and finds out later that it cannot use the new configuration. For a port
    # it gives up after five tries.
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        server = f"  server {{ listen 127.0.0.1:{taken.getsockname()[1]}; }}\n"
        refused("a port is in use", server, "", "still could not bind")
    # Two configurations are given up here.
    servers = '{ { protocol = "imap", host = "127.0.0.1", port = PORT } }'
    lua = f'nb.configure({{ log = "none", backend_servers = {servers} }}) error("a later line raises")'
    refused("init_by_lua raises after configure", "", lua, "a later line raises")

    backend = Backend()
    # No worker uses the module before its first request.
    http = config([backend.port], 'connect_interval = "200ms",', start="")
    nginx = Nginx(workers=2, http=http, server=STATUS + OPERATORS).start()
    with test("a reload is refused before any worker has used the module: they probe with the one before"):
        bad = config([backend.port, backend.port], 'connect_interval = "300ms",', start="")
        bad = bad.replace("\n  }", '\n    error("a later line raises")\n  }', 1)
        nginx.configure(http=bad)
        os.kill(nginx.master(), signal.SIGHUP)
        until(lambda: "a later line raises" in nginx.log(), what="the refusal")
        equal(shown_by_workers(nginx), [[backend.port]] * 2)
        until(lambda: the_prober(nginx), what="one prober")
        probes_go_on(backend)
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


run_tests(test_reloads, test_old_workers, test_operators, test_refused, test_upgrade)
