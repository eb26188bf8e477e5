"""What trainers write into a file's metadata: place in training, trigger words, resolution.

Metadata are flat text; kohya stringifies everything, and writes what it lacks as the word None.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from generation.loras.container import MAX_BRACKETS, as_text, shorten


def parse_json(text: str | None) -> Any:
    """The value of a JSON text that stands in metadata, or None where it is missing or broken."""
    if not text or text.count("[") + text.count("{") > MAX_BRACKETS:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def first_known(metadata: Mapping[str, str], *keys: str) -> str | None:
    """The first value that says something: kohya writes missing values as the word None."""
    for key in keys:
        value = metadata.get(key, "").strip()
        if value and value != "None":
            return value
    return None


def whole_number(value: object) -> int | None:
    """A count from metadata ("7", "7.0", 7), or None where it is missing or no such number."""
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        return None
    try:
        number = int(float(value))
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < 1 << 53 else None


def _training_info(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    info = parse_json(metadata.get("training_info"))
    return info if isinstance(info, dict) else {}


def stored_step(metadata: Mapping[str, str]) -> int | None:
    """kohya ``ss_steps``, ai-toolkit ``training_info.step``, SimpleTuner ``global_step``."""
    for value in (
        metadata.get("ss_steps"),
        _training_info(metadata).get("step"),
        metadata.get("global_step"),
    ):
        number = whole_number(value)
        if number is not None:
            return number
    return None


def stored_epoch(metadata: Mapping[str, str]) -> int | None:
    """kohya ``ss_epoch`` (from 0 in step saves, from 1 elsewhere) or ai-toolkit's epoch."""
    for value in (metadata.get("ss_epoch"), _training_info(metadata).get("epoch")):
        number = whole_number(value)
        if number is not None:
            return number
    return None


def unfinished(metadata: Mapping[str, str]) -> bool:
    """Whether kohya's metadata say that training was to go on after this file (``ss_steps`` of
    ``ss_max_train_steps``), whatever its name; False where they say nothing."""
    done, planned = (whole_number(metadata.get(key)) for key in ("ss_steps", "ss_max_train_steps"))
    return done is not None and planned is not None and done < planned


def trainer(metadata: Mapping[str, str]) -> str | None:
    """kohya, ai-toolkit, onetrainer, simpletuner or diffusers, where the metadata betray it."""
    software = parse_json(metadata.get("software"))
    if isinstance(software, dict) and software.get("name") == "ai-toolkit":
        return "ai-toolkit"
    if "training_info" in metadata:
        return "ai-toolkit"
    if "ot_branch" in metadata or "ot_revision" in metadata:
        return "onetrainer"
    if "lycoris_config" in metadata or "trained_words" in metadata or "global_step" in metadata:
        return "simpletuner"
    if "ss_network_module" in metadata or "ss_session_id" in metadata:
        return "kohya"
    if "lora_adapter_metadata" in metadata:
        return "diffusers"
    return None


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """What wakes the LoRA: stated trigger words, else the commonest caption tag.

    Sources: ``modelspec.trigger_phrase``, SimpleTuner's ``trained_words``, and kohya's
    ``ss_tag_frequency`` ({folder: {tag: count}}).
    """
    words: list[str] = []
    phrase = first_known(metadata, "modelspec.trigger_phrase")
    if phrase:
        words.append(phrase)
    stated = first_known(metadata, "trained_words")
    if stated:
        listed = parse_json(stated)
        if isinstance(listed, list):
            words += [word.strip() for word in listed if isinstance(word, str) and word.strip()]
        else:
            words += [word.strip() for word in stated.split(",") if word.strip()]
    if not words:
        top = _top_tag(metadata)
        words = [top] if top else []
    return tuple(dict.fromkeys(shorten(word, 200) for word in words[:20]))


def _top_tag(metadata: Mapping[str, str]) -> str | None:
    tables = [parse_json(metadata.get("ss_tag_frequency"))]
    datasets = parse_json(metadata.get("ss_datasets"))
    if isinstance(datasets, list):
        tables += [item.get("tag_frequency") for item in datasets if isinstance(item, dict)]
    for table in tables:
        counts: Counter[str] = Counter()
        for tags in table.values() if isinstance(table, dict) else ():
            for tag, count in tags.items() if isinstance(tags, dict) else ():
                if tag.strip() and whole_number(count):
                    counts[tag.strip()] += whole_number(count) or 0
        if counts:
            return counts.most_common(1)[0][0]
    return None


def training_resolution(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """(width, height) in pixels from ``ss_resolution``, ``ss_datasets`` or ``modelspec``."""
    candidates: list[object] = [first_known(metadata, "ss_resolution")]
    datasets = parse_json(metadata.get("ss_datasets"))
    if isinstance(datasets, list):
        candidates += [item.get("resolution") for item in datasets if isinstance(item, dict)]
    candidates.append(first_known(metadata, "modelspec.resolution"))
    for value in candidates:
        if value is None:
            continue
        numbers = [int(text) for text in re.findall(r"\d{1,5}", as_text(value)[:100])[:2]]
        if numbers and all(64 <= number <= 16384 for number in numbers):
            return numbers[0], numbers[-1]
    return None


_VELOCITY = re.compile(r"v(?:[._ -]?pred(?:iction)?)?|velocity")
_NOISE = re.compile(r"eps(?:ilon)?(?:[._ -]?pred(?:iction)?)?|noise")


def said_prediction(stated: str) -> str | None:
    """v_prediction or epsilon, in any of the spellings that people write; None for other words."""
    low = stated.strip().lower()
    if _VELOCITY.fullmatch(low):
        return "v_prediction"
    return "epsilon" if _NOISE.fullmatch(low) else None


def flag(metadata: Mapping[str, str], key: str) -> bool:
    """Whether a yes or no in metadata is yes: kohya writes True, others true or 1."""
    return metadata.get(key, "").strip().lower() in {"true", "1", "yes"}


def prediction_type(metadata: Mapping[str, str]) -> str | None:
    stated = said_prediction(first_known(metadata, "modelspec.prediction_type") or "")
    if stated is not None:
        return stated
    version = metadata.get("ss_base_model_version", "")
    kind = metadata.get("modelspec.architecture", "").lower()
    velocity = (
        flag(metadata, "ss_v_parameterization")
        or re.fullmatch(r"sd_v[12](?:_\d+)?_v", version)
        or re.match(r"stable-diffusion-v2-\d+-v(?:/|\Z)", kind)
    )
    return "v_prediction" if velocity else None
