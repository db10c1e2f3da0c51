#!/usr/bin/env python3
"""Several engines with tables of their own, as on several machines, and one Redis: they are warned of configurations
that differ, follow what an operator sets on one of them, and leave a node only by quorum. Prints TAP."""

import json
import pathlib
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/openresty"))
from lab import Backend, equal, free_port, run_tests, test, until
import redis


class Engine:
    """An engine whose nodes, a letter each, have ports of its own, so that the test decides what it sees."""

    def __init__(self, world, cluster=None, nodes="", names="ab", protocols=("imap",), **settings):
        self.backends = {(name, protocol): Backend(port=free_port()) for name in names for protocol in protocols}
        self.path = world.folder / f"engine{len(world.engines)}.lua"
        self.log = world.folder / f"log{len(world.engines)}"
        self.write(world, cluster, nodes, settings)
        self.process = subprocess.Popen(
            ["lua5.4", str(ROOT / "tests/cluster/agent.lua"), str(ROOT / "build/lua5.4"), str(self.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=redis.die_with_parent,
        )
        world.engines.append(self)
        equal(self.process.stdout.readline().strip(), "true", "verdicts")

    def write(self, world, cluster, nodes, settings):
        """Writes the configuration."""
        servers = ", ".join(
            f'{{ protocol = "{protocol}", host = "127.0.0.1", port = {backend.port}, node = "{name}" {nodes} }}'
            for (name, protocol), backend in self.backends.items()
        )
        options = "".join(f", {key} = {json.dumps(value)}" for key, value in settings.items())
        store = "".join(f", {key} = {json.dumps(value)}" for key, value in (cluster or {}).items())
        self.path.write_text(f"""return {{
  connect_interval = "50ms", fast_interval = "50ms", connect_timeout = "5s", log = "{self.log}",
  node_down_after = 0, node_up_after = 0, failure_threshold = 1, panic_threshold = 0,
  cluster = {{ redis = "{world.url}", prefix = "{world.prefix}", timeout = "5s", min_stay = 0 {store} }},
  backend_servers = {{ {servers} }} {options}
}}""")

    def add_node(self, world, name):
        """Puts a configuration with one more node in force."""
        self.backends[name, "imap"] = Backend(port=free_port())
        self.write(world, None, "", {})
        self.ask(f"nb.configure(dofile('{self.path}'))")
        equal(self.ask("nb.wait_ready(60)"), "true", "verdicts")

    def ask(self, expression):
        self.begin(expression)
        return self.end()

    def begin(self, expression):
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()

    def end(self):
        return self.process.stdout.readline().rstrip("\n")

    def route(self, user, protocol=None):
        wanted = f", {{ protocol = '{protocol}' }}" if protocol else ""
        return self.ask(f"route('{user}'{wanted})").split("\t")

    def sees(self, node, usable):
        """Makes this engine alone find a node usable or not."""
        if usable:
            self.backends[node, "imap"].up()
        else:
            self.backends[node, "imap"].down()
        until(lambda: self.ask(f"usable('{node}')") == str(usable).lower(), 60, f"{node} usable: {usable}")

    def loses(self, node, protocol):
        """Makes this engine alone find one daemon of a node dead."""
        self.backends[node, protocol].down()
        until(lambda: self.ask(f"lists('{node}', '{protocol}')") == "false", 60, f"{protocol} of {node} dead")

    def kill(self):
        self.process.kill()
        self.process.wait()


class World:
    """One Redis for the engines of a test."""

    def __init__(self, servers, prefix):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nb-machines-", dir=servers.folder))
        self.servers, self.prefix, self.engines = servers, prefix, []
        self.url = f"redis://127.0.0.1:{servers.start('one')['port']}"

    def cli(self, *words):
        return self.servers.cli("one", "\t".join(words))["text"]

    def key(self, name):
        return f"{{{self.prefix}}}:{name}"

    def end(self):
        for engine in self.engines:
            engine.kill()


SERVERS = redis.Servers(tempfile.mkdtemp(prefix="nb-machines-"))


def differing():
    """What differs between machines is told on each of them."""
    world = World(SERVERS, "differing")
    try:
        first, same = Engine(world), Engine(world)
        with test("machines with one configuration are not warned of, and have one hash in the metrics"):
            until(lambda: world.cli("ZCARD", world.key("machines")) == "2", what="two machines")
            until(lambda: first.route("alice")[1] in ("new", "bound"), what="a binding")
            equal(first.ask("warnings()"), "")
            equal(same.ask("warnings()"), "")
            hashed = "metric('nauthilus_backend_config_info{')"
            assert first.ask(hashed).startswith("nauthilus_backend_config_info{hash="), first.ask(hashed)
        with test("a machine with other settings is warned of on both sides, in log, events and metrics"):
            other = Engine(world, {"verdicts": "quorum"}, nodes=", weight = 7", user_key="local")
            words = ("nodes, pools or weights", "settings of user_key, separators or key_file", "settings of retention,")
            for engine in (first, same, other):
                until(lambda: all(word in engine.ask("warnings()") for word in words), 60, "the warning")
                assert engine.ask("warnings()").startswith("cluster: "), engine.ask("warnings()")
            assert "cluster_warning" in first.log.read_text(), "nothing in the log"
            assert first.ask("difference()").startswith(f"differs {words[0]}"), first.ask("difference()")
            assert first.ask(hashed) != other.ask(hashed), "one hash in the metrics"
        with test("only until it is gone"):
            other.kill()
            # Its registration would end by itself after 10 s.
            world.cli("ZREMRANGEBYRANK", world.key("machines"), "0", "-1")
            until(lambda: first.ask("warnings()") == "" == same.ask("warnings()"), 60, "the end of the warning")
    finally:
        world.end()


def operators():
    """What an operator sets on one machine is known on all, and survives the loss of the store's data."""
    world = World(SERVERS, "operators")
    try:
        first, second = Engine(world), Engine(world)
        states = "(function() local t = {} for _, n in ipairs(nb.nodes()) do t[#t + 1] = n.node .. n.state .. n.weight end return table.concat(t, ' ') end)()"
        with test("a drain and a weight are known on the other machine"):
            first.route("alice")
            second.route("alice")
            first.ask("nb.set_target_state('node:a', 'drain', { by = 'ann' })")
            first.ask("nb.set_node_weight('b', 7)")
            until(lambda: second.ask(states) == "adrain100 bauto7", 60, "what was set")
        with test("an emptied store has them again, and a third machine learns them"):
            SERVERS.kill("one")
            SERVERS.start("one")
            third = Engine(world)
            third.route("alice")
            until(lambda: third.ask(states) == "adrain100 bauto7", 60, "what was set")
        with test("what is taken back later counts everywhere"):
            third.ask("nb.set_target_state('node:a', 'auto')")
            for engine in (first, second, third):
                until(lambda: engine.ask(states) == "aauto100 bauto7", 60, "what was set last")
    finally:
        world.end()


def quorum():
    """A node is left only when more than half of the living machines find it unusable."""
    world = World(SERVERS, "quorum")
    try:
        engines = [Engine(world, {"verdicts": "quorum"}) for _ in range(3)]
        first, second, third = engines
        with test("one of three machines that sees a node down goes on sending its users there"):
            until(lambda: first.route("alice")[1] in ("new", "bound"), what="a binding")
            # For 10 s after a store was empty no quorum counts: machines may be missing.
            world.cli("HSET", world.key("store"), "born", "1")
            node = first.route("alice")[0]
            other = "b" if node == "a" else "a"
            for engine in engines:
                equal(engine.route("alice")[:2], [node, "bound"])
            first.sees(node, False)
            # Until the others can have registered with what they see, and once more.
            for _ in range(20):
                equal(first.route("alice")[:2], [node, "bound"])
        with test("two of three move the users, and the third one obeys"):
            second.sees(node, False)

            def moved():
                answer = second.route("alice")
                assert answer[1] in ("bound", "moved"), answer
                return answer[0] == other

            until(moved, 60, "the move")
            for engine in engines:
                equal(engine.route("alice")[:2], [other, "bound"])
        with test("they stay when the node is back"):
            first.sees(node, True)
            second.sees(node, True)
            for engine in engines:
                equal(engine.route("alice")[:2], [other, "bound"])
        with test("of two machines, one is not more than half"):
            third.kill()
            world.cli("ZREMRANGEBYRANK", world.key("machines"), "0", "-1")
            until(lambda: world.cli("ZCARD", world.key("machines")) == "2", 60, "two machines")
            first.sees(other, False)
            for _ in range(20):
                equal(first.route("alice")[:2], [other, "bound"])
            second.sees(other, False)
            until(lambda: first.route("alice")[0] == node, 60, "the move")
    finally:
        world.end()


def memories():
    """What is decided on one machine is not undone by what another one remembers."""
    world = World(SERVERS, "memories")

    def ended():
        """The record's own end has passed: what keeps it now is what other machines may remember."""
        key = world.cli("KEYS", world.key("user:*"))
        now = int(world.cli("TIME").split()[0]) * 1000
        return now > int(world.cli("HGET", key, "until") or 0) + 1000

    try:
        first, second = (Engine(world, {"retention": "2s"}) for _ in range(2))
        until(lambda: first.route("alice")[1] in ("new", "bound"), what="a binding")
        home = first.route("alice")[0]
        other = "b" if home == "a" else "a"
        for call in ("forget_user('alice')", f"move_user('alice', '{home}')"):
            with test(f"a pin that {call} has ended is not made again by a machine that remembers it"):
                first.ask(f"nb.move_user('alice', '{other}', {{ keep = true }})")
                equal(second.route("alice")[:2], [other, "pinned"])
                first.ask(f"nb.{call}")
                until(ended, 60, "the end of the binding")
                for engine in (second, first):
                    node, how = engine.route("alice")[:2]
                    equal((node, how in ("new", "bound")), (home, True), how)
    finally:
        world.end()


def strangers():
    """A machine remembers users of a node that it does not have."""
    world = World(SERVERS, "strangers")
    try:
        first, second = Engine(world), Engine(world, names="abc")
        with test("users of a node that only other machines have are left alone when the store has lost its data"):
            until(lambda: first.route("carol")[1] in ("new", "bound"), what="a binding")
            for user in ("alice", "bob", "zoe", "ann"):
                second.ask(f"nb.move_user('{user}', 'c')")
                equal(first.route(user)[:2], ["nil", "unknown node c"])
            world.cli("FLUSHALL")

            def named():
                answer = first.route("alice")
                # The name is known when a machine that has the node is registered again.
                assert answer[:2] in (["nil", "unknown node ?"], ["nil", "unknown node c"]), answer
                return answer[1] == "unknown node c"

            until(named, 60, "the name of the node")
            equal(world.cli("HGET", world.cli("KEYS", world.key("user:*")), "node"), "c", "written back")
            equal(second.route("alice")[:2], ["c", "bound"])
        with test("users of a node that no machine has are moved when all can have registered"):
            second.kill()
            world.cli("FLUSHALL")
            equal(first.route("bob")[:2], ["nil", "unknown node ?"])
            # A hold would lose the node; who is forgotten loses it on purpose.
            equal(first.ask("nb.hold_user('bob', '1m')"), "nil\tunknown node ?")
            equal(first.ask("select(2, nb.forget_user('ann')).left"), "true")
            until(lambda: world.cli("ZCARD", world.key("machines")) == "1", 60, "the registration")
            equal(first.route("bob")[:2], ["nil", "unknown node ?"])
            world.cli("HSET", world.key("store"), "born", "1")
            node, how, left, by = first.route("bob")
            equal((node in "ab", how, left), (True, "moved", "?"))
            assert by, "by whom"
        with test("a node that a machine gets is the one that it remembers"):
            SERVERS.kill("one")
            first.add_node(world, "c")
            until(lambda: first.route("zoe")[1] not in ("new", "bound"), 60, "the failure of the store")
            equal(first.route("zoe")[:2], ["c", "remembered"])
    finally:
        world.end()


def daemons():
    """One daemon of a node dies: a quorum is one of the machines that find it dead, whatever they see of the others."""
    both = ("imap", "pop3")
    for name, nodes, node_usable, others in (
        ("match", "", "match", ()),
        ("the way out of all", "", "all", ("pop3",)),
        ("nodes without vital targets", ", vital = false", "all", ()),
    ):
        world = World(SERVERS, "daemons-" + name.replace(" ", "-"))
        try:
            cluster = {"verdicts": "quorum"}
            engines = [
                Engine(world, cluster, nodes, protocols=protocols, node_usable=node_usable)
                # The last one has no target of the protocol: it cannot tell, and does not count.
                for protocols in (both, both, both, ("pop3",))
            ]
            first, second, third, other = engines
            with test(f"{name}: a daemon that one of three machines finds dead keeps its users"):
                until(lambda: first.route("alice", "imap")[1] in ("new", "bound"), what="a binding")
                world.cli("HSET", world.key("store"), "born", "1")
                node = first.route("alice", "imap")[0]
                left = "b" if node == "a" else "a"
                for engine in engines[:3]:
                    for protocol in others:
                        # The node that is left has a dead daemon as well: of it what matches counts.
                        engine.loses(left, protocol)
                first.loses(node, "imap")
                for _ in range(20):
                    equal(first.route("alice", "imap")[:2], [node, "bound"])
            with test(f"{name}: one that two of three find dead loses them, and logins over others do not"):
                second.loses(node, "imap")
                for engine in engines:
                    equal(engine.route("alice", "pop3")[:2], [node, "bound"])
                until(lambda: first.route("alice", "imap")[:2] == [left, "moved"], 60, "the move")
                for engine in engines[:3]:
                    equal(engine.route("alice", "imap")[:2], [left, "bound"])
        finally:
            world.end()


if __name__ == "__main__":
    try:
        run_tests(differing, operators, quorum, memories, strangers, daemons)
    finally:
        SERVERS.stop_all()
        subprocess.run(["rm", "-rf", SERVERS.folder], check=False)
