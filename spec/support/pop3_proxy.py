#!/usr/bin/env python3
"""nginx's mail proxy for POP3 on a loopback port of its own, from the configuration below, and the mail server
behind it, which accepts every login.

Requests (see control.py for their form):

    start [password=secret]
            -> port=. The proxy refuses every other password.
    stop    Ends it.
"""

import os
import shutil
import socket
import socketserver
import subprocess
import threading
import time

import control

# Debian's; other packages of nginx contain it.
MODULE = "/usr/lib/nginx/modules/ngx_mail_module.so"

CONFIGURATION = """\
{module}
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
        listen 127.0.0.1:{auth};
        location / {{
            if ($http_auth_pass != "{password}") {{ return 418; }}
            add_header Auth-Status OK;
            add_header Auth-Server 127.0.0.1;
            add_header Auth-Port {behind};
            return 204;
        }}
        error_page 418 = @wrong;
        location @wrong {{
            add_header Auth-Status "Invalid login or password";
            return 204;
        }}
    }}
}}
mail {{
    auth_http 127.0.0.1:{auth}/;
    server {{
        listen 127.0.0.1:{port};
        protocol pop3;
    }}
}}
"""


class MailServer(socketserver.StreamRequestHandler):
    def handle(self):
        line = b"greeting"
        while line:
            self.wfile.write(b"+OK\r\n")
            line = b"" if line.upper().startswith(b"QUIT") else self.rfile.readline()


class MailProxy:
    def __init__(self, folder):
        self.folder = folder
        self.process = None
        self.behind = socketserver.ThreadingTCPServer(("127.0.0.1", 0), MailServer)
        self.behind.daemon_threads = True
        threading.Thread(target=self.behind.serve_forever, daemon=True).start()

    def handlers(self):
        return {"start": self.start, "stop": self.stop, "stop_all": self.stop}

    def start(self, password="secret"):
        if self.process:
            raise RuntimeError("already running")
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if not program:
            raise FileNotFoundError("nginx is not installed")
        port = control.free_port()
        auth = control.free_port(taken=[port])
        path = os.path.join(self.folder, "nginx.conf")
        module = f"load_module {MODULE};" if os.path.exists(MODULE) else ""
        with open(path, "w") as file:
            file.write(CONFIGURATION.format(
                folder=self.folder, module=module, password=password, port=port, auth=auth,
                behind=self.behind.server_address[1],
            ))
        with open(os.path.join(self.folder, "stderr"), "w") as errors:
            self.process = subprocess.Popen(
                [program, "-p", self.folder, "-c", path],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
            )
        deadline = time.monotonic() + 60
        while not all(self.listens(at) for at in (port, auth)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                with open(os.path.join(self.folder, "stderr")) as file:
                    raise RuntimeError("nginx did not start: " + file.read()[-2000:])
            time.sleep(0.02)
        return {"port": port}

    @staticmethod
    def listens(port):
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
            return True
        except OSError:
            return False

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


if __name__ == "__main__":
    control.serve(lambda folder: MailProxy(folder).handlers())
