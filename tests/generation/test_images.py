"""Decoding, PNG writing and text reading, on files built here byte by byte."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from generation.errors import UserError
from generation.pictures.infotext import a1111_sampler, parameters_text
from generation.pictures.pixels import MOST_TEXT, read_image, read_text, write_png

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 16, 3), dtype=np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + crc


def png(
    *extra: bytes, size: tuple[int, int] = (2, 1), rows: bytes = b"\0\xff\0\0\0\xff\0"
) -> bytes:
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *extra,
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def exif(comment: bytes, order: str = ">", tag: int = 0x9286, kind: int = 7) -> bytes:
    """A TIFF block with an EXIF folder holding one entry, offsets counted by hand."""
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "I", 8)
    first = struct.pack(order + "HHHIII", 1, 0x8769, 4, 1, 26, 0)
    second = struct.pack(order + "HHHIII", 1, tag, kind, len(comment), 44, 0)
    return head + first + second + comment


def jpeg(block: bytes, tmp_path: Path) -> Path:
    """A real JPEG with an APP1 segment put right behind its SOI."""
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG")
    body = b"Exif\0\0" + block
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    path = tmp_path / "a.jpg"
    path.write_bytes(buffer.getvalue()[:2] + segment + buffer.getvalue()[2:])
    return path


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


# --- pixels ---------------------------------------------------------------------------------------


def test_pixels_and_texts_survive_the_round_trip(tmp_path: Path) -> None:
    texts = {"parameters": "line one\nline two: 1, 2", "naïve": "château", "other": "城 🏰"}
    write_png(tmp_path / "a.png", PIXELS, texts)
    assert np.array_equal(read_image(tmp_path / "a.png"), PIXELS)
    assert read_text(tmp_path / "a.png") == texts
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    with Image.open(tmp_path / "a.png") as image:  # as every other tool reads them
        image.load()
        assert image.info["parameters"] == texts["parameters"]
        assert image.info["other"] == texts["other"]


def test_every_kind_of_picture_becomes_rgb(tmp_path: Path) -> None:
    rgb, grey = Image.fromarray(PIXELS), Image.fromarray(PIXELS[..., 0])
    grey_as_rgb = np.repeat(PIXELS[..., :1], 3, axis=2)
    palette = rgb.quantize(16)
    sixteen = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 256 + 77)
    expected = {
        "rgb.bmp": (rgb, PIXELS),
        "rgb.tiff": (rgb, PIXELS),
        "grey.png": (grey, grey_as_rgb),
        "sixteen.png": (sixteen, grey_as_rgb),
        "sixteen.tiff": (sixteen, grey_as_rgb),
        "palette.png": (palette, np.asarray(palette.convert("RGB"))),
        "bits.png": (grey.convert("1"), np.asarray(grey.convert("1").convert("RGB"))),
        "cmyk.tiff": (rgb.convert("CMYK"), np.asarray(rgb.convert("CMYK").convert("RGB"))),
    }
    for name, (image, pixels) in expected.items():
        got = read_image(save(tmp_path / name, image))
        assert got.dtype == np.uint8 and got.shape == PIXELS.shape, name
        assert np.array_equal(got, pixels), name
    lossless = save(tmp_path / "a.webp", rgb, lossless=True)
    assert np.array_equal(read_image(lossless), PIXELS)
    assert read_image(save(tmp_path / "cmyk.jpg", rgb.convert("CMYK"))).shape == PIXELS.shape


def test_opaque_alpha_is_dropped_and_transparency_lies_over_white(tmp_path: Path) -> None:
    opaque = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 255, np.uint8)])
    clear = opaque.copy()
    clear[:4, :, 3] = 0
    assert np.array_equal(read_image(save(tmp_path / "o.png", Image.fromarray(opaque))), PIXELS)
    got = read_image(save(tmp_path / "c.png", Image.fromarray(clear)))
    assert (got[:4] == 255).all() and np.array_equal(got[4:], PIXELS[4:])
    grey = Image.fromarray(PIXELS[..., 0])
    keyed = read_image(save(tmp_path / "t.png", grey, transparency=int(PIXELS[0, 0, 0])))
    assert (keyed[0, 0] == 255).all()


def test_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    tag = Image.Exif()
    tag[0x0112] = 6
    turned = read_image(save(tmp_path / "a.png", image, exif=tag))
    assert np.array_equal(turned, np.rot90(PIXELS, -1))


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200)]
    for name in ("a.webp", "a.png"):
        save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], lossless=True)
        assert (read_image(tmp_path / name) == 10).all()


def test_bad_files_are_one_sentence_naming_the_file(tmp_path: Path) -> None:
    whole = png(size=(2, 1))
    broken = {
        "missing.png": None,
        "empty.png": b"",
        "words.png": b"this is no picture at all",
        "cut.png": whole[:50],
        "head.png": whole[:30],
        "huge.png": png(size=(60_000, 60_000)),
        "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).resize((200, 200)).save(buffer, "JPEG")
    broken["cut.jpg"] = buffer.getvalue()[:2000]
    Image.fromarray(PIXELS).convert("F").save(tmp_path / "float.tiff")
    broken["float.tiff"] = (tmp_path / "float.tiff").read_bytes()
    for name, data in broken.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value), name
        assert str(caught.value).endswith("."), name
    with pytest.raises(UserError, match="not a file"):
        read_image(tmp_path)


def test_an_oversized_text_does_not_hide_the_pixels(tmp_path: Path) -> None:
    bomb = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a" * (64 << 20), 9))
    path = tmp_path / "bomb.png"
    path.write_bytes(png(bomb, bomb))
    assert read_image(path).tolist() == [[[255, 0, 0], [0, 255, 0]]]
    start = time.process_time()
    assert len(read_text(path)["parameters"]) == MOST_TEXT
    assert time.process_time() - start < 2


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*a\.png"):
        write_png(tmp_path / "nowhere" / "a.png", PIXELS, {})
    write_png(tmp_path / "a.png", PIXELS, {})
    with pytest.raises(TypeError):
        write_png(tmp_path / "a.png", np.zeros((2, 2, 7), np.uint8), {})
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert np.array_equal(read_image(tmp_path / "a.png"), PIXELS)


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write"):
        write_png(tmp_path / "a.png", PIXELS, {})


# --- texts ----------------------------------------------------------------------------------------


def test_png_texts_of_all_three_kinds_before_and_after_the_pixels(tmp_path: Path) -> None:
    body = png(
        chunk(b"tEXt", b"plain\0caf\xe9"),
        chunk(b"tEXt", b"utf8\0" + "城".encode()),
        chunk(b"zTXt", b"packed\0\0" + zlib.compress(b"small")),
        chunk(b"iTXt", b"wide\0\0\0en\0\0" + "é城".encode()),
        chunk(b"iTXt", b"widepacked\0\1\0\0\0" + zlib.compress("é".encode())),
        chunk(b"tEXt", b"no separator"),
        chunk(b"zTXt", b"broken\0\0not deflate"),
        chunk(b"eXIf", exif(b"ASCII\0\0\0in a PNG")),
    )
    late = chunk(b"tEXt", b"late\0after the pixels")
    (tmp_path / "a.png").write_bytes(body[:-12] + late + body[-12:])
    assert read_text(tmp_path / "a.png") == {
        "plain": "café",
        "utf8": "城",
        "packed": "small",
        "wide": "é城",
        "widepacked": "é",
        "broken": "",
        "UserComment": "in a PNG",
        "late": "after the pixels",
    }


@pytest.mark.parametrize("order", [">", "<"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + "Steps: 20, 城".encode("utf-16-be"),
        b"UNICODE\0" + "Steps: 20, 城".encode("utf-16-le"),
        b"UNICODE\0" + "Steps: 20, 城".encode("utf-16"),
        b"ASCII\0\0\0" + "Steps: 20, 城".encode(),
        b"\0\0\0\0\0\0\0\0" + "Steps: 20, 城".encode(),
        "Steps: 20, 城".encode(),
    ],
)
def test_user_comments_in_jpeg_and_webp(tmp_path: Path, order: str, comment: bytes) -> None:
    block = exif(comment, order)
    assert read_text(jpeg(block, tmp_path)) == {"UserComment": "Steps: 20, 城"}
    webp = save(tmp_path / "a.webp", Image.fromarray(PIXELS), exif=b"Exif\0\0" + block)
    assert read_text(webp) == {"UserComment": "Steps: 20, 城"}


def test_a_user_comment_as_pillow_writes_it(tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x8769] = {0x9286: b"UNICODE\0" + "a <lora:x:1>".encode("utf-16-be")}
    path = save(tmp_path / "a.jpg", Image.fromarray(PIXELS), exif=tag, comment=b"hello")
    assert read_text(path) == {"UserComment": "a <lora:x:1>", "comment": "hello"}


def test_comfyui_texts_in_webp(tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x0110] = 'prompt:{"3": {}}'
    tag[0x010F] = 'workflow:{"nodes": []}'
    tag[0x010E] = "parameters:a dog, Steps: 20"
    path = save(tmp_path / "a.webp", Image.fromarray(PIXELS), exif=tag)
    assert read_text(path) == {
        "prompt": '{"3": {}}',
        "workflow": '{"nodes": []}',
        "parameters": "a dog, Steps: 20",
    }


def test_no_texts_is_no_error_but_no_file_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    assert read_text(tmp_path / "a.txt") == {}
    with pytest.raises(UserError, match="missing"):
        read_text(tmp_path / "missing.png")


WHOLE = png(
    chunk(b"tEXt", b"parameters\0a, Steps: 1"),
    chunk(b"zTXt", b"packed\0\0" + zlib.compress(b"small")),
    chunk(b"eXIf", exif(b"UNICODE\0" + "x".encode("utf-16-be"))),
)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=6))
def test_damaged_png_never_escapes(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int]]
) -> None:
    data = bytearray(WHOLE)
    for at, value in edits:
        data[at] = value
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    path.write_bytes(data)
    assert all(isinstance(value, str) for value in read_text(path).values())
    try:
        assert read_image(path).dtype == np.uint8
    except UserError as error:
        assert "damaged.png" in str(error)


# --- A1111's text ---------------------------------------------------------------------------------


def test_parameters_text_is_a1111s() -> None:
    text = parameters_text(
        prompt="a castle on a hill",
        negative="blurry, ugly",
        steps=20,
        sampler="dpmpp_2m_karras",
        guidance=7.0,
        seed=12345,
        width=512,
        height=768,
        model="dreamshaper_8",
        model_hash="6ce0161689",
        lora_name="castleLora",
        lora_hash="60129e9d06ab" + "0" * 52,
        strength=Decimal("0.60"),
        clip_skip=1,
        version="v1",
    )
    assert text == (
        "a castle on a hill <lora:castleLora:0.6>\n"
        "Negative prompt: blurry, ugly\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 12345, "
        "Size: 512x768, Model hash: 6ce0161689, Model: dreamshaper_8, Clip skip: 2, RNG: CPU, "
        'Lora hashes: "castleLora: 60129e9d06ab", Version: v1'
    )


def test_further_loras_stand_before_the_one_under_study() -> None:
    fixed = [("detail:er", "ab" * 32, Decimal("0.50")), ("light", "", Decimal(1))]
    text = parameters_text(
        "a dog", "", 4, "euler", 1.5, 1, 64, 64, "m", "", "style", "cd" * 32, Decimal("0.8"),
        fixed=fixed,
    )  # fmt: skip
    words, settings = text.splitlines()
    assert words == "a dog <lora:detail_er:0.5> <lora:light:1.0> <lora:style:0.8>"
    assert 'Lora hashes: "detail_er: abababababab, style: cdcdcdcdcdcd"' in settings
    control = parameters_text("a dog", "", 4, "euler", 1.5, 1, 64, 64, "m", fixed=fixed[:1])
    assert control.startswith("a dog <lora:detail_er:0.5>\n")


def test_parameters_text_of_a_control_has_no_lora() -> None:
    text = parameters_text("a dog", "", 4, "euler_a", 1.5, 1, 64, 64, "my, model: v2")
    assert text == (
        "a dog\nSteps: 4, Sampler: Euler a, Schedule type: Automatic, CFG scale: 1.5, Seed: 1, "
        'Size: 64x64, Model: "my, model: v2", RNG: CPU'
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("ddim", ("DDIM", "Automatic")),
        ("euler_karras", ("Euler", "Karras")),
        ("dpmpp_2m", ("DPM++ 2M", "Uniform")),
        ("dpmpp_2m_sde_karras", ("DPM++ 2M SDE", "Karras")),
        ("dpm2_a", ("DPM2 a", "Uniform")),
        ("brand_new", ("brand_new", "Automatic")),
    ],
)
def test_sampler_names(ours: str, theirs: tuple[str, str]) -> None:
    assert a1111_sampler(ours) == theirs


@pytest.mark.parametrize("content", [b"a text", b"<html>", b"PK\3\4zip", b"\0" * 64, b"GIF89"])
def test_what_is_no_picture_is_called_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "note.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read \((it is no picture|.*truncated)"):
        read_image(path)


def test_a_pair_of_a_camera_is_read_as_its_first_picture(tmp_path: Path) -> None:
    first, second = Image.fromarray(PIXELS), Image.fromarray(PIXELS[::-1])
    first.save(tmp_path / "pair.jpg", "MPO", save_all=True, append_images=[second])
    assert read_image(tmp_path / "pair.jpg").shape == PIXELS.shape
