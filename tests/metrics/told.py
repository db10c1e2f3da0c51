"""examples/openresty/events.lua in nginx: a webhook hears of each event once, also when a worker dies."""

import http.server
import os
import signal
import threading

from scraped import ROOT, Server, equal, run_tests, target, test, until
from lab import Nginx, free_port
from world import lua


class Hook(http.server.BaseHTTPRequestHandler):
    """A webhook that keeps what it is told, and refuses it while `broken`."""

    told = []
    broken = False
    arrivals = 0
    # While this is not set, the webhook does not answer.
    held = None

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        Hook.arrivals += 1
        if Hook.held:
            Hook.held.wait()
        if not Hook.broken:
            Hook.told.append(body.split("\t"))
        self.send_response(500 if Hook.broken else 204)
        self.end_headers()

    def log_message(self, *_):
        pass


def told():
    hook = http.server.HTTPServer(("127.0.0.1", free_port()), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    server = Server()
    key = f"imap://127.0.0.1:{server.port}"
    config = {"log": "none", "connect_interval": 0.1, "fast_interval": 0.1, "backend_servers": [target(server, node="mail1")]}
    nginx = Nginx(http=f"""
  lua_shared_dict backend_events 64k;
  init_by_lua_block {{ require("nauthilus_backend").configure({lua(config)}) }}
  init_worker_by_lua_block {{
    require("nauthilus_backend").start()
    require("events").tell("127.0.0.1", {hook.server_port}, "/hook")
  }}
""", server="""
    location /set { content_by_lua_block { require("nauthilus_backend").set_target_state("node:mail1", "drain", { by = "ann" }) } }
    location /unset { content_by_lua_block { require("nauthilus_backend").set_target_state("node:mail1", "auto") } }
""", workers=2, level="notice")
    example = (ROOT / "examples/openresty/events.lua").read_text()
    assert "settimeouts(2000, 2000, 2000)" in example, "the timeouts of events.lua"
    # An answer that came too late on a busy machine makes nginx send the event once more.
    nginx.lua("events", example.replace("(2000, 2000, 2000)", "(60000, 60000, 60000)"))
    nginx.start()

    def of(kind):
        return [one[1:] for one in Hook.told if one[0] == kind]

    with test("a webhook hears of a verdict and of what an operator sets, once each"):
        until(lambda: of("verdict") == [[key, "unknown -> alive", "", ""]], 60, "the first verdict")
        server.down()
        until(lambda: len(of("verdict")) == 2, 60, "the second verdict")
        equal(of("verdict")[1][:2], [key, "alive -> dead"], "verdict")
        nginx.get("/set")
        until(lambda: of("operator") == [["node:mail1", "auto -> drain", "", "ann"]], 60, "the operator's setting")
    with test("what a broken webhook was not told, it hears later"):
        Hook.broken = True
        server.up()
        until(lambda: "cannot tell of an event" in nginx.log(), 60, "a refusal")
        Hook.broken = False
        until(lambda: len(of("verdict")) == 3, 60, "the verdict")
    with test("a worker that takes over goes on where the last one was"):
        # Only now the number of the event is stored, from which the next worker continues.
        until(lambda: nginx.log().count("told: verdict") == 3, 60, "the log")
        workers = nginx.workers()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(set(nginx.workers()) - set(workers)) == 2, 60, "new workers")
        server.down()
        until(lambda: len(of("verdict")) == 4, 60, "the verdict")
        equal(len({tuple(one) for one in of("operator")}), len(of("operator")), "told once")
        equal([one[1] for one in of("verdict")],
              ["unknown -> alive", "alive -> dead", "dead -> alive", "alive -> dead"], "verdicts in order")
        assert "told: verdict" in nginx.log()
    with test("a worker that ends while the webhook thinks does so in silence"):
        Hook.held = threading.Event()
        arrivals = Hook.arrivals
        nginx.get("/unset")
        until(lambda: Hook.arrivals > arrivals, 60, "an event that is being sent")
        workers = nginx.workers()
        os.kill(nginx.master(), signal.SIGHUP)
        until(lambda: nginx.log().count("gracefully shutting down") == len(workers), 60, "the reload")
        Hook.held.set()
        until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), 60, "the end of the old workers")
        assert "process exiting" not in nginx.log(), nginx.log()[-2000:]
    nginx.assert_clean(allowed="exited on signal 9")
    nginx.stop()
    hook.shutdown()


run_tests(told)
