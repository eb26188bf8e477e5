"""The run folder: whose it is, who writes in it, and what there is the user's own.

`.lora-analysers/` marks it. Its `lock` is locked by the operating system while a run writes, which
lets go of it however the process ends, and names who does. Its `written` lists the SHA-256 of every
result ever written here: a file that is not in it is the user's (or was changed by the user since)
and is kept under `previous/` where a result needs its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from generation.errors import UserError, named
from generation.files import hold, open_file, read_file, read_json, sweep, write_atomically

MARKER = ".lora-analysers"

_LINE = re.compile(r"([0-9a-f]{64}) (.+)")
_held: set[tuple[str, int]] = set()


@contextmanager
def open_run_folder(path: Path, *, others: bool = False) -> Iterator[Path]:
    """Make the folder and hold it for writing; opening it again inside the block is free.

    Raises UserError if another process holds it, if it cannot be written to, and, without
    `others`, if it holds files and is no run folder of ours. With `others` those files stay, and
    what stands in the way of a result is kept under `previous/`. Where the file system knows no
    locks, nobody is kept out.
    """
    key = os.path.realpath(path), threading.get_ident()
    if key in _held:
        yield path
        return
    check_folder(path, others=others)
    try:
        marker = _marker(path)
        lock = open(own(marker / "lock"), "a+b", 0)  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"cannot write to {path} ({error.strerror}); choose another folder.", "out"
        ) from error
    with lock:
        try:
            free = hold(lock)
        except OSError:
            free = True
        if not free:
            raise UserError(
                f"{path} is being written by {_holder(marker / 'lock')}; wait for it to end, or "
                "choose another folder.",
                "out",
            )
        if os.fstat(lock.fileno()).st_nlink == 1:  # else it is a file of the user's as well
            with writing(marker / "lock"):
                lock.truncate(0)
                lock.write(json.dumps(_me()).encode())
        sweep(path)
        _held.add(key)
        try:
            yield path
        finally:
            _held.discard(key)


def check_folder(path: Path, *, others: bool = False) -> None:
    """Raise UserError where `open_run_folder` would for what the folder holds; writes nothing."""
    try:
        entries = [entry.name for entry in os.scandir(path)]
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); choose another folder.", "out"
        ) from error
    for name in (MARKER, "images", "cells", "previous"):
        inside = path / name
        if os.path.lexists(inside) and (not inside.is_dir() or _leads_out(path, inside)):
            raise UserError(
                f"{inside} is no folder inside {path}; move it away, or choose another folder.",
                "out",
            )
    if entries and not others and not is_run_folder(path):
        raise UserError(
            f"{path} holds other files ({_some(entries)}) and is no run folder; choose another, or "
            f"say {named('allow_non_empty')} to keep them beside the results.",
            "out",
        )


def is_run_folder(path: Path) -> bool:
    """Whether the folder has our mark, or results as version 0.1.0 wrote them without one."""
    if (path / MARKER).is_dir():
        return True
    if any(_says(path / name, fields) for name, fields in _FIELDS.items()):
        return True
    try:
        batches = read_json(path / "batch.json")  # all that a run killed early has
    except (OSError, ValueError):
        return False
    if not isinstance(batches, dict) or not batches:
        return False
    return all(isinstance(b, dict) and {"size", "mixed"} <= b.keys() for b in batches.values())


_FIELDS: dict[str, set[str]] = {
    "run.json": {"format", "command", "versions"},
    "study.json": {"format", "kind", "scores", "summaries", "verdict"},
    "noise.json": {"keys", "pairs", "floor"},
    "measured.jsonl": {"format", "content", "values", "pixels"},
}


def _says(path: Path, fields: set[str]) -> bool:
    try:
        if path.suffix == ".jsonl":
            with open_file(path) as file:
                record = json.loads(file.readline(1 << 20))
        else:
            record = read_json(path, 1 << 30)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and fields <= record.keys()


def write_result(path: Path, content: bytes | str) -> None:
    """Write a result of ours, whole or not at all; a file of the user's in its place is kept.

    In a text, a byte of a file name that is no UTF-8 (Python holds 0xff as U+DCFF) becomes
    "\\udcff", which in JSON is the very same text. Raises UserError if it cannot be written.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    folder = path.parent
    with writing(path):
        marker = _marker(folder)
        if os.path.lexists(path) and not _is_ours(path, marker):
            move_aside(path, make_inside(folder, folder / "previous") / path.name)
        with open(appending(marker / "written"), "ab") as log:  # before: a kill may come in between
            log.write(f"\n{hashlib.sha256(data).hexdigest()} {path.name}\n".encode())
        write_atomically(path, data)


def move_aside(path: Path, place: Path) -> Path:
    """Rename `path` to `place`, or with a number where that is taken; return where it lies."""
    number, free = 1, place
    while os.path.lexists(free):
        free = place.with_stem(f"{place.stem}_{number}")
        number += 1
    os.replace(path, free)
    return free


def make_inside(root: Path, folder: Path) -> Path:
    """The folder, made if it is missing. Raises UserError if it does not lie inside `root`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder} ({error.strerror}); move what is there away."
        ) from error
    if _leads_out(root, folder):
        raise UserError(f"{folder} is a link that leads out of {root}; remove it.")
    return folder


def _leads_out(root: Path, path: Path) -> bool:
    base = os.path.realpath(root)
    return os.path.commonpath([base, os.path.realpath(path)]) != base


def _marker(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return make_inside(folder, folder / MARKER)


def own(path: Path) -> Path:
    """The path, if it is missing or a plain file: what is written to follows no link."""
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise UserError(f"{path} is no file of ours; remove it.")
    return path


def appending(path: Path) -> Path:
    """The path of a result that is appended to; what lies there and is the user's is kept.

    A file with further names (a hard link in a backup) is copied first: those stay as they are.
    """
    if not os.path.lexists(own(path)):
        return path
    if path.name in _FIELDS and path.stat().st_size and not _says(path, _FIELDS[path.name]):
        move_aside(path, make_inside(path.parent, path.parent / "previous") / path.name)
    elif path.stat().st_nlink > 1:
        write_atomically(path, read_file(path, 1 << 40))
    return path


def _is_ours(path: Path, marker: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    try:
        log = read_file(marker / "written", 1 << 30).decode("utf-8", "replace")
        with open_file(path) as file:
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError:
        return False
    known = {match[1] for line in log.splitlines() if (match := _LINE.fullmatch(line))}
    return digest.hexdigest() in known


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the operating system says inside the block, as one sentence that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}); check the folder and the disk "
            "space. What was rendered and measured is kept: run the same command again."
        ) from error


def _me() -> dict[str, object]:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": now}


def _holder(lock: Path) -> str:
    try:
        record = read_json(lock, 10_000)
        process, host, since = record["process"], record["host"], record["since"]
        return f"process {int(process)} on {str(host)[:80]} since {str(since)[:40]}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _some(names: list[str]) -> str:
    shown = [name.encode("utf-8", "backslashreplace").decode() for name in sorted(names)[:3]]
    return ", ".join(shown) + (", ..." if len(names) > 3 else "")
