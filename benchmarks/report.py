"""How long the report takes to write, how large it is, and how it behaves in a browser.

    python benchmarks/report.py             # 40 settings x 50 cases, then 10,000 cells
    python benchmarks/report.py --small     # a tenth of each, to see that it runs
    python benchmarks/report.py --write     # and puts the figures into docs/report.md

Pictures are 512x512 PNG made from scikit-image's photographs. Browser figures need Chromium and its
driver (Debian: chromium, chromium-driver) and selenium. Prints a Markdown table.

"first content" is the browser's first contentful paint, "interactive" the moment at which the
page's script has built the grid, both from the start of navigation; "memory" is the proportional
set size of the tab's process after scrolling through the whole grid; "blank" counts the points in
the grid's view, sampled two frames after each jump by a page, that lie on no cell, and "undecoded"
the cells in view whose picture had not been decoded yet at such a frame.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from machine import browser, cpu_name, rewrite
from PIL import Image, ImageEnhance
from skimage import data

from analysers.study import Candidate, Interval, Score, Sentence, Study, Summary, Verdict
from reports import html, tables

DOCS = Path(__file__).resolve().parents[1] / "docs" / "report.md"

SCROLL = """
const [done] = [arguments[0]];
const grid = document.getElementById('grid');
grid.scrollIntoView({behavior: 'instant'});
let blank = 0, points = 0, undecoded = 0, cells = 0, worst = 0;
let last = performance.now();
const look = () => {
  const now = performance.now();
  worst = Math.max(worst, now - last); last = now;
  const box = grid.getBoundingClientRect();
  for (let i = 1; i < 8; i++) for (let j = 1; j < 8; j++) {
    const x = box.left + 205 + (grid.clientWidth - 215) * i / 8;
    const y = 120 + (innerHeight - 140) * j / 8;
    points++;
    const hit = document.elementFromPoint(x, y);
    if (!hit || !hit.closest('.cell')) blank++;
  }
  for (const image of grid.querySelectorAll('.cell img')) {
    const r = image.getBoundingClientRect();
    if (r.bottom > 110 && r.top < innerHeight && r.right > box.left && r.left < box.right) {
      cells++; if (!(image.complete && image.naturalWidth)) undecoded++;
    }
  }
};
(async () => {
  const wait = (ms) => new Promise((r) => setTimeout(r, ms));
  const frame = () => new Promise((r) => requestAnimationFrame(r));
  const scroller = grid.querySelector('.scroller'), start = scrollY;
  for (let x = 0; x <= scroller.scrollWidth; x += Math.max(1, scroller.scrollWidth / 3)) {
    scroller.scrollLeft = x;
    for (let y = 0; y + innerHeight < grid.offsetHeight; y += innerHeight - 110) {
      scrollTo({top: start + y, behavior: 'instant'});
      await frame(); await frame(); look();
      await wait(50);
    }
  }
  done({blank, points, undecoded, cells, worst});
})();
"""


def build(folder: Path, settings: int, cases: int, distinct: int) -> Study:
    """A study of settings x cases with `distinct` different pictures per setting."""
    photographs = [
        Image.fromarray(np.asarray(picture)).convert("RGB").resize((512, 512))
        for picture in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())
    ]
    candidates = [Candidate("bench.safetensors", strength=Decimal(i) / 20) for i in range(settings)]
    scores = []
    for i, candidate in enumerate([None, *candidates]):
        for k in range(cases):
            path = f"images/{i:03d}/{k % distinct:03d}.png"
            if k < distinct:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                turned = photographs[k % 4].rotate(90 * (k // 4 % 4))
                picture = ImageEnhance.Color(turned).enhance(1 + i / settings)
                picture.save(folder / path, compress_level=1)
            control = f"images/000/{k % distinct:03d}.png"
            values = {
                "ssim": 1 - 0.6 * i / settings,
                "brisque": 25 + 10 * (i / settings - 0.4) ** 2 + math.sin(k),
            }
            scores.append(
                Score(candidate, f"p{k:03d}", f"prompt number {k}", k, path, control, values)
            )
    summaries = tuple(
        Summary(
            c,
            i + 1,
            cases,
            {"brisque": Interval(25 + i / 10, 24.0, 30.0), "ssim": Interval(1 - i / 100, 0.2, 1)},
            best=i == 0,
            contender=i < 5,
            safe=i < settings // 2,
            beyond=i >= settings // 2,
        )
        for i, c in enumerate(candidates)
    )
    answer = Sentence("answer", "use", "Use 0.0: a constructed study.", (candidates[0],))
    verdict = Verdict(candidates[0], candidates[0], sentences=(answer,))
    return Study(
        "strength", "bench", "brisque", "lower", ("ssim", "brisque"), tuple(scores), summaries,
        verdict,
    )  # fmt: skip


def browse(path: Path) -> dict[str, Any]:
    """Timings, memory and scrolling of one page in a fresh headless browser."""
    with browser("--window-size=1400,900") as driver:
        driver.set_script_timeout(300)
        driver.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument",
            {
                "source": "new MutationObserver(() => { if (document.documentElement?.dataset."
                "ready && !window.readyAt) window.readyAt = performance.now(); })"
                ".observe(document, {subtree: true, attributes: true, childList: true});"
            },
        )
        driver.get(path.as_uri())
        end = time.monotonic() + 60
        while driver.execute_script("return window.readyAt") is None and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(1)
        figures = {
            "interactive": driver.execute_script("return window.readyAt"),
            "first content": driver.execute_script(
                "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
            ),
        }
        figures.update(driver.execute_async_script(SCROLL))
        figures["memory"] = _tab_memory(driver.service.process.pid)
        figures["version"] = driver.capabilities["browserVersion"].partition(".")[0]
        return figures


def _tab_memory(root: int) -> float:
    """MB (PSS) of the largest renderer process below `root` (Linux; NaN elsewhere)."""
    best = math.nan
    children = {root}
    for _ in range(6):
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(status.read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            if parent in children:
                children.add(int(status.parent.name))
    for pid in children:
        try:
            if b"--type=renderer" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                continue
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        size = next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000
        best = size if math.isnan(best) else max(best, size)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a tenth of the pictures")
    parser.add_argument(
        "--write", type=Path, nargs="?", const=DOCS, metavar="PAGE",
        help="put the figures into this page [docs/report.md]",
    )  # fmt: skip
    o = parser.parse_args()
    heads = (
        "study", "file", "write (s)", "processor (s)", "size (MB)", "first content (s)",
        "interactive (s)", "memory (MB)", "blank", "undecoded", "longest frame gap (ms)",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    print("\n".join(lines), flush=True)
    sizes = [(40, 50, 50), (100, 100, 8)] if not o.small else [(10, 20, 20), (32, 32, 4)]
    for settings, cases, distinct in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            study = build(folder, settings, cases, distinct)
            tables.write_tables(study, folder)
            for single in (False, True):
                start, busy = time.perf_counter(), _processor_time()
                path = html.write_report(study, folder, single_file=single)
                seconds, busy = time.perf_counter() - start, _processor_time() - busy
                size = path.stat().st_size / 1e6
                seen = browse(path)
                row = (
                    f"{settings} x {cases}",
                    "single" if single else "linked",
                    f"{seconds:.1f}",
                    f"{busy:.1f}",
                    f"{size:.1f}",
                    f"{seen['first content'] / 1000:.2f}",
                    f"{seen['interactive'] / 1000:.2f}",
                    f"{seen['memory']:.0f}",
                    f"{seen['blank']} of {seen['points']}",
                    f"{seen['undecoded']} of {seen['cells']}",
                    f"{seen['worst']:.0f}",
                )
                lines.append("| " + " | ".join(row) + " |")
                print(lines[-1], flush=True)
    where = (
        f"`python benchmarks/report.py`, {datetime.date.today()}, {cpu_name()}, "
        f"Chromium {seen['version']} headless with software rendering, 512x512 PNG:"
    )
    print(f"\n{where}")
    if o.write:
        rewrite(o.write, "report.py", "\n".join([where, "", *lines]))


def _processor_time() -> float:
    """Seconds of this process and of those that it started and waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
