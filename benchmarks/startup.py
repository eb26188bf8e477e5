"""What the programs cost beside the rendering, in two checkouts that take turns.

    python benchmarks/startup.py BEFORE [AFTER] [--rounds 5] [--no-demo] [--clock]

BEFORE and AFTER (this checkout) are folders with an installed `.venv`. Four things are timed, in
processor time (user and system, children included), on one core with one thread; with --clock, as
somebody waits for them, on all cores, and the whole demo beside them:

- `--help`;
- 40 found pairs: four of scikit-image's pictures at 512x512 with noise that grows over ten
  strengths, and their controls;
- the demo up to its first picture: reading what is named, importing torch and diffusers, opening
  the model and painting the first batch;
- the demo once more in its run folder: all pictures and measurements are there, and what is left is
  reading, deciding and writing the report.

The least of the rounds counts; results are written to benchmarks/results/startup.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
from machine import processor
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from skimage import data
from skimage.transform import resize

RESULTS = Path(__file__).with_name("results")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
STRENGTHS = ("", "0.2", "0.4", "0.6", "0.8", "1.0", "1.2", "1.4", "1.6", "1.8", "2.0")


def write_pairs(folder: Path) -> None:
    """44 pictures as A1111 saves them; "" is the control."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    sources = (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())
    for number, source in enumerate(sources):
        picture = (resize(source, (512, 512), anti_aliasing=True) * 255).astype(np.uint8)
        for place, strength in enumerate(STRENGTHS):
            noise = rng.normal(0, 12 * float(strength or 0), picture.shape)
            noisy = np.clip(picture + noise, 0, 255).astype(np.uint8)
            tag = f"<lora:my:{strength}> " if strength else ""
            told = PngInfo()
            told.add_text(
                "parameters",
                f"picture {number} {tag}\nSteps: 20, Sampler: Euler a, CFG scale: 7, "
                f"Seed: {number + 1}, Size: 512x512, Model hash: abcdef0123, Model: base",
            )
            Image.fromarray(noisy).save(folder / f"{number:02d}_{place:02d}.png", pnginfo=told)


def seconds(
    tree: Path, arguments: Sequence[str], pictures: Path | None = None, clock: bool = False
) -> float:
    """Seconds of a run, of the processor or by the clock; where `pictures` is given, up to the
    first picture in it."""
    command = [str(tree / ".venv" / "bin" / "analyse-strength"), *arguments]
    if shutil.which("taskset") and not clock:
        command = ["taskset", "-c", "0", *command]
    environment = {**os.environ, **({} if clock else ONE_THREAD)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled
    begun = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if pictures:
        while not any(pictures.rglob("*.png")):
            time.sleep(0.02)
        whole = psutil.Process(child.pid)
        each = [whole, *whole.children(recursive=True)]
        used_by = sum(sum(process.cpu_times()[:2]) for process in each)
        if clock:
            used_by = time.perf_counter() - begun
        for process in each:
            process.kill()
        child.wait()
        return used_by
    _, status, used = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - begun if clock else used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="?", default=Path(__file__).parent.parent)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-demo", action="store_true", help="which takes a minute to render")
    parser.add_argument("--clock", action="store_true", help="by the clock, on all cores")
    asked = parser.parse_args()
    trees = (asked.before.resolve(), asked.after.resolve())
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_pairs(root / "pairs")
        found: dict[str, list[list[float]]] = {}
        for number in range(asked.rounds + 1):
            for side, tree in enumerate(trees):
                pairs, demo = root / f"pairs{side}", root / f"demo{side}"
                begun, whole = root / f"begun{side}", root / f"whole{side}"
                for folder in (pairs, begun, whole):
                    shutil.rmtree(folder, ignore_errors=True)
                for name, arguments in (
                    ("`--help`", ["--help"]),
                    ("40 found pairs", ["--images", str(root / "pairs"), "--out", str(pairs)]),
                    ("the demo to its first picture", ["--demo", "--out", str(begun)]),
                    ("the whole demo", ["--demo", "--out", str(whole)]),
                    ("the demo once more", ["--demo", "--out", str(demo)]),
                ):
                    if asked.no_demo and "demo" in name or "whole" in name and not asked.clock:
                        continue
                    until = begun / "images" if "first" in name else None
                    used = seconds(tree, arguments, until, asked.clock)
                    if number:  # the first round renders the demo, and compiles what is imported
                        found.setdefault(name, [[], []])[side].append(used)
                    print(number, tree.name, name, f"{used:.2f} s", flush=True)
    kind = "seconds by the clock" if asked.clock else "processor seconds"
    lines = [
        "# Start-up and found pictures",
        "",
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC; {asked.rounds} rounds, the checkouts "
        f"taking turns; load of the machine {os.getloadavg()[1]:.1f}.",
        f"processor {processor()}; cores {os.cpu_count()}; python {platform.python_version()}.",
        "",
        f"| {kind}, least of the rounds (median) | before | after | ratio |",
        "|---|---|---|---|",
    ]
    for name, (before, after) in found.items():
        told = [f"{min(times):.2f} ({np.median(times):.2f})" for times in (before, after)]
        lines.append(f"| {name} | {told[0]} | {told[1]} | {min(after) / min(before):.2f} |")
    text = "\n".join(lines) + "\n"
    (RESULTS / "startup.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
