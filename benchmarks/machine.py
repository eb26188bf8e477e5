"""The machine that a benchmark runs on: its processor's name, and its headless browser."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cpu_name() -> str:
    """The processor's name and how many of its cores are seen."""
    return f"{processor()}, {os.cpu_count()} cores seen"


def device_name(device: str) -> str:
    """The name of the GPU where `device` is one, else the processor's."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    return cpu_name()


def rewrite(page: Path, script: str, text: str) -> None:
    """Put the text into a page of the docs, between the comments that name the script."""
    begin, end = f"<!-- benchmarks/{script} -->\n", "<!-- end -->\n"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    if not found or end not in rest:
        sys.exit(f"{page} has no place for {script}: {begin.strip()} ... {end.strip()}")
    after = rest[rest.index(end) :]
    page.write_text(before + begin + text.rstrip() + "\n" + after, encoding="utf-8")


@contextmanager
def browser(*flags: str) -> Iterator[Any]:
    """A selenium driver of a fresh headless Chromium, which is closed in the end."""
    from selenium import webdriver

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if not chromium or not chromedriver:
        sys.exit("Chromium and its driver are needed: apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
                     "--disable-background-networking", f"--user-data-dir={profile}",
                     *flags):  # fmt: skip
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
        try:
            yield driver
        finally:
            driver.quit()
