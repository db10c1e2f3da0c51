#!/usr/bin/env python3
"""Real Redis servers on loopback ports of their own; Valkey's where that is installed.

Requests (see control.py for their form):

    start name=N [options=…]   Starts a server unless it runs, on the same port and folder each time; options are
                               separated by |, as --maxmemory|2mb, and so are variables of its environment in
                               environment=… -> port=, socket=, pid=
                               With tls=yes it has a port with TLS as well, with tls=clients one that asks
                               for a client certificate; certificate=… names one of certificates.sh, else good.
                               -> also tls=, the port, and folder=, that of the certificates
    kill name=N                Ends it with SIGKILL.
    freeze name=N | thaw name=N  SIGSTOP, SIGCONT.
    cli name=N args=…          redis-cli with arguments separated by tabs. -> text=
    sentinel name=N master=M   A Sentinel for the service "mail" with one vote. password=… is asked for,
                               master_password=… is that of the servers. -> port=
    relay name=N to=M          Relays connections to server M. -> port=
    connections name=N         How many connections a relay has accepted. -> count=
    pace name=N mode=…         pass, stall (reads no more), or a delay in seconds for each chunk.
    file name=N text=…         A file with this content. -> path=
"""

import ctypes
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time

import control

PR_SET_PDEATHSIG = 1
CERTIFICATES = pathlib.Path(__file__).with_name("certificates.sh")


def program(kind):
    """The path of the server, sentinel or cli program."""
    found = shutil.which("valkey-" + kind) or shutil.which("redis-" + kind)
    if found is None:
        raise RuntimeError(f"neither valkey-{kind} nor redis-{kind} is installed")
    return found


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Relay:
    def __init__(self, port, to):
        self.to, self.mode, self.count = to, "pass", 0
        self.listener = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            self.count += 1
            server = socket.create_connection(("127.0.0.1", self.to))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self.pump, args=pair, daemon=True).start()

    def pump(self, source, sink):
        try:
            while True:
                while self.mode == "stall":
                    time.sleep(0.01)
                data = source.recv(65536)
                while self.mode == "stall":
                    time.sleep(0.01)
                if not data:
                    break
                if self.mode != "pass":
                    time.sleep(float(self.mode))
                sink.sendall(data)
        except OSError:
            pass
        for one in (source, sink):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Servers:
    def __init__(self, folder):
        self.folder = folder
        self.ports, self.processes, self.relays = {}, {}, {}

    def port(self, name):
        if name not in self.ports:
            self.ports[name] = control.free_port(taken=self.ports.values())
        return self.ports[name]

    def home(self, name):
        path = os.path.join(self.folder, name)
        os.makedirs(path, exist_ok=True)
        return path

    def run(self, name, command):
        log = open(os.path.join(self.home(name), "log"), "ab")
        self.processes[name] = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=self.home(name), preexec_fn=die_with_parent
        )
        port = self.port(name)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", port), 1) as probe:
                    probe.sendall(b"PING\r\n")
                    if probe.recv(64)[:1] in b"+-":
                        return port
            except OSError:
                pass
            if self.processes[name].poll() is not None:
                raise RuntimeError(open(log.name).read()[-500:])
            time.sleep(0.01)
        raise RuntimeError(f"{name} does not answer")

    def start(self, name, options="", tls="", certificate="good", environment=""):
        path, tls_port = os.path.join(self.home(name), "socket"), 0
        # The port with TLS is used by nobody else.
        if tls:
            tls_port = self.port(name + " with TLS")
            files = {kind: os.path.join(self.certificates(), f"{certificate}.{kind}") for kind in ("crt", "key")}
            options += (f"|--tls-port|{tls_port}|--tls-cert-file|{files['crt']}|--tls-key-file|{files['key']}"
                        f"|--tls-ca-cert-file|{self.certificates()}/ca.crt"
                        f"|--tls-auth-clients|{'yes' if tls == 'clients' else 'no'}")
        if name not in self.processes:
            command = [program("server"), "--port", str(self.port(name)), "--bind", "127.0.0.1",
                       "--unixsocket", path, "--save", "", "--dir", self.home(name)]
            command += [part for part in options.split("|") if part]
            self.run(name, ["env", *environment.split("|"), *command] if environment else command)
        answer = {"port": self.port(name), "socket": path, "pid": self.processes[name].pid}
        return answer | ({"tls": tls_port, "folder": self.certificates()} if tls else {})

    def certificates(self):
        folder = os.path.join(self.folder, "certificates")
        if not os.path.exists(folder):
            subprocess.run([CERTIFICATES, folder], check=True, timeout=120)
        return folder

    def sentinel(self, name, master, password="", master_password=""):
        port, path = self.port(name), os.path.join(self.home(name), "sentinel.conf")
        with open(path, "w") as file:
            file.write(f"port {port}\nbind 127.0.0.1\n"
                       f"sentinel monitor mail 127.0.0.1 {self.port(master)} 1\n"
                       "sentinel down-after-milliseconds mail 3000\n"
                       "sentinel failover-timeout mail 2000\n")
            if password:
                file.write(f"requirepass {password}\n")
            if master_password:
                file.write(f"sentinel auth-pass mail {master_password}\n")
        return {"port": self.run(name, [program("sentinel"), path])}

    def kill(self, name):
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def freeze(self, name):
        self.processes[name].send_signal(signal.SIGSTOP)

    def thaw(self, name):
        self.processes[name].send_signal(signal.SIGCONT)

    def cli(self, name, args):
        command = [program("cli"), "-p", str(self.port(name)), *args.split("\t")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return {"text": done.stdout.strip() + done.stderr.strip()}

    def relay(self, name, to):
        self.relays[name] = Relay(self.port(name), self.port(to))
        return {"port": self.port(name)}

    def connections(self, name):
        return {"count": self.relays[name].count}

    def pace(self, name, mode):
        self.relays[name].mode = mode

    def file(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as file:
            file.write(text)
        return {"path": path}

    def stop_all(self):
        for process in self.processes.values():
            process.kill()
            process.wait()


def handlers(folder):
    servers = Servers(folder)
    names = ("start", "kill", "freeze", "thaw", "cli", "sentinel", "relay", "connections", "pace",
             "file", "stop_all")
    return {name: getattr(servers, name) for name in names}


if __name__ == "__main__":
    control.serve(handlers)
