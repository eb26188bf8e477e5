"""The only module that imports torch and diffusers: loads a model once and renders cells with it.

LoRAs are merged into the weights in place, always from saved base weights,
W = W0 + sum of s_i * dW_i, so that strength 0 restores the base bit for bit, and no error adds up
over any number of switches. Noise comes from one CPU generator per picture and every batch is
padded to one constant size, so that a picture does not depend on what else is rendered, or in
which order.
"""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers

from generation import batches, deltas
from generation.blocks import BlockWeights
from generation.cells import Case, Checkpoint
from generation.errors import UserError
from generation.lora import FAMILY_NAMES
from generation.models import BaseModel, Family, find_model, load_pipeline

__all__ = ["SAMPLERS", "Engine", "choose_device", "choose_dtype", "find_model", "scheduler_record"]

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
    "dpmpp_3m_sde": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "use_karras_sigmas": False},
    ),
    "dpmpp_3m_sde_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "use_karras_sigmas": True},
    ),
    "dpmpp_sde": (
        "DPMSolverSinglestepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": False},
    ),
    "dpmpp_sde_karras": (
        "DPMSolverSinglestepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
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

Key = tuple[str, str]
"""(part, parameter name) of a weight."""

Recipe = tuple[tuple[str, float], ...]
"""What is merged into a weight: (tensor hash of the LoRA, its strength), in order."""


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
                f"--device: there is an NVIDIA GPU, but torch cannot use it ({_cuda_problem()}); "
                "update its driver or install the torch that fits it, or give --device cpu."
            )
        return found
    if not there.get(wanted.partition(":")[0], False):
        usable = ", ".join(name for name, found in there.items() if found)
        why = f" ({_cuda_problem()})" if wanted.startswith("cuda") else ""
        raise UserError(f"--device: {wanted} cannot be used here{why}; usable are {usable}.")
    return wanted


def choose_dtype(device: str, wanted: str = "auto", family: str = "") -> str:
    """float32 on the CPU; on a GPU float16, whose rounding is 8 times finer than bfloat16's.

    FLUX.1 was trained in bfloat16, and its activations overflow float16.
    """
    if wanted != "auto":
        return wanted
    if device == "cpu":
        return "float32"
    return "bfloat16" if family == "flux" else "float16"


def devices(device: str) -> list[str]:
    """The devices to render on: `device`, or for "cuda" every GPU of the first one's kind.

    Pictures differ by rounding between kinds of GPU, so one study stays on one kind.
    """
    if device != "cuda" or torch.cuda.device_count() < 2:
        return [device]
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [f"cuda:{i}" for i, name in enumerate(names) if name == names[0]]


def versions() -> dict[str, str]:
    """Versions of the libraries that decide pixels."""
    return {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }


def scheduler_record(model: BaseModel, sampler: str) -> dict[str, Any]:
    """The scheduler's class and configuration that `sampler` stands for with this model.

    Raises UserError if the name is unknown or does not fit the model's family.
    """
    made = _scheduler(sampler, model)
    config = {k: v for k, v in made.config.items() if not k.startswith("_") and v is not None}
    # JSON has no infinity.
    plain = {k: v if v not in (float("inf"), -float("inf")) else str(v) for k, v in config.items()}
    return {"class": type(made).__name__, **plain}


class Engine:
    """A loaded model that renders cases under a LoRA at a strength.

    One `Engine` belongs to one process and one device. `fixed` LoRAs are merged at their weight
    under everything, controls included; `part_strengths` multiply the strength of the LoRA under
    study for a part ("unet", "transformer", "te", "te2", "te3"), `block_weights` in its blocks.
    With `low_vram` the text encoders and the saved base weights wait in the computer's memory.
    `compiled` compiles the denoiser; switching weights does not compile it again.
    """

    def __init__(
        self,
        model: BaseModel,
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
        fixed: Sequence[tuple[Checkpoint, Decimal]] = (),
        part_strengths: Mapping[str, Decimal] | None = None,
        block_weights: BlockWeights | None = None,
        compiled: bool = False,
        low_vram: bool = False,
    ) -> None:
        _quieten()
        self.model = model
        self.steps, self.guidance_scale = steps, guidance_scale
        self.width, self.height = width, height
        self.clip_skip, self.batch_size = clip_skip, batch_size
        self.low_vram = low_vram
        self.device = torch.device(device)
        self.traits: Family = model.traits
        scheduler = _scheduler(sampler, model)
        self.pipe: Any = load_pipeline(model, getattr(torch, dtype))
        self.pipe.scheduler = scheduler
        self.pipe.set_progress_bar_config(disable=True)
        if model.family == "sdxl" and self.pipe.vae.config.force_upcast and dtype == "float16":
            # SDXL's own VAE overflows float16. Other families' have the flag by default only.
            self.pipe.vae.to(torch.float32)
        self._parts = {
            part: module
            for part, name in PARTS.items()
            if (module := getattr(self.pipe, name, None)) is not None
        }
        self._encoders = [m for part, m in self._parts.items() if part.startswith("te")]
        for module in (*self._parts.values(), self.pipe.vae):
            module.eval().requires_grad_(False)
            for weight in module.parameters():
                # Weights mapped from a file lie where its header ends, and CPU kernels round
                # otherwise at odd addresses: the same model from another file gave other bits.
                if weight.data_ptr() % 64:
                    weight.data = weight.data.clone()
        self._denoiser = self._parts[self.traits.denoiser]
        for module in (self._denoiser, self.pipe.vae, *([] if low_vram else self._encoders)):
            self._move(module)
        if compiled:
            self._denoiser.compile()
        self._weights: dict[Key, torch.Tensor] = {
            (part, name): weight
            for part, module in self._parts.items()
            for name, weight in module.named_parameters()
        }
        self._base: dict[Key, torch.Tensor] = {}
        self._recipes: dict[Key, Recipe] = {}
        self._study: tuple[str, Mapping[Key, deltas.ModuleDelta]] = ("", {})
        self._fixed = [(c.tensor_hash, self._deltas(c), float(weight)) for c, weight in fixed]
        self._part_strengths = {
            part: value
            for name, value in (part_strengths or {}).items()
            # "unet" is what people call the denoiser, whatever it is built from.
            for part in ([self.traits.denoiser] if name == "unet" else [name])
        }
        # Raises UserError where the blocks are not this model's.
        self._block_weights = block_weights.of_weights(self._weights) if block_weights else {}
        self._touches_text = False
        self._base_prompts: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
        self._lora_prompts: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
        self.apply(None, Decimal(0))

    @property
    def modules_merged(self) -> int:
        """How many weights differ from the base model's now."""
        return len(self._recipes)

    @torch.inference_mode()
    def apply(self, checkpoint: Checkpoint | None, strength: Decimal) -> None:
        """Make the weights W0 + fixed LoRAs + strength * dW; without dW for None or strength 0.

        Raises UserError if any key of the file has no place in this model. The weights are then
        what they were before: nothing is ever applied in part.
        """
        study: Mapping[Key, deltas.ModuleDelta] = {}
        if checkpoint is not None and strength:
            if self._study[0] != checkpoint.tensor_hash:
                self._study = ("", {})  # frees the last one's factors first
                self._study = (checkpoint.tensor_hash, self._deltas(checkpoint))
            study = self._study[1]
        wanted: dict[Key, Recipe] = {}
        for name, changes, weight in self._fixed:
            for key in changes:
                wanted[key] = (*wanted.get(key, ()), (name, weight))
        touches_text = False
        for key in study:
            part = self._part_strengths.get(key[0], Decimal(1))
            amount = float(strength * part * self._block_weights.get(key, Decimal(1)))
            if amount:
                wanted[key] = (*wanted.get(key, ()), (self._study[0], amount))
                touches_text |= key[0].startswith("te")
        changed = {
            key
            for key in self._recipes.keys() | wanted.keys()
            if self._recipes.get(key) != wanted.get(key)
        }
        with _memory_errors():
            for key in changed:
                self._write(key, wanted.get(key, ()))
        if changed:
            self._lora_prompts.clear()
        self._touches_text = touches_text

    def _write(self, key: Key, recipe: Recipe) -> None:
        """Set one weight from its saved base value."""
        weight = self._weights[key]
        if key not in self._base:
            self._base[key] = weight.detach().clone().to("cpu" if self.low_vram else weight.device)
        self._recipes.pop(key, None)
        base = self._base[key].to(weight.device)
        if not recipe:
            weight.copy_(base)
            return
        known = {name: changes for name, changes, _ in self._fixed}
        known[self._study[0]] = self._study[1]
        updates = [(known[name][key], amount) for name, amount in recipe]
        weight.copy_(deltas.merge(base.float(), updates).to(weight.dtype))
        self._recipes[key] = recipe

    def _deltas(self, checkpoint: Checkpoint) -> Mapping[Key, deltas.ModuleDelta]:
        """Where each update of a file belongs, its factors kept near the weights."""
        shapes: dict[str, dict[str, tuple[int, ...]]] = {part: {} for part in self._parts}
        for (part, parameter), weight in self._weights.items():
            shapes[part][parameter] = tuple(weight.shape)
        found = deltas.resolve(deltas.modules(checkpoint.path), shapes)
        where = "cpu" if self.low_vram else self.device
        return {key: delta.to(where) for key, delta in found.items()}

    @torch.inference_mode()
    def encode(self, cases: Iterable[Case]) -> None:
        """Encode the cases' prompts now, so that the text encoders are needed no more.

        Raises MemoryError if the device has too little memory, as `apply` does.
        """
        with _memory_errors():
            for case in cases:
                self._encode(case.prompt, case.negative)
        if self.low_vram:
            for encoder in self._encoders:
                encoder.to("cpu")

    @torch.inference_mode()
    def render(
        self, cases: Sequence[Case], *, on_step: Callable[[], None] | None = None
    ) -> list[np.ndarray[Any, Any] | None]:
        """Pictures (uint8, height x width x 3) of at most `batch_size` cases under the LoRA set.

        The batch is padded by repeating its last case, so its size, and with it every rounding,
        is always the same. None stands for a picture that is not finite: numbers overflowed.
        Raises MemoryError if the device has too little memory.
        """
        if not 0 < len(cases) <= self.batch_size:
            raise ValueError(f"expected 1 to {self.batch_size} cases, got {len(cases)}")
        padded = [*cases, *[cases[-1]] * (self.batch_size - len(cases))]

        def report(_pipe: Any, _step: int, _time: Any, arguments: dict[str, Any]) -> dict[str, Any]:
            if on_step is not None:
                on_step()
            return arguments

        pictures: list[np.ndarray[Any, Any] | None] | None = None
        try:
            prompts = [self._encode(case.prompt, case.negative) for case in padded]
            latents = self.pipe(
                **{
                    name: torch.cat([p[name] for p in prompts]).to(self.device)
                    for name in prompts[0]
                },
                generator=[torch.Generator("cpu").manual_seed(case.seed) for case in padded],
                width=self.width,
                height=self.height,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance_scale,
                output_type="latent",
                callback_on_step_end=report,
            ).images
            pictures = self._decode(latents, len(cases))
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
        # Outside of the handler, whose traceback would hold the tensors.
        if pictures is None:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            raise MemoryError(f"out of memory with {self.batch_size} pictures in a batch")
        return pictures

    def most_pictures(self) -> int:
        """How many pictures fit into the GPU's memory at once, from two short renders (CUDA)."""
        usual = self.batch_size, self.steps
        self.steps = 2

        def peak(count: int) -> float:
            self.batch_size = count
            torch.cuda.reset_peak_memory_stats(self.device)
            self.render([Case("a picture", 0)] * count)
            return torch.cuda.max_memory_allocated(self.device)

        try:
            free, _ = torch.cuda.mem_get_info(self.device)
            memory = free + torch.cuda.memory_reserved(self.device)
            if not self.low_vram:  # the saved base weights are still to come
                memory -= sum(w.numel() * w.element_size() for w in self._weights.values())
            return batches.largest(peak, memory)
        finally:
            self.batch_size, self.steps = usual

    def _decode(self, latents: torch.Tensor, count: int) -> list[np.ndarray[Any, Any] | None]:
        """Pictures of the first `count` latents, each decoded alone: less memory, same bits."""
        vae = self.pipe.vae
        config = vae.config
        if self.model.family == "flux":
            latents = self.pipe._unpack_latents(
                latents, self.height, self.width, self.pipe.vae_scale_factor
            )
        z = latents[:count].to(torch.float32)
        if getattr(config, "latents_mean", None) and getattr(config, "latents_std", None):
            mean, std = (
                torch.tensor(values, device=z.device).view(1, -1, 1, 1)
                for values in (config.latents_mean, config.latents_std)
            )
            z = z * std / config.scaling_factor + mean
        else:
            z = z / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
        return [self._picture(one) for one in z.split(1)]

    def _picture(self, z: torch.Tensor) -> np.ndarray[Any, Any] | None:
        if not z.isfinite().all():
            return None
        vae, usual = self.pipe.vae, self.pipe.vae.dtype
        pixels = vae.decode(z.to(usual), return_dict=False)[0].float()
        if usual != torch.float32 and not pixels.isfinite().all():
            # Some VAEs overflow float16 on some pictures only.
            vae.to(torch.float32)
            pixels = vae.decode(z, return_dict=False)[0]
            vae.to(usual)
        if not pixels.isfinite().all():
            return None
        grey = (pixels[0] / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        picture: np.ndarray[Any, Any] = grey.permute(1, 2, 0).cpu().numpy()
        return picture

    def _encode(self, prompt: str, negative: str) -> dict[str, torch.Tensor]:
        """Embeddings of one prompt, each encoded alone, kept until a text encoder changes."""
        kept = self._lora_prompts if self._touches_text else self._base_prompts
        if (prompt, negative) not in kept:
            for encoder in self._encoders:
                self._move(encoder)
            kept[prompt, negative] = {
                name: tensor.cpu()
                for name, tensor in self._embeddings(prompt, negative).items()
                if tensor is not None
            }
        return kept[prompt, negative]

    def _embeddings(self, prompt: str, negative: str) -> dict[str, torch.Tensor | None]:
        common = {"prompt": prompt, "device": self.device, "num_images_per_prompt": 1}
        if self.model.family == "flux":
            embeds, pooled, _ = self.pipe.encode_prompt(**common, prompt_2=None)
            return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
        if self.model.family == "sd3":
            common |= {"prompt_2": None, "prompt_3": None}
        # Distilled UNets take the guidance scale as an input instead.
        distilled = getattr(self._denoiser.config, "time_cond_proj_dim", None) is not None
        encoded = self.pipe.encode_prompt(
            **common,
            do_classifier_free_guidance=self.guidance_scale > 1 and not distilled,
            negative_prompt=negative,
            clip_skip=self.clip_skip or None,
        )
        names = (
            "prompt_embeds",
            "negative_prompt_embeds",
            "pooled_prompt_embeds",
            "negative_pooled_prompt_embeds",
        )
        return dict(zip(names, encoded, strict=False))

    def _move(self, module: torch.nn.Module) -> None:
        """Move a module to the device; too little memory there is the user's to mend."""
        try:
            module.to(self.device)
        except (RuntimeError, MemoryError) as error:
            if _out_of_memory(error):
                raise UserError(
                    f"--device: {self.device} has too little memory for {self.model.name}; try "
                    "--low-vram, --dtype float16 or --device cpu."
                ) from error
            raise UserError(
                f"--device: {self.device} cannot be used ({_first_line(error)}); try --device cpu."
            ) from error


def _scheduler(name: str, model: BaseModel) -> Any:
    own = dict(model.scheduler)
    if model.traits.flow:
        if name not in {"", "euler"}:
            raise UserError(
                f"--sampler: {name} does not fit {FAMILY_NAMES[model.family]}, which is trained "
                "for flow matching; leave --sampler out."
            )
        name = ""
    if not name:
        return getattr(diffusers, own["_class_name"]).from_config(own)
    if name not in SAMPLERS:
        raise UserError(f"--sampler: {name} is unknown; known are {', '.join(SAMPLERS)}.")
    kind, flags = SAMPLERS[name]
    scheduler = getattr(diffusers, kind).from_config(own, **flags)
    wanted = {flag: own[flag] for flag in ("prediction_type", "rescale_betas_zero_snr")
              if own.get(flag) not in (None, False, "epsilon")} | dict(flags)  # fmt: skip
    ignored = [flag for flag, value in wanted.items() if scheduler.config.get(flag) != value]
    if ignored:
        raise UserError(
            f"--sampler: {kind} of this diffusers ignores {', '.join(ignored)}, which "
            f"{name} needs with this model; choose another sampler."
        )
    return scheduler


def _out_of_memory(error: BaseException) -> bool:
    """Whether a device (or the computer) had too little memory; only CUDA and XPU have a class."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return "out of memory" in text or "can't allocate memory" in text


@contextmanager
def _memory_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if _out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise


def _cuda_problem() -> str:
    """Why CUDA cannot be used, in torch's words."""
    try:
        torch.cuda.init()
    except Exception as error:  # AssertionError, RuntimeError, ... by kind of build
        return _first_line(error)
    return "no GPU found"


def _quieten() -> None:
    """No progress bars and load reports of the libraries; errors still come as exceptions."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("torch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="(diffusers|transformers|torch|huggingface_hub).*")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
