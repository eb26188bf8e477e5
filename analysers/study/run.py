"""What a study was made from and with: run.json, which study.json holds as well.

Both are written from `RunRecord`, and study.json is read back into it. History of the format:
1 = first release; keys that were added since may be missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from generation.cells import ModelRecord
from generation.records import Sparse, plain

RUN_FORMAT = 1


@dataclass(frozen=True)
class Rendered:
    """How many pictures with a LoRA and how many controls were painted just now, in how many
    seconds; `kept` lay there already."""

    pictures: int
    controls: int
    kept: int
    seconds: float


@dataclass(frozen=True)
class LoraRecord:
    """A LoRA file under study; `sha256` is that of the whole file."""

    file: str
    sha256: str
    format: str
    family: str | None = None
    rank: int | None = None
    epoch: int | None = None
    step: int | None = None


@dataclass(frozen=True)
class InputRecord:
    """A picture that is edited: the SHA-256 of its pixels, its file, and its copy's name in the run
    folder."""

    sha256: str
    path: str
    copy: str


@dataclass(frozen=True)
class CaseRecord(Sparse):
    """A case as it was rendered."""

    prompt: str
    seed: int
    negative: str = ""
    name: str = ""
    picture: InputRecord | None = None


@dataclass(frozen=True)
class RunRecord(Sparse):
    """What was actually used; None where it does not apply or an older file does not say.

    `request` is what was asked (`analysers.runs.request`), `seconds` how long all of it took.
    Rendered studies say what was `rendered`, by which `model` or by which other `renderer`
    (`RendererRecord`), with which `settings` as far as they are known, from which files and cases,
    at which `strengths` (decimal);
    studies of found `pictures` have their paths. `versions` are of what measures and decides.
    """

    format: int | None = None
    command: tuple[str, ...] | None = None
    request: Mapping[str, Any] | None = None
    seconds: float | None = None
    rendered: Rendered | None = None
    model: ModelRecord | None = None
    settings: Mapping[str, Any] | None = None
    renderer: Mapping[str, Any] | None = None
    loras: tuple[LoraRecord, ...] | None = None
    cases: tuple[CaseRecord, ...] | None = None
    strengths: tuple[str, ...] | None = None
    pictures: tuple[str, ...] | None = None
    versions: Mapping[str, str] | None = None

    def to_json(self) -> str:
        """run.json."""
        return json.dumps(plain(self), indent=1, allow_nan=False) + "\n"
