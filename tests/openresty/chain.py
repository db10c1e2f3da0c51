"""The whole chain of examples/openresty: client, nginx's mail proxy, the module, Dovecot."""

import base64
import imaplib
import os
import poplib
import re
import shutil
import signal
import smtplib
import socket
import sys
import tempfile
import threading
import time

from lab import ROOT, Nginx, equal, finish, free_port, test, until

sys.path.insert(0, str(ROOT / "spec/support"))
import dovecot  # pylint: disable=wrong-import-position

PORTS = {"imap": 10143, "pop3": 10110, "smtp": 10587}
LISTENERS = {"imap": "imap_proxy", "pop3": "pop3_proxy", "smtp": "submission_proxy"}
SERVICES = {"imap": "imap-login", "pop3": "pop3-login", "smtp": "submission-login"}


class Relay:
    """The SMTP server that Dovecot's submission service wants behind it."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            peer, _ = self.socket.accept()
            threading.Thread(target=self.talk, args=(peer,), daemon=True).start()

    @staticmethod
    def talk(peer):
        with peer:
            peer.sendall(b"220 relay\r\n")
            while line := peer.recv(4096):
                peer.sendall(b"221 bye\r\n" if line.upper().startswith(b"QUIT") else b"250 relay\r\n")


class Site:
    """A mail server with one listener for each protocol."""

    def __init__(self, relay):
        self.folder = tempfile.mkdtemp(prefix="nb-dovecot-")
        os.chmod(self.folder, 0o755)
        # Its own log tells who was logged in here.
        self.dovecot = dovecot.Dovecot(self.folder, settings=f"submission_relay_port = {relay.port}\n")
        self.start()

    def start(self):
        self.ports = self.dovecot.start()

    def stop(self):
        self.dovecot.stop()

    def port(self, protocol):
        return self.ports[LISTENERS[protocol]]

    def logins(self, service, user):
        with open(os.path.join(self.folder, "dovecot.log"), encoding="utf-8") as log:
            # Dovecot 2.3 says "Login", 2.4 "Logged in".
            login = re.compile(rf"{service}: Info: (Login|Logged in): .*\buser=<{re.escape(user)}>")
            return sum(1 for line in log if login.search(line))


for protocol, listener in LISTENERS.items():
    dovecot.LISTENERS[listener] = (SERVICES[protocol], False, True)


class Example(Nginx):
    """nginx with the example's own files; only addresses and ports are replaced."""

    def __init__(self, sites):
        self.sites = sites
        self.ports = {name: free_port() for name in ("auth", *PORTS)}
        super().__init__()

    def configure(self, *_, **__):
        source = ROOT / "examples/openresty"
        shutil.copy(source / "auth.lua", self.dir)
        text = (source / "nginx.conf").read_text()
        for name, port in (("auth", 8143), ("imap", 2143), ("pop3", 2110), ("smtp", 2587)):
            assert f"127.0.0.1:{port}" in text, f"{port} in nginx.conf"
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{self.ports[name]}")
        text = text.replace("worker_processes auto", "worker_processes 2")
        text = text.replace("pid logs/nginx.pid", "pid nginx.pid").replace("error_log logs/", "error_log ")
        if os.geteuid() == 0:
            text = "user nobody nogroup;\n" + text
        (self.dir / "nginx.conf").write_text(text)
        text = (source / "backends.yml").read_text()
        for number, site in enumerate(self.sites, 1):
            for name, port in PORTS.items():
                old = f"host: 192.0.2.1{number}\n      port: {port}"
                assert old in text, old
                text = text.replace(old, f"host: 127.0.0.1\n      port: {site.port(name)}")
        # Only the times are the test's own.
        text = text.replace("connect_interval: 10s", "connect_interval: 300ms")
        text = text.replace("fast_interval: 1s", "fast_interval: 200ms")
        (self.dir / "backends.yml").write_text(text)
        self.port = self.ports["auth"]

    def verdicts(self):
        """(protocol, port) -> verdict"""
        found = {}
        for line in self.body("/status").splitlines():
            key, verdict = line.split(" ")[:2]
            found[(key.split("://")[0], int(key.split("?")[0].rsplit(":", 1)[1]))] = verdict
        return found

    def await_verdict(self, site, verdict):
        for name in PORTS:
            until(lambda n=name: self.verdicts()[(n, site.port(n))] == verdict, 10, f"{name} {verdict}")


def imap_login(port, user, password="secret"):
    client = imaplib.IMAP4("127.0.0.1", port, timeout=10)
    equal(client.login(user, password)[0], "OK", "LOGIN")
    equal(client.select("INBOX")[0], "OK", "SELECT")
    client.logout()


def pop3_login(port, user, password="secret"):
    client = poplib.POP3("127.0.0.1", port, timeout=10)
    client.user(user)
    assert client.pass_(password).startswith(b"+OK")
    client.stat()
    client.quit()


def smtp_login(port, user, password="secret"):
    client = smtplib.SMTP("127.0.0.1", port, timeout=10)
    client.ehlo()
    # smtplib's own login tries another mechanism on a connection that is closed by then.
    plain = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
    code, text = client.docmd("AUTH", "PLAIN " + plain)
    if code != 235:
        raise smtplib.SMTPAuthenticationError(code, text)
    equal(client.noop()[0], 250, "NOOP")
    client.quit()


LOGINS = {"imap": imap_login, "pop3": pop3_login, "smtp": smtp_login}
REFUSED = (imaplib.IMAP4.error, poplib.error_proto, smtplib.SMTPException)


def main():
    relay = Relay()
    sites = [Site(relay), Site(relay)]
    nginx = Example(sites).start()
    try:
        run(nginx, sites)
    finally:
        for site in sites:
            site.stop()
            shutil.rmtree(site.folder, ignore_errors=True)
    finish()


def where(sites, protocol, user, login):
    """The site that a login came to."""
    service = SERVICES[protocol]
    before = [site.logins(service, user) for site in sites]
    login()
    def come():
        new = [at for at, site in enumerate(sites) if site.logins(service, user) > before[at]]
        return [new] if new else None
    [arrived] = until(come, what="the login in a log")
    equal(len(arrived), 1, "sites that were logged in to")
    return arrived[0]


def run(nginx, sites):
    for site in sites:
        nginx.await_verdict(site, "alive")
    chosen = {}
    for protocol, login in LOGINS.items():
        with test(f"{protocol}: a login through nginx reaches a backend"):
            user = f"{protocol}-user"
            chosen[protocol] = where(
                sites, protocol, user, lambda p=protocol, f=login, u=user: f(nginx.ports[p], u)
            )
    with test("users are spread over the backends, each to its own"):
        hits = {}
        for number in range(12):
            user = f"user{number}@example.org"
            hits[user] = where(sites, "imap", user, lambda u=user: imap_login(nginx.ports["imap"], u))
        equal(set(hits.values()), {0, 1}, "sites in use")
        for user, site in hits.items():
            equal(where(sites, "imap", user, lambda u=user: imap_login(nginx.ports["imap"], u)), site, user)
    first = chosen["imap"]
    sites[first].stop()
    nginx.await_verdict(sites[first], "dead")
    for protocol, login in LOGINS.items():
        with test(f"{protocol}: when the chosen backend has stopped, the next login lands on the other"):
            user = f"{protocol}-user"
            equal(where(sites, protocol, user, lambda p=protocol, f=login, u=user: f(nginx.ports[p], u)),
                  1 - first, "site")
    sites[1 - first].stop()
    nginx.await_verdict(sites[1 - first], "dead")
    for protocol, login in LOGINS.items():
        with test(f"{protocol}: with none alive the client is told so at once"):
            began = time.monotonic()
            try:
                login(nginx.ports[protocol], "user")
            except REFUSED as problem:
                assert "Temporary server problem" in str(problem), problem
            else:
                raise AssertionError("it was let in")
            assert time.monotonic() - began < 2, "it hung"
    sites[first].start()
    nginx.await_verdict(sites[first], "alive")
    with test("a backend that is back gets logins again"):
        equal(where(sites, "imap", "imap-user", lambda: imap_login(nginx.ports["imap"], "imap-user")), first)
    with test("a reload keeps the chain and the verdicts"):
        os.kill(nginx.master(), signal.SIGHUP)
        equal(nginx.verdicts()[("imap", sites[1 - first].port("imap"))], "dead")
        imap_login(nginx.ports["imap"], "imap-user")
        nginx.assert_clean()
    # Last, since Dovecot answers more slowly after each.
    for protocol, login in LOGINS.items():
        with test(f"{protocol}: a wrong password is the backend's to refuse"):
            try:
                login(nginx.ports[protocol], "user", "wrong")
            except REFUSED as problem:
                assert "uthentication failed" in str(problem), problem
            else:
                raise AssertionError("it was let in")
    with test("no password is in nginx's log"):
        assert "secret" not in nginx.log()


main()
