"""A real Haraka, whose worker some health checkers end: after a hundred probes of each kind its worker
is the one that it began with, and it has logged no error. It comes from npm into build/."""

import os
import pathlib
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

PROBES = 100
# What it logs of faults, and what Node.js prints of an error that nothing has caught.
FAULTS = re.compile(r"\[(WARN|ERROR|CRIT|ALERT|EMERG)\]|Error:|^\s+at .*:\d+:\d+\)?$|died|crash", re.I | re.M)


def version():
    """The last one for the Node.js of this machine: Debian 12 has 18, which those after 3.0 do not run on."""
    major = int(subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout[1:].split(".")[0])
    return "3.3.4" if major >= 20 else "3.0.5"


def installed():
    """The program, and the version. npm may download it and what it needs."""
    wanted = version()
    folder = ROOT / "build/haraka" / wanted
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text('{ "private": true }\n')
        done = subprocess.run(
            ["npm", "install", "--omit=optional", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", f"haraka@{wanted}"],
            cwd=folder, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            raise AssertionError(f"npm install: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        (folder / "done").touch()
    return folder / "node_modules/.bin/haraka", wanted


class Haraka:
    """One master with one worker."""

    def __init__(self, program):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nb-haraka-"))
        subprocess.run(["spec/support/certificates.sh", str(self.folder / "certificates")], check=True,
                       stdout=subprocess.DEVNULL, timeout=300)
        certificate = self.folder / "certificates/good.pem"
        self.plain = free_port()
        self.implicit = free_port(taken=(self.plain,))
        config = self.folder / "config"
        config.mkdir()
        # As it comes. Older packages have a capital in their name.
        modules = program.parents[1]
        package = next(path for path in modules.iterdir() if path.name.lower() == "haraka")
        shutil.copy(package / "config/connection.ini", config)
        for name, text in {
            "smtp.ini": f"listen=127.0.0.1:{self.plain},127.0.0.1:{self.implicit}\nsmtps_port={self.implicit}\nnodes=1\n"
                        "public_ip=192.0.2.1\n",
            "plugins": "tls\n",
            "tls.ini": "key=key.pem\ncert=cert.pem\n",
            "log.ini": "[main]\nlevel=info\n",
            "me": "mx.example.org\n",
            "host_list": "example.org\n",
        }.items():
            (config / name).write_text(text)
        for name in ("key.pem", "cert.pem"):
            shutil.copy(certificate, config / name)
        (self.folder / "queue").mkdir()
        self.output = self.folder / "log"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(  # pylint: disable=consider-using-with
                [str(program), "-c", str(self.folder)], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self.until(lambda: all(listens(port) for port in (self.plain, self.implicit)), "its start")
        self.worker = self.workers()

    def log(self):
        return self.output.read_text(errors="replace")

    def workers(self):
        """The processes that it has begun and that run what it runs: it also has openssl make parameters."""
        def command(pid):
            try:
                return os.readlink(f"/proc/{pid}/exe")
            except OSError:
                return None
        task = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [pid for pid in task.read_text().split() if command(pid) == command(self.process.pid)]

    def until(self, condition, what):
        end = time.monotonic() + 60
        while not condition():
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"{what}: {self.log()[-4000:]}")
            time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(45)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(30)
        shutil.rmtree(self.folder)


def listens(port):
    """Whether something listens, without a connection that would be logged."""
    local = f"0100007F:{port:04X}"
    lines = pathlib.Path("/proc/net/tcp").read_text().splitlines()
    return any(line.split()[1] == local and line.split()[3] == "0A" for line in lines[1:])


SCRIPT = """
local nb = require("nauthilus_backend")
local target = load("return " .. arg[1])()
local count, is_good = tonumber(arg[2]), arg[3] == "good"
for _ = 1, count do
  local reason = nb.check_backend_connection(target)
  assert((reason == nil) == is_good, reason or "good")
end
-- The same by the monitor, the last probe in flight ended by nothing.
nb.configure({ log = "none", connect_interval = "100ms", fast_interval = "100ms", backend_servers = { target } })
assert(nb.wait_ready(120))
local now
repeat
  now = nb.status().targets[1]
  assert(now.verdict == (is_good and "alive" or "dead"), now.last_error)
until now.probes >= count / 4
nb.configure({ log = "none", connect_interval = "1h", fast_interval = "1h", backend_servers = { target } })
os.execute("sleep 2")
"""


def lua(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else f'"{value}"'


def probed(server, name, port, is_good=True, faults_allowed=0, **keys):
    before = len(server.log())
    keys = {"protocol": "smtp", "host": "127.0.0.1", "port": port, "tls_skip_verify": True, "connect_timeout": "30s",
            "tls_timeout": "30s", "deep_timeout": "30s", "helo_name": "probe.example.org", **keys}
    target = "{" + ", ".join(f"{key} = {lua(value)}" for key, value in keys.items()) + "}"
    done = subprocess.run(["lua5.4", "-", target, str(PROBES), "good" if is_good else "dead"], input=SCRIPT,
                          capture_output=True, text=True, timeout=600, check=False,
                          env={**os.environ, "LUA_CPATH": "build/lua5.4/?.so"})
    check(f"{name}: {PROBES} probes are {'good' if is_good else 'dead'}", done.returncode == 0, done.stdout + done.stderr)
    check(f"{name}: the worker is the same", server.workers() == server.worker, f"{server.worker}, now {server.workers()}")
    log = server.log()[before:]
    faults = [line for line in log.splitlines() if FAULTS.search(line)]
    check(f"{name}: no error is logged", len(faults) <= faults_allowed, "\n".join(faults[:20]))


def main():
    program, name = installed()
    print(f"# Haraka {name}", flush=True)
    server = Haraka(program)
    try:
        check("it has one worker", len(server.worker) == 1, server.worker)
        probed(server, "connect-only", server.plain)
        probed(server, "a dialogue", server.plain, deep_check=True)
        probed(server, "STARTTLS", server.plain, tls_mode="starttls")
        probed(server, "STARTTLS, a dialogue", server.plain, tls_mode="starttls", deep_check=True)
        probed(server, "implicit TLS, connect-only", server.implicit, tls=True)
        probed(server, "implicit TLS, a dialogue", server.implicit, tls=True, deep_check=True)
        # Haraka knows version 1 of the header alone.
        probed(server, "a PROXY header that it does not know", server.plain, is_good=False, haproxy_v2=True, deep_check=True)
        probed(server, "a PROXY header before TLS", server.implicit, is_good=False, haproxy_v2=True, tls=True)
    finally:
        server.stop()
    sys.exit(status())


main()
