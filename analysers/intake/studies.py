"""What is done with the pictures once they are found: studies, checkpoints, the answer's file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from generation.cells import Checkpoint
from generation.loras.names import place_in_metadata
from generation.pictures.readers.picture import Axis, Pair, Picture, PictureSet

_SPLITTING = (
    "model_hash",
    "model",
    "size",
    "sampler",
    "schedule",
    "steps",
    "guidance",
    "distilled_guidance",
    "clip_skip",
    "denoising",
    "upscale",
)
_CASE = ("variation_seed", "variation seed", "full prompt", "passes", "conditioning")
"""Settings that belong to one prompt and seed."""

_WORDS = {"steps": "{} steps", "guidance": "CFG {}", "clip_skip": "clip skip {}"}


def split_studies(found: PictureSet) -> list[PictureSet]:
    """A mixed folder as one set per LoRA and settings, the largest first.

    Strength sets are told apart by LoRA (name and hash together), epoch sets by the run's stem, as
    the numbered files of one run are one study. Settings are base model, size, sampler, schedule,
    steps, guidance and the like; prompts and seeds are cases within a study. A picture that does
    not tell its LoRA or settings (a name alone) stays with the others of its kind. `rejected` and
    `warnings` are the folder's and stand in every set; `label` says what a set holds.
    """
    groups: dict[tuple[str, ...], list[Pair]] = defaultdict(list)
    hashes: dict[str, set[str]] = defaultdict(set)
    for pair in found.pairs:
        hashes[pair.picture.lora] |= {pair.picture.lora_hash[:12]} - {""}
    for pair in found.pairs:
        picture = pair.picture
        settings = picture.settings
        lora = place_in_metadata(picture.lora.removesuffix(".safetensors")).run
        if found.axis == "strength":
            lora = _identity(picture, hashes)
        values = [settings.get(key, "") for key in _SPLITTING]
        if values[0]:
            values[1] = ""  # one model under two names
        more = {k: v for k, v in settings.items() if k not in _SPLITTING and k not in _CASE}
        apart = repr((picture.background, sorted(more.items())))
        group = (lora, *values, apart)
        groups[group].append(pair)
    differing = [len({key[i] for key in groups}) > 1 for i in range(len(_SPLITTING) + 1)]
    studies = []
    for pairs in groups.values():
        picture = pairs[0].picture
        label = [picture.lora if found.axis == "strength" else place_in_metadata(picture.lora).run]
        for key, differs in zip(_SPLITTING, differing[1:], strict=True):
            value = picture.settings.get("model" if key == "model_hash" else key, "")
            if differs and value and value not in label:
                label.append(_WORDS.get(key, "{}").format(value))
        studies.append(
            replace(found, pairs=tuple(pairs), label=", ".join(part for part in label if part))
        )
    return sorted(studies, key=lambda study: (-len(study.pairs), study.label))


def _identity(picture: Picture, hashes: Mapping[str, set[str]]) -> str:
    """A LoRA by name and hash; a picture without one has that of its only namesake."""
    known = hashes[picture.lora]
    digest = picture.lora_hash[:12] or (next(iter(known)) if len(known) == 1 else "")
    return f"{picture.lora}\n{digest}"


def join_checkpoints(found: PictureSet, checkpoints: Sequence[Checkpoint]) -> PictureSet:
    """The pictures with each LoRA known by its tensors, whatever its file was called then.

    A picture whose hash (12 hex digits as A1111 shows, or all 64) is a checkpoint's gets that
    file's name and its place in training, wherever that was read, and the pairs are put in the
    order of training anew. A picture whose hash is unknown, or which has none, stays as it is.
    """
    known: dict[str, tuple[int, Checkpoint]] = {}
    for number, checkpoint in enumerate(checkpoints):
        digest = checkpoint.tensor_hash.lower().removeprefix("0x")
        if len(digest) >= 12:
            known.setdefault(digest[:12], (number, checkpoint))
    joined: list[tuple[tuple[float, ...], Pair]] = []
    for pair in found.pairs:
        picture = pair.picture
        digest = picture.lora_hash.lower().removeprefix("0x")
        number = -1
        if len(digest) >= 12 and digest[:12] in known:
            number, checkpoint = known[digest[:12]]
            told = checkpoint.epoch is not None or checkpoint.step is not None
            picture = replace(
                picture,
                lora=checkpoint.file,
                lora_hash=checkpoint.tensor_hash.lower().removeprefix("0x"),
                epoch=checkpoint.epoch if told else picture.epoch,
                step=checkpoint.step if told else picture.step,
            )
        joined.append(((float(number), *_place(picture)), replace(pair, picture=picture)))
    if any(place[0] < 0 for place, _ in joined):  # not all are known: by their places alone
        joined = [((0.0, *place[1:]), pair) for place, pair in joined]
    joined.sort(key=lambda one: (one[0], one[1].picture.strength or Decimal(0)))
    pairs = tuple(pair for _, pair in joined)
    return replace(found, pairs=pairs, axis=axis_of(pairs, found.axis))


def _place(picture: Picture) -> tuple[float, float]:
    """Step and epoch for sorting, a picture of the final checkpoint last."""
    if picture.step is None and picture.epoch is None:
        return (float("inf"), float("inf")) if picture.lora else (-1.0, -1.0)
    epoch = float(picture.epoch) if picture.epoch is not None else -1.0
    return (float(picture.step) if picture.step is not None else -1.0, epoch)


def axis_of(pairs: Iterable[Pair], asked: Axis) -> Axis:
    """ "both" where several places in training and several strengths occur, else what was asked."""
    pictures = [pair.picture for pair in pairs]
    places = {(p.epoch, p.step, p.lora_hash or p.lora) for p in pictures}
    known = any(p.epoch is not None or p.step is not None for p in pictures)
    strengths = {p.strength for p in pictures if p.strength is not None}
    if known and len(places) > 1 and len(strengths) > 1:
        return "both"
    return asked
