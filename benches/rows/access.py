"""A request of nginx's access phase: what benches/openresty.py measures."""

import json
import os
import statistics
import subprocess
import sys

from lib import ROOT, Row, Unmeasured, quick

ROWS = [
    Row("access", "access phase in nginx, 1 worker", "µs CPU/request", "constant tables", at_most=1.08)
]


def measure(rows):
    environment = {
        "BENCH_JSON": "1", "SECONDS_EACH": str(quick(1, 2)), "ROUNDS": str(quick(2, 9)), **os.environ
    }
    done = subprocess.run(
        [sys.executable, ROOT / "benches/openresty.py"],
        env=environment, capture_output=True, text=True, check=False,
    )
    if done.returncode != 0:
        raise Unmeasured(f"openresty.py: {(done.stdout + done.stderr).strip()[-300:]}")
    figures = json.loads(done.stdout.splitlines()[-1])
    rows["access"].pairs(figures["cost"]["module"], figures["cost"]["constant"])
    rates = {name: statistics.median(values) for name, values in figures["rates"].items()}
    own = statistics.median(o / c for o, c in zip(figures["cost"]["own"], figures["cost"]["constant"]))
    rows["access"].note = (
        f"{rates['module']:.0f} requests a second, constant tables {rates['constant']:.0f}; "
        f"plain Lua with tables of the caller's own costs {own:.2f} of the constant ones"
    )
