"""What counting costs: the module beside a build of the same code that counts no probe, no stage
and no selection. Both are measured in turn, as in the rows of probes and of the access phase."""

import json
import os
import pathlib
import statistics
import subprocess
import sys

from lib import ROOT, Row, Unmeasured, quick
from peers import Certificates, Ours, TlsServer, listeners
from rows import tcp, tls

ROUNDS = quick(2, 12)
WITHOUT = "the same without counters"
ROWS = [
    Row("counting_access", "counting in the access phase", "µs CPU/request", WITHOUT, at_most=1.02),
    Row("counting_tcp", "counting of TCP connect probes", "µs CPU", WITHOUT, at_most=1.03),
    Row("counting_tls", "counting of TLS 1.3 probes, resumed", "µs CPU", WITHOUT, at_most=1.03),
]


def without_counters():
    """The folder of a module that counts nothing. In a target of its own: the other one keeps what
    `make` builds."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "uncounted"
    command = [".ci/library", "--quiet", "--features", "luajit,_uncounted"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "CARGO_TARGET_DIR": str(target)}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Unmeasured(f".ci/library: {done.stderr.strip()[-300:]}")
    folder = target / "module"
    folder.mkdir(exist_ok=True)
    module = folder / "nauthilus_backend.so"
    module.write_bytes((target / "release/libnauthilus_backend.so").read_bytes())
    return folder


def of_requests(folder):
    """Microseconds of worker CPU per request of the module's route in one nginx."""
    environment = {
        **os.environ, "NB_MODULE": str(folder / "nauthilus_backend.so"),
        "BENCH_JSON": "1", "ONLY": "constant module", "STARTS": "1", "ROUNDS": str(quick(4, 8)),
    }
    done = subprocess.run(
        [sys.executable, ROOT / "benches/openresty.py"], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Unmeasured(f"openresty.py: {(done.stdout + done.stderr).strip()[-300:]}")
    return statistics.median(json.loads(done.stdout.splitlines()[-1])["cost"]["module"])


def with_module(folder, measure):
    """What `measure` gives while `Ours` loads the module of this folder."""
    Ours.module, before = folder, Ours.module
    try:
        return measure()
    finally:
        Ours.module = before


def in_turn(row, folder, measure):
    figures = {Ours.module: [], folder: []}
    for number in range(ROUNDS):
        # Each is the first of every second pair: the later one of a pair may find other conditions.
        for module in sorted(figures, reverse=number % 2 == 1):
            figures[module].append(measure(module))
    # What disturbs a machine for seconds is larger than what counting costs: medians of all, not of
    # the ratios of pairs.
    row.trials([[figure] for figure in figures[Ours.module]], [[figure] for figure in figures[folder]])


def measure(rows):
    folder = without_counters()
    in_turn(rows["counting_access"], folder, of_requests)
    with listeners(tcp.TARGETS) as targets:
        in_turn(rows["counting_tcp"], folder, lambda module: with_module(module, lambda: tcp.of_ours(targets)))
    with Certificates() as certificates, TlsServer(certificates.server, "1.3") as server:
        lab = tls.Lab(certificates, server)
        in_turn(rows["counting_tls"], folder, lambda module: with_module(module, lambda: lab.ours("ours", "1h")))
