"""The status page in a headless Chromium: the example's own locations in a real nginx.

    page.py AXE     AXE: the script of axe-core

With WRITE_DOCS=1 it also writes the screenshots of docs/.
"""

import http.client
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from world import (
    HIDDEN, LONG, MARKUP, ROUTING, Operators, Redis, Server, lua, make_certificates, target,
)
from browser import chromium, colours, size
from lab import ROOT, BlackHole, equal, free_port, run_tests, test, until

AXE = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
QUICK = {"connect_interval": 0.2, "fast_interval": 0.2}


class Page:
    """The page of an nginx, in a browser."""

    def __init__(self, nginx, browser, path="/status"):
        self.browser = browser
        browser.get(nginx.url + path)

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def text(self, of):
        return self.run("return document.getElementById(arguments[0]).innerText", of)

    def rows(self):
        """The texts of the cells of each row of targets that is seen."""
        return self.run("""
            return [...document.querySelectorAll("#targets tbody tr:not(.g)")].filter((row) => row.checkVisibility())
                .map((row) => [...row.cells].map((cell) => cell.textContent.trim()))""")

    def row(self, key):
        return next((row for row in self.rows() if row[0].startswith(key)), None)

    def refreshed(self, times=2):
        """Waits until the page has shown so many newer answers."""
        for _ in range(times):
            # The page shows its time in whole seconds, so the text changes with each answer or every second
            # one.
            before = self.text("asof")
            until(lambda b=before: self.text("asof") != b, 60, "the page is refreshed")

    def assert_clean(self):
        """No error on the console, nothing that the policy refused, nothing run that came as text."""
        equal([line["message"] for line in self.browser.get_log("browser")], [], "console")
        equal(self.run("return window.refused"), [], "refused by the policy")
        equal(self.run("return window.pwned ?? null"), None, "a text was run")
        equal(self.run("return document.scripts.length"), 1, "scripts")

    def assert_accessible(self):
        # Through the browser's own channel, which no policy of the page applies to.
        self.browser.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE + "; undefined"})
        found = self.browser.execute_async_script("""
            const done = arguments[arguments.length - 1];
            axe.run().then((result) => done(result.violations), (error) => done([{ id: String(error), impact: "serious" }]));""")
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        equal([(one["id"], one["nodes"][0]["html"] if one.get("nodes") else "") for one in serious], [], "axe-core")

    def assert_same(self, rows="tbody tr"):
        """The script shows the same rows as the page without it, and the same above them. Returns both."""
        rows, other_rows, meta, other_meta = self.run(f"return (async (rows) => {{ {COMPARE} }})(...arguments)", rows)
        for mine, other in zip(rows, other_rows):
            equal(mine, other, "row")
        equal(len(rows), len(other_rows), "rows")
        equal(meta, other_meta, "what stands above")
        return rows, meta

    def nodes(self):
        """The texts of the cells that are seen of each row of nodes, after its class."""
        return self.run("""
            return [...document.querySelectorAll("#nodes tbody tr")].map((row) => [row.className, ...[...row.cells]
                .filter((cell) => cell.checkVisibility()).map((cell) => cell.textContent.trim())])""")

    def assert_fits(self, width):
        wide = self.run("return document.scrollingElement.scrollWidth")
        assert wide <= width, f"{wide} pixels of {width}"


def requested(nginx, path, method="GET", source=None):
    connection = http.client.HTTPConnection(
        "127.0.0.1", nginx.page_port, timeout=20, source_address=source and (source, 0)
    )
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, body


def status_of(nginx):
    return json.loads(requested(nginx, "/status.json")[2])


def verdict_of(nginx, server):
    ours = [one for one in status_of(nginx)["targets"] if one["port"] == server.port]
    return ours[0]["verdict"]


def settled(nginx):
    """Waits until nothing has been probed for two seconds."""
    seen, since = None, 0

    def is_quiet():
        nonlocal seen, since
        time.sleep(0.1)
        found = [one["probes"] for one in status_of(nginx)["targets"]]
        if found != seen:
            seen, since = found, time.monotonic()
        return time.monotonic() - since > 2

    until(is_quiet, 60, "the end of the first probes")


def operate(nginx, **arguments):
    nginx.body("/set?" + urllib.parse.urlencode(arguments))


# What the page shows now, and what a page shows that no script has changed.
COMPARE = r"""
        const answer = await fetch("/status");
        const other = new DOMParser().parseFromString((await answer.text()).replace(/<style[^]*?<\/style>/, ""), "text/html");
        const plain = (node) => {
            const copy = node.cloneNode(true);
            copy.normalize();
            // The ages differ.
            return (copy.title ? `[${copy.title}] ` : "") + copy.innerHTML.trim().replace(/(^|> )\d+ (s|min|h)( \d+ min)?$/, "$1age");
        };
        const rowsOf = (page) => [...page.querySelectorAll(rows)].map((row) => `${row.className}: ${[...row.cells].map(plain).join(" | ")}`);
        const meta = (page) => ["summary", "meta", "warnings"].map((id) =>
            page.getElementById(id).textContent.replace(/ for .*/, "").replace(/\s+/g, " "));
        return [rowsOf(document), rowsOf(other), meta(document), meta(other)];"""


def served():
    """What the example's locations answer, and to whom."""
    servers = [Server(), Server()]
    nginx = Operators({**QUICK, "backend_servers": list(map(target, servers))}, workers=2).start()
    types = {"/status": "text/html; charset=utf-8", "/status.json": "application/json"}
    for path in ("/status", "/status.json", "/metrics"):
        with test(f"{path} is not kept, not framed, and only read"):
            status, headers, _ = requested(nginx, path)
            equal(status, 200, path)
            equal(headers["cache-control"], "no-store", "Cache-Control")
            equal(headers["content-type"], types.get(path, headers["content-type"]), "Content-Type")
            assert "frame-ancestors 'none'" in headers["content-security-policy"], headers
            assert "default-src 'none'" in headers["content-security-policy"], headers
            equal(requested(nginx, path, "POST")[0], 403, "POST")
        with test(f"{path} is refused to an address that is not named"):
            equal(requested(nginx, path, source="127.0.0.2")[0], 403, path)
    with test("each page has a nonce of its own"):
        nonces = {requested(nginx, "/status")[1]["content-security-policy"] for _ in range(3)}
        equal(len(nonces), 3, "policies")
    browser = chromium()
    with test("the page loads without an error, and what it loads is its own"):
        page = Page(nginx, browser)
        until(lambda: all(row[2] == "✔ alive" for row in page.rows()), 60, "both alive")
        page.refreshed()
        page.assert_clean()
        names = page.run("return performance.getEntriesByType('resource').map((one) => one.name)")
        equal(set(names), {nginx.url + "/status.json"}, "loaded")
    with test("the policy forbids a script without the nonce"):
        page.run("const s = document.createElement('script'); s.textContent = 'window.pwned = 1'; document.body.append(s)")
        equal(page.run("return window.pwned ?? null"), None, "it ran")
        until(lambda: page.run("return window.refused") != [], what="a refusal")
        browser.get_log("browser")
    with test("a change of state appears within two seconds"):
        page = Page(nginx, browser)
        page.refreshed()
        key = f"imap://127.0.0.1:{servers[0].port}"
        times = []
        # The page requests its data once a second; a busy machine may delay one request, so one of up to six
        # has to be in time.
        turns = ((servers[0].down, "dead", "✖ dead"), (servers[0].up, "alive", "✔ alive"))
        for change, verdict, shown in 3 * turns:
            change()
            until(lambda v=verdict: verdict_of(nginx, servers[0]) == v, 60, verdict)
            known = time.monotonic()
            until(lambda s=shown: page.row(key)[2] == s, 60, f"{shown} on the page")
            times.append(time.monotonic() - known)
            if len(times) % 2 == 0 and min(times) < 2:
                break
        print("# on the page after", *(f"{each:.2f}" for each in times), "s")
        assert min(times) < 2, times
        operate(nginx, what=key, state="maintenance", reason="disk", by="alice")
        until(lambda: page.row(key)[2] == "✔ alive maintenance", 60, "maintenance")
        until(lambda: "alice" in page.text("events"), 60, "the event")
        operate(nginx, what=key, state="auto")
        page.assert_clean()
    with test("a page without an answer says so, and goes on when there is one"):
        nginx.stop()
        until(lambda: page.text("asof").startswith("⚠ Not refreshed since "), 60, "the notice")
        nginx.start()
        until(lambda: page.text("asof").startswith("As of "), 60, "the time")
        browser.get_log("browser")
    nginx.assert_clean()
    browser.quit()
    nginx.stop()


def same_as_without_script():
    """page.js shows the same from the JSON as the page shows without it."""
    failing = Server(greeting=b"* BYE try later\r\n")
    servers = [Server("127.0.1.1", "good"), Server("127.0.1.2", "soon"), Server("127.0.1.3"), failing]
    closed = Server("127.0.1.4")
    closed.down()
    targets = [target(one, node=f"mail{at}") for at, one in enumerate(servers)]
    targets[2]["deep_check"] = targets[3]["deep_check"] = True
    targets += [target(closed, protocol="pop3", node="mail9"), target(servers[2], node="mail2")]
    targets.append({"protocol": "imap", "host": "localhost", "port": servers[2].port, "node": "mail7", "pool": "b"})
    nginx = Operators({**QUICK, "panic_threshold": "100%", "backend_servers": targets}).start()
    until(lambda: all(t["verdict"] != "unknown" and len(t["results"]) > 5 for t in status_of(nginx)["targets"]), 60, "verdicts")
    until(lambda: sum(t.get("certificate_expiry") is not None for t in status_of(nginx)["targets"]) == 2, 30, "certificates")
    operate(nginx, what="node:mail0", state="drain", by="bob")
    # From here on only times change.
    nginx.configure(http=nginx.http_of({
        "connect_interval": 3600, "fast_interval": 3600, "panic_threshold": "100%", "backend_servers": targets,
    }))
    nginx.reload()
    settled(nginx)
    browser = chromium()
    with test("the script shows the same as the page without it"):
        page = Page(nginx, browser)
        page.refreshed(3)
        rows, meta = page.assert_same()
        assert len(rows) > 12, rows
        assert "panic" in meta[2], meta
        equal(sum("[TLSv1.3 " in row and "issued by" in row for row in rows), 2, "rows with details of a certificate")
    with test("a certificate that is renewed has its new details, and a row that the script adds has them"):
        page.run("""
            const [first, second] = document.querySelectorAll("#targets td[title]");
            first.title = "the certificate before";
            second.parentNode.remove();""")
        page.refreshed()
        page.assert_same()
        page.assert_clean()
    browser.quit()
    with test("the page can be read without JavaScript"):
        browser = chromium(script=False)
        browser.get(nginx.url + "/status")
        text = browser.find_element(By.TAG_NAME, "body").text
        for expected in ("Reload the page", "✖ dead", "connect: connection refused", "drain", "localhost", "127.0.0.1",
                         "try later", "Events", "Nodes", "✖ no: "):
            assert expected in text, f"{expected!r} in {text}"
        # It was made with seven days, to the second.
        assert "⚠ 6 d" in text or "⚠ 7 d" in text, text
        assert not browser.find_element(By.ID, "filter").is_displayed(), "a filter that does nothing"
        browser.quit()
    nginx.assert_clean()
    nginx.stop()


def by_keyboard():
    """Filter and sorting work by keyboard, and a refresh leaves everything in its place."""
    servers = [Server(f"127.0.2.{at}") for at in (1, 2, 3)]
    targets = [target(servers[at % 3], node=f"mail{(at * 7) % 30:02}", host=f"127.0.3.{at}") for at in range(1, 31)]
    targets += [target(one, node="other") for one in servers]
    nginx = Operators({**QUICK, "backend_servers": targets}).start()
    browser = chromium(height=500)
    page = Page(nginx, browser)
    page.refreshed()
    active = lambda: browser.switch_to.active_element
    with test("the filter is reached and used by keyboard"):
        active().send_keys(Keys.TAB)
        equal(active().get_attribute("id"), "filter", "the first stop")
        active().send_keys("OTHER")
        equal({row[1] for row in page.rows()}, {"other"}, "nodes that are shown")
        equal(page.text("count"), "3 of 33 shown", "count")
        active().send_keys(Keys.HOME, "x")
        equal(page.rows(), [], "rows of a word that nothing has")
        active().send_keys(Keys.BACKSPACE)
        equal(len(page.rows()), 3, "rows")
    with test("a refresh keeps filter, caret and focus"):
        page.run("document.activeElement.setSelectionRange(2, 4)")
        page.refreshed()
        equal(active().get_attribute("value"), "OTHER", "filter")
        equal(page.run("const f = document.activeElement; return [f.id, f.selectionStart, f.selectionEnd]"), ["filter", 2, 4], "caret")
        equal(len(page.rows()), 3, "rows")
        active().send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.BACKSPACE)
        equal(len(page.rows()), 33, "rows")
    with test("columns are sorted by keyboard: up, down, as configured"):
        active().send_keys(Keys.TAB)
        active().send_keys(Keys.TAB)
        equal(active().text, "Node", "the button")
        configured = [row[1] for row in page.rows()]
        sort = lambda: page.run("return document.activeElement.parentNode.getAttribute('aria-sort')")
        for key, wanted, order in ((Keys.ENTER, "ascending", sorted(configured)),
                                   (Keys.SPACE, "descending", sorted(configured, reverse=True)),
                                   (Keys.ENTER, None, configured)):
            active().send_keys(key)
            equal([row[1] for row in page.rows()], order, wanted)
            equal(sort(), wanted, "aria-sort")
        active().send_keys(Keys.ENTER)
    with test("a refresh keeps order, focus and scroll position"):
        page.run("window.scrollTo(0, 300)")
        before = page.run("return window.scrollY")
        servers[1].down()
        until(lambda: any("✖ dead" in row[2] for row in page.rows()), 60, "a change")
        page.refreshed()
        equal([row[1] for row in page.rows()], sorted(configured), "order")
        equal(active().text, "Node", "focus")
        equal(page.run("return window.scrollY"), before, "scroll position")
        page.assert_clean()
    browser.quit()
    nginx.assert_clean()
    nginx.stop()


def bound():
    """Nodes with their users, where a store has them; and what operators have set."""
    redis = Redis()
    servers = {"a": Server(), "b": Server(), "c": Server()}
    nginx = Operators({
        **QUICK, "node_down_after": 0, "node_up_after": 0, "cluster": {"redis": redis.url, "timeout": "5s"},
        "backend_servers": [target(server, node=node, pool="berlin") for node, server in servers.items()],
    }, locations=ROUTING).start()
    browser = chromium()
    page = Page(nginx, browser)
    users = [f"user{number}" for number in range(30)]
    nodes = {user: nginx.body(f"/route?pool=berlin&user={user}").split()[0] for user in users}
    of = lambda node: [user for user in users if nodes[user] == node]
    with test("nodes are shown with their users"):
        def row(node, *counts):
            return ["alive", node, "berlin", "100", "✔ yes", "", *map(str, counts)]
        wanted = [row(node, len(of(node)), 0, 0) for node in servers]
        until(lambda: page.nodes() == wanted, 60, f"{wanted} in the table")
    with test("a node in maintenance, one that drains and one that is dead are shown as such"):
        operate(nginx, what="node:a", state="maintenance", reason="new disks", by="alice")
        operate(nginx, what="node:b", state="drain", by="bob")
        until(lambda: [one[4] for one in page.nodes()] == ["✖ no: maintenance", "✖ no: drain", "✔ yes"], 60, "states")
        equal([one[0] for one in page.nodes()], ["out", "out", "alive"], "classes")
        equal([one[5].split()[0] for one in page.nodes() if one[5]], ["maintenance", "drain"], "what is set")
        servers["c"].down()
        until(lambda: page.nodes()[2][4] == "✖ no: dead", 60, "dead")
        equal(page.nodes()[2][0], "dead", "class")
        status = {one["node"]: one for one in status_of(nginx)["nodes"]}
        equal([status[node]["why"] for node in "abc"], ["maintenance", "drain", "dead"], "why")
        equal([status[node]["state"] for node in "abc"], ["maintenance", "drain", "auto"], "state")
        assert abs(status["a"]["since"] - time.time()) < 600 and "since" not in status["c"], status
        servers["c"].up()
        until(lambda: page.nodes()[2][4] == "✔ yes", 60, "alive again")
    with test("users who have moved are counted where they were and where they are"):
        for user in of("a"):
            nginx.body(f"/route?pool=berlin&user={user}")
        gone = len(of("a"))
        until(lambda: [one[6:] for one in page.nodes()] == [
            ["0", "0", str(gone)], [str(len(of("b"))), "0", "0"], [str(len(of("c")) + gone), str(gone), "0"]], 60, "moves")
        page.refreshed()
        # Probes continue, so the targets differ between two answers.
        page.assert_same("#nodes tbody tr")
        page.assert_accessible()
        page.assert_clean()
    browser.quit()
    redis.stop()
    nginx.assert_clean()
    nginx.stop()


def elsewhere():
    """Verdicts come from another program, through the state file."""
    server = Server()
    folder = tempfile.mkdtemp(prefix="nb-state-")
    os.chmod(folder, 0o755)
    config = {**QUICK, "state_file": f"{folder}/state", "backend_servers": [target(server)]}
    program = subprocess.Popen(  # pylint: disable=consider-using-with
        ["lua5.4", "-e", f"""
            package.cpath = "{ROOT}/build/lua5.4/?.so"
            local nb = require("nauthilus_backend")
            nb.configure({lua({"log": "none", **config})})
            nb.start()
            assert(nb.wait_ready(60))
            print("ready")
            io.flush()
            io.read()"""],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    equal(program.stdout.readline(), "ready\n", "the other program")
    nginx = Operators(config, workers=2).start()
    browser = chromium()
    page = Page(nginx, browser)
    with test("the page names the process of another program that probes"):
        wanted = f"Process {program.pid} of another program probes; the state file has its verdicts."
        until(lambda: page.text("meta").startswith(wanted), 60, wanted)
        page.refreshed()
        page.assert_same("#nodes tbody tr")
        status = status_of(nginx)
        equal((status["prober"], status["prober_elsewhere"]), (program.pid, True), "prober")
    with test("it names a process of its own when the other program has ended"):
        program.stdin.close()
        program.wait(60)
        until(lambda: any(page.text("meta").startswith(f"Process {pid} probes.") for pid in nginx.workers()), 60, "a worker")
        equal(status_of(nginx)["prober_elsewhere"], False, "elsewhere")
        page.assert_clean()
    browser.quit()
    nginx.assert_clean()
    nginx.stop()
    shutil.rmtree(folder)


def hostile():
    """Names and reasons that try to break out of the page."""
    reason = (MARKUP + HIDDEN).encode()
    servers = [Server(greeting=b"* BYE " + reason + b"\r\n"), Server()]
    name = MARKUP + HIDDEN
    targets = [
        target(servers[0], node=name, pool="pool" + name, deep_check=True),
        target(servers[1], node="n" * 253, pool="pool" + name),
        {"protocol": "imap", "host": LONG, "port": 143, "node": LONG, "pool": "p"},
        {"protocol": "http", "host": "127.0.0.1", "port": servers[1].port, "request_uri": "/" + MARKUP.replace(" ", "")},
    ]
    nginx = Operators({**QUICK, "backend_servers": targets}).start()
    shown = MARKUP + "\\u{2028}\\u{202e}gnp.exe\\u{200b}"
    operate(nginx, what=f"imap://127.0.0.1:{servers[1].port}", state="drain", reason=MARKUP + "\u202e", by="<b>\u2066bob")
    until(lambda: [t["verdict"] for t in status_of(nginx)["targets"]
                   if "window.pwned" in t.get("last_error", "") or t["host"] == LONG] == ["dead"] * 2, 60, "dead")
    browser = chromium()
    for when in ("in the page itself", "from the JSON"):
        with test(f"hostile names and reasons are texts {when}"):
            page = Page(nginx, browser)
            if when == "from the JSON":
                page.refreshed()
            until(lambda: page.row(f"imap://127.0.0.1:{servers[0].port}")[2].startswith("✖"), 60, "dead")
            # A probe that a busy machine delayed until its deadline has another reason.
            until(lambda: "window.pwned=1</script>" in page.row(f"imap://127.0.0.1:{servers[0].port}")[4], 60, "the reason")
            row = page.row(f"imap://127.0.0.1:{servers[0].port}")
            equal(row[1], shown, "node")
            assert "\u202e" not in row[4] and "\u2028" not in row[4], row
            events = page.text("events")
            assert MARKUP + "\\u{202e}" in events and "<b>\\u{2066}bob" in events, events
            whole = page.run("return document.body.innerText")
            for hidden in "\u2028\u202e\u200b\u2066":
                assert hidden not in whole, hex(ord(hidden))
            equal(page.run("return document.images.length + document.querySelectorAll('main b b, iframe').length"), 0, "elements")
            page.assert_clean()
    with test("the longest names fit a phone, by page and by script"):
        size(browser, 360, 800)
        page = Page(nginx, browser)
        page.assert_fits(360)
        page.refreshed()
        page.assert_fits(360)
        page.assert_accessible()
        page.assert_clean()
    browser.quit()
    nginx.assert_clean()
    nginx.stop()


def looks():
    """Light, dark and on a phone: for everybody, and for the screenshots."""
    servers = [Server(f"127.0.4.{at}", certificate) for at, certificate in
               ((1, "good"), (2, "good"), (3, "soon"), (4, "good"))]
    plain = [Server(f"127.0.4.{at}") for at in (1, 2, 3, 4)]
    tls = [target(one, node=f"mail{at}", pool="berlin", deep_check=True) for at, one in enumerate(servers, 1)]
    sieve = [target(one, node=f"mail{at}", pool="berlin", protocol="pop3") for at, one in enumerate(plain, 1)]
    black = BlackHole()
    lost = {"protocol": "lmtp", "host": "127.0.0.1", "port": black.port, "node": "store", "connect_timeout": 0.3}
    redis = Redis()
    nginx = Operators({"connect_interval": 0.25, "fast_interval": 0.25, "node_down_after": 1,
                       "cluster": {"redis": redis.url, "timeout": "5s"},
                       "backend_servers": tls + sieve + [lost]},
                      locations=ROUTING).start()
    # Full graphs for the pictures.
    enough = 45 if os.environ.get("WRITE_DOCS") else 8
    until(lambda: all(len(t["results"]) > enough for t in status_of(nginx)["targets"]), 60, "probes")
    users = 400 if os.environ.get("WRITE_DOCS") else 20

    def log_in():
        for number in range(users):
            nginx.body(f"/route?pool=berlin&user=user{number}")

    log_in()
    servers[1].down()
    plain[1].down()
    operate(nginx, what="node:mail4", state="maintenance", reason="new disks", by="alice")
    log_in()
    until(lambda: sum(one.get("moved_in", 0) for one in status_of(nginx)["nodes"]) > 0, 60, "moves")
    plain[2].down()
    for one in (servers[1], plain[1], plain[2]):
        until(lambda o=one: verdict_of(nginx, o) == "dead", 60, "dead")
    plain[2].up()
    until(lambda: verdict_of(nginx, plain[2]) == "alive", 60, "alive")
    browser = chromium()
    browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    pictures = {}
    backgrounds = set()
    for name, width, height, dark in (("desktop", 1280, 940, False), ("dark", 1280, 940, True), ("phone", 360, 780, False)):
        size(browser, width, height)
        colours(browser, dark)
        page = Page(nginx, browser)
        page.refreshed()
        with test(f"{name}: axe-core finds no serious fault, and nothing is wider than the page"):
            page.assert_accessible()
            page.assert_fits(width)
            page.assert_clean()
            backgrounds.add(page.run("return getComputedStyle(document.body).backgroundColor"))
        if os.environ.get("WRITE_DOCS"):
            pictures[name] = browser.get_screenshot_as_png()
    with test("dark is another background"):
        equal(len(backgrounds), 2, "backgrounds")
    for name, picture in pictures.items():
        with test(f"the screenshot {name} is small"):
            assert len(picture) < 150_000, len(picture)
            (ROOT / f"docs/status-{name}.png").write_bytes(picture)
    browser.quit()
    redis.stop()
    nginx.assert_clean()
    nginx.stop()


def small():
    """A hundred targets with full graphs."""
    servers = [Server() for _ in range(4)]
    targets = [target(servers[at % 4], host=f"127.1.{at}.1", port=servers[0].port, node=f"mail-{at:03}.example.org")
               for at in range(100)]
    # They listen on all of the machine's own addresses: only the kernel answers.
    for at, one in enumerate(targets):
        one["port"] = servers[at % 4].port
        one["host"] = "127.0.0.1" if at % 2 else one["host"]
    nginx = Operators({"connect_interval": 0.1, "fast_interval": 0.1, "backend_servers": targets}).start()
    until(lambda: all(len(t["results"]) == 60 for t in status_of(nginx)["targets"]), 240, "probes")
    with test("the page of 100 targets, half of them dead, is smaller than 100 kB"):
        page = requested(nginx, "/status")[2]
        print(f"# {len(page.encode())} bytes")
        equal(page.count("<svg"), 100, "graphs")
        assert len(page.encode()) < 100_000, len(page.encode())
    nginx.assert_clean()
    nginx.stop()


make_certificates()
run_tests(served, same_as_without_script, by_keyboard, bound, elsewhere, hostile, looks, small)
