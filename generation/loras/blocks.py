"""Block weights: a strength for every block of the denoiser, and one for the text encoders.

The lists are those of the A1111 extension "LoRA Block Weight" (lbw,
https://github.com/hako-mikan/sd-webui-lora-block-weight; 12, 17, 20 and 26 numbers, 61 for FLUX.1)
and of the ComfyUI Inspire pack (https://github.com/ltdrdata/ComfyUI-Inspire-Pack; 58 numbers for
FLUX.1). IN and OUT number Stability's input_blocks and output_blocks, M00 is the middle block, D
and S are FLUX.1's double and single blocks, and BASE is all that lies in no block. For Stable
Diffusion 3 neither has a list; here it is BASE and its joint blocks, J.

As in lbw, a block that a shorter list leaves out has weight 0. The two disagree on the denoiser's
weights outside of all blocks (time embedding, last convolution): lbw leaves them alone, the
Inspire pack and this module multiply them by BASE, so that zeros everywhere are the base model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from generation.errors import UserError
from generation.families import FAMILIES, words
from generation.families.family import BlockLists
from generation.families.unet import stability_blocks
from generation.values import decimal_within

LARGEST = Decimal(10)
"""A block's weight lies within -10 and 10."""

Key = tuple[str, str]
"""(part, parameter name) of a weight, part one of unet, transformer, te to te4."""


_EVERYWHERE = {"NONE": "ALL=0", "ALL": "ALL=1", "ALL0.5": "ALL=0.5"}
_KINDS = {kind for family in FAMILIES.values() for kind in family.blocks.kinds.values()} - {"BASE"}
_NUMBERED = re.compile(rf"({'|'.join(sorted(_KINDS))})(\d\d?)")


@dataclass(frozen=True)
class BlockWeights:
    """What the LoRA's strength is multiplied by in each block of a family's models.

    `entries` are (block or kind of blocks, weight) of which the last that fits counts, `rest` is
    the weight where none fits. `listed` are the blocks that a list of numbers was written for,
    empty where blocks were named. `text` is the same in one spelling; `parse` reads it back.
    """

    text: str
    family: str
    entries: tuple[tuple[str, Decimal], ...]
    rest: Decimal
    listed: frozenset[str] = frozenset()

    def of_block(self, block: str) -> Decimal:
        """The weight of a block as `block_names` names it."""
        names = {block, _kind(block), "ALL"}
        fitting = [weight for name, weight in self.entries if name in names]
        return fitting[-1] if fitting else self.rest

    def of_weights(self, keys: Iterable[Key]) -> dict[Key, Decimal]:
        """The multiplier of each of a loaded model's weights, which must be all it has.

        Raises UserError where a block is named that the model has not, or where a list of numbers
        was written for a model of another size.
        """
        blocks = block_names(keys, self.family)
        there = {block for block in blocks.values() if _NUMBERED.fullmatch(block)}
        named = {name for name, _ in self.entries if _NUMBERED.fullmatch(name)}
        if (self.listed and self.listed != there) or (not self.listed and not named <= there):
            what = "its list" if self.listed else ", ".join(sorted(named - there))
            raise UserError(
                f"{what} does not fit this model, whose blocks are "
                f"{_spans(sorted(there))}; name blocks that it has, such as {min(there)}=0.",
                field="block_weights",
            )
        weights = {block: self.of_block(block) for block in {*blocks.values()}}
        return {key: weights[block] for key, block in blocks.items()}


def parse(text: str, family: str) -> BlockWeights:
    """Read block weights for a family (sd1, sd2, sdxl, sd3 or flux).

    `text` is a list of numbers (17 or 26 for sd1 and sd2, 12 or 20 for sdxl, 58 or 61 for flux, 25
    or 39 for sd3), lbw's name of one (INS, OUTALL, ...; NONE and ALL mean all blocks), or blocks by
    name: `IN04=0,OUT=0.5,D03-D07=0`, where the last entry that fits a block counts, and blocks that
    are not named have weight 1. Case does not matter. Raises UserError if it cannot be read.
    """
    layout = FAMILIES[family].blocks
    plain = "".join(text.upper().split())
    plain = _EVERYWHERE.get(plain, layout.presets.get(plain, plain))
    items = plain.split(",")
    if "=" in plain:
        return _named(items, family, layout)
    if len(items) == 1 and re.fullmatch(r"[A-Z]\S*", plain):
        known = ", ".join([*_EVERYWHERE, *layout.presets])
        raise UserError(
            f"{text.strip()!r} is no named list of {words(family)}; known "
            f"are {known}; a block is named with its weight, such as {layout.order[-1]}=0.",
            field="block_weights",
        )
    fitting = [names for names in layout.lists if len(names) == len(items)]
    if not fitting:
        counts = " or ".join(str(len(names)) for names in layout.lists)
        short = layout.lists[0]
        raise UserError(
            f"got {len(items)} number{'s' * (len(items) != 1)}; for "
            f"{words(family)} give {counts}: "
            f"{', '.join(short[:3])}, ... {short[-1]}, or name blocks: {short[-1]}=0.",
            field="block_weights",
        )
    numbers = [_number(item) for item in items]
    # Models of other sizes are another list where no list names all of them.
    whole = layout.order if layout.whole else fitting[0]
    return BlockWeights(
        ",".join(_text(number) for number in numbers),
        family,
        tuple(zip(fitting[0], numbers, strict=True)),
        Decimal(0),
        frozenset(name for name in whole if _NUMBERED.fullmatch(name)),
    )


def block_names(keys: Iterable[Key], family: str) -> dict[Key, str]:
    """The block that each of a model's weights lies in: {(part, parameter name): block}.

    All weights of the UNet must be given, because they tell how many layers its blocks have.
    """
    kept = list(keys)
    lists = FAMILIES[family].blocks
    unet = _unet_blocks(name for part, name in kept if part == "unet")
    found: dict[Key, str] = {}
    for part, name in kept:
        if part == "unet":
            found[part, name] = unet[name]
        elif part == "transformer":
            found[part, name] = _transformer_block(name, lists)
        else:
            found[part, name] = lists.encoders.get(part, "BASE")
    return found


def _unet_blocks(names: Iterable[str]) -> dict[str, str]:
    """diffusers' names of a whole UNet's parameters -> IN.., M00, OUT.. or BASE."""
    kept = list(names)
    kinds = {"input_blocks": "IN", "output_blocks": "OUT"}
    found = {
        name: f"{kinds[stack]}{at:02d}" for name, (stack, at) in stability_blocks(kept).items()
    }
    for name in kept:
        if name.startswith("mid_block."):
            found[name] = "M00"
        elif name not in found:
            found[name] = "IN00" if name.startswith("conv_in.") else "BASE"
    return found


def _transformer_block(name: str, lists: BlockLists) -> str:
    stack, _, rest = name.partition(".")
    kind = lists.stacks.get(stack, lists.elsewhere)
    number = rest.partition(".")[0]
    return f"{kind}{int(number):02d}" if kind in lists.kinds and number.isdecimal() else kind


def _kind(block: str) -> str:
    """The kind that a block belongs to, such as IN; BASE for what is no numbered block."""
    match = _NUMBERED.fullmatch(block)
    return match[1] if match else "BASE"


def _spans(blocks: Iterable[str]) -> str:
    """The blocks in words: BASE, IN00 to IN08, M00 and so on."""
    kinds: dict[str, list[str]] = {}
    for block in blocks:
        match = _NUMBERED.fullmatch(block)
        kinds.setdefault(match[1] if match else block, []).append(block)
    ends = (f"{same[0]} to {same[-1]}" if len(same) > 1 else same[0] for same in kinds.values())
    return ", ".join(ends)


def _named(items: list[str], family: str, layout: BlockLists) -> BlockWeights:
    entries: list[tuple[str, Decimal]] = []
    spelling: list[str] = []
    for item in items:
        name, equals, number = item.partition("=")
        if not equals:
            raise UserError(
                f"{item!r} has no weight; write either numbers only or blocks "
                f"with their weights, such as {layout.order[-1]}=0.",
                field="block_weights",
            )
        weight = _number(number)
        names = _expand(name, family, layout)
        entries += [(each, weight) for each in names]
        ends = names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}"
        spelling.append(f"{ends}={_text(weight)}")
    return BlockWeights(",".join(spelling), family, tuple(entries), Decimal(1))


def _expand(name: str, family: str, layout: BlockLists) -> tuple[str, ...]:
    """The block, the kind, or all blocks from one to another, that a name means."""
    first, dash, last = name.partition("-")
    ends = [_block(end, layout) for end in ([first, last] if dash else [first])]
    if not dash and ends[0] is None:
        ends = [layout.kinds.get(name, "ALL" if name == "ALL" else None)]
    if None in ends:
        kinds = ", ".join(dict.fromkeys([*layout.kinds.values(), "ALL"]))
        raise UserError(
            f"{words(family)} has no block {name!r}; its blocks are "
            f"{_spans(layout.order)}, and {kinds} stand for all of a kind.",
            field="block_weights",
        )
    if not dash:
        return (str(ends[0]),)
    begin, end = sorted(layout.order.index(str(e)) for e in ends)
    return layout.order[begin : end + 1]


def _block(name: str, layout: BlockLists) -> str | None:
    """A block's name as lists have it: IN4 is IN04, MID is M00; None if there is no such block."""
    match = _NUMBERED.fullmatch("M00" if name == "MID" and "M00" in layout.order else name)
    padded = f"{match[1]}{int(match[2]):02d}" if match else name
    return padded if padded in layout.order else None


def _number(text: str) -> Decimal:
    value = decimal_within(text, LARGEST)
    if value is None:
        raise UserError(
            f"cannot read {text!r} as a weight; write a number from -{LARGEST} to {LARGEST}.",
            field="block_weights",
        )
    return value


def _text(number: Decimal) -> str:
    return format(number.normalize() + 0, "f")
