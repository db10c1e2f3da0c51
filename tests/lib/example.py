"""Functions for the tests of the examples, beside the reports (tap.py): a mail server that logs who has logged in."""

import contextlib
import http.client
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "spec/support"), str(ROOT / "tests/docs")]
import dovecot


def until(condition, within=60):
    """Waits until condition() is true, for which it may raise OSError meanwhile; returns whether it is."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if condition():
                return True
        time.sleep(0.01)
    return False


SERVICES = {"imap": "imap-login", "pop3": "pop3-login", "sieve": "managesieve-login"}


class Mail:
    """A Dovecot whose log says who logged in."""

    def __init__(self, settings=""):
        self.folder = tempfile.mkdtemp(prefix="nb-example-")
        os.chmod(self.folder, 0o755)
        self.dovecot = dovecot.Dovecot(self.folder, settings=settings)
        self.ports = self.dovecot.start()

    def count(self, pattern):
        """The lines of its log that match."""
        with open(f"{self.folder}/dovecot.log", encoding="utf-8", errors="replace") as log:
            return sum(1 for line in log if re.search(pattern, line))

    def logins(self, service, user):
        # Dovecot 2.3 says "Login", 2.4 "Logged in".
        return self.count(rf"{service}: Info: (Login|Logged in): .*\buser=<{re.escape(user)}>")

    def arrived(self, protocol, user):
        """How many logins, for LMTP mails, of the user have come."""
        if protocol == "lmtp":
            return self.count(rf"lmtp\({re.escape(user)}\).*: [Ss]aved mail to INBOX")
        return self.logins(SERVICES[protocol], user)

    def close(self):
        self.dovecot.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def arrivals(servers, count, act):
    """The numbers of the servers whose `count` has grown through act()."""
    before = [count(server) for server in servers]
    act()
    arrived = []

    def told():
        arrived[:] = [at for at, server in enumerate(servers) if count(server) > before[at]]
        return arrived

    until(told, 30)
    return arrived


def authorities(servers, path):
    """Writes the CA certificates of the servers into one file."""
    texts = [pathlib.Path(f"{each.folder}/certificates/ca.crt").read_text(encoding="utf-8") for each in servers]
    pathlib.Path(path).write_text("".join(texts), encoding="utf-8")
    return str(path)
