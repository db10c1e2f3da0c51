"""A real Prometheus scrapes the example's /metrics in nginx; the example's rules and dashboard work on it."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "page"))
from world import ROUTING, Operators, Redis, Server, make_certificates, target
from lab import ROOT, equal, free_port, run_tests, test, until

EXAMPLE = ROOT / "examples/prometheus"
# Those that need a store of bindings are there once one is configured.
METRICS = """target_up target_state probes_total last_probe_timestamp_seconds probe_duration_seconds_bucket
    probe_duration_seconds_sum probe_duration_seconds_count state_changes_total
    certificate_expiry_timestamp_seconds targets generation panic node_usable node_state log_lines_lost_total
    selections_total routes_total routes_refused_total takeovers_total events_total config_info build_info""".split()


class Prometheus:
    """One that scrapes `address` every second, with the example's rules."""

    def __init__(self, address):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nb-prometheus-"))
        self.port = free_port()
        text = (EXAMPLE / "prometheus.yml").read_text()
        assert "127.0.0.1:9145" in text and "scrape_interval: 10s" in text
        text = text.replace("127.0.0.1:9145", address).replace("scrape_interval: 10s", "scrape_interval: 1s")
        text += "global: { evaluation_interval: 1s }\n"
        (self.folder / "prometheus.yml").write_text(text)
        shutil.copy(EXAMPLE / "nauthilus_backend.rules.yml", self.folder)
        # Prometheus writes to its own output: it logs much.
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(  # pylint: disable=consider-using-with
                ["prometheus", f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/data",
                 f"--web.listen-address=127.0.0.1:{self.port}"],
                stdout=log, stderr=log,
            )
        until(self.is_ready, 60, "Prometheus")

    def is_ready(self):
        try:
            return self.get("/-/ready") is not None
        except OSError:
            assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
            return False

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
            return answer.read().decode()

    def query(self, expression):
        """The series of an expression now: their labels and values."""
        answer = json.loads(self.get("/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
        equal(answer["status"], "success", expression)
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    def value(self, expression):
        found = self.query(expression)
        equal(len(found), 1, f"series of {expression}")
        return found[0][1]

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder)


def scraped():
    make_certificates()
    up, down = Server(certificate="good"), Server()
    down.down()
    nginx = Operators({
        "connect_interval": 0.2, "fast_interval": 0.2, "panic_threshold": "10%",
        "backend_servers": [target(up, node="mail1", deep_check=True), target(down, node='m"2\\')],
    }, workers=2).start()
    address = f"127.0.0.1:{nginx.page_port}"
    prometheus = Prometheus(address)
    name = "nauthilus_backend_"
    key = f"imap://127.0.0.1:{up.port}"
    try:
        with test("Prometheus scrapes the example's location"):
            until(lambda: prometheus.query('up{job="nauthilus_backend"} == 1'), 60, "up")
            until(lambda: prometheus.query(f'{name}probes_total{{result="failed"}} > 3'), 60, "probes")
        for metric in METRICS:
            with test(f"Prometheus has {name}{metric}"):
                until(lambda m=metric: prometheus.query(name + m), 60, metric)
        with test("the values are those of the targets"):
            until(lambda: prometheus.query(f'{name}target_up{{target="{key}"}} == 1'), 60, "alive")
            equal(prometheus.value(f'{name}target_up{{target="imap://127.0.0.1:{down.port}"}}'), 0, "dead")
            equal(prometheus.value(f'{name}targets{{protocol="imap", state="dead"}}'), 1, "dead targets")
            equal(prometheus.value(f'{name}node_usable{{node="mail1"}}'), 1, "usable")
            names = {labels["node"] for labels, _ in prometheus.query(name + "node_usable")}
            equal(names, {"mail1", 'm"2\\'}, "nodes")
            left = prometheus.value(f"{name}certificate_expiry_timestamp_seconds - time()")
            assert 28 * 86400 < left < 31 * 86400, left
            assert abs(prometheus.value(f"time() - max({name}last_probe_timestamp_seconds)")) < 60
            nginx.body(f"/set?what={urllib.parse.quote('node:mail1')}&state=drain")
            until(lambda: prometheus.query(f'{name}target_state{{target="{key}", state="drain"}} == 1'), 60, "drain")
            equal(prometheus.value(f'{name}node_state{{node="mail1", state="drain"}}'), 1, "the node's state")
            nginx.body(f"/set?what={urllib.parse.quote('node:mail1')}&state=auto")
        total = f'sum({name}probes_total{{result="good"}})'
        with test("counters go on when the worker that probes dies"):
            before = prometheus.value(total)
            workers = nginx.workers()
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            until(lambda: len(set(nginx.workers()) - set(workers)) == 2, 60, "new workers")
            until(lambda: prometheus.query(f"{total} > {before + 3}"), 60, "more probes")
        with test("counters go on over a reload"):
            before = prometheus.value(total)
            nginx.reload()
            until(lambda: prometheus.query(f"{total} > {before + 3}"), 60, "more probes")
        with test("Prometheus has seen no counter go back"):
            series = prometheus.query(f'{{__name__=~"{name}.*(_total|_count|_sum|_bucket)"}}')
            for counter in {labels["__name__"] for labels, _ in series}:
                equal(prometheus.query(f"resets({counter}[10m]) > 0"), [], counter)
        with test("Prometheus accepts the example's rules"):
            until(lambda: "unknown" not in prometheus.get("/api/v1/rules"), 90, "rules evaluated")
            groups = json.loads(prometheus.get("/api/v1/rules"))["data"]["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            assert len(rules) >= 10, rules
            equal({rule["health"] for rule in rules}, {"ok"}, "health")
        with test("the dashboard's expressions are valid and find what there is"):
            assert len(expressions()) > 14, expressions()
            for expression in expressions():
                found = prometheus.query(expression)
                # Nothing is inconclusive here, no state is set, nobody is routed, and there is no store.
                is_empty = re.search('inconclusive|increase|state!="auto"|routes_|node_users|moves_total|redis', expression)
                assert found or is_empty, expression
    finally:
        prometheus.stop()
    nginx.assert_clean(allowed="exited on signal 9")
    nginx.stop()


def expressions():
    """The expressions of the dashboard, as Grafana asks for them."""
    board = json.loads((EXAMPLE / "grafana.json").read_text())
    found = [one["expr"] for panel in board["panels"] for one in panel["targets"]]
    for variable, value in (("$job", "nauthilus_backend"), ("$instance", ".*"), ("$__rate_interval", "1m")):
        found = [expression.replace(variable, value) for expression in found]
    return found


def stored():
    """With a store: what the metrics say of Redis, of users and of moves, whichever worker is asked."""
    redis = Redis()
    servers = {"a": Server(), "b": Server()}
    nginx = Operators({
        "connect_interval": 0.2, "fast_interval": 0.2, "node_down_after": 0, "node_up_after": 0,
        # A long timeout: a busy machine must not make a login fail.
        "cluster": {"redis": redis.url, "timeout": "5s"},
        "backend_servers": [target(server, node=node) for node, server in servers.items()],
    }, locations=ROUTING, workers=2).start()
    prometheus = Prometheus(f"127.0.0.1:{nginx.page_port}")
    name = "nauthilus_backend_"

    def becomes(value, expression):
        until(lambda: prometheus.query(f"{name}{expression} == {value}"), 60, f"{expression} == {value}")

    def route(user):
        return nginx.body(f"/route?user={user}").split(" ", 1)

    try:
        with test("Prometheus learns that Redis answers"):
            becomes(1, "redis_up")
        users = [f"user{number}" for number in range(20)]
        nodes = {user: route(user)[0] for user in users}
        here = [user for user in users if nodes[user] == "a"]
        with test("the users of each node are counted, and the routes"):
            assert 0 < len(here) < 20, nodes
            for node, count in (("a", len(here)), ("b", 20 - len(here))):
                becomes(count, f'node_users{{node="{node}", pool=""}}')
            becomes(20, 'routes_total{how="new"}')
            assert prometheus.value(name + "redis_request_duration_seconds_count") >= 20
            equal(prometheus.value(f'sum({name}moves_total)'), 0, "moves")
        with test("moves are counted by node and reason"):
            nginx.body("/set?what=node%3Aa&state=maintenance")
            for user in users:
                equal(route(user), ["b", "moved" if user in here else "bound"], user)
            becomes(len(here), 'moves_total{node="a", reason="unusable"}')
            becomes(len(here), 'routes_total{how="moved"}')
            nginx.body("/set?what=node%3Aa&state=auto")
            equal(nginx.body(f"/move?user={here[0]}&node=a"), "true", "move")
            # Whatever reason the operator gives: a label has few values.
            becomes(1, 'moves_total{node="b", reason="operator"}')
        with test("users without a server are counted by reason"):
            equal(nginx.body(f"/hold?user={here[0]}"), "true", "hold")
            equal(route(here[0]), ["", "held"], "route")
            becomes(1, 'routes_refused_total{reason="held"}')
        with test("the dashboard finds users, moves, routes and Redis"):
            ours = [one for one in expressions() if re.search("routes_total|node_users|moves_total|redis", one)]
            assert len(ours) == 4, ours
            for expression in ours:
                until(lambda e=expression: prometheus.query(e), 60, expression)
        with test("workers that have never reached Redis tell what the ones before knew"):
            # The counts of the last users have come: 20 users, one of them moved back.
            becomes(19, 'node_users{node="b"}')
            redis.kill()
            becomes(0, "redis_up")
            workers = nginx.workers()
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            until(lambda: len(set(nginx.workers()) - set(workers)) == 2, 60, "new workers")
            began = time.time()
            until(lambda: prometheus.value(f"timestamp({name}generation)") > began, 60, "a newer scrape")
            equal(prometheus.value(f'{name}node_users{{node="b"}}'), 19, "users")
            equal(prometheus.value(f'{name}moves_total{{node="a", reason="unusable"}}'), len(here), "moves")
            equal(prometheus.value(name + "redis_up"), 0, "up")
            redis.start()
            becomes(1, "redis_up")
    finally:
        prometheus.stop()
        redis.stop()
    nginx.assert_clean(allowed="exited on signal 9")
    nginx.stop()


def many():
    """Ten thousand targets: the worker answers others while it makes the metrics."""
    targets = "{}; for i = 1, 10000 do t[i] = { protocol = 'imap', host = ('127.%d.%d.1'):format(i / 200 + 1, i % 200), port = 1 } end"
    nginx = Operators({"backend_servers": []})
    nginx.configure(http=f"""
  init_by_lua_block {{
    local t = {targets}
    require("nauthilus_backend").configure({{ log = "none", connect_interval = "24h", fast_interval = "24h", backend_servers = t }})
  }}
{nginx.example}""", server="location /count { content_by_lua_block { ngx.print(require('nauthilus_backend')._VERSION) } }")
    nginx.start()

    def made(path):
        """The text of a location; others are answered meanwhile."""
        for _ in range(5):
            answer, delays = [], []

            def fetch():
                with urllib.request.urlopen(nginx.url + path, timeout=120) as response:
                    answer.append(response.read().decode())  # pylint: disable=cell-var-from-loop

            asking = threading.Thread(target=fetch)
            asking.start()
            started = time.monotonic()
            while asking.is_alive():
                began = time.monotonic()
                nginx.body("/count")
                delays.append(time.monotonic() - began)
            asking.join()
            took, slowest = time.monotonic() - started, max(delays)
            print(f"# {len(delays)} other requests in {took * 1000:.0f} ms, the slowest took {slowest * 1000:.1f} ms")
            # One waits for nearly all of the time where the text is made at once. That one of a busy machine
            # may do so once.
            if len(delays) > 2 and slowest < took / 2:
                return answer[0]
        raise AssertionError("a request waited for the whole text each time")

    with test("other requests are answered while the metrics of 10,000 targets are made"):
        text = made("/metrics")
        equal(text.count("nauthilus_backend_target_up{"), 10000, "targets")
        assert text.endswith("# EOF\n"), text[-100:]
        equal(len(re.findall("^# TYPE nauthilus_backend_target_up ", text, re.M)), 1, "heads of a family")
    with test("other requests are answered while the JSON of 10,000 targets is made"):
        status = json.loads(made("/status.json"))
        keys = [one["key"] for one in status["targets"]]
        equal((len(keys), len(set(keys)), len(status["nodes"])), (10000, 10000, 10000), "targets and nodes")
    with test("other requests are answered while the page of 10,000 targets is made"):
        page = made("/status")
        equal(page.split('<table id="nodes"')[0].count('<th scope="row">'), 10000, "rows")
        assert page.endswith("</html>"), page[-100:]
    nginx.assert_clean()
    nginx.stop()


if __name__ == "__main__":
    run_tests(scraped, stored, many)
