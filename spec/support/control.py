"""The line protocol between a test and a helper process.

A request is one line, `command key=value key=value`, values percent-encoded. The answer is one
line, `ok key=value …` or `error text`. The helper ends when its input ends, so it cannot outlive
the test that started it.
"""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import socket
import sys
import tempfile
import urllib.parse


def decode(line):
    """`open name=a port=0` -> ("open", {"name": "a", "port": "0"})"""
    command, *words = line.split()
    pairs = (word.split("=", 1) for word in words)
    return command, {key: urllib.parse.unquote(value) for key, value in pairs}


def encode(status, fields):
    quoted = (f"{key}={urllib.parse.quote(str(value), safe='/')}" for key, value in fields.items())
    return " ".join([status, *quoted])


# The sockets that reserve ports, by port. No more than this many, since each is a descriptor.
RESERVED_MAX = 200
reserved = {}


def reserve(port):
    """Whether the port has not been given out yet, by this process or another test that still runs. If so, it is
    this process's until it ends, or has taken RESERVED_MAX more."""
    # A name in the abstract namespace vanishes with its socket (unix(7)).
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0nauthilus_backend test port {port}")
    except OSError:
        name.close()
        return False
    reserved[port] = name
    if len(reserved) > RESERVED_MAX:
        reserved.pop(next(iter(reserved))).close()
    return True


def free_port(host="127.0.0.1", taken=()):
    """A port on which nothing listens now, outside `taken`; one that neither another call gets nor a connection
    going out takes before it is listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    first = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(max(first - 20000, 1024), first) if first > 2048 else 0
        with socket.socket(family) as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            port = probe.getsockname()[1]
            if port not in taken and reserve(port):
                return port


def serve(make_handlers):
    """Answers requests until the input ends: from the test's port named on the command line, or
    from standard input. `make_handlers(folder)` gives a dict of functions that take the
    request's values and return a dict; `folder` is theirs, and removed at the end."""
    if len(sys.argv) > 1:
        # LuaSocket's descriptors are inherited. A copy of another helper's channel would keep that
        # one from seeing its end, and the test would wait for it for ever.
        os.closerange(3, 1 << 16)
        channel = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader, writer = channel.makefile("r"), channel.makefile("w")
    else:
        reader, writer = sys.stdin, sys.stdout
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = tempfile.mkdtemp(prefix="nauthilus-backend-")
    # Servers under test drop their privileges and still have to enter it.
    os.chmod(folder, 0o755)
    handlers = make_handlers(folder)
    try:
        for line in reader:
            try:
                command, values = decode(line)
                answer = encode("ok", handlers[command](**values) or {})
            except Exception as error:  # whatever went wrong is the test's to report
                answer = encode("error", {"text": f"{type(error).__name__}: {error}"})
            writer.write(answer + "\n")
            writer.flush()
    finally:
        if "stop_all" in handlers:
            handlers["stop_all"]()
        shutil.rmtree(folder, ignore_errors=True)
        # Threads that keep a connection without answering are not waited for.
        os._exit(0)
