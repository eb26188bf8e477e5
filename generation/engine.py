"""The only module that imports torch and diffusers: loads a model once and renders cells with it.

LoRAs are merged into the weights in place, always from saved base weights,
W = W0 + s * dW, so that strength 0 restores the base bit for bit, and no error adds up over any
number of switches. Noise comes from one CPU generator per picture and every batch is padded to
one constant size, so that a picture does not depend on what else is rendered, or in which order.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers

from generation import deltas
from generation.cells import Case, Checkpoint
from generation.errors import UserError

SAMPLERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": False},
    ),
    "dpmpp_2m_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
    ),
    "dpmpp_2m_sde": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "use_karras_sigmas": False},
    ),
    "dpmpp_2m_sde_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
    ),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "lcm": ("LCMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
}
"""Sampler names as people write them -> diffusers class and the flags that make it so."""

PARTS = {
    "unet": "unet",
    "transformer": "transformer",
    "te": "text_encoder",
    "te2": "text_encoder_2",
    "te3": "text_encoder_3",
}
"""A LoRA's parts -> the pipeline's component names."""


def choose_device(wanted: str = "auto") -> str:
    """The device to render on: `wanted`, or the first of cuda (ROCm too), xpu, mps, cpu."""
    there = {
        "cuda": torch.cuda.is_available(),
        "xpu": hasattr(torch, "xpu") and torch.xpu.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        return next(name for name, found in there.items() if found)
    if not there.get(wanted.partition(":")[0], False):
        usable = ", ".join(name for name, found in there.items() if found)
        raise UserError(f"--device: {wanted} cannot be used here; usable are {usable}.")
    return wanted


def choose_dtype(device: str, wanted: str = "auto") -> str:
    """float16 on a GPU (engine noise 0.14 %, bfloat16 1.2 %), float32 on the CPU."""
    if wanted == "auto":
        return "float32" if device == "cpu" else "float16"
    return wanted


def find_model(model: str) -> Path:
    """The local folder of a model: a diffusers folder, or a hub id that is (or gets) downloaded.

    Raises UserError when it is neither, or cannot be had.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise UserError(
                f"--model: {model} has no model_index.json; name a diffusers pipeline folder."
            )
        return path
    if path.exists() or path.suffix in {".safetensors", ".ckpt", ".pt"}:
        problem = "is a single file" if path.exists() else "does not exist"
        raise UserError(
            f"--model: {model} {problem}; name a diffusers pipeline folder or a hub id "
            "(convert single files with diffusers' from_single_file and save_pretrained)."
        )
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise UserError(f"--model: there is no folder {model}; check the path.")
    try:
        return Path(diffusers.DiffusionPipeline.download(model))
    except Exception as error:  # the hub client raises many kinds; all mean "cannot be had"
        raise UserError(
            f"--model: {model} is no folder here and cannot be had from the hub "
            f"({_first_line(error)}); check the name, or log in if the model is gated."
        ) from error


def model_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of the model's weights and configurations."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in {".safetensors", ".bin", ".json", ".txt", ".model"}:
            total.update(path.relative_to(folder).as_posix().encode())
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    total.update(block)
    return total.hexdigest()


def model_family(folder: Path) -> str | None:
    """The model's base family as `lora.LoraInfo.family` names it, or None where it is not told."""
    try:
        kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
        part = "unet" if (folder / "unet").is_dir() else "transformer"
        config = json.loads((folder / part / "config.json").read_text())
    except (OSError, ValueError, KeyError):
        return None
    if kind == "StableDiffusionPipeline":
        return "sd2" if config.get("cross_attention_dim") == 1024 else "sd1"
    families = {
        "StableDiffusionXLPipeline": "sdxl",
        "StableDiffusion3Pipeline": "sd3",
        "FluxPipeline": "flux",
    }
    return families.get(kind)


def model_size(folder: Path) -> tuple[int, int]:
    """Width and height in pixels that the model was made for."""
    part = "unet" if (folder / "unet").is_dir() else "transformer"
    try:
        latent = json.loads((folder / part / "config.json").read_text())["sample_size"]
        blocks = json.loads((folder / "vae" / "config.json").read_text())["block_out_channels"]
        side = int(latent) * 2 ** (len(blocks) - 1)
    except (OSError, ValueError, KeyError, TypeError):
        side = 512
    return side, side


def versions() -> dict[str, str]:
    """Versions of the libraries that decide pixels."""
    return {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }


class Engine:
    """A loaded model that renders cases under a LoRA at a strength.

    One `Engine` belongs to one process and one device. `render` returns uint8 arrays.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        sampler: str = "",
        steps: int = 20,
        guidance_scale: float = 7.0,
        width: int = 512,
        height: int = 512,
        clip_skip: int = 0,
        batch_size: int = 4,
    ) -> None:
        _quieten()
        self.steps, self.guidance_scale = steps, guidance_scale
        self.width, self.height = width, height
        self.clip_skip, self.batch_size = clip_skip, batch_size
        self.device = torch.device(device)
        try:
            self.pipe: Any = diffusers.DiffusionPipeline.from_pretrained(
                str(folder),
                torch_dtype=getattr(torch, dtype),
                local_files_only=True,
                safety_checker=None,
                requires_safety_checker=False,
                use_safetensors=True,
            )
        except Exception as error:
            raise UserError(
                f"--model: {folder} cannot be loaded ({_first_line(error)}); "
                "is it a complete diffusers folder with safetensors weights?"
            ) from error
        self.pipe.set_progress_bar_config(disable=True)
        if sampler:
            self.pipe.scheduler = _scheduler(sampler, self.pipe.scheduler.config)
        self.pipe.to(self.device)
        self._parts = {
            part: module
            for part, name in PARTS.items()
            if (module := getattr(self.pipe, name, None)) is not None
        }
        for module in self._parts.values():
            module.eval().requires_grad_(False)
        self._weights: dict[tuple[str, str], torch.Tensor] = {
            (part, name): weight
            for part, module in self._parts.items()
            for name, weight in module.named_parameters()
        }
        self._base: dict[tuple[str, str], torch.Tensor] = {}
        self._merged: set[tuple[str, str]] = set()
        self._loaded: tuple[str, dict[tuple[str, str], deltas.ModuleDelta]] = ("", {})
        self._state: tuple[str, Decimal] = ("", Decimal(0))
        self._base_prompts: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
        self._lora_prompts: dict[tuple[str, str], dict[str, torch.Tensor]] = {}

    @property
    def modules_merged(self) -> int:
        """How many weights differ from the base model's now."""
        return len(self._merged)

    @torch.inference_mode()
    def apply(self, checkpoint: Checkpoint | None, strength: Decimal) -> None:
        """Make the weights W0 + strength * dW; the base itself for None or strength 0.

        Raises UserError if any key of the file has no place in this model. The weights are then
        the base's: nothing is ever applied in part.
        """
        wanted = ("", Decimal(0))
        changes: dict[tuple[str, str], deltas.ModuleDelta] = {}
        if checkpoint is not None and strength:
            wanted = (checkpoint.tensor_hash, strength)
            changes = self._deltas(checkpoint)
        if wanted == self._state:
            return
        for key in self._merged - changes.keys():
            self._weights[key].copy_(self._base[key])
        for key, delta in changes.items():
            weight = self._weights[key]
            if key not in self._base:
                self._base[key] = weight.detach().clone()
            weight.copy_(delta.merge(self._base[key].float(), float(strength)).to(weight.dtype))
        self._merged = set(changes)
        self._state = wanted
        self._lora_prompts.clear()

    def _deltas(self, checkpoint: Checkpoint) -> dict[tuple[str, str], deltas.ModuleDelta]:
        name, changes = self._loaded
        if name != checkpoint.tensor_hash:
            shapes: dict[str, dict[str, tuple[int, ...]]] = {part: {} for part in self._parts}
            for (part, parameter), weight in self._weights.items():
                shapes[part][parameter] = tuple(weight.shape)
            changes = deltas.resolve(deltas.modules(checkpoint.path), shapes)
            self._loaded = (checkpoint.tensor_hash, changes)
        return changes

    @torch.inference_mode()
    def render(
        self, cases: Sequence[Case], *, on_step: Callable[[], None] | None = None
    ) -> list[np.ndarray[Any, Any]]:
        """Pictures (uint8, height x width x 3) of at most `batch_size` cases under the LoRA set.

        The batch is padded by repeating its last case, so its size, and with it every rounding,
        is always the same. Raises MemoryError if the device has too little memory.
        """
        if not 0 < len(cases) <= self.batch_size:
            raise ValueError(f"expected 1 to {self.batch_size} cases, got {len(cases)}")
        padded = [*cases, *[cases[-1]] * (self.batch_size - len(cases))]

        def report(_pipe: Any, _step: int, _time: Any, arguments: dict[str, Any]) -> dict[str, Any]:
            if on_step is not None:
                on_step()
            return arguments

        out_of_memory = False
        try:
            prompts = [self._encode(case.prompt, case.negative) for case in padded]
            pictures = self.pipe(
                **{name: torch.cat([p[name] for p in prompts]) for name in prompts[0]},
                generator=[torch.Generator("cpu").manual_seed(case.seed) for case in padded],
                width=self.width,
                height=self.height,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance_scale,
                output_type="pt",
                callback_on_step_end=report,
            ).images[: len(cases)]
        except torch.OutOfMemoryError:
            out_of_memory = True  # leave the handler first: its traceback holds tensors
        if out_of_memory:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            raise MemoryError(f"out of memory with {self.batch_size} pictures in a batch")
        grey = torch.nan_to_num(pictures.float(), nan=0.0).clamp(0, 1).mul(255).round()
        return list(grey.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())

    def _encode(self, prompt: str, negative: str) -> dict[str, torch.Tensor]:
        """Embeddings of one prompt, each encoded alone, kept until the text encoder changes."""
        touched = any(part.startswith("te") for part, _ in self._merged)
        kept = self._lora_prompts if touched else self._base_prompts
        if (prompt, negative) not in kept:
            guided = self.guidance_scale > 1
            encoded = self.pipe.encode_prompt(
                prompt=prompt,
                device=self.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=guided,
                negative_prompt=negative,
                clip_skip=self.clip_skip or None,
            )
            names = (
                "prompt_embeds",
                "negative_prompt_embeds",
                "pooled_prompt_embeds",
                "negative_pooled_prompt_embeds",
            )
            kept[prompt, negative] = {
                name: tensor
                for name, tensor in zip(names, encoded, strict=False)
                if tensor is not None
            }
        return kept[prompt, negative]


def _scheduler(name: str, config: Any) -> Any:
    if name not in SAMPLERS:
        raise UserError(f"--sampler: {name} is unknown; known are {', '.join(SAMPLERS)}.")
    kind, flags = SAMPLERS[name]
    scheduler = getattr(diffusers, kind).from_config(config, **flags)
    ignored = [flag for flag, value in flags.items() if scheduler.config.get(flag) != value]
    if ignored:
        raise UserError(f"--sampler: {kind} of this diffusers ignores {', '.join(ignored)}.")
    return scheduler


def _quieten() -> None:
    """No progress bars and load reports of the libraries; errors still come as exceptions."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("torch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="(diffusers|transformers|torch|huggingface_hub).*")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
