#!/usr/bin/env python3
"""Real Redis servers on loopback ports of their own.

Requests (see control.py for their form):

    start name=N [options=…]   Starts a server unless it runs, on the same port and folder each time; options are
                               separated by |, as --maxmemory|2mb. -> port=, socket=
    kill name=N                Ends it with SIGKILL.
    freeze name=N | thaw name=N  SIGSTOP, SIGCONT.
    cli name=N args=…          redis-cli with arguments separated by tabs. -> text=
    sentinel name=N master=M   A Sentinel for the service "mail" with one vote. -> port=
    relay name=N to=M          Relays connections to server M. -> port=
    pace name=N mode=…         pass, stall (reads no more), or a delay in seconds for each chunk.
    file name=N text=…         A file with this content. -> path=
"""

import ctypes
import os
import signal
import socket
import subprocess
import threading
import time

import control

PR_SET_PDEATHSIG = 1


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Relay:
    def __init__(self, port, to):
        self.to, self.mode = to, "pass"
        self.listener = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
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

    def start(self, name, options=""):
        path = os.path.join(self.home(name), "socket")
        if name in self.processes:
            return {"port": self.port(name), "socket": path}
        command = ["redis-server", "--port", str(self.port(name)), "--bind", "127.0.0.1",
                   "--unixsocket", path, "--save", "", "--dir", self.home(name)]
        command += [part for part in options.split("|") if part]
        return {"port": self.run(name, command), "socket": path}

    def sentinel(self, name, master):
        port, path = self.port(name), os.path.join(self.home(name), "sentinel.conf")
        with open(path, "w") as file:
            file.write(f"port {port}\nbind 127.0.0.1\n"
                       f"sentinel monitor mail 127.0.0.1 {self.port(master)} 1\n"
                       "sentinel down-after-milliseconds mail 3000\n"
                       "sentinel failover-timeout mail 2000\n")
        return {"port": self.run(name, ["redis-sentinel", path])}

    def kill(self, name):
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def freeze(self, name):
        self.processes[name].send_signal(signal.SIGSTOP)

    def thaw(self, name):
        self.processes[name].send_signal(signal.SIGCONT)

    def cli(self, name, args):
        command = ["redis-cli", "-p", str(self.port(name)), *args.split("\t")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return {"text": done.stdout.strip() + done.stderr.strip()}

    def relay(self, name, to):
        self.relays[name] = Relay(self.port(name), self.port(to))
        return {"port": self.port(name)}

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
    names = ("start", "kill", "freeze", "thaw", "cli", "sentinel", "relay", "pace", "file", "stop_all")
    return {name: getattr(servers, name) for name in names}


if __name__ == "__main__":
    control.serve(handlers)
