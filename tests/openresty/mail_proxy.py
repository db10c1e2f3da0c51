"""What tests of a mail proxy share: nginx with a file of examples/openresty, mail servers behind it, logins."""

import base64
import imaplib
import os
import poplib
import re
import shutil
import smtplib
import socket
import ssl
import sys
import tempfile
import threading

from lab import ROOT, Nginx, equal, free_port, until

sys.path.insert(0, str(ROOT / "spec/support"))
import dovecot  # pylint: disable=wrong-import-position

PORTS = {"imap": 10143, "pop3": 10110, "smtp": 10587}
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


def behind_nginx(relay):
    """Dovecot's settings of the example, and its ports by protocol."""
    settings = (ROOT / "examples/openresty/dovecot.conf").read_text().replace("192.0.2.0/24", "127.0.0.0/8")
    if dovecot.version() >= (2, 4):
        settings = settings.replace("disable_plaintext_auth = no", "auth_allow_cleartext = yes")
    proxied = {}
    for protocol, port in PORTS.items():
        proxied[protocol] = free_port(taken=proxied.values())
        assert f"port = {port}\n" in settings, port
        settings = settings.replace(f"port = {port}\n", f"port = {proxied[protocol]}\n")
    # All users of the test are accepted: Dovecot answers more slowly after each failed login.
    return settings + f"submission_relay_port = {relay.port}\nauth_username_chars =\n", proxied


class Site:
    """A mail server with one listener for each protocol."""

    def __init__(self, relay):
        self.folder = tempfile.mkdtemp(prefix="nb-dovecot-")
        os.chmod(self.folder, 0o755)
        # Its own log tells who was logged in here.
        settings, self.proxied = behind_nginx(relay)
        self.dovecot = dovecot.Dovecot(self.folder, settings=settings)
        self.start()

    def start(self):
        self.dovecot.start()

    def stop(self):
        self.dovecot.stop()

    def port(self, protocol):
        return self.proxied[protocol]

    def logins(self, service, user):
        with open(os.path.join(self.folder, "dovecot.log"), encoding="utf-8") as log:
            # Dovecot 2.3 says "Login", 2.4 "Logged in".
            login = re.compile(rf"{service}: Info: (Login|Logged in): .*\buser=<{re.escape(user)}>")
            return sum(1 for line in log if login.search(line))


# The name of the example's own listener.
del dovecot.LISTENERS["imap_proxy"]


# Documented port of the mail proxy -> protocol and whether TLS begins with the first byte.
FRONT = {
    993: ("imap", True), 995: ("pop3", True), 465: ("smtp", True),
    143: ("imap", False), 110: ("pop3", False), 587: ("smtp", False),
}


class Example(Nginx):
    """nginx with a file of the example as it is; only addresses, ports and folders are replaced."""

    file = "debian.conf"

    def __init__(self, sites):
        self.sites = sites
        self.auth = free_port()
        self.ports = {at: free_port() for at in FRONT}
        self.context = ssl.create_default_context(cafile=f"{sites[0].folder}/certificates/ca.crt")
        super().__init__()

    def place(self, text):
        """The file's text with this test's places in those of the documented ones."""
        def port(found):
            return f"listen {self.ports[int(found[2])]}{found[3]}"
        text, listeners = re.subn(r"(listen )(\d+)( ssl|;)", port, text)
        equal(listeners in (0, len(FRONT)), True, "listeners replaced")
        text = text.replace("127.0.0.1:8143", f"127.0.0.1:{self.auth}")
        text = text.replace("listen ", "listen 127.0.0.1:").replace("listen 127.0.0.1:127.0.0.1:", "listen 127.0.0.1:")
        text = text.replace("worker_processes auto", "worker_processes 2")
        for documented in ("/etc/nginx/auth", "/etc/nginx/mail", "/etc/nauthilus", "/run/", "/var/log/nginx/"):
            text = text.replace(documented, f"{self.dir}/{documented.rsplit('/', 1)[1]}")
        for documented in ("/usr/local/lib/lua/5.1", "/usr/local/openresty/site/lualib"):
            text = text.replace(f'"{documented}/', f'"{self.dir}/')
        return text

    def configure(self, *_, **__):
        source = ROOT / "examples/openresty"
        for folder in (self.dir, self.dir / "conf"):
            folder.mkdir(exist_ok=True)
            shutil.copy(source / "auth.lua", folder)
        (self.dir / "logs").mkdir()
        shutil.copy(f"{self.sites[0].folder}/certificates/good.pem", self.dir / "mail.pem")
        (self.dir / "nginx.conf").write_text(self.place((source / self.file).read_text()))
        (self.dir / "nauthilus_backend.yml").write_text(self.backends())
        self.port = self.auth

    def backends(self):
        """The text of the module's configuration."""
        text = (ROOT / "examples/openresty/backends.yml").read_text()
        for number, site in enumerate(self.sites, 1):
            for name, port in PORTS.items():
                old = f"host: 192.0.2.1{number}\n      port: {port}"
                assert old in text, old
                text = text.replace(old, f"host: 127.0.0.1\n      port: {site.port(name)}")
        # Only the times are the test's own.
        text = text.replace("connect_interval: 10s", "connect_interval: 300ms")
        text = text.replace("fast_interval: 1s", "fast_interval: 200ms")
        for key, value in (("node_down_after", "10s"), ("node_up_after", "30s")):
            assert f"{key}: {value}" in text, key
            text = text.replace(f"{key}: {value}", f"{key}: 0")
        return text

    def _command(self, *arguments):
        # Without -p: the modules' files are found from the prefix of Debian's nginx.
        return [*self.binary, "-c", str(self.dir / "nginx.conf"), "-e", str(self.dir / "error.log"), *arguments]

    def verdicts(self):
        """(protocol, port) -> verdict"""
        found = {}
        for line in self.body("/status").splitlines():
            key, verdict = line.split(" ")[:2]
            found[(key.split("://")[0], int(key.split("?")[0].rsplit(":", 1)[1]))] = verdict
        return found

    def await_verdict(self, site, verdict):
        for name in PORTS:
            until(lambda n=name: self.verdicts()[(n, site.port(n))] == verdict, 30, f"{name} {verdict}")

    def log_in(self, at, user, password="secret"):
        """A login at a documented port of the mail proxy."""
        protocol, implicit = FRONT[at]
        LOGINS[protocol](self.ports[at], implicit, self.context, user, password)


def imap_login(port, implicit, context, user, password):
    client = (imaplib.IMAP4_SSL("localhost", port, ssl_context=context, timeout=30) if implicit
              else imaplib.IMAP4("localhost", port, timeout=30))
    if not implicit:
        client.starttls(context)
    equal(client.login(user, password)[0], "OK", "LOGIN")
    equal(client.select("INBOX")[0], "OK", "SELECT")
    client.logout()


def pop3_login(port, implicit, context, user, password):
    client = (poplib.POP3_SSL("localhost", port, context=context, timeout=30) if implicit
              else poplib.POP3("localhost", port, timeout=30))
    if not implicit:
        client.stls(context)
    client.user(user)
    assert client.pass_(password).startswith(b"+OK")
    client.stat()
    client.quit()


def smtp_login(port, implicit, context, user, password):
    client = (smtplib.SMTP_SSL("localhost", port, context=context, timeout=30) if implicit
              else smtplib.SMTP("localhost", port, timeout=30))
    if not implicit:
        client.starttls(context=context)
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


# What a client is told so that it does not ask for another password.
TEMPORARY = {"imap": "[UNAVAILABLE]", "pop3": "[SYS/TEMP]", "smtp": "451"}

# A port for each protocol.
PORT_OF = {"imap": 993, "pop3": 995, "smtp": 587}
