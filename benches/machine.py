"""On what a run was measured: figures of different machines, or versions, do not compare."""

import ctypes
import fcntl
import os
import pathlib
import platform
import re
import shutil
import socket
import struct
import subprocess

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


def own_network():
    """Puts this process into a network of its own, with nothing but loopback: what else runs here
    opens no connections there. Root only; says whether it could."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        return False
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    return True


def first_line(*command):
    """What a program says first, or "" where there is none."""
    program = shutil.which(command[0]) or shutil.which(command[0], path="/usr/sbin:/sbin")
    if not program:
        return ""
    done = subprocess.run(
        [program, *command[1:]], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    return ((done.stdout + done.stderr).strip().splitlines() or [""])[0]


def version(*command):
    """The first thing in that line that looks like a version."""
    found = re.search(r"\d+\.\d[\w.+-]*", first_line(*command))
    return found.group() if found else "not installed"


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def facts():
    """Names and values, in the order in which to print them."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return {
        "machine": f"{processor()}, {os.cpu_count()} processors",
        "kernel": platform.release(),
        "load before": load,
        "HAProxy": version("haproxy", "-v"),
        "nginx": version("nginx", "-v"),
        "LuaJIT": version("luajit", "-v"),
        "Lua": version("lua5.4", "-v"),
        "OpenSSL": version("openssl", "version"),
        "Dovecot": version("dovecot", "--version"),
        "rustc": version("rustc", "--version"),
    }
