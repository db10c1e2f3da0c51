#!/usr/bin/env python3
"""OpenSSL's own server, `openssl s_server`, on loopback.

Requests (see control.py for their form):

    start version=1.2   -> port=. One more server; of this version of TLS alone. It requires a certificate of
                           each client. With groups= it requires none and supports these groups alone;
                           log= is then the file in which it tells of each handshake.
    certificates        -> folder=. See certificates.sh for what is in it.
"""

import os
import socket
import subprocess
import time

import control

HERE = os.path.dirname(os.path.abspath(__file__))


class Servers:
    def __init__(self, folder):
        self.folder = folder
        self.made = None
        self.processes = []

    def handlers(self):
        return {"start": self.start, "certificates": lambda: {"folder": self.certificates()}, "stop_all": self.stop}

    def certificates(self):
        if not self.made:
            self.made = os.path.join(self.folder, "certificates")
            subprocess.run([os.path.join(HERE, "certificates.sh"), self.made], check=True)
        return self.made

    def start(self, version, groups=None):
        port = control.free_port()
        log = os.path.join(self.folder, f"log-{port}") if groups else os.devnull
        if groups:
            kind = ["-groups", groups]
        else:
            kind = ["-quiet", "-CAfile", "ca.crt", "-Verify", "1", "-verify_return_error"]
        with open(log, "w", encoding="ascii") as output:
            process = subprocess.Popen(
                ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-tls" + version.replace(".", "_"),
                 "-cert", "good.pem", "-key", "good.pem", *kind],
                cwd=self.certificates(),
                # Ends when its input does.
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        deadline = time.monotonic() + 60
        while not listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("openssl s_server did not start")
            time.sleep(0.02)
        return {"port": port, "log": log}

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
        return True
    except OSError:
        return False


if __name__ == "__main__":
    control.serve(lambda folder: Servers(folder).handlers())
