#!/usr/bin/env python3
"""Eight engines with tables of their own and four views of which nodes are alive, and one Redis that is frozen, emptied
and killed meanwhile. Everything that is written in Redis and every answer is recorded, and then checked. Prints TAP.

LOGINS, USERS and SECONDS_AT_LEAST say how many logins all engines make together, of how many users, in what time at the least.
"""

import collections
import hashlib
import os
import pathlib
import random
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/openresty"))
from lab import equal, free_port, run_tests, test, until
import redis

LOGINS = int(os.environ.get("LOGINS", "4000"))
USERS = int(os.environ.get("USERS", "100"))
SECONDS = float(os.environ.get("SECONDS_AT_LEAST", "5"))
MIN_STAY = float(os.environ.get("MIN_STAY", "1"))
ENGINES, NODES = 8, "abcd"
# Those that some views find dead. The others are alive in all.
DISPUTED = "ab"
VIEWS = ["", "a", "b", "ab"]

WRITE = re.compile(
    rb'"HSET" "\{agreement\}:user:([0-9a-f]+)" "node" "([a-d]?)" "since" "(\d+)" "until" "(\d*)" "from" "([a-d]?)" '
    rb'"reason" "([^"]*)" "by" "([^"]*)" "generation" "(\d+)"'
)
Write = collections.namedtuple("Write", "life user node since source reason generation")
Answer = collections.namedtuple("Answer", "time user node how since")


class Listeners:
    """The ports of the nodes, for each view its own. One thread accepts all connections."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.lock = threading.Lock()
        self.ports, self.sockets = {}, {}
        for view in range(len(VIEWS)):
            for node in NODES:
                self.ports[view, node] = free_port(taken=self.ports.values())
                self.open(view, node)
        threading.Thread(target=self.accept, daemon=True).start()

    def open(self, view, node):
        listener = socket.create_server(("127.0.0.1", self.ports[view, node]), backlog=1024)
        listener.setblocking(False)
        with self.lock:
            self.sockets[view, node] = listener
            self.selector.register(listener, selectors.EVENT_READ)

    def close(self, view, node):
        with self.lock:
            listener = self.sockets.pop((view, node))
            self.selector.unregister(listener)
            listener.close()

    def is_open(self, view, node):
        return (view, node) in self.sockets

    def accept(self):
        while True:
            for key, _ in self.selector.select(0.1):
                with self.lock:
                    try:
                        key.fileobj.accept()[0].close()
                    except OSError:
                        pass


def until_reset(lines):
    """The lines of a connection until its peer is gone."""
    try:
        yield from lines
    except ConnectionResetError:
        pass


class Store:
    """A Redis whose writes of users' records are all recorded: it is reachable only while the record is made."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.socket = os.path.join(folder, "socket")
        self.writes, self.life, self.killed = [], 0, []
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [redis.program("server"), "--port", "0", "--unixsocket", self.socket, "--save", "", "--dir", self.folder],
            stdout=subprocess.DEVNULL, preexec_fn=redis.die_with_parent,
        )
        until(lambda: self.cli("PING") == "PONG", 60, "Redis")
        monitor = socket.socket(socket.AF_UNIX)
        monitor.connect(self.socket)
        monitor.sendall(b"MONITOR\r\n")
        lines = monitor.makefile("rb")
        equal(lines.readline(), b"+OK\r\n", "MONITOR")
        self.reader = threading.Thread(target=self.read, args=(lines,))
        self.reader.start()
        equal(self.cli("CONFIG", "SET", "port", str(self.port)), "OK", "the port")

    def read(self, lines):
        for line in until_reset(lines):
            if b'"HSET"' in line and (found := WRITE.search(line)):
                user, node, since, _, source, reason, _, generation = (part.decode() for part in found.groups())
                self.writes.append(Write(self.life, user, node, int(since), source, reason, int(generation)))
            elif b'"FLUSHALL"' in line:
                self.life += 1

    def cli(self, *words):
        done = subprocess.run([redis.program("cli"), "-s", self.socket, *words], capture_output=True, text=True, timeout=60)
        return done.stdout.strip()

    def kill(self):
        self.killed.append(time.time())
        self.process.kill()
        self.process.wait()
        self.reader.join(60)
        self.life += 1

    def freeze(self, seconds):
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        self.process.kill()
        self.process.wait()
        self.reader.join(60)


class Engine:
    def __init__(self, folder, index, listeners, store, seed):
        self.view = index % len(VIEWS)
        self.record = pathlib.Path(folder, f"record{index}")
        servers = ", ".join(
            f'{{ protocol = "imap", host = "127.0.0.1", port = {listeners.ports[self.view, node]}, node = "{node}" }}'
            for node in NODES
        )
        path = pathlib.Path(folder, f"engine{index}.lua")
        path.write_text(f"""return {{
  connect_interval = "200ms", fast_interval = "200ms", connect_timeout = "5s", log = "none",
  node_down_after = 0, node_up_after = 0, failure_threshold = 1, recovery_threshold = 1, panic_threshold = 0,
  cluster = {{ redis = "redis://127.0.0.1:{store.port}", prefix = "agreement", timeout = "500ms", min_stay = {MIN_STAY} }},
  backend_servers = {{ {servers} }},
}}""")
        self.process = subprocess.Popen(
            ["lua5.4", str(ROOT / "tests/cluster/logins.lua"), str(ROOT / "build/lua5.4"), str(path), str(self.record),
             str(LOGINS // ENGINES), str(USERS), str(SECONDS), str(seed + index)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=redis.die_with_parent,
        )
        equal(self.process.stdout.readline(), "ready\n", "engine")
        self.logins, self.is_done = 0, False

    def go(self):
        self.ask("go")
        threading.Thread(target=self.follow, daemon=True).start()

    def follow(self):
        for line in self.process.stdout:
            if line == "done\n":
                break
            self.logins = int(line)
        self.is_done = True

    def ask(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def nodes(self):
        self.ask("nodes")
        return self.process.stdout.readline().split()

    def answers(self):
        for line in self.record.read_text().splitlines():
            at, user, node, how, since = line.split("\t")
            yield Answer(float(at), int(user), node, how, int(since))


class Run:
    """All that happened."""

    def __init__(self, folder):
        self.seed = random.randrange(1 << 30)
        print(f"# seed {self.seed}")
        random.seed(self.seed)
        self.changes = 0
        self.listeners, self.store = Listeners(), Store(folder)
        for view, dead in enumerate(VIEWS):
            for node in dead:
                self.listeners.close(view, node)
        self.engines = [Engine(folder, index, self.listeners, self.store, self.seed) for index in range(ENGINES)]

    def turn_views(self):
        """Changes of view, until all logins are made."""
        while not self.is_done():
            time.sleep(MIN_STAY * random.uniform(0.3, 0.8))
            view, node = random.randrange(len(VIEWS)), random.choice(DISPUTED)
            if self.listeners.is_open(view, node):
                self.listeners.close(view, node)
            else:
                self.listeners.open(view, node)
            self.changes += 1

    def is_done(self):
        return all(engine.is_done for engine in self.engines)

    def disturb(self):
        def made(part):
            until(lambda: sum(engine.logins for engine in self.engines) >= LOGINS * part, 1800, f"{part} of the logins")

        made(0.25)
        self.store.kill()
        time.sleep(1)
        self.store.start()
        made(0.5)
        self.store.cli("FLUSHALL")
        made(0.7)
        self.store.freeze(1)
        made(0.8)
        self.store.kill()
        self.store.start()

    def make(self):
        began = time.time()
        for engine in self.engines:
            engine.go()
        views = threading.Thread(target=self.turn_views)
        views.start()
        self.disturb()
        views.join()
        until(self.is_done, 1800, "all logins")
        self.elapsed = time.time() - began

    def agree(self):
        """All engines see all nodes alive again."""
        for view, _ in enumerate(VIEWS):
            for node in DISPUTED:
                if not self.listeners.is_open(view, node):
                    self.listeners.open(view, node)


def users_of(writes):
    """The writes of each user's record, in the order in which Redis made them."""
    grouped = collections.defaultdict(list)
    for write in writes:
        grouped[write.user].append(write)
    return grouped


def agreement():
    folder = tempfile.mkdtemp(prefix="nb-agreement-")
    os.chmod(folder, 0o755)
    run = Run(folder)
    store, engines = run.store, run.engines
    try:
        with test(f"{ENGINES} engines with {len(VIEWS)} views make {LOGINS} logins of {USERS} users"):
            run.make()
        with test("at last all agree on the node of every user"):
            run.agree()

            def nodes():
                seen = [engine.nodes() for engine in engines]
                all_bound = all(answer.endswith(":bound") or answer.endswith(":new") for one in seen for answer in one)
                same = {tuple(answer.split(":")[0] for answer in one) for one in seen}
                return all_bound and len(same) == 1

            until(nodes, 120, "one node for every user")
    finally:
        for engine in engines:
            engine.process.kill()
            engine.process.wait()
        store.end()
    check(run, users_of(store.writes), [list(engine.answers()) for engine in engines])
    subprocess.run(["rm", "-rf", folder], check=False)


def check(run, records, answers):
    store = run.store
    losses = store.life
    hows = collections.Counter(answer.how for one in answers for answer in one)
    moves = {user: [write for write in writes if write.reason == "unusable"] for user, writes in records.items()}
    most = max(map(len, moves.values()))
    print(f"# {run.elapsed:.1f} s, {run.changes} changes of view, the data lost {losses} times, {len(store.writes)} records "
          f"written, {sum(map(len, moves.values()))} moves, at most {most} of one user; answers: {dict(hows)}")

    with test("every login was recorded, most were answered by the store, and users were moved"):
        equal(sum(hows.values()), LOGINS // ENGINES * ENGINES, "logins")
        assert hows["bound"] > LOGINS / 4, hows
        assert hows["moved"] > 0 and hows["new"] > 0 and hows["remembered"] > 0, hows
        equal(len(records), USERS, "users in the store")
    with test("within one generation a user has one node"):
        for user, writes in records.items():
            nodes = collections.defaultdict(set)
            for write in writes:
                nodes[write.generation].add((write.node, write.since))
            several = {generation: found for generation, found in nodes.items() if len(found) > 1}
            equal(several, {}, user)
    with test("while the store has its data, a user's generations rise with each write"):
        for user, writes in records.items():
            for before, after in zip(writes, writes[1:]):
                assert before.life != after.life or before.generation < after.generation, (user, before, after)
    with test("what a machine is told of a user never goes back, also after the data was lost"):
        for one in answers:
            latest = {}
            for answer in one:
                if answer.since:
                    assert latest.get(answer.user, 0) <= answer.since, answer
                    latest[answer.user] = answer.since
    with test("what a machine is told of a user is what was written"):
        # What Redis had written just before it was killed may be missing in the record.
        for answer in (answer for one in answers for answer in one if answer.since):
            writes = records[hashlib.sha256(f"user{answer.user}".encode()).hexdigest()]
            was_recorded = any((write.since, write.node) == (answer.since, answer.node) for write in writes)
            is_late = any(0 <= killed * 1000 - answer.since < 2000 for killed in store.killed)
            assert was_recorded or is_late, answer
    with test("what is remembered is the last that this machine was told"):
        for one in answers:
            told = {}
            for answer in one:
                if answer.how == "remembered":
                    last = (answer.node, answer.since)
                    equal(last, told.get(answer.user, last), answer)
                elif answer.since:
                    told[answer.user] = (answer.node, answer.since)
                else:
                    # The machine has learnt a binding, and gave its user no server.
                    told.pop(answer.user, None)
    with test("nobody is moved twice within min_stay, but for what was lost"):
        for user, writes in moves.items():
            for before, after in zip(writes, writes[1:]):
                assert before.life != after.life or after.since - before.since >= MIN_STAY * 1000, (user, before, after)
            # After a loss a machine that has an older record may move the user for that.
            assert len(writes) <= run.elapsed / MIN_STAY + 1 + losses, (user, len(writes))
    with test("nobody leaves a node that all find alive"):
        for user, writes in moves.items():
            for write in writes:
                assert write.source in DISPUTED, (user, write)


run_tests(agreement)
