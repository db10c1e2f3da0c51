"""Whether probes start when they are due: 10,000 plain targets at 10 s, one thread.

The listener sees when each probe starts, but not when it was due. A probe is due one interval
after the start of the one before, plus or minus a random jitter of at most 5 %, which only the
module knows. The listener can see that a gap between two probes is longer than any jitter allows.
A probe that is late by t is seen so only if its jitter was within t of the upper limit, which
happens with the probability t / (width of the jitter). Lateness does not depend on the jitter. So
the number of gaps that are at least 10 ms too long, times (width of the jitter) / (100 - 10) ms,
is an upper bound of the number of probes that were late by 100 ms. The limits of the jitter are
taken from the gaps themselves, which are spread evenly between them, but not wider than the
promised 5 %."""

import multiprocessing
import socket
import time

from lib import Row, Unmeasured, quick
from peers import Ours, loopback

TARGETS, INTERVAL, ROUNDS = quick(2000, 10000), quick(4, 10), quick(4, 5)
JITTER, GRAIN, LATE = 0.05, 0.010, 0.100

ROWS = [
    Row("schedule", f"{TARGETS} plain targets at {INTERVAL} s, started within 100 ms of due", "%", "", at_least=99.9)
]


def note_arrivals(listener, seconds, results):
    """The moments at which each of its addresses was connected to."""
    arrivals, end = {}, time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            peer, _ = listener.accept()
        except OSError:
            continue
        arrivals.setdefault(peer.getsockname()[0], []).append(time.monotonic())
        peer.close()
    results.send((arrivals, end))


def measure(rows):
    results, sender = multiprocessing.Pipe(False)
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen(4096)
        listener.settimeout(1)
        targets = loopback(TARGETS, listener.getsockname()[1])
        noting = multiprocessing.Process(
            target=note_arrivals, args=(listener, ROUNDS * INTERVAL, sender), daemon=True
        )
        noting.start()
        with Ours(targets, f'connect_interval = "{INTERVAL}s"', "haproxy_v2 = true") as ours:
            arrivals, end = results.recv()
            failures, example = ours.status()[1], ours.status()[4]
        noting.join()
    if failures or len(arrivals) < TARGETS:
        raise Unmeasured(f"{len(arrivals)} targets seen, {failures} probes failed: {example}")
    # The gap before the second probe is not counted: its length moves the target to its place within the
    # interval.
    settled = [times[1:] for times in arrivals.values()]
    gaps = sorted(b - a for times in settled for a, b in zip(times, times[1:]))
    low, high = gaps[len(gaps) // 100], gaps[len(gaps) * 99 // 100]
    width = (high - low) / 0.98
    longest = min(high + 0.01 * width, INTERVAL * (1 + JITTER))
    # A probe that has not come by the end of the run counts as well, if it is late enough by then.
    gaps += [end - times[-1] for times in arrivals.values() if end - times[-1] > longest + GRAIN]
    over = sum(gap > longest + GRAIN for gap in gaps)
    late = min(len(gaps), max(over * width / (LATE - GRAIN), sum(gap > longest + LATE for gap in gaps)))
    rows["schedule"].alone([100 * (1 - late / len(gaps))])
    rows["schedule"].note = (
        f"{len(gaps)} probes, {over} later than any jitter by 10 ms; "
        f"mean gap {sum(gaps) / len(gaps):.3f} s, longest {max(gaps):.3f} s"
    )
