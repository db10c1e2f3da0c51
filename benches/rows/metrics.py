"""The metrics in an nginx worker: how long a scrape takes there, and how long it keeps the worker
from other requests."""

import http.client
import threading
import time

from lib import Row, Unmeasured, quick

FEW, MANY = 100, 10000
ROUNDS = quick(3, 20)

ROWS = [
    Row("metrics_few", f"metrics of {FEW} targets in nginx", "ms", "", at_most=2),
    Row("metrics_many", f"metrics of {MANY} targets in nginx", "ms", "", at_most=100),
    Row("metrics_delay", "longest delay of another request meanwhile", "ms", "", at_most=2),
]

INIT = """
  init_by_lua_block {{
    local targets = {{}}
    for index = 1, {count} do
      targets[index] = {{ protocol = "imap", host = ("127.%d.%d.1"):format(index / 200 + 1, index % 200), port = 1 }}
    end
    require("nauthilus_backend").configure({{
      log = "none", connect_interval = "24h", fast_interval = "24h", backend_servers = targets,
    }})
  }}
"""

SERVER = """
    location /metrics {
      content_by_lua_block {
        ngx.update_time()
        local began, bytes = ngx.now(), 0
        require("nauthilus_backend").metrics(function(piece) bytes = bytes + #piece end)
        ngx.update_time()
        ngx.print((ngx.now() - began) * 1000, " ", bytes)
      }
    }
    location /other { content_by_lua_block { ngx.print("") } }
"""


def serve(count):
    # Imported here: only this part needs what the tests of nginx need.
    from lab import Nginx  # pylint: disable=import-outside-toplevel

    return Nginx(http=INIT.format(count=count), server=SERVER).start()


def scrape(nginx):
    """Milliseconds of one scrape, and its bytes."""
    took, size = nginx.body("/metrics").split()
    return float(took), int(size)


def longest_delay(nginx):
    """Milliseconds of the slowest of the other requests during a scrape."""
    asking = threading.Thread(target=scrape, args=(nginx,))
    connection = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=20)
    slowest = 0
    asking.start()
    while asking.is_alive():
        began = time.perf_counter()
        connection.request("GET", "/other")
        connection.getresponse().read()
        slowest = max(slowest, time.perf_counter() - began)
    asking.join()
    connection.close()
    return slowest * 1000


def measure(rows):
    few, many = serve(FEW), serve(MANY)
    try:
        for nginx in (few, many):
            for _ in range(3):
                scrape(nginx)
        rows["metrics_few"].alone([scrape(few)[0] for _ in range(ROUNDS)])
        taken = [scrape(many) for _ in range(ROUNDS)]
        rows["metrics_many"].alone([took for took, _ in taken])
        rows["metrics_many"].note = f"{taken[0][1] / 1e6:.1f} MB of text"
        rows["metrics_delay"].alone([longest_delay(many) for _ in range(ROUNDS)])
    finally:
        few.close()
        many.close()
    if not taken[0][1]:
        raise Unmeasured("no metrics")
