"""Half an hour under full load with everything that happens to processes at once: a reload every
5 s, a worker killed every 10 s, one stopped for 5 s every 30 s, and backends that die and return.

$SOAK_SECONDS says how long (1800); a minute shows whether it works. A second nginx has the same
load and the same backends and is left alone: its processes must not grow.
"""

import mmap
import os
import pathlib
import random
import re
import signal
import statistics
import struct
import subprocess
import time

from lab import (Backend, Nginx, alive, children, descriptors, equal, lua_servers, own_threads,
                 run_tests, test, until)

SECONDS = float(os.environ.get("SOAK_SECONDS", "1800"))
RELOAD, KILL, STOP, STOPPED, TURN = 5, 10, 30, 5, 2

# How long a dead server may be listed: until another process takes over from a prober that is
# stopped (three times `fast_interval`, a second at least) and the next probe fails. The rest is for
# a thread that gets no processor for a while, which is what a full load means.
INTERVAL = 0.2
BOUND = 1.0 + 2 * INTERVAL + 0.8

STAYING, CHANGING = 2, 5

HTTP = """
  init_by_lua_block {{
    nb = require("nauthilus_backend")
    nb.configure({{ log = "none", connect_interval = {interval}, fast_interval = {interval},
      backend_servers = {servers} }})
    local ffi = require("ffi")
    ffi.cdef("typedef struct {{ long s; long ns; }} nb_time; int clock_gettime(int, nb_time *);")
    local now = ffi.new("nb_time")
    function clock()
      ffi.C.clock_gettime(1, now)
      return tonumber(now.s) + tonumber(now.ns) / 1e9
    end
  }}
  init_worker_by_lua_block {{ nb.get_backend_servers() }}
"""

SERVER = """
    # The time is read before the list: what was dead long before that moment must not be in the list.
    location /answer { content_by_lua_block {
      local at, ports = clock(), {}
      for _, server in ipairs(nb.get_backend_servers()) do
        ports[#ports + 1] = server.port
      end
      ngx.print(("%.6f "):format(at), table.concat(ports, " "))
    } }
    location /status { content_by_lua_block {
      for _, target in ipairs(nb.status().targets) do
        ngx.say(target.port, " ", target.verdict, " ", target.probes)
      end
    } }
"""

# wrk judges each answer by what the backends' file says of each port: when it last went down and
# when it last came up.
JUDGE = """
local ffi = require("ffi")
ffi.cdef[[
  int open(const char *, int, ...);
  void *mmap(void *, size_t, int, int, int, long);
]]
local times = ffi.cast("volatile double *", ffi.C.mmap(nil, 4096, 1, 1, ffi.C.open("%(file)s", 0), 0))
local place = { %(places)s }
local staying, bound = %(staying)d, %(bound)f
local shown = 0
wrong, answers = 0, 0

local function complain(...)
  wrong = wrong + 1
  if shown < 5 then
    shown = shown + 1
    io.stderr:write(table.concat({ ... }, " "), "\\n")
  end
end

function response(status, _, body)
  answers = answers + 1
  local at, list = body:match("^([%%d.]+) (.*)$")
  if status ~= 200 or not at then
    return complain("status", status, body:sub(1, 200))
  end
  at = tonumber(at)
  local stay = 0
  for port in list:gmatch("%%d+") do
    local index = place[tonumber(port)]
    if not index then
      complain("an unknown port:", body)
    elseif index >= staying then
      local down, up = times[2 * index], times[2 * index + 1]
      local is_down = down > 0 and down < at and not (up >= down and up <= at)
      if is_down and at - down > bound then
        complain(port, "is listed and has been dead for", at - down, "seconds")
      end
    else
      stay = stay + 1
    end
  end
  -- They are never dead: an empty list is wrong as well.
  if stay ~= staying then
    complain("a living server is missing:", body)
  end
end

local threads = {}
function setup(thread) threads[#threads + 1] = thread end
function done()
  for _, thread in ipairs(threads) do
    print("judged " .. thread:get("answers") .. " wrong " .. thread:get("wrong"))
  end
end
"""


class Backends:
    """Backends that stay, and others that stop and come back; a file says when."""

    def __init__(self, folder):
        self.all = [Backend() for _ in range(STAYING + CHANGING)]
        self.is_up = [True] * len(self.all)
        self.file = folder / "backends"
        self.file.write_bytes(bytes(4096))
        self.turns = 0
        with open(self.file, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 4096)

    def ports(self):
        return [backend.port for backend in self.all]

    def turn(self):
        """Stops one of them, or starts it again."""
        index = random.randrange(STAYING, len(self.all))
        if self.is_up[index]:
            self.all[index].down()
            self._note(2 * index)
        else:
            self._note(2 * index + 1)
            self.all[index].up()
        self.is_up[index] = not self.is_up[index]
        self.turns += 1

    def _note(self, place):
        struct.pack_into("d", self.memory, 8 * place, time.monotonic())


class Load:
    """wrk, which judges each answer."""

    def __init__(self, nginx, backends, *extra):
        places = ", ".join(f"[{port}] = {index}" for index, port in enumerate(backends.ports()))
        script = nginx.dir / "judge.lua"
        script.write_text(JUDGE % {
            "file": backends.file, "places": places, "staying": STAYING, "bound": BOUND,
        })
        # A request may wait for a worker that is stopped.
        command = ["wrk", "-t1", "-c16", "-d100000s", "--timeout", "60s", *extra, "-s", str(script)]
        self.process = subprocess.Popen(
            [*command, f"http://127.0.0.1:{nginx.port}/answer"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )

    def end(self):
        """What it counted: answers, wrong ones, complaints, and errors of sockets."""
        self.process.send_signal(signal.SIGINT)
        output, complaints = self.process.communicate(timeout=120)
        judged = re.search(r"judged (\d+) wrong (\d+)", output)
        assert judged, output
        found = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
        errors = [int(count) for count in found.groups()] if found else [0] * 4
        return int(judged.group(1)), int(judged.group(2)), complaints, errors


def state_of(pid):
    """The state of the main thread; T is stopped. Empty where there is no such process."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def resident(pid):
    """In kB; 0 where there is no such process."""
    try:
        return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1))
    except (OSError, AttributeError):
        return 0


def connections_of(pid, port):
    """How many connections of clients to a port a process holds."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            inodes.add(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            continue
    count = 0
    with open("/proc/net/tcp", encoding="ascii") as table:
        next(table)
        for line in table:
            fields = line.split()
            is_ours = int(fields[1].split(":")[1], 16) == port and fields[3] != "0A"
            count += is_ours and f"socket:[{fields[9]}]" in inodes
    return count


class Disturber:
    """Reloads, kills and stops, each at its time."""

    def __init__(self, nginx):
        self.nginx = nginx
        self.counts = dict.fromkeys(["reloads", "kills", "stops"], 0)
        # The connections of the killed workers: only requests on these may fail.
        self.lost = 0
        self.stopped = 0
        self.touched = set()

    def reload(self):
        os.kill(self.nginx.master(), signal.SIGHUP)
        self.counts["reloads"] += 1

    def kill(self):
        """It is stopped first, so that what it holds does not change before it is counted."""
        pid = self._any(but=self.stopped)
        if not pid or not self._stop(pid):
            return
        self.lost += connections_of(pid, self.nginx.port)
        os.kill(pid, signal.SIGKILL)
        self.counts["kills"] += 1

    def stop(self):
        pid = self._any()
        if pid and self._stop(pid):
            self.stopped = pid
            self.counts["stops"] += 1

    def resume(self):
        if self.stopped and alive(self.stopped):
            os.kill(self.stopped, signal.SIGCONT)
        self.stopped = 0

    def _any(self, but=0):
        workers = [pid for pid in self.nginx.workers() if pid != but]
        return random.choice(workers) if workers else 0

    def _stop(self, pid):
        self.touched.add(pid)
        try:
            os.kill(pid, signal.SIGSTOP)
        except OSError:
            return False
        until(lambda: state_of(pid) in ("T", "Z", ""), what="a stopped worker")
        return state_of(pid) == "T"


class Sizes:
    """The memory of processes that nobody disturbs, in three parts of the time."""

    def __init__(self, quiet, disturbed, disturber):
        self.quiet, self.disturbed, self.disturber = quiet, disturbed, disturber
        self.parts = [{}, {}, {}]
        self.born = {}

    def sample(self, share, now):
        part = self.parts[min(int(share * 3), 2)]

        def add(name, pid):
            size = resident(pid)
            if size:
                part.setdefault(name, []).append(size)

        add("the master that reloads", self.disturbed.master())
        add("the other master", self.quiet.master())
        for number, pid in enumerate(sorted(self.quiet.workers())):
            add(f"the other worker {number}", pid)
        for pid in self.disturbed.workers():
            age = now - self.born.setdefault(pid, now)
            # Compared at the same age: a worker grows at first.
            if 2 <= age <= 4 and pid not in self.disturber.touched:
                add("workers of 2 to 4 s", pid)

    def growth(self):
        """By name: the last third's size in that of the middle one, and the two in kB."""
        _, middle, last = self.parts
        return {
            name: (statistics.mean(last[name]) / statistics.mean(middle[name]),
                   statistics.mean(middle[name]), statistics.mean(last[name]))
            for name in sorted(middle) if name in last
        }


def disturb(disturber, backends, sizes):
    """Everything that disturbs, for the whole time."""
    began = time.monotonic()
    due = {
        disturber.reload: (RELOAD, RELOAD), disturber.kill: (KILL - RELOAD / 2, KILL),
        disturber.stop: (STOP / 3, STOP), disturber.resume: (STOP / 3 + STOPPED, STOP),
        backends.turn: (TURN, TURN),
    }
    while (spent := time.monotonic() - began) < SECONDS:
        for action, (at, every) in list(due.items()):
            if spent >= at:
                action()
                due[action] = (at + every, every)
        sizes.sample(spent / SECONDS, began + spent)
        time.sleep(0.25)
    disturber.resume()


def test_disturbed():
    workers = 3
    nginx = Nginx(workers=workers, server=SERVER)
    quiet = Nginx(workers=2, server=SERVER)
    backends = Backends(nginx.dir)
    servers = lua_servers(backends.ports())
    for each in (nginx, quiet):
        each.configure(http=HTTP.format(interval=INTERVAL, servers=servers))
        each.start()
        until(lambda each=each: each.body("/status").count(" alive ") == len(backends.all), 30, "verdicts")
    master = nginx.master()
    held = descriptors(master)
    # A server may close a connection that it keeps between two requests, also as one comes: of
    # requests with a connection of their own none may fail.
    single = Load(nginx, backends, "-H", "Connection: close")
    loads = {"of a connection each": single, "of kept connections": Load(nginx, backends),
             "of the other nginx": Load(quiet, backends)}
    disturber = Disturber(nginx)
    sizes = Sizes(quiet, nginx, disturber)
    disturb(disturber, backends, sizes)
    reports = {name: load.end() for name, load in loads.items()}

    counts = ", ".join(f"{count} {what}" for what, count in disturber.counts.items())
    print(f"# {SECONDS:.0f} s: {counts}, {backends.turns} deaths and returns of backends")
    for name, (answers, wrong, _, errors) in reports.items():
        print(f"# requests {name}: {answers} answers, {wrong} wrong; connect {errors[0]}, read {errors[1]}, "
              f"write {errors[2]}, timeout {errors[3]}")
    with test("no answer is wrong: none lists a server that is dead for long, or lacks one that lives"):
        for name, (answers, wrong, complaints, _) in reports.items():
            equal((wrong, complaints), (0, ""), f"requests {name}")
            assert answers > 50 * SECONDS, (name, answers)
    with test("no request fails, but on connections that killed workers held"):
        errors = reports["of a connection each"][3]
        print(f"# {sum(errors)} failed, {disturber.lost} connections were held by killed workers")
        assert sum(errors) <= disturber.lost, (errors, disturber.lost)
        equal([errors[0], errors[3]], [0, 0], "connections refused, answers that never came")
        equal(reports["of the other nginx"][3], [0] * 4, "failures of the nginx that is left alone")
    with test("no process that is left alone grows"):
        growth = sizes.growth()
        for name, (share, middle, last) in growth.items():
            print(f"# {name}: {middle:.0f} kB, then {last:.0f} kB ({share:.4f})")
        assert "the master that reloads" in growth and "the other worker 0" in growth, growth
        grown = {name: row for name, row in growth.items() if row[0] > 1.02}
        equal(grown, {}, "grown")
    with test("all is as it was afterwards"):
        nginx.assert_clean(allowed=r"exited on signal 9")
        quiet.assert_clean()
        until(lambda: len(children(master)) == workers, 30, "the end of old workers")
        until(lambda: descriptors(master) <= held, 30, f"{held} descriptors of the master")
        equal(own_threads(master), [], "threads of the master")
        until(lambda: sum("nb-wake" in own_threads(pid) for pid in nginx.workers()) == 1, 30, "one prober")
        alive_ports = [port for port, is_up in zip(backends.ports(), backends.is_up) if is_up]
        until(lambda: nginx.body("/answer").split()[1:] == [str(port) for port in alive_ports], 30, "the list")
    for each in (nginx, quiet):
        each.stop()


run_tests(test_disturbed)
