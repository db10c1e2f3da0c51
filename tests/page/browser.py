"""A headless Chromium for the tests of the status page."""

import atexit
import contextlib
import shutil

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

# Counts what the browser refuses because of the Content-Security-Policy.
WATCH = """
window.refused = [];
document.addEventListener("securitypolicyviolation", (event) => window.refused.push(event.violatedDirective));
"""


def chromium(width=1280, height=900, dark=False, script=True):
    """A browser that resolves no name and so reaches nothing but 127.0.0.1."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("chromium-browser")
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
    atexit.register(_quit, browser)
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    browser.set_page_load_timeout(60)
    size(browser, width, height)
    colours(browser, dark)
    return browser


def _quit(browser):
    with contextlib.suppress(Exception):
        browser.quit()


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

