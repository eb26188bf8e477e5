"""Pictures on disk with what their metadata and their names say, before anything is decided."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from generation.errors import UserError
from generation.loras.names import place_in_metadata
from generation.pictures.hidden import hidden_text
from generation.pictures.pixels import SUFFIXES, read_size, read_text
from generation.pictures.readers.facts import facts_from_texts
from generation.pictures.readers.names import NameFacts, parse_name
from generation.pictures.readers.picture import Facts, LoraUse, Rejected
from generation.pictures.readers.values import load_json

DEEPEST = 4
"""Levels of folders below the one named that are looked into."""

MOST_FILES = 200_000

NOT_READ = frozenset((".jxl", ".heic", ".heif", ".hif", ".psd", ".jp2", ".tga", ".exr", ".qoi"))
"""Endings of pictures that are named instead of read."""

_NOT_ENTERED = {"previous"}
"""Folders of ours whose pictures another picture has replaced."""


@dataclass(frozen=True)
class Found:
    """One file with what its metadata and its name say."""

    path: Path
    name: NameFacts
    facts: Facts | None
    lora: LoraUse | None = None
    background: tuple[LoraUse, ...] = ()

    @property
    def strength(self) -> Decimal | None:
        if self.lora is not None and self.lora.strength is not None:
            return self.lora.strength
        return self.name.strength

    @property
    def place(self) -> tuple[int | None, int | None]:
        """(epoch, step): what the LoRA's name in the metadata says, else the picture's name."""
        if self.lora is not None:
            named = place_in_metadata(self.lora.name)
            if named.united:
                return named.epoch, named.step
        return self.name.epoch, self.name.step


def scan(root: Path, apart: set[str], skipped: list[Rejected]) -> list[Found]:
    """Every picture file below `root` in order of its path, hidden and replaced ones left out.

    What is a picture and cannot be looked at goes to `skipped` with its reason.
    """
    found: list[Found] = []
    folders = [(root, 0)]
    while folders:
        folder, depth = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if depth:
                reason = f"is a folder that cannot be listed ({error.strerror})"
                skipped.append(Rejected(folder, reason))
                continue
            raise UserError(f"{root} cannot be listed ({error.strerror}).") from None
        for entry in entries:
            if entry.name.startswith("."):
                continue
            suffix = os.path.splitext(entry.name)[1].lower()
            picture = suffix in SUFFIXES or suffix in NOT_READ
            reason = ""
            if kind := _folder_kind(entry):
                if entry.name in _NOT_ENTERED:
                    continue
                if kind == "link":
                    reason = "is a link to a folder, which is not followed; name that folder itself"
                elif depth == DEEPEST:
                    reason = f"is a folder more than {DEEPEST} levels down; name it itself"
                else:
                    folders.append((Path(entry.path), depth + 1))
                    reason = "is a folder, no picture" if picture else ""
            elif picture:
                reason = _why_no_file(entry)
                if suffix in NOT_READ and not reason:
                    reason = f"is a picture that is not read ({suffix}); save it as PNG"
            if reason:
                skipped.append(Rejected(Path(entry.path), reason))
            if reason or kind or not picture:
                continue
            path = Path(entry.path)
            if apart and os.path.realpath(path) in apart:
                continue
            if len(found) >= MOST_FILES:
                raise UserError(f"{root} holds more than {MOST_FILES:,} pictures; name a part.")
            found.append(Found(path, parse_name(path.relative_to(root)), facts_of(path)))
    return sorted(found, key=lambda one: one.path)


def _folder_kind(entry: os.DirEntry[str]) -> str:
    """ "folder", "link" to one, or "" for everything else."""
    try:
        return ("link" if entry.is_symlink() else "folder") if entry.is_dir() else ""
    except OSError:  # a link that leads in a circle
        return ""


def _why_no_file(entry: os.DirEntry[str]) -> str:
    """Why something with a picture's name is none; "" for a file and for one that is missing."""
    try:
        mode = os.stat(entry.path).st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            return f"cannot be looked at ({error.strerror})"
        return ""
    return "" if stat.S_ISREG(mode) else "is a pipe, a socket or a device, no picture"


def facts_of(path: Path) -> Facts | None:
    """What the picture's metadata says; None if it has none or cannot be read."""
    try:
        texts = read_text(path)
        # Several pictures may have been saved from one graph: the size tells which this is.
        size = read_size(path) if "prompt" in texts or "workflow" in texts else None
        return facts_from_texts(texts, size) or _hidden_facts(path)
    except UserError:
        return None  # unreadable now, reported when it is scored


def _hidden_facts(path: Path) -> Facts | None:
    """What a text hidden in the pixels says, which NovelAI writes as JSON of its own texts."""
    text = hidden_text(path)
    if text is None:
        return None
    data = load_json(text)
    told = data if isinstance(data, dict) and "Comment" in data else {"parameters": text}
    texts = {key: value for key, value in told.items() if isinstance(value, str)}
    unknown = Facts("hidden text", unknown="has a text in its pixels that is not understood")
    return facts_from_texts(texts) or unknown


def is_off(use: LoraUse) -> bool:
    """Whether a LoRA does nothing: strength 0 on the denoiser and on the text encoder."""
    return use.strength == 0 and use.text_strength in (None, 0)


def as_control(found: Found) -> Found:
    """The same picture as a control, as all in --controls are; 01.png is control_01.png."""
    name = found.name
    number = name.number
    if number is None and re.fullmatch(r"\d{1,6}", name.case):
        number = int(name.case)
    return replace(found, name=replace(name, control=True, number=number))


def order(found: Found) -> tuple[float, float, Decimal]:
    """Training place (a final checkpoint last), then strength."""
    epoch, step = found.place
    last = float("inf")
    place = (float(step) if step is not None else -1.0, float(epoch) if epoch is not None else -1.0)
    if found.lora is not None and epoch is None and step is None:
        place = (last, last)
    if step is None and epoch is not None:
        place = (-1.0, float(epoch))
    return (*place, found.strength if found.strength is not None else Decimal(0))
