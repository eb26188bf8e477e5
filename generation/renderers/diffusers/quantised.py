"""Single checkpoints in fewer bits, read as the numbers that they stand for.

Plain fp8 stores each weight rounded. ComfyUI's scaled fp8 (its QUANTIZATION.md) stores w / scale
and the scale beside it, one a matrix or one a row: `scale_weight` in older files, `weight_scale` in
newer. GGUF (ggml's docs/gguf.md) stores blocks of few bits with scales of their own. All are
dequantised once, while loading, into the dtype that is rendered in: LoRAs are then merged into
those numbers as into any others, nothing is quantised again, and strength 0 is the base bit for
bit. It costs the memory of that dtype.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generation.errors import UserError, first_line
from generation.files import open_file
from generation.loras.container import Header, TensorEntry, once_a_file, read_header

if TYPE_CHECKING:
    import torch

MERGED = (
    "read as the numbers that it stands for; LoRAs are added to these, and nothing is quantised "
    "again"
)
"""How LoRAs come into a quantised base."""

_SCALES = (".scale_weight", ".weight_scale")
_BESIDE = (*_SCALES, ".scale_input", ".input_scale", ".comfy_quant")
_FP8 = frozenset({"F8_E4M3", "F8_E5M2"})
_BITSANDBYTES = (".absmax", ".quant_map", ".nested_absmax")
_WHOLE = frozenset({"F64", "F32", "F16", "BF16"})
_GGUF = b"GGUF"
_SHAPE = "comfy.gguf.orig_shape."
"""ComfyUI-GGUF's field for a tensor that it laid out otherwise."""


def read(path: Path) -> Header:
    """The header of a single checkpoint: safetensors or GGUF, whatever the file's name.

    A GGUF file's tensors have ggml's types (Q4_K). Raises UserError for all else, and for GGUF
    without the gguf package.
    """
    if not is_gguf(path):
        return read_header(path)
    header: Header = _read_gguf(path)
    return header


def is_gguf(path: Path) -> bool:
    """Whether the file begins as GGUF does."""
    try:
        with open_file(path) as file:
            return file.read(4) == _GGUF
    except (OSError, ValueError):
        return False


@once_a_file(most=8)
def _read_gguf(path: Path) -> Header:
    reader = _opened(path)
    tensors = {}
    for tensor in reader.tensors:
        field = reader.get_field(_SHAPE + tensor.name)
        shape = (
            [int(field.parts[at][0]) for at in field.data]
            if field is not None
            else tensor.shape.tolist()[::-1]
        )
        tensors[tensor.name] = TensorEntry(tensor.tensor_type.name, tuple(shape), (0, 0))
    if len(tensors) == 0:
        raise UserError(f"{path} holds no tensors; download it again.", field="model")
    return Header(path, {}, tensors, 0)


def _opened(path: Path) -> Any:
    """gguf's reader of the file, which maps it and copies nothing."""
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path} is a GGUF file, and reading it needs {error.name}: "
            "pip install 'lora-analysers[gguf]'.",
            field="model",
        ) from error
    try:
        return gguf.GGUFReader(path)
    except Exception as error:  # its parser has no errors of its own
        raise UserError(
            f"{path} is no complete GGUF file ({first_line(error)}); download it again.",
            field="model",
        ) from error


def kinds(header: Header) -> str:
    """How a file stores its weights where that is quantised: "GGUF Q4_K, Q6_K", "scaled fp8"."""
    if is_gguf(header.path):
        stored = {tensor.dtype for tensor in header.tensors.values()}
        return f"GGUF {', '.join(sorted(stored - _WHOLE))}".strip()
    if any(tensor.dtype in _FP8 for tensor in header.tensors.values()):
        return "scaled fp8" if scales(header) else "fp8"
    return ""


def weights(keys: Iterable[str]) -> list[str]:
    """The keys without those that only say how others are stored."""
    return [key for key in keys if not key.endswith(_BESIDE) and key.split(".")[-1] != "scaled_fp8"]


def scales(header: Header) -> dict[str, str]:
    """{key of a weight: key of its scale}, empty where nothing is scaled.

    Raises UserError for weights that are stored in another way than as fp8 with a scale for each
    matrix or row: read as plain numbers they would be wrong.
    """
    name = header.path.name
    if any(key.endswith(_BITSANDBYTES) or ".quant_state." in key for key in header.tensors):
        raise _refusal(name, "bitsandbytes' 4 or 8 bits")
    found = {}
    for key in header.tensors:
        for ending in _SCALES:
            if key.endswith(ending):
                weight = key.removesuffix(ending) + ".weight"
                of = header.tensors.get(weight)
                if of is None or of.dtype not in _FP8:
                    raise _refusal(name, f"{of.dtype if of else 'nothing'} beside {key}")
                shape = header.tensors[key].shape
                if shape not in {(), (1,), (of.shape[0],), (of.shape[0], 1)}:
                    raise _refusal(name, f"scales of blocks ({key} is {list(shape)})")
                found[weight] = key
    odd = [
        key
        for key, entry in header.tensors.items()
        if key.endswith(".weight") and entry.dtype in {"I8", "U8"}
    ]
    if odd:
        raise _refusal(name, f"whole numbers ({odd[0]})")
    return found


def _refusal(name: str, how: str) -> UserError:
    return UserError(
        f"{name} stores its weights quantised as {how}, which is not read here; name the same "
        "model in bfloat16, float16, GGUF or fp8 (plain, or with one scale a matrix).",
        field="model",
    )


def dequantised(header: Header, dtype: torch.dtype) -> dict[str, Any] | None:
    """The checkpoint's weights as numbers in `dtype`, worked out in float32; None where diffusers
    can read the file itself."""
    if is_gguf(header.path):
        return _from_gguf(header, dtype)
    scaled = scales(header)
    return _unscaled(header, scaled, dtype) if scaled else None


def _unscaled(header: Header, scaled: dict[str, str], dtype: torch.dtype) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file

    stored = load_file(header.path)
    for weight, scale in scaled.items():
        factor = stored[scale].to(torch.float32)
        if factor.numel() > 1:
            factor = factor.reshape(-1, *[1] * (stored[weight].dim() - 1))
        stored[weight] = (stored[weight].to(torch.float32) * factor).to(dtype)
    return {key: stored[key] for key in weights(stored)}


def _from_gguf(header: Header, dtype: torch.dtype) -> dict[str, Any]:
    import gguf
    import torch

    found = {}
    for tensor in _opened(header.path).tensors:
        try:
            numbers = gguf.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise _refusal(header.path.name, f"ggml's {tensor.tensor_type.name}") from None
        shape = header.tensors[tensor.name].shape
        # A copy: float32 comes as a view of the file.
        found[tensor.name] = torch.from_numpy(numbers.copy()).reshape(shape).to(dtype)
    return found
