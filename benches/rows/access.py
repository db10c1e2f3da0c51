"""A request of nginx's access phase: what benches/openresty.py measures."""

import json
import os
import statistics
import subprocess
import sys

from lib import ROOT, Row, Unmeasured, median_ratio, quick

ROWS = [
    Row("access", "access phase in nginx, 1 worker", "µs CPU/request", "constant tables", at_most=1.1),
    Row("access_route", "the same with route()", "µs CPU/request", "constant tables", at_most=1.12),
]
OWN = "plain Lua that does the same with tables of the caller's own"


def measure(rows):
    environment = {"BENCH_JSON": "1", "STARTS": str(quick(1, 12)), "ROUNDS": str(quick(8, 6)), **os.environ}
    done = subprocess.run(
        [sys.executable, ROOT / "benches/openresty.py"],
        env=environment, capture_output=True, text=True, check=False,
    )
    if done.returncode != 0:
        raise Unmeasured(f"openresty.py: {(done.stdout + done.stderr).strip()[-300:]}")
    figures = json.loads(done.stdout.splitlines()[-1])
    cost, row = figures["cost"], rows["access"].slices(figures["cost"]["module"], figures["cost"]["constant"])
    rows["access_route"].slices(cost["routed"], cost["constant"])
    rates = {name: statistics.median(values) for name, values in figures["rates"].items()}
    alone = median_ratio(cost["module"], cost["headers"])
    row.note = (
        f"{rates['module']:.0f} requests a second, constant tables {rates['constant']:.0f}; "
        f"{alone:.2f} of the three headers alone; " + row.limited_by(cost["own"], OWN)
    )
