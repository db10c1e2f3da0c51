#!/usr/bin/env python3
"""The log in the system's logger: what it gets, and what becomes of us where it takes nothing.

    syslog.py INTERPRETER FOLDER-OF-THE-MODULE PRELOAD
"""

import os
import pathlib
import re
import select
import socket
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "spec/support"), str(ROOT / "tests/lib")]

import tap  # pylint: disable=wrong-import-position
from control import free_port  # pylint: disable=wrong-import-position

INTERPRETER, MODULE, PRELOAD = sys.argv[1:4]
FOLDER = tempfile.mkdtemp(prefix="nauthilus-backend-")
DEV_LOG = os.path.join(FOLDER, "log")

# Does what it is told, a line at a time.
SCRIPT = """
local nb = require("nauthilus_backend")
local function configure(port, state_file)
  nb.configure({
    connect_interval = "20ms", fast_interval = "20ms", log = "syslog", state_file = state_file,
    backend_servers = { {
      protocol = "imap", host = "127.0.0.1", port = port, deep_check = true,
      test_username = "probe-user", test_password = "hunter2-secret",
    } },
  })
end
local function verdict()
  return nb.status().targets[1].verdict
end
while true do
  local line = io.read("*l")
  if not line then break end
  assert((loadstring or load)("local nb, configure, verdict = ... " .. line))(nb, configure, verdict)
  print("done")
  io.flush()
end
"""


def check(name, good, detail=""):
    tap.check(f"syslog: {name}", good, detail)


class Logger:
    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(DEV_LOG)

    def read(self, timeout=60):
        if not select.select([self.socket], [], [], timeout)[0]:
            return None
        return self.socket.recv(65536)

    def fill(self):
        """Until the next line would have to wait."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            other.connect(DEV_LOG)
            count = 0
            try:
                while True:
                    other.send(b"<30>other: full")
                    count += 1
            except BlockingIOError:
                return count

    def close(self):
        self.socket.close()
        os.unlink(DEV_LOG)


class Host:
    def __init__(self):
        script = os.path.join(FOLDER, "script.lua")
        with open(script, "w") as file:
            file.write(SCRIPT)
        environment = dict(os.environ, LD_PRELOAD=PRELOAD, DEV_LOG=DEV_LOG, LUA_CPATH=MODULE + "/?.so", LUA_INIT="")
        self.process = subprocess.Popen(
            [INTERPRETER, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
        )

    def tell(self, line):
        """How long it took, in seconds."""
        started = time.monotonic()
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if answer != "done\n":
            raise RuntimeError(answer + self.process.stdout.read() + self.process.stderr.read())
        return time.monotonic() - started

    def leave(self):
        started = time.monotonic()
        self.process.stdin.close()
        said = self.process.stdout.read()
        self.told = self.process.stderr.read()
        status = self.process.wait(60)
        return status, time.monotonic() - started, said


def down(pid, port, was="unknown"):
    # RFC 3164, 4.1: 28 is facility 3 (daemons), severity 4 (warning); the logger adds the time.
    return (
        rf'<28>nauthilus_backend\[{pid}\]: warning event=target_down target=imap://127\.0\.0\.1:{port} '
        rf'reason="connect: connection refused" after=1 was={was}'
    )


DOWN = "repeat until verdict() == 'dead'"

logger, host, port = Logger(), Host(), free_port()
pid = host.process.pid
host.tell(f"configure({port}) {DOWN}")
seen = [logger.read()]
check("a line as the logger expects it", seen[0] and re.fullmatch(down(pid, port), seen[0].decode()), seen[0])

bad = os.path.join(FOLDER, "state")
with open(os.open(bad, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
    file.write("nauthilus_backend state 2, damaged")
port = free_port()
host.tell(f"configure({port}, {bad!r}) {DOWN}")
seen += [logger.read(), logger.read()]
check(
    "one that a configuring call writes by itself",
    seen[1] and re.fullmatch(rf'<28>nauthilus_backend\[{pid}\]: warning event=state_file_rejected path="{bad}" reason="[^"]+"', seen[1].decode()),
    seen[1],
)
check("the lines after it", seen[2] and re.fullmatch(down(pid, port), seen[2].decode()), seen[2])
check("no secret, and no control character", not any(re.search(rb"hunter2|probe-user|[\x00-\x1f]", line or b"\n") for line in seen), seen)

logger.close()
logger = Logger()
port = free_port()
host.tell(f"configure({port}) {DOWN}")
line = logger.read()
check("a logger that was restarted is found again", line and re.fullmatch(down(pid, port), line.decode()), line)

filled = logger.fill()
with open(bad, "w") as file:
    file.write("nauthilus_backend state 2, damaged again")
took = host.tell(f"configure({port}, {bad + '2'!r})")
os.rename(bad, bad + "3")
took = max(took, host.tell(f"configure({port}, {bad + '3'!r})"))
check("a configuring call does not wait for a logger that takes nothing", took < 20, f"{took} s")
port = free_port()
took = host.tell(f"configure({port}) {DOWN} local before = nb.status().targets[1].probes repeat until nb.status().targets[1].probes > before + 5")
# Whoever waited would wait for ever: nothing is read before the end of these.
check("nor does a probe", took < 20, f"{took} s")
for _ in range(filled):
    logger.read()
line = logger.read()
check("its lines come when it takes them", line and re.fullmatch(down(pid, port), line.decode()), line)

logger.fill()
host.tell(f"configure({free_port()}) {DOWN}")
status, took, said = host.leave()
check("nor does the exit wait", status == 0 and took < 20 and said == "", f"{status} {took} s {said}")
check("a line that was lost is told once", re.fullmatch(r"nauthilus_backend: log lines to syslog are lost: [^\n]+\n", host.told), host.told)
logger.close()

host = Host()
took = host.tell(f"configure({free_port()}) {DOWN} local before = nb.status().targets[1].probes repeat until nb.status().targets[1].probes > before + 5")
host.tell("local lost repeat lost = table.concat(nb.status().warnings, ' ') until lost:find('log: 1 lines of this process were lost', 1, true)")
host.tell("assert(table.concat(nb.status().warnings, ' '):find('log: syslog: there is no /dev/log', 1, true))")
host.tell(f"configure({free_port()}) {DOWN}")
status, _, said = host.leave()
check("without a logger everything goes on", took < 20 and status == 0 and said == "", f"{took} s, {status} {said}")
check(
    "and standard error is told once",
    re.fullmatch(r"nauthilus_backend: log lines to syslog are lost: /dev/log: [^\n]+\n", host.told),
    host.told,
)

for name in os.listdir(FOLDER):
    os.unlink(os.path.join(FOLDER, name))
os.rmdir(FOLDER)
sys.exit(tap.status())
