"""Words that reach a running engine through its state file, `route`, and `watch` in pipes and in tmux."""

import contextlib
import http.server
import json
import os
import pwd
import re
import signal
import subprocess
import sys
import termios
import threading
import time

import lab
from lab import run, test, wait_for

folder = lab.folder()
peers = lab.Helper("peers.py")
port = peers.ask("open", name="one", script="send * OK ready\\r\\n")["port"]
dead = peers.ask("closed")["port"]
config, state, ready = folder / "c.yml", folder / "state", folder / "ready"
config.write_text(
    "backend_server_monitoring:\n"
    "  log: none\n"
    f"  state_file: {state}\n"
    "  connect_interval: 200ms\n"
    "  fast_interval: 100ms\n"
    "  backend_servers:\n"
    f"    - {{ protocol: imap, host: 127.0.0.1, port: {port}, node: mail1 }}\n"
    f"    - {{ protocol: smtp, host: 127.0.0.1, port: {dead}, node: mail2 }}\n"
)
key = f"imap://127.0.0.1:{port}"
dead_key = f"smtp://127.0.0.1:{dead}"
# A machine that builds and tests other things at once may take longer than the 2 s of the default.
engine_options = ["--config", config, "--wait", "60s"]


@test
def nobody():
    """Without an engine, a state file or a configuration the words say so"""
    run("drain", key).expect(2, "--config, --state-file or NAUTHILUS_BACKEND_CONFIG expected")
    run("nodes", "--config", config).expect(1, "No such file")
    assert not state.exists(), "the command must not create a state file"
    bare = folder / "bare.yml"
    bare.write_text("backend_server_monitoring: { backend_servers: [] }\n")
    run("events", "--config", bare).expect(1, "names no state_file")
    for words in [["move", "u", "n"], ["forget", "u"], ["hold", "u", "5m"], ["flush"], ["touch", "--node", "n"]]:
        run(*words, "--config", bare, stdin="").expect(1, "no store")
    run("route", "alice", "--config", config).expect(0, r"^view +presumed alive \(state file")


state.touch(0o600)
request = ["drain", key, "--config", config, "--wait", "60s", "--reason", "interrupted", "--by", "ann"]
with subprocess.Popen([lab.COMMAND, *map(str, request)]) as interrupted:
    wait_for(lambda there: there, lambda: b"interrupted" in state.read_bytes())
    interrupted.send_signal(signal.SIGINT)

environment = {**os.environ, "LUA_CPATH": f"{lab.ROOT}/build/lua5.4/?.so", "LUA_INIT": ""}
engine = subprocess.Popen(
    ["lua5.4", str(lab.ROOT / "tests/command/engine.lua"), str(config), str(ready)],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
)


def engine_says():
    engine.stdin.write("?\n")
    engine.stdin.flush()
    return engine.stdout.readline().strip()


def state_file_has(pattern):
    return lambda: re.search(pattern, state.read_bytes().decode(errors="replace"), re.M) if state.exists() else None


wait_for(lambda there: there, ready.exists)
wait_for(lambda found: found, state_file_has("verdict=dead"))


@test
def interrupted_before():
    """A request is not carried out once its command has ended, and does not stay in the file"""
    wait_for(lambda found: found, state_file_has("^answer 1 ok$"))
    assert engine_says() == "auto 1"
    assert b"interrupted" not in state.read_bytes()


@test
def set_states():
    """drain, maintenance and auto are set in the running engine, and answered"""
    run("drain", key, *engine_options, "--reason", "kernel update", "--by", "ann").expect(0, "drain$")
    assert engine_says() == "drain 0"
    run("maintenance", "node:mail1", *engine_options, "--for", "1h").expect(0, "^node:mail1: maintenance")
    assert engine_says() == "maintenance 0"
    run("auto", "node:mail1", *engine_options).expect(0)
    run("auto", key, "--state-file", state, "--wait", "60s").expect(0)
    assert engine_says() == "auto 1"
    run("drain", "imap://nowhere:1", *engine_options).expect(1, "no such target or node")
    run("move", "alice", "mail1", *engine_options).expect(1, "no store: the engine's configuration has no cluster")
    run("hold", "alice", "1000000d", *engine_options).expect(2, "a time below 11574 d expected")
    run("drain", key, *engine_options, "--for", "1000000d").expect(2, "a time below 115740 d expected")


@test
def who_did_it():
    """Without --by it is the user who runs the command, also where the environment does not say who that is"""
    unnamed = {"SUDO_USER": "", "LOGNAME": "", "USER": ""}
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    run("drain", "node:mail2", *engine_options, env=unnamed).expect(0)
    run("auto", "node:mail2", *engine_options, env={**unnamed, "LOGNAME": "bea"}).expect(0)
    by = [event.get("by") for event in run("events", *engine_options, "--json").expect(0).json()
          if event.get("node") == "mail2" and event["type"] == "operator"]
    assert by == [name, "bea"], by


@test
def lists():
    """nodes, events and metrics of the running engine"""
    run("nodes", *engine_options).expect(0, r"^mail1 +100 auto +- yes$", r"^mail2 .* no: ")
    nodes = run("nodes", *engine_options, "--json").expect(0).json()
    assert [node["node"] for node in nodes] == ["mail1", "mail2"], nodes
    run("events", *engine_options).expect(0, rf"verdict +{dead_key} .*-> dead", rf"operator +{key} .*kernel update +by ann")
    events = run("events", *engine_options, "--json").expect(0).json()
    last = events[-1]["seq"]
    assert run("events", *engine_options, "--json", "--since", last - 1).expect(0).json()[0]["seq"] == last
    text = run("metrics", *engine_options).expect(0).out
    assert f'nauthilus_backend_target_up{{target="{key}"' in text and text.endswith("# EOF\n"), text[:2000]


@test
def routed():
    """route explains by the state file, and changes nothing"""
    before = state.stat().st_ino
    done = run("route", "Alice@example.org", "--config", config, "--protocol", "imap", "--json").expect(0)
    (found,) = done.json()
    assert found["node"] == "mail1" and found["key"] == "alice@example.org", found
    assert found["view"].startswith(f"state file {state}, "), found
    run("route", "alice", "--config", config, "--protocol", "smtp").expect(1, "^node +none: ", "candidate +mail2 .*not usable")
    run("route", "alice", "--config", config, "--protocol", "gopher").expect(2)
    assert state.stat().st_ino == before


@contextlib.contextmanager
def watching(source):
    """Runs `watch` in a pipe, and gives a function that reads its next line."""
    process = subprocess.Popen(
        [lab.COMMAND, "watch", str(source), "--interval", "100ms"],
        stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
    )
    # The test must not block where a line is never printed: the command is killed, and the line is then
    # missing.
    limit = threading.Timer(180, process.kill)
    limit.start()
    try:
        yield process.stdout.readline
    finally:
        limit.cancel()
        process.kill()
        process.wait()


@test
def watched_in_a_pipe():
    """watch prints a line per target and per change in a pipe, and once a table"""
    run("watch", state, "--once").expect(1, "^TARGET +STATE", rf"^{dead_key} +dead .*refused", rf"^{key} +alive")
    with watching(config) as next_line:
        first = sorted(next_line() for _ in range(2))
        assert all("\x1b" not in line for line in first), first
        run("drain", key, *engine_options).expect(0)
        assert re.search(rf"Z  {key} +drain", next_line())
        run("auto", key, *engine_options).expect(0)
        assert re.search(rf"Z  {key} +alive", next_line())


@test
def watched_by_nobody():
    """watch in a pipe ends when its reader has gone, also where nothing changes"""
    with subprocess.Popen(
        [lab.COMMAND, "watch", str(state), "--interval", "10m"],
        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
    ) as process:
        try:
            for _ in range(2):
                process.stdout.readline()
            process.stdout.close()
            assert process.wait(60) == 141
        finally:
            process.kill()


@test
def watched_nodes():
    """watch shows what operators have set for nodes: by target with a configuration, else in lines of its own"""
    run("maintenance", "node:mail1", *engine_options, "--reason", "new disk").expect(0)
    done = run("watch", config, "--once").expect(1, rf"^{key} +maintenance", rf"^{dead_key} +dead")
    assert "node:" not in done.out, done
    run("watch", state, "--once").expect(1, rf"^{key} +alive", r"^node:mail1 +maintenance .*new disk$")
    with watching(state) as next_line:
        first = [next_line() for _ in range(3)]
        assert "node:mail1" in first[1] and "maintenance" in first[1], first
        run("auto", "node:mail1", *engine_options).expect(0)
        assert re.search(r"Z  node:mail1 +auto", next_line())


class Status(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # pylint: disable=invalid-name
        body = json.dumps({"targets": [
            {"key": "imap://10.0.0.1:143", "verdict": "dead", "state": "auto", "since": 1.0, "last_error": "\x1b[31mno"},
        ]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@test
def watched_by_url():
    """watch reads status_json() from a URL"""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", lab.control.free_port()), Status)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/status.json"
    done = run("watch", url, "--once").expect(1, r"^imap://10\.0\.0\.1:143 +dead .*\ufffd\[31mno$")
    assert "\x1b" not in done.out
    server.shutdown()
    run("watch", "http://127.0.0.1:1/", "--once").expect(1)
    run("watch", "ftp://h/", "--once").expect(2)


class Tmux:
    """A terminal of 80 columns and 24 lines."""

    def __init__(self, *command, env=""):
        self.socket = str(folder / f"tmux-{time.monotonic_ns()}")
        self.ask("new-session", "-d", "-s", "t", "-x", "80", "-y", "24",
                 f"{env} {' '.join(map(str, command))}; echo ended with $?; sleep 600")

    def ask(self, *words):
        done = subprocess.run(["tmux", "-S", self.socket, "-f", "/dev/null", *words],
                              capture_output=True, text=True, check=True)
        return done.stdout

    def screen(self):
        return self.ask("capture-pane", "-p", "-t", "t")

    def keys(self, *keys):
        self.ask("send-keys", "-t", "t", *keys)

    def echoes(self):
        """Whether the terminal shows what is typed."""
        name = self.ask("display-message", "-p", "-t", "t", "#{pane_tty}").strip()
        terminal = os.open(name, os.O_RDONLY | os.O_NOCTTY)
        try:
            return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)
        finally:
            os.close(terminal)

    def close(self):
        self.ask("kill-server")


@test
def watched_in_a_terminal():
    """watch in a terminal: the table, its keys, another size, and the terminal is given back"""
    terminal = Tmux(lab.COMMAND, "watch", config, "--interval", "200ms")
    try:
        wait_for(lambda text: dead_key in text and key in text and "2 targets, 1 alive, 1 dead" in text, terminal.screen)
        lines = terminal.screen().split("\n")
        assert lines[1].startswith("TARGET") and "q quit" in lines[23], lines
        assert all(len(line) <= 80 for line in lines), lines
        assert lines[2].startswith(dead_key), "problems come first"
        terminal.keys("p")
        wait_for(lambda text: dead_key in text and key not in text, terminal.screen)
        terminal.keys("p", "s")
        wait_for(lambda text: text.find(key) < text.find(dead_key), terminal.screen)
        terminal.ask("resize-window", "-t", "t", "-x", "60", "-y", "10")
        wait_for(lambda text: "q quit" in (text.split("\n") + [""] * 10)[9], terminal.screen)
        terminal.keys("q")
        wait_for(lambda text: "ended with 0" in text, terminal.screen)
    finally:
        terminal.close()


@test
def progress_in_a_terminal():
    """check shows the running stage in a terminal, asks for a password without echo, and NO_COLOR has no colours"""
    slow = peers.ask("open", name="slow", script="hang")["port"]
    terminal = Tmux(lab.COMMAND, "check", f"imap://127.0.0.1:{slow}", "--timeout", "20s")
    try:
        wait_for(lambda text: re.search(r"^  greeting +\.\.\.$", text, re.M), terminal.screen)
    finally:
        terminal.close()
    terminal = Tmux(lab.COMMAND, "check", f"imap://alice@127.0.0.1:{port}", "--timeout", "1s", env="NO_COLOR=1")
    try:
        wait_for(lambda text: "Password of alice:" in text, terminal.screen)
        # The prompt comes a moment before.
        wait_for(lambda echoes: not echoes, terminal.echoes)
        terminal.keys("s3cret-word", "Enter")
        wait_for(lambda text: "ended with 1" in text, terminal.screen)
        text = terminal.ask("capture-pane", "-p", "-e", "-t", "t")
        assert "s3cret-word" not in text and "\x1b[3" not in text, text
    finally:
        terminal.close()


engine.kill()
engine.wait()


@test
def engine_gone():
    """An engine that does not run does not answer, within the time"""
    run("nodes", "--config", config, "--wait", "500ms").expect(1, "no engine answered within 0.5 s")


@test
def long_waits():
    """The answer has its time however long the requests of others took; a wait has a limit"""
    first = ["drain", key, "--config", config, "--wait", "10s", "--reason", "first in the place"]
    second = [lab.COMMAND, "nodes", "--config", str(config), "--wait", "20s"]
    with subprocess.Popen([lab.COMMAND, *map(str, first)], stderr=subprocess.DEVNULL) as process:
        wait_for(lambda there: there, lambda: b"first in the place" in state.read_bytes())
        with subprocess.Popen(second, stderr=subprocess.PIPE, text=True) as waiting:
            assert process.wait(60) == 1
            # The second has the place some time after this, and then 20 s for the answer.
            ended = time.monotonic()
            _, problem = waiting.communicate(timeout=120)
            assert waiting.returncode == 1 and "no engine answered within 20 s" in problem, problem
            # If the place counted as well, it would be about 10 s.
            assert time.monotonic() - ended > 15, "the answer had less than its time"
    for option in (["nodes", "--config", config, "--wait"], ["watch", state, "--interval"]):
        run(*option, "18446744073709551615s").expect(2, "a time of at most 1d expected")


@test
def watched_too_late():
    """Of a state file that is too old watch knows no verdict, and what operators have set all the same"""
    short = folder / "short.yml"
    short.write_text(config.read_text().replace("  log: none\n", "  log: none\n  state_max_age: 1s\n"))
    done = wait_for(lambda done: "unknown" in done.out, lambda: run("watch", short, "--once"))
    done.expect(1, rf"^{key} +unknown$", rf"^{dead_key} +unknown$",
                r"state: written 20.*Z, which is not within 1s \(state_max_age\): no verdict is known$")


peers.close()
sys.stdout.flush()
lab.finish()
