#!/usr/bin/env python3
"""Scripted backends on loopback, each on a port the system picks.

Requests (see control.py for their form):

    open name= [host=127.0.0.1] [port=0] [tls=CERT] [tls_version=1.2] [clients=CA] [proxy=v2]
         [script=STEPS]
        -> port=. Accepts connections and plays the script to each.
    hole name=              -> port=. Listens, never accepts, and its backlog is full.
    closed                  -> port=. A port on which nothing listens.
    play name= script=      Later connections get this script.
    close name=             Closes the listener and its connections.
    stats name=             -> accepted= proxied= handshakes= resumed= played= open= received=
                            handshakes counts all, resumed those of an earlier session, played
                            the connections that came to the end of their script.
    await name= count=accepted at_least=3 timeout=5
                            Waits until the counter is that high; an error when it never is.
    certificates            -> folder=. See certificates.sh for what is in it.
    folder                  -> folder=. Removed at the end.

`tls` names a certificate. `clients` names an authority, and requires a certificate of each client
that it has signed. `proxy=v2` plays a listener that expects the PROXY protocol: it says
nothing before a header came, and closes on anything else.

A script is steps separated by newlines; after the last one the connection is kept open until
the peer closes it:

    send TEXT           with \\r \\n \\t \\0 \\xNN escapes
    expect REGEX        reads one line and closes when it does not match
    starttls CERT
    drip MILLISECONDS TEXT   a byte at a time
    flood BYTES         that many bytes without a line end
    hang                reads nothing more
    close | reset
"""

import os
import re
import socket
import ssl
import struct
import subprocess
import threading
import time

import control

PROXY_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
HERE = os.path.dirname(os.path.abspath(__file__))


class PeerGone(Exception):
    pass


class Connection:
    """One accepted connection, playing the script of its peer on a thread of its own."""

    def __init__(self, peer, sock):
        self.peer = peer
        self.sock = sock
        self.buffer = b""

    def run(self):
        try:
            if self.peer.proxy:
                self.read_proxy_header()
            if self.peer.tls:
                self.start_tls(self.peer.tls)
            for step in self.peer.steps:
                verb, _, argument = step.partition(" ")
                getattr(self, "do_" + verb)(argument)
            self.peer.note(played=1)
            while self.sock.recv(65536):
                pass
        except (OSError, PeerGone, ssl.SSLError):
            pass
        finally:
            self.peer.forget(self)

    def read_some(self):
        data = self.sock.recv(65536)
        if not data:
            raise PeerGone
        self.buffer += data
        self.peer.note(received=data)

    def read_proxy_header(self):
        """PROXY protocol v2, section 2.2 of its specification: 12 bytes of signature, version
        and command, family, and the length of what follows."""
        while len(self.buffer) < 16:
            if not PROXY_SIGNATURE.startswith(self.buffer[:12]):
                raise PeerGone
            # Reads no byte more than the header: TLS reads from the socket itself.
            data = self.sock.recv(16 - len(self.buffer))
            if not data:
                raise PeerGone
            self.buffer += data
        if self.buffer[:12] != PROXY_SIGNATURE or self.buffer[12] >> 4 != 2:
            raise PeerGone
        rest = struct.unpack("!H", self.buffer[14:16])[0]
        while rest:
            data = self.sock.recv(rest)
            if not data:
                raise PeerGone
            self.buffer += data
            rest -= len(data)
        self.peer.note(proxied=1, proxy_header=self.buffer.hex())
        self.buffer = b""

    def start_tls(self, certificate):
        self.sock = self.peer.context(certificate).wrap_socket(self.sock, server_side=True)
        self.peer.note(handshakes=1, resumed=int(bool(self.sock.session_reused)))

    def do_send(self, text):
        self.sock.sendall(unescape(text))

    def do_expect(self, pattern):
        while b"\n" not in self.buffer:
            self.read_some()
        line, self.buffer = self.buffer.split(b"\n", 1)
        if not re.search(pattern, line.decode("latin-1")):
            raise PeerGone

    def do_starttls(self, certificate):
        self.start_tls(certificate)

    def do_drip(self, argument):
        pause, _, text = argument.partition(" ")
        for byte in unescape(text):
            self.sock.sendall(bytes([byte]))
            time.sleep(int(pause) / 1000)

    def do_flood(self, count):
        block = b"x" * 65536
        for _ in range(int(count) // len(block) + 1):
            self.sock.sendall(block)

    def do_hang(self, _):
        while not self.peer.closed.wait(60):
            pass

    def do_close(self, _):
        self.peer.note(played=1)
        raise PeerGone

    def do_reset(self, _):
        self.peer.note(played=1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise PeerGone


def unescape(text):
    return re.sub(
        rb"\\(x[0-9a-fA-F]{2}|[rnt0\\])",
        lambda m: bytes.fromhex(m[1][1:].decode())
        if m[1].startswith(b"x")
        else {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}[m[1]],
        text.encode("latin-1"),
    )


class Peer:
    def __init__(
        self, world, host="127.0.0.1", port="0", tls=None, tls_version=None, clients=None,
        proxy=None, script=""
    ):
        self.world = world
        self.tls, self.proxy = tls, proxy
        self.tls_version, self.clients = tls_version, clients
        self.play(script)
        self.changed = threading.Condition()
        self.closed = threading.Event()
        self.counts = dict.fromkeys(["accepted", "proxied", "handshakes", "resumed", "played"], 0)
        self.contexts = {}
        self.received, self.proxy_header = b"", ""
        self.connections = set()
        self.listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((host, int(port)))
        self.listener.listen(512)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept_all, daemon=True).start()

    def play(self, script):
        self.steps = [step for step in script.split("\n") if step]

    def accept_all(self):
        while not self.closed.is_set():
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            connection = Connection(self, sock)
            with self.changed:
                self.connections.add(connection)
            self.note(accepted=1)
            threading.Thread(target=connection.run, daemon=True).start()

    def context(self, certificate):
        """One context for all connections: a new one could not resume the sessions of another."""
        with self.changed:
            if certificate not in self.contexts:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self.world.certificate(certificate))
                if self.tls_version:
                    version = getattr(ssl.TLSVersion, "TLSv" + self.tls_version.replace(".", "_"))
                    context.minimum_version = context.maximum_version = version
                if self.clients:
                    context.verify_mode = ssl.CERT_REQUIRED
                    context.load_verify_locations(
                        os.path.join(self.world.certificates(), self.clients + ".crt")
                    )
                self.contexts[certificate] = context
            return self.contexts[certificate]

    def note(self, received=b"", proxy_header=None, **counts):
        with self.changed:
            self.received = (self.received + received)[-4096:]
            if proxy_header is not None:
                self.proxy_header = proxy_header
            for name, more in counts.items():
                self.counts[name] += more
            self.changed.notify_all()

    def forget(self, connection):
        with self.changed:
            self.connections.discard(connection)
            self.changed.notify_all()
        connection.sock.close()

    def stats(self):
        with self.changed:
            return {
                **self.counts,
                "open": len(self.connections),
                "received": self.received.decode("latin-1"),
                "proxy_header": self.proxy_header,
            }

    def wait_for(self, count, at_least, timeout):
        with self.changed:
            reached = self.changed.wait_for(
                lambda: self.counts[count] >= int(at_least), float(timeout)
            )
        if not reached:
            raise TimeoutError(f"{count} is {self.counts[count]} after {timeout} s")

    def close(self):
        self.closed.set()
        # A thread blocked in accept() keeps the listener alive; shutdown wakes it.
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        with self.changed:
            connections = list(self.connections)
        for connection in connections:
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Hole:
    """A listener whose accept queue is full: the kernel drops what else arrives, so a client
    sees nothing at all, as behind a firewall that drops packets."""

    def __init__(self):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.port = self.listener.getsockname()[1]
        self.fillers = []
        while True:
            filler = socket.socket()
            filler.settimeout(0.3)
            self.fillers.append(filler)
            try:
                filler.connect(("127.0.0.1", self.port))
            except OSError:
                return

    def stats(self):
        return {}

    def close(self):
        for sock in [self.listener, *self.fillers]:
            sock.close()


class World:
    def __init__(self, folder):
        self.folder = folder
        self.peers = {}

    def handlers(self):
        return {
            "open": self.open,
            "hole": self.hole,
            "closed": lambda: {"port": control.free_port()},
            "play": lambda name, script: self.peers[name].play(script),
            "close": lambda name: self.peers.pop(name).close(),
            "stats": lambda name: self.peers[name].stats(),
            "await": lambda name, count, at_least, timeout: self.peers[name].wait_for(
                count, at_least, timeout
            ),
            "certificates": lambda: {"folder": self.certificates()},
            "folder": lambda: {"folder": self.folder},
        }

    def open(self, name, **options):
        if options.get("tls"):
            self.certificate(options["tls"])
        self.peers[name] = Peer(self, **options)
        return {"port": self.peers[name].port}

    def hole(self, name):
        self.peers[name] = Hole()
        return {"port": self.peers[name].port}

    def certificates(self):
        folder = os.path.join(self.folder, "certificates")
        if not os.path.isdir(folder):
            subprocess.run([os.path.join(HERE, "certificates.sh"), folder], check=True)
        return folder

    def certificate(self, name):
        path = os.path.join(self.certificates(), name + ".pem")
        if not os.path.exists(path):
            raise FileNotFoundError(f"no certificate named {name}")
        return path


if __name__ == "__main__":
    control.serve(lambda folder: World(folder).handlers())
