"""Reads the code blocks of a Markdown file, and replaces documented names by names of this machine.

A block is the text between two lines of three backquotes. Its language says which host it is for. A
comment just above it can say what the block must do:

    <!-- test: login 127.0.0.1:143 -->    a login through nginx's mail proxy at this address succeeds, and is
                                          refused as temporary while no server is alive
    <!-- test: greeting 127.0.0.1:143 --> a server's greeting comes through HAProxy at this address
    <!-- test: header URL TEXT -->        the answer of nginx to a GET has this text among its header lines
    <!-- test: dovecot 2.3 -->            a login through this version of Dovecot succeeds
    <!-- test: luajit -->                 Lua that needs LuaJIT
    <!-- test: run -->                    shell commands to be run, in a folder that has the page's files

A block whose first line is a comment of a path alone (or of a path, `for` and a program) is that file; blocks below it on the same page
find it there.
"""

import dataclasses
import re

FENCE = re.compile(r"(?:^<!-- test: (?P<test>[^\n]*?) -->\n)?^```(?P<language>\S*)\n(?P<text>.*?)^```$", re.M | re.S)
PATH = re.compile(r"(?:#|--|/\*) (?P<path>/?[\w./-]+\.\w+)(?: \*/| for [^\n]*)?\n")


@dataclasses.dataclass
class Block:
    page: str
    line: int
    language: str
    test: list
    path: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line} ({self.language})"


def blocks(page, text):
    """The code blocks of a page, in order."""
    for found in FENCE.finditer(text):
        path = PATH.match(found["text"])
        yield Block(
            page=page,
            line=text.count("\n", 0, found.start("text")),
            language=found["language"],
            test=(found["test"] or "").split(),
            path=path["path"] if path else "",
            text=found["text"],
        )


class Local:
    """The servers, addresses and paths of this machine that replace the documented ones.

    `servers`: documented port -> port of a server on this machine. `front`: gives a free port for a
    documented address that a host listens on; the same address gets the same port.
    """

    # Documented folder -> folder below the scratch folder.
    FOLDERS = ("/etc/nauthilus_backend", "/etc/haproxy/", "/etc/dovecot/", "/var/lib/nauthilus_backend", "/usr/local/bin/")

    def __init__(self, scratch, servers, front, installed):
        self.scratch = scratch
        self.servers = servers
        self.front = front
        # Documented file -> file of the build.
        self.installed = installed

    def path(self, path):
        return f"{self.scratch}{path}" if path.startswith("/") else f"{self.scratch}/{path}"

    def text(self, text, lua):
        """`text` with everything replaced; `lua`: whose module stands for the installed one."""
        text = re.sub(r"127\.0\.0\.1:(\d+)", lambda m: f"127.0.0.1:{self.front(m[1])}", text)
        for port, here in self.servers.items():
            text = re.sub(rf'(port ?[:=] |", |\.org ){port}\b', rf"\g<1>{here}", text)
        text = text.replace("imap1.example.org", "localhost").replace("imap2.example.org", "127.0.0.1")
        text = re.sub(r"192\.0\.2\.1(\d)", lambda m: f"127.0.0.{m[1]}", text)
        text = re.sub(r"/usr/local/lib/lua/5\.\d/", f"{self.scratch}/modules/{lua}/", text)
        for documented, here in self.installed.items():
            text = text.replace(documented, str(here))
        for folder in self.FOLDERS:
            text = text.replace(folder, self.scratch + folder)
        return text
