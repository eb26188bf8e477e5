"""Loads a model once and renders cells with it.

Torch and diffusers are loaded by importing this module, and by no other way: what needs them
(devices, samplers, rows) is had from here.

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
from contextlib import contextmanager, nullcontext
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image

from generation.cells import Case, Cell, Checkpoint, InputPicture
from generation.errors import UserError, first_line, named
from generation.families import Rendering
from generation.loras import deltas
from generation.loras.blocks import BlockWeights
from generation.pictures.inputs import read_input
from generation.pictures.pixels import Pixels
from generation.renderers.diffusers import batches, prompts
from generation.renderers.diffusers.devices import choose_device, choose_dtype, devices
from generation.renderers.diffusers.models import (
    PARTS,
    BaseModel,
    find_model,
    load_pipeline,
    structure,
)
from generation.renderers.diffusers.rows import RowStrengths
from generation.renderers.diffusers.samplers import SAMPLERS, scheduler, scheduler_record, usual
from generation.renderers.diffusers.shares import shared_out

T = TypeVar("T")

__all__ = [
    "SAMPLERS",
    "Engine",
    "choose_device",
    "choose_dtype",
    "devices",
    "find_model",
    "free_memory",
    "scheduler_record",
    "structure",
    "threads",
    "usual",
    "versions",
]

Key = tuple[str, str]
"""(part, parameter name) of a weight."""

_EDITED = "edited"
"""The picture to edit (1 x H x W x 3, uint8), among a case's embeddings."""

Recipe = tuple[tuple[str, float], ...]
"""What is merged into a weight: (tensor hash of the LoRA, its strength), in order."""


def versions() -> dict[str, str]:
    """Versions of the libraries that decide pixels."""
    return {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }


def threads(count: int = 0) -> int:
    """How many threads compute on the CPU, from now on `count`. CPU kernels split sums among them,
    so that pictures of another number of threads differ by rounding."""
    if count:
        torch.set_num_threads(count)
    return torch.get_num_threads()


def free_memory() -> None:
    """Give back what nothing holds any more, on a GPU too, where other processes may need it."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class Engine:
    """A loaded model that renders cases under a LoRA at a strength.

    One `Engine` belongs to one process and one device. `fixed` LoRAs are merged at their weight
    under everything, controls included; `part_strengths` multiply the strength of the LoRA under
    study for a part ("unet" the denoiser, "text" all text encoders, "te" to "te4" each of
    them), `block_weights` in its blocks. With `low_vram` the text encoders and the saved base
    weights wait in the computer's memory. `compiled` compiles the denoiser; switching weights does
    not compile it again. With `mixed` a batch may hold many strengths: the LoRA under study is then
    merged into the text encoders only (see `generation.renderers.diffusers.rows`). With `shared` a
    CPU's cores compute rows of their own (see `generation.renderers.diffusers.shares`).
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
        guidance_rescale: float = 0.0,
        batch_size: int = 4,
        fixed: Sequence[tuple[Checkpoint, Decimal]] = (),
        part_strengths: Mapping[str, Decimal] | None = None,
        block_weights: BlockWeights | None = None,
        compiled: bool = False,
        low_vram: bool = False,
        mixed: bool = False,
        shared: bool = False,
    ) -> None:
        _quieten()
        self.model = model
        self.steps, self.guidance_scale = steps, guidance_scale
        self.width, self.height = width, height
        self.clip_skip, self.batch_size = clip_skip, batch_size
        # Only the pipelines of Stable Diffusion 1.x, 2.x and XL have it.
        self._rescale = {"guidance_rescale": guidance_rescale} if guidance_rescale else {}
        self.low_vram, self.mixed = low_vram, mixed
        self.device = torch.device(device)
        self.traits: Rendering = model.traits
        if mixed and not self.traits.rows:
            raise ValueError(f"{model.family} cannot give each picture a strength of its own")
        self.pipe: Any = load_pipeline(model, getattr(torch, dtype))
        self.pipe.scheduler = scheduler(sampler, model)
        self.pipe.set_progress_bar_config(disable=True)
        if self.traits.fit is not None:
            self.traits.fit(self.pipe, width, height)
        if self.traits.vae_overflows and self.pipe.vae.config.force_upcast and dtype == "float16":
            # Other families' VAEs have the flag by default only.
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
        self.denoiser: Any = self._parts[self.traits.denoiser]
        self._place()
        if compiled:
            self.denoiser.compile()
        elif shared and not mixed and self.device.type == "cpu":
            self._share_out()
        self._weights: dict[Key, torch.Tensor] = {
            (part, name): weight
            for part, module in self._parts.items()
            for name, weight in module.named_parameters()
        }
        self._base: dict[Key, torch.Tensor] = {}
        self._recipes: dict[Key, Recipe] = {}
        self._study: tuple[str, Mapping[Key, deltas.ModuleDelta]] = ("", {})
        self._fixed = [(c.tensor_hash, self._deltas(c), float(weight)) for c, weight in fixed]
        # "unet" is what people call the denoiser, whatever it is built from.
        several = {"unet": (self.traits.denoiser,), "text": self.traits.encoders}
        self._part_strengths = {
            part: value
            for name, value in (part_strengths or {}).items()
            for part in several.get(name, (name,))
        }
        # Raises UserError where the blocks are not this model's.
        self._block_weights = block_weights.of_weights(self._weights) if block_weights else {}
        self._rows = RowStrengths(self.denoiser)
        self._touches_text = False
        self._prompts: dict[
            tuple[Decimal, str, str, InputPicture | None], dict[str, torch.Tensor]
        ] = {}
        self._merged = Decimal(0)
        self.apply(None, Decimal(0))

    def _place(self) -> None:
        """Put the models where they are used, their weights as the device likes them."""
        for module in (self.denoiser, self.pipe.vae, *([] if self.low_vram else self._encoders)):
            self._move(module)
        if self.device.type == "cuda":
            # Tensor cores convolve channels-last only; else every layer would convert and back.
            for module in (self.denoiser, *([] if self.traits.frames else [self.pipe.vae])):
                module.to(memory_format=torch.channels_last)
            self._decoding = torch.cuda.Stream(self.device)

    def _share_out(self) -> None:
        """Give each core rows of its own, where a batch of the denoiser's is rows."""
        cores, forward = threads(), self.denoiser.forward
        if cores > 1 and self.traits.denoiser == "unet":
            share = shared_out(forward, cores)
            # Rows with strengths of their own are counted where they are added.
            self.denoiser.forward = lambda *given, **named: (forward if self.mixed else share)(
                *given, **named
            )

    @property
    def _guided(self) -> bool:
        """Whether each picture is denoised under its negative prompt too; distilled UNets take the
        guidance scale as an input instead."""
        distilled = getattr(self.denoiser.config, "time_cond_proj_dim", None) is not None
        guided = self.traits.negative and self.guidance_scale > self.traits.unguided
        return guided and not distilled

    @property
    def rows(self) -> int:
        """How many rows the denoiser gets at once when a batch is painted."""
        return self.batch_size * (1 + self._guided)

    @property
    def modules_merged(self) -> int:
        """How many weights differ from the base model's now."""
        return len(self._recipes)

    @torch.inference_mode()
    def apply(self, checkpoint: Checkpoint | None, strength: Decimal) -> None:
        """Make the weights W0 + fixed LoRAs + strength * dW; without dW for None or strength 0.

        Raises UserError if any key of the file has no place in this model. The weights are then
        what they were before: nothing is ever applied in part. Raises MemoryError if the device
        has too little memory.
        """
        self._merge(checkpoint, strength, tuple(self._parts))

    @torch.inference_mode()
    def prepare(self, cells: Sequence[Cell]) -> None:
        """Set the weights for these cells and encode their prompts; raises what `apply` raises.

        The cells share a checkpoint and a strength; when `mixed`, a checkpoint, controls aside.
        """
        if not self.mixed:
            self.apply(cells[0].checkpoint, cells[0].strength)
            self.encode(cell.case for cell in cells)
            return
        checkpoint = next((cell.checkpoint for cell in cells if not cell.is_control), None)
        self._within_memory(lambda: self._attach(checkpoint))
        texts = tuple(part for part in self._parts if part.startswith("te"))
        for strength in dict.fromkeys(self._text_strength(cell.strength) for cell in cells):
            self._merge(checkpoint, strength, texts)
            self.encode(c.case for c in cells if self._text_strength(c.strength) == strength)

    @contextmanager
    def without_lora(self) -> Iterator[None]:
        """Within, the weights are those of the controls; after it, what they were, to the bit.

        Raises what `apply` raises.
        """
        recipes, merged, known = dict(self._recipes), self._merged, self._prompts
        self.apply(None, Decimal(0))
        self._rows.set([0.0])
        try:
            yield
        finally:
            changed = {
                key: recipes.get(key, ())
                for key in self._recipes.keys() | recipes.keys()
                if self._recipes.get(key) != recipes.get(key)
            }
            with torch.inference_mode():
                self._within_memory(lambda: self._write(changed))
            self._merged, self._prompts = merged, known | self._prompts

    def texts(self, prompt: str) -> Mapping[str, torch.Tensor]:
        """The prompt's embeddings under the text encoders that are set, in the CPU's memory."""
        case = Case(prompt, 0)
        self.encode([case])
        return self._encode(case, self._merged)

    def _merge(
        self, checkpoint: Checkpoint | None, strength: Decimal, parts: Sequence[str]
    ) -> None:
        """Write the weights whose recipe changes, the LoRA under study's in `parts` only."""
        study: Mapping[Key, deltas.ModuleDelta] = {}
        if checkpoint is not None and strength:
            self._within_memory(lambda: self._open(checkpoint))
            study = self._study[1]
        wanted: dict[Key, Recipe] = {}
        for name, changes, weight in self._fixed:
            for key in changes:
                wanted[key] = (*wanted.get(key, ()), (name, weight))
        for key in study:
            amount = float(strength * self._factor(key))
            if amount and key[0] in parts:
                wanted[key] = (*wanted.get(key, ()), (self._study[0], amount))
        changed = {
            key
            for key in self._recipes.keys() | wanted.keys()
            if self._recipes.get(key) != wanted.get(key)
        }
        self._within_memory(lambda: self._write({key: wanted.get(key, ()) for key in changed}))
        merged = self._text_strength(strength) if study else Decimal(0)
        if merged != self._merged and not self.mixed:
            self._forget_prompts()
        self._merged = merged

    def _open(self, checkpoint: Checkpoint) -> None:
        """Make this file the LoRA under study."""
        if self._study[0] != checkpoint.tensor_hash:
            self._study = ("", {})  # frees the last one's factors first
            self._forget_prompts()
            self._study = (checkpoint.tensor_hash, self._deltas(checkpoint))
            self._touches_text = any(
                key[0].startswith("te") and self._factor(key) for key in self._study[1]
            )

    def _attach(self, checkpoint: Checkpoint | None) -> None:
        """Lay the LoRA under study over the denoiser, for a strength of each picture's own."""
        if checkpoint is None:
            return
        self._open(checkpoint)
        self._rows.attach(
            {
                name: (delta, float(self._factor((part, name))))
                for (part, name), delta in self._study[1].items()
                if part == self.traits.denoiser
            }
        )

    def _factor(self, key: Key) -> Decimal:
        """What multiplies the strength of the LoRA under study in one weight."""
        part = self._part_strengths.get(key[0], Decimal(1))
        return part * self._block_weights.get(key, Decimal(1))

    def _text_strength(self, strength: Decimal) -> Decimal:
        """The strength, or 0 where the LoRA under study does not change the text encoders."""
        return strength if self._touches_text else Decimal(0)

    def _forget_prompts(self) -> None:
        """Drop what text encoders with a LoRA made of the prompts."""
        self._prompts = {key: kept for key, kept in self._prompts.items() if not key[0]}

    def _write(self, recipes: Mapping[Key, Recipe]) -> None:
        """Set weights from their saved base values."""
        known = {name: changes for name, changes, _ in self._fixed}
        known[self._study[0]] = self._study[1]
        for key, recipe in recipes.items():
            weight = self._weights[key]
            if key not in self._base:
                where = "cpu" if self.low_vram else weight.device
                self._base[key] = weight.detach().clone().to(where)
            self._recipes.pop(key, None)
            base = self._base[key].to(weight.device)
            if not recipe:
                weight.copy_(base)
                continue
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
        self._within_memory(lambda: [self._encode(case, self._merged) for case in cases])
        if self.low_vram:
            for encoder in self._encoders:
                encoder.to("cpu")

    def batch(self, cells: Sequence[Cell]) -> list[Cell]:
        """The first of these prepared cells that can be one batch: with prompts equally long."""
        lengths = [
            {name: t.shape for name, t in self._encode(cell.case, cell.strength).items()}
            for cell in cells
        ]
        fitting = [c for c, length in zip(cells, lengths, strict=True) if length == lengths[0]]
        return fitting[: self.batch_size]

    def render(
        self,
        cases: Sequence[Case],
        strengths: Sequence[Decimal] = (),
    ) -> list[Pixels | None]:
        """Pictures of the cases: `denoise`, then `decode`."""
        return self.decode(self.denoise(cases, strengths))

    @torch.inference_mode()
    def denoise(
        self,
        cases: Sequence[Case],
        strengths: Sequence[Decimal] = (),
    ) -> torch.Tensor:
        """Latents of at most `batch_size` cases, under the weights set or at a strength of each.

        `strengths` are for `mixed` engines, one for each case after `prepare`; without them all
        are 0. The batch is padded by repeating its last case, so its size, and with it every
        rounding, is always the same. Raises MemoryError if the device has too little memory.
        """
        if not 0 < len(cases) <= self.batch_size:
            raise ValueError(f"expected 1 to {self.batch_size} cases, got {len(cases)}")
        if strengths and (not self.mixed or len(strengths) != len(cases)):
            raise ValueError("strengths are for mixed engines, one for each case")
        padding = self.batch_size - len(cases)
        padded = [*cases, *[cases[-1]] * padding]
        each = [*strengths, *[strengths[-1]] * padding] if strengths else [Decimal(0)] * len(padded)
        self._rows.set([float(strength) for strength in each])

        def paint() -> torch.Tensor:
            encoded = [self._encode(case, s) for case, s in zip(padded, each, strict=True)]
            seeds = [case.seed for case in padded]
            if self.traits.alone:
                one_by_one = zip(encoded[: len(cases)], seeds, strict=False)
                latents = torch.cat([self._latents([text], [seed]) for text, seed in one_by_one])
            else:
                latents = self._latents(encoded, seeds)
            if latents.is_cuda:
                torch.cuda.current_stream(self.device).synchronize()
            return latents[: len(cases)]

        return self._within_memory(paint)

    def _latents(
        self, encoded: Sequence[Mapping[str, torch.Tensor]], seeds: Sequence[int]
    ) -> torch.Tensor:
        """What the pipeline's call makes of encoded cases."""
        batch = {name: torch.cat([text[name] for text in encoded]) for name in encoded[0]}
        more: dict[str, Any] = dict(self._rescale)
        if (edited := batch.pop(_EDITED, None)) is not None:
            more["image"] = [Image.fromarray(picture.numpy()) for picture in edited]
        more |= dict.fromkeys(self.traits.sized, self.width * self.height)
        call = self.traits.call or _plain_call
        texts = {name: tensor.to(self.device) for name, tensor in batch.items()}
        if self.traits.alone:
            torch.manual_seed(seeds[0])  # HiDream's pipeline draws further noise from nowhere else
        latents: torch.Tensor = self.pipe(
            **call(texts, self.guidance_scale),
            **more,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            width=self.width,
            height=self.height,
            num_inference_steps=self.steps,
            output_type="latent",
        ).images
        return latents

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> list[Pixels | None]:
        """Pictures (uint8, height x width x 3), each decoded alone: less memory, same bits.

        None stands for a picture that is not finite: numbers overflowed. May run in a thread while
        the next batch is denoised. Raises MemoryError if the device has too little memory.
        """
        beside = torch.cuda.stream(self._decoding) if latents.is_cuda else nullcontext()
        with beside:
            return self._within_memory(lambda: [self._picture(z) for z in self._scaled(latents)])

    def _within_memory(self, work: Callable[[], T]) -> T:
        """What `work` returns; MemoryError, with what it held freed, where memory ran out."""
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
        # Outside of the handler, whose traceback would hold the tensors.
        free_memory()
        raise MemoryError(f"out of memory with {self.batch_size} pictures in a batch")

    def most_pictures(self) -> int:
        """How many pictures fit into the GPU's memory at once, from two short renders (CUDA)."""
        usual = self.batch_size, self.steps
        self.steps = 2

        def peak(count: int) -> float:
            self.batch_size = count
            torch.cuda.reset_peak_memory_stats(self.device)
            latents = self.denoise([Case("a picture", 0)] * count)
            denoising = torch.cuda.max_memory_allocated(self.device)
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.decode(latents)  # happens beside the next batch
            return denoising + torch.cuda.max_memory_allocated(self.device) - before

        try:
            free, _ = torch.cuda.mem_get_info(self.device)
            memory = free + torch.cuda.memory_reserved(self.device)
            if not self.low_vram:  # the saved base weights are still to come
                memory -= sum(w.numel() * w.element_size() for w in self._weights.values())
            return batches.largest(peak, memory)
        finally:
            self.batch_size, self.steps = usual

    def _scaled(self, latents: torch.Tensor) -> Sequence[torch.Tensor]:
        """Each picture's latents as the VAE takes them, in float32."""
        if self.traits.unpack is not None:
            latents = self.traits.unpack(self.pipe, latents, self.height, self.width)
        z = latents.to(torch.float32)
        mean, std, factor = self._scaling(z.device)
        if z.dim() == 5:
            mean, std = mean[..., None], std[..., None]
        return torch.split(z * std / factor + mean, 1)

    def unit_latents(self, z: torch.Tensor) -> torch.Tensor:
        """What the VAE's encoder gives (N x C x H x W, float32), as the denoiser takes it."""
        if self.traits.pack is not None:
            packed: torch.Tensor = self.traits.pack(self.pipe, z)
            return packed
        mean, std, factor = self._scaling(z.device)
        return (z - mean) * factor / std

    def _scaling(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Mean and deviation of the VAE's latents (1 x C x 1 x 1, or 1 for C), and their factor."""
        config = self.pipe.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if not (mean and std):
            mean, std = [getattr(config, "shift_factor", None) or 0.0], [1.0]
        middle, spread = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (mean, std))
        return middle, spread, float(getattr(config, "scaling_factor", 1.0))

    def _picture(self, z: torch.Tensor) -> Pixels | None:
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
        if self.traits.frames:
            pixels = pixels[:, :, 0]
        grey = (pixels[0] / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        picture: Pixels = grey.permute(1, 2, 0).cpu().numpy()
        return picture

    def _encode(self, case: Case, strength: Decimal) -> dict[str, torch.Tensor]:
        """Embeddings of one case's prompts, each encoded alone, kept until text encoders change.

        When `mixed`, under the text encoders at `strength`; else as they are.
        """
        text = self._text_strength(strength) if self.mixed else self._merged
        key = text, case.prompt, case.negative, case.picture
        if key not in self._prompts:
            if text != self._merged:
                raise ValueError("these cells were not prepared")
            for encoder in self._encoders:
                self._move(encoder)
            self._prompts[key] = {
                name: tensor.cpu() for name, tensor in self._embeddings(case).items()
            }
        return self._prompts[key]

    def _embeddings(self, case: Case) -> dict[str, torch.Tensor]:
        edited = self._edited(case) if self.model.edits else None
        edit = self.traits.edit
        texts = prompts.embeddings(
            self.pipe,
            self.model.family,
            case.prompt,
            case.negative,
            device=self.device,
            guided=self._guided,
            clip_skip=self.clip_skip,
            edit=partial(edit, picture=edited) if edit is not None else None,
        )
        if edited is not None:
            texts[_EDITED] = torch.from_numpy(np.array(edited))[None]
        return texts

    def _edited(self, case: Case) -> Image.Image:
        """The picture that the case edits; grey where no picture is asked for, but how much memory
        one takes, or what the model thinks of another."""
        if case.picture is not None:
            return Image.fromarray(read_input(case.picture))
        return Image.new("RGB", (self.width, self.height), "grey")

    def _move(self, module: torch.nn.Module) -> None:
        """Move a module to the device; too little memory there is the user's to mend."""
        try:
            module.to(self.device)
        except (RuntimeError, MemoryError) as error:
            if _out_of_memory(error):
                raise UserError(
                    f"{self.device} has too little memory for {self.model.name}; try "
                    f"{named('low_vram')}, {named('dtype')} float16 or {named('device')} cpu.",
                    field="device",
                ) from error
            raise UserError(
                f"{self.device} cannot be used ({first_line(error)}); try {named('device')} cpu.",
                field="device",
            ) from error


def _plain_call(texts: Mapping[str, Any], guidance_scale: float) -> Mapping[str, Any]:
    return {**texts, "guidance_scale": guidance_scale}


def _out_of_memory(error: BaseException) -> bool:
    """Whether a device (or the computer) had too little memory; only CUDA and XPU have a class."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return "out of memory" in text or "can't allocate memory" in text


def _quieten() -> None:
    """No progress bars and load reports of the libraries; errors still come as exceptions."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("torch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="(diffusers|transformers|torch|huggingface_hub).*")
