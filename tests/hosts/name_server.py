#!/usr/bin/env python3
"""A name server on 127.3.5.3 that knows a few names, for hosts whose files name it. It says that it
is ready, and ends with its standard input."""

import socket
import struct
import sys
import threading

ADDRESS = ("127.3.5.3", 53)
KNOWN = ("mail.dns.test", "imap.prod.test.corp.test", "short.corp.test")


def answer(query):
    end = 12
    labels = []
    while query[end]:
        labels.append(query[end + 1:end + 1 + query[end]].decode())
        end += 1 + query[end]
    name, (kind,) = ".".join(labels).lower(), struct.unpack("!H", query[end + 1:end + 3])
    question = query[12:end + 5]
    is_known = name in KNOWN
    has_answer = is_known and kind == 1
    flags = 0x8580 if is_known else 0x8583
    head = query[:2] + struct.pack("!HHHHH", flags, 1, int(has_answer), 0, 0)
    record = b"\xc0\x0c" + struct.pack("!HHIH4s", 1, 1, 1, 4, socket.inet_aton("127.0.0.1"))
    return head + question + (record if has_answer else b"")


def serve(server):
    while True:
        query, peer = server.recvfrom(4096)
        server.sendto(answer(query), peer)


def main():
    try:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(ADDRESS)
    except OSError:
        print("not allowed", flush=True)
        return
    threading.Thread(target=serve, args=(server,), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


main()
