"""Where a study's pictures come from: a protocol that rendered and found pictures follow."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from analysers.intake.references import References
from analysers.runs.events import Event
from analysers.study import Evidence, Kind, RunRecord, Score

C = TypeVar("C")
Tell = Callable[[Event], object]


@dataclass(frozen=True)
class Shot(Generic[C]):
    """A picture that is ready to be measured, or why there is none (`image` is None then).

    `fresh` says that it was painted just now; `degrade`, that copies of it are degraded to see
    whether the ranked metric notices. `content` and `others` are for metrics that ask the base
    model: the prompt without trigger words, and what the picture might show instead (`Sample`).
    """

    cell: C
    image: Path | None = None
    control: Path | None = None
    prompt: str = ""
    reason: str = ""
    fresh: bool = False
    degrade: bool = False
    content: str = ""
    others: tuple[str, ...] = ()


class Source(Protocol[C]):
    """What there is to score, and how it comes by its pictures.

    `cells` are all in the order of the rows, `probes` more that are no part of the comparison
    (without the trigger word); `references` are training pictures, and such that were kept back.
    `rendering` says whether pictures are painted (then
    `renderer` is what paints them), `busy` whether that keeps the cores of
    this machine busy.
    """

    @property
    def kind(self) -> Kind: ...

    @property
    def title(self) -> str: ...

    @property
    def out(self) -> Path: ...

    @property
    def cells(self) -> Sequence[C]: ...

    @property
    def probes(self) -> Sequence[C]: ...

    @property
    def references(self) -> tuple[References, References]: ...

    @property
    def warnings(self) -> Sequence[str]: ...

    @property
    def rendering(self) -> bool: ...

    @property
    def renderer(self) -> Any: ...

    @property
    def warm_up(self) -> int: ...

    @property
    def busy(self) -> bool: ...

    def row(self, cell: C) -> Score:
        """The cell's row, without values."""
        ...

    def pictures(self, cells: Sequence[C], stopped: Callable[[], bool]) -> Iterator[Shot[C]]:
        """A shot for each cell, in any order; fewer only once `stopped` says yes."""
        ...

    def evidence(self, tell: Tell) -> Evidence:
        """What argues for and against the answer beside the scores; asked once, at the end."""
        ...

    def record(self) -> RunRecord:
        """Where the pictures came from; the rest of it is left open."""
        ...


def versions() -> dict[str, str]:
    """Versions of what measures and decides."""
    found = {"python": platform.python_version()}
    for name in ("lora-analysers", "numpy", "scipy", "pillow", "piq"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def relative(path: Path | None, out: Path) -> str:
    """A path as rows hold it: relative to the run folder where it lies inside, else absolute."""
    if path is None:
        return ""
    real = os.path.realpath(path)  # which follows no link round in a circle
    try:
        return Path(real).relative_to(os.path.realpath(out)).as_posix()
    except ValueError:
        return Path(real).as_posix()
