#!/usr/bin/env python3
"""A name server that knows a few names, for hosts whose files name it. It prints its address, one of loopback that
no other name server has, and ends with its standard input."""

import random
import socket
import struct
import sys
import threading

# A resolver's file names an address alone, no port.
PORT = 53
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


def bound():
    """A socket and its address. PermissionError: this user may not listen on the port."""
    while True:
        address = f"127.{random.randrange(1, 255)}.{random.randrange(255)}.{random.randrange(1, 255)}"
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            server.bind((address, PORT))
            return server, address
        except PermissionError:
            raise
        except OSError:
            server.close()


def main():
    try:
        server, address = bound()
    except PermissionError:
        print("not allowed", flush=True)
        return
    threading.Thread(target=serve, args=(server,), daemon=True).start()
    print(address, flush=True)
    sys.stdin.read()


main()
