"""Texts in the lowest bits of a PNG's pixels, where they survive what strips text chunks.

The format of the A1111 extension sd-webui-stealth-pnginfo, which NovelAI writes too: bits of the
alpha channel, or of red, green and blue of each pixel, column by column from the left, each from
the top: a mark of 15 letters, the payload's bits as a 32-bit number, the payload in UTF-8, plain
or compressed by gzip.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from generation.pictures.pixels import MOST_TEXT, read_channels

MARKS = {
    b"stealth_pnginfo": (slice(3, 4), False),
    b"stealth_pngcomp": (slice(3, 4), True),
    b"stealth_rgbinfo": (slice(0, 3), False),
    b"stealth_rgbcomp": (slice(0, 3), True),
}
"""Mark -> the channels that hold the bits, and whether the payload is compressed."""

_HEAD = 15 + 4


def hidden_text(path: Path) -> str | None:
    """The text hidden in a PNG, None if there is none; "" where its mark stands without a text.

    Decodes the picture. Raises UserError as `read_image` does.
    """
    channels = read_channels(path)
    for mark, (which, compressed) in MARKS.items():
        held = channels[:, :, which]
        if held.shape[2] and _first_bytes(held, _HEAD)[:15] == mark:
            size = int.from_bytes(_first_bytes(held, _HEAD)[15:], "big") // 8
            if not 0 < size <= MOST_TEXT:
                return ""
            payload = _first_bytes(held, _HEAD + size)[_HEAD:]
            try:
                if compressed:
                    payload = zlib.decompressobj(31).decompress(payload, MOST_TEXT)
                return payload.decode()
            except (zlib.error, UnicodeDecodeError):
                return ""
    return None


def _first_bytes(channels: NDArray[np.uint8], count: int) -> bytes:
    """The first bytes in the lowest bits of channels of shape (height, width, channels)."""
    height, _, each = channels.shape
    columns = -(-8 * count // max(1, height * each))
    bits = channels[:, :columns].transpose(1, 0, 2).reshape(-1)[: 8 * count] & 1
    return np.packbits(bits).tobytes()
