"""Compare the results in `results/` with the last ones: what got faster, what slower, by how much.

    python benchmarks/compare.py [name ...]

A result `render-demo-cpu-2026-11-22.json` is compared with the newest earlier one of the same name;
one that was overwritten or never dated, with the committed file. Names may be cut: `render-demo`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
DATE = re.compile(r"-\d{4}-\d\d-\d\d$")
TELLING = 0.02  # smaller changes are not listed


def numbers(found: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a result with its place; settings and single rounds are no results."""
    if isinstance(found, dict):
        for key, value in found.items():
            if key not in ("settings", "rounds", "device", "versions"):
                yield from numbers(value, f"{place}/{key}")
    elif isinstance(found, list):
        for i, value in enumerate(found):
            row = value if isinstance(value, dict) else {}
            name = row.get("contestant") or row.get("picture") or ""
            yield from numbers(value, f"{place}/{i} {name}".rstrip())
    elif isinstance(found, (int, float)) and not isinstance(found, bool):
        yield place, float(found)


def committed(path: Path) -> Any:
    """The file as the last commit has it; None where it has none."""
    shown = subprocess.run(
        ["git", "show", f"HEAD:./{path.name}"], cwd=path.parent, capture_output=True, text=True
    )
    return json.loads(shown.stdout) if shown.returncode == 0 else None


def pairs(paths: list[Path]) -> Iterator[tuple[str, Any, Any]]:
    """(what is compared, before, now) for the newest file of each name."""
    names: dict[str, list[Path]] = {}
    for path in sorted(paths):
        names.setdefault(DATE.sub("", path.stem), []).append(path)
    for name, (*earlier, newest) in names.items():
        now, before = json.loads(newest.read_text(encoding="utf-8")), committed(newest)
        if earlier and before in (None, now):
            before = json.loads(earlier[-1].read_text(encoding="utf-8"))
            yield f"{name}: {earlier[-1].name} -> {newest.name}", before, now
        else:
            yield f"{name}: committed -> {newest.name}", before, now


def compare(before: Any, now: Any) -> list[str]:
    """One line for each number that moved by more than 2 %, and what cannot be compared."""
    if before is None:
        return ["nothing to compare with"]
    said = []
    for key in ("device", "versions", "settings"):
        if before.get(key) != now.get(key):
            said.append(f"not the same {key}: {before.get(key)} -> {now.get(key)}")
    old = dict(numbers(before))
    for place, value in numbers(now):
        was = old.get(place)
        if was is not None and abs(value - was) > TELLING * max(abs(was), 1e-9):
            ratio = f"x {value / was:.2f}" if was else "from nothing"
            said.append(f"{place}: {was:.4g} -> {value:.4g} ({ratio})")
    return said or ["as before"]


if __name__ == "__main__":
    wanted = sys.argv[1:] or [""]
    paths = [p for p in RESULTS.glob("*.json") if any(p.name.startswith(w) for w in wanted)]
    for what, before, now in pairs(paths):
        print(what)
        for line in compare(before, now):
            print(f"    {line}")
