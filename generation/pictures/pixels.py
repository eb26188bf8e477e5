"""Pictures and their texts: safe decoding, atomic PNG writing, A1111's `parameters` text.

Nothing here trusts a file. Sizes are checked before memory is asked for, a compressed text is
inflated no further than its limit, and whatever a decoder raises becomes one `UserError`.
"""

from __future__ import annotations

import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from generation.errors import UserError
from generation.files import open_file, read_file, replacing

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
"""File name endings (lower case) that are taken for pictures."""

MOST_PIXELS = 100_000_000
"""A picture with more pixels is refused before it is decoded (10 000 x 10 000)."""

MOST_GRID_PIXELS = 200_000_000
"""The same for a picture that is cut into parts: A1111's own limit for grids."""

MOST_BYTES = 1 << 30
"""A larger file is refused unread."""

MOST_TEXT = 8 << 20
"""Bytes kept of one text, after decompression; ComfyUI workflows reach a few hundred KB."""

MOST_TEXTS = 64
MOST_CHUNKS = 100_000

Pixels = npt.NDArray[np.uint8]
"""A picture: uint8, RGB (H, W, 3) unless said otherwise, 0 to 255."""

Box = tuple[int, int, int, int]

# Only raster formats whose decoders run inside this process: Pillow would hand EPS to Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")

_COMFY_ENTRY = re.compile(rb"(prompt(?=:\s*\{)|workflow(?=:\s*\{)|parameters):", re.I)

_PNG = b"\x89PNG\r\n\x1a\n"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")

# EXIF tag 274 -> how to turn the stored picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path) -> Pixels:
    """The picture as uint8 RGB, shape (height, width, 3).

    Grey, palette, CMYK and 16-bit pictures are converted (16-bit by its high byte); an opaque
    alpha channel is dropped and a transparent one is laid over white, as a browser shows it. EXIF
    orientation is applied, colour profiles are not. An animation gives its first frame.

    Raises UserError, naming the file, if it is missing, unreadable, truncated, not a picture, holds
    floating-point pixels, or has more than `MOST_PIXELS`.
    """
    return decode_image(_file_bytes(path), path)


def decode_image(data: bytes, path: Path = Path("The picture")) -> Pixels:
    """A picture file's bytes as `read_image` gives them; `path` names it in errors."""
    with _decoded(data, path, MOST_PIXELS) as image:
        return _rgb(image, path)


def read_channels(path: Path) -> Pixels:
    """A PNG's red, green, blue and alpha, if any, as they are stored: uint8 (H, W, 3 or 4).

    Empty, (0, 0, 3), for other formats and pixels. Raises UserError as `read_image` does.
    """
    data = _file_bytes(path)
    if data.startswith(_PNG):
        with _decoded(data, path, MOST_PIXELS) as image:
            if image.mode in ("RGB", "RGBA"):
                return np.asarray(image)
    return np.empty((0, 0, 3), np.uint8)


@contextmanager
def parts_of(path: Path) -> Iterator[tuple[int, int, Callable[[Box], Pixels]]]:
    """Width, height and a function that gives the part (left, top, right, bottom) of a picture of
    at most `MOST_GRID_PIXELS`, as from `read_image`. No second copy of the picture is held.
    """
    with _decoded(_file_bytes(path), path, MOST_GRID_PIXELS) as image:
        yield *image.size, lambda box: _rgb(image.crop(box), path)


@contextmanager
def _decoded(data: bytes, path: Path, most: int) -> Iterator[Image.Image]:
    """The decoded picture; whatever goes wrong, in here too, is one UserError."""
    if data.startswith(_PNG):
        # Pillow refuses a whole picture over one oversized text; the pixels do not depend on it.
        data = _without_texts(data)
    try:
        with warnings.catch_warnings(), _pillow_allows(most):
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data), formats=_FORMATS) as image:
                width, height = image.size
                if width * height > most:
                    raise UserError(
                        f"{path} has {width} x {height} pixels, more than {most:,}; scale it down."
                    )
                image.load()
                yield image
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(f"{path} has more than {most:,} pixels; scale it down.") from None
    except MemoryError:
        raise UserError(f"{path} does not fit into memory; scale it down.") from None
    except Exception as error:  # decoders raise a dozen kinds on damaged files
        unknown = isinstance(error, UnidentifiedImageError) or error.args == ("AVIF",)
        why = "it is no picture" if unknown else error  # "AVIF": a Pillow that cannot read it
        raise UserError(
            f"{path} cannot be read ({_short(str(why))}); save it again or remove it."
        ) from None


@contextmanager
def _pillow_allows(most: int) -> Iterator[None]:
    """Let Pillow open what is checked here anyway; by itself it refuses 179 million pixels."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max(before or 0, most)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def write_png(path: Path, array: Pixels, text: Mapping[str, str]) -> None:
    """Write uint8 pixels (HxWx3, or HxW for grey) with text chunks, whole or not at all.

    Texts become tEXt, or iTXt where Latin-1 cannot hold them. Compression level 1: measured on
    512 x 512 photographs, 3 times faster than the usual 6 for a tenth more bytes. Raises UserError
    if the folder cannot be written to.
    """
    write_bytes(path, encode_png(array, text))


def encode_png(array: Pixels, text: Mapping[str, str]) -> bytes:
    """The bytes of a PNG file with these pixels and texts, as `write_png` writes it."""
    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, _encodable(value))
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8)).save(
        file, "PNG", compress_level=1, pnginfo=info
    )
    return file.getvalue()


def with_text(png: bytes, key: str, text: str) -> bytes:
    """The PNG file with one more text chunk (ASCII), in front of its pixels.

    Raises ValueError for what is no PNG file.
    """
    if not png.startswith(_PNG) or png[12:16] != b"IHDR":
        raise ValueError("not a PNG file")
    body = b"tEXt" + key.encode("ascii") + b"\0" + text.encode("ascii")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    head = 8 + 25  # the signature and the header chunk, which comes first and has one size
    return png[:head] + chunk + png[head:]


def write_bytes(path: Path, png: bytes) -> None:
    """Write a PNG file's bytes, whole or not at all. Raises UserError if it cannot be written."""
    try:
        with replacing(path) as file:
            file.write(png)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}); check the folder and the disk space."
        ) from None


def _encodable(text: str) -> str:
    """The text without zero bytes, and with halves of code points spelled out (docs/report.md)."""
    return text.replace("\0", "").encode("utf-8", "backslashreplace").decode("utf-8")


def read_text(path: Path) -> dict[str, str]:
    """The texts inside a picture, without decoding its pixels.

    PNG: every tEXt, zTXt and iTXt chunk under its keyword. EXIF (PNG, JPEG, WebP, AVIF): the user
    comment under "UserComment", the software under "Software", and "prompt:{...}",
    "workflow:{...}" and "parameters:...", as ComfyUI's nodes write them into WebP, under those
    names. XMP: "XML:com.adobe.xmp". JPEG comments: "comment". A text is cut at `MOST_TEXT` bytes,
    damaged parts are skipped, and other files have no texts. Raises UserError if the file cannot
    be opened.
    """
    texts: dict[str, str] = {}
    try:
        with open_file(path) as file:
            head = file.read(12)
            size = os.fstat(file.fileno()).st_size
            if head.startswith(_PNG):
                found = _png_texts(file)
            elif head.startswith(b"\xff\xd8"):
                found = _jpeg_texts(file)
            elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
                found = _webp_texts(file)
            elif head[4:8] == b"ftyp":
                found = _avif_texts(path)
            else:
                return {}
            total = 0
            for key, value in found:
                texts.setdefault(key, value)
                total += len(value)
                if len(texts) >= MOST_TEXTS or total > 4 * MOST_TEXT or file.tell() > size:
                    break
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from None
    return texts


def read_size(path: Path) -> tuple[int, int] | None:
    """(width, height) from the header, None if it is no readable picture. Nothing is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_file(path) as file, Image.open(file, formats=_FORMATS) as image:
                size: tuple[int, int] = image.size
                return size
    except Exception:  # as in read_image
        return None


# --- pixels ---------------------------------------------------------------------------------------


def _file_bytes(path: Path) -> bytes:
    try:
        data = read_file(path, MOST_BYTES)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is not a file.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from None
    if not data:
        raise UserError(f"{path} is empty; save it again or remove it.")
    return data


def _without_texts(data: bytes) -> bytes:
    kept, start, at = [], 0, len(_PNG)
    for _ in range(MOST_CHUNKS):
        if at + 12 > len(data):
            break
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 12 + length
        if data[at + 4 : at + 8] in _TEXT_CHUNKS and end <= len(data):
            kept.append(data[start:at])
            start = end
        at = end
    return b"".join([*kept, data[start:]]) if kept else data


def _rgb(image: Image.Image, path: Path) -> Pixels:
    turn = _UPRIGHT.get(_orientation(image))
    picture: Image.Image = image
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        if values.dtype.itemsize > 2 and image.format != "PNG":
            raise UserError(f"{path} has 32-bit pixels; save it with 8 bits per channel.")
        picture = Image.fromarray((np.clip(values, 0, 65535) >> 8).astype(np.uint8))
    elif picture.mode == "F":
        raise UserError(f"{path} has floating-point pixels; save it with 8 bits per channel.")
    if "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        if layered.getchannel("A").getextrema() != (255, 255):
            white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
            layered = Image.alpha_composite(white, layered)
        picture = layered
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    if turn is not None:
        picture = picture.transpose(turn)
    return np.array(picture, dtype=np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF: show the picture as it is stored
        return 1


# --- texts ----------------------------------------------------------------------------------------


def _png_texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    file.seek(len(_PNG))
    for _ in range(MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"IEND":
            return
        if kind in _TEXT_CHUNKS or kind == b"eXIf":
            data = file.read(min(length, MOST_TEXT))
            file.seek(length - len(data) + 4, os.SEEK_CUR)
            if kind == b"eXIf":
                yield from _exif_texts(data)
            elif (text := _png_text(kind, data)) is not None:
                yield text
        else:
            file.seek(length + 4, os.SEEK_CUR)


def _png_text(kind: bytes, data: bytes) -> tuple[str, str] | None:
    key, nul, rest = data.partition(b"\0")
    if not nul or not 1 <= len(key) <= 79:  # the PNG specification's limits
        return None
    if kind == b"tEXt":
        return key.decode("latin-1"), _latin_or_utf8(rest)
    if kind == b"zTXt":
        return key.decode("latin-1"), _latin_or_utf8(_inflate(rest[1:]))
    compressed, rest = rest[:1] == b"\1", rest[2:]
    _language, _, rest = rest.partition(b"\0")
    _translated, _, rest = rest.partition(b"\0")
    value = _inflate(rest) if compressed else rest
    return key.decode("latin-1"), value.decode("utf-8", "replace")


def _latin_or_utf8(data: bytes) -> str:
    """tEXt is Latin-1 by its specification, but several writers put UTF-8 there."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _inflate(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MOST_TEXT)
    except zlib.error:
        return b""


def _jpeg_texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    file.seek(2)
    for _ in range(MOST_CHUNKS):
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] in (0xD9, 0xDA):
            return
        length = int.from_bytes(head[2:], "big") - 2
        if length < 0:
            return
        if head[1] == 0xE1:
            data = file.read(length)
            if data.startswith(b"Exif\0\0"):
                yield from _exif_texts(data[6:])
            elif data.startswith(_XMP):
                yield "XML:com.adobe.xmp", data[len(_XMP) :].decode("utf-8", "replace")
        elif head[1] == 0xFE:
            yield "comment", _latin_or_utf8(file.read(length))
        else:
            file.seek(length, os.SEEK_CUR)


def _webp_texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    file.seek(12)
    for _ in range(MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"EXIF":
            data = file.read(min(length, MOST_TEXT))
            yield from _exif_texts(data.removeprefix(b"Exif\0\0"))
            file.seek(length - len(data) + length % 2, os.SEEK_CUR)
        elif head[:4] == b"XMP ":
            data = file.read(min(length, MOST_TEXT))
            yield "XML:com.adobe.xmp", data.decode("utf-8", "replace")
            file.seek(length - len(data) + length % 2, os.SEEK_CUR)
        else:
            file.seek(length + length % 2, os.SEEK_CUR)


def _avif_texts(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with open_file(path) as file, Image.open(file, formats=("AVIF",)) as image:
            exif, xmp = image.info.get("exif"), image.info.get("xmp")
    except Exception:  # as in read_image
        return
    if isinstance(exif, bytes):
        yield from _exif_texts(exif[:MOST_TEXT].removeprefix(b"Exif\0\0"))
    if isinstance(xmp, bytes):
        yield "XML:com.adobe.xmp", xmp[:MOST_TEXT].decode("utf-8", "replace")


def _exif_texts(data: bytes) -> Iterator[tuple[str, str]]:
    """Texts of an EXIF block (a TIFF structure): IFD 0 and the EXIF IFD, at most 512 entries."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return
    folders = [struct.unpack_from(order + "I", data, 4)[0]]
    for _ in range(2):
        if not folders:
            return
        at = folders.pop()
        if at + 2 > len(data):
            return
        (count,) = struct.unpack_from(order + "H", data, at)
        for entry in range(min(count, 512)):
            place = at + 2 + 12 * entry
            if place + 12 > len(data):
                break
            tag, kind, size, value = struct.unpack_from(order + "HHII", data, place)
            if tag == 0x8769:
                folders.append(value)
                continue
            if kind not in (1, 2, 7) or size > len(data):  # 7 by the standard; Pillow writes 1
                continue
            raw = data[place + 8 : place + 8 + size] if size <= 4 else data[value : value + size]
            if tag == 0x9286:
                yield "UserComment", _user_comment(raw, order)
            elif tag == 0x0131:
                yield "Software", _latin_or_utf8(raw.rstrip(b"\0"))
            elif kind == 2 and (match := _COMFY_ENTRY.match(raw)):
                name = match[1].decode().lower()
                yield name, raw[match.end() :].rstrip(b"\0").decode("utf-8", "replace")


def _user_comment(raw: bytes, order: str) -> str:
    """EXIF 2.3, tag 37510: eight bytes name the encoding.

    "UNICODE" leaves the byte order open: piexif (and so A1111) writes big-endian whatever the
    block's own order, others write little-endian. ASCII letters give it away: their zero byte
    comes first in one and second in the other.
    """
    code, body = raw[:8], raw[8:]
    if code == b"UNICODE\0":
        if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return body.decode("utf-16", "replace").rstrip("\0")
        even, odd = body[0::2].count(0), body[1::2].count(0)
        if even != odd:
            order = ">" if even > odd else "<"
        return body.decode("utf-16-be" if order == ">" else "utf-16-le", "replace").rstrip("\0")
    if code == b"JIS\0\0\0\0\0":
        return body.decode("iso2022_jp", "replace").rstrip("\0")
    if code not in (b"ASCII\0\0\0", b"\0" * 8):
        body = raw
    return _latin_or_utf8(body.strip(b"\0"))


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."
