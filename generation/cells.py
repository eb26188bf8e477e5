"""What is rendered: cases, checkpoints, cells, the settings they share, and the pictures.

A *cell* is one picture: a case (prompt, negative prompt, seed) under a checkpoint at a strength.
A cell without a checkpoint is the case's *control*, shared by every candidate of the study.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from generation.records import Sparse

ENGINE = 1
"""Counts how the engine paints and reads prompts: to be raised when the same cell would come out
otherwise, so that no folder mixes pictures of two kinds."""


@dataclass(frozen=True)
class InputPicture:
    """A picture that is to be edited: the SHA-256 of its pixels, which says which it is, and its
    file."""

    sha256: str
    path: Path = field(compare=False)


@dataclass(frozen=True)
class Case:
    """One prompt with one seed, and so one starting noise; for a model that edits, one picture too.

    `name` (such as "p00_s1") labels files and rows; it does not enter the content key.
    """

    prompt: str
    seed: int
    negative: str = ""
    name: str = ""
    picture: InputPicture | None = None


@dataclass(frozen=True)
class Checkpoint:
    """One LoRA file with its place in training.

    `name` is unlike all others of its study: the file's stem, or the folder's that trainers put it
    in ("checkpoint-500"), with folders above where two would share it. `position_source` says where
    the place was read; `tensor_hash` is the SHA-256 of the tensor bytes (kohya's
    `sshs_model_hash`), which renaming or re-tagging the file does not change.
    """

    path: Path
    name: str
    epoch: int | None = None
    step: int | None = None
    final: bool = False
    label: str = ""
    position_source: str = ""
    tensor_hash: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The file's name with as many of its folders as `name` tells it apart by."""
        folders, _, last = self.name.rpartition("/")
        inside = folders if last == self.path.stem else self.name
        return f"{inside}/{self.path.name}" if inside else self.path.name


@dataclass(frozen=True)
class Cell:
    """One picture to render; `checkpoint is None` marks a control (then `strength` is 0)."""

    case: Case
    checkpoint: Checkpoint | None = None
    strength: Decimal = Decimal(0)

    @property
    def is_control(self) -> bool:
        return self.checkpoint is None


@dataclass(frozen=True)
class ModelRecord(Sparse):
    """The base model as the user named it, and the digest of its files; of a quantised one how it
    is `stored`, and how LoRAs are `merged` into it."""

    name: str
    sha256: str
    stored: str | None = None
    merged: str | None = None


@dataclass(frozen=True)
class RendererRecord:
    """What run.json says of a renderer, without secrets: base model and settings, or under
    `renderer` what another program is and was told (both JSON-ready)."""

    model: ModelRecord | None = None
    settings: Mapping[str, Any] | None = None
    renderer: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class RenderSettings:
    """Everything besides the cell that decides the pixels.

    `model` is what the user named; `model_hash` is the digest of the files behind it. Sizes are in
    pixels. `batch_size` belongs here because a batch of another size rounds otherwise. `scheduler`
    is the class and configuration that `sampler` stands for. `guidance_rescale` is phi of Lin et
    al. 2023 (https://arxiv.org/abs/2305.08891), 0 for none.
    `fixed_loras` are (tensor hash, weight) under all pictures; `part_strengths` are (part,
    multiplier) of the LoRA under study, `block_weights` its weights by block as `blocks.parse`
    spells them ("" for none). `mixed` says that a batch holds many strengths (the
    diffusers renderer's `rows`), `shared` that a CPU's cores compute rows of their own, which
    rounds otherwise, as another number of cores does, and like that is not in the content key.
    """

    model: str
    model_hash: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    sampler: str
    clip_skip: int = 0
    guidance_rescale: float = 0.0
    dtype: str = "float32"
    device: str = "cpu"
    batch_size: int = 4
    versions: Mapping[str, str] | None = None
    fixed_loras: tuple[tuple[str, str], ...] = ()
    part_strengths: tuple[tuple[str, str], ...] = ()
    block_weights: str = ""
    scheduler: Mapping[str, Any] | None = None
    compiled: bool = False
    mixed: bool = False
    shared: bool = False

    def identity(self, cell: Cell) -> Mapping[str, Any]:
        """What decides the pixels besides the cell; a control has no LoRA under study."""
        settings = asdict(self)
        settings.pop("model")
        settings.pop("shared")
        if not self.guidance_rescale:  # pictures of runs that knew no such setting stay theirs
            settings.pop("guidance_rescale")
        if cell.is_control:
            settings.pop("part_strengths")
            settings.pop("block_weights")
        return {"engine": ENGINE, "settings": settings}


@dataclass(frozen=True, eq=False)
class Picture:
    """A cell as it was painted: a PNG file's bytes, or none and the reason.

    `facts` (JSON-ready) are what its painter notes beside the cell, such as the batch it came from.
    """

    cell: Cell
    png: bytes = b""
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class Painter(Protocol):
    """Whoever paints cells, as far as the content key is concerned."""

    def identity(self, cell: Cell) -> Mapping[str, Any]:
        """What decides the cell's pixels besides case, LoRA and strength; JSON-ready."""
        ...


def content_key(cell: Cell, painter: Painter) -> str:
    """SHA-256 (hex) of everything that could change the cell's pixels, and of nothing else.

    A file name, the case's label and a checkpoint's place in training are left out: renaming a
    LoRA re-renders nothing, changing one of its weights re-renders all that uses it.
    """
    case = cell.case
    edited = [case.picture.sha256] if case.picture else []  # so that other cases keep their keys
    record = {
        **painter.identity(cell),
        "case": [case.prompt, case.negative, case.seed, *edited],
        "lora": cell.checkpoint.tensor_hash if cell.checkpoint else None,
        "strength": strength_text(cell.strength),
    }
    text = json.dumps(record, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def strength_text(strength: Decimal) -> str:
    """A strength as people write it: `Decimal("0.60")` -> "0.6", `Decimal("1")` -> "1.0"."""
    text = format(strength.normalize(), "f")
    return text if "." in text else text + ".0"
