"""Words about users' bindings, and `route`, with a real Redis: through a running engine, and without one."""

import imaplib
import os
import re
import signal
import subprocess
import sys

import lab
from lab import run, test, wait_for

folder = lab.folder()
peers = lab.Helper("peers.py")
redis = lab.Helper("redis.py")
store = redis.ask("start", name="one")["port"]
ports = [peers.ask("open", name=f"mail{n}", script="send * OK ready\\r\\n")["port"] for n in (1, 2)]
state, ready = folder / "state", folder / "ready"
# A machine that builds and tests other things at once may need longer than the default.
wait = ["--wait", "60s"]


def configuration(name, *lines, cluster=True):
    path = folder / name
    path.write_text("\n".join([
        "backend_server_monitoring:",
        "  log: none",
        "  node_down_after: 0",
        *([f"  cluster: {{ redis: 'redis://127.0.0.1:{store}', min_stay: 0s }}"] if cluster else []),
        *(f"  {line}" for line in lines),
        "  backend_servers:",
        *(f"    - {{ protocol: imap, host: 127.0.0.1, port: {port}, node: mail{n} }}" for n, port in enumerate(ports, 1)),
    ]) + "\n")
    return path


bare = configuration("bare.yml")
shared = configuration("shared.yml", f"state_file: {state}")
lonely = configuration("lonely.yml", cluster=False)
directly = ["--config", bare, *wait]
by_engine = ["--config", shared, *wait]


def cli(*words):
    return redis.ask("cli", name="one", args="\t".join(words))["text"]


def changes():
    return re.search(r"rdb_changes_since_last_save:(\d+)", cli("INFO", "persistence")).group(1)


def explained(user, *options, status=0):
    (found,) = run("route", user, *options, "--json").expect(status).json()
    return found


@test
def usage():
    """What is missing or wrong is named, and what was expected"""
    for words in [["move", "u", "n"], ["forget", "u"], ["hold", "u", "5m"], ["flush"], ["touch", "--node", "n"]]:
        run(*words, stdin="").expect(2, "--config, --state-file or NAUTHILUS_BACKEND_CONFIG expected")
        run(*words, "--config", lonely, stdin="").expect(1, "no store: .*lonely.yml has no cluster")
    run("hold", "u", "soon").expect(2, "a time expected, such as 500ms")
    run("move", "u", *directly).expect(2, "<NODE>")
    run("move", "", "mail1", *directly).expect(2, "1..1024 bytes expected, got 0 bytes")
    run("move", "u", "mail1", *directly, "--reason", "r" * 101).expect(2, "at most 100 bytes")
    for rate in ("0", "many"):
        run("flush", "--rate", rate, *directly).expect(2, r"a whole number 1\.\.1000000 expected")
    run("events", "--since", "then", *directly).expect(2, "a whole number from 0 on expected")
    run("route", "u", "--protocol", "gopher", *directly).expect(2, "one of imap, .*expected, got \"gopher\"")
    run("touch", *directly, stdin="").expect(2, "--node <NODE>")
    for words in [["move", "u", "mail3"], ["flush", "mail3"], ["touch", "--node", "mail3"]]:
        run(*words, *directly, stdin="u\n").expect(1, "unknown node mail3")
    run("drain", "node:mail3", *directly).expect(1, 'no such target or node: "node:mail3"; a target.s key expected')
    run("nodes", *directly).expect(1, "names no state_file")


@test
def without_engine():
    """move, forget, hold and flush in Redis itself; route reads it and writes nothing; no machine is registered"""
    run("route", "alice", *directly).expect(0, rf"^view +Redis at 127\.0\.0\.1:{store}; servers: presumed alive", "^how +new")
    home = explained("alice", *directly)["node"]
    other = {"mail1": "mail2", "mail2": "mail1"}[home]
    run("move", "Alice", other, *directly, "--by", "ann", "--reason", "a test").expect(0, rf"^Alice: bound to {other}$")
    before = changes()
    run("route", "alice", *directly).expect(0, "^how +bound", rf"^bound +to {other} since .*, by ann, reason a test$")
    found = explained("alice", *directly)
    assert (found["node"], found["how"], found["by"], found["reason"]) == (other, "bound", "ann", "a test"), found
    assert changes() == before, "route has written"
    run("move", "alice", home, *directly, "--keep").expect(0, rf"^alice: pinned to {home}, left {other}$")
    assert explained("alice", *directly)["how"] == "pinned"
    run("hold", "alice", "10m", *directly).expect(0, rf"^alice: held for 10m, bound to {home}$")
    found = explained("alice", *directly, status=1)
    assert found["reason"] == "held" and found["server"] is None, found
    run("hold", "alice", "0", *directly).expect(0, "^alice: not held")
    run("forget", "alice", *directly).expect(0, rf"^alice: no longer bound to {home}$")
    run("forget", "alice", *directly).expect(0, "^alice: was not bound$")
    for user in range(5):
        run("move", f"user{user}", "mail1", *directly).expect(0)
    run("flush", "mail1", "--rate", "1000", *directly).expect(0, "^mail1: 5 bindings released$")
    assert cli("ZCARD", "{nauthilus_backend}:machines") == "0"
    assert "alice" not in cli("KEYS", "*"), "users are in Redis by their digests"


@test
def settings_without_engine():
    """drain and auto are set in Redis for all machines, and route knows of them"""
    run("drain", "node:mail1", *directly, "--by", "ann").expect(0, rf"drain \(for all machines, in Redis at 127\.0\.0\.1:{store}\)$")
    assert explained("carol", *directly)["node"] == "mail2"
    assert "ann" in cli("HGET", "{nauthilus_backend}:store:settings", "state:node:mail1")
    run("auto", "node:mail1", *directly).expect(0)
    run("maintenance", "node:mail2", *directly, "--for", "1h").expect(0)
    assert explained("carol", *directly)["node"] == "mail1"
    run("auto", "node:mail2", *directly).expect(0)
    run("drain", f"imap://127.0.0.1:{ports[0]}", *directly).expect(0)
    assert cli("ZCARD", "{nauthilus_backend}:machines") == "0"


@test
def doveadm_who():
    """touch reads what a real doveadm who prints"""
    dovecot = lab.Helper("dovecot.py")
    try:
        mail = dovecot.ask("start")
        sessions = []
        for user in ("alice", "bob", "dora"):
            session = imaplib.IMAP4("127.0.0.1", int(mail["imap"]))
            session.login(user, "secret")
            sessions.append(session)
        for user, node in (("alice", "mail1"), ("bob", "mail2")):
            run("move", user, node, *directly).expect(0)
        who = wait_for(
            lambda text: all(user in text for user in ("alice", "bob", "dora")),
            lambda: subprocess.run(
                ["doveadm", "-c", f"{mail['folder']}/dovecot.conf", "who"], capture_output=True, text=True, check=True
            ).stdout,
        )
        run("touch", "--node", "mail1", *directly, stdin=who).expect(0, "^mail1: 1 of 3 users bound to it$")
        run("touch", "--node", "mail2", *directly, stdin="bob\nalice\n").expect(0, "^mail2: 1 of 2 users")
        strange = "alice\n\x1b[2J\nbob\n" + "u" * 1_025 + "\n"
        run("touch", "--node", "mail2", *directly, stdin=strange).expect(
            1, "^mail2: 1 of 2 users", "standard input: 2 lines left out, the first: line 2: .*control characters")
        for session in sessions:
            session.logout()
    finally:
        dovecot.close()


environment = {**os.environ, "LUA_CPATH": f"{lab.ROOT}/build/lua5.4/?.so", "LUA_INIT": ""}
engine = subprocess.Popen(
    ["lua5.4", str(lab.ROOT / "tests/command/engine.lua"), str(shared), str(ready)],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
)


def engine_says():
    engine.stdin.write("?\n")
    engine.stdin.flush()
    return engine.stdout.readline().strip()


wait_for(lambda there: there, lambda: ready.exists() and state.exists())


@test
def by_an_engine():
    """The engine that keeps the state file does it: its events show that, and no user stays in the file"""
    wait_for(lambda text: text == "drain 1", engine_says)
    run("auto", f"imap://127.0.0.1:{ports[0]}", *by_engine).expect(0, "auto$")
    run("move", "erika", "mail1", *by_engine).expect(0, "^erika: bound to mail1$")
    run("move", "erika", "mail2", *by_engine, "--by", "ann").expect(0, "^erika: bound to mail2, left mail1$")
    run("hold", "erika", "1h", *by_engine, "--by", "ann").expect(0, "^erika: held for 1h, bound to mail2$")
    run("events", *by_engine).expect(0, r"move +node:mail1  mail1 -> mail2 .*by ann", "node:mail2  user held  by ann")
    run("hold", "erika", "0", *by_engine).expect(0)
    run("touch", "--node", "mail2", *by_engine, stdin="erika\nfritz\n").expect(0, "^mail2: 1 of 2 users")
    run("flush", "mail2", *by_engine).expect(0, "^mail2: being released, 100 bindings a second at most$")
    wait_for(lambda found: found["how"] != "bound", lambda: explained("erika", *by_engine))
    run("forget", "erika", *by_engine).expect(0, "^erika: was not bound$")
    run("move", "erika", "mail3", *by_engine).expect(1, "unknown node mail3")
    content = state.read_bytes()
    assert b"erika" not in content and b"fritz" not in content, "a request stays in the state file"
    assert state.stat().st_mode & 0o777 == 0o600
    found = explained("erika", *by_engine)
    assert f"Redis at 127.0.0.1:{store}; servers: state file {state}, " in found["view"], found


@test
def many_users():
    """touch with more users than a request has room for"""
    users = "".join(f"user-number-{n}@example.org\n" for n in range(1_000))
    run("move", "user-number-7@example.org", "mail1", *by_engine).expect(0)
    run("move", "user-number-999@example.org", "mail1", *by_engine).expect(0)
    run("touch", "--node", "mail1", *by_engine, stdin=users).expect(0, "^mail1: 2 of 1000 users bound to it$")


@test
def users_of_nodes():
    """nodes shows how many users each node has"""
    wait_for(
        lambda nodes: [node["users"] for node in nodes] == [3, 0],
        lambda: run("nodes", *by_engine, "--json").expect(0).json(),
    )
    run("nodes", *by_engine).expect(0, r"^NODE +POOL +WEIGHT +STATE +USERS +USABLE$", r"^mail1 +100 auto +3 yes$")


@test
def within_two_seconds():
    """The default time to wait is enough: one of some tries is answered within it"""
    tries = (run("nodes", "--config", shared) for _ in range(30))
    assert any(done.status == 0 for done in tries)


@test
def engine_that_is_stopped():
    """Where no engine answers, Redis is asked without it"""
    engine.send_signal(signal.SIGSTOP)
    try:
        said = "no engine answered within 0.5 s.*; going on without an engine"
        options = ["--config", shared, "--wait", "500ms"]
        # Redis may need longer than that as well on a busy machine.
        wait_for(lambda done: done.status == 0, lambda: run("move", "greta", "mail2", *options)).expect(0, said)
        wait_for(lambda done: done.status == 0, lambda: run("drain", "node:mail2", *options)).expect(0, said, "for all machines")
        run("nodes", *options).expect(1, "no engine answered")
        assert b"greta" not in state.read_bytes(), "what was not answered is taken back"
    finally:
        engine.send_signal(signal.SIGCONT)
    run("auto", "node:mail2", *by_engine).expect(0)


@test
def redis_down():
    """With Redis down each word says so, and route what there is without it"""
    redis.ask("kill", name="one")
    refused = f"Redis at 127\\.0\\.0\\.1:{store}.*refused"
    run("move", "alice", "mail1", *directly).expect(1, refused)
    run("drain", "node:mail1", *directly).expect(1, refused)
    run("forget", "alice", *by_engine).expect(1, "store unavailable: .")
    run("route", "zoe", *directly).expect(1, f"{refused}.*: the user's binding is not known", "^how +fallback", "^view +without Redis")
    refusing = configuration("refusing.yml")
    refusing.write_text(refusing.read_text().replace("min_stay: 0s", "on_error: refuse"))
    run("route", "zoe", "--config", refusing).expect(1, "^node +none: store unavailable")
    secret = folder / "secret"
    refusing.write_text(refusing.read_text().replace("on_error: refuse", f"password_file: {secret}"))
    run("route", "zoe", "--config", refusing).expect(1, f"cluster.password_file: {secret}: no such file")


engine.kill()
engine.wait()
for helper in (peers, redis):
    helper.close()
sys.stdout.flush()
lab.finish()
