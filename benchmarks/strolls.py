"""Three strolls through the code: which files a strength, a metric's value and a LoRA file pass.

    python benchmarks/strolls.py [TREE]

A strength study of the demo model runs for real, profiled. A file is passed where one of its
functions is given the thing, or gives it back: itself, or in records and collections at most three
levels deep (in `self` one level). The files are listed in the order in which the thing meets them.
TREE is another checkout of this repository, older ones included.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from decimal import Decimal
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

TREE = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
ROOMS = ("generation", "analysers", "reports")
LEVELS, ELEMENTS = 3, 40
Test = Callable[[Any], bool]


def holds(value: Any, test: Test, levels: int) -> bool:
    """Whether the value passes the test, or holds something at most `levels` deep that does."""
    if test(value):
        return True
    if levels == 0:
        return False
    if is_dataclass(value) and not isinstance(value, type):
        parts = [getattr(value, f.name, None) for f in fields(value)]
    elif isinstance(value, dict):
        parts = [*value.keys(), *value.values()][: 2 * ELEMENTS]
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = list(value)[:ELEMENTS]
    else:
        return False
    return any(holds(part, test, levels - 1) for part in parts)


class Stroll:
    """The files that are passed, as a profiling function sees them."""

    def __init__(self, tests: dict[str, Test]) -> None:
        self.tests = tests
        self.passed: dict[str, dict[str, str]] = {name: {} for name in tests}
        self._known: dict[CodeType, str] = {}

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        where = self._known.get(code)
        if where is None:
            path = Path(code.co_filename)
            inside = path.is_relative_to(TREE) and path.relative_to(TREE).parts[0] in ROOMS
            where = path.relative_to(TREE).as_posix() if inside else ""
            self._known[code] = where
        if not where or event not in ("call", "return"):
            return
        given = [(arg, LEVELS)]
        if event == "call":
            count = code.co_argcount + code.co_kwonlyargcount
            names = code.co_varnames[:count]
            given = [(frame.f_locals.get(n), 1 if n == "self" else LEVELS) for n in names]
        for name, test in self.tests.items():
            if where not in self.passed[name] and any(holds(v, test, n) for v, n in given):
                self.passed[name][where] = code.co_name


def study(out: Path) -> None:
    """The study that is walked through: one LoRA at two strengths, one prompt."""
    try:
        from analysers.commands.main import analyse_strength
    except ImportError:  # the first release
        from analysers.cli import analyse_strength  # type: ignore[import-not-found, no-redef]
    lora = TREE / "sample_data" / "lora" / "pstr-000003.safetensors"
    options = ["--model", str(TREE / "sample_data" / "model"), "--prompt", "a red house"]
    options += ["--seeds", "1", "--strengths", "0.6,1.1", "--steps", "1", "--device", "cpu"]
    with suppress(SystemExit):
        analyse_strength([str(lora), *options, "--out", str(out), "--quiet"])


def walk(out: Path, tests: dict[str, Test]) -> Stroll:
    stroll = Stroll(tests)
    threading.setprofile(stroll)
    sys.setprofile(stroll)
    try:
        study(out)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return stroll


def main() -> None:
    sys.path.insert(0, str(TREE))
    with tempfile.TemporaryDirectory() as folder:
        study(Path(folder, "first"))
        from analysers.study import from_json

        first = from_json(Path(folder, "first", "study.json").read_text(encoding="utf-8"))
        value = next(s.values["brisque"] for s in first.scores if s.candidate is not None)
        tests: dict[str, Test] = {
            "a strength": lambda one: isinstance(one, Decimal) and one == Decimal("0.6"),
            "a metric's value": lambda one: isinstance(one, float) and one == value,
            "a LoRA file": lambda one: (
                isinstance(one, Path) and one.name == "pstr-000003.safetensors"
            ),
        }
        stroll = walk(Path(folder, "second"), tests)
    for name, files in stroll.passed.items():
        print(f"{name}: {len(files)} files")
        for place, function in files.items():
            print(f"    {place} ({function})")


if __name__ == "__main__":
    main()
