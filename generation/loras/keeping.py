"""Keep the checkpoints of a training that goes on: trainers prune what they wrote.

A checkpoint is kept once it is wholly written: by a second name of the same file (a hard link)
where the file system can and trainers do not write that name again, else as a copy. It stands in
the record before it is made, so that a kill leaves nothing that nobody knows of. What the trainer
writes again takes the place of what was kept once it is whole, never before. Nothing of the
trainer's is moved, changed or removed; what was kept is let go only if it is still as it was kept.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from generation.errors import UserError
from generation.files import FULL, link, open_file, read_json, replacing, sweep, write_text
from generation.loras.container import one_line, read_header
from generation.loras.folders import lora_files
from generation.loras.names import place_of

RECORD = ".lora-analysers-kept.json"
SETTLED = 2.0
"""Seconds for which a file must have stayed as it is before it counts as written."""

_COPY_BLOCK = 1 << 22

State = tuple[int, int]  # bytes and time of the last change in nanoseconds


@dataclass(frozen=True)
class Taken:
    """What became of one file: kept now, still being written, or why it cannot be kept."""

    path: Path
    what: Literal["kept", "unfinished", "failed"]
    reason: str = ""


@dataclass
class Keeper:
    """Keeps the checkpoints of `source` in `folder`, by the same names below it.

    `settled` is in seconds, `now` the clock, `tick` one that never goes back. Raises UserError if
    the record in `folder` is not one of ours, or nothing can be written there.
    """

    source: Path
    folder: Path
    ema: bool = False
    settled: float = SETTLED
    now: Callable[[], float] = time.time
    tick: Callable[[], float] = time.monotonic
    _kept: dict[str, State] = field(default_factory=dict, init=False)
    _theirs: dict[str, State] = field(default_factory=dict, init=False)
    """Second names of the trainer's files that somebody else made there: used, never removed."""
    waiting: bool = field(default=False, init=False)
    """Whether the last look met a file that is still being written."""
    _growing: set[Path] = field(default_factory=set, init=False)
    _told: dict[Path, State] = field(default_factory=dict, init=False)
    _since: dict[Path, tuple[State, float]] = field(default_factory=dict, init=False)
    """Since when a file has been seen as it is: clocks differ, and are set back."""

    def __post_init__(self) -> None:
        inside = os.path.realpath(self.folder)
        if inside == os.path.realpath(self.source):
            raise UserError(
                f"{self.folder} is the training's own folder; keep checkpoints in another.",
                "keep_best",
            )
        there = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        if not os.access(there, os.W_OK):
            raise UserError(
                f"nothing can be written into {there}; name another folder to keep checkpoints in.",
                "keep_best",
            )
        sweep(self.folder)
        record = self.folder / RECORD
        try:
            found = read_json(record)
            self._kept = {str(name): (int(size), int(when)) for name, (size, when) in found.items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{record} cannot be read; choose another folder to keep checkpoints in.",
                "keep_best",
            ) from error

    @property
    def kept(self) -> tuple[Path, ...]:
        """All checkpoints that were kept and are still there."""
        names = [one for one in (*self._kept, *self._theirs) if Path(one).name not in _COMPANIONS]
        paths = (self.folder / name for name in names)
        return tuple(path for path in paths if path.is_file())

    def take(self) -> Iterator[Taken]:
        """Keep what is new and wholly written; say of each file what became of it, once."""
        self.waiting = False
        for path in self._files():
            name = self._name(path)
            try:
                state = _state(path)
            except OSError:
                continue  # pruned just now
            known = self._kept.get(name) or self._theirs.get(name)
            if known == state and (self.folder / name).is_file():
                continue
            reason = self._unfinished(path, state)
            if reason:
                self.waiting = True
                if path not in self._growing:
                    self._growing.add(path)
                    yield Taken(path, "unfinished", reason)
                continue
            before = self._kept.get(name)
            try:
                self._keep(path, name, state)
            except OSError as error:
                if before is None:
                    self._kept.pop(name, None)
                if self._told.get(path) != state:
                    self._told[path] = state
                    yield Taken(path, "failed", _why(error, self.folder))
                continue
            yield Taken(self.folder / name, "kept")

    def release(self, wanted: set[Path]) -> list[Path]:
        """Remove what was kept and is not wanted; what was changed since is left alone."""
        folders = {path.parent for path in wanted}
        gone = []
        for name, state in list(self._kept.items()):
            path = self.folder / name
            if path in wanted or (path.name in _COMPANIONS and path.parent in folders):
                continue
            del self._kept[name]
            try:
                if _state(path) == state:
                    path.unlink()
                    gone.append(path)
                    if path.parent != self.folder:
                        path.parent.rmdir()  # once it is empty
            except OSError:
                continue
        self._write()
        return gone

    def _files(self) -> list[Path]:
        try:
            return [p for p in lora_files(self.source, self.ema)[0] if not self._is_own(p)]
        except UserError:
            return []  # not there yet, or for a moment not to be read

    def _is_own(self, path: Path) -> bool:
        return self.folder.resolve() in path.resolve().parents

    def _name(self, path: Path) -> str:
        return path.relative_to(self.source).as_posix()

    def _unfinished(self, path: Path, state: State) -> str:
        """Why the file is not wholly written, as far as can be told; "" if it is."""
        try:
            read_header(path)
        except UserError as error:
            return str(error)
        if self.now() - state[1] / 1e9 >= self.settled:
            return ""
        if self._since.get(path, (None, 0.0))[0] != state:
            self._since[path] = state, self.tick()
        quiet = self.tick() - self._since[path][1]
        return "" if quiet >= self.settled else "it was written a moment ago"

    def _keep(self, path: Path, name: str, state: State) -> None:
        """Make the second name, or the copy. Raises OSError where neither can be."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        before, there = self._kept.get(name), os.path.lexists(target)
        same = there and os.path.samefile(path, target)
        if there and before is None:
            if not same:
                raise FileExistsError(errno.EEXIST, "another file has this name there", str(target))
            self._theirs[name] = state
            return
        if there and not same and _state(target) not in (before, state):
            raise FileExistsError(errno.EEXIST, "another file has this name there", str(target))
        if there and not same and state != _state(target):  # the trainer wrote it again
            self._put(path, target)
        self._kept[name] = state
        full: OSError | None = None
        try:
            self._write()
        except OSError as error:  # a second name takes no room, so that it may be had nevertheless
            full = error
        if not there:
            self._make(path, target, full)

    def _make(self, path: Path, target: Path, full: OSError | None) -> None:
        """The file there, with what readers look at beside it; no copy where the disk is `full`."""
        for beside in (path.with_name(name) for name in _COMPANIONS if not full):
            near = target.with_name(beside.name)
            if beside.is_file() and not os.path.lexists(near):
                _copy(beside, near)
                self._kept[near.relative_to(self.folder).as_posix()] = _state(near)
                self._write()
        self._put(path, target, full)

    def _put(self, path: Path, target: Path, full: OSError | None = None) -> None:
        """A second name or a copy, whole or not at all, in place of what is there; no copy where
        the disk is `full`."""
        if _is_numbered(path):
            try:
                link(path, target)
                return
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
        if full:
            raise full
        _copy(path, target)

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / RECORD, json.dumps(self._kept, indent=1) + "\n")


_COMPANIONS = ("adapter_config.json", "training_state.json")
"""What readers of a checkpoint look at beside it."""

_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EACCES}


def _is_numbered(path: Path) -> bool:
    """Whether the name says a place in training, so that no later checkpoint will bear it; of a
    symbolic link, that of the file too."""
    places = place_of(path), place_of(Path(os.path.realpath(path)))
    return all(place.united or place.number is not None for place in places)


def _copy(path: Path, target: Path) -> None:
    """A copy with the times of the original, whole and with them or not at all."""
    state = os.stat(path)
    free = shutil.disk_usage(target.parent).free
    if state.st_size > free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
    with open_file(path) as source, replacing(target) as file:
        shutil.copyfileobj(source, file, _COPY_BLOCK)
        file.flush()
        os.utime(file.name, ns=(state.st_atime_ns, state.st_mtime_ns))


def _state(path: Path) -> State:
    state = os.stat(path)
    return state.st_size, state.st_mtime_ns


def _why(error: OSError, folder: Path) -> str:
    if error.errno in FULL:
        return f"the disk of {folder} is full; make room there"
    return one_line(error.strerror or str(error))
