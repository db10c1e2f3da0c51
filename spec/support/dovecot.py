#!/usr/bin/env python3
"""A real Dovecot on loopback ports of its own, from the configuration below.

Requests (see control.py for their form):

    start   -> port numbers by listener name, the folder and the certificate authority (ca=).
               The ports are chosen at the first start and kept.
    keep_logins   Before the first start: login processes serve many connections, as Dovecot's
               "high-performance mode" has it, rather than one each.
    stop    Ends it, as a service manager would.
    freeze | thaw   Stops and continues all its processes (SIGSTOP, SIGCONT).
    log     -> text=. The end of its log.
    mailbox name=   Makes a mailbox of the user "probe"; the name is in modified UTF-7.
    hang    The store of that user's INBOX hangs from now on: a stopped process holds the lock that
            Dovecot needs to take in a message that has come. INBOX must have been opened before.
    unhang  It goes on.

Any user may log in with the password "secret". Runs as root, or as an ordinary user whose
Dovecot then runs everything as that user.
"""

import contextlib
import ctypes
import grp
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import control

HERE = os.path.dirname(os.path.abspath(__file__))
PR_SET_PDEATHSIG = 1

# listener name -> service, whether TLS starts with the first byte, whether it wants PROXY
LISTENERS = {
    "imap": ("imap-login", False, False),
    "imaps": ("imap-login", True, False),
    "imap_proxy": ("imap-login", False, True),
    "imaps_proxy": ("imap-login", True, True),
    "pop3": ("pop3-login", False, False),
    "pop3s": ("pop3-login", True, False),
    "lmtp": ("lmtp", False, False),
    "sieve": ("managesieve-login", False, False),
    "submission": ("submission-login", False, False),
}

# The packages that each service needs; an image for demonstrations has IMAP only.
PROTOCOLS = {
    "imap-login": "imap",
    "pop3-login": "pop3",
    "lmtp": "lmtp",
    "managesieve-login": "sieve",
    "submission-login": "submission",
}

# Settings that all versions call by the same name.
CONFIGURATION = """\
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
protocols = {protocols}
listen = 127.0.0.1
default_internal_user = {internal_user}
default_internal_group = {internal_group}
default_login_user = {login_user}
ssl = yes
auth_mechanisms = plain login
auth_failure_delay = 0
haproxy_trusted_networks = 127.0.0.0/8
haproxy_timeout = 3s
first_valid_uid = 1
submission_relay_host = 127.0.0.1
"""

# Dovecot 2.4 renamed settings, and refuses a file that does not begin with its version.
BEFORE_2_4 = """\
ssl_cert = <{certificates}/good.pem
ssl_key = <{certificates}/good.pem
disable_plaintext_auth = no
mail_location = maildir:{folder}/mail/%u
passdb {{
  driver = static
  args = password=secret
}}
userdb {{
  driver = static
  args = uid={mail_uid} gid={mail_gid} home={folder}/mail/%u
}}
"""
VERSIONS_2_4 = """\
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
"""
SINCE_2_4 = """\
ssl_server_cert_file = {certificates}/good.pem
ssl_server_key_file = {certificates}/good.pem
auth_allow_cleartext = yes
mail_driver = maildir
mail_path = {folder}/mail/%{{user}}
passdb static {{
  password = secret
}}
userdb static {{
  fields {{
    uid = {mail_uid}
    gid = {mail_gid}
    home = {folder}/mail/%{{user}}
  }}
}}
"""


# Ends with this helper: the end of the helper closes its input.
HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def find(program):
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if not path:
        raise FileNotFoundError(f"{program} is not installed")
    return path


def installed(service):
    folders = ["/usr/lib/dovecot", "/usr/libexec/dovecot", "/usr/local/libexec/dovecot"]
    return any(os.path.exists(os.path.join(folder, service)) for folder in folders)


def version():
    """The version of the Dovecot installed, such as (2, 4)."""
    said = subprocess.run([find("dovecot"), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"(\d+)\.(\d+)", said)
    if not found:
        raise RuntimeError(f"dovecot --version says {said!r}: a version was expected")
    return int(found.group(1)), int(found.group(2))


class Dovecot:
    """`settings` are lines for its configuration beside those above, in words of all versions."""

    def __init__(self, folder, settings=""):
        self.folder = folder
        self.settings = settings
        self.process = None
        self.holder = None
        self.ports = {}
        self.keeps_logins = False
        self.listeners = {name: how for name, how in LISTENERS.items() if installed(how[0])}

    def handlers(self):
        return {
            "start": self.start,
            "keep_logins": self.keep_logins,
            "stop": self.stop,
            "stop_all": self.stop,
            "freeze": lambda: self.signal_all(signal.SIGSTOP),
            "thaw": lambda: self.signal_all(signal.SIGCONT),
            "log": lambda: {"text": self.log()},
            "mailbox": self.mailbox,
            "hang": self.hang,
            "unhang": self.unhang,
        }

    def keep_logins(self):
        self.keeps_logins = True

    def configure(self):
        self.ports = {}
        for name in self.listeners:
            self.ports[name] = control.free_port(taken=self.ports.values())
        certificates = os.path.join(self.folder, "certificates")
        subprocess.run([os.path.join(HERE, "certificates.sh"), certificates], check=True)
        for name in ["run", "state", "mail"]:
            os.makedirs(os.path.join(self.folder, name), exist_ok=True)
        root = os.getuid() == 0
        mail = pwd.getpwnam("mail") if root else pwd.getpwuid(os.getuid())
        me = mail.pw_name
        os.chown(os.path.join(self.folder, "mail"), mail.pw_uid, mail.pw_gid)
        services = {how[0] for how in self.listeners.values()}
        since_2_4 = version() >= (2, 4)
        template = CONFIGURATION + (SINCE_2_4 if since_2_4 else BEFORE_2_4)
        text = (VERSIONS_2_4 if since_2_4 else "") + template.format(
            folder=self.folder,
            certificates=certificates,
            protocols=" ".join(sorted(PROTOCOLS[service] for service in services)),
            internal_user="dovecot" if root else me,
            internal_group="dovecot" if root else grp.getgrgid(mail.pw_gid).gr_name,
            login_user="dovenull" if root else me,
            mail_uid=mail.pw_uid,
            mail_gid=mail.pw_gid,
        )
        text += self.settings
        for service in sorted(services):
            text += f"service {service} {{\n"
            # Dovecot cannot change its root directory where it runs as an ordinary user.
            text += "" if root else "  chroot =\n"
            if self.keeps_logins and service.endswith("-login"):
                unlimited = "restart_request_count = unlimited" if since_2_4 else "service_count = 0"
                text += f"  {unlimited}\n  process_min_avail = 1\n"
            if service == "submission-login":
                # Dovecot 2.4 listens there by default, on a port that the test did not choose.
                text += "  inet_listener submissions {\n    port = 0\n  }\n"
            for name, (owner, tls, proxy) in self.listeners.items():
                if owner == service:
                    text += f"  inet_listener {name} {{\n"
                    text += f"    port = {self.ports[name]}\n"
                    text += f"    ssl = {'yes' if tls else 'no'}\n"
                    text += "    haproxy = yes\n" if proxy else ""
                    text += "  }\n"
            text += "}\n"
        if not root:
            text += "service anvil {\n  chroot =\n}\nservice stats {\n  chroot =\n}\n"
        with open(os.path.join(self.folder, "dovecot.conf"), "w") as file:
            file.write(text)

    def start(self):
        if self.process:
            raise RuntimeError("already running")
        if self.ports:
            return self.run()
        # Another program may have taken a port since it was found to be free.
        for _ in range(5):
            self.configure()
            try:
                return self.run()
            except RuntimeError as error:
                if "Address already in use" not in str(error):
                    raise
                with contextlib.suppress(FileNotFoundError):
                    os.remove(os.path.join(self.folder, "dovecot.log"))
        return self.run()

    def run(self):
        libc = ctypes.CDLL(None)
        self.process = subprocess.Popen(
            [find("dovecot"), "-F", "-c", os.path.join(self.folder, "dovecot.conf")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=open(os.path.join(self.folder, "dovecot.err"), "w"),
            start_new_session=True,
            # Ends Dovecot too if this helper is killed.
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        )
        deadline = time.monotonic() + 60
        while not self.greets():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError("Dovecot did not start: " + self.log())
            time.sleep(0.02)
        return {**self.ports, "folder": self.folder, "ca": self.folder + "/certificates/ca.crt"}

    def greets(self):
        try:
            with socket.create_connection(("127.0.0.1", self.ports["imap"]), 5) as sock:
                greeting = sock.recv(256)
                sock.sendall(b"a LOGOUT\r\n")
                while sock.recv(256):
                    pass
                return greeting.startswith(b"* OK")
        except OSError:
            return False

    def mailbox(self, name):
        path = pathlib.Path(self.folder, "mail/probe", "." + name)
        owner = os.stat(os.path.join(self.folder, "mail"))
        for folder in [path.parent, path, path / "cur", path / "new", path / "tmp"]:
            folder.mkdir(exist_ok=True)
            os.chown(folder, owner.st_uid, owner.st_gid)

    def hang(self):
        inbox = pathlib.Path(self.folder, "mail/probe")
        self.holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, inbox / "dovecot.index.log"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        if self.holder.stdout.readline() != b"held\n":
            raise RuntimeError("the lock was not taken")
        self.holder.send_signal(signal.SIGSTOP)
        (inbox / "new/1.new").write_text("Subject: new\n\nx\n")

    def unhang(self):
        if self.holder:
            self.holder.kill()
            self.holder.communicate()
            self.holder = None

    def stop(self):
        self.unhang()
        if not self.process:
            return
        self.signal_all(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        self.signal_all(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def kill(self):
        """Ends all its processes at once, as a power cut would."""
        self.signal_all(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def signal_all(self, number):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def log(self):
        text = ""
        for name in ["dovecot.err", "dovecot.log"]:
            path = os.path.join(self.folder, name)
            if os.path.exists(path):
                with open(path, errors="replace") as file:
                    text += file.read()
        return text[-4000:]


if __name__ == "__main__":
    control.serve(lambda folder: Dovecot(folder).handlers())
