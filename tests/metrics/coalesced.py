"""Changes of a flapping target that had no event are told after the window: in a running engine, whose wall clock
stands still in between."""

import os
import pathlib
import subprocess
import tempfile

from scraped import ROOT, Server, equal, run_tests, test, until


class Engine:
    """An engine in a Lua of its own, with a clock that only `later` moves."""

    def __init__(self, folder, port):
        clock = folder / "clock.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", clock, ROOT / "tests/metrics/frozen_clock.c"], check=True)
        self.clock = folder / "now"
        self.now = 1_800_000_000
        self.later(0)
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            ["lua5.4", ROOT / "tests/metrics/frozen.lua", ROOT / "build/lua5.4", str(port)],
            env={**os.environ, "LD_PRELOAD": str(clock), "FROZEN_CLOCK": str(self.clock)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )

    def later(self, seconds):
        self.now += seconds
        # Renamed in one step, so that a reader never finds an empty file.
        fresh = self.clock.with_suffix(".new")
        fresh.write_text(str(self.now))
        fresh.rename(self.clock)

    def ask(self):
        """The verdict, and the events: from, to and reason."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        verdict, *rest = self.process.stdout.readline().rstrip("\n").split("\t")
        return verdict, [rest[at:at + 3] for at in range(0, len(rest), 3)]

    def events(self):
        return self.ask()[1]

    def stop(self):
        self.process.stdin.close()
        self.process.wait(60)


def coalesced():
    with tempfile.TemporaryDirectory(prefix="nb-frozen-") as folder:
        server = Server()
        engine = Engine(pathlib.Path(folder), server.port)

        def becomes(verdict):
            (server.up if verdict == "alive" else server.down)()
            until(lambda: engine.ask()[0] == verdict, 60, verdict)

        until(lambda: engine.ask()[0] == "alive", 60, "alive")
        with test("the fifth change within a minute has no event"):
            for verdict in ("dead", "alive", "dead", "alive"):
                becomes(verdict)
            told = engine.events()
            equal([one[:2] for one in told],
                  [["unknown", "alive"], ["alive", "dead"], ["dead", "alive"], ["alive", "dead"]], "events")
        with test("it is told when the minute is over, without another change"):
            engine.later(61)
            until(lambda: len(engine.events()) > 4, 60, "the event")
            equal(engine.events()[4:], [["dead", "alive", ""]], "events")
        with test("several changes are told together"):
            for verdict in ("dead", "alive", "dead", "alive", "dead"):
                becomes(verdict)
            equal(len(engine.events()), 8, "events")
            engine.later(61)
            until(lambda: len(engine.events()) > 8, 60, "the event")
            late = engine.events()[8:]
            equal([one[:2] for one in late], [["dead", "dead"]], "events")
            assert late[0][2].startswith("2 changes since the last event; connect: "), late
        engine.stop()


run_tests(coalesced)
