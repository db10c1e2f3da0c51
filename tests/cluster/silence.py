#!/usr/bin/env python3
"""Redis counts as failing only if it does not answer: not if this machine was stopped or is slow to ask, and not if its
clock was set. Prints TAP."""

import os
import pathlib
import signal
import struct
import subprocess
import sys
import time

sys.dont_write_bytecode = True
from machines import ROOT, SERVERS, Engine, World, equal, run_tests, test, until


def counts_of(answer):
    return {how: int(count) for how, count in (word.split("=") for word in answer.split())}


def stopped():
    """The process is stopped for longer than the timeout, as a paused virtual machine or a throttled cgroup is."""
    world = World(SERVERS, "stopped")
    try:
        engine = Engine(world, {"timeout": "1s", "on_error": "hash"})
        until(lambda: set(counts_of(engine.ask("burst('user', 100)"))) <= {"new", "bound"}, 60, "bindings")
        before = engine.ask("failures()")
        with test("a process that is stopped three times does not take Redis for failing"):
            engine.begin("burst('user', 100, 8)")
            for _ in range(3):
                time.sleep(0.5)
                os.kill(engine.process.pid, signal.SIGSTOP)
                time.sleep(1.5)
                os.kill(engine.process.pid, signal.SIGCONT)
            counts = counts_of(engine.end())
            equal(engine.ask("failures()"), before)
            # Only the logins whose time was over: 100 at each stop.
            assert counts.get("fallback", 0) <= 300 and counts["bound"] > 300, counts
    finally:
        world.end()


def many():
    """A machine that has just started gets more logins at once than Redis answers within the timeout."""
    world = World(SERVERS, "many")
    try:
        relay = SERVERS.relay("relay", to="one")["port"]
        SERVERS.pace("relay", mode="0.05")
        engine = Engine(world, {"redis": f"redis://127.0.0.1:{relay}", "timeout": "1s", "on_error": "hash"})
        until(lambda: engine.route("alice")[1] in ("new", "bound"), 60, "a binding")
        before = engine.ask("failures()")
        with test("more logins at once than Redis answers in time do not make it fail"):
            counts = counts_of(engine.ask("burst('user', 5000)"))
            equal(engine.ask("failures()"), before)
            assert counts["new"] > 200 and counts["fallback"] > 200, counts
            until(lambda: engine.route("alice")[1] == "bound", 60, "a binding")
            equal(engine.ask("failures()"), before)
        with test("a delay that is longer than the timeout does, also while there are answers"):
            engine.begin("burst('user', 10, 12)")
            SERVERS.pace("relay", mode="0.8")
            engine.end()
            until(lambda: int(engine.ask("failures()")) > int(before), 60, "the failure")
    finally:
        world.end()


def clock():
    """Redis's clock is set forward by more than the timeout."""
    library, offset = SERVERS.folder + "/clock.so", SERVERS.folder + "/clock"
    source = str(ROOT / "tests/cluster/clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    pathlib.Path(offset).write_bytes(struct.pack("q", 0))
    server = SERVERS.start("ahead", environment=f"LD_PRELOAD={library}|CLOCK={offset}")
    world = World(SERVERS, "clock")
    try:
        url = f"redis://127.0.0.1:{server['port']}"
        engine = Engine(world, {"redis": url, "timeout": "2s", "on_error": "hash"})
        until(lambda: set(counts_of(engine.ask("burst('user', 50)"))) <= {"new", "bound"}, 60, "bindings")
        before = engine.ask("failures()")
        with test("after Redis's clock was set forward logins are answered by their bindings"):
            for ahead in (5, 10):
                with open(offset, "r+b") as file:
                    file.write(struct.pack("q", ahead * 1_000_000))
                # With registrations and measurements of the clock in between.
                counts = counts_of(engine.ask("burst('user', 50, 5)"))
                equal(set(counts), {"bound"})
            equal(engine.ask("failures()"), before)
    finally:
        world.end()


if __name__ == "__main__":
    try:
        run_tests(stopped, many, clock)
    finally:
        SERVERS.stop_all()
        subprocess.run(["rm", "-rf", SERVERS.folder], check=False)
