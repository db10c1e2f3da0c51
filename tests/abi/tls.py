"""A host that is no C: it calls the library by ctypes, and brings an OpenSSL of its own, of another
version, linked into an extension module. Both do TLS handshakes with the same server.

    tls.py host|library LIBRARY CRYPTO PORT CA UNTRUSTED

The first argument says which of the two is loaded and does a handshake before the other is loaded.
CRYPTO is the file that holds the library's OpenSSL.
"""

import ctypes
import pathlib
import re
import socket
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import tap  # pylint: disable=wrong-import-position
from tap import check  # pylint: disable=wrong-import-position

TURNS = 20
THREADS = 4
OK, CHECK_FAILED = 0, 7

first, library_file, crypto_file, port, ca, untrusted = sys.argv[1:]
port = int(port)


class Text(ctypes.Structure):
    """nauthilus_backend_view and nauthilus_backend_string."""

    _fields_ = [("data", ctypes.c_void_p), ("size", ctypes.c_size_t)]

    @classmethod
    def of(cls, text):
        # The buffer lives as long as the structure it is kept in.
        buffer = ctypes.create_string_buffer(text.encode())
        made = cls(ctypes.addressof(buffer), len(buffer) - 1)
        made.buffer = buffer
        return made


class Setting(ctypes.Structure):
    _fields_ = [("key", Text), ("value", Text)]


class Library:
    def __init__(self):
        self.functions = ctypes.CDLL(library_file)
        self.functions.nauthilus_backend_check.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint32,
            ctypes.POINTER(Setting), ctypes.c_size_t, ctypes.POINTER(Text),
        ]

    def check(self, trusted):
        """The status and the reason of a check with TLS."""
        texts = [Text.of(text) for text in ("tls", "true", "tls_ca_file", trusted)]
        settings = (Setting * 2)(Setting(*texts[:2]), Setting(*texts[2:]))
        reason = Text()
        host = b"127.0.0.1"
        status = self.functions.nauthilus_backend_check(
            host, len(host), port, settings, len(settings), ctypes.byref(reason)
        )
        said = ctypes.string_at(reason.data, reason.size).decode() if reason.data else ""
        self.functions.nauthilus_backend_string_release(ctypes.byref(reason))
        return status, said

    def connects(self):
        return self.check(ca)[0] == OK


class Host:
    def __init__(self):
        from OpenSSL import SSL

        self.ssl = SSL
        self.version = SSL.OpenSSL_version(SSL.SSLEAY_VERSION).decode()

    def connects(self, trusted=ca):
        context = self.ssl.Context(self.ssl.TLS_CLIENT_METHOD)
        context.set_verify(self.ssl.VERIFY_PEER, lambda *arguments: bool(arguments[-1]))
        context.load_verify_locations(trusted)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            plain.setblocking(True)
            session = self.ssl.Connection(context, plain)
            session.set_connect_state()
            try:
                session.do_handshake()
            except self.ssl.Error:
                return False
            return True


if first == "host":
    host = Host()
    check("the host's handshake works before the library is there", host.connects())
    library = Library()
else:
    library = Library()
    check("the library's handshake works before the host's OpenSSL is there", library.connects())
    host = Host()

with open("/proc/self/maps") as maps, open(crypto_file, "rb") as crypto:
    check("the library's OpenSSL is in the process", crypto_file in maps.read())
    versions = re.findall(rb"OpenSSL \d+\.\d+\.\d+[a-z]* +\d+ \w+ \d{4}", crypto.read())
of_library = versions[0].decode() if versions else "unknown"
print("# the host's: %s; the library's: %s" % (host.version, of_library))
check("the two versions differ", bool(versions) and of_library.split()[1] != host.version.split()[1])

turns = [(host.connects(), library.connects()) for _ in range(TURNS)]
check("the two take turns", turns == [(True, True)] * TURNS)

worked = []


def repeat(handshake):
    for _ in range(TURNS):
        worked.append(handshake())


threads = [
    threading.Thread(target=repeat, args=(side.connects,)) for side in (host, library) for _ in range(THREADS)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
check("both at once, each on %d threads" % THREADS, worked == [True] * TURNS * len(threads))

check("the host does verify", not host.connects(untrusted))
status, reason = library.check(untrusted)
check("the library does verify", status == CHECK_FAILED and reason.startswith("tls: "))
print("# " + reason)
sys.exit(tap.status())
