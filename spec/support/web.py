#!/usr/bin/env python3
"""A real nginx on loopback ports of its own, from the configuration below.

Requests (see control.py for their form):

    start   -> port numbers by listener name (http, https, http_proxy; http6 on ::1, where this
               machine has that) and the certificate authority (ca=).
    stop    Ends it.
"""

import base64
import hashlib
import os
import shutil
import socket
import subprocess
import time

import control

HERE = os.path.dirname(os.path.abspath(__file__))

CONFIGURATION = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{http};
        listen 127.0.0.1:{https} ssl;
        listen 127.0.0.1:{http_proxy} proxy_protocol;
        {listen6}
        ssl_certificate {folder}/certificates/good.pem;
        ssl_certificate_key {folder}/certificates/good.pem;
        location / {{ return 200 "alive"; }}
        location /moved {{ return 301 /; }}
        location /gone {{ return 503; }}
        location /host {{ if ($http_host != $arg_wanted) {{ return 421; }} return 200; }}
        location /method {{ if ($request_method != $arg_wanted) {{ return 405; }} return 200; }}
        location /from {{ if ($remote_addr != $arg_wanted) {{ return 421; }} return 200; }}
        location /private {{
            auth_basic "test";
            auth_basic_user_file {folder}/users;
            empty_gif;
        }}
    }}
}}
"""


class Web:
    def __init__(self, folder):
        self.folder = folder
        self.process = None
        self.ports = {}

    def handlers(self):
        return {"start": self.start, "stop": self.stop, "stop_all": self.stop}

    def configure(self):
        certificates = os.path.join(self.folder, "certificates")
        subprocess.run([os.path.join(HERE, "certificates.sh"), certificates], check=True)
        for name in ["http", "https", "http_proxy"]:
            self.ports[name] = control.free_port(taken=self.ports.values())
        try:
            self.ports["http6"] = control.free_port("::1", taken=self.ports.values())
        except OSError:
            pass
        digest = base64.b64encode(hashlib.sha1(b"secret").digest()).decode()
        with open(os.path.join(self.folder, "users"), "w") as file:
            file.write(f"probe:{{SHA}}{digest}\n")
        with open(os.path.join(self.folder, "nginx.conf"), "w") as file:
            listen6 = f"listen [::1]:{self.ports['http6']};" if "http6" in self.ports else ""
            file.write(CONFIGURATION.format(folder=self.folder, listen6=listen6, **self.ports))

    def start(self):
        if self.process:
            raise RuntimeError("already running")
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if not program:
            raise FileNotFoundError("nginx is not installed")
        if not self.ports:
            self.configure()
        self.process = subprocess.Popen(
            [program, "-p", self.folder, "-c", os.path.join(self.folder, "nginx.conf")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=open(os.path.join(self.folder, "stderr"), "w"),
        )
        deadline = time.monotonic() + 60
        while not self.listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                with open(os.path.join(self.folder, "stderr")) as file:
                    raise RuntimeError("nginx did not start: " + file.read()[-2000:])
            time.sleep(0.02)
        return {**self.ports, "ca": self.folder + "/certificates/ca.crt"}

    def listens(self):
        try:
            socket.create_connection(("127.0.0.1", self.ports["http"]), 5).close()
            return True
        except OSError:
            return False

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


if __name__ == "__main__":
    control.serve(lambda folder: Web(folder).handlers())
