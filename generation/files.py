"""Files of the run folder: written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from generation.errors import UserError


def make_folder(path: Path, option: str = "--out") -> Path:
    """The folder, made if it is missing. Raises UserError if it cannot be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{option}: cannot write to {path} ({error.strerror}); choose another folder."
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
    """Write UTF-8 text as it is, whole or not at all."""
    write_atomically(path, text.encode("utf-8"))
