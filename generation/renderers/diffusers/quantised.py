"""Single checkpoints in 8-bit floats, read as the numbers that they stand for.

Plain fp8 stores each weight rounded. ComfyUI's scaled fp8 (its QUANTIZATION.md) stores w / scale
and the scale beside it, one a matrix or one a row: `scale_weight` in older files, `weight_scale` in
newer. Both are dequantised once, while loading, into the dtype that is rendered in: LoRAs are then
merged into those numbers as into any others, nothing is quantised again, and strength 0 is the
base bit for bit. It costs the memory of that dtype.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from generation.errors import UserError
from generation.loras.container import Header

if TYPE_CHECKING:
    import torch

_SCALES = (".scale_weight", ".weight_scale")
_BESIDE = (*_SCALES, ".scale_input", ".input_scale", ".comfy_quant")
_FP8 = frozenset({"F8_E4M3", "F8_E5M2"})
_BITSANDBYTES = (".absmax", ".quant_map", ".nested_absmax")


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
        "model in bfloat16, float16 or fp8 (plain, or with one scale a matrix).",
        field="model",
    )


def dequantised(header: Header, dtype: torch.dtype) -> dict[str, Any]:
    """The checkpoint's weights times their scales, in `dtype`; the products are float32."""
    import torch
    from safetensors.torch import load_file

    scaled = scales(header)
    stored = load_file(header.path)
    for weight, scale in scaled.items():
        factor = stored[scale].to(torch.float32)
        if factor.numel() > 1:
            factor = factor.reshape(-1, *[1] * (stored[weight].dim() - 1))
        stored[weight] = (stored[weight].to(torch.float32) * factor).to(dtype)
    return {key: stored[key] for key in weights(stored)}
