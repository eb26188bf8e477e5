"""The infotext of A1111, Forge, SD.Next and our own pictures -> `Facts`.

Patterns cannot backtrack without limit.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from generation.pictures.readers.picture import Facts, LoraUse
from generation.pictures.readers.tags import Prompt, read_prompt
from generation.pictures.readers.traces import TAG as LORA_TAG
from generation.pictures.readers.traces import hints_at_lora, speaks_of_lora
from generation.pictures.readers.values import (
    LONGEST_TEXT,
    MOST_LORAS,
    decimal,
    hash_text,
    load_json,
    model_name,
    number_text,
    short_settings,
    shortened,
    size_text,
    string,
    tidy,
    whole,
)

PARAMETER = re.compile(
    r'(?<![\w/-])(\w[\w \-/]{0,63}):\s{0,8}("(?:\\.|[^\\"]){1,100000}"|[^,]*)(?:,|$)'
)
_SCHEDULES = ("Karras", "Exponential", "SGM Uniform", "Polyexponential", "Beta", "Simple", "Normal")
_HASH_ENDS = re.compile(r": ?((?:0x)?[0-9a-f]{0,64})(?:, ?|$)", re.I)

_SETTINGS = {
    "size": "size",
    "steps": "steps",
    "cfg scale": "guidance",
    "distilled cfg scale": "distilled_guidance",
    "model": "model",
    "model hash": "model_hash",
    "vae": "vae",
    "clip skip": "clip_skip",
    "clip-skip": "clip_skip",
    "denoising strength": "denoising",
    "hires upscale": "upscale",
    "hires scale": "upscale",
}
"""Keys of the settings line (lower case) -> our names."""

_NO_SETTING = re.compile(
    r"(?:version|app|user|seed|sampler|schedule type|created|date|script|[xyz] (?:type|values)"
    r"|fixed [xyz] values|lora hashes|lora weights|ti hashes|hashes|civitai.*|template.*"
    r"|negative template.*|batch.*|index|original .*|raw .*|wildcard.*|time.*|parser|pipeline"
    r"|operations|comment|metadata|generated with.*|backend|performance time|vae hash|downcast.*"
    r"|.*\bversion|.*\bhash|.*\bhashes|module \d+|styles?|x/y plot)$",
    re.I,
)
"""Keys that do not decide the pixels, or are read elsewhere."""

_MARKED = re.compile(
    r"(?<![\w/-])(Civitai resources|Civitai metadata|Hashes):\s{0,8}(?=[\[{])", re.I
)


def a1111(text: str) -> Facts | None:
    """A1111's infotext (infotext_utils.py): prompt, "Negative prompt:", a line of settings.

    The settings are the last line from which at least three can be read, "Steps" among them where
    lines follow (sd-dynamic-prompts puts its templates there).
    """
    lines = text[: 4 * LONGEST_TEXT].replace("\r\n", "\n").strip().split("\n")
    at = settings_line(lines)
    if at is None:
        return None
    line, resources, hashed = _without_json(lines[at][:LONGEST_TEXT])
    parameters: dict[str, str] = {}
    for key, value in PARAMETER.findall(line)[:500]:
        parameters.setdefault(key.strip().lower(), unquoted(value))
    positive: list[str] = []
    negative: list[str] = []
    into = positive
    for each in lines[:at]:
        if each.strip().startswith("Negative prompt:"):
            into, each = negative, each.strip()[16:]
        into.append(each.strip(" \t"))
    prompt = read_prompt("\n".join(positive).strip())
    fooocus = parameters.get("version", "").startswith("Fooocus") or "lora weights" in parameters
    quoted = load_json(parameters.get("hashes", ""))
    hashed += list(quoted)[:MOST_LORAS] if isinstance(quoted, dict) else []
    loras, problem = _a1111_loras(prompt, parameters, resources, hashed, fooocus)
    if any(LORA_TAG.search(each.partition("#")[2]) for each in positive):
        problem = (
            problem or "has a LoRA's tag behind a #, where some versions take it for a comment"
        )
    problem = problem or _a1111_traces(parameters, "\n".join(negative), lines[at + 1 :], loras)
    settings = {
        ours: parameters.get(key, "") for key, ours in _SETTINGS.items() if key in parameters
    }
    for ours in ("steps", "guidance", "distilled_guidance", "clip_skip", "denoising", "upscale"):
        settings[ours] = number_text(settings.get(ours))
    settings["size"] = size_text(settings.get("size", ""))
    settings["model"] = model_name(settings.get("model", ""))
    settings["model_hash"] = hash_text(settings.get("model_hash", ""))
    settings["sampler"], settings["schedule"] = _sampler(
        parameters.get("sampler", ""), parameters.get("schedule type", "")
    )
    settings["lora_parts"] = prompt.parts
    for key, value in list(parameters.items())[:200]:
        if key not in _SETTINGS and not _NO_SETTING.match(key) and not hints_at_lora(key):
            settings.setdefault(key, shortened(read_prompt(value).text))
    return Facts(
        source="SD.Next" if parameters.get("app") == "SD.Next" else "A1111",
        prompt=prompt.text,
        negative=tidy("\n".join(negative)),
        seed=whole(parameters.get("seed")),
        loras=loras[:MOST_LORAS],
        settings=short_settings(settings),
        grid="X/Y/Z plot" in parameters.get("script", "") or "x/y plot" in parameters,
        unknown=problem,
    )


def settings_line(lines: Sequence[str]) -> int | None:
    """The number of the line that holds the settings, None if there is none."""
    for at in range(len(lines) - 1, max(-1, len(lines) - 200), -1):
        keys = [key.strip().lower() for key, _ in PARAMETER.findall(lines[at][:LONGEST_TEXT])[:500]]
        if len(keys) >= 3 and (at == len(lines) - 1 or "steps" in keys):
            return at
    return None


def _without_json(line: str) -> tuple[str, list[Any], list[str]]:
    """A settings line without the JSON that Civitai writes into it unquoted, its resources, and the
    keys of its hashes, such as "lora:name"."""
    resources: list[Any] = []
    hashed: list[str] = []
    for _ in range(4):
        match = _MARKED.search(line)
        if match is None:
            break
        try:
            value, length = json.JSONDecoder().raw_decode(line[match.end() :])
        except (ValueError, RecursionError):
            value, length = None, 0
        if match[1].lower() == "civitai resources":
            resources += value if isinstance(value, list) else [value]
        elif match[1].lower() == "hashes":
            hashed += list(value)[:MOST_LORAS] if isinstance(value, dict) else [string(value)]
        rest = line[match.end() + length :] if length else ""
        line = line[: match.start()] + rest.lstrip(", ")
    return line, resources, hashed


def _a1111_loras(
    prompt: Prompt,
    parameters: Mapping[str, str],
    resources: Sequence[Any],
    hashed: Sequence[str],
    fooocus: bool,
) -> tuple[tuple[LoraUse, ...], str]:
    """The LoRAs that prompt, hashes, weights and Civitai's resources name, and what is unclear."""
    problem = prompt.problem
    hashes = _lora_hashes(parameters.get("lora hashes", ""))
    weights = _lora_weights(parameters.get("lora weights", ""))
    uses = {use.name: use for use in prompt.loras}
    for name, strength in weights.items():
        if name in uses and uses[name].strength != strength:
            problem = problem or f"tells two strengths of {name[:60]!r}"
        uses.setdefault(name, LoraUse(name, strength))
    for name, digest in hashes.items():
        # dgenerate and some nodes write hashes without tags: which strength is not told.
        # Fooocus hashes the whole file, not its tensors.
        uses[name] = replace(uses.get(name, LoraUse(name)), hash="" if fooocus else digest)
    told, unclear = _resources(resources)
    problem = problem or unclear
    for key in hashed:
        # Whole files' hashes, of whatever was used; which strength is not told.
        kind, _, name = key.partition(":")
        if hints_at_lora(kind) and not told:
            uses.setdefault(name, LoraUse(name[:255]))
    if told and uses:
        if sorted(str(use.strength) for use in told) != sorted(
            str(use.strength) for use in uses.values()
        ):
            problem = problem or "tells other LoRAs in its prompt than in its Civitai resources"
    elif told:
        uses = {use.name: use for use in told}
    return tuple(uses.values()), problem


_CIVITAI_LORAS = ("lora", "locon", "lycoris", "dora", "loha", "lokr")
_CIVITAI_OTHERS = (
    *("checkpoint", "model", "embed", "embedding", "textualinversion", "vae", "upscaler"),
    *("controlnet", "poses", "wildcards", "workflows", "motionmodule", "detection"),
)


def _resources(resources: Sequence[Any]) -> tuple[list[LoraUse], str]:
    """Civitai's list of what made a picture: {"type", "weight", "modelName", "modelVersionId"}."""
    uses: list[LoraUse] = []
    for entry in resources[:MOST_LORAS]:
        kind = str(entry.get("type", "")).lower() if isinstance(entry, dict) else ""
        if kind in _CIVITAI_LORAS:
            name = string(entry.get("modelName") or entry.get("name"))
            version = string(entry.get("modelVersionName"))
            number = entry.get("modelVersionId")
            name = " ".join(part for part in (name, version) if part) or f"civitai {number}"
            uses.append(LoraUse(name[:255], decimal(entry.get("weight", entry.get("strength")))))
        elif kind not in _CIVITAI_OTHERS:
            return uses, "holds Civitai resources that cannot be read"
    if len({use.name for use in uses}) < len(uses):
        return uses, "names a LoRA twice among its Civitai resources"
    return uses, ""


_SPEAKS_FREELY = re.compile(
    r"prompt|template|comment|version|hash|weights|diffusion in low bits|^vae|model|controlnet"
)
"""Settings whose values may hold the word LoRA though none is at work."""

_ITEMS_NUMBER = re.compile(r"[:(\s](-?\d{0,3}(?:\.\d{1,9})?)\)?\s*$")


def _a1111_traces(
    parameters: Mapping[str, str], negative: str, after: Sequence[str], loras: Sequence[LoraUse]
) -> str:
    """Why a LoRA may be at work that `loras` does not name, "" if nothing hints at one."""
    used = {use.name: use for use in loras}

    def other(text: str) -> bool:
        prompt = read_prompt(text)
        if prompt.problem or len(LORA_TAG.findall(text)) > len(prompt.loras):
            return True
        return any(
            use.name not in used or used[use.name].strength != use.strength for use in prompt.loras
        )

    def told(item: str, use: LoraUse) -> bool:
        """Whether an item names a LoRA that is known, and no other strength of it."""
        number = _ITEMS_NUMBER.search(item)
        strengths = (use.strength, use.text_strength)
        return use.name in item and (number is None or decimal(number[1]) in strengths)

    if LORA_TAG.search(negative):
        return "has a LoRA's tag in its negative prompt"
    if other("\n".join(after)[:LONGEST_TEXT]):
        return "has a LoRA's tag in its template that its prompt has not"
    for key, value in parameters.items():
        if LORA_TAG.search(value) and key not in ("lora hashes", "lora weights") and other(value):
            return f"has a LoRA's tag under {key[:60]!r} that its prompt has not"
        if key.startswith("rp lora") and not used:
            continue  # Regional Prompter's ratios, which stand there without any LoRA
        if hints_at_lora(key) and key not in ("lora hashes", "lora weights", "lora_hashes"):
            items = [item for item in value.split(",") if item.strip()]
            if not items or not all(any(told(item, use) for use in loras) for item in items):
                return f"has a setting {key[:60]!r} that is not understood"
        elif (
            key not in _SETTINGS
            and not _SPEAKS_FREELY.search(key)
            and speaks_of_lora(value)
            and not any(name in value for name in used)
        ):
            return f"has a setting {key[:60]!r} that speaks of a LoRA"
        if key.startswith("addnet"):
            return "uses LoRAs by the extension Additional Networks, which is not read"
    if any(key.startswith("hypernet") for key in parameters):
        return "uses a hypernetwork"
    return ""


def _lora_weights(text: str) -> dict[str, Decimal | None]:
    """Fooocus: "name: weight, name: weight"."""
    weights: dict[str, Decimal | None] = {}
    for match in re.finditer(r"(.{1,255}?): (-?[0-9.]{1,12})(?:, |$)", text[:LONGEST_TEXT]):
        weights[match[1]] = decimal(match[2])
    if text and not weights:
        weights[text[:60]] = None
    return weights


def with_own_cell(facts: Facts, own: Mapping[str, Any]) -> Facts:
    """Our own pictures carry the whole tensor hash, and the prompt without any rewriting."""
    digest = hash_text(own.get("tensor_hash"))
    loras = tuple(replace(use, hash=digest or use.hash) for use in facts.loras[-1:])
    return replace(facts, source="lora-analysers", loras=(*facts.loras[:-1], *loras), grid=False)


def _lora_hashes(text: str) -> dict[str, str]:
    """A1111: "name: hash, name: hash". Names may hold commas and colons: a hash is hex, and ends
    an item."""
    hashes: dict[str, str] = {}
    start = 0
    text = text[:LONGEST_TEXT]
    for match in itertools.islice(_HASH_ENDS.finditer(text), MOST_LORAS):
        if name := text[start : match.start()]:
            hashes[name] = hash_text(match[1])
        start = match.end()
    if rest := text[start:].strip():
        hashes[rest[:255]] = ""
    return hashes


def unquoted(value: str) -> str:
    """A settings value without A1111's quotes (a JSON string)."""
    value = value.strip()
    if value.startswith('"') and value.endswith('"') and len(value) > 1:
        unquoted = load_json(value)
        return unquoted if isinstance(unquoted, str) else value[1:-1]
    return value


def _sampler(sampler: str, schedule: str) -> tuple[str, str]:
    """Before 1.9 the schedule was the end of the sampler's name: "DPM++ 2M Karras"."""
    for name in _SCHEDULES:
        if sampler.endswith(" " + name):
            return sampler[: -len(name) - 1], schedule or name
    return sampler, "" if schedule == "Automatic" else schedule
