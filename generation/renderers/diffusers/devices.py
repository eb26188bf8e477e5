"""Which device renders, and in which type of numbers."""

from __future__ import annotations

from pathlib import Path

import torch

from generation.errors import UserError, first_line, named
from generation.families import FAMILIES


def choose_device(wanted: str = "auto") -> str:
    """The device to render on: `wanted`, or the first of cuda (ROCm too), xpu, mps, cpu.

    Raises UserError where `wanted` cannot be used, and where a GPU is there that torch cannot use.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "xpu": hasattr(torch, "xpu") and torch.xpu.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        found = next(name for name, usable in there.items() if usable)
        if found == "cpu" and any(Path("/proc/driver/nvidia/gpus").glob("*")):
            raise UserError(
                f"there is an NVIDIA GPU, but torch cannot use it ({_cuda_problem()}); "
                "update its driver or install the torch that fits it, or give "
                f"{named('device')} cpu.",
                field="device",
            )
        return found
    if not there.get(wanted.partition(":")[0], False):
        usable = ", ".join(name for name, found in there.items() if found)
        why = f" ({_cuda_problem()})" if wanted.startswith("cuda") else ""
        raise UserError(f"{wanted} cannot be used here{why}; usable are {usable}.", field="device")
    return wanted


def choose_dtype(device: str, wanted: str = "auto", family: str = "") -> str:
    """float32 on the CPU; on a GPU float16, whose rounding is 8 times finer than bfloat16's.

    Families that were trained in bfloat16 overflow float16 and say so.
    """
    if wanted != "auto":
        return wanted
    if device == "cpu":
        return "float32"
    return FAMILIES[family].half if family else "float16"


def devices(device: str) -> list[str]:
    """The devices to render on: `device`, or for "cuda" every GPU of the first one's kind.

    Pictures differ by rounding between kinds of GPU, so one study stays on one kind.
    """
    if device != "cuda" or torch.cuda.device_count() < 2:
        return [device]
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [f"cuda:{i}" for i, name in enumerate(names) if name == names[0]]


def _cuda_problem() -> str:
    """Why CUDA cannot be used, in torch's words."""
    try:
        torch.cuda.init()
    except Exception as error:  # AssertionError, RuntimeError, ... by kind of build
        return first_line(error)
    return "no GPU found"
