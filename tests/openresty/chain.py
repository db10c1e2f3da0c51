"""The whole chain of examples/openresty: client, nginx's mail proxy, the module, Dovecot."""

import contextlib
import imaplib
import os
import shutil
import signal
import socket
import threading
import time

from lab import MODULES, equal, finish, free_port, test
from mail_proxy import FRONT, LOGINS, PORT_OF, REFUSED, TEMPORARY, Example, Relay, Site, where


class OpenResty(Example):
    """OpenResty's file. Its modules are linked in there; Debian's nginx is told to load them."""

    file = "openresty.conf"

    def _command(self, *arguments):
        modules = "".join(f"load_module {MODULES}/{name}.so; " for name in ("ndk_http_module", "ngx_http_lua_module"))
        main = f"{modules} pid {self.dir}/nginx.pid;"
        return [*self.binary, "-p", str(self.dir), "-c", "nginx.conf", "-e", str(self.dir / "error.log"), "-g", main,
                *arguments]

    def log(self):
        return (self.dir / "logs/error.log").read_text(errors="replace")


class Mail(Example):
    """The mail proxy beside OpenResty."""

    file = "mail.conf"

    def __init__(self, answers):
        self.answers = answers
        super().__init__(answers.sites)

    def place(self, text):
        self.auth = self.answers.auth
        return super().place(text)


class Recorder:
    """Stands between a mail proxy and auth.lua, and keeps what they say to each other. All of its fields are those of
    `answers`, except the port."""

    def __init__(self, answers):
        self.sites, self.answers = answers.sites, answers
        self.socket = socket.create_server(("127.0.0.1", free_port()))
        self.auth = self.socket.getsockname()[1]
        self.said = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            peer, _ = self.socket.accept()
            with peer, socket.create_connection(("127.0.0.1", self.answers.auth), 60) as server:
                request = self.head(peer)
                server.sendall(request)
                answer = self.head(server)
                self.said.append((self.fields(request), self.fields(answer)))
                peer.sendall(answer)

    @staticmethod
    def head(stream):
        stream.settimeout(60)
        text = b""
        while b"\r\n\r\n" not in text and (piece := stream.recv(65536)):
            text += piece
        return text

    @staticmethod
    def fields(head):
        return dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)


def main():
    relay = Relay()
    sites = [Site(relay), Site(relay)]
    try:
        with_openresty(sites)
        with_names(sites)
        run(Example(sites).start(), sites)
    finally:
        for site in sites:
            site.stop()
            shutil.rmtree(site.folder, ignore_errors=True)
    finish()


def every_port(name, proxy, sites):
    for at, (protocol, implicit) in FRONT.items():
        how = "TLS from the first byte" if implicit else "STARTTLS"
        with test(f"{name}: {protocol} with {how}: a login at port {at} reaches a backend"):
            where(sites, protocol, f"user-{at}", lambda a=at: proxy.log_in(a, f"user-{a}"))


def with_openresty(sites):
    answers = OpenResty(sites).start()
    mail = Mail(answers).start()
    for site in sites:
        answers.await_verdict(site, "alive")
    every_port("openresty.conf and mail.conf", mail, sites)
    with test("openresty.conf and mail.conf: neither complains"):
        answers.assert_clean()
        mail.assert_clean()
    mail.close()
    answers.close()


class Separating(Example):
    """The example where names may have a master user and a detail."""

    def backends(self):
        head = "backend_server_monitoring:\n"
        return super().backends().replace(head, head + '  master_separator: "*"\n  detail_separator: "+"\n')


# A user's name -> how nginx escapes it.
NAMES = {
    "alice": "alice",
    "al%ice": "al%25ice",
    "al%20ice": "al%2520ice",
    "al ice": "al%20ice",
    'al"ice': 'al"ice',
    "al'ice": "al'ice",
    "al\\ice": "al\\ice",
    "al/i?c#e&": "al/i?c#e&",
    "jürgen@exämple.org": "jürgen@exämple.org",
    "alice*admin": "alice*admin",
    "alice+box@example.org": "alice+box@example.org",
    "al\tice": "al%09ice",
    "al\r\nice": "al%0D%0Aice",
    "": "",
    "a" * 256: "a" * 256,
    "a" * 257: "a" * 257,
    # With the name in it, the answer would be longer than nginx reads.
    "a" * 850: "a" * 850,
    "a" * 1024: "a" * 1024,
    "a" * 1025: "a" * 1025,
}


def shortened(name):
    return name if len(name) < 100 else f"{name[:3]}… of {len(name)} bytes"


def with_names(sites):
    """Names with what nginx escapes, and what it does not, from a real login to the account of auth.lua's answer."""
    answers = Separating(sites).start()
    recorder = Recorder(answers)
    mail = Mail(recorder).start()
    for site in sites:
        answers.await_verdict(site, "alive")
    ports = {}
    for name, escaped in NAMES.items():
        with test(f"a login as {shortened(name)!r} has that account"):
            client = imaplib.IMAP4_SSL("localhost", mail.ports[993], ssl_context=mail.context, timeout=60)
            with contextlib.suppress(imaplib.IMAP4.error):
                client.authenticate("PLAIN", lambda _, n=name: f"\0{n}\0secret".encode())
            client.shutdown()
            request, answer = recorder.said.pop()
            equal(recorder.said, [], "other requests")
            equal(request[b"Auth-User"].decode(), escaped, "what nginx sent")
            is_name = name.isprintable() and 1 <= len(name) <= 1024
            equal(answer.get(b"X-Nauthilus-Account", b"").decode(), name if is_name and len(name) <= 256 else "", "the account")
            equal(answer[b"Auth-Status"], b"OK" if is_name else b"Invalid login or password", "the status")
            ports[name] = answer.get(b"Auth-Port")
    with test("a master user's login is routed as the user"):
        equal(ports["alice*admin"], ports["alice"], "the port")
    with test("an address with a detail is routed as the one without"):
        for name in [f"user{number}" for number in range(8)]:
            routed = [answers.get("/auth", {"Auth-User": user, "Auth-Protocol": "imap"})[1]["Auth-Port"]
                      for user in (f"{name}@example.org", f"{name}+box@example.org", f"{name}@example.org*admin")]
            equal(len(set(routed)), 1, f"{name}: the ports {routed}; how many")
    with test("the logs of names have no complaint"):
        answers.assert_clean()
        mail.assert_clean()
    mail.close()
    answers.close()


def run(nginx, sites):
    for site in sites:
        nginx.await_verdict(site, "alive")
    every_port("debian.conf", nginx, sites)
    with test("debian.conf: nobody logs in without TLS"):
        client = imaplib.IMAP4("localhost", nginx.ports[143], timeout=30)
        try:
            client.login("user", "secret")
        except imaplib.IMAP4.error:
            pass
        else:
            raise AssertionError("a password was taken in the clear")
        client.shutdown()

    def site_of(protocol, user):
        return where(sites, protocol, user, lambda: nginx.log_in(PORT_OF[protocol], user))

    chosen = {}
    for protocol in LOGINS:
        with test(f"{protocol}: a login through nginx reaches a backend"):
            chosen[protocol] = site_of(protocol, f"{protocol}-user")
    with test("users are spread over the backends, each to its own"):
        hits = {}
        for number in range(12):
            user = f"user{number}@example.org"
            hits[user] = site_of("imap", user)
        equal(set(hits.values()), {0, 1}, "sites in use")
        for user, site in hits.items():
            equal(site_of("imap", user), site, user)
    with test("a user reaches the same backend over every protocol"):
        for user in list(hits)[:4]:
            equal({site_of(protocol, user) for protocol in LOGINS}, {hits[user]}, user)
    with test("the user's name is what the client sent, which nginx escapes"):
        _, headers, _ = nginx.get("/auth", {"Auth-User": "a%20b%25c", "Auth-Protocol": "imap"})
        equal(headers["X-Nauthilus-Account"], "a b%c", "the account")
    with test("a protocol that no server speaks is answered, too"):
        _, headers, _ = nginx.get("/auth", {"Auth-User": "user", "Auth-Protocol": "sieve"})
        equal(headers["Auth-Status"], "Temporary server problem, try again later", "the answer")
    first = chosen["imap"]
    sites[first].stop()
    nginx.await_verdict(sites[first], "dead")
    for protocol in LOGINS:
        with test(f"{protocol}: when the chosen backend has stopped, the next login lands on the other"):
            equal(site_of(protocol, f"{protocol}-user"), 1 - first, "site")
    sites[1 - first].stop()
    nginx.await_verdict(sites[1 - first], "dead")
    for protocol, at in PORT_OF.items():
        with test(f"{protocol}: with none alive the client is told so at once"):
            began = time.monotonic()
            try:
                nginx.log_in(at, "user")
            except REFUSED as problem:
                assert "Temporary server problem" in str(problem), problem
                # What keeps a client from asking for another password.
                assert TEMPORARY[protocol] in str(problem), problem
            else:
                raise AssertionError("it was let in")
            assert time.monotonic() - began < 20, "it hung"
    sites[first].start()
    nginx.await_verdict(sites[first], "alive")
    with test("a backend that is back gets logins again"):
        equal(site_of("imap", "imap-user"), first)
    with test("a reload keeps the chain and the verdicts"):
        os.kill(nginx.master(), signal.SIGHUP)
        equal(nginx.verdicts()[("imap", sites[1 - first].port("imap"))], "dead")
        nginx.log_in(993, "imap-user")
        nginx.assert_clean()
    # Last, since Dovecot answers more slowly after each.
    for protocol, at in PORT_OF.items():
        with test(f"{protocol}: a wrong password is the backend's to refuse"):
            try:
                nginx.log_in(at, "user", "wrong")
            except REFUSED as problem:
                assert "uthentication failed" in str(problem), problem
            else:
                raise AssertionError("it was let in")
    with test("no password is in nginx's log"):
        assert "secret" not in nginx.log()


main()
