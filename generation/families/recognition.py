"""Which family a LoRA is for: by the names and shapes of what it changes, or by what it states."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from generation.families import ALL
from generation.families.family import Layers
from generation.families.names import Names, flat

_BLOCK = re.compile(r"([a-z_]+)\.(\d+)\.")
_FLAT_BLOCK = re.compile(r"([a-z_]+?)_(\d+)_")
MOST = 10**6
"""More blocks than any model has."""

Module = tuple[str, str, tuple[int, ...] | None]
"""(part, name inside the part, shape of the update or None where it does not tell)."""

TEXT = ("te", "te2", "te3", "te4")

KNOWN = 0.75
"""The share of a file's layers that a family must know: less are another model's."""


def families_of(modules: Iterable[Module], *, one_encoder: bool = False) -> tuple[str, ...]:
    """The families whose published models have layers of these names and shapes, best first.

    One family where the layers tell; several where they are the same in all of them (attention of
    FLUX.1 and Chroma); none where a layer has another shape everywhere. The denoiser decides where
    there is one. `one_encoder` says that the file counts on one text encoder (kohya's `lora_te_`).

    A family fits if no layer contradicts it: none has another shape there, or lies in a block that
    it has not. Those that know most of the file's layers (and at least `KNOWN` of them) stay, and
    of these those all of whose blocks the file covers; if there are none, those that know all of
    its layers. A file that covers one stack of two may as well be another model's in part: nineteen
    blocks are FLUX.1's double blocks, or the first of Qwen-Image's sixty. A family that is `like`
    one that stays is left out.
    """
    denoiser: list[Module] = []
    text: list[Module] = []
    for part, name, shape in modules:
        (text if part in TEXT else denoiser).append((part, flat(name), shape))
    if not denoiser:
        return _by_encoders(text, one_encoder)
    found: dict[tuple[str, int], tuple[int, bool]] = {}
    for family in ALL:
        for size in range(len(ALL[family].models)):
            fit = _fit([(name, shape) for _, name, shape in denoiser], family, size)
            if fit is not None:
                found[family, size] = fit
    most = max((known for known, _ in found.values()), default=0)
    if most < KNOWN * len(denoiser):
        return ()
    best = {key: whole for key, (known, whole) in found.items() if known == most}
    kept = [key for key, whole in best.items() if whole]
    if not kept and most == len(denoiser):
        kept = list(best)
    families = dict.fromkeys(family for family, _ in kept)
    return tuple(one for one in families if ALL[one].like not in families)


def _fit(
    modules: Sequence[tuple[str, tuple[int, ...] | None]], family: str, size: int
) -> tuple[int, bool] | None:
    """(how many of the modules the model has, whether all of its blocks are among them); None if
    one of them has another shape there, or lies in a later block than it has."""
    names, stacks, ends = _index(family, size)
    known = 0
    touched: dict[str, set[str]] = {}
    for name, shape in modules:
        pieces = names.find(name)
        if not pieces:
            if (at := _FLAT_BLOCK.match(name)) and int(at[2]) > ends.get(at[1], MOST):
                return None
            continue
        if shape is not None and not same_size(shape, [piece[1] for piece in pieces]):
            return None
        known += 1
        for parameter, _, _ in pieces:
            block = _block(parameter)
            if block and block[0] in stacks:  # Z-Image's cap_embedder.1 is no block
                touched.setdefault(block[0], set()).add(block[1])
    covered = {len(stacks[stack]) for stack, found in touched.items() if found >= stacks[stack]}
    # A stack that is spelt in two ways stands twice in the table, with as many blocks.
    whole = all(stack in touched or len(stacks[stack]) in covered for stack in stacks)
    return known, bool(touched) and whole and all(touched[s] >= stacks[s] for s in touched)


def same_size(shape: Sequence[int], targets: Sequence[Sequence[int]]) -> bool:
    """Whether an update [out, in, *kernel] (or [out, in * kernel]) fits weights laid one below the
    other."""
    if not shape or not targets or any(not target for target in targets):
        return False
    rest = math.prod(targets[0][1:])
    return shape[0] == sum(target[0] for target in targets) and math.prod(shape[1:]) == rest


def _by_encoders(text: Sequence[Module], one_encoder: bool) -> tuple[str, ...]:
    found = []
    for family in ALL.values():
        encoders = family.encoders
        if not encoders or (one_encoder and len(encoders) > 1):
            continue
        fits = all(
            part in encoders
            and (pieces := _encoder(family.id, part).find(name))
            and (shape is None or same_size(shape, [piece[1] for piece in pieces]))
            for part, name, shape in text
        )
        if fits and text:
            found.append(family.id)
    return tuple(found)


@cache
def _index(family: str, size: int) -> tuple[Names, Mapping[str, frozenset[str]], Mapping[str, int]]:
    """A model's names, the blocks of its stacks, and the last block by a stack's name in any
    spelling."""
    layers = ALL[family].models[size]
    stacks: dict[str, set[str]] = {}
    for layer in layers:
        block = _block(layer)
        if block:
            stacks.setdefault(block[0], set()).add(block[1])
    aliases = ALL[family].aliases
    names = Names.of(_parameters(layers), [aliases] if aliases else [])
    ends: dict[str, int] = {}
    for name in names.modules:
        if at := _FLAT_BLOCK.match(name):
            ends[at[1]] = max(ends.get(at[1], 0), int(at[2]))
    return names, {stack: frozenset(blocks) for stack, blocks in stacks.items()}, ends


@cache
def _encoder(family: str, part: str) -> Names:
    return Names.of(_parameters(ALL[family].encoders[part]))


def _parameters(layers: Layers) -> Layers:
    return {f"{layer}.weight": shape for layer, shape in layers.items()}


def _block(name: str) -> tuple[str, str] | None:
    """(stack, number) of a layer that lies in a numbered block; a UNet's blocks are no stack."""
    match = _BLOCK.match(name)
    if match is None or match[1] in {"down_blocks", "up_blocks"}:
        return None
    return match[1], match[2]


def family_stated(text: str) -> str | None:
    """The family that a text about the base model means ("flux-1-dev/lora"), or None."""
    low = text.lower()
    # Narrower names first: "sdxl refiner" is none of SDXL, "flux2_klein" none of FLUX.1.
    rendered = [family for family in ALL.values() if family.rendering]
    named = [family for family in ALL.values() if not family.rendering]
    narrower_first = [*named, *rendered[::-1]]
    return next((one.id for one in narrower_first if re.search(one.stated, low)), None)
