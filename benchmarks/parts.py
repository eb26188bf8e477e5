"""Where the processor's time goes with 40 found pairs, in two checkouts that take turns.

    python benchmarks/parts.py BEFORE [AFTER] [--rounds 5]

BEFORE and AFTER (this checkout) are folders with the sources; this Python runs both, on one core
with one thread. The pairs are those of startup.py. A part's own time counts, without that of parts
inside it, and the least of the rounds; results are written to benchmarks/results/parts.md. Parts
that a checkout does not have are left empty.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from machine import processor
from startup import ONE_THREAD, write_pairs

RESULTS = Path(__file__).with_name("results")

PARTS = {
    "decoding": ["analysers.measure:_read"],
    "SSIM, BRISQUE, signs": ["analysers.measure:_call"],
    "digests, thumbnails": ["analysers.measure:_known", "analysers.measure:_digest"],
    "trust check": ["analysers.trust:ladder_scores", "analysers.trust:_tau"],
    "maps, small copies": [
        "analysers.views:views",
        "reports.pictures:_write_maps",
        "reports.pictures:_views_beside",
        "reports.pictures:_small",
        "reports.pictures:data_uri",
    ],
    "deciding": ["analysers.runs.conclude:decide"],
    "drawing": ["reports.plots:hero", "reports.plots:draw_all"],
    "page": ["reports.html:render", "reports.html:write_tables"],
}
"""What is timed: part -> functions."""

_RUN = """
import builtins, importlib, json, sys, threading, time
tree, parts, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
sys.path.insert(0, tree)
spent, here = {}, threading.local()

def timed(part, function):
    def run(*arguments, **options):
        stack = here.__dict__.setdefault("stack", [])
        now = time.thread_time()
        if stack:
            spent[stack[-1][0]] = spent.get(stack[-1][0], 0.0) + now - stack[-1][1]
        stack.append([part, now])
        try:
            return function(*arguments, **options)
        finally:
            part_now, begun = stack.pop()
            now = time.thread_time()
            spent[part_now] = spent.get(part_now, 0.0) + now - begun
            if stack:
                stack[-1][1] = now
    return run

plain = builtins.__import__
def importing(name, globals=None, locals=None, fromlist=(), level=0):
    package = name.partition(".")[0]
    if name in sys.modules or level:
        return plain(name, globals, locals, fromlist, level)
    if package not in ("numpy", "scipy", "matplotlib"):
        package = "the others"
    return timed("importing " + package, plain)(name, globals, locals, fromlist, level)
builtins.__import__ = importing

def begin():
    from analysers.commands.main import analyse_strength
    for part, functions in parts.items():
        for function in functions:
            module, _, name = function.partition(":")
            try:
                holder = importlib.import_module(module)
            except ImportError:
                continue
            if hasattr(holder, name):
                wrapped, former = timed(part, getattr(holder, name)), getattr(holder, name)
                for other in list(sys.modules.values()):
                    if getattr(other, name, None) is former:
                        setattr(other, name, wrapped)
    sys.argv = ["analyse-strength", "--images", out + "/pairs", "--out", out + "/run", "--quiet"]
    analyse_strength(standalone_mode=False)

try:
    timed("the rest", begin)()
except SystemExit as end:
    if end.code:
        raise
spent["all"] = time.process_time()
print(json.dumps(spent))
"""


def spent(tree: Path, scratch: Path) -> dict[str, float]:
    """Processor seconds of each part of one run."""
    shutil.rmtree(scratch / "run", ignore_errors=True)
    command = [sys.executable, "-c", _RUN, str(tree), json.dumps(PARTS), str(scratch)]
    if shutil.which("taskset"):
        command = ["taskset", "-c", "0", *command]
    environment = {**os.environ, **ONE_THREAD, "PYTHONPYCACHEPREFIX": str(scratch / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    ran = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(ran.stderr)
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="?", default=Path(__file__).parent.parent)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    trees = (asked.before.resolve(), asked.after.resolve())
    least: list[dict[str, float]] = [{}, {}]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        write_pairs(scratch / "pairs")
        for number in range(asked.rounds + 1):
            for side, tree in enumerate(trees):
                found = spent(tree, scratch)
                print(number, tree.name, f"{found['all']:.2f} s", flush=True)
                if number:  # the first round compiles what is imported
                    for part, seconds in found.items():
                        least[side][part] = min(seconds, least[side].get(part, seconds))
    lines = [
        "# Where the time goes with 40 found pairs",
        "",
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC; {asked.rounds} rounds, the checkouts "
        f"taking turns; load of the machine {os.getloadavg()[1]:.1f}.",
        f"processor {processor()}; cores {os.cpu_count()}; python {platform.python_version()}.",
        "",
        "| processor seconds, least of the rounds | before | after |",
        "|---|---|---|",
    ]
    parts = sorted(set(least[0]) | set(least[1]), key=lambda part: -least[1].get(part, 0.0))
    for part in [part for part in parts if part != "all"] + ["all"]:
        told = [f"{side[part]:.2f}" if part in side else "" for side in least]
        lines.append(f"| {part} | {told[0]} | {told[1]} |")
    text = "\n".join(lines) + "\n"
    (RESULTS / "parts.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
