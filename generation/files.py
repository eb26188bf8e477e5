"""Files of the run folder, written whole or not at all, and the one way to open a file for reading.

What is read may be anybody's: a pipe, a device or a socket under a picture's name would block for
ever or act on being opened, so only regular files are opened.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

from generation.errors import UserError

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
    with open_file(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return content


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


def make_folder(path: Path, field: str = "out") -> Path:
    """The folder, made if it is missing. Raises UserError if it cannot be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write to {path} ({error.strerror}); choose another folder.", field=field
        ) from error
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a temporary name in the same folder, then a rename.

    A reader sees the old file or the new one, never half of one, also when the process is killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all.

    A byte of a file name that is no UTF-8 (Python holds 0xff as U+DCFF) becomes "\\udcff", which
    in JSON is the very same text.
    """
    write_atomically(path, text.encode("utf-8", "backslashreplace"))
