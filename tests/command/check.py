"""`check` and `validate`: against real and scripted servers, in pipes, as JSON."""

import os
import signal
import subprocess
import sys

import lab
from lab import SECRET, run, test

peers = lab.Helper("peers.py")
dovecot = lab.Helper("dovecot.py")
ports = dovecot.ask("start")
folder = lab.folder()
good = {"NAUTHILUS_BACKEND_PASSWORD": "secret"}


def opened(name, script, **options):
    return peers.ask("open", name=name, script=script, **options)["port"]


@test
def imaps():
    """imaps with a login: stages, certificate, offers, status 0"""
    url = f"imaps://alice@localhost:{ports['imaps']}"
    done = run("check", url, "--ca-file", ports["ca"], env=good)
    done.expect(
        0,
        r"^  connect +[\d.]+ ms  (127\.0\.0\.1|::1)$",
        r"^  tls +[\d.]+ ms  TLSv1\.[23] \w+",
        r"^  greeting +[\d.]+ ms  \* OK .*Dovecot",
        r"^  auth +[\d.]+ ms",
        r"^    for +.*localhost",
        r"^    valid .* days left",
        r"^  offers +.*IMAP4rev1",
        r"^  good +in [\d.]+ ms$",
    )
    assert "\x1b" not in done.out, done


@test
def each_protocol():
    """pop3s, STARTTLS of imap, pop3, sieve and submission, and lmtp of a real Dovecot"""
    for scheme, name in [
        ("pop3s", "pop3s"),
        ("imap+starttls", "imap"),
        ("pop3+starttls", "pop3"),
        ("sieve", "sieve"),
        ("smtp+starttls", "submission"),
        ("imap+plain", "imap"),
    ]:
        url = f"{scheme}://alice@127.0.0.1:{ports[name]}"
        done = run("check", url, "--ca-file", ports["ca"], "--json", env=good).expect(0)
        (found,) = done.json()
        assert found["good"] and found["offers"], done
        stages = [stage["stage"] for stage in found["stages"]]
        assert "auth" in stages, done
        assert ("tls" in stages) == ("plain" not in scheme), done
    run("check", f"lmtp://127.0.0.1:{ports['lmtp']}").expect(0, r"^  offers +.*PIPELINING")


@test
def refused_login():
    """A wrong password fails with advice, and is not repeated"""
    url = f"imap://alice@127.0.0.1:{ports['imap']}"
    run("check", url, env={"NAUTHILUS_BACKEND_PASSWORD": SECRET}).expect(
        1, r"^  failed +after .*auth: refused", r"^  try +see whether user and password are right"
    )


@test
def password_sources():
    """A password comes from a file too; without any the usage is wrong"""
    url = f"imap://alice@127.0.0.1:{ports['imap']}"
    path = folder / "password"
    path.write_text("secret\n")
    run("check", url, "--password-file", path).expect(0)
    run("check", url).expect(2, "NAUTHILUS_BACKEND_PASSWORD is not set")
    run("check", url, "--password-file", folder / "none").expect(2, "No such file")
    run("check", f"imap://alice:{SECRET}@127.0.0.1").expect(2, "no password expected in a URL")


@test
def certificates():
    """A certificate that is expired, for another name or of nobody: shown, with advice"""
    made = peers.ask("certificates")["folder"]
    for name, reason, advice in [
        ("expired", "has expired", "renew"),
        ("other", "not valid for", "--server-name"),
        ("selfsigned", "not trusted", "--ca-file"),
    ]:
        port = opened(name, "", tls=name)
        done = run("check", f"imaps://localhost:{port}", "--ca-file", f"{made}/ca.crt")
        done.expect(1, rf"failed .*tls: certificate.*{reason}", rf"^  try +.*{advice}", "^  certificate ")
    port = opened("skipped", "", tls="other")
    run("check", f"imaps://localhost:{port}", "--insecure", "--connect-only").expect(0)
    run("check", f"imaps://alice@localhost:{port}/INBOX", "--insecure", "--connect-only").expect(0)


@test
def s_server():
    """https of openssl s_server"""
    made = peers.ask("certificates")["folder"]
    port = lab.control.free_port()
    server = subprocess.Popen(
        ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", f"{made}/good.pem", "-www"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        while server.stdout.readline() not in (b"ACCEPT\n", b""):
            pass
        url = f"https://localhost:{port}/"
        run("check", url, "--ca-file", f"{made}/ca.crt").expect(0, "^  http .* 200 ", "TLSv1.3")
        run("check", url, "--ca-file", f"{made}/ca.crt", "--expect-status", "204").expect(
            1, "http: .*status 200", "--expect-status"
        )
    finally:
        server.kill()
        server.wait()


@test
def hostile_greeting():
    """Escape sequences of a server do not reach the terminal"""
    script = "send * OK \\x1b]0;owned\\x07\\x1b[31mred \\xc2\\x9b1m\\r\\nexpect .*CAPABILITY\nsend * CAPABILITY IMAP4rev1 \\x1b[2J\\r\\n"
    port = opened("hostile", script)
    done = run("check", f"imap://127.0.0.1:{port}", "--timeout", "3s")
    done.expect(1, "greeting .*OK \ufffd\\]0;owned")
    assert not any(ord(c) < 32 and c != "\n" or 0x7F <= ord(c) < 0xA0 for c in done.out), repr(done.out)


@test
def nobody():
    """Nothing there: the advice says so, several URLs are all checked, status 1"""
    port = peers.ask("closed")["port"]
    done = run("check", f"imap://127.0.0.1:{port}", f"imap://127.0.0.1:{ports['imap']}")
    done.expect(1, "connection refused", "^  try +nothing listens there", "^  good ")


@test
def repeated():
    """--repeat shows minimum, median and maximum of each stage"""
    url = f"imap://127.0.0.1:{ports['imap']}"
    run("check", url, "--repeat", "5").expect(
        0, r"^ +min +median +max$", r"^  connect( +[\d.]+ ms){3}$", r"^  all( +[\d.]+ ms){3}$", "5 of 5 good"
    )
    (found,) = run("check", url, "--repeat", "5", "--json").expect(0).json()
    times = found["times"]["all"]
    assert found["runs"] == 5 and times["min_ms"] <= times["median_ms"] <= times["max_ms"], found


@test
def usage():
    """Wrong usage ends with status 2, help and version with 0"""
    for wrong in [[], ["chek"], ["check"], ["check", "nowhere"], ["check", "imap://h", "--repeat", "0"]]:
        run(*wrong).expect(2)
    run("check", "imaps://h", "--auth", "NTLM").expect(2, "auth_mechanism")
    run("check", "imaps://h", "--ca-file", "/nonexistent").expect(2, "tls_ca_file: .*no such file")
    run("check", "imaps://h", "--ca-file", b"/caf\xe9".decode(errors="surrogateescape")).expect(2, "--ca-file: UTF-8 expected")
    run("check", "imaps://h", "--timeout", "18446744073709551615s").expect(2, "a time of at most 5m expected")
    run("check", "imap://[::1]143").expect(2, "a colon expected between ] and the port")
    latin_1 = {"NAUTHILUS_BACKEND_PASSWORD": "caf\udce9"}
    run("check", "imaps://alice@h", env=latin_1).expect(2, "NAUTHILUS_BACKEND_PASSWORD: UTF-8 expected")
    for words in [["--help"], ["help"]]:
        run(*words).expect(0, "^  check ", "^  validate ")
    run("help", "drain").expect(0, "Take a target or a node out of the list", "--for")
    run("help", "chek").expect(2, "chek")
    run("--version").expect(0, r"^nauthilus-backend \d")


@test
def closed_pipe():
    """A closed pipe ends the command without a word"""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [lab.COMMAND, "check", f"imap://127.0.0.1:{ports['imap']}"],
        stdout=writer, stderr=subprocess.PIPE, text=True, check=False, stdin=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_DFL),
    )
    os.close(writer)
    assert done.stderr == "" and done.returncode in (141, -signal.SIGPIPE), done


@test
def validated():
    """validate prints every mistake with file, line and key, and ends with 1"""
    bad = folder / "bad.yml"
    bad.write_text(
        "backend_server_monitoring:\n"
        "  connect_timeout: never\n"
        "  backend_servers:\n"
        "    - { protocol: imap, host: mail1, port: 70000, colour: red }\n"
        f"    - {{ protocol: imap, host: mail2, test_username: a, test_password: \"{SECRET}\\n\" }}\n"
    )
    done = run("validate", bad).expect(
        1,
        rf"^{bad}: line 2: backend_server_monitoring\.connect_timeout: duration",
        rf"^{bad}: line 4: .*backend_servers\[1\]\.port: integer 1\.\.65535 expected, got 70000",
        rf"^{bad}: line 4: .*\.colour: unknown key",
        rf"^{bad}: line 5: .*\.test_password: ",
        rf"^{bad}: bad: 4 mistakes$",
    )
    (found,) = run("validate", "--json", bad).expect(1).json()
    assert [m["line"] for m in found["mistakes"]] == [2, 4, 4, 5], done
    well = folder / "well.yml"
    well.write_text(
        "backend_server_monitoring:\n"
        "  backend_servers:\n"
        "    - { protocol: imap, host: mail1, request_uri: / }\n"
        "    - { protocol: smtp, host: mail1 }\n"
    )
    run("validate", well).expect(0, r"warning: line 3: .*request_uri", r"good: 2 targets on 1 node$")
    run("validate", well, bad, folder / "none.yml").expect(1, "none.yml: no such file", "good: 2 targets")
    run("validate").expect(2)
    well.write_text("backend_server_monitoring: { helo_name: '${OF_THE_TEST}', backend_servers: [] }\n")
    run("validate", well).expect(1, "helo_name: environment variable OF_THE_TEST is not set")
    run("validate", well, env={"OF_THE_TEST": "caf\udce9"}).expect(1, "environment variable OF_THE_TEST is not UTF-8")


@test
def completions():
    """Completions that the shells accept"""
    for shell in ["bash", "zsh", "fish"]:
        done = run("completion", shell).expect(0, "validate")
    script = run("completion", "bash").out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


peers.close()
dovecot.close()
lab.finish()
