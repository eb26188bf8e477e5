"""Values in untrusted texts: lengths are bounded, numbers checked, and nesting too deep for the
JSON reader counts as no JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

from generation.values import decimal_within

LONGEST_TEXT = 256 * 1024
"""Characters of one prompt or settings line that are parsed."""

LONGEST_JSON = 4 << 20

MOST_LORAS = 64
_SIZE = re.compile(r"\s*(\d{1,6})\s*[x×]\s*(\d{1,6})\s*$")
_HEX = re.compile(r"^(?:0x)?([0-9a-f]{8,64})$", re.I)
_NO_HASH = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",  # SHA-256 of no bytes
    "da39a3ee5e6b4b0d3255bfef95601890afd80709",  # SHA-1
    "d41d8cd98f00b204e9800998ecf8427e",  # MD5
    "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",  # BLAKE3
    "0" * 64,
    "f" * 64,
)
"""Hashes of nothing: tools write them where a file could not be read."""


def load_json(text: str) -> Any:
    """The JSON value, None if it is none, too long or too deep. Long integers become None."""
    if not text or len(text) > LONGEST_JSON:
        return None
    try:
        return json.loads(text, parse_int=_bounded_int, parse_constant=lambda _: None)
    except (ValueError, RecursionError, MemoryError):
        return None


def _bounded_int(digits: str) -> int | None:
    return int(digits) if len(digits) <= 21 else None  # 2^64 and its sign


def decimal(value: object) -> Decimal | None:
    """A strength as an exact decimal with at most 4 digits after the point, else None.

    Sliders store 0.7500000000000001 for 0.75. Strengths beyond +-1000 are taken for damage.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        return None
    text = str(value).strip()
    if len(text) > 40:
        return None
    number = decimal_within(text, 1000)
    if number is None:
        return None
    number = round(number, 4).normalize()
    return number if number else Decimal(0)


def number_text(value: object) -> str:
    """A number as comparable text ("7" for 7.0 and "7.00"); other short texts as they are."""
    number = decimal(value)
    if number is not None:
        return format(number, "f")
    whole_number = whole(value)
    return string(value)[:200] if whole_number is None else str(whole_number)


def whole(value: object) -> int | None:
    """A seed: a whole number below 2^64 in magnitude, else None."""
    if isinstance(value, str) and re.fullmatch(r"\s{0,9}-?\d{1,20}(?:\.0)?\s{0,9}", value):
        value = int(value.strip().removesuffix(".0"))
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**64:
        return None
    return value


def string(value: object) -> str:
    """A text (a list's entries joined), "" for anything else."""
    if isinstance(value, list):
        value = ", ".join(entry for entry in value[:100] if isinstance(entry, str))
    return value[:LONGEST_TEXT] if isinstance(value, str) else ""


def model_name(value: object) -> str:
    """A model's name from a path of any system: no folder, no file ending."""
    name = PurePosixPath(string(value)[:4096].replace("\\", "/")).name
    return re.sub(r"\.(?:safetensors|ckpt|pt|pth|bin|gguf|sft)$", "", name, flags=re.I)


def hash_text(value: object) -> str:
    """Hex digits in lower case without 0x, "" for anything else and for the hash of nothing."""
    match = _HEX.match(string(value)[:80].strip())
    digest = match[1].lower() if match else ""
    return "" if any(nothing.startswith(digest) for nothing in _NO_HASH) else digest


def tidy(prompt: str) -> str:
    """A prompt with single blanks and no empty places between commas, for comparing."""
    prompt = re.sub(r"\s+", " ", prompt[:LONGEST_TEXT])
    parts = [part.strip() for part in prompt.split(",")]
    return ", ".join(part for part in parts if part)


def shortened(text: str) -> str:
    """A text of any length as one that can be compared, at most 200 characters long."""
    if len(text) <= 200:
        return text
    return f"{text[:100]}... {hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:16]}"


def size_text(text: str) -> str:
    match = _SIZE.match(text[:40])
    return f"{int(match[1])}x{int(match[2])}" if match else ""


def size_of(width: object, height: object) -> str:
    w, h = whole(width), whole(height)
    return f"{w}x{h}" if w and h else ""


def short_settings(settings: Mapping[str, str]) -> dict[str, str]:
    return {key: shortened(value) for key, value in settings.items() if value}
