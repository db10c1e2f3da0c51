"""Mail servers that stand for the documented ones: IMAP in the clear, behind the PROXY protocol, and under TLS."""

import socket
import ssl
import threading

# 192.0.2.11 and 192.0.2.12 of the documents.
ADDRESSES = ("127.0.0.1", "127.0.0.2")


def read_proxy_header(stream):
    """Reads the header of a client, of version 1 or 2; raises ValueError for anything else."""
    begin = stream.read(6)
    if begin == b"PROXY ":
        stream.readline()
    elif begin == b"\r\n\r\n\x00\r":
        length = stream.read(10)[8:]
        stream.read(int.from_bytes(length, "big"))
    else:
        raise ValueError(f"no PROXY header: {begin!r}")


def imap(connection):
    """Answers as much of IMAP as a login needs; any user may log in."""
    with connection, connection.makefile("rwb", buffering=0) as stream:
        stream.write(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")
        while line := stream.readline():
            tag, _, command = line.rstrip(b"\r\n").partition(b" ")
            # A literal: {5} announces five bytes, and the rest of the command comes after them.
            while command.endswith(b"}"):
                stream.write(b"+ go on\r\n")
                literal = stream.read(int(command[command.rindex(b"{") + 1:-1]))
                command += literal + stream.readline().rstrip(b"\r\n")
            if command.upper().startswith(b"LOGOUT"):
                stream.write(b"* BYE\r\n" + tag + b" OK\r\n")
                return
            if command.upper().startswith(b"CAPABILITY"):
                stream.write(b"* CAPABILITY IMAP4rev1\r\n")
            stream.write(tag + b" OK done\r\n")


def serve(connection, proxied, context):
    try:
        if proxied:
            with connection.makefile("rb", buffering=0) as stream:
                read_proxy_header(stream)
        if context:
            connection = context.wrap_socket(connection, server_side=True)
        imap(connection)
    except (OSError, ValueError):
        connection.close()


def start(proxied=False, context=None):
    """Starts a server on both addresses; returns its port."""
    port = 0
    for address in ADDRESSES:
        listener = socket.create_server((address, port), backlog=64)
        port = listener.getsockname()[1]

        def accept(listener=listener):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection, proxied, context), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
    return port


def start_all(pem):
    """Documented port -> port of the server that stands for it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    plain = start()
    return {"10143": start(proxied=True), "993": start(context=context), "143": plain, "587": plain}
