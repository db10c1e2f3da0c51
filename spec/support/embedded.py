#!/usr/bin/env python3
"""Stands in for dovecot.py where there is no Dovecot: the same requests start and stop, and the
listeners imap, imaps, imap_proxy and imaps_proxy, which greet and say goodbye."""

import control
from peers import World

LISTENERS = {
    "imap": {},
    "imaps": {"tls": "good"},
    "imap_proxy": {"proxy": "v2"},
    "imaps_proxy": {"tls": "good", "proxy": "v2"},
}
SCRIPT = "send * OK ready\\r\\nexpect LOGOUT\nsend * BYE\\r\\n\nclose"


class Embedded:
    def __init__(self, folder):
        self.world = World(folder)
        self.ports = {}

    def handlers(self):
        return {"start": self.start, "stop": self.stop, "stop_all": self.stop}

    def start(self):
        for name, options in LISTENERS.items():
            port = self.ports.get(name, 0)
            self.ports[name] = self.world.open(name, port=port, script=SCRIPT, **options)["port"]
        return {**self.ports, "ca": self.world.certificates() + "/ca.crt"}

    def stop(self):
        for name in list(self.world.peers):
            self.world.peers.pop(name).close()


if __name__ == "__main__":
    control.serve(lambda folder: Embedded(folder).handlers())
