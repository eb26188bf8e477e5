"""Checkpoints and folders in fewer bits, read as the numbers that they stand for.

Plain fp8 stores each weight rounded. ComfyUI's scaled fp8 (its QUANTIZATION.md) stores w / scale
and the scale beside it, one a matrix or one a row: `scale_weight` in older files, `weight_scale` in
newer. GGUF (ggml's docs/gguf.md) stores blocks of few bits with scales of their own, and so does
bitsandbytes' NF4 and FP4, whose scales lie beside each weight. The networks of a diffusers folder
may be stored by bitsandbytes, quanto or torchao, as their configurations say
(`quantization_config`). All are dequantised once, while loading, into the dtype that is rendered
in: LoRAs are then merged into those numbers as into any others, nothing is quantised again, and
strength 0 is the base bit for bit. It costs the memory of that dtype.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generation.errors import UserError, first_line
from generation.files import open_file, read_json
from generation.loras.container import Header, TensorEntry, once_a_file, one_line, read_header

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
_FOUR = frozenset({"NF4", "FP4"})
_BITSANDBYTES = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
_STATE = re.compile(r"(.+)\.quant_state\.bitsandbytes__(nf4|fp4)")
_OTHERS = {
    ".qweight": "SVDQuant's, GPTQ's or AWQ's",
    "._weight_qdata": "torchao's",
    ".weight._data": "quanto's",
    ".weight._data._data": "quanto's",
    ".SCB": "bitsandbytes' 8 bits",
    ".weight_scale_2": "NVFP4",
}
"""Endings of keys in single checkpoints of methods that are not read there."""

_WHOLE = frozenset({"F64", "F32", "F16", "BF16"})
_GGUF = b"GGUF"
_SHAPE = "comfy.gguf.orig_shape."
"""ComfyUI-GGUF's field for a tensor that it laid out otherwise."""


def read(path: Path) -> Header:
    """The header of a single checkpoint: safetensors or GGUF, whatever the file's name.

    A GGUF file's tensors have ggml's types (Q4_K), bitsandbytes' weights its own (NF4) and the
    shapes that they stand for. Raises UserError for all else, and for GGUF without the gguf
    package.
    """
    header: Header = _read_gguf(path) if is_gguf(path) else _with_four_bits(read_header(path))
    return header


def _with_four_bits(header: Header) -> Header:
    """The header with bitsandbytes' packed weights as what they stand for."""
    found = {}
    for key, entry in header.tensors.items():
        if match := _STATE.fullmatch(key):
            begin, end = entry.offsets
            try:
                with open_file(header.path) as file:
                    file.seek(header.data_start + begin)
                    shape = json.loads(file.read(end - begin))["shape"]
                packed = header.tensors[match[1]]
                shape = tuple(int(side) for side in shape)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise _refusal(
                    header.path.name, f"bitsandbytes' without its shape ({key})"
                ) from error
            found[match[1]] = TensorEntry(match[2].upper(), shape, packed.offsets)
    return replace(header, tensors={**header.tensors, **found}) if found else header


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
    if four := sorted({entry.dtype for entry in header.tensors.values()} & _FOUR):
        return f"bitsandbytes {', '.join(four)}"
    if any(tensor.dtype in _FP8 for tensor in header.tensors.values()):
        return "scaled fp8" if scales(header) else "fp8"
    return ""


def weights(keys: Iterable[str]) -> list[str]:
    """The keys without those that only say how others are stored."""
    return [
        key
        for key in keys
        if not key.endswith((*_BESIDE, *_BITSANDBYTES))
        and key.split(".")[-1] != "scaled_fp8"
        and not _STATE.fullmatch(key)
    ]


def scales(header: Header) -> dict[str, str]:
    """{key of a weight: key of its scale}, empty where nothing is scaled.

    Raises UserError for weights that are stored in another way than as fp8 with a scale for each
    matrix or row: read as plain numbers they would be wrong.
    """
    name = header.path.name
    for key in header.tensors:
        for ending, how in _OTHERS.items():
            if key.endswith(ending):
                raise _refusal(name, f"{how} ({key})")
        of = header.tensors.get(key.rpartition(".")[0])
        if key.endswith(_BITSANDBYTES) and (of is None or of.dtype not in _FOUR):
            raise _refusal(name, f"bitsandbytes' in another way than NF4 and FP4 ({key})")
    found = {}
    for key in header.tensors:
        for ending in _SCALES:
            if key.endswith(ending):
                weight = key.removesuffix(ending) + ".weight"
                of = header.tensors.get(weight)
                if of is None or of.dtype not in _FP8:
                    raise _refusal(name, f"{of.dtype if of else 'nothing'} beside {key}")
                kind, shape = header.tensors[key].dtype, header.tensors[key].shape
                if kind not in _WHOLE | {"F8_E8M0"}:
                    raise _refusal(name, f"scales of the type {kind} ({key})")
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
        "model in bfloat16, float16, GGUF, NF4 or fp8 (plain, or with one scale a matrix).",
        field="model",
    )


def dequantised(header: Header, dtype: torch.dtype) -> dict[str, Any] | None:
    """The checkpoint's weights as numbers in `dtype`, worked out in float32; None where diffusers
    can read the file itself."""
    if is_gguf(header.path):
        return _from_gguf(header, dtype)
    if any(entry.dtype in _FOUR for entry in header.tensors.values()):
        return _from_four_bits(header, dtype)
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


def _from_four_bits(header: Header, dtype: torch.dtype) -> dict[str, Any]:
    from safetensors.torch import load_file

    stored = load_file(header.path)
    _read_four_bits(stored, header.path, dtype)
    return {key: stored[key] for key in weights(stored)}


def _read_four_bits(stored: dict[str, Any], path: Path, dtype: torch.dtype) -> None:
    """Replace each packed weight by its numbers."""
    import torch

    try:
        from bitsandbytes import functional
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path} is in bitsandbytes' 4 bits, and reading them needs {error.name}: "
            "pip install 'lora-analysers[bitsandbytes]'.",
            field="model",
        ) from error
    for weight in [match[1] for key in stored if (match := _STATE.fullmatch(key))]:
        beside = {k: v for k, v in stored.items() if k.startswith(f"{weight}.")}
        try:
            state = functional.QuantState.from_dict(beside, device=torch.device("cpu"))
            shape = tuple(state.shape)
            _check_four_bits(stored[weight], state)
            state.dtype = torch.float32  # not the 16 bits that it was rounded from
            # As one row: in rows shorter than a block, 0.50.2 takes other blocks' scales.
            state.shape = torch.Size([math.prod(shape)])
            numbers = functional.dequantize_4bit(stored[weight], state)
        except Exception as error:  # of many kinds, all of which mean this
            raise _refusal(
                path.name, f"bitsandbytes' 4 bits that are not whole ({weight})"
            ) from error
        stored[weight] = numbers.reshape(shape).to(dtype)


def _check_four_bits(packed: torch.Tensor, state: Any) -> None:
    """Raise ValueError where the library would read beyond a tensor's end."""

    def blocks(count: int, size: int) -> int:
        return -(-count // size)

    count, size, nested = math.prod(state.shape), state.blocksize, state.state2
    sizes = [(packed.nbytes, blocks(count, 2)), (state.code.numel(), 16)]
    sizes += [(state.absmax.numel(), blocks(count, size))]
    if nested is not None:
        sizes += [(nested.absmax.numel(), blocks(blocks(count, size), nested.blocksize))]
        sizes += [(nested.code.numel(), 256)]
    if any(found != wanted for found, wanted in sizes):
        raise ValueError("sizes do not agree")


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


# ---------------------------------------------------------------------------------------------
# Folders

_LIBRARIES = {
    "bitsandbytes": ("bitsandbytes", "'lora-analysers[bitsandbytes]'"),
    "quanto": ("optimum.quanto", "'lora-analysers[quanto]'"),
    "torchao": ("torchao", "'lora-analysers[torchao]'"),
}
"""Methods that are read -> the module that it takes, and what to install."""


def method(config: Mapping[str, Any]) -> str:
    """How a network is quantised by its configuration, in words; "" where it is not."""
    told = config.get("quantization_config")
    if told is None:
        return ""
    told = told if isinstance(told, Mapping) else {}
    name = one_line(str(told.get("quant_method") or "a method that it does not name"))
    if name == "bitsandbytes":
        four = told.get("load_in_4bit") or told.get("_load_in_4bit")
        return f"{name} {str(told.get('bnb_4bit_quant_type', 'fp4')).upper() if four else 'int8'}"
    if name == "quanto":
        return f"{name} {told.get('weights_dtype') or told.get('weights')}"
    if name == "torchao":
        return f"{name} {_first_type(told.get('quant_type'))}".rstrip()
    return name


def _first_type(told: object) -> str:
    """The name that torchao gives its kind: {"default": {"_type": "Int8WeightOnlyConfig"}}."""
    for one in told.values() if isinstance(told, Mapping) else ():
        if isinstance(one, Mapping) and isinstance(one.get("_type"), str):
            return one_line(one["_type"]).removesuffix("Config")
    return ""


def folder_kinds(folder: Path, name: str, field: str = "model", without: str = "") -> str:
    """How the networks of a diffusers folder are quantised: "quanto int8 (transformer)"; `without`
    one of them.

    Raises UserError for methods that are not read here, and where their library is missing.
    """
    parts: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*/config.json")):
        if path.parent.name != without and (how := method(read_json(path))):
            parts.setdefault(how, []).append(path.parent.name)
    for how, where in parts.items():
        library, install = _LIBRARIES.get(how.partition(" ")[0], ("", ""))
        if not library:
            raise UserError(
                f"{name} is quantised by {how} ({', '.join(where)}), which is not read here; name "
                "the same model in bfloat16, float16, or quantised by bitsandbytes, quanto or "
                "torchao.",
                field=field,
            )
        if not how.endswith("int8") or library != "bitsandbytes":
            _check_installed(library, f"{name} is quantised by {how}", install, field)
    return "; ".join(f"{how} ({', '.join(where)})" for how, where in parts.items())


def _check_installed(module: str, which: str, install: str, field: str) -> None:
    try:
        there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        raise UserError(
            f"{which}, and reading it needs {module}: pip install {install}.", field=field
        )


def from_bitsandbytes(part: Path, how: str, dtype: torch.dtype) -> dict[str, Any]:
    """The numbers of one network of a folder, which bitsandbytes stored in 4 or 8 bits; its own
    loaders want a GPU."""
    import torch
    from safetensors.torch import load_file

    files = sorted(part.glob("*.safetensors"))
    plain = [path for path in files if ".fp16" not in path.name] or files
    stored: dict[str, Any] = {}
    for path in plain:  # what belongs together may lie in several
        read_header(path)
        stored |= load_file(path)
    if not how.endswith("int8"):
        _read_four_bits(stored, part, dtype)
        return {key: stored[key] for key in weights(stored)}
    for scale in [key for key in stored if key.endswith(".SCB")]:
        stem = scale.removesuffix("SCB")
        packed, formats = stored.get(f"{stem}weight"), stored.pop(f"{stem}weight_format", None)
        rows = stored.pop(scale).to(torch.float32)[:, None]
        rowwise = formats is None or int(formats) == 0
        if packed is None or packed.dtype != torch.int8 or len(packed) != len(rows) or not rowwise:
            raise _refusal(part.name, f"bitsandbytes' 8 bits of another kind ({stem}weight)")
        stored[f"{stem}weight"] = (packed.to(torch.float32) * rows / 127).to(dtype)
    return stored


def numbers(module: torch.nn.Module, names: Iterable[str], dtype: torch.dtype) -> dict[str, Any]:
    """What the parameters of a network that quanto or torchao loaded stand for, by these names."""
    import torch

    found = {}
    for name in names:
        owner, _, leaf = name.rpartition(".")
        weight = getattr(module.get_submodule(owner), leaf)
        if type(weight.data) is not torch.Tensor:
            weight = weight.dequantize()
        found[name] = weight.detach().to(dtype) if weight.is_floating_point() else weight
    return found
