#!/usr/bin/env python3
"""A real Postfix on loopback ports of its own, from the configuration below. It needs root.

Requests (see control.py for their form):

    start   -> port numbers by listener name (smtp, smtps, smtp_strict, smtp_proxy) and the certificate
               authority (ca=).
    stop    Ends it.
    log     -> text=. The end of its log.
"""

import os
import pwd
import socket
import subprocess
import time

import control

HERE = os.path.dirname(os.path.abspath(__file__))
MASTERS = ["/usr/lib/postfix/sbin/master", "/usr/libexec/postfix/master"]

# listener name -> what its smtpd has besides the configuration
LISTENERS = {
    "smtp": "",
    "smtps": "-o smtpd_tls_wrappermode=yes",
    "smtp_strict": "-o smtpd_helo_required=yes -o smtpd_delay_reject=no"
    " -o smtpd_helo_restrictions=reject_invalid_helo_hostname,reject_non_fqdn_helo_hostname",
    "smtp_proxy": "-o smtpd_upstream_proxy_protocol=haproxy",
}

MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mx.example.com
mydestination =
maillog_file = {folder}/mail.log
maillog_file_prefixes = {folder}
smtpd_tls_cert_file = {folder}/certificates/good.pem
smtpd_tls_key_file = {folder}/certificates/good.pem
smtpd_tls_security_level = may
"""

MASTER = """\
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
rewrite unix - - n - - trivial-rewrite
proxymap unix - - n - - proxymap
postlog unix-dgram n - n - 1 postlogd
"""

QUEUES = "active bounce corrupt defer deferred flush hold incoming private public saved trace"


class Postfix:
    def __init__(self, folder):
        self.folder = folder
        self.process = None
        self.ports = {}

    def handlers(self):
        return {
            "start": self.start,
            "stop": self.stop,
            "stop_all": self.stop,
            "log": lambda: {"text": self.log()},
        }

    def configure(self, master):
        owner = pwd.getpwnam("postfix")
        certificates = os.path.join(self.folder, "certificates")
        subprocess.run([os.path.join(HERE, "certificates.sh"), certificates], check=True)
        queues = [os.path.join("queue", name) for name in QUEUES.split()]
        for name in ["conf", "data", "queue", "queue/pid", "queue/maildrop", *queues]:
            path = os.path.join(self.folder, name)
            os.makedirs(path, exist_ok=True)
            if name == "data" or name in queues:
                os.chown(path, owner.pw_uid, owner.pw_gid)
        with open(os.path.join(self.folder, "conf", "main.cf"), "w") as file:
            file.write(MAIN.format(folder=self.folder, daemons=os.path.dirname(master)))
        with open(os.path.join(self.folder, "conf", "master.cf"), "w") as file:
            for name, options in LISTENERS.items():
                self.ports[name] = control.free_port(taken=self.ports.values())
                file.write(f"127.0.0.1:{self.ports[name]} inet n - n - - smtpd {options}\n")
            file.write(MASTER)

    def start(self):
        if self.process:
            raise RuntimeError("already running")
        master = next((path for path in MASTERS if os.path.exists(path)), None)
        if not master:
            raise FileNotFoundError("Postfix is not installed")
        if not self.ports:
            self.configure(master)
        self.process = subprocess.Popen(
            [master, "-c", os.path.join(self.folder, "conf"), "-d"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not self.greets():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError("Postfix did not start: " + self.log())
            time.sleep(0.02)
        return {**self.ports, "ca": self.folder + "/certificates/ca.crt"}

    def greets(self):
        try:
            with socket.create_connection(("127.0.0.1", self.ports["smtp"]), 5) as sock:
                greeting = sock.recv(256)
                sock.sendall(b"QUIT\r\n")
                while sock.recv(256):
                    pass
                return greeting.startswith(b"220 ")
        except OSError:
            return False

    def stop(self):
        if not self.process:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def log(self):
        try:
            with open(os.path.join(self.folder, "mail.log")) as file:
                return file.read()[-4000:]
        except OSError as error:
            return str(error)


if __name__ == "__main__":
    control.serve(lambda folder: Postfix(folder).handlers())
