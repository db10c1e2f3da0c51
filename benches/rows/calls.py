"""Calls from Lua: what benches/bench.lua prints, beside plain tables that do the same."""

import json
import os
import pathlib
import subprocess

from lib import ROOT, Row, Unmeasured, quick

# How the rows of bench.lua begin, and how much of the baseline each may cost: in LuaJIT, in Lua 5.4.
CALLS = [
    ("list", "get_backend_servers()", "list 10 servers", "copy of an array", 1.25, 1.5),
    ("fields", "ip, port and protocol of each", "read ip, port, protocol of a server", "plain tables", 3, 1.8),
    ("sequence", "list, filter, pick", "whole request sequence", "plain tables", 4, 4),
]
INTERPRETERS = [("luajit", "LuaJIT", 4), ("lua5.4", "Lua 5.4", 5)]

ROWS = [
    Row(f"{name}_{lua}", f"{what}, {title}", "ns", beside, at_most=call[limit])
    for call in CALLS
    for name, _, what, beside, *_ in [call]
    for lua, title, limit in INTERPRETERS
] + [
    # What a whole request may cost, on a machine like the one where Nauthilus took 9.5 us.
    Row(f"sequence_ns_{lua}", f"the same, {title}, as it is", "ns", "", at_most=3000)
    for lua, title, _ in INTERPRETERS
]

SERVERS = 10
# What counts as one operation: the row reads every server of the list.
SHARE = {"fields": SERVERS}


def run(lua):
    """(ours, baseline) in ns of each of these rows of bench.lua."""
    environment = {**os.environ, "LUA_CPATH": f"build/{lua}/?.so", "BENCH_JSON": "1", "BENCH_SERVERS": str(SERVERS)}
    seconds = os.environ.get("BENCH_SECONDS", str(quick(0.1, 0.2)))
    done = subprocess.run(
        [lua, pathlib.Path("benches/bench.lua"), seconds],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )
    if done.returncode != 0:
        raise Unmeasured(f"{lua}: {done.stderr.strip()[-300:]}")
    lines = map(json.loads, done.stdout.splitlines())
    found = {line["what"]: (line["ours"], line["baseline"]) for line in lines}
    return {begin: figures for _, begin, *_ in CALLS for what, figures in found.items() if what.startswith(begin)}


def measure(rows):
    for lua, _, _ in INTERPRETERS:
        # Each run takes both in turn already, and the best of several.
        runs = [run(lua) for _ in range(quick(3, 7))]
        for name, what, *_ in CALLS:
            share = SHARE.get(name, 1)
            ours, baseline = zip(*((a / share, b / share) for a, b in (one[what] for one in runs)))
            rows[f"{name}_{lua}"].pairs(ours, baseline)
            if name == "sequence":
                rows[f"sequence_ns_{lua}"].alone(ours)
