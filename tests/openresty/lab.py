"""What the tests of nginx share: an nginx in a folder of its own, backends that count, reports.

Everything listens on 127.0.0.1, on ports that are free when asked for, and ends with the test.
"""

import atexit
import contextlib
import http.client
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODULE = pathlib.Path(os.environ.get("NB_MODULE", ROOT / "build/luajit/nauthilus_backend.so"))
MODULES = "/usr/lib/nginx/modules"

sys.path[:0] = [str(ROOT / "spec/support"), str(ROOT / "tests/lib")]
import tap  # pylint: disable=wrong-import-position
from control import free_port  # pylint: disable=wrong-import-position
from tap import check  # pylint: disable=wrong-import-position

# --- Reports -----------------------------------------------------------------------------------


@contextlib.contextmanager
def test(name):
    """One test: passes when its body ends, fails with what it raises."""
    started = time.monotonic()
    try:
        yield
    except Exception:  # pylint: disable=broad-except
        check(name, False, traceback.format_exc())
    else:
        check(name, True)
    print(f"# {name}: {time.monotonic() - started:.1f} s", flush=True)


def run_tests(*tests):
    """Runs these functions, or the one that $ONLY names, and ends."""
    for each in tests:
        if os.environ.get("ONLY", each.__name__) == each.__name__:
            try:
                each()
            except Exception:  # pylint: disable=broad-except
                check(each.__name__, False, traceback.format_exc())
    finish()


def finish():
    sys.exit(tap.status())


def equal(got, wanted, what=""):
    if got != wanted:
        raise AssertionError(f"{what}: got {got!r}, wanted {wanted!r}")


def until(condition, seconds=30, what="condition"):
    """Waits until condition() is true; returns what it returned."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.002)


class Lateness:
    """How late this machine is: a thread bound to each processor sleeps 1 ms again and again."""

    def __init__(self):
        self.ended = False
        self.most = {}
        for processor in os.sched_getaffinity(0):
            self.most[processor] = 0.0
            threading.Thread(target=self._sleep, args=(processor,), daemon=True).start()

    def _sleep(self, processor):
        # The CPU time of this thread alone.
        os.sched_setaffinity(0, {processor})
        while not self.ended:
            began = time.monotonic()
            time.sleep(0.001)
            self.most[processor] = max(self.most[processor], time.monotonic() - began - 0.001)

    def begin(self):
        for processor in self.most:
            self.most[processor] = 0.0

    def since(self):
        """Seconds by which one of the threads was late at most since `begin`."""
        return max(self.most.values())


def in_time(measure, limit, times, what):
    """Calls measure() as often as `times` says; each delay that it returns must be within `limit`
    seconds. A delay has several processes in it that wait for a processor in turn, so ten times the
    lateness of this machine meanwhile is added, and one in four may be longer still."""
    lateness, rows = Lateness(), []
    for _ in range(times):
        lateness.begin()
        delay = measure()
        rows.append((delay, limit + 10 * lateness.since()))
    lateness.ended = True
    delays = sorted(delay for delay, _ in rows)
    print(f"# {what} after {delays[len(delays) // 2] * 1000:.1f} ms (median), {delays[-1] * 1000:.1f} ms (longest)")
    beyond = [row for row in rows if row[0] > row[1]]
    assert len(beyond) <= times // 4, (what, beyond)


def run_for(default):
    """Seconds that a long test runs; SOAK multiplies them."""
    return default * float(os.environ.get("SOAK", "1"))


# --- Backends ----------------------------------------------------------------------------------


class Backend:
    """An IMAP server for one purpose: it notes when each connection was accepted.

    A plain connect probe never gets that far (the kernel answers it alone): count deep ones.
    """

    def __init__(self, greeting=b"* OK ready\r\n", port=0):
        self.greeting = greeting
        self.accepted = []
        self.port = port
        self.socket = None
        self.up()

    def up(self):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A port that the kernel does not give to outgoing connections: one of them could take it while the
        # backend is down.
        self.port = self.port or free_port()
        self.socket.bind(("127.0.0.1", self.port))
        self.socket.listen(1024)
        threading.Thread(target=self._serve, args=(self.socket,), daemon=True).start()

    def _serve(self, listener):
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            self.accepted.append(time.monotonic())
            threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    def _talk(self, peer):
        with peer:
            with contextlib.suppress(OSError):
                peer.settimeout(10)
                peer.sendall(self.greeting)
                while command := peer.recv(4096):
                    answer = b"* CAPABILITY IMAP4rev1\r\n" if b"CAPABILITY" in command else b""
                    # In one write: the second of two would wait for an acknowledgement of the first.
                    peer.sendall(answer + command.split()[0] + b" OK done\r\n")
                    if b"LOGOUT" in command:
                        break

    def down(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def count(self):
        return len(self.accepted)


class BlackHole:
    """A port that never completes a connection: its backlog is full."""

    def __init__(self):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(0)
        self.port = self.socket.getsockname()[1]
        self.fillers = []
        while True:
            filler = socket.socket()
            filler.settimeout(0.2)
            self.fillers.append(filler)
            try:
                filler.connect(("127.0.0.1", self.port))
            except OSError:
                break
        self.own = self._opening()

    def _opening(self):
        return sum(1 for row in tcp_rows() if row[1] == self.port and row[2] == "02")

    def in_flight(self):
        """How many connections of others are being opened to this port (SYN-SENT)."""
        return self._opening() - self.own


class Silent:
    """A port that accepts (in the kernel) and never says a word."""

    def __init__(self):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(4096)
        self.port = self.socket.getsockname()[1]

    def connections(self):
        """How many clients hold a connection open to this port."""
        return sum(1 for row in tcp_rows() if row[1] == self.port and row[2] == "01")


def tcp_rows():
    """(local port, remote port, state) of each TCP socket of this machine."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        next(table)
        for line in table:
            fields = line.split()
            yield (int(fields[1].split(":")[1], 16), int(fields[2].split(":")[1], 16), fields[3])


# --- nginx -------------------------------------------------------------------------------------

BASE = """
{load_lua}
{load}
{user}
{main}
worker_processes {workers};
pid {dir}/nginx.pid;
error_log {dir}/error.log {level};
events {{ worker_connections {connections}; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  {temporary}
  keepalive_requests 1000000;
  lua_package_cpath "{dir}/?.so;;";
  lua_package_path "{dir}/?.lua;;";
  {http}
  server {{
    listen 127.0.0.1:{port}{listen};
    {server}
  }}
}}
{after}
"""

# What no error log of a run may contain.
BAD_LINES = re.compile(
    r"\[(alert|emerg|crit)\]|exited on signal|core dumped|writing a global|panicked|"
    r"open socket|attempt to (index|call)|stack traceback"
)


class Nginx:
    """An nginx of its own. `http` and `server` are parts of its configuration."""

    def __init__(self, http="", server="", **options):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="nb-nginx-"))
        os.chmod(self.dir, 0o755)
        shutil.copy(MODULE, self.dir / "nauthilus_backend.so")
        os.chmod(self.dir / "nauthilus_backend.so", 0o755)
        self.port = free_port()
        self.options = dict(
            workers=1, main="", modules=MODULES, load="", level="info", connections=4096, listen="", after=""
        )
        self.options.update(options)
        self.expected = None
        self.binary = self.options.pop("binary", [shutil.which("nginx", path="/usr/sbin:/usr/bin")])
        self.started = False
        self.configure(http, server)
        atexit.register(self.close)

    def configure(self, http=None, server=None, **options):
        """Writes the configuration; parts that are not given stay as they were."""
        self.http = self.http if http is None else http
        self.server = self.server if server is None else server
        self.options.update(options)
        names = ("ndk_http_module", "ngx_http_lua_module") if self.options["modules"] else ()
        # An nginx that was built for a test has only the proxy module.
        others = ("fastcgi", "uwsgi", "scgi") if names else ()
        text = BASE.format(
            temporary="\n".join(f"{name}_temp_path {self.dir}/{name};" for name in others),
            load_lua="\n".join(f"load_module {self.options['modules']}/{name}.so;" for name in names),
            dir=self.dir,
            port=self.port,
            user="user nobody nogroup;" if os.geteuid() == 0 else "",
            http=self.http,
            server=self.server,
            **self.options,
        )
        (self.dir / "nginx.conf").write_text(text)

    def lua(self, name, text):
        (self.dir / f"{name}.lua").write_text(text)
        os.chmod(self.dir / f"{name}.lua", 0o644)

    def _command(self, *arguments):
        command = [*self.binary, "-p", str(self.dir), "-c", str(self.dir / "nginx.conf")]
        return [*command, "-e", str(self.dir / "error.log"), *arguments]

    def _run(self, *arguments):
        command = self._command(*arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise AssertionError(f"nginx {arguments}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def start(self, in_foreground=False):
        if in_foreground:
            subprocess.Popen(self._command(), stderr=subprocess.DEVNULL)  # pylint: disable=consider-using-with
        else:
            self._run()
        self.started = True
        until(lambda: self.master(), what="nginx's pid")
        until(lambda: len(self.workers()) >= self.options["workers"], what="nginx's workers")
        return self

    def master(self):
        with contextlib.suppress(OSError, ValueError):
            return int((self.dir / "nginx.pid").read_text())
        return 0

    def workers(self, master=None):
        """The pids of workers that accept connections."""
        titles = ((pid, title_of(pid)) for pid in children(master or self.master()))
        return [pid for pid, title in titles if title.endswith("worker process")]

    def reload(self):
        before = set(self.workers())
        os.kill(self.master(), signal.SIGHUP)
        wanted = self.options["workers"]
        until(
            lambda: len(set(self.workers()) - before) == wanted and not before & set(self.workers()),
            what="new workers",
        )

    def get(self, path="/", headers=None, timeout=60):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            body = response.read().decode()
            return response.status, dict(response.getheaders()), body
        finally:
            connection.close()

    def body(self, path="/", headers=None):
        status, _, body = self.get(path, headers)
        if status != 200:
            raise AssertionError(f"{path}: {status} {body}\n{self.log()[-3000:]}")
        return body

    def log(self):
        with contextlib.suppress(OSError):
            return (self.dir / "error.log").read_text(errors="replace")
        return ""

    def bad_lines(self):
        return [line for line in self.log().splitlines() if BAD_LINES.search(line)]

    def assert_clean(self, allowed=None):
        bad = [line for line in self.bad_lines() if not (allowed and re.search(allowed, line))]
        if bad:
            raise AssertionError("in error.log:\n" + "\n".join(bad[:20]))

    def stop(self, sign=signal.SIGTERM):
        """Returns how long it took, in seconds."""
        master = self.master()
        processes = [master, *children(master)]
        began = time.monotonic()
        os.kill(master, sign)
        until(lambda: not any(map(alive, processes)), 30, "nginx's end")
        self.started = False
        return time.monotonic() - began

    def close(self):
        with contextlib.suppress(Exception):
            if self.started and self.master():
                self.stop()
        if os.environ.get("KEEP"):
            print(f"# kept {self.dir}")
        else:
            shutil.rmtree(self.dir, ignore_errors=True)


# --- Processes ---------------------------------------------------------------------------------


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def children(pid):
    with contextlib.suppress(OSError):
        lists = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
        return [int(child) for one in lists for child in one.read_text().split()]
    return []


def title_of(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return ""


def threads(pid):
    """The names of a process's threads."""
    names = []
    with contextlib.suppress(OSError):
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                names.append((task / "comm").read_text().strip())
    return names


def own_threads(pid):
    return sorted(name for name in threads(pid) if name.startswith("nb-"))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def mappings(pid):
    return len(pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines())


def main_thread_cpu(pid):
    """Seconds of CPU that the thread of nginx's event loop has used, to the nanosecond."""
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/schedstat").read_text()
    return int(text.split()[0]) / 1e9


def all_cpu(pid):
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def wrk(url, seconds, connections=8, threads_=1, script=None, extra=()):
    """Runs wrk; returns (requests per second, latency percentiles in ms, its whole output)."""
    command = ["wrk", f"-t{threads_}", f"-c{connections}", f"-d{seconds:g}s", "--latency"]
    command += ["-s", str(script)] if script else []
    output = subprocess.run([*command, *extra, url], capture_output=True, text=True, check=True).stdout
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output).group(1))
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    percentiles = {
        int(p): float(value) * scale[unit]
        for p, value, unit in re.findall(r"^\s+(50|75|90|99)%\s+([\d.]+)(us|ms|s)", output, re.M)
    }
    return rate, percentiles, output


def together(count, call):
    """Runs call() in `count` threads; returns what they returned."""
    results = [None] * count

    def run(at):
        try:
            results[at] = call()
        except Exception as problem:  # pylint: disable=broad-except
            results[at] = problem

    threads = [threading.Thread(target=run, args=(at,)) for at in range(count)]
    for thread in threads:
        thread.start()
    return threads, results


def ask(port, path):
    """A raw request, for many at a time: the socket, unread."""
    client = socket.create_connection(("127.0.0.1", port), 30)
    client.sendall(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
    return client


def lua_servers(ports, **keys):
    """A Lua list of IMAP targets at these ports."""
    more = "".join(f", {key} = {value}" for key, value in keys.items())
    return "{" + ", ".join(
        f'{{ protocol = "imap", host = "127.0.0.1", port = {port}{more} }}' for port in ports
    ) + "}"


def init_block(ports, keys=""):
    """An init_by_lua_block that configures these ports."""
    return f"""
  init_by_lua_block {{
    nb = require("nauthilus_backend")
    nb.configure({{ log = "none", {keys} backend_servers = {lua_servers(ports)} }})
  }}
"""
