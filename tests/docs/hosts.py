"""Runs a block in the host it is for. Each function raises an AssertionError, with what the host said, when the
block does not do what its page says."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

WITHIN = 20


def succeed(command, **options):
    """Runs a command that must end with status 0; returns its output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          timeout=120, check=False, **options)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def lua_of_haproxy():
    return "lua" + re.search(r"Lua version : Lua (5\.\d)", succeed(["haproxy", "-vv"]))[1]


def lua_of_dovecot():
    plugin = succeed(["find", "/usr/lib", "-name", "libauthdb_lua.so"]).split()[0]
    return "lua" + re.search(r"liblua(5\.\d)", succeed(["ldd", plugin]))[1]


def dovecot_version():
    return ".".join(succeed(["dovecot", "--version"]).split(".")[:2])


class Host:
    """A program that runs in the foreground until the block was tried."""

    def __init__(self, command, output, **options):
        self.output = output
        with open(output, "wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                                            stdin=subprocess.DEVNULL, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Only the first process: it ends its workers.
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def said(self):
        """The last of what it said: a host that fails may say the same for each attempt."""
        with open(self.output, encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-40:])

    def until(self, condition, what):
        """Waits until condition() is true, for which it may raise OSError meanwhile."""
        end, last = time.monotonic() + WITHIN, ""
        while time.monotonic() < end and self.process.poll() is None:
            try:
                last = condition()
                if last is True:
                    return
            except OSError as error:
                last = error
            time.sleep(0.05)
        raise AssertionError(f"{what}: {last}\n{self.said()}")


def dial(address):
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), 5)


def log_in(address, expected=b"a OK"):
    """Whether a login through a mail proxy succeeds, or has another expected answer."""
    with dial(address) as connection, connection.makefile("rwb", buffering=0) as stream:
        stream.readline()
        stream.write(b'a LOGIN "alice" "secret"\r\n')
        while (line := stream.readline()).startswith(b"* "):
            pass
        return line.startswith(expected) or line


def log_in_smtp(address, expected):
    with dial(address) as connection, connection.makefile("rwb", buffering=0) as stream:
        stream.readline()
        stream.write(b"EHLO client\r\n")
        while stream.readline().startswith(b"250-"):
            pass
        stream.write(b"AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n")
        return (line := stream.readline()).startswith(expected) or line


def greeting(address):
    with dial(address) as connection, connection.makefile("rb") as stream:
        return (line := stream.readline()).startswith(b"* OK") or line


def header(url, text):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return text in str(answer.headers) or str(answer.headers)


TRIALS = {"login": log_in, "greeting": greeting, "header": header}


def trial(block, local):
    """What the block's comment wants tried, with this machine's addresses."""
    assert block.test and block.test[0] in TRIALS, f"{block}: a comment must say what to try: {block.test}"
    name, *arguments = block.test
    arguments = [local.text(each, "") for each in arguments]
    return lambda: TRIALS[name](*arguments), " ".join(block.test)


def nginx(block, text, local):
    conf = f"{local.scratch}/nginx.conf"
    with open(conf, "w", encoding="utf-8") as file:
        file.write(text)
    condition, what = trial(block, local)
    command = ["nginx", "-e", "stderr", "-c", conf, "-g",
               f"daemon off; pid {local.scratch}/nginx.pid; error_log stderr;"]
    with Host(command, f"{local.scratch}/nginx.log") as host:
        host.until(condition, what)
    if block.test[0] == "login":
        without_servers(command, conf, text, local)


def without_servers(command, conf, text, local):
    """While no server is alive, a client of a mail proxy is told that this is temporary."""
    imap, smtp = (f"127.0.0.1:{local.front(port)}" for port in ("143", "a port for SMTP"))
    text, listeners = re.subn(rf"( *server {{ listen ){imap}; protocol imap;(.*)", rf"\g<0>\n\g<1>{smtp}; protocol smtp;\2", text)
    servers = local.path("/etc/nauthilus_backend.yml")
    assert listeners == 1 and servers in text, text
    # Not this file itself: later blocks of the page read it.
    text = text.replace(servers, f"{local.scratch}/dead.yml")
    with open(conf, "w", encoding="utf-8") as file:
        file.write(text)
    # Nothing listens on port 1.
    with open(f"{local.scratch}/dead.yml", "w", encoding="utf-8") as file:
        file.write("backend_server_monitoring: { backend_servers: [{ protocol: imap, host: 127.0.0.1, port: 1 }] }\n")
    with Host(command, f"{local.scratch}/nginx.log") as host:
        host.until(lambda: log_in(imap, b"a NO [UNAVAILABLE]"), "an IMAP client is told to try again")
        host.until(lambda: log_in_smtp(smtp, b"451 4.3.2 "), "an SMTP client is told to try again")


def haproxy(block, text, local):
    conf = f"{local.scratch}/haproxy.cfg"
    with open(conf, "w", encoding="utf-8") as file:
        file.write(text)
    condition, what = trial(block, local)
    with Host(["haproxy", "-W", "-db", "-f", conf], f"{local.scratch}/haproxy.log") as host:
        host.until(condition, what)


def dovecot(block, text, local):
    home = f"{local.scratch}/dovecot"
    shutil.rmtree(home, ignore_errors=True)
    for folder in ("run", "state"):
        os.makedirs(f"{home}/{folder}")
    conf = f"{home}/dovecot.conf"
    version = dovecot_version()
    with open(conf, "w", encoding="utf-8") as file:
        if version != "2.3":
            file.write(f"dovecot_config_version = {version}.0\ndovecot_storage_version = {version}.0\n")
        file.write(f"base_dir = {home}/run\nstate_dir = {home}/state\nlog_path = /dev/stderr\nprotocols = imap\nssl = no\n"
                   "default_internal_user = dovecot\ndefault_login_user = dovenull\nlisten = 127.0.0.1\n"
                   f"{'disable_plaintext_auth = no' if version == '2.3' else 'auth_allow_cleartext = yes'}\n"
                   f"service imap-login {{\n  inet_listener imap {{\n    port = {local.front('Dovecot')}\n  }}\n"
                   "  inet_listener imaps {\n    port = 0\n  }\n}\n")
        file.write(text)
    with Host(["dovecot", "-F", "-c", conf], f"{home}/log") as host:
        host.until(lambda: log_in(f"127.0.0.1:{local.front('Dovecot')}"), "a login is proxied")
