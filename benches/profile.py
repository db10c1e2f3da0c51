#!/usr/bin/env python3
"""Where the instructions go, per hot path, by callgrind (which does not see the kernel's):

  benches/profile.py requests     the request sequence of bench.lua, in Lua 5.4
  benches/profile.py connects     plain probes of one listener
  benches/profile.py handshakes   resumed TLS probes of benches/tls_server.rs
  benches/profile.py deep         IMAP logins at a Dovecot over resumed TLS
  benches/profile.py access       requests of nginx's access phase, of each route of openresty.py

Prints instructions per request or probe, and the functions that have most of them. Builds the
module with symbols into target/profile."""

import collections
import contextlib
import http.client
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import peers  # pylint: disable=wrong-import-position
from lib import ROOT  # pylint: disable=wrong-import-position

REQUESTS, SETTLE, SECONDS, LINES = 50000, 5, 20, 20
# Requests of nginx, which each take as long as twenty without.
SOME = 3000


def module(feature):
    """A folder with the module for a Lua, its symbols kept."""
    target = ROOT / "target/profile"
    environment = {
        **os.environ, "CARGO_TARGET_DIR": str(target),
        "CARGO_PROFILE_RELEASE_STRIP": "none",
    }
    command = [".ci/library", "--quiet", "--features", feature]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    shutil.copy(target / "release/libnauthilus_backend.so", target / "nauthilus_backend.so")
    return target


def callgrind(out, *options):
    return ["valgrind", "--tool=callgrind", "--quiet", f"--callgrind-out-file={out}", *options]


def annotate(out, count, unit):
    """Instructions per operation: all, by library, and what each function has of them itself."""
    text = subprocess.run(
        ["callgrind_annotate", "--show-percs=no", "--threshold=100", out],
        capture_output=True, text=True, check=True,
    ).stdout
    found = re.findall(r"^ *([\d,]+) +[^ ]*?:(\S.*?)(?: \[(\S+)\])?$", text, re.M)
    # callgrind names the library only with the first lines of a function.
    home = {name: pathlib.Path(library).name for _, name, library in found if library}
    rows = [(int(number.replace(",", "")), name, home.get(name, "?")) for number, name, _ in found]
    total = sum(number for number, _, _ in rows)
    libraries, functions = collections.Counter(), collections.Counter()
    for number, name, library in rows:
        libraries[library] += number
        # Without symbols (distributions strip them) a function is an address, which differs between runs.
        functions["(no symbol)" if name.startswith("0x") else name, library] += number
    print(f"{total / count:8.0f} instructions per {unit}, of {count}")
    for library, number in libraries.most_common(8):
        print(f"{number / count:8.0f} {number / total:6.1%}  {library}")
    print()
    for (name, library), number in functions.most_common(LINES):
        print(f"{number / count:8.0f} {number / total:6.1%}  {name} [{library}]")


def requests(folder, out):
    environment = {**os.environ, "LUA_CPATH": f"{folder}/?.so", "BENCH_PROFILE": str(REQUESTS)}
    command = [*callgrind(out), "lua5.4", "benches/bench.lua"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return REQUESTS, "request"


class Profiled(peers.Ours):
    """The module under callgrind."""

    def __init__(self, folder, out, *arguments):
        self.command = [*callgrind(out, "--instr-atstart=no"), "lua5.4"]
        self.module = folder
        super().__init__(*arguments)


def probes(folder, out, targets, keys=""):
    with Profiled(folder, out, targets, 'connect_interval = "100ms"', keys) as process:

        def instrument(state):
            command = ["callgrind_control", "-i", state, str(process.pid)]
            subprocess.run(command, capture_output=True, check=True)

        # Neither the start nor the first probes, which are full handshakes.
        time.sleep(SETTLE)
        before = process.status()[0]
        instrument("on")
        time.sleep(SECONDS)
        instrument("off")
        after, failures, _, _, example = process.status()
        if failures:
            raise SystemExit(f"{failures} probes failed: {example}")
    return after - before, "probe"


def ask(port, name, count):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for _ in range(count):
        connection.request("GET", "/" + name)
        connection.getresponse().read()
    connection.close()


def access(folder, out, name):
    """Requests of one route. nginx runs as a single process: callgrind counts only the process that it
    started."""
    os.environ["NB_MODULE"] = str(folder / "nauthilus_backend.so")
    import openresty  # pylint: disable=import-outside-toplevel

    nginx, _backends = openresty.nginx_with(openresty.ROUTES, main="master_process off; daemon off;")
    nginx.binary = [*callgrind(out, "--instr-atstart=no"), *nginx.binary]
    nginx.workers = lambda: [nginx.master()] if nginx.master() else []
    nginx.start(in_foreground=True)
    # LuaJIT compiles only what is called often.
    openresty.check_route(nginx, name)
    ask(nginx.port, name, SOME)
    for state in ("on", "off"):
        subprocess.run(["callgrind_control", "-i", state, str(nginx.master())], capture_output=True, check=True)
        if state == "on":
            ask(nginx.port, name, SOME)
    nginx.stop()
    return SOME, f"request of the route {name}"


def main():
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    if what not in ("requests", "connects", "handshakes", "deep", "access"):
        raise SystemExit(__doc__)
    folder = module("luajit" if what == "access" else "lua54")
    with contextlib.ExitStack() as stack:
        out = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / "callgrind"
        if what == "access":
            for name in ("constant", "own", "module"):
                annotate(out, *access(folder, out, name))
                print()
            return
        if what == "requests":
            counted = requests(folder, out)
        elif what == "connects":
            counted = probes(folder, out, stack.enter_context(peers.listeners(10)))
        elif what == "deep":
            facts = stack.enter_context(peers.Dovecot(keeps_logins=True)).facts
            counted = probes(folder, out, [("127.0.0.1", facts["imaps"])], peers.logging_in(facts))
        else:
            certificates = stack.enter_context(peers.Certificates())
            server = stack.enter_context(peers.TlsServer(certificates.server, "1.3"))
            keys = f'tls = true, tls_server_name = "localhost", tls_ca_file = "{certificates.ca}"'
            counted = probes(folder, out, peers.loopback(10, server.port), keys)
        annotate(out, *counted)


if __name__ == "__main__":
    main()
