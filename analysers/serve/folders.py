"""What a page may look at: the folders that were named at the start, and the runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sample_data
from generation.errors import UserError
from generation.folder import is_run_folder

MOST_ENTRIES = 2000
OUTSIDE = "this lies outside of the folders named at the start."
LORA = ".safetensors"
PICTURES = (".png", ".webp", ".jpg", ".jpeg", ".gif")
PICKED: Mapping[str, tuple[str, ...]] = {
    "loras": (LORA,),
    "fixed": (LORA,),
    "model": (LORA, ".gguf"),
    "workflow": (".json",),
    "input_picture": PICTURES,
}
"""How the names of files end that a field takes; other fields take folders."""


class NotThere(UserError):
    """An address that stands for nothing here."""


@dataclass(frozen=True)
class Entry:
    """A folder or a file that can be picked."""

    name: str
    path: str
    folder: bool


class Folders:
    """`named` can be browsed, below `runs` the studies lie; links out of them are not followed.

    The embedded demo can always be picked.
    """

    def __init__(self, named: Sequence[Path], runs: Path) -> None:
        for path in named:
            if not path.exists():
                raise UserError(f"there is no {path}; name folders that exist.", "loras")
        self.named = tuple(dict.fromkeys(Path(os.path.realpath(path)) for path in named))
        self.runs = runs

    def allowed(self, path: Path) -> bool:
        """Whether the path, its links followed, lies in what was named."""
        try:
            real = Path(os.path.realpath(path))
        except (OSError, ValueError):
            return False
        roots = (*self.named, Path(os.path.realpath(sample_data.PATH)))
        return any(real == root or root in real.parents for root in roots)

    def listing(self, place: str, field: str = "loras") -> list[Entry]:
        """The folders in `place` and the files that the field takes, by name; "" is where
        everything begins."""
        endings = PICKED.get(field, ())
        if not place:
            return [_entry(path, str(path)) for path in self.named]
        folder = Path(place)
        if not self.allowed(folder):
            raise UserError(OUTSIDE, field)
        try:
            with os.scandir(folder) as found:
                names = sorted(entry.name for entry in found if not entry.name.startswith("."))
        except (OSError, ValueError):
            raise UserError(f"{folder.name} cannot be read; choose another.", field) from None
        inside = (folder / name for name in names)
        usable = [
            p for p in inside if self.allowed(p) and (p.is_dir() or p.suffix.lower() in endings)
        ]
        return [_entry(path, path.name) for path in usable[:MOST_ENTRIES]]

    def run(self, name: str) -> Path:
        """The run folder of this name. Raises UserError for what is none below `runs`."""
        if not self._is_run(name):
            raise NotThere("There is no such run.")
        return self.runs / name

    def _is_run(self, name: str) -> bool:
        if name in ("", ".", "..") or set(name) & set("/\\\0"):
            return False
        path = self.runs / name
        return not path.is_symlink() and path.is_dir() and is_run_folder(path)

    def run_names(self) -> list[str]:
        """The runs, newest first."""
        try:
            with os.scandir(self.runs) as found:
                times = {e.name: e.stat().st_mtime for e in found if e.is_dir()}
        except OSError:
            return []
        names = sorted(times, key=lambda name: -times[name])
        return [name for name in names if self._is_run(name)]

    def picture(self, run: str, path: str) -> Path:
        """A picture inside of the run folder. Raises UserError for everything else."""
        folder = Path(os.path.realpath(self.run(run)))
        try:
            real = Path(os.path.realpath(folder / path))
        except ValueError:
            real = folder
        if folder not in real.parents or real.suffix.lower() not in PICTURES or not real.is_file():
            raise NotThere("There is no such picture.")
        return real


def _entry(path: Path, name: str) -> Entry:
    return Entry(name, str(path), path.is_dir())
