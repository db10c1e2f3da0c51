"""A Dovecot that proxies logins as examples/dovecot has it, and logins at it."""

import base64
import imaplib
import os
import pathlib
import poplib
import pwd
import re
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import tempfile

from example import ROOT, arrivals, authorities, dovecot, until
from control import free_port
from hosts import lua_of_dovecot

EXAMPLE = ROOT / "examples/dovecot"
FRONT = ("imap-login imaps", "pop3-login pop3s", "lmtp lmtp", "managesieve-login sieve")


class Proxy:
    """Dovecot with the files of examples/dovecot as they are. Only addresses, ports and folders are replaced. Those of
    `servers` sign for what is behind it."""

    def __init__(self, servers, workers=True):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nb-example-"))
        os.chmod(self.folder, 0o755)
        self.servers = servers
        self.version = "2.3" if dovecot.version() < (2, 4) else "2.4"
        owner = pwd.getpwnam("dovecot")
        (self.folder / "nauthilus_backend").mkdir(mode=0o700)
        os.chown(self.folder / "nauthilus_backend", owner.pw_uid, owner.pw_gid)
        shutil.copytree(ROOT / f"build/{lua_of_dovecot()}", self.folder / "modules")
        self.cafile = authorities(servers, self.folder / "ca.crt")
        (self.folder / "route.lua").write_text(self.place((EXAMPLE / "route.lua").read_text()))
        (self.folder / "nauthilus_backend.yml").write_text(self.place(self.backends()))
        text = self.place((EXAMPLE / f"dovecot-{self.version}.conf").read_text())
        for documented in ("dovecot.pem", "dovecot.key"):
            text = text.replace(f"/etc/dovecot/private/{documented}", f"{servers[0].folder}/certificates/good.pem")
        if not workers:
            text, changed = re.subn(r"^(.*\b(?:blocking=|use_worker = ))yes$", r"\1no", text, flags=re.M)
            assert changed == 1, text
        self.ports = {}
        for listener in FRONT:
            service, name = listener.split()
            self.ports[name] = free_port()
            documented = {"lmtp": 24, "sieve": 4190}.get(name)
            if documented:
                assert f"port = {documented}\n" in text
                text = text.replace(f"port = {documented}\n", f"port = {self.ports[name]}\n")
            else:
                plain = name[:-1]
                # The documented port is Dovecot's default, which another Dovecot of this machine may use.
                text += (f"service {service} {{\n  inet_listener {plain} {{\n    port = 0\n  }}\n"
                         f"  inet_listener {name} {{\n    port = {self.ports[name]}\n  }}\n}}\n")
        for folder in ("run", "state"):
            (self.folder / folder).mkdir()
        text += f"listen = 127.0.0.1\nbase_dir = {self.folder}/run\nstate_dir = {self.folder}/state\nlog_path = {self.folder}/log\n"
        (self.folder / "dovecot.conf").write_text(text)
        self.start()

    def place(self, text):
        text = text.replace("/etc/dovecot/route.lua", f"{self.folder}/route.lua")
        text = text.replace("/usr/local/lib/lua/5.4", f"{self.folder}/modules")
        text = text.replace("/etc/ssl/mail-ca.pem", self.cafile)
        text = text.replace("/var/lib/", f"{self.folder}/")
        return text.replace("/etc/nauthilus", f"{self.folder}/nauthilus")

    def backends(self):
        """The text of the module's configuration, in the example's words for places."""
        raise NotImplementedError

    def start(self):
        self.process = subprocess.Popen(["dovecot", "-F", "-c", f"{self.folder}/dovecot.conf"], start_new_session=True,
                                        stdin=subprocess.DEVNULL)  # pylint: disable=consider-using-with
        for port in self.ports.values():
            if not until(lambda at=port: socket.create_connection(("127.0.0.1", at), 5).close() is None, 60):
                raise AssertionError(self.log())

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def close(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self):
        return (self.folder / "log").read_text(errors="replace") if (self.folder / "log").exists() else ""

    def loaded(self):
        """How many of its processes have the module loaded."""
        count = 0
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                in_group = os.getpgid(int(entry.name)) == self.process.pid
                count += in_group and f"{self.folder}/modules" in (entry / "maps").read_text()
            except (OSError, ValueError):
                pass
        return count

    # --- Logins -------------------------------------------------------------------------------

    def context(self):
        return ssl.create_default_context(cafile=self.cafile)

    def imap(self, user):
        client = imaplib.IMAP4_SSL("localhost", self.ports["imaps"], ssl_context=self.context(), timeout=60)
        client.login(user, "secret")
        client.select("INBOX")
        client.logout()

    def pop3(self, user):
        client = poplib.POP3_SSL("localhost", self.ports["pop3s"], context=self.context(), timeout=60)
        client.user(user)
        client.pass_("secret")
        client.quit()

    def lmtp(self, user):
        client = smtplib.LMTP("127.0.0.1", self.ports["lmtp"], timeout=60)
        client.sendmail("sender@example.org", [user], "Subject: one\r\n\r\ntext\r\n")
        client.quit()

    def sieve(self, user):
        with socket.create_connection(("localhost", self.ports["sieve"]), 60) as plain:
            self.answer(plain.makefile("rb"))
            plain.sendall(b"STARTTLS\r\n")
            self.answer(plain.makefile("rb", buffering=0))
            with self.context().wrap_socket(plain, server_hostname="localhost") as client, client.makefile("rb") as stream:
                self.answer(stream)
                token = base64.b64encode(f"\0{user}\0secret".encode()).decode()
                client.sendall(f'AUTHENTICATE "PLAIN" "{token}"\r\n'.encode())
                said = self.answer(stream)
                assert said.startswith(b"OK"), said
                client.sendall(b"LISTSCRIPTS\r\n")
                said = self.answer(stream)
                assert said.startswith(b"OK"), said
                client.sendall(b"LOGOUT\r\n")

    @staticmethod
    def answer(stream):
        """The last line of an answer of ManageSieve."""
        while line := stream.readline():
            if line.startswith((b"OK", b"NO", b"BYE")):
                return line
        raise OSError("ManageSieve ended the connection")

    def where(self, protocol, user):
        """The numbers of the servers that a login came to."""
        return arrivals(self.servers, lambda server: server.arrived(protocol, user), lambda: getattr(self, protocol)(user))
