"""A real browser without a window, for tests of pages: headless Chromium, driven by Selenium.

Debian's packages are ``chromium`` and ``chromium-driver``. Tests that ask for the fixture ``browser`` are skipped where
either is missing.
"""

import base64
import contextlib
import json
import shutil
import time
from pathlib import Path

import pytest

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
)
_LOCAL = ("file:", "data:", "blob:", "about:", "chrome:", "devtools:")


class Browser:
    """One window. What the console says and what is fetched is kept from `open` on.

    Args:
        folder: for the browser's own files.
    """

    def __init__(self, folder: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = _find(_BROWSERS)
        for flag in (*_FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1280,900"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self._requests, self._errors = [], []
        self.driver = webdriver.Chrome(options=options, service=Service(_find(("chromedriver",))))

    def open(self, path, *, scheme="light", width=1280, height=900):
        """Shows a file, in a window of a size in px, to someone who likes pages "light" or "dark"."""
        self.set_look(scheme=scheme, width=width, height=height)
        self._read_logs()  # of the page before
        self._requests, self._errors = [], []
        self.driver.get(Path(path).resolve().as_uri())
        if self.run("return document.querySelectorAll('script[data-plot]').length"):
            self.wait("return document.documentElement.dataset.plots === 'drawn'")

    def set_look(self, *, scheme="light", width=1280, height=900, media=""):
        # Without smooth scrolling: what moves cannot be clicked.
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self._call("Emulation.setEmulatedMedia", features=features, media=media)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def run(self, script, *arguments):
        """Runs JavaScript in the page; ``return`` gives its value."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, script, *, seconds=60):
        """Waits until a script's value is true and returns it."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"not true after {seconds} s: {script}")
            time.sleep(0.02)
        return value

    def find(self, selector):
        """The elements that a CSS selector names."""
        return self.driver.find_elements("css selector", selector)

    def read(self, selector):
        """The text of each of them as a person sees it."""
        return [element.text for element in self.find(selector)]

    def press(self, *keys):
        """Presses keys: names of `selenium.webdriver.common.keys.Keys`, or letters."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        ActionChains(self.driver).send_keys(*(getattr(Keys, key, key) for key in keys)).perform()

    def click_at(self, x, y):
        """Clicks at a place of the window, in px from its upper left corner."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def check(self):
        """Nothing was complained about, and nothing was fetched from outside, since the page was opened."""
        self._read_logs()
        assert self._errors == []
        assert [url for url in self._requests if not url.startswith(_LOCAL)] == []

    def save_picture(self, path):
        """A PNG of the whole page."""
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        found = self._call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        Path(path).write_bytes(base64.b64decode(found["data"]))

    def save_print(self, path):
        """A PDF as the page is printed."""
        found = self._call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        Path(path).write_bytes(base64.b64decode(found["data"]))

    def close(self):
        self.driver.quit()

    def _call(self, command, **arguments):
        return self.driver.execute_cdp_cmd(command, arguments)

    def _read_logs(self):
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._requests.append(message["params"]["request"]["url"])
        self._errors += [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]


def _find(names):
    return next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A `Browser`; after each page call its `check`."""
    pytest.importorskip("selenium")
    if not (_find(_BROWSERS) and _find(("chromedriver",))):
        pytest.skip("chromium and chromedriver are not here (Debian's packages: chromium, chromium-driver)")
    with contextlib.closing(Browser(tmp_path_factory.mktemp("browser"))) as opened:
        yield opened
