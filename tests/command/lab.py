"""What the tests of the command share: running it, and servers to check."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "spec" / "support"
sys.path[:0] = [str(SUPPORT), str(ROOT / "tests" / "lib")]

import control  # noqa: E402 # pylint: disable=wrong-import-position
import tap  # noqa: E402 # pylint: disable=wrong-import-position

TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
COMMAND = os.environ.get("COMMAND", str(TARGET / "debug" / "nauthilus-backend"))
SECRET = "s3cret-of-the-test"


def wait_for(what, read, timeout=60):
    """Reads until `what` accepts what was read, and returns that; fails after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        seen = read()
        if what(seen):
            return seen
        assert time.monotonic() < end, f"still {seen!r}"
        time.sleep(0.1)


def test(function):
    """Runs a test at once; its first line of documentation is its name."""
    name = function.__doc__.strip().splitlines()[0].rstrip(".")
    try:
        function()
        tap.check(name, True)
    except Exception as error:  # whatever went wrong is shown
        tap.check(name, False, f"{type(error).__name__}: {error}")
    return function


def finish():
    sys.exit(tap.status())


class Ended:
    """A command that has ended."""

    def __init__(self, done):
        self.status = done.returncode
        self.out = done.stdout
        self.err = done.stderr

    def __str__(self):
        return f"status {self.status}\n--- out\n{self.out}\n--- err\n{self.err}"

    def expect(self, status, *patterns):
        """The status, and a match for each pattern in what it printed."""
        assert self.status == status, f"status {status} expected: {self}"
        for pattern in patterns:
            assert re.search(pattern, self.out + self.err, re.M), f"{pattern!r} expected: {self}"
        assert SECRET not in self.out + self.err, f"the password was printed: {self}"
        return self

    def json(self):
        return [json.loads(line) for line in self.out.splitlines()]


def run(*arguments, stdin=None, env=None, timeout=60):
    """Runs the command without a terminal."""
    full = {key: value for key, value in os.environ.items() if not key.startswith("NAUTHILUS")}
    full.update(env or {})
    done = subprocess.run(
        [COMMAND, *map(str, arguments)],
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=full,
        timeout=timeout,
        start_new_session=True,  # no terminal to ask for a password on
        check=False,
    )
    return Ended(done)


class Helper:
    """A helper of spec/support: see control.py for its requests."""

    def __init__(self, script):
        self.process = subprocess.Popen(
            [sys.executable, str(SUPPORT / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request, **values):
        self.process.stdin.write(control.encode(request, values) + "\n")
        self.process.stdin.flush()
        status, fields = control.decode(self.process.stdout.readline())
        assert status == "ok", fields
        return fields

    def close(self):
        self.process.stdin.close()
        self.process.wait(90)


def folder():
    """A folder that goes with the test."""
    return Path(tempfile.mkdtemp(prefix="nb-command-", dir=os.environ.get("SCRATCH")))
