"""Read a LoRA file: header, format, base family, rank, alpha, training metadata, digests.

Only numpy is needed. The file is never unpickled, and only its header is read unless tensors or
digests are asked for. Container: a little-endian 64-bit length, that many bytes of JSON, then the
tensors' bytes (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from generation.errors import UserError

if TYPE_CHECKING:
    import numpy as np

#: The reference implementation refuses longer headers, so no valid file has one.
MAX_HEADER_BYTES = 100_000_000
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


@dataclass(frozen=True)
class LoraInfo:
    """What a LoRA file says about itself, from its header and its scalar alphas.

    ``format`` is one of kohya-lora, kohya-locon, loha, lokr, dora, glora, oft, ia3, full, norm,
    diffusers, peft, ai-toolkit, onetrainer, comfyui; ``layout`` says how the keys are spelt
    (kohya, diffusers, peft, comfyui). ``scales`` are the effective alpha / rank, ``None`` in
    ``alphas`` means that the file stores no alpha, so that alpha is taken as rank.
    ``epoch`` and ``step`` are as stored: kohya's step saves store the epoch from 0.
    """

    path: Path
    format: str
    layout: str
    family: str | None
    base_model: str | None
    ranks: tuple[int, ...]
    alphas: tuple[float | None, ...]
    scales: tuple[float, ...]
    modules: int
    touches: tuple[str, ...]
    unsupported: tuple[str, ...]
    trainer: str | None
    epoch: int | None
    step: int | None
    trigger_words: tuple[str, ...]
    resolution: tuple[int, int] | None
    prediction_type: str | None
    metadata: dict[str, str]

    @property
    def alpha_assumed(self) -> bool:
        """True when some low-rank module stores no alpha, so that alpha = rank is a guess."""
        return None in self.alphas

    @property
    def rank(self) -> int | None:
        """The largest rank, or None for a file without low-rank factors."""
        return max(self.ranks, default=None)

    def summary(self) -> str:
        """One line for people: format, family, rank, alpha, scale, parts."""
        words = [_FORMAT_NAMES[self.format], FAMILY_NAMES.get(self.family or "", "unknown base")]
        if self.ranks:
            words.append("rank " + _span(self.ranks))
            stored = [alpha for alpha in self.alphas if alpha is not None]
            words.append("alpha " + (_span(stored) if stored else "not stored (taken as rank)"))
        if self.scales:
            words.append("scale " + _span(self.scales))
        words.append("touches " + ", ".join(PART_NAMES[part] for part in self.touches))
        return ", ".join(words)


@dataclass(frozen=True)
class Scan:
    """What the tensors show: keys with NaN or infinity, modules that are exactly zero."""

    non_finite: tuple[str, ...]
    zero_modules: tuple[str, ...]
    modules: int

    @property
    def untrained(self) -> bool:
        """True when every module is exactly zero, as before the first optimiser step."""
        return self.modules > 0 and len(self.zero_modules) == self.modules


_FORMAT_NAMES = {
    "kohya-lora": "kohya LoRA",
    "kohya-locon": "kohya LoCon",
    "loha": "LoHa",
    "lokr": "LoKr",
    "dora": "DoRA",
    "glora": "GLoRA",
    "oft": "OFT",
    "ia3": "IA3",
    "full": "full difference",
    "norm": "norm difference",
    "diffusers": "diffusers LoRA",
    "peft": "peft LoRA",
    "ai-toolkit": "ai-toolkit LoRA",
    "onetrainer": "OneTrainer LoRA",
    "comfyui": "ComfyUI LoRA",
}
FAMILY_NAMES = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
    "sd3": "Stable Diffusion 3",
    "flux": "FLUX.1",
}
PART_NAMES = {
    "unet": "UNet",
    "transformer": "transformer",
    "te": "text encoder",
    "te2": "second text encoder",
    "te3": "third text encoder",
}


def _span(values: Iterable[float]) -> str:
    shown = sorted(set(values))
    if len(shown) == 1:
        return f"{shown[0]:g}"
    return f"{shown[0]:g} to {shown[-1]:g}"


# ---------------------------------------------------------------------------------------------
# The container


def read_header(path: str | Path) -> Header:
    """Read and check a safetensors header without touching the tensors.

    Raises ``UserError`` for anything that is not a complete safetensors file: missing, a folder,
    empty, truncated, a pickle (whatever its suffix), a web page, a Git LFS pointer.
    """
    path = Path(path)
    size = _file_size(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
            _refuse_other_formats(path, head, size)
            length = struct.unpack("<Q", head[:8])[0]
            if length < 2 or length > min(MAX_HEADER_BYTES, size - 8):
                raise UserError(
                    f"{_show(path)} is not a safetensors file, or was cut off: its header claims "
                    f"{length} bytes and the file has {size}; download or save it again."
                )
            file.seek(8)
            text = file.read(length)
    except (OSError, ValueError) as error:
        raise UserError(f"{_show(path)} cannot be read ({_reason(error)}).") from error
    if len(text) != length:
        raise UserError(f"{_show(path)} ends within its header; download or save it again.")
    content = _parse_header(path, text)
    metadata = _checked_metadata(content.pop("__metadata__", None))
    tensors = {key: _checked_entry(path, key, entry) for key, entry in content.items()}
    _check_layout(path, tensors, size - 8 - length)
    return Header(path, metadata, tensors, 8 + length)


def _show(path: Path) -> str:
    return printable(str(path))


def printable(text: str) -> str:
    """The text with lone surrogates replaced, so that it can always be printed and saved."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _reason(error: Exception) -> str:
    return printable(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _file_size(path: Path) -> int:
    try:
        state = os.stat(path)
    except FileNotFoundError:
        raise UserError(f"{_show(path)} does not exist.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{_show(path)} cannot be read ({_reason(error)}).") from error
    if stat.S_ISDIR(state.st_mode):
        raise UserError(f"{_show(path)} is a folder; name a .safetensors file in it.")
    if not stat.S_ISREG(state.st_mode):
        raise UserError(f"{_show(path)} is not an ordinary file.")
    if state.st_size == 0:
        raise UserError(f"{_show(path)} is empty (0 bytes); download or save it again.")
    return state.st_size


def _refuse_other_formats(path: Path, head: bytes, size: int) -> None:
    pickled = head[:4] == b"PK\x03\x04" or (
        head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"
    )
    # A pickle's second byte is its protocol; read as a length, "\x80\x02..." is a possible header
    # length, so the JSON's opening brace decides between them.
    if pickled and head[8:9] != b"{":
        raise UserError(
            f"{_show(path)} is a pickle, which can run code; convert it to safetensors with the "
            "program that made it."
        )
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise UserError(
            f"{_show(path)} is a web page, not a LoRA: the download probably asked for a login; "
            "download it again from a browser."
        )
    if start.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{_show(path)} is a Git LFS pointer, not the LoRA itself; run `git lfs pull`, or "
            "download the file."
        )
    if start.startswith(b"gguf"):
        raise UserError(f"{_show(path)} is a GGUF file; a LoRA in safetensors is needed.")
    if size < 10:
        raise UserError(f"{_show(path)} is too short to be a safetensors file ({size} bytes).")
    if path.suffix.lower() in {".pt", ".ckpt", ".pth", ".bin"} and head[8:9] != b"{":
        raise UserError(
            f"{_show(path)} is not safetensors; {path.suffix} files are usually pickles, which can "
            "run code, so convert it to safetensors with the program that made it."
        )
    if start.startswith((b'{"error', b'{"message', b"invalid", b"unauthorized", b"access")):
        raise UserError(
            f"{_show(path)} holds a server's error message, not a LoRA; download it again."
        )


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{_show(path)} is not a safetensors file: its header is not readable JSON; "
            "download or save it again."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{_show(path)} is not a safetensors file: its header is no JSON object.")
    return {printable(key): value for key, value in content.items()}


def _checked_metadata(value: object) -> dict[str, str]:
    """Only text by the format's rules; what careless tools store otherwise is kept as text."""
    if not isinstance(value, dict):
        return {}
    return {printable(key): printable(_as_text(item)) for key, item in value.items()}


def _as_text(item: object) -> str:
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
            and all(map(_is_count, shape))
            and isinstance(offsets, list)
            and len(offsets) == 2
            and all(map(_is_count, offsets))
        ):
            if dtype not in _ITEM_BYTES:
                raise UserError(
                    f"{_show(path)} stores {_shorten(key)} as {_shorten(dtype)}, which is not "
                    "supported; save it as F16, BF16 or F32."
                )
            begin, end = offsets
            if end - begin == math.prod(shape) * _ITEM_BYTES[dtype]:
                return TensorEntry(dtype, tuple(shape), (begin, end))
    raise UserError(
        f"{_show(path)} has a damaged header: the entry of {_shorten(key)} makes no sense; "
        "download or save it again."
    )


def _check_layout(path: Path, tensors: Mapping[str, TensorEntry], data_bytes: int) -> None:
    """The tensors must tile the data exactly, as the format demands: no overlap, no hole."""
    if not tensors:
        raise UserError(f"{_show(path)} holds no tensors.")
    at = 0
    for key, entry in sorted(tensors.items(), key=lambda item: item[1].offsets):
        begin, end = entry.offsets
        if begin != at:
            raise UserError(
                f"{_show(path)} has a damaged header: {_shorten(key)} "
                f"{'overlaps another tensor' if begin < at else 'leaves a hole before it'}; "
                "download or save it again."
            )
        at = end
    if at > data_bytes:
        raise UserError(
            f"{_show(path)} is truncated: {at} bytes of tensors are announced and "
            f"{data_bytes} are there; download or save it again."
        )
    if at < data_bytes:
        raise UserError(
            f"{_show(path)} has {data_bytes - at} bytes that belong to no tensor; "
            "download or save it again."
        )


def _shorten(text: str, limit: int = 100) -> str:
    text = printable(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def tensor_hash(path: str | Path) -> str:
    """SHA-256 (64 hex digits) of the bytes after the header, kohya's ``sshs_model_hash``.

    Renaming the file or editing its metadata leaves it as it is; A1111 shows its first 12 digits.
    """
    header = read_header(path)
    return _digest(header.path, header.data_start)


def sha256(path: str | Path) -> str:
    """SHA-256 (64 hex digits) of the whole file."""
    path = Path(path)
    _file_size(path)
    return _digest(path, 0)


def _digest(path: Path, start: int) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            file.seek(start)
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"{_show(path)} cannot be read ({_reason(error)}).") from error
    return digest.hexdigest()


def read_tensors(
    path: str | Path, keys: Iterable[str] | None = None, *, header: Header | None = None
) -> dict[str, np.ndarray]:
    """The tensors (all, or ``keys``) as float32 arrays, in their stored shapes.

    The file is memory-mapped, so only what is asked for is read. Raises ``UserError`` naming the
    key when a value is NaN or infinite: such a LoRA paints noise at any strength, even at 0.
    """
    import numpy as np

    header = header or read_header(path)
    tensors = {}
    for key, array in _iterate(header, keys):
        if not np.isfinite(array).all():
            raise UserError(
                f"{_show(header.path)} holds NaN or infinite values in {_shorten(key)}: training "
                "diverged or the file is damaged; use an earlier checkpoint."
            )
        tensors[key] = array
    return tensors


def _iterate(header: Header, keys: Iterable[str] | None) -> Iterator[tuple[str, np.ndarray]]:
    import numpy as np

    try:
        raw = np.memmap(header.path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{_show(header.path)} cannot be read ({_reason(error)}).") from error
    for key in header.tensors if keys is None else keys:
        entry = header.tensors[key]
        begin, end = (header.data_start + offset for offset in entry.offsets)
        yield key, _decode(header.path, key, entry, raw[begin:end])


def _decode(path: Path, key: str, entry: TensorEntry, data: np.ndarray) -> np.ndarray:
    import numpy as np

    # Offsets need not be multiples of the item size, hence the copy through bytes.
    if entry.dtype == "BF16":
        halves = np.frombuffer(data.tobytes(), "<u2").astype(np.uint32)
        values = (halves << 16).view(np.float32)
    elif entry.dtype == "F8_E5M2":
        # The upper byte of an IEEE half.
        values = (data.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    elif entry.dtype == "F8_E4M3":
        values = _e4m3_values()[data]
    elif entry.dtype in _NUMPY_NAMES:
        with np.errstate(over="ignore"):
            values = np.frombuffer(data.tobytes(), _NUMPY_NAMES[entry.dtype]).astype(np.float32)
    else:
        raise UserError(
            f"{_show(path)} stores {_shorten(key)} as {entry.dtype}, which is not supported; "
            "save it as F16, BF16 or F32."
        )
    return values.reshape(entry.shape)


def _e4m3_values() -> np.ndarray:
    """The 256 values of FP8 E4M3FN: bias 7, no infinities (Micikevicius et al. 2022, table 1)."""
    import numpy as np

    code = np.arange(256)
    sign = np.where(code & 0x80, -1.0, 1.0)
    exponent, mantissa = (code >> 3) & 15, code & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    values = sign * np.where(exponent == 0, mantissa / 8 * 2.0**-6, normal)
    values[(code & 0x7F) == 0x7F] = np.nan
    return values.astype(np.float32)


# ---------------------------------------------------------------------------------------------
# Keys

# Endings as the trainers spell them -> the one name used here. Longest first: `.alpha` and
# `.weight` are endings of endings.
_LEAVES = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_B.bias": "up_bias",
    ".lora_up.bias": "up_bias",
    ".alpha": "alpha",
    "_lora.alpha": "alpha",
    ".lora.alpha": "alpha",
    ".dora_scale": "dora_scale",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector.default.weight": "magnitude",
    ".hada_w1_a": "w1a",
    ".hada_w1_b": "w1b",
    ".hada_w2_a": "w2a",
    ".hada_w2_b": "w2b",
    ".hada_t1": "t1",
    ".hada_t2": "t2",
    ".lokr_w1": "k1",
    ".lokr_w1_a": "k1a",
    ".lokr_w1_b": "k1b",
    ".lokr_w2": "k2",
    ".lokr_w2_a": "k2a",
    ".lokr_w2_b": "k2b",
    ".lokr_t2": "kt2",
    ".diff": "diff",
    ".diff_b": "diff_b",
    ".w_norm": "w_norm",
    ".b_norm": "b_norm",
    ".a1.weight": "glora",
    ".a2.weight": "glora",
    ".b1.weight": "glora",
    ".b2.weight": "glora",
    ".bm.weight": "glora",
    ".oft_blocks": "oft",
    ".oft_diag": "oft",
    ".oft_R.weight": "oft",
    ".oft_R.default.weight": "oft",
    ".on_input": "ia3",
    ".ia3_l": "ia3",
    ".ia3_l.weight": "ia3",
    ".set_weight": "set",
    ".reshape_weight": "set",
    ".scalar": "scalar",
}
_LEAF_PATTERN = re.compile(
    "(?:"
    + "|".join(re.escape(ending) for ending in sorted(_LEAVES, key=len, reverse=True))
    + r")\Z"
)
# Kinds that are only named, never applied: several of their keys share one leaf.
_MANY = frozenset({"glora", "oft", "ia3", "set"})
_LOW_RANK = frozenset({"down", "up", "mid"})
_HADAMARD = frozenset({"w1a", "w1b", "w2a", "w2b", "t1", "t2"})
_KRONECKER = frozenset({"k1", "k1a", "k1b", "k2", "k2a", "k2b", "kt2"})


def split_key(key: str) -> tuple[str, str] | None:
    """(module stem, leaf) of a LoRA key; None where the ending is none that LoRA files use.

    Leaves: down, up, mid, alpha; dora_scale, magnitude; w1a to w2b, t1, t2 (LoHa); k1 to k2b, kt2
    (LoKr); diff, diff_b, w_norm, b_norm, up_bias; glora, oft, ia3, set, scalar (not supported).
    """
    found = _LEAF_PATTERN.search(key)
    if found is None or found.start() == 0:
        return None
    return key[: found.start()], _LEAVES[found.group()]


def group_keys(keys: Iterable[str]) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """Keys by module: ({stem: {leaf: key}}, the keys that belong to no module)."""
    modules: dict[str, dict[str, str]] = {}
    others = []
    for key in keys:
        parts = split_key(key)
        # `bundle_emb` carries a textual inversion, whose keys may end like a LoRA's.
        # Two spellings of one factor would silently replace each other.
        doubled = (
            parts is not None and parts[1] in modules.get(parts[0], {}) and parts[1] not in _MANY
        )
        if parts is None or doubled or key.startswith("bundle_emb."):
            others.append(key)
        else:
            modules.setdefault(parts[0], {})[parts[1]] = key
    # IA3's factor is plainly called `weight`, so only its companion tells.
    for key in [key for key in others if key.endswith(".weight")]:
        leaves = modules.get(key[: -len(".weight")], {})
        if "ia3" in leaves:
            leaves["ia3_weight"] = key
            others.remove(key)
    return modules, tuple(others)


def algorithm(leaves: Iterable[str]) -> str:
    """lora, locon-tucker, loha, lokr, full, norm, or the name of what cannot be applied."""
    have = set(leaves)
    for leaf, name in (("glora", "glora"), ("oft", "oft"), ("ia3", "ia3"), ("set", "set")):
        if leaf in have:
            return name
    if have & _HADAMARD:
        return "loha"
    if have & _KRONECKER:
        return "lokr"
    if have & _LOW_RANK:
        return "lora"
    if have & {"diff", "diff_b"}:
        return "full"
    if have & {"w_norm", "b_norm"}:
        return "norm"
    return "incomplete"


# Prefixes of stems -> the part of the model. Longest first where one begins another.
_PREFIXES = (
    ("lora_unet_", "unet"),
    ("lora_transformer_", "transformer"),
    ("lora_te1_", "te"),
    ("lora_te2_", "te2"),
    ("lora_te3_", "te3"),
    ("lora_te_", "te"),
    ("lycoris_", ""),
    ("base_model.model.", ""),
    ("model.diffusion_model.", "unet"),
    ("diffusion_model.", "unet"),
    ("unet.", "unet"),
    ("transformer.", "transformer"),
    ("text_encoder_3.", "te3"),
    ("text_encoder_2.", "te2"),
    ("text_encoder.", "te"),
    ("text_encoders.", ""),
    ("clip_l.", "te"),
    ("clip_h.", "te"),
    ("clip_g.", "te2"),
    ("t5xxl.", "te3"),
)
_BARE_UNET = re.compile(
    r"(?:down_blocks|up_blocks|mid_block|input_blocks|middle_block|output_blocks|conv_in|conv_out|"
    r"time_embed|time_embedding|add_embedding|label_emb|out)(?=[._])"
)
_BARE_TRANSFORMER = re.compile(
    r"(?:transformer_blocks|single_transformer_blocks|double_blocks|single_blocks|joint_blocks|"
    r"context_embedder|x_embedder|time_text_embed)(?=[._])"
)
_BARE_TEXT = re.compile(r"(?:text_model[._])?(?:encoder[._]layers|text_projection)(?=[._])")
_DIT = re.compile(
    r"(?:^|[._])(?:single_transformer_blocks|double_blocks|single_blocks|joint_blocks|"
    r"transformer_blocks_\d+_attn_add_|add_[qkv]_proj)(?=[._]|$)"
)


def split_stem(stem: str) -> tuple[str, str]:
    """(part, name inside the part) of a stem; part is "" where the stem does not say."""
    part = ""
    name = stem
    again = True
    while again:
        again = False
        for prefix, of in _PREFIXES:
            if name.startswith(prefix) and len(name) > len(prefix):
                if of and part:
                    break
                name, part, again = name[len(prefix) :], of or part, True
                break
    if part in {"te", "te2", "te3"} and name.startswith("transformer."):
        name = name[len("transformer.") :]  # ComfyUI: clip_l.transformer.text_model...
    if not part:
        if _BARE_UNET.match(name):
            part = "unet"
        elif _BARE_TRANSFORMER.match(name):
            part = "transformer"
        elif _BARE_TEXT.match(name):
            part = "te"
    if part == "unet" and _DIT.search(name):
        part = "transformer"
    return part, name


# ---------------------------------------------------------------------------------------------
# Inspection


def inspect(path: str | Path) -> LoraInfo:
    """Read what a LoRA file is, from its header and its scalar alphas only.

    Raises ``UserError`` that says what the file is where it is no LoRA: a whole checkpoint, a
    textual inversion, a ControlNet, a VAE, or tensors of no known kind.
    """
    header = read_header(path)
    modules, others = group_keys(header.tensors)
    algorithms = Counter(algorithm(leaves) for leaves in modules.values())
    useful = sum(count for name, count in algorithms.items() if name != "incomplete")
    if not useful:
        raise UserError(_describe_no_lora(header))
    alphas = _stored_alphas(header, modules)
    adapter = AdapterScales.of(header)
    ranks, shown_alphas, scales = set(), set(), set()
    for stem, leaves in modules.items():
        rank = _rank(leaves, header.tensors)
        if rank is None:
            continue
        alpha, scale = adapter.resolve(stem, rank, alphas.get(stem))
        ranks.add(rank)
        shown_alphas.add(alpha)
        scales.add(scale)
    touches = _touched(modules)
    return LoraInfo(
        path=header.path,
        format=_format(header, modules, algorithms),
        layout=_layout(modules),
        family=_family(header, modules),
        base_model=_known(header.metadata, "ss_base_model_version", "modelspec.architecture"),
        ranks=tuple(sorted(ranks)),
        alphas=tuple(sorted(shown_alphas, key=lambda a: -math.inf if a is None else a)),
        scales=tuple(sorted(scales)),
        modules=len(modules),
        touches=touches,
        unsupported=_unsupported(modules, algorithms, others),
        trainer=trainer(header.metadata),
        epoch=stored_epoch(header.metadata),
        step=stored_step(header.metadata),
        trigger_words=trigger_words(header.metadata),
        resolution=training_resolution(header.metadata),
        prediction_type=_prediction_type(header.metadata),
        metadata=header.metadata,
    )


def scan(path: str | Path) -> Scan:
    """Read every tensor once, looking for NaN, infinity and modules that are exactly zero."""
    import numpy as np

    header = read_header(path)
    modules, _ = group_keys(header.tensors)
    owner = {key: (stem, leaf) for stem, leaves in modules.items() for leaf, key in leaves.items()}
    broken, zero = [], set()
    for key, array in _iterate(header, None):
        if not np.isfinite(array).all():
            broken.append(key)
        stem, leaf = owner.get(key, ("", ""))
        # One zero factor makes the product zero; alphas of 0 mean "alpha = rank".
        if stem and leaf not in {"alpha", "dora_scale", "magnitude"} and not array.any():
            zero.add(stem)
    return Scan(tuple(broken), tuple(sorted(zero)), len(modules))


@dataclass(frozen=True)
class AdapterScales:
    """Alphas that stand outside the tensors: peft's ``lora_alpha`` and its patterns, by part."""

    configs: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, header: Header) -> AdapterScales:
        """From ``lora_adapter_metadata`` (diffusers) or ``adapter_config.json`` beside the file."""
        stored = parse_json(header.metadata.get("lora_adapter_metadata"))
        configs: dict[str, dict[str, Any]] = {}
        if isinstance(stored, dict):
            for key, value in stored.items():
                prefix, _, name = key.partition(".")
                part = {**dict.fromkeys(("unet", "transformer"), "unet"), **_TEXT_PARTS}.get(prefix)
                if part and name:
                    configs.setdefault(part, {})[name] = value
            if not configs and "lora_alpha" in stored:
                configs[""] = stored
        elif header.path.name == "adapter_model.safetensors":
            beside = header.path.with_name("adapter_config.json")
            try:
                small = beside.is_file() and beside.stat().st_size < 10_000_000
                config = parse_json(beside.read_text("utf-8")) if small else None
            except (OSError, ValueError):
                config = None
            if isinstance(config, dict):
                configs[""] = config
        return cls(configs)

    def resolve(
        self, stem: str, rank: int, stored_alpha: float | None
    ) -> tuple[float | None, float]:
        """(alpha, effective scale) of a module; alpha None where nothing says, so scale is 1.

        kohya: alpha missing or 0 means alpha = rank (networks/lora.py). peft: alpha / r, or
        alpha / sqrt(r) with ``use_rslora``.
        """
        if stored_alpha is not None:
            return (stored_alpha, stored_alpha / rank) if stored_alpha else (float(rank), 1.0)
        part, name = split_stem(stem)
        part = "unet" if part == "transformer" else part
        config = self.configs.get(part, self.configs.get(""))
        if not config:
            return None, 1.0
        alpha = config.get("lora_alpha")
        patterns = config.get("alpha_pattern")
        if isinstance(patterns, dict):
            for pattern, value in patterns.items():
                if _matches_pattern(pattern, name):
                    alpha = value
                    break
        if (
            not isinstance(alpha, (int, float))
            or isinstance(alpha, bool)
            or not math.isfinite(alpha)
        ):
            return None, 1.0
        root = math.sqrt(rank) if config.get("use_rslora") is True else rank
        return float(alpha), alpha / root


_TEXT_PARTS = {"text_encoder": "te", "text_encoder_2": "te2", "text_encoder_3": "te3"}


def _matches_pattern(pattern: str, name: str) -> bool:
    """peft's rule: the pattern is the module's name or a suffix of it, after a dot.

    peft treats it as a regular expression; a pattern from a file could then hang the program, so
    only the plain names that trainers write are understood.
    """
    plain = pattern[1:] if pattern.startswith("^") else pattern
    plain = plain.replace("\\.", ".")
    return name == plain or (not pattern.startswith("^") and name.endswith("." + plain))


def parse_json(text: str | None) -> Any:
    """The value of a JSON text that stands in metadata, or None where it is missing or broken."""
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _stored_alphas(header: Header, modules: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    keys = {stem: leaves["alpha"] for stem, leaves in modules.items() if "alpha" in leaves}
    for key in keys.values():
        if math.prod(header.tensors[key].shape) != 1:
            raise UserError(f"{_show(header.path)}: {_shorten(key)} is no single number.")
    values = read_tensors(header.path, keys.values(), header=header)
    return {stem: float(values[key].reshape(-1)[0]) for stem, key in keys.items()}


def _rank(leaves: Mapping[str, str], tensors: Mapping[str, TensorEntry]) -> int | None:
    for leaf in ("down", "w1b", "k1b", "k2b"):
        if leaf in leaves:
            shape = tensors[leaves[leaf]].shape
            return shape[0] if shape and shape[0] > 0 else None
    return None


def _touched(modules: Iterable[str]) -> tuple[str, ...]:
    found = {split_stem(stem)[0] for stem in modules}
    return tuple(part for part in PART_NAMES if part in found)


def _layout(modules: Mapping[str, Mapping[str, str]]) -> str:
    votes: Counter[str] = Counter()
    for stem, leaves in modules.items():
        if stem.startswith(("lora_", "lycoris_")):
            votes["kohya"] += 1
        elif stem.startswith(("diffusion_model.", "model.diffusion_model.", "text_encoders.")):
            votes["comfyui"] += 1
        elif stem.startswith("base_model.") or not split_stem(stem)[0]:
            votes["peft"] += 1
        elif any(".lora_A." in key or ".lora_magnitude" in key for key in leaves.values()):
            bare = not stem.startswith(("unet.", "transformer.", "text_encoder"))
            votes["peft" if bare else "diffusers"] += 1
        else:
            votes["diffusers"] += 1
    return votes.most_common(1)[0][0]


def _format(
    header: Header, modules: Mapping[str, Mapping[str, str]], algorithms: Mapping[str, int]
) -> str:
    for name in ("glora", "oft", "ia3"):
        if algorithms.get(name):
            return name
    for name in ("loha", "lokr"):
        if algorithms.get(name):
            return name
    if any("dora_scale" in leaves or "magnitude" in leaves for leaves in modules.values()):
        return "dora"
    if not algorithms.get("lora"):
        return "full" if algorithms.get("full") else "norm"
    layout = _layout(modules)
    if layout == "kohya":
        for leaves in modules.values():
            down = header.tensors[leaves["down"]].shape if "down" in leaves else ()
            if "mid" in leaves or (len(down) == 4 and down[2:] != (1, 1)):
                return "kohya-locon"
        return "kohya-lora"
    made_by = trainer(header.metadata)
    return made_by if made_by in {"ai-toolkit", "onetrainer"} else layout


def _unsupported(
    modules: Mapping[str, Mapping[str, str]], algorithms: Mapping[str, int], others: Iterable[str]
) -> tuple[str, ...]:
    """Names of what the file holds and no merge can apply, for one sentence of refusal."""
    names = [name for name in ("glora", "oft", "ia3", "set") if algorithms.get(name)]
    shown = {"glora": "GLoRA", "oft": "OFT", "ia3": "IA3", "set": "replaced weights"}
    found = [shown[name] for name in names]
    if any("scalar" in leaves for leaves in modules.values()):
        found.append("unfolded LyCORIS scalars")
    others = tuple(others)
    if any(key.startswith("bundle_emb.") for key in others):
        found.append("bundled embeddings")
    found += [f"unknown key {_shorten(key)}" for key in others if not key.startswith("bundle_emb.")]
    return tuple(found[:5])


def _family(header: Header, modules: Mapping[str, Mapping[str, str]]) -> str | None:
    """Base family: by key names and the width of the cross-attention, else by metadata.

    attn2's to_k reads the text embedding: 768 wide in SD 1.x, 1024 in SD 2.x, 2048 in SDXL.
    """
    for stem, leaves in modules.items():
        if not re.search(r"attn2[._](?:processor[._])?to_[kv]$", stem):
            continue
        width = _input_width(leaves, header.tensors)
        for known, family in ((768, "sd1"), (1024, "sd2"), (2048, "sdxl")):
            if width == known:
                return family
    for stem in modules:
        if re.search(
            r"(?:^|[._])(?:double_blocks|single_blocks|single_transformer_blocks)[._]", stem
        ):
            return "flux"
        if re.search(r"(?:^|[._])joint_blocks[._]", stem):
            return "sd3"
    stated = _stated_family(header.metadata)
    if stated:
        return stated
    parts = _touched(modules)
    names = [split_stem(stem)[1] for stem in modules if split_stem(stem)[0] == "transformer"]
    if any(re.match(r"transformer_blocks[._]\d+[._]attn2?[._]", name) for name in names):
        return "sd3"
    if "te2" in parts and "transformer" not in parts:
        return "sdxl"
    return None


def _input_width(leaves: Mapping[str, str], tensors: Mapping[str, TensorEntry]) -> int | None:
    for leaf in ("down", "w1b", "diff"):
        if leaf in leaves:
            shape = tensors[leaves[leaf]].shape
            return shape[1] if len(shape) > 1 else None
    if "k1" in leaves or "k1b" in leaves:
        one = tensors[leaves.get("k1") or leaves["k1b"]].shape
        two_key = leaves.get("k2") or leaves.get("k2b")
        if two_key and len(one) > 1 and len(tensors[two_key].shape) > 1:
            return one[1] * tensors[two_key].shape[1]
    return None


def _stated_family(metadata: Mapping[str, str]) -> str | None:
    for key in ("ss_base_model_version", "modelspec.architecture"):
        text = metadata.get(key, "").lower()
        if re.search(r"sdxl|diffusion-xl|pony|illustrious", text):
            return "sdxl"
        if re.search(r"flux", text):
            return "flux"
        if re.search(r"diffusion-3|\bsd_?3", text):
            return "sd3"
        if re.search(r"\bsd_?(?:v?2)|diffusion-v2", text):
            return "sd2"
        if re.search(r"\bsd_?(?:v?1)|diffusion-v1", text):
            return "sd1"
    return "sd2" if metadata.get("ss_v2") == "True" else None


def _describe_no_lora(header: Header) -> str:
    keys = list(header.tensors)
    name = _show(header.path)

    def any_starts(*prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in keys)

    if any_starts("control_model.", "controlnet_", "input_hint_block."):
        kind = "a ControlNet"
    elif any_starts("model.diffusion_model.", "first_stage_model.", "cond_stage_model."):
        kind = "a whole model checkpoint; it belongs in --model"
    elif any_starts("string_to_param", "emb_params") or set(keys) <= {"clip_l", "clip_g", "t5xxl"}:
        kind = "a textual inversion embedding"
    elif any_starts("image_proj", "ip_adapter"):
        kind = "an IP-Adapter"
    elif any_starts("decoder.", "encoder.down") and any("conv_in" in key for key in keys):
        kind = "a VAE"
    elif any_starts("text_model.", "encoder.layers."):
        kind = "the weights of a text encoder"
    elif any_starts("conv_in.", "down_blocks.", "transformer_blocks.", "double_blocks."):
        kind = "the weights of a UNet or transformer; the folder above it belongs in --model"
    else:
        kind = f"safetensors of an unknown kind (its first key is {_shorten(keys[0], 60)})"
    return f"{name} is not a LoRA but {kind}."


# ---------------------------------------------------------------------------------------------
# Training metadata


def _known(metadata: Mapping[str, str], *keys: str) -> str | None:
    """The first value that says something: kohya writes missing values as the word None."""
    for key in keys:
        value = metadata.get(key, "").strip()
        if value and value != "None":
            return value
    return None


def whole_number(value: object) -> int | None:
    """A count from metadata ("7", "7.0", 7), or None where it is missing or no such number."""
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        return None
    try:
        number = int(float(value))
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < 1 << 53 else None


def _training_info(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    info = parse_json(metadata.get("training_info"))
    return info if isinstance(info, dict) else {}


def stored_step(metadata: Mapping[str, str]) -> int | None:
    """kohya ``ss_steps``, ai-toolkit ``training_info.step``, SimpleTuner ``global_step``."""
    for value in (
        metadata.get("ss_steps"),
        _training_info(metadata).get("step"),
        metadata.get("global_step"),
    ):
        number = whole_number(value)
        if number is not None:
            return number
    return None


def stored_epoch(metadata: Mapping[str, str]) -> int | None:
    """kohya ``ss_epoch`` (from 0 in step saves, from 1 elsewhere) or ai-toolkit's epoch."""
    for value in (metadata.get("ss_epoch"), _training_info(metadata).get("epoch")):
        number = whole_number(value)
        if number is not None:
            return number
    return None


def trainer(metadata: Mapping[str, str]) -> str | None:
    """kohya, ai-toolkit, onetrainer, simpletuner or diffusers, where the metadata betray it."""
    software = parse_json(metadata.get("software"))
    if isinstance(software, dict) and software.get("name") == "ai-toolkit":
        return "ai-toolkit"
    if "training_info" in metadata:
        return "ai-toolkit"
    if "ot_branch" in metadata or "ot_revision" in metadata:
        return "onetrainer"
    if "lycoris_config" in metadata or "trained_words" in metadata or "global_step" in metadata:
        return "simpletuner"
    if "ss_network_module" in metadata or "ss_session_id" in metadata:
        return "kohya"
    if "lora_adapter_metadata" in metadata:
        return "diffusers"
    return None


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """What wakes the LoRA: stated trigger words, else the commonest caption tag.

    Sources: ``modelspec.trigger_phrase``, SimpleTuner's ``trained_words``, and kohya's
    ``ss_tag_frequency`` ({folder: {tag: count}}).
    """
    words: list[str] = []
    phrase = _known(metadata, "modelspec.trigger_phrase")
    if phrase:
        words.append(phrase)
    stated = _known(metadata, "trained_words")
    if stated:
        listed = parse_json(stated)
        if isinstance(listed, list):
            words += [word.strip() for word in listed if isinstance(word, str) and word.strip()]
        else:
            words += [word.strip() for word in stated.split(",") if word.strip()]
    if not words:
        top = _top_tag(metadata)
        words = [top] if top else []
    return tuple(dict.fromkeys(_shorten(word, 200) for word in words[:20]))


def _top_tag(metadata: Mapping[str, str]) -> str | None:
    tables = [parse_json(metadata.get("ss_tag_frequency"))]
    datasets = parse_json(metadata.get("ss_datasets"))
    if isinstance(datasets, list):
        tables += [item.get("tag_frequency") for item in datasets if isinstance(item, dict)]
    for table in tables:
        counts: Counter[str] = Counter()
        for tags in table.values() if isinstance(table, dict) else ():
            for tag, count in tags.items() if isinstance(tags, dict) else ():
                if tag.strip() and whole_number(count):
                    counts[tag.strip()] += whole_number(count) or 0
        if counts:
            return counts.most_common(1)[0][0]
    return None


def training_resolution(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """(width, height) in pixels from ``ss_resolution``, ``ss_datasets`` or ``modelspec``."""
    candidates: list[object] = [_known(metadata, "ss_resolution")]
    datasets = parse_json(metadata.get("ss_datasets"))
    if isinstance(datasets, list):
        candidates += [item.get("resolution") for item in datasets if isinstance(item, dict)]
    candidates.append(_known(metadata, "modelspec.resolution"))
    for value in candidates:
        if value is None:
            continue
        numbers = [int(text) for text in re.findall(r"\d{1,5}", _as_text(value))[:2]]
        if numbers and all(64 <= number <= 16384 for number in numbers):
            return numbers[0], numbers[-1]
    return None


def _prediction_type(metadata: Mapping[str, str]) -> str | None:
    stated = (_known(metadata, "modelspec.prediction_type") or "").lower()
    if stated in {"v", "v_prediction", "v-prediction"}:
        return "v_prediction"
    if stated in {"epsilon", "eps"}:
        return "epsilon"
    version = metadata.get("ss_base_model_version", "")
    return "v_prediction" if re.fullmatch(r"sd_v[12]_v", version) else None


def require_family(info: LoraInfo, family: str, model: str) -> None:
    """Refuse a LoRA before anything is loaded where its base family or its kind cannot fit.

    ``family`` is the chosen model's (sd1, sd2, sdxl, sd3, flux), ``model`` its name for people.
    """
    name = _show(info.path)
    if info.unsupported:
        raise UserError(
            f"{name} holds {', '.join(info.unsupported)}, which cannot be applied; "
            "use a LoRA, LoCon, LoHa, LoKr, DoRA or full-difference file."
        )
    if info.family and info.family != family:
        raise UserError(
            f"{name} was trained on {FAMILY_NAMES[info.family]}, but {printable(model)} is "
            f"{FAMILY_NAMES.get(family, family)}; give a {FAMILY_NAMES[info.family]} model with "
            "--model."
        )
