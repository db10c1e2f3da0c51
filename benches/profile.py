#!/usr/bin/env python3
"""Where the instructions go, per hot path, by callgrind (which does not see the kernel's):

  benches/profile.py requests     the request sequence of bench.lua, in Lua 5.4
  benches/profile.py connects     plain probes of one listener
  benches/profile.py handshakes   resumed TLS probes of benches/tls_server.rs

Prints instructions per request or probe, and the functions that have most of them. Builds the
module with symbols into target/profile."""

import collections
import contextlib
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


def module():
    """A folder with the module for Lua 5.4, its symbols kept."""
    target = ROOT / "target/profile"
    environment = {
        **os.environ, "CARGO_TARGET_DIR": str(target),
        "CARGO_PROFILE_RELEASE_STRIP": "none",
    }
    command = ["cargo", "build", "--release", "--locked", "--quiet", "--features", "lua54"]
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
    # The library stands only beside a function's first lines.
    home = {name: pathlib.Path(library).name for _, name, library in found if library}
    rows = [(int(number.replace(",", "")), name, home.get(name, "?")) for number, name, _ in found]
    total = sum(number for number, _, _ in rows)
    libraries, functions = collections.Counter(), collections.Counter()
    for number, name, library in rows:
        libraries[library] += number
        # Without symbols (distributions strip them) its address says nothing.
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


def main():
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    if what not in ("requests", "connects", "handshakes"):
        raise SystemExit(__doc__)
    folder = module()
    with contextlib.ExitStack() as stack:
        out = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / "callgrind"
        if what == "requests":
            counted = requests(folder, out)
        elif what == "connects":
            counted = probes(folder, out, stack.enter_context(peers.listeners(10)))
        else:
            certificates = stack.enter_context(peers.Certificates())
            server = stack.enter_context(peers.TlsServer(certificates.server, "1.3"))
            keys = f'tls = true, tls_server_name = "localhost", tls_ca_file = "{certificates.ca}"'
            counted = probes(folder, out, peers.loopback(10, server.port), keys)
        annotate(out, *counted)


if __name__ == "__main__":
    main()
