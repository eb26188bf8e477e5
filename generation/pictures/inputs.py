"""Pictures that a model is given to edit."""

from __future__ import annotations

import hashlib
from pathlib import Path

from generation.cells import InputPicture
from generation.errors import UserError
from generation.pictures.pixels import Pixels, read_image


def find_input(path: Path) -> InputPicture:
    """The picture, known by its pixels: saved in another format without loss it is the same.

    Raises UserError as `read_image` does.
    """
    return InputPicture(_digest(read_image(path)), path)


def read_input(picture: InputPicture) -> Pixels:
    """Its pixels (uint8 RGB, H x W x 3). Raises UserError where the file holds others by now."""
    pixels = read_image(picture.path)
    if _digest(pixels) != picture.sha256:
        raise UserError(
            f"{picture.path} has changed since the study began; run the study again.",
            field="input_picture",
        )
    return pixels


def _digest(pixels: Pixels) -> str:
    return hashlib.sha256(f"{pixels.shape[:2]}".encode() + pixels.tobytes()).hexdigest()
