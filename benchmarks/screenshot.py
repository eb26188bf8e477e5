"""Photograph a report in headless Chromium, for the README and for looking at it.

    python benchmarks/screenshot.py runs/demo-strength/report.html docs/report.jpg --height 900
    python benchmarks/screenshot.py runs/my/report.html phone.png --width 390 --height 844 --dark
    python benchmarks/screenshot.py runs/my/report.html grid.png --at pictures

Needs Chromium and its driver (Debian: chromium, chromium-driver) and selenium.
"""

from __future__ import annotations

import argparse
import base64
import time
from pathlib import Path

from machine import browser


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--at", default="answer", help="the section at the top, such as pictures")
    parser.add_argument("--viewer", action="store_true", help="open the viewer on the first pair")
    o = parser.parse_args()

    with browser("--hide-scrollbars") as driver:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if o.dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": o.width, "height": o.height, "deviceScaleFactor": 1, "mobile": False},
        )
        driver.get(o.report.resolve().as_uri())
        time.sleep(1)
        if o.at != "answer":
            driver.execute_script(
                "document.getElementById(arguments[0]).scrollIntoView({behavior: 'instant'})",
                o.at,
            )
        if o.viewer:
            driver.execute_script("document.querySelector('.open').click()")
        time.sleep(1)
        jpeg = o.picture.suffix in (".jpg", ".jpeg")
        how = {"format": "jpeg", "quality": 88} if jpeg else {"format": "png"}
        shot = driver.execute_cdp_cmd("Page.captureScreenshot", how)
        o.picture.write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    main()
