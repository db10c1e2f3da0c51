"""What the rows of `make bench` share: how long things take, what a process uses, how figures
are compared. Figures of one row come from one run, ours and the baseline's in turn."""

import dataclasses
import json
import os
import pathlib
import random
import resource
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/openresty"))

QUICK = os.environ.get("QUICK", "") not in ("", "0")


def quick(short, full):
    """`short` in a run that only checks that the benchmarks work, else `full`."""
    return short if QUICK else full


class Unmeasured(Exception):
    """Raised where a row has no figure; one line says why."""

    def __str__(self):
        return " ".join(super().__str__().split())


# --- Rows --------------------------------------------------------------------------------------


@dataclasses.dataclass
class Row:
    """One line of the table: what is promised, and what was found."""

    name: str
    what: str
    unit: str
    beside: str  # the baseline, in words
    at_most: float | None = None  # the goal: of the ratio, or of our figure where there is none
    at_least: float | None = None
    ours: list = dataclasses.field(default_factory=list)
    baseline: list = dataclasses.field(default_factory=list)
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    by_chance: bool = False  # figures of trials at random moments
    limit: float | None = None  # how low the ratio can be, where that was measured beside it
    note: str = ""
    failed: str = ""  # why it could not be measured

    @property
    def compares(self):
        return self.beside != ""

    def figure(self):
        """The figure that is compared with the goal."""
        if self.failed or not self.ours:
            return None
        return self.ratio if self.compares else statistics.median(self.ours)

    def met(self):
        figure = self.figure()
        if figure is None:
            return None
        if self.at_least is not None:
            return figure >= self.at_least
        return figure <= self.at_most or self.is_tie()

    def is_tie(self):
        """Whether a ratio of trials is above its goal by less than its spread, so perhaps by chance."""
        return self.by_chance and self.low <= self.at_most < self.ratio

    def is_beyond_limit(self):
        """Whether the goal was missed, and is lower than any program could reach."""
        return not self.met() and self.limit is not None and self.at_most < self.limit

    def limited_by(self, least, what):
        """Takes figures of a program that does only the least that the work needs, measured in the same
        rounds as ours; returns the words of a note that say what that program is and how near ours is to
        it."""
        ratios = pair_ratios(least, self.baseline)
        self.limit = statistics.median(ratios)
        return (
            f"limit: {self.limit:.2f} ({min(ratios):.3g} … {max(ratios):.3g}), {what}, "
            f"{statistics.median(least):.3g} {self.unit}; "
            f"ours is {median_ratio(self.ours, least):.2f} of that"
        )

    def goal(self):
        sign, limit = ("≥", self.at_least) if self.at_most is None else ("≤", self.at_most)
        return f"{sign} {limit:g}{' ×' if self.compares else ' ' + self.unit}"

    def pairs(self, ours, baseline):
        """Figures of runs that followed each other in pairs: the ratio is the median of the pairs' ratios,
        the spread from the least to the greatest of them."""
        if len(ours) != len(baseline) or not ours:
            raise Unmeasured(f"{self.beside} gave no figure")
        ratios = pair_ratios(ours, baseline)
        self.ours, self.baseline = list(ours), list(baseline)
        self.ratio, self.low, self.high = statistics.median(ratios), min(ratios), max(ratios)
        return self

    def slices(self, ours, baseline):
        """Figures of many short runs beside each other: the ratio is the median of the pairs' ratios, the
        spread what nineteen of twenty repetitions would give."""
        self.pairs(ours, baseline)
        ratios = [a / b for a, b in zip(ours, baseline)]
        self.low, self.high = repeated(ratios, statistics.median)
        return self

    def trials(self, ours, baseline):
        """Figures of trials at moments that chance chose, in rounds of many: the ratio is that
        of the medians of all, the spread what nineteen of twenty repetitions of the rounds
        would give."""
        if not ours or len(ours) != len(baseline) or not all([*ours, *baseline]):
            raise Unmeasured(f"{self.beside} gave no figure")

        def flat(rounds):
            return [figure for one in rounds for figure in one]

        def ratio(rounds):
            return statistics.median(flat(a for a, _ in rounds)) / statistics.median(flat(b for _, b in rounds))

        self.ours, self.baseline = flat(ours), flat(baseline)
        rounds = list(zip(ours, baseline))
        self.ratio, self.by_chance = ratio(rounds), True
        self.low, self.high = repeated(rounds, ratio)
        return self

    def alone(self, values):
        """Figures without a baseline."""
        self.ours = list(values)
        self.low, self.high = min(values), max(values)
        return self

    def as_json(self):
        return {
            "name": self.name, "what": self.what, "unit": self.unit, "baseline_is": self.beside,
            "ours": statistics.median(self.ours) if self.ours else None,
            "baseline": statistics.median(self.baseline) if self.baseline else None,
            "ratio": self.ratio, "low": self.low, "high": self.high,
            "goal": self.goal(), "met": self.met(), "limit": self.limit, "note": self.note, "failed": self.failed,
            "ours_all": self.ours, "baseline_all": self.baseline,
        }


def repeated(samples, figure):
    """Between which two values `figure` is in nineteen of twenty repetitions (a bootstrap)."""
    draw = random.Random(1)
    again = sorted(figure(draw.choices(samples, k=len(samples))) for _ in range(400))
    return again[10], again[-11]


def pair_ratios(ours, baseline):
    return [a / b for a, b in zip(ours, baseline)]


def median_ratio(ours, baseline):
    return statistics.median(pair_ratios(ours, baseline))


def alternate(rounds, **measures):
    """Runs each measure in turn, `rounds` times; returns a list of figures for each."""
    figures = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            figures[name].append(measure())
    return figures


# --- What a process uses -----------------------------------------------------------------------


def tasks(pid):
    return list(pathlib.Path(f"/proc/{pid}/task").iterdir())


def cpu_seconds(pid):
    """User and system time of all its threads, to the nanosecond."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks(pid)) / 1e9


def status_field(path, name):
    for line in path.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise Unmeasured(f"no {name} in {path}")


def wake_ups(pid):
    """How often its threads went to sleep of their own accord."""
    return sum(status_field(task / "status", "voluntary_ctxt_switches") for task in tasks(pid))


def resident_kb(pid):
    return status_field(pathlib.Path(f"/proc/{pid}/status"), "VmRSS")


def connections_opened():
    """TCP connections that this machine has begun to open, ever."""
    rows = [
        line.split()
        for line in pathlib.Path("/proc/net/snmp").read_text().splitlines()
        if line.startswith("Tcp:")
    ]
    return int(rows[1][rows[0].index("ActiveOpens")])


def raise_descriptor_limit(wanted):
    """Processes started from here inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Unmeasured(f"needs {wanted} descriptors, the limit is {hard} (ulimit -Hn)")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# --- Programs written in Rust ------------------------------------------------------------------


def built(bench):
    """The path of one of the programs beside this file, built."""
    command = ["cargo", "build", "--release", "--locked", "--quiet", "--bench", bench]
    done = subprocess.run(
        [*command, "--message-format=json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Unmeasured(f"cargo build --bench {bench}: {done.stderr.strip()[-300:]}")
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == bench:
            return message["executable"]
    raise Unmeasured(f"cargo built no {bench}")
