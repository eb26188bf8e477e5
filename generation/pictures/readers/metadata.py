"""One interface's text -> `Facts`, for every interface but ComfyUI's graphs.

All texts are untrusted: lengths are bounded, patterns cannot backtrack without limit, numbers are
checked, and nesting too deep for the JSON reader counts as no JSON.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

from generation.pictures.readers.picture import Facts, LoraUse
from generation.pictures.readers.traces import TAG as LORA_TAG
from generation.pictures.readers.traces import hints_at_lora, speaks_of_lora
from generation.values import decimal_within

LONGEST_TEXT = 256 * 1024
"""Characters of one prompt or settings line that are parsed."""

LONGEST_COMMAND = 32 * 1024
"""Characters of a dgenerate configuration; the shell-word reader takes 10 us for each."""

LONGEST_JSON = 4 << 20

MOST_LORAS = 64

_TAG = re.compile(r"<\s{0,9}(?:lora|lyco):([^<>:]{1,255})((?::[^<>:]{0,1024}){0,12})>", re.I)
PARAMETER = re.compile(
    r'(?<![\w/-])(\w[\w \-/]{0,63}):\s{0,8}("(?:\\.|[^\\"]){1,100000}"|[^,]*)(?:,|$)'
)
_SIZE = re.compile(r"\s*(\d{1,6})\s*[x×]\s*(\d{1,6})\s*$")
_HEX = re.compile(r"^(?:0x)?([0-9a-f]{8,64})$", re.I)
_SCHEDULES = ("Karras", "Exponential", "SGM Uniform", "Polyexponential", "Beta", "Simple", "Normal")
_HASH_ENDS = re.compile(r": ?((?:0x)?[0-9a-f]{0,64})(?:, ?|$)", re.I)
_NO_HASH = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",  # SHA-256 of no bytes
    "da39a3ee5e6b4b0d3255bfef95601890afd80709",  # SHA-1
    "d41d8cd98f00b204e9800998ecf8427e",  # MD5
    "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",  # BLAKE3
    "0" * 64,
    "f" * 64,
)
"""Hashes of nothing: tools write them where a file could not be read."""


# --- tags in prompts ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tag:
    """One `<lora:name:...>`. `first` and `second` are its positional numbers, None if absent.

    `named` holds te= and unet=; `parts` all that weighs blocks or steps (lbw=, start=, dyn=, ...).
    `problem` says why the strength cannot be told.
    """

    name: str
    first: Decimal | None
    second: Decimal | None
    named: Mapping[str, Decimal | None]
    parts: str = ""
    problem: str = ""


def parse_tags(text: str) -> list[Tag]:
    """Every LoRA tag in a text; without a number the strength is 1, as in A1111 and Impact."""
    text = text[:LONGEST_TEXT]
    tags: list[Tag] = []
    for name, rest in _TAG.findall(text):
        numbers: list[Decimal | None] = []
        named: dict[str, Decimal | None] = {}
        parts: list[str] = []
        for part in rest.split(":")[1:] if rest else []:
            key, equals, value = part.partition("=")
            if equals and key.strip().lower() in ("te", "unet"):
                named[key.strip().lower()] = decimal(value)
            elif equals or parts:  # lbw=PRESET:1,0,1 holds a colon
                parts.append(part.strip())
            elif len(numbers) < 2:
                numbers.append(decimal(part))
            else:
                parts.append(part.strip())
        odd = None in numbers or None in named.values()
        problem = f"holds a tag of {name[:60]!r} whose strength cannot be read" if odd else ""
        first = numbers[0] if numbers else Decimal(1)
        second = numbers[1] if len(numbers) > 1 else None
        tags.append(Tag(name, first, second, named, ":".join(parts)[:200], problem))
        if len(tags) >= MOST_LORAS:
            break
    if len(tags) < min(MOST_LORAS, len(LORA_TAG.findall(text))):
        tags.append(Tag("", None, None, {}, "", "holds a LoRA's tag that cannot be read"))
    return tags


@dataclass(frozen=True)
class Prompt:
    """A prompt without its tags, what they say, and why they do not say it with certainty."""

    text: str
    loras: tuple[LoraUse, ...] = ()
    parts: str = ""
    problem: str = ""


def read_prompt(prompt: str) -> Prompt:
    """A1111's extra_networks.py: name, text-encoder strength, denoiser strength (each defaulting
    to the one before, the first to 1); named te=, unet= win. A name that stands twice is unclear.
    """
    loras: dict[str, LoraUse] = {}
    parts, problem = [], ""
    for tag in parse_tags(prompt):
        te = tag.named.get("te", tag.first)
        unet = tag.named.get("unet", te if tag.second is None else tag.second)
        if tag.name in loras:
            problem = problem or f"names {tag.name[:60]!r} twice"
        problem = problem or tag.problem
        if tag.parts:
            parts.append(f"{tag.name}:{tag.parts}")
        if tag.name:
            loras[tag.name] = LoraUse(tag.name, unet, "", te if te != unet else None)
    rest = tidy(_TAG.sub(" ", prompt[:LONGEST_TEXT]))
    return Prompt(rest, tuple(loras.values()), " ".join(parts)[:200], problem)


# --- A1111, Forge, SD.Next, and our own pictures ------------------------------------------------

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
        settings=_kept(settings),
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


# --- SwarmUI --------------------------------------------------------------------------------------


_SWARM_SECTION = re.compile(
    r"<(?:segment|object|region|refiner|base|video|videoswap)\b[^>]{0,999}>.*?<lora:", re.I | re.S
)


def swarmui(text: str) -> Facts | None:
    """T2IParamInput.cs: JSON with sui_image_params, and hashes under sui_models."""
    data = load_json(text)
    image = data.get("sui_image_params") if isinstance(data, dict) else None
    if not isinstance(image, dict):
        return None
    hashes: dict[str, str] = {}
    models = data.get("sui_models")
    for model in (models if isinstance(models, list) else [])[:MOST_LORAS]:
        if isinstance(model, dict) and model.get("param") == "loras":
            hashes[model_name(model.get("name"))] = hash_text(model.get("hash"))
    names, weights = _swarm_loras(image, list(hashes))
    prompt = read_prompt(string(image.get("prompt")))
    problem = prompt.problem
    if _SWARM_SECTION.search(string(image.get("prompt"))[:LONGEST_TEXT]):
        problem = problem or "has a LoRA's tag in a section of its prompt"
    loras: dict[str, LoraUse] = {}
    for i, name in enumerate(names):
        strength = decimal(weights[i]) if len(weights) == len(names) else None
        if name in loras:
            problem = problem or f"names {name[:60]!r} twice"
        loras[name] = LoraUse(name, strength, hashes.get(name, ""))
    for tag in prompt.loras:
        name = model_name(tag.name)
        if loras.get(name, tag).strength != tag.strength:
            problem = problem or f"tells two strengths of {name[:60]!r}"
        loras.setdefault(name, LoraUse(name, tag.strength, hashes.get(name, "")))
    for name in hashes:
        if name not in loras:
            loras[name] = LoraUse(name, None, hashes[name])
    settings = {
        "size": size_of(image.get("width"), image.get("height")),
        "steps": number_text(image.get("steps")),
        "sampler": string(image.get("sampler", image.get("comfyuisampler"))),
        "schedule": string(image.get("scheduler", image.get("comfyuischeduler"))),
        "guidance": number_text(image.get("cfgscale")),
        "model": model_name(image.get("model")),
        "clip_skip": number_text(image.get("clipstopatlayer")),
        "variation_seed": number_text(image.get("variationseed")),
        "lora_parts": " ".join(
            [*_listed(image.get("lorasectionconfinement")), *_listed(image.get("loratencweights"))]
        ),
    }
    for key, value in list(image.items())[:200]:
        if key in _SWARM_READ or key.startswith("lora"):
            continue
        if hints_at_lora(key):
            problem = problem or f"has a parameter {key[:60]!r} that is not understood"
        settings.setdefault(key, shortened(str(value)))
    return Facts(
        source="SwarmUI",
        prompt=prompt.text,
        negative=tidy(string(image.get("negativeprompt"))),
        seed=whole(image.get("seed")),
        loras=tuple(loras.values())[:MOST_LORAS],
        settings=_kept(settings),
        unknown=problem,
    )


_SWARM_READ = frozenset(
    ("prompt", "negativeprompt", "model", "seed", "steps", "cfgscale", "width", "height", "sampler")
    + ("scheduler", "comfyuisampler", "comfyuischeduler", "clipstopatlayer", "variationseed")
    + ("swarm_version", "date", "generation_time", "images", "aspectratio", "imageformat")
    + ("nopreviews", "original_prompt", "used_wildcards", "wildcardseed", "used_embeddings")
    + ("donotsave", "personalnote", "presets", "sidelength", "automaticvae")
)
"""Parameters that are read, or do not decide the pixels."""


def _swarm_loras(image: Mapping[str, Any], known: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names and weights; older versions join them by commas, which names may hold as well."""
    written, weights = image.get("loras"), _listed(image.get("loraweights"))
    if not isinstance(written, str):
        return [model_name(name) for name in _listed(written)], weights
    whole_text = model_name(written)
    names = [model_name(name) for name in _listed(written)]
    if len(weights) == 1 or (len(names) != len(weights) and whole_text in known):
        names = [whole_text]
    return names, weights


def _listed(value: object) -> list[str]:
    """A list, or (older versions) its entries joined by commas, or a single number."""
    if isinstance(value, (int, float)):
        value = [value]
    if isinstance(value, str):
        value = [part.strip() for part in value.strip().strip("[]").split(",")]
    if not isinstance(value, list):
        return []
    return [str(entry)[:LONGEST_TEXT] for entry in value[:MOST_LORAS] if entry != ""]


# --- InvokeAI -------------------------------------------------------------------------------------


def invokeai(text: str) -> Facts | None:
    """invokeai_metadata of version 3 (`model_name`) and later (`name`)."""
    data = load_json(text)
    if not isinstance(data, dict):
        return None
    loras, problem = [], ""
    listed = data.get("loras")
    for entry in (listed if isinstance(listed, list) else [listed] if listed else [])[:MOST_LORAS]:
        model = (entry.get("model") or entry.get("lora")) if isinstance(entry, dict) else None
        name = _invoke_name(model)
        strength = decimal(entry.get("weight")) if isinstance(entry, dict) else None
        if not name:
            problem = problem or "names a LoRA that cannot be read"
        loras.append(LoraUse(name, strength))
    if len({use.name for use in loras}) < len(loras):
        problem = problem or "names a LoRA twice"
    if any(hints_at_lora(key) for key in data if key != "loras"):
        problem = problem or "has a LoRA in a field that is not understood"
    settings = {
        "size": size_of(data.get("width"), data.get("height")),
        "steps": number_text(data.get("steps") or data.get("num_steps")),
        "sampler": string(data.get("scheduler")),
        "guidance": number_text(data.get("cfg_scale")),
        "distilled_guidance": number_text(data.get("guidance")),
        "model": _invoke_name(data.get("model")),
        "clip_skip": number_text(data.get("clip_skip")),
        "mode": string(data.get("generation_mode")),
    }
    for key, value in list(data.items())[:200]:
        if key.startswith(
            ("hrf_", "refiner_", "controlnets", "ipAdapters", "t2iAdapters", "strength")
        ):
            settings[key] = shortened(json.dumps(value, sort_keys=True)) if value else ""
    return Facts(
        source="InvokeAI",
        prompt=tidy(string(data.get("positive_prompt"))),
        negative=tidy(string(data.get("negative_prompt"))),
        seed=whole(data.get("seed")),
        loras=tuple(loras),
        settings=_kept(settings),
        unknown=problem,
    )


def _invoke_name(model: object) -> str:
    if not isinstance(model, dict):
        return model_name(model)
    return model_name(model.get("name") or model.get("model_name"))


def invokeai_graph(text: str) -> Facts | None:
    """The graph alone: its LoRA, noise, denoising and prompt nodes, by their `type`."""
    data = load_json(text)
    nodes = data.get("nodes") if isinstance(data, dict) else None
    if not isinstance(nodes, dict):
        return None
    edges = data.get("edges")
    into: dict[str, str] = {}
    given: set[tuple[str, str]] = set()
    for edge in (edges if isinstance(edges, list) else [])[:10_000]:
        try:
            into[str(edge["destination"]["field"])] = str(edge["source"]["node_id"])
            given.add((str(edge["destination"].get("node_id")), str(edge["destination"]["field"])))
        except (TypeError, KeyError, AttributeError):
            continue

    unread: list[str] = []

    def conditioning(field: str, called: str) -> str:
        source = into.get(field, "")
        node = nodes.get(source)
        prompt = node.get("prompt") if isinstance(node, dict) else None
        if field in into and (not isinstance(prompt, str) or (source, "prompt") in given):
            unread.append(called)
        return string(prompt)

    loras, settings, seed, problem = [], {}, None, ""
    for key, node in list(nodes.items())[:10_000]:
        kind = str(node.get("type", "")) if isinstance(node, dict) else ""
        if "lora" in kind and "collection" not in kind:
            name, strength = _invoke_name(node.get("lora")), decimal(node.get("weight"))
            if not name or strength is None or {(key, "weight"), (key, "lora")} & given:
                problem, strength = f"has a node {kind[:60]!r} that cannot be read", None
            loras.append(LoraUse(name, strength))
        elif kind == "noise":
            seed = None if (key, "seed") in given else whole(node.get("seed"))
            unread += ["seed"] if (key, "seed") in given else []
            settings["size"] = size_of(node.get("width"), node.get("height"))
        elif "denoise" in kind:
            settings["steps"] = number_text(node.get("steps"))
            settings["guidance"] = number_text(node.get("cfg_scale"))
            settings["sampler"] = string(node.get("scheduler"))
        elif "model_loader" in kind:
            settings["model"] = _invoke_name(node.get("model"))
    if "steps" not in settings:
        return None
    return Facts(
        source="InvokeAI",
        prompt=tidy(conditioning("positive_conditioning", "prompt")),
        negative=tidy(conditioning("negative_conditioning", "negative prompt")),
        seed=seed,
        loras=tuple(loras[:MOST_LORAS]),
        settings=_kept(settings),
        unknown=problem,
        unread=tuple(unread),
    )


# --- dgenerate ------------------------------------------------------------------------------------

_DGENERATE = {
    "--seeds": "seed",
    "--seed": "seed",
    "--inference-steps": "steps",
    "--guidance-scales": "guidance",
    "--guidance-scale": "guidance",
    "--schedulers": "sampler",
    "--scheduler": "sampler",
    "--output-size": "size",
    "--clip-skips": "clip_skip",
    "--model-type": "pipeline",
}


def dgenerate(text: str) -> Facts | None:
    """DgenerateConfig: a replayable command line, options possibly on continued lines."""
    lines = [line for line in text[:LONGEST_COMMAND].splitlines() if not line.startswith("#")]
    command = "\n".join(lines).replace("\\\n", " ")
    try:
        words = shlex.split(command)
    except ValueError:  # an unclosed quote
        words = command.split()
    if not any(word.startswith("--") for word in words):
        return None
    found: dict[str, str] = {}
    loras: list[LoraUse] = []
    prompt = negative = option = problem = ""
    for word in words:
        if word.startswith("--"):
            option = word
        elif option == "--prompts":
            prompt, _, negative = word.partition(";")
            option = "done"
        elif option in ("--loras", "--lora"):
            path, *arguments = word.split(";")
            scale = [a.partition("=")[2] for a in arguments if a.strip().startswith("scale=")]
            weight = decimal(scale[-1]) if scale else Decimal(1)  # its documented default
            if len(loras) < MOST_LORAS:
                loras.append(LoraUse(model_name(path), weight))
        elif hints_at_lora(option):
            problem = problem or f"uses the option {option[:60]}, which is not understood"
        elif option in _DGENERATE:
            found.setdefault(_DGENERATE[option], word)
        elif not option and "model" not in found and not word.startswith("\\"):
            found["model"] = model_name(word)
    seed = whole(found.pop("seed", None))
    settings = {
        **found,
        "size": size_text(found.get("size", "")),
        "steps": number_text(found.get("steps")),
        "guidance": number_text(found.get("guidance")),
    }
    return Facts(
        source="dgenerate",
        prompt=tidy(prompt),
        negative=tidy(negative),
        seed=seed,
        loras=tuple(loras),
        settings=_kept(settings),
        unknown=problem,
    )


# --- kohya gen_img.py -----------------------------------------------------------------------------


def kohya_gen_img(texts: Mapping[str, str]) -> Facts:
    """gen_img.py writes one chunk per value, and none for LoRAs."""
    prompt = read_prompt(texts["prompt"])
    settings = {
        "steps": number_text(texts.get("steps")),
        "sampler": texts.get("sampler", "")[:200],
        "guidance": number_text(texts.get("scale")),
    }
    return Facts(
        source="kohya gen_img",
        prompt=prompt.text,
        negative=tidy(texts.get("negative-prompt", "")[:LONGEST_TEXT]),
        seed=whole(texts.get("seed")),
        loras=prompt.loras,
        settings=_kept(settings),
        lists_loras=False,
        unknown=prompt.problem,
    )


# --- values ---------------------------------------------------------------------------------------


def load_json(text: str) -> Any:
    """The JSON value, None if it is none, too long or too deep. Long integers become None."""
    if not text or len(text) > LONGEST_JSON:
        return None
    try:
        return json.loads(text, parse_int=_bounded_int, parse_constant=lambda _: None)
    except (ValueError, RecursionError, MemoryError):
        return None


def _bounded_int(digits: str) -> int | None:
    return int(digits) if len(digits) <= 21 else None  # 2^64 and its sign


def decimal(value: object) -> Decimal | None:
    """A strength as an exact decimal with at most 4 digits after the point, else None.

    Sliders store 0.7500000000000001 for 0.75. Strengths beyond +-1000 are taken for damage.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        return None
    text = str(value).strip()
    if len(text) > 40:
        return None
    number = decimal_within(text, 1000)
    if number is None:
        return None
    number = round(number, 4).normalize()
    return number if number else Decimal(0)


def number_text(value: object) -> str:
    """A number as comparable text ("7" for 7.0 and "7.00"); other short texts as they are."""
    number = decimal(value)
    if number is not None:
        return format(number, "f")
    whole_number = whole(value)
    return string(value)[:200] if whole_number is None else str(whole_number)


def whole(value: object) -> int | None:
    """A seed: a whole number below 2^64 in magnitude, else None."""
    if isinstance(value, str) and re.fullmatch(r"\s{0,9}-?\d{1,20}(?:\.0)?\s{0,9}", value):
        value = int(value.strip().removesuffix(".0"))
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**64:
        return None
    return value


def string(value: object) -> str:
    """A text (a list's entries joined), "" for anything else."""
    if isinstance(value, list):
        value = ", ".join(entry for entry in value[:100] if isinstance(entry, str))
    return value[:LONGEST_TEXT] if isinstance(value, str) else ""


def model_name(value: object) -> str:
    """A model's name from a path of any system: no folder, no file ending."""
    name = PurePosixPath(string(value)[:4096].replace("\\", "/")).name
    return re.sub(r"\.(?:safetensors|ckpt|pt|pth|bin|gguf|sft)$", "", name, flags=re.I)


def hash_text(value: object) -> str:
    """Hex digits in lower case without 0x, "" for anything else and for the hash of nothing."""
    match = _HEX.match(string(value)[:80].strip())
    digest = match[1].lower() if match else ""
    return "" if any(nothing.startswith(digest) for nothing in _NO_HASH) else digest


def tidy(prompt: str) -> str:
    """A prompt with single blanks and no empty places between commas, for comparing."""
    prompt = re.sub(r"\s+", " ", prompt[:LONGEST_TEXT])
    parts = [part.strip() for part in prompt.split(",")]
    return ", ".join(part for part in parts if part)


def shortened(text: str) -> str:
    """A text of any length as one that can be compared, at most 200 characters long."""
    if len(text) <= 200:
        return text
    return f"{text[:100]}... {hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:16]}"


def size_text(text: str) -> str:
    match = _SIZE.match(text[:40])
    return f"{int(match[1])}x{int(match[2])}" if match else ""


def size_of(width: object, height: object) -> str:
    w, h = whole(width), whole(height)
    return f"{w}x{h}" if w and h else ""


def _kept(settings: Mapping[str, str]) -> dict[str, str]:
    return {key: shortened(value) for key, value in settings.items() if value}
