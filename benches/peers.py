"""The processes that rows measure and what they probe: this module in a bare LuaJIT, HAProxy,
listeners, a TLS server, Dovecot. Each is a context manager, and ends with its block."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from lib import ROOT, Unmeasured, built, raise_descriptor_limit

SUPPORT = ROOT / "spec/support"


class Process:
    """A child in a folder of its own, asked and answering in lines."""

    ends_with_input = True

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nb-bench-"))
        self.child = None

    def run(self, command, **options):
        errors = open(self.folder / "stderr", "w", encoding="utf-8")
        with errors:
            self.child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, **options
            )

    @property
    def pid(self):
        return self.child.pid

    def ask(self, line=""):
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()
        return self.answer()

    def answer(self):
        line = self.child.stdout.readline()
        if not line:
            said = (self.folder / "stderr").read_text(errors="replace").strip()
            raise Unmeasured(f"{type(self).__name__} ended: {said[-300:]}")
        return line.rstrip("\n")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child:
            self.child.stdin.close()
            if not self.ends_with_input:
                self.child.terminate()
            try:
                self.child.wait(20)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
            self.child.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)


# --- Those who probe ---------------------------------------------------------------------------

HOLDER = """
package.cpath = "{module}/?.so"
local nb = require("nauthilus_backend")
{configure}
nb.start()
print("ready")
io.flush()
for _ in io.lines() do
  local probes, failures, dead, unknown, example = 0, 0, 0, 0, "-"
  for _, target in ipairs(nb.status().targets) do
    probes = probes + target.probes
    failures = failures + target.failures
    dead = dead + (target.verdict == "dead" and 1 or 0)
    unknown = unknown + (target.verdict == "unknown" and 1 or 0)
    example = target.last_error or example
  end
  print(probes, failures, dead, unknown, example)
  io.flush()
end
"""


# A configuration that does not fit into a file's megabyte.
BUILD = """
local list = {{}}
for line in io.lines("{targets}") do
  local host, port = line:match("(%S+) (%S+)")
  list[#list + 1] = {{ protocol = "imap", host = host, port = tonumber(port), {keys} }}
end
nb.configure({{ log = "none", {service}, backend_servers = list }})
"""


class Ours(Process):
    """This module in LuaJIT: `targets` are pairs of address and port, `keys` what each has
    besides, `service` the keys of the service, both in Lua."""

    command, module = ["luajit"], ROOT / "build/luajit"

    def __init__(self, targets, service, keys=""):
        super().__init__()
        path = self.folder / "targets"
        path.write_text("".join(f"{host} {port}\n" for host, port in targets))
        self.hold(BUILD.format(targets=path, keys=keys, service=service))

    def hold(self, configure):
        script = self.folder / "holder.lua"
        script.write_text(HOLDER.format(module=self.module, configure=configure))
        self.run([*self.command, str(script)])
        if self.answer() != "ready":
            raise Unmeasured("the module did not start")

    def status(self):
        """(probes, failures, dead, unknown) over all targets, and one reason of a failure."""
        *numbers, example = self.ask().split("\t")
        return (*map(int, numbers), example)


class OursFromFile(Ours):
    """The same, configured by a YAML file."""

    def __init__(self, targets, service):  # pylint: disable=super-init-not-called
        Process.__init__(self)
        path = self.folder / "backends.yml"
        servers = "".join(f"    - {{ protocol: imap, host: {host}, port: {port} }}\n" for host, port in targets)
        path.write_text(f"backend_server_monitoring:\n  log: none\n  {service}\n  backend_servers:\n{servers}")
        self.hold(f'nb.configure("{path}")')


HAPROXY = """
global
  nbthread 1
  stats socket {folder}/socket
defaults
  mode tcp
  timeout connect 5s
  timeout client 5s
  timeout server 5s
backend servers
  default-server check {options}
"""


class HAProxy(Process):
    """HAProxy with one thread that checks the same targets. `options` are those of a server."""

    ends_with_input = False

    def __init__(self, targets, options):
        super().__init__()
        name = os.environ.get("HAPROXY", "haproxy")
        program = shutil.which(name) or shutil.which(name, path="/usr/sbin")
        if not program:
            raise Unmeasured(f"{name} is not installed")
        text = HAPROXY.format(folder=self.folder, options=options)
        text += "".join(
            f"  server s{index} {host}:{port}\n" for index, (host, port) in enumerate(targets)
        )
        configuration = self.folder / "haproxy.cfg"
        configuration.write_text(text)
        self.run([program, "-f", str(configuration), "-db", "-q"])
        self.control = self.folder / "socket"
        end = time.monotonic() + 30
        while not self.control.exists():
            if self.child.poll() is not None or time.monotonic() > end:
                said = (self.folder / "stderr").read_text(errors="replace")
                raise Unmeasured("HAProxy did not start: " + said.strip()[-300:])
            time.sleep(0.01)

    def command(self, text):
        """The answer of its statistics socket."""
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.control))
            control.sendall((text + "\n").encode())
            answer = b""
            while chunk := control.recv(65536):
                answer += chunk
            return answer.decode()

    def up(self):
        """The numbers of the servers that it would use."""
        version, head, *lines = self.command("show servers state servers").splitlines()
        if version != "1":
            raise Unmeasured(f"HAProxy's state is of version {version}, 1 expected")
        fields = head.lstrip("# ").split()
        name, state = fields.index("srv_name"), fields.index("srv_op_state")
        rows = (line.split(" ") for line in lines if line)
        # The states of a server: 0 is stopped, 1 starting, 2 running, 3 stopping.
        return {int(row[name][1:]) for row in rows if row[state] in "12"}


# --- What is probed ----------------------------------------------------------------------------


def loopback(count, port):
    """`count` loopback addresses, all with one port."""
    return [(f"127.{1 + i // 62500}.{i // 250 % 250}.{1 + i % 250}", port) for i in range(count)]


@contextlib.contextmanager
def listeners(count):
    """`count` ports of 127.0.0.1. Nobody accepts: the kernel completes the connections, which a connect probe
    is satisfied with."""
    raise_descriptor_limit(count + 500)
    sockets = []
    try:
        for _ in range(count):
            one = socket.socket()
            sockets.append(one)
            one.bind(("127.0.0.1", 0))
            one.listen(128)
        yield [("127.0.0.1", one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextlib.contextmanager
def one_listener():
    """A port of every loopback address on which nobody accepts: the kernel completes the connections."""
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen(4096)
        yield listener.getsockname()[1]


class Certificates:
    """An authority, and a certificate (P-256) that is right for localhost."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nb-bench-"))
        subprocess.run([SUPPORT / "certificates.sh", self.folder], check=True)
        self.ca, self.server = self.folder / "ca.crt", self.folder / "good.pem"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder, ignore_errors=True)


class TlsServer(Process):
    """benches/tls_server.rs: TLS and IMAP on one port of every loopback address."""

    def __init__(self, certificate, version):
        super().__init__()
        self.run([built("tls_server"), str(certificate), version])
        self.port = int(self.answer())

    def counts(self):
        """(handshakes, of these resumed, logins) so far."""
        return tuple(map(int, self.ask().split()))


def logging_in(facts):
    """The keys of a target that is this Dovecot."""
    return (
        f'tls = true, deep_check = true, tls_ca_file = "{facts["ca"]}", '
        'test_username = "probe", test_password = "secret"'
    )


class Dovecot(Process):
    """A real Dovecot on loopback; `facts` has its ports and the authority's file. With
    `keeps_logins` in what its manual calls high-performance mode."""

    def __init__(self, keeps_logins=False):
        super().__init__()
        self.run([sys.executable, str(SUPPORT / "dovecot.py")])
        if keeps_logins:
            self.ask("keep_logins")
        status, *words = self.ask("start").split()
        if status != "ok":
            raise Unmeasured("Dovecot did not start: " + " ".join(words)[-300:])
        self.facts = dict(word.split("=", 1) for word in words)
