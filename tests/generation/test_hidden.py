"""Texts hidden in pixels, written here bit by bit as the extension writes them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysers.intake.found import facts_of
from analysers.intake.pairing import find_pictures
from generation.pictures.hidden import hidden_text
from generation.pictures.pixels import read_image, write_png

LINE = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 96x64, Model: dream"
TEXT = f"a castle, 城 <lora:my:0.8>\nNegative prompt: ugly\n{LINE}"


def picture(mode: str) -> np.ndarray:
    """A picture of 96 x 64 pixels; whatever its lowest bits are."""
    rng = np.random.Generator(np.random.PCG64(5))
    pixels = rng.integers(0, 250, (64, 96, 4 if mode == "alpha" else 3), dtype=np.uint8)
    if mode == "alpha":
        pixels[:, :, 3] = 255
    return pixels


def hide(path: Path, payload: bytes, mode: str = "alpha", compressed: bool = True,
         length: int | None = None) -> Path:  # fmt: skip
    mark = f"stealth_{'png' if mode == 'alpha' else 'rgb'}{'comp' if compressed else 'info'}"
    payload = gzip.compress(payload) if compressed else payload
    bits = "".join(f"{byte:08b}" for byte in mark.encode())
    bits += f"{8 * len(payload) if length is None else length:032b}"
    bits += "".join(f"{byte:08b}" for byte in payload)
    pixels, at = picture(mode), 0
    for x in range(pixels.shape[1]):
        for y in range(pixels.shape[0]):
            for channel in (3,) if mode == "alpha" else (0, 1, 2):
                if at < len(bits):
                    pixels[y, x, channel] = pixels[y, x, channel] & 0xFE | int(bits[at])
                    at += 1
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("mode", ["alpha", "rgb"])
def test_the_text_is_read_as_the_extension_writes_it(
    mode: str, compressed: bool, tmp_path: Path
) -> None:
    path = hide(tmp_path / "a.png", TEXT.encode(), mode, compressed)
    assert hidden_text(path) == TEXT
    facts = facts_of(path)
    assert facts is not None and facts.unknown == "" and facts.seed == 5
    assert [(use.name, str(use.strength)) for use in facts.loras] == [("my", "0.8")]


def test_novelais_hidden_json_is_read_as_its_texts(tmp_path: Path) -> None:
    inner = {"prompt": "a castle", "uc": "ugly", "seed": 7, "steps": 28, "scale": 5}
    outer = {"Software": "NovelAI", "Description": "a castle", "Comment": json.dumps(inner)}
    facts = facts_of(hide(tmp_path / "a.png", json.dumps(outer).encode()))
    assert facts is not None and facts.source == "NovelAI" and facts.seed == 7


@pytest.mark.parametrize(
    ("payload", "compressed", "length"),
    [
        (b"\xff\xfe not UTF-8", False, None),
        (b"no format that is known", True, None),
        (b"too short", False, 2**32 - 1),
        (b"too short", False, 80_000),
        (b"", False, 0),
        (gzip.compress(b"cut", mtime=0)[:9], False, None),
    ],
)
def test_a_hidden_text_that_is_not_understood_makes_the_picture_unknown(
    payload: bytes, compressed: bool, length: int | None, tmp_path: Path
) -> None:
    path = hide(tmp_path / "control.png", payload, compressed=compressed, length=length)
    facts = facts_of(path)
    assert facts is not None and facts.unknown


def test_a_picture_with_a_hidden_lora_is_no_control(tmp_path: Path) -> None:
    hide(tmp_path / "control.png", TEXT.encode())
    for strength in ("0.4", "0.8"):
        write_png(tmp_path / f"strength_{strength}.png", picture("rgb"), {})
    found = find_pictures(tmp_path, axis="strength")
    assert all(pair.control is None for pair in found.pairs)
    hide(tmp_path / "control.png", TEXT.replace("<lora:my:0.8>", "").encode())
    found = find_pictures(tmp_path, axis="strength")
    assert all(pair.control is not None for pair in found.pairs)


def test_pictures_without_a_hidden_text(tmp_path: Path) -> None:
    plain = picture("rgb")
    for name, pixels in (
        ("a", picture("alpha")),
        ("b", plain),
        ("c", plain[:1, :1]),
        ("d", plain[:, :, 0]),
    ):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        assert hidden_text(tmp_path / f"{name}.png") is None
    Image.fromarray(picture("rgb")).save(tmp_path / "e.webp", lossless=True)
    assert hidden_text(tmp_path / "e.webp") is None and facts_of(tmp_path / "e.webp") is None
    assert read_image(hide(tmp_path / "f.png", TEXT.encode())).shape == (64, 96, 3)
