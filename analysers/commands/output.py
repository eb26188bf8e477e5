"""The terminal's streams, made so that no study ends because nobody can be told."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Forgiving:
    """A text stream whose failing device is forgotten: a closed pipe, a full disk.

    `lost` is the first error, if there was one. What a device's encoding cannot hold is written
    with backslashes.
    """

    def __init__(self, stream: Any) -> None:
        stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115
        self._stream = stream
        self.lost: OSError | None = None
        with suppress(AttributeError, ValueError, io.UnsupportedOperation):
            # ASCII is what the C locale says, of terminals that show UTF-8
            ascii_only = codecs.lookup(stream.encoding or "ascii").name == "ascii"
            stream.reconfigure(encoding="utf-8" if ascii_only else None, errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as error:
            self._forget(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._forget(error)

    def _forget(self, error: OSError) -> None:
        """Point the stream at nothing, so that what is still in its buffer goes there."""
        self.lost = self.lost or error
        with suppress(OSError, ValueError, AttributeError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)


@contextmanager
def forgiving() -> Iterator[Forgiving]:
    """Both streams forgiving inside the block; gives the one for output."""
    usual = sys.stdout, sys.stderr
    out = Forgiving(sys.stdout)
    sys.stdout, sys.stderr = out, Forgiving(sys.stderr)
    try:
        yield out
    finally:
        out.flush()
        sys.stdout, sys.stderr = usual


def full(out: Forgiving) -> str:
    """Why output was lost, "" where it was not or where a reader simply had enough (`| head`)."""
    if out.lost is None or out.lost.errno in (errno.EPIPE, errno.EINVAL):
        return ""
    return out.lost.strerror or str(out.lost)
