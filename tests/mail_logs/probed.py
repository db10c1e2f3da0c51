"""A real Exim or Sendmail finds no fault with probes: what it logs of them is no error. The packages
are unpacked into build/, not installed: a machine has one mail server.

    probed.py exim|sendmail SYSLOG_FILE.SO
"""

import json
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.chdir(ROOT)
sys.path[:0] = ["spec/support", "tests/lib"]
from control import free_port  # pylint: disable=wrong-import-position
from tap import check, status  # pylint: disable=wrong-import-position


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def unpacked(folder, *packages):
    """Where the packages are unpacked, with what of theirs the machine lacks."""
    if not (folder / "root").exists():
        archives = folder / "archives"
        shutil.rmtree(archives, ignore_errors=True)
        (archives / "partial").mkdir(parents=True)
        run("apt-get", "install", "-y", "--no-install-recommends", "--download-only", "-o", f"Dir::Cache::archives={archives}",
            "-o", "APT::Sandbox::User=root", *packages, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        shutil.rmtree(folder / "new", ignore_errors=True)
        for archive in archives.glob("*.deb"):
            run("dpkg-deb", "-x", str(archive), str(folder / "new"))
        os.rename(folder / "new", folder / "root")
        shutil.rmtree(archives)
    return folder / "root"


class MailServer:
    """One with listeners of its own, and what it logs. Its folder is in build/: Sendmail takes no file
    below a folder that all may write to."""

    def __init__(self, packages):
        self.packages = ROOT / "build/mail_logs" / packages[0]
        self.packages.mkdir(parents=True, exist_ok=True)
        self.root = unpacked(self.packages, *packages)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=self.packages))
        os.chmod(self.folder, 0o755)
        run("spec/support/certificates.sh", str(self.folder / "certificates"))
        self.certificate = self.folder / "certificates/good.pem"
        self.ca = self.folder / "certificates/ca.crt"
        os.chmod(self.folder / "certificates", 0o755)
        self.plain, self.implicit, self.proxied = free_port(), free_port(), free_port()
        self.process = None

    def libraries(self):
        return ":".join(sorted({str(path.parent) for path in self.root.rglob("*.so*")}))

    def log(self):
        return "".join(path.read_text(errors="replace") for path in sorted((self.folder / "log").glob("*log")))

    def start(self, *command, **env):
        self.process = subprocess.Popen(  # pylint: disable=consider-using-with
            command, env={**os.environ, "LD_LIBRARY_PATH": self.libraries(), **env},
            stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
        )
        self.until(lambda: re.search(self.STARTED, self.log()), "its start")

    def until(self, condition, what):
        end = time.monotonic() + 60
        while not condition():
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"{what}: {self.log()}")
            time.sleep(0.02)

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.folder)


class Exim(MailServer):
    STARTED = "daemon started"
    FAULTS = re.compile(r"TLS error|error:|reset|syntax|refused|rejected|unrecognized|panic|bad|fail|synchroni", re.I)
    BEGINS, ENDS = r"\(TCP/IP connection count", "no MAIL in SMTP connection"

    def __init__(self, _):
        # The light one knows no PROXY header.
        super().__init__(("exim4-daemon-heavy",))
        # The user that it runs as is not on this machine: another one's name, that is no longer, is
        # put in its place.
        content, there = (self.root / "usr/sbin/exim4").read_bytes(), b"Debian-exim\0"
        assert there in content, "the name of Exim's user"
        binary = self.folder / "exim"
        binary.write_bytes(content.replace(there, b"mail".ljust(len(there), b"\0")))
        os.chmod(binary, 0o755)
        user = pwd.getpwnam("mail")
        for name in ("spool", "log"):
            (self.folder / name).mkdir()
            os.chown(self.folder / name, user.pw_uid, user.pw_gid)
        os.chown(self.certificate, user.pw_uid, user.pw_gid)
        ports = (self.plain, self.implicit, self.proxied)
        (self.folder / "conf").write_text(f"""
primary_hostname = mx.example.org
spool_directory = {self.folder}/spool
log_file_path = {self.folder}/log/%slog
log_selector = +all
local_interfaces = 127.0.0.1
daemon_smtp_ports = {" : ".join(map(str, ports))}
tls_on_connect_ports = {self.implicit}
tls_advertise_hosts = *
tls_certificate = {self.certificate}
tls_privatekey = {self.certificate}
hosts_proxy = ${{if ={{$received_port}}{{{self.proxied}}}{{127.0.0.1}}{{}}}}
keep_environment =
acl_smtp_rcpt = deny
host_lookup =
rfc1413_query_timeout = 0s
begin acl
deny:
  deny
""")
        self.start(str(binary), "-C", str(self.folder / "conf"), "-bdf", "-oX", ":".join(map(str, ports)),
                   "-oP", str(self.folder / "pid"))


class Sendmail(MailServer):
    STARTED = "started as:"
    # "421 … Lost input channel" is what it would say to a client that left without QUIT, and not logged
    # by default; err=2 means that there is nothing to read yet.
    FAULTS = re.compile(r"^(?!.* err=2$).*(error|reset|SYSERR|STARTTLS=(read|write)|fail|reject|refus|unsafe|not available)", re.I | re.M)
    BEGINS, ENDS = r"NOQUEUE: connect from", r"did not issue MAIL"

    def __init__(self, preload):
        super().__init__(("sendmail-bin", "sendmail-cf", "m4"))
        (self.folder / "log").mkdir()
        (self.folder / "queue").mkdir(mode=0o700)
        for name in ("certificate", "key"):
            shutil.copy(self.certificate, self.folder / name)
            os.chmod(self.folder / name, 0o600)
        define = lambda name, value: f"define(`{name}',`{value}')dnl\n"
        (self.folder / "mc").write_text(
            "divert(0)dnl\nOSTYPE(`linux')dnl\n"
            + define("confDEF_USER_ID", "mail:mail") + define("QUEUE_DIR", self.folder / "queue")
            + define("confPID_FILE", self.folder / "pid") + define("STATUS_FILE", "/dev/null") + define("ALIAS_FILE", "")
            + define("confDOMAIN_NAME", "mx.example.org") + define("confDONT_PROBE_INTERFACES", "True")
            + define("confCACERT_PATH", self.folder / "certificates") + define("confCACERT", self.ca)
            + define("confSERVER_CERT", self.folder / "certificate") + define("confSERVER_KEY", self.folder / "key")
            + define("confLOG_LEVEL", "15") + define("confTO_IDENT", "0") + "FEATURE(`no_default_msa')dnl\n"
            + f"DAEMON_OPTIONS(`Name=plain, Addr=127.0.0.1, Port={self.plain}')dnl\n"
            + f"DAEMON_OPTIONS(`Name=tls, Addr=127.0.0.1, Port={self.implicit}, M=s')dnl\n"
            + "MAILER(`smtp')dnl\n")
        macros = self.root / "usr/share/sendmail/cf"
        made = run(str(self.root / "usr/bin/m4"), f"-D_CF_DIR_={macros}/", str(macros / "m4/cf.m4"), str(self.folder / "mc"))
        (self.folder / "cf").write_text(made)
        os.chmod(self.folder / "cf", 0o644)
        binary = self.root / "usr/libexec/sendmail/sendmail"
        # One that runs with a group of its own is preloaded with nothing.
        os.chmod(binary, 0o755)
        self.start(str(binary), "-C", str(self.folder / "cf"), "-bD", LD_PRELOAD=os.path.abspath(preload),
                   SYSLOG_FILE=str(self.folder / "log/maillog"))


SCRIPT = """
local nb = require("nauthilus_backend")
local target = load("return " .. arg[1])()
for _ = 1, 5 do
  local reason = nb.check_backend_connection(target)
  assert(reason == nil, reason)
end
local function configure(interval)
  nb.configure({ log = "none", connect_interval = interval, backend_servers = { target } })
end
configure("400ms")
assert(nb.wait_ready(60))
local now
local function has_probed(times)
  now = nb.status().targets[1]
  assert(now.verdict == "alive", now.last_error)
  return now.probes >= times
end
repeat until has_probed(6)
-- Right after one, since another configuration or the end of the process ends a probe in flight.
local last = now.probes
repeat until has_probed(last + 1)
configure("1h")
-- The server closes meanwhile.
os.execute("sleep 2")
"""


def lua(value):
    return {True: "true", False: "false"}.get(value) or json.dumps(value)


def probe(script, *arguments):
    return subprocess.run(["lua5.4", "-", *arguments], input=script, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "LUA_CPATH": "build/lua5.4/?.so"}, check=False)


def probed(server, name, port, is_seen=True, **keys):
    before = len(server.log())
    keys = {"protocol": "smtp", "host": "127.0.0.1", "port": port, "tls_skip_verify": True, "connect_timeout": "30s",
            "tls_timeout": "30s", "deep_timeout": "30s", **keys}
    done = probe(SCRIPT, "{" + ", ".join(f"{key} = {lua(value)}" for key, value in keys.items()) + "}")
    check(f"{name}: probes are good", done.returncode == 0, done.stderr)
    count = lambda pattern: len(re.findall(pattern, server.log()[before:]))
    if is_seen:
        server.until(lambda: count(server.BEGINS) >= 11 and count(server.ENDS) == count(server.BEGINS), f"{name}: their ends")
    faults = [line for line in server.log()[before:].splitlines() if server.FAULTS.search(line)]
    # A server that a busy machine lets wait for longer than the 250 ms in which it is to close sees an
    # abrupt end; one kind of end or the other would show with every one.
    check(f"{name}: no fault is logged", len(faults) <= 3, "\n".join(faults[:10]))


def all_kinds(server):
    # The kernel alone answers the first kind: a reset comes before the server accepts.
    probed(server, "connect-only", server.plain, is_seen=False)
    probed(server, "a dialogue", server.plain, deep_check=True)
    probed(server, "STARTTLS", server.plain, deep_check=True, tls_mode="starttls")
    probed(server, "implicit TLS, connect-only", server.implicit, tls=True)
    probed(server, "implicit TLS, a dialogue", server.implicit, tls=True, deep_check=True)
    if isinstance(server, Exim):
        probed(server, "a PROXY header, connect-only", server.proxied, haproxy_v2=True)
        probed(server, "a PROXY header, a dialogue", server.proxied, haproxy_v2=True, deep_check=True)
    before = len(server.log())
    # A reset in the middle of TLS, as other checkers end a connection.
    probe_abruptly(server.implicit)
    server.until(lambda: server.FAULTS.search(server.log()[before:]), "the fault of a reset")
    check("the fault of a reset would be seen", True)


def probe_abruptly(port):
    import socket
    import ssl
    import struct
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 30) as plain:
        with context.wrap_socket(plain) as stream:
            stream.recv(10)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.close()


kind = {"exim": Exim, "sendmail": Sendmail}[sys.argv[1]]
running = kind(sys.argv[2])
try:
    all_kinds(running)
finally:
    running.stop()
sys.exit(status())
