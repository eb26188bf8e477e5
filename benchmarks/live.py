"""The live page under load: 10,000 cells at 20 a second in Chromium, and 1,000 idle connections.

    python benchmarks/live.py               # prints a Markdown table
    python benchmarks/live.py --seconds 3   # to see that it runs
    python benchmarks/live.py --write       # and puts the figures into docs/live.md

The cells are real events of 1,000 cases at 10 settings, turned into the page's log; all but the
last come at once, as after a reload, the last at 20 a second for so many seconds (30). Prints what
the tab and the server hold, frames a second with the longest between two, and how long a page takes
while idle connections lie there.
"""

from __future__ import annotations

import argparse
import datetime
import resource
import shutil
import socket
import sys
import tempfile
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

import httpx  # noqa: E402
from driving import Page, start  # noqa: E402
from machine import cpu_name, rewrite  # noqa: E402
from serving import Site  # noqa: E402

import sample_data  # noqa: E402
from analysers.runs import events  # noqa: E402
from analysers.serve.course import Board, Course  # noqa: E402
from analysers.study import Candidate, Score  # noqa: E402
from generation.folder import open_run_folder  # noqa: E402

DOCS = Path(__file__).resolve().parents[1] / "docs" / "live.md"
CASES, SETTINGS, RATE = 1000, 10, 20


class Simulated(Course):
    """A course whose events come from here; its answer is never known."""

    def __init__(self, out: Path, log: Board) -> None:
        self.out, self.log, self.study, self.state = out, log, None, "running"
        log.add(tells="state", state="running", sentence="")

    def so_far(self) -> Any:
        raise ValueError

    def stop(self) -> None:
        self.state = "stopped"

    def join(self) -> None:
        pass


def rows() -> list[Score]:
    settings = [None, *(Candidate("x", strength=Decimal(n) / 10) for n in range(1, SETTINGS))]
    return [
        Score(one, f"p{n}", f"prompt {n}", n, f"images/{n % 16}.png", "", {})
        for n in range(CASES)
        for one in settings
    ]


def idle(site: Site, number: int) -> list[tuple[str, str]]:
    """How long a page takes while so many connections lie idle, and how many are kept."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    place = ("127.0.0.1", site.server.port)
    lines = [socket.create_connection(place) for _ in range(number)]
    begin = time.perf_counter()
    assert httpx.get(f"{site.base}/live.js", cookies=dict(site.client.cookies)).status_code == 200
    took = time.perf_counter() - begin
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    open_ = sum(not one.transport.is_closing() for one in site.server.connections)
    for one in lines:
        one.close()
    return [
        (f"a page while {number:,} connections lie idle", f"{took * 1000:.0f} ms"),
        ("of these are kept", f"{open_}, for {grown:.0f} MB"),
    ]


def watch(page: Page, site: Site, seconds: float) -> list[tuple[str, str]]:
    """What 10,000 cells cost the tab and the server, and how smoothly they arrive."""
    out = site.root / "runs" / "many"
    with open_run_folder(out):
        (out / "images").mkdir()
    pictures = sorted((sample_data.PATH / "pictures").rglob("*.png")) or [_picture(site.root)]
    for n in range(16):
        shutil.copy(pictures[n % len(pictures)], out / "images" / f"{n}.png")
    scores = rows()
    board = Board(scores, "many", "strength")
    site.server.live.course = Simulated(out, board)
    last = int(seconds * RATE)

    def feed(score: Score) -> None:
        board(events.Rendered(score, fresh=True))
        board(events.Measured(score))

    for score in scores[:-last]:
        feed(score)
    page.own = site.base
    page.driver.get(site.server.address)
    begin = time.perf_counter()
    page.open(f"{site.base}/runs/many/", height=1000)
    page.wait(f"document.getElementById('bar').value === {len(scores) - last}", 60)
    reload = time.perf_counter() - begin
    page.driver.execute_script(
        "window.times = []; const tick = (t) => { times.push(t); requestAnimationFrame(tick); };"
        "requestAnimationFrame(tick);"
    )
    first = _held(page)

    def all_at_rate() -> None:
        for number, score in enumerate(scores[-last:]):
            time.sleep(max(0, begun + number / RATE - time.perf_counter()))
            feed(score)

    begun = time.perf_counter()
    thread = threading.Thread(target=all_at_rate)
    thread.start()
    thread.join()
    page.wait(f"document.getElementById('bar').value === {len(scores)}", 60)
    frames = page.js(
        "(() => { const gaps = times.slice(1).map((t, i) => t - times[i]).sort((a, b) => a - b);"
        "const all = times.at(-1) - times[0];"
        "return [gaps.length / all * 1000, gaps[Math.floor(gaps.length * .99)], gaps.at(-1)]; })()"
    )
    (before, nodes_before), (after, nodes) = first, _held(page)
    server = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        (f"{len(scores) - last:,} cells after a reload", f"{reload:.1f} s"),
        (f"{last:,} more, {RATE} a second", f"{frames[0]:.0f} frames a second"),
        ("99 in 100 frames within", f"{frames[1]:.0f} ms"),
        ("the longest", f"{frames[2]:.0f} ms"),
        ("the tab's script heap, before and after", f"{before:.1f}, {after:.1f} MB"),
        ("its nodes, before and after", f"{nodes_before}, {nodes}"),
        ("program and test together, at most", f"{server:.0f} MB"),
    ]


def _held(page: Page) -> tuple[float, int]:
    page.driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
    page.driver.execute_cdp_cmd("Performance.enable", {})
    found = page.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    values = {one["name"]: one["value"] for one in found}
    return values["JSHeapUsedSize"] / 1e6, int(values["Nodes"])


def _picture(folder: Path) -> Path:
    from PIL import Image

    path = folder / "grey.png"
    Image.effect_noise((512, 512), 60).convert("RGB").save(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument(
        "--write", type=Path, nargs="?", const=DOCS, metavar="PAGE",
        help="put the figures into this page [docs/live.md]",
    )  # fmt: skip
    o = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "loras").mkdir()
        site = Site(root)
        browser = start(root / "profile", root / "downloads")
        try:
            idled = idle(site, 1000)
            rows = [*watch(next(browser), site, o.seconds), *idled]
        finally:
            next(browser, None)
            site.end()
    where = (
        f"`python benchmarks/live.py`, {datetime.date.today()}, {cpu_name()}, Chromium headless:"
    )
    table = [where, "", "| | |", "|---|---|", *(f"| {what} | {figure} |" for what, figure in rows)]
    print("\n".join(table))
    if o.write:
        rewrite(o.write, "live.py", "\n".join(table))


if __name__ == "__main__":
    main()
