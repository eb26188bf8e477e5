"""Which pictures show the same case, and in what two pictures differ besides the LoRA."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from generation.pictures.readers.values import tidy

if TYPE_CHECKING:
    from analysers.intake.found import Found
    from generation.pictures.readers.picture import Facts

Key = tuple[object, ...]


def case_key(found: Found, triggers: Sequence[str]) -> Key:
    """What must be equal within a case. Without metadata: what the name says besides settings."""
    facts = found.facts
    if facts is not None and facts.unread:  # equal to nothing, not even to its like
        return ("metadata", facts.prompt, facts.negative, facts.seed, str(found.path))
    if facts is None or not (facts.prompt or facts.seed is not None):
        return ("name", found.name.case, found.name.seed, found.name.lora)
    prompt = without_triggers(facts.prompt, triggers)
    settings = tuple(sorted(facts.settings.items()))
    seed = facts.seed if facts.seed is not None else found.name.seed
    return ("metadata", prompt, facts.negative, seed, settings)


def without_triggers(prompt: str, triggers: Sequence[str]) -> str:
    """The prompt, tidied, without the trigger words and the brackets that held nothing else."""
    for trigger in triggers:
        bare = replace_trigger(prompt, trigger, " ")
        while bare != prompt:
            prompt, bare = bare, _EMPTY.sub(" ", bare)
    return tidy(prompt)


def replace_trigger(prompt: str, trigger: str, word: str) -> str:
    """The prompt with `word` wherever it holds the trigger as a word of its own, in any case."""
    if not trigger.strip():
        return prompt
    spelled = r"\s+".join(map(re.escape, trigger.split()))
    return re.sub(rf"(?<!\w){spelled}(?!\w)", lambda _: word, prompt, flags=re.I)


_EMPTY = re.compile(r"\(\s*(?::\s*[-+.\d]+\s*)?\)|\[\s*\]")
"""Brackets of attention around nothing: "( :1.3)"."""


def case_names(pictures: Sequence[Found], triggers: Sequence[str]) -> dict[Path, str]:
    """A short name per case: the files' own where it tells the cases apart, else the prompt's."""
    cases: dict[Key, list[Found]] = defaultdict(list)
    for found in pictures:
        case = (*case_key(found, triggers), found.background)
        cases[case].append(found)
    own = {key: {found.name.case for found in group} for key, group in cases.items()}
    used = Counter(name for names in own.values() for name in names)
    result: dict[Path, str] = {}
    taken: set[str] = set()
    for key, group in cases.items():
        name = next(iter(own[key]))
        by_name = key[0] == "name"
        fits = len(own[key]) == 1 and used[name] == 1 and bool(name)
        if not (by_name or (fits and len(group) > 1)):
            words = re.sub(r"[^\w]+", "-", str(key[1])).strip("-")[:40]
            name = f"{words}_s{key[3]}" if key[3] is not None else words
        elif by_name and key[2] is not None and f"{key[2]}" not in name:
            name = f"{name}_s{key[2]}".strip("_")
        if name in taken:
            name += "_" + hashlib.sha256(repr(key).encode()).hexdigest()[:6]
        taken.add(name)
        result.update({found.path: name for found in group})
    return result


_SHARED = {
    "size": "size",
    "steps": "steps",
    "sampler": "sampler",
    "schedule": "schedule",
    "guidance": "guidance",
    "distilled_guidance": "distilled guidance",
    "clip_skip": "clip skip",
    "vae": "VAE",
    "denoising": "denoising",
    "upscale": "upscaling",
    "passes": "further passes",
    "conditioning": "conditioning",
}

_SILENT = {"clip_skip": "1"}
"""What it means if one interface writes nothing under a key in one of two pictures; "none" for
every key that no interface always writes."""

_TOLD = ("size", "steps", "sampler", "schedule", "guidance", "distilled_guidance", "vae")
"""Keys whose absence says nothing."""

_NOT_SHARED = ("model", "model_hash", "lora_parts")
"""Compared in another way, or a matter of the LoRA under study."""


def differences(one: Facts, other: Facts, triggers: Sequence[str] = ()) -> list[str]:
    """In what two pictures differ besides the LoRA, in words; empty if they are comparable.

    Only what both tell is compared; models by their hash where both have one.
    """
    told = []
    ours, theirs = (without_triggers(facts.prompt, triggers) for facts in (one, other))
    if ours != theirs and extra_part(ours, theirs) is None:
        told.append("another prompt")
    if one.negative != other.negative:
        told.append("another negative prompt")
    for name in dict.fromkeys((*one.unread, *other.unread)):
        told.append(f"a {name} that cannot be read")
    if None not in (one.seed, other.seed) and one.seed != other.seed:
        told.append(f"seed {other.seed} instead of {one.seed}")
    a, b = one.settings, other.settings
    keys = [*_SHARED, *sorted((set(a) | set(b)) - set(_SHARED) - set(_NOT_SHARED))]
    for key in keys:
        silent = ""
        if one.source == other.source and key not in _TOLD:
            silent = _SILENT.get(key, "none")
        ours, theirs = (told_by.get(key, silent) for told_by in (a, b))
        if ours and theirs and ours != theirs:
            told.append(f"{_SHARED.get(key, key)} {theirs} instead of {ours}")
    model = "model_hash" if "model_hash" in a and "model_hash" in b else "model"
    if model in a and model in b and a[model] != b[model]:
        told.append(f"model {b.get('model', b[model])} instead of {a.get('model', a[model])}")
    return told


def extra_part(prompt: str, control: str) -> str | None:
    """The one comma-separated part that `prompt` has and `control` lacks (a trigger), else None."""
    parts, rest = prompt.split(", "), control.split(", ")
    if len(parts) != len(rest) + 1 or len(parts) > 1000:
        return None
    for at, part in enumerate(parts):
        if at == len(rest) or part != rest[at]:
            return part if parts[at + 1 :] == rest[at:] else None
    return None


def with_one_part_less(prompt: str) -> list[str]:
    """The prompt without each of its comma-separated parts: what it may be without a trigger."""
    parts = prompt.split(", ")
    if not 1 < len(parts) <= 100:
        return []
    return [", ".join(parts[:at] + parts[at + 1 :]) for at in range(len(parts))]
