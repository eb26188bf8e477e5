"""Training pictures in a folder, with the captions that lie beside them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from generation.errors import UserError
from generation.files import open_file, read_utf8
from generation.pictures.pixels import SUFFIXES, read_size

MOST = 2000
"""Pictures; more than any LoRA's, and each is looked at by the model."""

FEWEST = 2

_MOST_CAPTION = 1 << 20


@dataclass(frozen=True)
class References:
    """Pictures in order of their paths; captions of those that have one."""

    pictures: tuple[Path, ...] = ()
    captions: Mapping[Path, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


NO_REFERENCES = References(), References()


def find_references(folder: Path, field: str = "references") -> References:
    """The pictures in a folder and the folders in it, such as kohya's "10_name".

    Captions are read as trainers write them: PICTURE.txt, PICTURE.caption, or a metadata.jsonl with
    `file_name` and `text`. What cannot be read is left out and said. Raises UserError for a folder
    that holds fewer than two pictures.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name that of the training pictures.", field=field)
    found, captions, warnings = [], dict(_listed(folder)), []
    for path in _pictures(folder):
        if read_size(path) is None:
            warnings.append(f"{path.name} of {folder} was left out: it is no picture that is read.")
            continue
        found.append(path)
        for suffix in (".txt", ".caption"):
            text = _caption(path.with_suffix(suffix))
            if text:
                captions[path] = text
                break
    if len(found) < FEWEST:
        raise UserError(
            f"{folder} holds {len(found)} picture{'s' * (len(found) != 1)} that can be read; name "
            "a folder with two or more of what was trained on.",
            field=field,
        )
    if len(found) > MOST:
        raise UserError(f"{folder} holds {len(found)} pictures; name {MOST} at most.", field=field)
    kept = {path: captions[path] for path in found if path in captions}
    return References(tuple(found), kept, tuple(warnings))


def find_both(references: Path | None, held_out: Path | None) -> tuple[References, References]:
    """Training pictures and such that were kept back. Raises UserError where one is both."""
    seen = References() if references is None else find_references(references)
    if references is None or held_out is None:
        return seen, References()
    kept = find_references(held_out, "held_out")
    known = {_digest(path) for path in seen.pictures}
    both = [path.name for path in kept.pictures if _digest(path) in known]
    if both:
        raise UserError(
            f"{len(both)} of the pictures in {held_out} lie among the training pictures in "
            f"{references} as well (such as {both[0]}); name pictures that were not trained on.",
            field="held_out",
        )
    return seen, kept


def _digest(path: Path) -> bytes:
    with open_file(path) as file:
        return hashlib.sha256(file.read()).digest()


def _pictures(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(root, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith(".") and path.is_file():
                yield path


def _caption(path: Path) -> str:
    if not path.is_file():
        return ""
    try:
        return " ".join(read_utf8(path, _MOST_CAPTION).split())
    except (OSError, ValueError):
        return ""


def _listed(folder: Path) -> Iterator[tuple[Path, str]]:
    """Captions of metadata.jsonl, as Hugging Face's imagefolder has them."""
    path = folder / "metadata.jsonl"
    if not path.is_file():
        return
    try:
        lines = read_utf8(path, _MOST_CAPTION * 16).splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        try:
            row = json.loads(line)
            name, text = row["file_name"], row.get("text") or row.get("caption")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        if isinstance(name, str) and isinstance(text, str):
            yield folder / name, " ".join(text.split())
