"""The texts of SwarmUI, InvokeAI, dgenerate and kohya's gen_img.py -> `Facts`.

All texts are untrusted: see `generation.pictures.readers.values`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from generation.pictures.readers.picture import Facts, LoraUse
from generation.pictures.readers.tags import read_prompt
from generation.pictures.readers.traces import hints_at_lora
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
    size_of,
    size_text,
    string,
    tidy,
    whole,
)

LONGEST_COMMAND = 32 * 1024
"""Characters of a dgenerate configuration; the shell-word reader takes 10 us for each."""


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
        settings=short_settings(settings),
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
        settings=short_settings(settings),
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
        settings=short_settings(settings),
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
        settings=short_settings(settings),
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
        settings=short_settings(settings),
        lists_loras=False,
        unknown=prompt.problem,
    )
