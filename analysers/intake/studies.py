"""What is done with the pictures once they are found: studies, checkpoints, the answer's file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from generation.pictures.readers.names import checkpoint_name
from generation.pictures.readers.picture import Pair, Picture, PictureSet

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
_WORDS = {"steps": "{} steps", "guidance": "CFG {}", "clip_skip": "clip skip {}"}


def split_studies(found: PictureSet) -> list[PictureSet]:
    """A mixed folder as one set per LoRA and settings, the largest first.

    Strength sets are told apart by LoRA (hash, else name), epoch sets by the run's stem, as the
    numbered files of one run are one study. Settings are base model, size, sampler, schedule,
    steps, guidance and the like; prompts and seeds are cases within a study. A picture that does
    not tell its LoRA or settings (a name alone) stays with the others of its kind. `rejected` and
    `warnings` are the folder's and stand in every set; `label` says what a set holds.
    """
    groups: dict[tuple[str, ...], list[Pair]] = defaultdict(list)
    for pair in found.pairs:
        picture = pair.picture
        settings = picture.settings
        lora = checkpoint_name(picture.lora.removesuffix(".safetensors")).stem
        if found.axis == "strength":
            lora = picture.lora_hash[:12] or picture.lora
        values = [settings.get(key, "") for key in _SPLITTING]
        if values[0]:
            values[1] = ""  # one model under two names
        groups[(lora, *values, repr(picture.background))].append(pair)
    differing = [len({key[i] for key in groups}) > 1 for i in range(len(_SPLITTING) + 1)]
    studies = []
    for pairs in groups.values():
        picture = pairs[0].picture
        label = [checkpoint_name(picture.lora).stem if found.axis != "strength" else picture.lora]
        for key, differs in zip(_SPLITTING, differing[1:], strict=True):
            value = picture.settings.get("model" if key == "model_hash" else key, "")
            if differs and value and value not in label:
                label.append(_WORDS.get(key, "{}").format(value))
        studies.append(
            replace(found, pairs=tuple(pairs), label=", ".join(part for part in label if part))
        )
    return sorted(studies, key=lambda study: (-len(study.pairs), study.label))


def join_checkpoints(pictures: Iterable[Picture], hashes: Mapping[str, str]) -> tuple[Picture, ...]:
    """The pictures with `lora` replaced by the checkpoint of the same tensor hash.

    `hashes` maps a tensor hash (12 hex digits as A1111 shows, or all 64; kohya's
    `sshs_model_hash`) to a checkpoint's name, so files may have been renamed since. The place in
    training follows from the new name where it tells one. A picture whose hash is unknown, or which
    has none, is returned as it is.
    """
    known: dict[str, str] = {}
    for digest, name in hashes.items():
        text = digest.lower().removeprefix("0x")
        if len(text) >= 12:
            known.setdefault(text[:12], name)
    joined = []
    for picture in pictures:
        digest = picture.lora_hash.lower().removeprefix("0x")[:12]
        if len(digest) == 12 and digest in known:
            name = known[digest]
            place = checkpoint_name(name.removesuffix(".safetensors"))
            told = place.epoch is not None or place.step is not None
            picture = replace(
                picture,
                lora=name,
                epoch=place.epoch if told else picture.epoch,
                step=place.step if told else picture.step,
            )
        joined.append(picture)
    return tuple(joined)
