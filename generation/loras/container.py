"""The safetensors container: a checked header, tensors as float32 arrays, digests.

A little-endian 64-bit length, that many bytes of JSON, then the tensors' bytes
(https://github.com/huggingface/safetensors#format). Only numpy is needed, nothing is ever
unpickled, and whatever is wrong with a file is one sentence.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from generation.errors import UserError
from generation.files import open_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: The reference implementation stops at 100 MB; LoRAs and whole models need less than 10. What a
#: header may cost in memory is bounded by its bytes and by its brackets (each becomes an object).
MAX_HEADER_BYTES = 32 << 20
MAX_BRACKETS = 1_000_000
MAX_KEY_LENGTH = 1000
#: Whole models have fewer than 10,000 tensors, LoRAs of every kind fewer than 7,000.
MAX_TENSORS = 20_000
#: No weight of these models has more axes than a 3-D convolution.
MAX_AXES = 8
_CHUNK = 1 << 20

_ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}
_NUMPY_NAMES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}


T = TypeVar("T")


def once_a_file(
    most: int, beside: str = ""
) -> Callable[[Callable[[Path], T]], Callable[[str | Path], T]]:
    """Remember what a function makes of the last `most` files for as long as they stay as they are.

    A file is known by its path, device, inode, size and times, and so is its neighbour of the name
    `beside`. What was written a moment ago is not remembered: it may change again within one tick
    of the file system's clock.
    """

    def decorate(read: Callable[[Path], T]) -> Callable[[str | Path], T]:
        kept: dict[tuple[object, ...], T] = {}

        @wraps(read)
        def remembered(path: str | Path) -> T:
            path = Path(path)
            marks = [_mark(path), _mark(path.with_name(beside)) if beside else ()]
            key = str(path), *marks
            if key in kept:
                return kept[key]
            value = read(path)
            newest = max((time for mark in marks for time in mark[-2:]), default=0)
            if marks[0] and time_ns() - newest > _TICK:
                if len(kept) >= most:
                    del kept[next(iter(kept))]
                kept[key] = value
            return value

        return remembered

    return decorate


#: Nanoseconds within which two changes of a file may bear one time (FAT's ticks are 2 s long).
_TICK = 2_500_000_000


def _mark(path: Path) -> tuple[int, ...]:
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return ()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


class TensorEntry(NamedTuple):
    """One tensor of the header: ``offsets`` count bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    offsets: tuple[int, int]


@dataclass(frozen=True)
class Header:
    """A checked safetensors header: the tensors tile the rest without gap or overlap."""

    path: Path
    metadata: dict[str, str]
    tensors: dict[str, TensorEntry]
    data_start: int


@once_a_file(most=64)
def read_header(path: Path) -> Header:
    """Read and check a safetensors header without touching the tensors.

    Raises ``UserError`` for anything that is not a complete safetensors file: missing, a folder,
    empty, truncated, a pickle (whatever its suffix), a web page, a Git LFS pointer.
    """
    size = _file_size(path)
    try:
        with open_file(path) as file:
            head = file.read(512)
            _refuse_other_formats(path, head, size)
            length = struct.unpack("<Q", head[:8])[0]
            if length < 2 or length > min(MAX_HEADER_BYTES, size - 8):
                claimed = f": its header claims {length:,} bytes and the file has {size:,}"
                why = claimed if 2 <= length <= MAX_HEADER_BYTES else ""
                raise UserError(
                    f"{show(path)} is not a safetensors file, or was cut off{why}; download or "
                    "save it again."
                )
            file.seek(8)
            text = file.read(length)
    except (OSError, ValueError) as error:
        raise UserError(f"{show(path)} cannot be read ({_reason(error)}).") from error
    if len(text) != length:
        raise UserError(f"{show(path)} ends within its header; download or save it again.")
    if text.count(b'"data_offsets"') > MAX_TENSORS:
        raise UserError(
            f"{show(path)} holds more than {MAX_TENSORS:,} tensors, which no LoRA and no model "
            "does; save it again with the program that made it."
        )
    content = _parse_header(path, text)
    metadata = _checked_metadata(content.pop("__metadata__", None))
    tensors = {key: _checked_entry(path, key, entry) for key, entry in content.items()}
    _check_layout(path, tensors, size - 8 - length)
    return Header(path, metadata, tensors, 8 + length)


def show(path: Path) -> str:
    """A path for an error's sentence."""
    return one_line(str(path))


def printable(text: str) -> str:
    """The text with lone surrogates replaced, so that it can always be encoded and saved."""
    return text.encode("utf-8", "replace").decode("utf-8")


def one_line(text: str) -> str:
    """The text without line breaks, terminal escapes and lone surrogates, for messages."""
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in text)


def _reason(error: Exception) -> str:
    return one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _file_size(path: Path) -> int:
    try:
        state = os.stat(path)
    except FileNotFoundError:
        raise UserError(f"{show(path)} does not exist; check the path.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{show(path)} cannot be read ({_reason(error)}).") from error
    if stat.S_ISDIR(state.st_mode):
        raise UserError(f"{show(path)} is a folder; name a .safetensors file in it.")
    if not stat.S_ISREG(state.st_mode):
        raise UserError(f"{show(path)} is not an ordinary file.")
    if state.st_size == 0:
        raise UserError(f"{show(path)} is empty (0 bytes); download or save it again.")
    return state.st_size


def _refuse_other_formats(path: Path, head: bytes, size: int) -> None:
    pickled = head[:4] == b"PK\x03\x04" or (
        head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"
    )
    # A pickle's second byte is its protocol; read as a length, "\x80\x02..." is a possible header
    # length, so the JSON's opening brace decides between them.
    if pickled and head[8:9] != b"{":
        raise UserError(
            f"{show(path)} is a pickle, which can run code; convert it to safetensors with the "
            "program that made it."
        )
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise UserError(
            f"{show(path)} is a web page, not a LoRA: the download probably asked for a login; "
            "download it again from a browser."
        )
    if start.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{show(path)} is a Git LFS pointer, not the LoRA itself; run `git lfs pull`, or "
            "download the file."
        )
    if start.startswith(b"gguf"):
        raise UserError(f"{show(path)} is a GGUF file; safetensors is needed.")
    if size < 10:
        raise UserError(f"{show(path)} is too short to be a safetensors file ({size} bytes).")
    if path.suffix.lower() in {".pt", ".ckpt", ".pth", ".bin"} and head[8:9] != b"{":
        raise UserError(
            f"{show(path)} is not safetensors; {path.suffix} files are usually pickles, which can "
            "run code, so convert it to safetensors with the program that made it."
        )
    if start.startswith((b'{"error', b'{"message', b"invalid", b"unauthorized", b"access")):
        raise UserError(
            f"{show(path)} holds a server's error message, not a LoRA; download it again."
        )


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    try:
        if text.count(b"[") + text.count(b"{") > MAX_BRACKETS:
            raise ValueError("too many values")
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{show(path)} is not a safetensors file: its header is not readable JSON; "
            "download or save it again."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{show(path)} is not a safetensors file: its header is no JSON object.")
    return {printable(key): value for key, value in content.items()}


def _checked_metadata(value: object) -> dict[str, str]:
    """Only text by the format's rules; what careless tools store otherwise is kept as text."""
    if not isinstance(value, dict):
        return {}
    return {printable(key): printable(as_text(item)) for key, item in value.items()}


def as_text(item: object) -> str:
    if isinstance(item, str):
        return item
    try:
        return json.dumps(item)
    except (ValueError, RecursionError):
        return ""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _checked_entry(path: Path, key: str, entry: object) -> TensorEntry:
    if isinstance(entry, dict):
        dtype, shape, offsets = (entry.get(name) for name in ("dtype", "shape", "data_offsets"))
        if (
            isinstance(dtype, str)
            and isinstance(shape, list)
            and len(shape) <= MAX_AXES
            and len(key) <= MAX_KEY_LENGTH
            and all(map(_is_count, shape))
            and isinstance(offsets, list)
            and len(offsets) == 2
            and all(map(_is_count, offsets))
        ):
            if dtype not in _ITEM_BYTES:
                raise UserError(
                    f"{show(path)} stores {shorten(key)} as {shorten(dtype)}, which is not "
                    "supported; save it as F16, BF16 or F32."
                )
            begin, end = offsets
            if end - begin == math.prod(shape) * _ITEM_BYTES[dtype]:
                return TensorEntry(dtype, tuple(shape), (begin, end))
    raise UserError(
        f"{show(path)} has a damaged header: the entry of {shorten(key)} makes no sense; "
        "download or save it again."
    )


def _check_layout(path: Path, tensors: Mapping[str, TensorEntry], data_bytes: int) -> None:
    """The tensors must tile the data exactly, as the format demands: no overlap, no hole."""
    if not tensors:
        raise UserError(f"{show(path)} holds no tensors.")
    at = 0
    for key, entry in sorted(tensors.items(), key=lambda item: item[1].offsets):
        begin, end = entry.offsets
        if begin != at:
            raise UserError(
                f"{show(path)} has a damaged header: {shorten(key)} "
                f"{'overlaps another tensor' if begin < at else 'leaves a hole before it'}; "
                "download or save it again."
            )
        at = end
    if at > data_bytes:
        raise UserError(
            f"{show(path)} is truncated: {at} bytes of tensors are announced and "
            f"{data_bytes} are there; download or save it again."
        )
    if at < data_bytes:
        raise UserError(
            f"{show(path)} has {data_bytes - at} bytes that belong to no tensor; "
            "download or save it again."
        )


def shorten(text: str, limit: int = 100) -> str:
    text = one_line(text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"


@once_a_file(most=1000)
def tensor_hash(path: Path) -> str:
    """SHA-256 (64 hex digits) of the bytes after the header, kohya's ``sshs_model_hash``.

    Renaming the file or editing its metadata leaves it as it is; A1111 shows its first 12 digits.
    """
    header = read_header(path)
    return _digest(header.path, header.data_start)


@once_a_file(most=1000)
def sha256(path: Path) -> str:
    """SHA-256 (64 hex digits) of the whole file."""
    _file_size(path)
    return _digest(path, 0)


def _digest(path: Path, start: int) -> str:
    digest = hashlib.sha256()
    try:
        with open_file(path) as file:
            file.seek(start)
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"{show(path)} cannot be read ({_reason(error)}).") from error
    return digest.hexdigest()


def read_tensors(
    path: str | Path, keys: Iterable[str] | None = None, *, header: Header | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors (all, or ``keys``) as float32 arrays, in their stored shapes.

    Only what is asked for is read. Raises ``UserError`` naming the
    key when a value is NaN or infinite: such a LoRA paints noise at any strength, even at 0.
    """
    header = header or read_header(path)
    tensors = {}
    for key, array in iterate_tensors(header, keys):
        if not all_finite(array):
            raise UserError(
                f"{show(header.path)} holds NaN or infinite values in {shorten(key)}: training "
                "diverged or the file is damaged; use an earlier checkpoint."
            )
        tensors[key] = array
    return tensors


def all_finite(array: npt.NDArray[np.float32]) -> bool:
    """Whether no value is NaN or infinite; NaN and infinity both survive min() or max()."""
    import numpy as np

    return array.size == 0 or bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def iterate_tensors(
    header: Header, keys: Iterable[str] | None
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """(key, float32 array) one at a time, in the order given; NaN and infinity pass through.

    Plain reads, no memory map: a file that is cut while it is mapped would kill the process.
    """
    import numpy as np

    try:
        with open_file(header.path) as file:
            for key in header.tensors if keys is None else keys:
                entry = header.tensors[key]
                begin, end = entry.offsets
                data = np.empty(end - begin, np.uint8)
                file.seek(header.data_start + begin)
                if file.readinto(data.data) != data.size:
                    raise UserError(
                        f"{show(header.path)} was cut off while it was read; save it again."
                    )
                yield key, _decode(header.path, key, entry, data)
    except OSError as error:
        raise UserError(f"{show(header.path)} cannot be read ({_reason(error)}).") from error


def _decode(
    path: Path, key: str, entry: TensorEntry, data: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    import numpy as np

    if entry.dtype == "BF16":
        values = (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    elif entry.dtype == "F8_E5M2":
        # The upper byte of an IEEE half.
        values = (data.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    elif entry.dtype == "F8_E4M3":
        values = _e4m3_values()[data]
    elif entry.dtype in _NUMPY_NAMES:
        with np.errstate(over="ignore", invalid="ignore"):
            values = data.view(_NUMPY_NAMES[entry.dtype]).astype(np.float32, copy=False)
    else:
        raise UserError(
            f"{show(path)} stores {shorten(key)} as {entry.dtype}, which is not supported; "
            "save it as F16, BF16 or F32."
        )
    return values.reshape(entry.shape)


def _e4m3_values() -> npt.NDArray[np.float32]:
    """The 256 values of FP8 E4M3FN: bias 7, no infinities (Micikevicius et al. 2022, table 1)."""
    import numpy as np

    code = np.arange(256)
    sign = np.where(code & 0x80, -1.0, 1.0)
    exponent, mantissa = (code >> 3) & 15, code & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    values = sign * np.where(exponent == 0, mantissa / 8 * 2.0**-6, normal)
    values[(code & 0x7F) == 0x7F] = np.nan
    return values.astype(np.float32)
