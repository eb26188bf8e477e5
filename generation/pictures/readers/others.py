"""Tools that describe a picture in one JSON object: Fooocus, Easy Diffusion, Draw Things, NovelAI.

Facts from lllyasviel/Fooocus meta_parser.py and private_logger.py, runew0lf/RuinedFooocus,
easydiffusion/sdkit image metadata, Draw Things' XMP and NovelAI's pictures. What such a text does
not tell in its known form is unknown.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from generation.pictures.readers.picture import Facts, LoraUse
from generation.pictures.readers.tags import read_prompt
from generation.pictures.readers.traces import hints_at_lora
from generation.pictures.readers.values import (
    LONGEST_TEXT,
    MOST_LORAS,
    decimal,
    load_json,
    model_name,
    number_text,
    shortened,
    size_of,
    size_text,
    string,
    tidy,
    whole,
)

_NOT_READ = (
    "Stable Horde", "AI Horde", "ArtBot", "Midjourney", "DALL-E", "Adobe Firefly", "DiffusionBee",
    "Mochi Diffusion", "Leonardo", "SeaArt", "Tensor.Art", "Krita AI", "StableSwarm", "Lexica",
)  # fmt: skip
"""Tools that are recognised by their name and whose texts are not read."""

_FORM = "lists its LoRAs in a form that is not known"


def from_json(data: Mapping[str, Any]) -> Facts | None:
    """The facts in one JSON object, None if no tool is known by its fields."""
    if data.get("software") == "RuinedFooocus":
        return _ruined_fooocus(data)
    if "full_prompt" in data or str(data.get("version", "")).startswith("Fooocus"):
        return _fooocus(data)
    if "num_inference_steps" in data and ("guidance_scale" in data or "sampler_name" in data):
        return easy_diffusion(data)
    if isinstance(data.get("c"), str) and ("uc" in data or "sampler" in data):
        return _draw_things(data)
    if "uc" in data and "scale" in data and "steps" in data:
        return novelai(data)
    if isinstance(data.get("params"), dict) and isinstance(data.get("models"), list):
        return Facts("AI Horde", unknown="was made by AI Horde, whose text is not read")
    return None


def unread_tool(texts: Mapping[str, str]) -> str:
    """The name of a tool that says so and is not read, "" if there is none."""
    said = " ".join(
        texts.get(key, "")[:500]
        for key in ("Software", "software", "Generator", "Source", "source")
    )
    return next((name for name in _NOT_READ if name.lower() in said.lower()), "")


def _fooocus(data: Mapping[str, Any]) -> Facts:
    """`fooocus_scheme` "fooocus": loras are [name, weight, hash of the whole file]."""
    told = data.get("loras")
    loras: list[LoraUse] = []
    problem = ""
    if told is None:
        for key, value in list(data.items())[:500]:
            if key.startswith("lora_combined_"):
                name, _, weight = string(value).rpartition(" : ")
                loras.append(LoraUse(model_name(name), decimal(weight)))
    for entry in told[:MOST_LORAS] if isinstance(told, list) else []:
        if isinstance(entry, list) and len(entry) >= 2 and isinstance(entry[0], str):
            loras.append(LoraUse(model_name(entry[0]), decimal(entry[1])))
        else:
            problem = _FORM
    if told is not None and not isinstance(told, list):
        problem = _FORM
    prompt = read_prompt(string(data.get("prompt")))
    size = re.fullmatch(r"\(?(\d{1,6}), ?(\d{1,6})\)?", string(data.get("resolution"))[:40])
    settings = {
        "size": f"{size[1]}x{size[2]}" if size else "",
        "steps": number_text(data.get("steps")),
        "sampler": string(data.get("sampler")),
        "schedule": string(data.get("scheduler")),
        "guidance": number_text(data.get("guidance_scale")),
        "model": model_name(data.get("base_model")),
        "clip_skip": number_text(data.get("clip_skip")),
    }
    for key in ("performance", "sharpness", "adm_guidance", "refiner_model", "refiner_switch"):
        settings[key] = string(str(data.get(key) or ""))
    # Styles and expansion rewrite the prompt that was typed: both count.
    settings["full prompt"] = shortened(tidy(string(data.get("full_prompt"))))
    known = {"loras", "lora_hashes"} | {f"lora_combined_{i}" for i in range(1, 100)}
    return _made(
        "Fooocus", prompt.text, string(data.get("negative_prompt")), data.get("seed"), loras,
        settings, problem or prompt.problem or _hint(data, known),
    )  # fmt: skip


def _ruined_fooocus(data: Mapping[str, Any]) -> Facts:
    """RuinedFooocus: loras are {"name", "weight"} or [hash, "weight - name"]."""
    loras: list[LoraUse] = []
    problem = ""
    told = data.get("loras")
    for entry in told[:MOST_LORAS] if isinstance(told, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            loras.append(LoraUse(model_name(entry["name"]), decimal(entry.get("weight"))))
            continue
        words = entry[1] if isinstance(entry, list) and len(entry) == 2 else entry
        weight, dash, name = string(words).partition(" - ")
        if not dash or not name:
            problem = _FORM
        else:
            loras.append(LoraUse(model_name(name), decimal(weight)))
    if told and not isinstance(told, list):
        problem = _FORM
    prompt = read_prompt(string(data.get("Prompt")))
    settings = {
        "size": size_of(data.get("width"), data.get("height")),
        "steps": number_text(data.get("steps")),
        "sampler": string(data.get("sampler_name")),
        "schedule": string(data.get("scheduler")),
        "guidance": number_text(data.get("cfg")),
        "model": model_name(data.get("base_model_name")),
        "clip_skip": number_text(data.get("clip_skip")),
        "denoising": number_text(data.get("denoise")),
    }
    if prompt.loras:
        problem = problem or "has a LoRA's tag in its prompt"
    return _made(
        "RuinedFooocus", prompt.text, string(data.get("Negative")), data.get("seed"), loras,
        settings, problem or prompt.problem or _hint(data, {"loras"}),
    )  # fmt: skip


def easy_diffusion(data: Mapping[str, Any]) -> Facts:
    """Easy Diffusion: one field each; lists stand as JSON or as Python writes them."""
    names, weights = _items(data.get("use_lora_model")), _items(data.get("lora_alpha"))
    prompt = read_prompt(string(data.get("prompt")))
    problem = prompt.problem
    if names is None or weights is None or prompt.loras:
        problem, names, weights = problem or "tells its LoRAs in a form that is not known", [], []
    fit = len(names) == len(weights)
    loras = [
        LoraUse(model_name(name), decimal(weights[i]) if fit else None)
        for i, name in enumerate(names)
        if name not in ("", "None")
    ]
    settings = {
        "size": size_of(data.get("width"), data.get("height")),
        "steps": number_text(data.get("num_inference_steps")),
        "sampler": string(data.get("sampler_name")),
        "schedule": string(data.get("scheduler_name")),
        "guidance": number_text(data.get("guidance_scale")),
        "distilled_guidance": number_text(data.get("distilled_guidance_scale")),
        "model": model_name(data.get("use_stable_diffusion_model")),
        "vae": model_name(data.get("use_vae_model")),
        "clip_skip": string(str(data.get("clip_skip") or "")),
        "denoising": number_text(data.get("prompt_strength")),
        "upscale": string(str(data.get("use_upscale") or "")),
    }
    for key in ("use_hypernetwork_model", "use_controlnet_model", "tiling"):
        value = str(data.get(key) or "")
        settings[key] = "" if value in ("None", "null") else value
    if settings["use_hypernetwork_model"]:
        problem = problem or "uses a hypernetwork"
    known = {"use_lora_model", "lora_alpha", "use_hypernetwork_model", "hypernetwork_strength"}
    return _made(
        "Easy Diffusion", prompt.text, string(data.get("negative_prompt")), data.get("seed"), loras,
        settings, problem or _hint(data, known),
    )  # fmt: skip


def _items(value: object) -> list[Any] | None:
    """A list, a text that holds one, or a single value; None if it is something else."""
    if value is None or value in ("", "None", "null"):
        return []
    if isinstance(value, str) and value.lstrip().startswith("["):
        read = load_json(value)
        value = read if read is not None else load_json(value.replace("'", '"'))
        return value if isinstance(value, list) else None
    if isinstance(value, list):
        return value[:MOST_LORAS]
    return [value] if isinstance(value, (str, int, float)) else None


def _draw_things(data: Mapping[str, Any]) -> Facts:
    """Draw Things: "lora" is [{"model", "weight"}]; its newer fields under "v2"."""
    loras: list[LoraUse] = []
    problem = ""
    told = data.get("lora")
    newer = data.get("v2")
    again = newer.get("loras") if isinstance(newer, dict) else None
    for entry in told[:MOST_LORAS] if isinstance(told, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("model"), str):
            loras.append(LoraUse(model_name(entry["model"]), decimal(entry.get("weight"))))
        else:
            problem = _FORM
    if told and not isinstance(told, list):
        problem = _FORM
    if isinstance(again, list) and again:
        files = [
            LoraUse(model_name(entry.get("file")), decimal(entry.get("weight")))
            for entry in again[:MOST_LORAS]
            if isinstance(entry, dict)
        ]
        loras = loras or files
        if sorted(str(use.strength) for use in files) != sorted(str(u.strength) for u in loras):
            problem = problem or "tells two lists of LoRAs"
    prompt = read_prompt(string(data.get("c")))
    settings = {
        "size": size_text(string(data.get("size"))),
        "steps": number_text(data.get("steps")),
        "sampler": string(data.get("sampler")),
        "guidance": number_text(data.get("scale")),
        "model": model_name(data.get("model")),
        "denoising": number_text(data.get("strength")),
        "seed mode": string(data.get("seed_mode")),
        "shift": number_text(data.get("shift")),
    }
    if prompt.loras:
        problem = problem or "has a LoRA's tag in its prompt"
    return _made(
        "Draw Things", prompt.text, string(data.get("uc")), data.get("seed"), loras, settings,
        problem or prompt.problem or _hint(data, {"lora"}),
    )  # fmt: skip


def novelai(data: Mapping[str, Any], description: str = "", source: str = "") -> Facts:
    """NovelAI's Comment; the service has no LoRAs."""
    prompt = string(data.get("prompt")) or description
    settings = {
        "size": size_of(data.get("width"), data.get("height")),
        "steps": number_text(data.get("steps")),
        "sampler": string(data.get("sampler")),
        "schedule": string(data.get("noise_schedule")),
        "guidance": number_text(data.get("scale")),
        "denoising": number_text(data.get("strength")),
        "model": source,
    }
    for key in ("cfg_rescale", "sm", "sm_dyn", "v4_prompt", "reference_strength_multiple"):
        if data.get(key):
            settings[key] = shortened(json.dumps(data[key], sort_keys=True))
    unknown = _hint(data, set())
    return _made("NovelAI", tidy(prompt), string(data.get("uc")), data.get("seed"), [], settings,
                 unknown)  # fmt: skip


def json_in_xmp(text: str) -> Mapping[str, Any] | None:
    """The JSON that Draw Things puts into the XMP's exif:UserComment."""
    start = text.find("exif:UserComment")
    match = re.search(
        r"[>\"]\s{0,99}(\{.{2,200000}?\})\s{0,99}[<\"]", text[start:][:LONGEST_TEXT], re.S
    )
    data = load_json(html.unescape(match[1])) if start >= 0 and match else None
    return data if isinstance(data, dict) else None


def _hint(data: Mapping[str, Any], known: set[str]) -> str:
    for key, value in list(data.items())[:500]:
        if hints_at_lora(key) and key not in known and value not in (None, "", [], {}, "None"):
            return f"has a field {key[:60]!r} that is not understood"
    return ""


def _made(
    source: str,
    prompt: str,
    negative: str,
    seed: object,
    loras: Sequence[LoraUse],
    settings: Mapping[str, str],
    problem: str,
) -> Facts:
    if len({use.name for use in loras}) < len(loras):
        problem = problem or "names a LoRA twice"
    facts = Facts(
        source=source,
        prompt=prompt,
        negative=tidy(negative),
        seed=whole(seed),
        loras=tuple(loras)[:MOST_LORAS],
        settings={key: shortened(value) for key, value in settings.items() if value},
    )
    return replace(facts, unknown=problem)
