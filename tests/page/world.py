"""The mail servers and the nginx of the tests of the status page."""

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "openresty"))
from lab import ROOT, Backend, Nginx, free_port  # pylint: disable=wrong-import-position

sys.path.insert(0, str(ROOT / "spec/support"))
import redis  # pylint: disable=wrong-import-position

CERTIFICATES = tempfile.mkdtemp(prefix="nb-page-")
# Names and texts that try to break out of the page, or to look like other ones.
MARKUP = "<script>window.pwned=1</script>\"'><img src=x onerror=window.pwned=1>]]>&lt;"
HIDDEN = "\u2028\u202egnp.exe\u200b"
LONG = ".".join(["a" * 63] * 3 + ["b" * 61])


class Server(Backend):
    """An IMAP server at one of this machine's own addresses, with TLS where it has a certificate."""

    def __init__(self, host="127.0.0.1", certificate=None, **options):
        self.host = host
        self.context = None
        if certificate:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(f"{CERTIFICATES}/{certificate}.pem")
        super().__init__(**options)

    def up(self):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.port = self.port or free_port(self.host)
        self.socket.bind((self.host, self.port))
        self.socket.listen(1024)
        threading.Thread(target=self._serve, args=(self.socket,), daemon=True).start()

    def _talk(self, peer):
        with contextlib.suppress(OSError):
            if self.context:
                peer.settimeout(10)
                peer = self.context.wrap_socket(peer, server_side=True)
            super()._talk(peer)


def make_certificates():
    subprocess.run([ROOT / "spec/support/certificates.sh", CERTIFICATES], check=True, capture_output=True)


def lua(value):
    """A value as Lua writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {lua(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ", ".join(map(lua, value)) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(f"\\{byte:03d}" for byte in value.encode()) + '"'
    return repr(value)


def target(server, **keys):
    more = {"tls": True, "tls_skip_verify": True} if getattr(server, "context", None) else {}
    return {"protocol": "imap", "host": server.host, "port": server.port, **more, **keys}


# A store's calls, for `Operators` with a `cluster`.
ROUTING = """
    location /route {
      content_by_lua_block {
        local server, how = require("nauthilus_backend").route(ngx.var.arg_user, { pool = ngx.var.arg_pool })
        ngx.print(server and server.node or "", " ", how)
      }
    }
    location /move {
      content_by_lua_block {
        local args = ngx.req.get_uri_args()
        ngx.print(tostring(require("nauthilus_backend").move_user(args.user, args.node, { by = "ann", reason = "drain" })))
      }
    }
    location /hold {
      content_by_lua_block { ngx.print(tostring(require("nauthilus_backend").hold_user(ngx.var.arg_user, "1h"))) }
    }
"""


class Redis:
    """A redis-server of its own."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="nb-redis-")
        self.servers = redis.Servers(self.folder)
        self.start()

    def start(self):
        """Always on the same port."""
        self.url = f"redis://127.0.0.1:{self.servers.start('one')['port']}"

    def kill(self):
        self.servers.kill("one")

    def stop(self):
        self.servers.stop_all()
        shutil.rmtree(self.folder)


class Operators(Nginx):
    """nginx with examples/openresty/operators.conf; only the port is replaced. `/set` stands for an
    operator's script."""

    def __init__(self, config, locations="", **options):
        example = (ROOT / "examples/openresty/operators.conf").read_text()
        self.page_port = free_port()
        assert "listen 127.0.0.1:9145" in example, "9145 in operators.conf"
        self.example = example.replace("127.0.0.1:9145", f"127.0.0.1:{self.page_port}")
        self.url = f"http://127.0.0.1:{self.page_port}"
        server = """
    location /set {
      content_by_lua_block {
        local nb, args = require("nauthilus_backend"), ngx.req.get_uri_args()
        nb.set_target_state(args.what, args.state, { reason = args.reason, by = args.by })
        ngx.print("done")
      }
    }
"""
        super().__init__(http=self.http_of(config), server=server + locations, **options)

    def http_of(self, config):
        """The parts of http {} for this configuration of the module."""
        return f"""
  init_by_lua_block {{ require("nauthilus_backend").configure({lua({"log": "none", **config})}) }}
  init_worker_by_lua_block {{ require("nauthilus_backend").start() }}
{self.example}"""
