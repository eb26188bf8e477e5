"""One interface's text -> `Facts`, for every interface but ComfyUI's graphs.

All texts are untrusted: lengths are bounded, patterns cannot backtrack without limit, numbers are
checked, and nesting too deep for the JSON reader counts as no JSON.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

from generation.pictures.readers.picture import Facts, LoraUse
from generation.values import decimal_within

LONGEST_TEXT = 256 * 1024
"""Characters of one prompt or settings line that are parsed."""

LONGEST_COMMAND = 32 * 1024
"""Characters of a dgenerate configuration; the shell-word reader takes 10 us for each."""

LONGEST_JSON = 4 << 20

MOST_LORAS = 64

_TAG = re.compile(r"<(?:lora|lyco):([^<>:]{1,255})((?::[^<>:]{0,128}){0,8})>", re.I)
PARAMETER = re.compile(
    r'(?<![\w/-])(\w[\w \-/]{0,63}):\s{0,8}("(?:\\.|[^\\"]){1,100000}"|[^,]*)(?:,|$)'
)
_SIZE = re.compile(r"\s*(\d{1,6})\s*[x×]\s*(\d{1,6})\s*$")
_HEX = re.compile(r"^(?:0x)?([0-9a-f]{8,64})$", re.I)
_SCHEDULES = ("Karras", "Exponential", "SGM Uniform", "Polyexponential", "Beta", "Simple", "Normal")


# --- A1111, Forge, SD.Next, and our own pictures ------------------------------------------------


def a1111(text: str) -> Facts | None:
    """A1111's infotext (infotext_utils.py): prompt, "Negative prompt:", a line of settings.

    As there, the last line holds settings only if at least three can be read from it.
    """
    lines = text[: 4 * LONGEST_TEXT].replace("\r\n", "\n").strip().split("\n")
    last = lines[-1][:LONGEST_TEXT]
    found = PARAMETER.findall(last)
    if len(found) < 3:
        return None
    parameters = {key.strip(): unquoted(value) for key, value in found[:500]}
    positive: list[str] = []
    negative: list[str] = []
    into = positive
    for line in lines[:-1]:
        if line.strip().startswith("Negative prompt:"):
            into, line = negative, line.strip()[16:]
        into.append(line.strip())
    prompt, loras = split_tags("\n".join(positive).strip())
    hashes = _lora_hashes(parameters.get("Lora hashes", ""))
    used = [
        LoraUse(use.name, use.strength, hashes.get(use.name, use.hash), use.text_strength)
        for use in loras
    ]
    named = {use.name for use in used}
    # dgenerate and some nodes write hashes without tags: the LoRA is known, its strength is not.
    used += [LoraUse(name, None, digest) for name, digest in hashes.items() if name not in named]
    sampler, schedule = _sampler(parameters.get("Sampler", ""), parameters.get("Schedule type", ""))
    settings = {
        "size": _size(parameters.get("Size", "")),
        "steps": number_text(parameters.get("Steps")),
        "sampler": sampler,
        "schedule": schedule,
        "guidance": number_text(parameters.get("CFG scale")),
        "distilled_guidance": number_text(parameters.get("Distilled CFG Scale")),
        "model": model_name(parameters.get("Model", "")),
        "model_hash": parameters.get("Model hash", "").lower(),
        "vae": parameters.get("VAE", ""),
        "clip_skip": number_text(parameters.get("Clip skip")),
        "denoising": number_text(parameters.get("Denoising strength")),
        "upscale": number_text(parameters.get("Hires upscale")),
    }
    return Facts(
        source="A1111",
        prompt=prompt,
        negative=tidy("\n".join(negative)),
        seed=whole(parameters.get("Seed")),
        loras=tuple(used[:MOST_LORAS]),
        settings=_kept(settings),
        grid="X/Y/Z plot" in parameters.get("Script", "") or "X/Y plot" in parameters,
    )


def split_tags(prompt: str) -> tuple[str, list[LoraUse]]:
    """A prompt without its `<lora:...>` tags, and what the tags say.

    A1111's extra_networks.py: positional name, text-encoder strength, denoiser strength (each
    defaulting to the one before, the first to 1); named te=, unet= win.
    """
    loras: dict[str, LoraUse] = {}
    prompt = prompt[:LONGEST_TEXT]
    for name, rest in _TAG.findall(prompt):
        values: list[str] = []
        named: dict[str, str] = {}
        for part in rest.split(":")[1:]:
            key, equals, value = part.partition("=")
            if equals:
                named[key.strip().lower()] = value
            else:
                values.append(part)
        te = decimal(named.get("te", values[0] if values else "1"))
        unet = decimal(named["unet"]) if "unet" in named else te
        if "unet" not in named and len(values) > 1:
            unet = decimal(values[1])
        if len(loras) < MOST_LORAS:
            loras[name.strip()] = LoraUse(name.strip(), unet, "", te if te != unet else None)
    return tidy(_TAG.sub(" ", prompt)), list(loras.values())


def with_own_cell(facts: Facts, own: Mapping[str, Any]) -> Facts:
    """Our own pictures carry the whole tensor hash, and the prompt without any rewriting."""
    digest = hash_text(own.get("tensor_hash"))
    loras = tuple(
        LoraUse(use.name, use.strength, digest or use.hash, use.text_strength)
        for use in facts.loras[-1:]
    )
    return Facts(
        source="lora-analysers",
        prompt=facts.prompt,
        negative=facts.negative,
        seed=facts.seed,
        loras=(*facts.loras[:-1], *loras),
        settings=facts.settings,
    )


def _lora_hashes(text: str) -> dict[str, str]:
    hashes = {}
    for entry in text[:LONGEST_TEXT].split(",")[:MOST_LORAS]:
        name, colon, digest = entry.rpartition(":")
        if colon and name.strip():
            hashes[name.strip()] = hash_text(digest.strip())
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
    names, weights = _listed(image.get("loras")), _listed(image.get("loraweights"))
    prompt, tags = split_tags(string(image.get("prompt")))
    loras = {
        model_name(name): LoraUse(
            model_name(name),
            decimal(weights[i]) if i < len(weights) else Decimal(1),
            hashes.get(model_name(name), ""),
        )
        for i, name in enumerate(names[:MOST_LORAS])
    }
    for tag in tags:
        name = model_name(tag.name)
        loras.setdefault(name, LoraUse(name, tag.strength, hashes.get(name, "")))
    settings = {
        "size": _size_of(image.get("width"), image.get("height")),
        "steps": number_text(image.get("steps")),
        "sampler": string(image.get("sampler", image.get("comfyuisampler"))),
        "schedule": string(image.get("scheduler", image.get("comfyuischeduler"))),
        "guidance": number_text(image.get("cfgscale")),
        "model": model_name(image.get("model")),
        "clip_skip": number_text(image.get("clipstopatlayer")),
        "variation_seed": number_text(image.get("variationseed")),
    }
    return Facts(
        source="SwarmUI",
        prompt=prompt,
        negative=tidy(string(image.get("negativeprompt"))),
        seed=whole(image.get("seed")),
        loras=tuple(loras.values()),
        settings=_kept(settings),
    )


def _listed(value: object) -> list[str]:
    """A list, or (older versions) its entries joined by commas, or a single number."""
    if isinstance(value, (int, float)):
        value = [value]
    if isinstance(value, str):
        value = value.strip().removeprefix("[").removesuffix("]").split(",")
    if not isinstance(value, list):
        return []
    return [str(entry)[:LONGEST_TEXT].strip() for entry in value[:MOST_LORAS] if entry != ""]


# --- InvokeAI -------------------------------------------------------------------------------------


def invokeai(text: str) -> Facts | None:
    """invokeai_metadata of version 3 (`model_name`) and later (`name`)."""
    data = load_json(text)
    if not isinstance(data, dict):
        return None
    loras = []
    listed = data.get("loras")
    for entry in (listed if isinstance(listed, list) else [])[:MOST_LORAS]:
        if isinstance(entry, dict):
            model = entry.get("model") or entry.get("lora")
            if name := _invoke_name(model):
                loras.append(LoraUse(name, decimal(entry.get("weight", 1))))
    settings = {
        "size": _size_of(data.get("width"), data.get("height")),
        "steps": number_text(data.get("steps") or data.get("num_steps")),
        "sampler": string(data.get("scheduler")),
        "guidance": number_text(data.get("cfg_scale")),
        "distilled_guidance": number_text(data.get("guidance")),
        "model": _invoke_name(data.get("model")),
        "clip_skip": number_text(data.get("clip_skip")),
        "mode": string(data.get("generation_mode")),
    }
    return Facts(
        source="InvokeAI",
        prompt=tidy(string(data.get("positive_prompt"))),
        negative=tidy(string(data.get("negative_prompt"))),
        seed=whole(data.get("seed")),
        loras=tuple(loras),
        settings=_kept(settings),
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
    for edge in (edges if isinstance(edges, list) else [])[:10_000]:
        try:
            into[str(edge["destination"]["field"])] = str(edge["source"]["node_id"])
        except (TypeError, KeyError):
            continue

    def conditioning(field: str) -> str:
        node = nodes.get(into.get(field, ""))
        return string(node.get("prompt")) if isinstance(node, dict) else ""

    loras, settings, seed = [], {}, None
    for node in list(nodes.values())[:10_000]:
        kind = str(node.get("type", "")) if isinstance(node, dict) else ""
        if "lora" in kind and (name := _invoke_name(node.get("lora"))):
            loras.append(LoraUse(name, decimal(node.get("weight", 1))))
        elif kind == "noise":
            seed = whole(node.get("seed"))
            settings["size"] = _size_of(node.get("width"), node.get("height"))
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
        prompt=tidy(conditioning("positive_conditioning")),
        negative=tidy(conditioning("negative_conditioning")),
        seed=seed,
        loras=tuple(loras[:MOST_LORAS]),
        settings=_kept(settings),
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
    prompt = negative = option = ""
    for word in words:
        if word.startswith("--"):
            option = word
        elif option == "--prompts":
            prompt, _, negative = word.partition(";")
            option = "done"
        elif option in ("--loras", "--lora"):
            path, *arguments = word.split(";")
            scale = [a.partition("=")[2] for a in arguments if a.strip().startswith("scale=")]
            weight = decimal(scale[-1]) if scale else Decimal(1)
            if len(loras) < MOST_LORAS:
                loras.append(LoraUse(model_name(path), weight))
        elif option in _DGENERATE:
            found.setdefault(_DGENERATE[option], word)
        elif not option and "model" not in found and not word.startswith("\\"):
            found["model"] = model_name(word)
    seed = whole(found.pop("seed", None))
    settings = {
        **found,
        "size": _size(found.get("size", "")),
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
    )


# --- kohya gen_img.py -----------------------------------------------------------------------------


def kohya_gen_img(texts: Mapping[str, str]) -> Facts:
    """gen_img.py writes one chunk per value, and none for LoRAs."""
    prompt, tags = split_tags(texts["prompt"])
    settings = {
        "steps": number_text(texts.get("steps")),
        "sampler": texts.get("sampler", "")[:200],
        "guidance": number_text(texts.get("scale")),
    }
    return Facts(
        source="kohya gen_img",
        prompt=prompt,
        negative=tidy(texts.get("negative-prompt", "")[:LONGEST_TEXT]),
        seed=whole(texts.get("seed")),
        loras=tuple(tags),
        settings=_kept(settings),
        lists_loras=False,
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
    name = PurePosixPath(string(value)[:4096].replace("\\", "/").strip()).name
    return re.sub(r"\.(?:safetensors|ckpt|pt|pth|bin|gguf|sft)$", "", name, flags=re.I)


def hash_text(value: object) -> str:
    """Hex digits in lower case without 0x, "" for anything else."""
    match = _HEX.match(string(value)[:80].strip())
    return match[1].lower() if match else ""


def tidy(prompt: str) -> str:
    """A prompt with single blanks and no empty places between commas, for comparing."""
    prompt = re.sub(r"\s+", " ", prompt[:LONGEST_TEXT])
    parts = [part.strip() for part in prompt.split(",")]
    return ", ".join(part for part in parts if part)


def _size(text: str) -> str:
    match = _SIZE.match(text[:40])
    return f"{int(match[1])}x{int(match[2])}" if match else ""


def _size_of(width: object, height: object) -> str:
    w, h = whole(width), whole(height)
    return f"{w}x{h}" if w and h else ""


def _kept(settings: Mapping[str, str]) -> dict[str, str]:
    return {key: value[:200] for key, value in settings.items() if value}
