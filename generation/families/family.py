"""What a family is: the layers of its published models, its names for them, how it is rendered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

Layers = Mapping[str, tuple[int, ...]]
"""Module names, as in diffusers unless said otherwise -> the shape of their weight."""

PICTURE = "attn.to_q attn.to_k attn.to_v attn.to_out.0"
TEXT = "attn.add_q_proj attn.add_k_proj attn.add_v_proj attn.to_add_out"
"""The attention of blocks that see a picture and a text: the layers of each of the two."""

Config = Mapping[str, Any]
"""One of a diffusers folder's configurations."""

Aliases = Iterator[tuple[str, tuple[str, ...], bool]]
"""(another name, diffusers' modules that it fuses, whether the output's two halves are swapped)."""


@dataclass(frozen=True)
class BlockLists:
    """The lists that block weights can be given in, shortest first, and their named lists.

    `kinds` are the names, and other spellings of them, that stand for several blocks. `stacks` say
    which blocks a transformer's modules lie in; a name that begins as none of them lies in
    `elsewhere`. `encoders` are the blocks of text encoders that have one of their own.
    """

    lists: tuple[tuple[str, ...], ...]
    kinds: Mapping[str, str]
    presets: Mapping[str, str] = field(default_factory=dict)
    stacks: Mapping[str, str] = field(default_factory=dict)
    elsewhere: str = "BASE"
    encoders: Mapping[str, str] = field(default_factory=dict)
    whole: bool = True
    """Whether the longest list names all blocks of every model of the family."""

    @property
    def order(self) -> tuple[str, ...]:
        return self.lists[-1]


def blocks(kind: str, *numbers: int) -> tuple[str, ...]:
    """Names of blocks as lists have them: IN01, IN02."""
    return tuple(f"{kind}{number:02d}" for number in numbers)


@dataclass(frozen=True)
class Rendering:
    """How a family is rendered: its diffusers pipeline and the settings people start from.

    `denoiser` is the pipeline's component and the LoRA's part, `model` its class where a single
    checkpoint holds nothing else. `multiple` is what both sides of a picture must be divisible by,
    in pixels, `side` what its models were made for where their configurations do not say. `flow`
    marks models trained for flow matching, which keep their own scheduler. A single checkpoint is
    of the family if each of `marks`, regular expressions, is found in its keys.
    `encoders` are the text encoders that a LoRA can change, in the pipeline's order. `half` is the
    16-bit format that its numbers fit into; `vae_overflows` says that its VAE does not fit float16.

    `convert(checkpoint, parameters)` makes a checkpoint's weights those of diffusers' parameters
    ({name: shape}), where diffusers' own conversion does not. `fit(pipe, width, height)` makes the
    pipeline paint that size, where it would choose another; raises UserError if it cannot.
    `apart` says what to do about a text encoder that the models are published without.

    `chunked` families read prompts of any length in CLIP's chunks, and A1111's attention weights
    (`generation.renderers.diffusers.prompts`); the others encode with `encode(pipe, prompt,
    negative, device, guided, clip_skip)`, which returns the text arguments of the pipeline's call.
    `reads` are the latter's tokenizers with the tokens that they may see of a prompt, most first.
    `penultimate` ones take CLIP's last layer but one, and the second encoder's pooled output.
    `call(texts, guidance_scale)` makes arguments of the pipeline's call from a batch's texts, where
    they are not simply those; `sized` are those that the picture's area in pixels is told by. There
    is guidance above a scale of `unguided`. `rows` says that what
    the denoiser's layers see begins with the batch, so that each picture can have its own strength.

    `unpack(pipe, latents, height, width)` makes latents ready for the VAE, or for its mean and
    deviation; `pack(pipe, z)` is the other way round, from what the VAE's encoder gives to what the
    denoiser takes, where mean and deviation are not all. `frames` marks VAEs of videos, for which a
    picture is one frame (N x C x 1 x H x W). `predict(pipe, latents, times, texts)` is what the
    denoiser tells of noisy latents (N x C x H x W, as `pack` gives them) at times of the schedule
    (of 1000), under encoded texts, without guidance.

    A model that is `distilled(index, denoiser, scheduler)` by its configurations is rendered with
    the settings `few`. `guided_by` begin the names of the layers that read a guidance scale: a
    single checkpoint of such a family without them is distilled.

    `edits` are the family's pipelines that paint from a picture of the case, each with the fields
    that differ there. `edit(pipe, prompt, negative, device, guided, picture)` encodes where the
    text encoders see that picture too (PIL's). An `alone` pipeline paints one picture a call.
    """

    pipeline: str
    denoiser: str
    multiple: int
    guidance_scale: float
    blocks: BlockLists
    model: str = ""
    marks: tuple[str, ...] = ()
    side: int = 0
    flow: bool = False
    negative: bool = True
    clip_skip: bool = True
    steps: int = 25
    encoders: tuple[str, ...] = ("te",)
    sampler: str = "dpmpp_2m_karras"
    half: str = "float16"
    vae_overflows: bool = False
    chunked: bool = True
    reads: tuple[tuple[str, int], ...] = ()
    penultimate: bool = False
    convert: Callable[[Mapping[str, Any], Layers], Mapping[str, Any]] | None = None
    fit: Callable[[Any, int, int], None] | None = None
    apart: str = ""
    encode: Callable[..., Mapping[str, Any]] | None = None
    call: Callable[[Mapping[str, Any], float], Mapping[str, Any]] | None = None
    unguided: float = 1.0
    rows: bool = True
    unpack: Callable[[Any, Any, int, int], Any] | None = None
    pack: Callable[[Any, Any], Any] | None = None
    frames: bool = False
    predict: Callable[[Any, Any, Any, Mapping[str, Any]], Any] | None = None
    few: Mapping[str, Any] = field(default_factory=dict)
    distilled: Callable[[Config, Config, Config], bool] | None = None
    guided_by: tuple[str, ...] = ()
    edits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    edit: Callable[..., Mapping[str, Any]] | None = None
    alone: bool = False
    sized: tuple[str, ...] = ()


flow_rendering = partial(
    Rendering, flow=True, clip_skip=False, sampler="euler", half="bfloat16", chunked=False
)
"""As FLUX.1 and what came after it are rendered: trained in bfloat16, whose range activations need,
with text encoders that read sentences."""


@dataclass(frozen=True)
class Family:
    """A family of models that LoRAs are made for.

    `models` are the layers of its published denoisers, one entry for each size; a layer that is
    spelt in two ways may stand twice. `aliases` gives further names of a model's modules, from
    diffusers' names of them. `encoders` are its text encoders' layers, by the LoRA's part.
    `stated` finds the family in what metadata say of the base model (lower case). `rendering` is
    None for a family that is only recognised. `like` is a family that has the same layers or
    blocks, so that of those only metadata tell the two apart.
    """

    id: str
    words: str
    models: tuple[Layers, ...]
    stated: str
    aliases: Callable[[Sequence[str]], Aliases] | None = None
    encoders: Mapping[str, Layers] = field(default_factory=dict)
    rendering: Rendering | None = None
    like: str = ""


def stack(name: str, count: int, layers: Layers, first: int = 0) -> Layers:
    """The layers of `count` equal blocks: {"name.0.layer": shape, ...}."""
    return {
        f"{name}.{block}.{layer}": shape
        for block in range(first, first + count)
        for layer, shape in layers.items()
    }


def linear(names: str, out: int, inside: int) -> Layers:
    """Layers of one shape: `linear("to_q to_k", 8, 4)` is {"to_q": (8, 4), "to_k": (8, 4)}."""
    return {name: (out, inside) for name in names.split()}


def renamed(
    names: Sequence[str], theirs: str, ours: str, table: Mapping[str, tuple[str, ...]]
) -> Aliases:
    """For each block `ours.N` among the modules' names, `theirs.N.key` means all that `table`
    has for the key, one below the other; keys of which a module is not there are left out.

    `theirs.N.key.0` is the first of several, and so on: so OneTrainer's backups cut what is fused
    (its `convert_flux_lora.py`).
    """
    have = set(names)
    for block in sorted({name.split(".")[1] for name in names if name.startswith(f"{ours}.")}):
        for key, pieces in table.items():
            full = tuple(f"{ours}.{block}.{piece}" for piece in pieces)
            if have.issuperset(full):
                yield f"{theirs}.{block}.{key}", full, False
                yield from pieces_of(f"{theirs}.{block}.{key}", full)


def singles(names: Sequence[str], table: Mapping[str, str]) -> Aliases:
    """Each name of `table` means the module it has for it; left out where that is not there."""
    have = set(names)
    for theirs, ours in table.items():
        if ours in have:
            yield theirs, (ours,), False


def pieces_of(name: str, pieces: Sequence[str]) -> Aliases:
    """name.0, name.1, ... for each of several modules that are fused under a name."""
    if len(pieces) > 1:
        for number, piece in enumerate(pieces):
            yield f"{name}.{number}", (piece,), False
