"""A real headless Chromium for tests.

Needs Chromium with its driver, and axe-core (`npm install --no-save axe-core`, or its path in
AXE_CORE). Without them the tests are skipped on a developer's machine and fail where CI is set.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def missing(what: str) -> Any:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


class Page:
    """A browser tab with the few gestures that the tests need."""

    def __init__(self, driver: Any, downloads: Path) -> None:
        self.driver = driver
        self.downloads = downloads

    own = ""
    """The address that requests may go to."""

    def open(
        self, path: Path | str, *, width: int = 1280, height: int = 860, script: bool = True,
        **media: str,
    ) -> Page:  # fmt: skip
        """A file, or an address; `script` waits for that of the page."""
        features = [{"name": k.replace("_", "-"), "value": v} for k, v in media.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.resize(width, height)
        self.driver.get(path if isinstance(path, str) else path.as_uri())
        if script:
            self.wait("document.documentElement.dataset.ready === 'yes'")
        return self

    def resize(self, width: int, height: int = 860) -> None:
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script("return " + code, *arguments)

    def wait(self, condition: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not self.js(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never became true: {condition}"
            time.sleep(0.02)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def click(self, selector: str) -> None:
        """Once it is there: what scrolls into sight is drawn a frame later."""
        self.wait(f"document.querySelector({json.dumps(selector)})")
        self.js(
            "document.querySelector(arguments[0])"
            ".scrollIntoView({behavior: 'instant', block: 'center'})",
            selector,
        )
        self.find(selector).click()

    def choose(self, selector: str, value: str) -> None:
        from selenium.webdriver.support.ui import Select

        Select(self.find(selector)).select_by_value(value)

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        for key in keys:
            *held, last = key
            chain = ActionChains(self.driver)
            for modifier in held:
                chain.key_down(modifier)
            chain.send_keys(last)
            for modifier in held:
                chain.key_up(modifier)
            chain.perform()

    def tab_to(self, selector: str, most: int = 120) -> None:
        """Press Tab until the focus is there, and can be seen to be."""
        here = "document.activeElement.matches(arguments[0])"
        for _ in range(most):
            self.press("\ue004")
            if self.js(here, selector):
                shown = self.js("getComputedStyle(document.activeElement).outlineStyle")
                assert shown != "none", f"nobody sees that the focus is on {selector}"
                return
        raise AssertionError(f"Tab never came to {selector}")

    def texts(self, selector: str) -> list[str]:
        return self.js(
            "[...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector
        )

    def columns(self) -> list[str]:
        return self.texts("#grid .track .colhead .text")

    def shot(self, selector: str) -> np.ndarray:
        picture = Image.open(io.BytesIO(self.find(selector).screenshot_as_png))
        return np.asarray(picture.convert("RGB"))

    def problems(self) -> list[str]:
        """Console errors, and requests for anything but files, data, blobs and our `own` page."""
        found = [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]
        requests = {}
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            parameters = message["params"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                url = parameters.get("url") or parameters["request"]["url"]
                own = bool(self.own) and url.startswith(self.own + "/")
                if not own and not url.startswith(("file:", "data:", "blob:")):
                    requests[parameters["requestId"]] = "request: " + url
            elif parameters.get("blockedReason") == "csp":  # announced, but never sent
                requests.pop(parameters["requestId"], None)
        return found + list(requests.values())

    def serious(self) -> list[tuple[str, ...]]:
        """What axe-core finds on the page as it is now that is serious or critical."""
        places = (os.environ.get("AXE_CORE"), ROOT / "node_modules" / "axe-core" / "axe.min.js")
        axe = next((Path(p) for p in places if p and Path(p).is_file()), None)
        if axe is None:
            missing("axe-core is missing: npm install --no-save axe-core, or set AXE_CORE")
        self.driver.execute_script(axe.read_text(encoding="utf-8"))
        result = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run(document).then(done, (e) => done(String(e)));"
        )
        assert isinstance(result, dict), result
        return [
            (v["id"], v["impact"], v["nodes"][0]["html"][:200], v["nodes"][0]["failureSummary"])
            for v in result["violations"]
            if v["impact"] in ("serious", "critical")
        ]


def start(profile: Path, downloads: Path) -> Iterator[Page]:
    """A browser; skips or fails where there is none."""
    webdriver = None
    try:
        from selenium import webdriver  # type: ignore[no-redef]
    except ImportError:
        missing("selenium is missing: pip install selenium")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    chromedriver = shutil.which("chromedriver")
    if not chromium or not chromedriver:
        missing("Chromium and its driver are missing: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()  # type: ignore[union-attr]
    options.binary_location = str(chromium)
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(  # type: ignore[union-attr]
        options=options,
        service=webdriver.ChromeService(chromedriver),  # type: ignore[union-attr]
    )
    driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
    )
    driver.set_script_timeout(120)  # axe-core on a large page, on a busy machine
    yield Page(driver, downloads)
    driver.quit()
