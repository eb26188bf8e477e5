"""Files of the run folder, written whole or not at all, and the one way to open a file for reading.

What is read may be anybody's: a pipe, a device or a socket under a picture's name would block for
ever or act on being opened, so only regular files are opened.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import IO, Any

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

MOST_TEXT = 64 << 20
"""Bytes of a text or JSON file that are read; a larger one is refused."""


def open_file(path: str | Path) -> BufferedReader:
    """A regular file, opened for reading. Raises OSError for everything else, and never waits.

    The kind is asked before (opening a device can act on it) and again of what was opened (the
    name may mean something else by then).
    """
    quiet = ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT")
    flags = os.O_RDONLY
    for name in quiet:
        flags |= getattr(os, name, 0)
    try:
        _refuse_others(os.stat(path).st_mode, path)
        descriptor = os.open(path, flags)
    except ValueError as error:  # a name that no file can have: a zero byte, half a code point
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from error
    try:
        _refuse_others(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _refuse_others(mode: int, path: str | Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device", str(path))


def read_file(path: str | Path, most: int = MOST_TEXT) -> bytes:
    """A regular file's bytes. Raises OSError, also if it has more than `most`."""
    content = bytearray()
    with open_file(path) as file:
        while len(content) <= most and (part := file.read(1 << 20)):  # takes that memory at once
            content += part
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return bytes(content)


def read_utf8(path: str | Path, most: int = MOST_TEXT) -> str:
    """A regular file's UTF-8 text, a byte order mark dropped. Raises OSError and ValueError."""
    return read_file(path, most).decode("utf-8-sig")


def read_json(path: str | Path, most: int = MOST_TEXT) -> Any:
    """A regular file's JSON. Raises OSError; ValueError for what is none or nested deeply."""
    text = read_utf8(path, most)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


FULL = {errno.ENOSPC, errno.EDQUOT}
"""What the system says where a disk, or a share of it, is full."""


def is_full(error: BaseException | None) -> bool:
    """Whether the error, or one that it came of, says that a disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


TEMPORARY = re.compile(r"\.lora-analysers-[0-9a-f]{32}\.tmp")
"""Names of ours while a file is being written; no one can have guessed one."""


@contextmanager
def replacing(path: Path) -> Iterator[BufferedWriter]:
    """A new file that takes the place of `path` when the block is done, and never half of it.

    It has a temporary name beside `path` and is locked while its writer lives, so that `sweep` can
    tell what a killed process left.
    """
    temporary, file = _temporary(path.parent)
    try:
        with file:
            yield file
            file.flush()
            if os.name != "nt":  # which renames no open file
                os.replace(temporary, path)
        if os.name == "nt":
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _temporary(folder: Path) -> tuple[Path, BufferedWriter]:
    while True:
        path = folder / _unguessable()
        file = open(path, "xb")  # noqa: SIM115
        hold(file, wait=True)
        if os.fstat(file.fileno()).st_nlink:
            return path, file
        file.close()  # swept in the moment before it was locked


def link(path: Path, target: Path) -> None:
    """A second name of the file, in place of what is there under it; of a symbolic link, one of the
    file that it leads to. Raises OSError."""
    path = Path(os.path.realpath(path))
    if not os.path.lexists(target):
        os.link(path, target)
        return
    temporary = target.parent / _unguessable()
    os.link(path, temporary)
    try:
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # still there where both were one file


def _unguessable() -> str:
    return f".lora-analysers-{secrets.token_hex(16)}.tmp"


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written below `folder`; links are not followed."""
    for place, _, names in os.walk(folder):
        for name in filter(TEMPORARY.fullmatch, names):
            path = Path(place, name)
            try:
                with open_file(path) as file:
                    if hold(file):
                        if os.name == "nt":
                            file.close()
                        path.unlink()
            except OSError:
                continue  # in use, or not to be told


def hold(file: IO[bytes], wait: bool = False) -> bool:
    """Lock the open file for this process; False if another one holds it.

    The operating system lets go when the file is closed, however its process ends. Raises OSError
    where the file system knows no locks, unless `wait`.
    """
    try:
        if sys.platform == "win32":
            file.seek(_BEYOND)  # other processes may still read what stands before
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        if wait:
            return True
        raise


_BEYOND = 1 << 30


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    A reader sees the old file or the new one, never half of one, also when the process is killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all.

    A byte of a file name that is no UTF-8 (Python holds 0xff as U+DCFF) becomes "\\udcff", which
    in JSON is the very same text.
    """
    write_atomically(path, text.encode("utf-8", "backslashreplace"))
