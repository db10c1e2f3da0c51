"""A headless Chromium for the tests of the status page, and an nginx that serves the example."""

import atexit
import contextlib
import os
import shutil
import sys

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "openresty"))
from lab import ROOT, Nginx, free_port  # pylint: disable=wrong-import-position


def chromium(width=1280, height=900, dark=False, script=True):
    """A browser that resolves no name and so reaches nothing but 127.0.0.1."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--lang=en",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not script:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    atexit.register(lambda: contextlib.suppress(Exception).__enter__() or browser.quit())
    browser.set_page_load_timeout(60)
    size(browser, width, height)
    colours(browser, dark)
    return browser


def size(browser, width, height):
    """The size of the page itself; a phone's where it is narrow."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )


def colours(browser, dark):
    value = "dark" if dark else "light"
    feature = {"name": "prefers-color-scheme", "value": value}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


class Operators(Nginx):
    """nginx with examples/openresty/operators.conf; only the port is replaced."""

    def __init__(self, init, **options):
        example = (ROOT / "examples/openresty/operators.conf").read_text()
        self.page_port = free_port()
        assert "127.0.0.1:9145" in example, "9145 in operators.conf"
        example = example.replace("127.0.0.1:9145", f"127.0.0.1:{self.page_port}")
        server = """
    location /set {
      content_by_lua_block {
        local nb, args = require("nauthilus_backend"), ngx.req.get_uri_args()
        nb.set_target_state(args.what, args.state, { reason = args.reason, by = args.by })
        ngx.say("done")
      }
    }
    location /pid { content_by_lua_block { ngx.print(ngx.worker.pid()) } }
"""
        start = 'init_worker_by_lua_block { require("nauthilus_backend").start() }\n'
        super().__init__(http=init + start + example, server=server, **options)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.page_port}"
