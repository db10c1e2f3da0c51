"""Probes counted where they arrive: with four workers and an interval of 1 s each target gets one
per interval, also while workers are killed and nginx is reloaded.

Both are counted at the same time, over a minute, by two instances of nginx. A count over 60 s
hardly feels a busy machine: a probe that starts late moves those after it by as much as it is
late, milliseconds of a second.
"""

import os
import signal
import threading
import time

from lab import Backend, Nginx, finish, test, until
from probing import STATUS, config, the_prober

TARGETS, INTERVAL, SECONDS = 3, 1.0, 60.0

# What disturbs, in turn: so often that a role that is lost, or taken twice, shows in the count.
STEP = 4.0


class Pauses:
    """How long the machine stands still: each probe after that is as much later."""

    def __init__(self):
        self.ended, self.seconds = False, 0.0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.ended:
            began = time.monotonic()
            time.sleep(0.02)
            late = time.monotonic() - began - 0.02
            # A machine that is only busy is late by less.
            self.seconds += late if late > 0.1 else 0

    def end(self):
        self.ended = True
        self.thread.join()
        return self.seconds


class Count:
    """An nginx and its targets; `disturb(nginx)` is called again and again meanwhile."""

    def __init__(self, disturb=None):
        self.backends = [Backend() for _ in range(TARGETS)]
        ports = [backend.port for backend in self.backends]
        self.nginx = Nginx(workers=4, http=config(ports, f"connect_interval = {INTERVAL},"), server=STATUS)
        self.nginx.start()
        self.disturb, self.problem, self.shares, self.least = disturb, None, [], 0.9
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            until(lambda: all(b.count() > 1 for b in self.backends), what="probes")
            pauses = Pauses()
            began = time.monotonic()
            while time.monotonic() < began + SECONDS:
                left = began + SECONDS - time.monotonic()
                if self.disturb and left > STEP:
                    self.disturb(self.nginx)
                time.sleep(min(STEP, max(left, 0)))
            ended = began + SECONDS
            counts = [sum(began <= at < ended for at in b.accepted) for b in self.backends]
            self.shares = [count * INTERVAL / SECONDS for count in counts]
            self.least = 0.9 - pauses.end() / SECONDS
        except Exception as problem:  # pylint: disable=broad-except
            self.problem = problem

    def check(self):
        self.thread.join()
        if self.problem:
            raise self.problem
        print("# " + ", ".join(f"{share:.3f}" for share in self.shares) + " probes per interval")
        assert all(self.least <= share <= 1.1 for share in self.shares), (self.least, self.shares)


class Disturbance:
    """Kills the prober, any worker and reloads, in turn."""

    def __init__(self):
        self.done = {"prober killed": 0, "worker killed": 0, "reload": 0}
        self.turn = 0

    def __call__(self, nginx):
        what = list(self.done)[self.turn % 3]
        self.turn += 1
        if what == "reload":
            nginx.reload()
        elif what == "prober killed":
            os.kill(until(lambda: the_prober(nginx), what="one prober"), signal.SIGKILL)
        else:
            os.kill(nginx.workers()[0], signal.SIGKILL)
        self.done[what] += 1


def main():
    disturbance = Disturbance()
    quiet, disturbed = Count(), Count(disturbance)
    for count in (quiet, disturbed):
        count.thread.start()
    with test("with four workers each target is probed once per interval, over a minute"):
        quiet.check()
        quiet.nginx.assert_clean()
    with test("also while workers are killed and nginx is reloaded"):
        disturbed.check()
        print(f"# {disturbance.done}")
        assert min(disturbance.done.values()) >= 4, disturbance.done
        disturbed.nginx.assert_clean(allowed=r"exited on signal 9")
    for count in (quiet, disturbed):
        count.nginx.stop()
    finish()


main()
