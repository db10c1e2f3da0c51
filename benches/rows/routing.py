"""Routes from Lua: what benches/routing.lua prints, beside a rendezvous in plain Lua over the same nodes."""

import json
import os
import subprocess

from lib import ROOT, Row, Unmeasured, quick

# How the rows of routing.lua are called, and how much of plain Lua each may cost: in LuaJIT, in Lua 5.4.
ROUTES = [
    ("10", "route(user), 10 nodes", 1.2, 0.8),
    ("100", "route(user), 100 nodes", 0.8, 0.8),
    ("filter", "route(user, filter), 10 nodes", 1.2, 0.8),
    ("weights", "route(user), 10 nodes of 10 weights", 1.3, 0.8),
    ("weights_100", "route(user), 100 nodes of 10 weights", 1.1, 0.8),
]
INTERPRETERS = [("luajit", "LuaJIT", 2), ("lua5.4", "Lua 5.4", 3)]

ROWS = [
    Row(f"route_{name}_{lua}", f"{what}, {title}", "ns", "plain Lua, FNV-1a", at_most=route[limit])
    for route in ROUTES
    for name, what, *_ in [route]
    for lua, title, limit in INTERPRETERS
]


def run(lua):
    """(ours, baseline) in ns of each row of routing.lua."""
    environment = {**os.environ, "LUA_CPATH": f"build/{lua}/?.so", "BENCH_JSON": "1"}
    seconds = os.environ.get("BENCH_SECONDS", str(quick(0.1, 0.2)))
    done = subprocess.run(
        [lua, "benches/routing.lua", seconds],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )
    if done.returncode != 0:
        raise Unmeasured(f"{lua}: {done.stderr.strip()[-300:]}")
    lines = map(json.loads, done.stdout.splitlines())
    return {line["what"]: (line["ours"], line["baseline"]) for line in lines}


def measure(rows):
    for lua, _, _ in INTERPRETERS:
        # Each run takes both in turn already, and the best of several.
        runs = [run(lua) for _ in range(quick(3, 7))]
        for name, what, *_ in ROUTES:
            ours, baseline = zip(*(one[what] for one in runs))
            rows[f"route_{name}_{lua}"].pairs(ours, baseline)
