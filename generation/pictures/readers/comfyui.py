"""ComfyUI's API graph ("prompt"): from the saved picture upstream to sampler, LoRAs and texts.

A node is {"class_type": ..., "inputs": {...}}; an input is a value or a link [node id, output].
Links are followed with a visited set, so that a loop in a damaged graph ends.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from generation.pictures.readers.metadata import (
    MOST_LORAS,
    decimal,
    load_json,
    model_name,
    number_text,
    split_tags,
    string,
    tidy,
    whole,
)
from generation.pictures.readers.picture import Facts, LoraUse

MOST_NODES = 20_000
LONGEST_CHAIN = 500

Graph = Mapping[str, Mapping[str, Any]]

# Inputs that carry on the model, best first; contexts and pipes bundle it with other things.
_MODEL_INPUTS = ("model", "MODEL", "base_model", "unet", "lora_stack", "base_ctx", "ctx", "context")
_PIPE_INPUTS = ("pipe", "basic_pipe", "sdxl_pipe", "guider", "")
_TEXT_INPUTS = ("text", "text_g", "clip_l", "t5xxl", "prompt", "string", "value", "STRING", "text1")
_CONDITIONING_INPUTS = ("conditioning", "positive", "conditioning_1", "conditioning_to", "cond1")
_NUMBER_INPUTS = ("value", "seed", "noise_seed", "int", "float", "number", "Value", "INT", "FLOAT")


def comfyui(text: str) -> Facts | None:
    """The facts of a ComfyUI picture, None if the text is no graph or has no sampler.

    LoRAs are those between the sampler and its checkpoint: LoraLoader, LoraLoaderModelOnly,
    rgthree's Power Lora Loader and loader stacks, and other nodes with the same inputs. With
    several passes the first one's seed, steps, size and strengths count; LoRAs that only a later
    pass uses are added, and its own seed, steps and denoising stand under "passes".
    """
    data = load_json(text)
    graph = _graph(data)
    samplers = _samplers(graph)
    if not samplers:
        return None
    sampler = _gathered(graph, samplers[-1])
    loras: dict[str, LoraUse] = {}
    model = ""
    for each in reversed(samplers[:20]):
        for node in _chain(graph, _gathered(graph, each).get("model")):
            for use in _loras(graph, node):
                if len(loras) < MOST_LORAS and use.name not in ("", "None"):
                    loras.setdefault(use.name, use)
            inputs = node["inputs"]
            model = model or model_name(
                inputs.get("ckpt_name") or inputs.get("unet_name") or inputs.get("model_name")
            )
    prompt, tags = split_tags(_text(graph, sampler.get("positive"), "positive"))
    negative, _ = split_tags(_text(graph, sampler.get("negative"), "negative"))
    settings = {
        "size": _size(graph, sampler.get("latent_image")),
        "steps": number_text(_value(graph, sampler.get("steps"))),
        "sampler": string(_value(graph, sampler.get("sampler_name"))),
        "schedule": string(_value(graph, sampler.get("scheduler"))),
        "guidance": number_text(_value(graph, sampler.get("cfg"))),
        "distilled_guidance": _guidance(graph, sampler.get("positive")),
        "denoising": number_text(_value(graph, sampler.get("denoise"))),
        "model": model,
        "passes": "; ".join(_pass(graph, node) for node in reversed(samplers[:-1][:8])),
    }
    seed = _value(graph, sampler.get("seed", sampler.get("noise_seed")))
    uses_tags = any("tag" in str(n["class_type"]).lower() for n in graph.values())
    for tag in tags if uses_tags else ():
        loras.setdefault(model_name(tag.name), LoraUse(model_name(tag.name), tag.strength))
    return Facts(
        source="ComfyUI",
        prompt=tidy(prompt),
        negative=tidy(negative),
        seed=whole(seed),
        loras=tuple(loras.values()),
        settings={key: value[:200] for key, value in settings.items() if value},
    )


def _pass(graph: Graph, sampler: Mapping[str, Any]) -> str:
    inputs = _gathered(graph, sampler)
    seed = _value(graph, inputs.get("seed", inputs.get("noise_seed")))
    steps, denoise = (number_text(_value(graph, inputs.get(key))) for key in ("steps", "denoise"))
    return f"seed {whole(seed)}, {steps} steps, denoising {denoise}"


def _graph(data: object) -> Graph:
    if not isinstance(data, dict) or len(data) > MOST_NODES:
        return {}
    return {
        key: node
        for key, node in data.items()
        if isinstance(node, dict)
        and isinstance(node.get("inputs"), dict)
        and isinstance(node.get("class_type"), str)
    }


def _linked(graph: Graph, value: object) -> Mapping[str, Any] | None:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], (str, int)):
        return graph.get(str(value[0]))
    return None


def _is_sampler(node: Mapping[str, Any]) -> bool:
    inputs = node["inputs"]
    if "sampler" in node["class_type"].lower() and "latent_image" in inputs:
        return True
    return "positive" in inputs and "model" in inputs and ("seed" in inputs or "steps" in inputs)


def _samplers(graph: Graph) -> list[Mapping[str, Any]]:
    """Samplers upstream of a saved picture, the last pass first; all of them if none is saved."""
    ends = [node for node in graph.values() if re.search(r"save|preview", node["class_type"], re.I)]
    ends.sort(key=lambda node: "save" not in node["class_type"].lower())
    for end in ends[:20]:
        found = [node for node in _upstream(graph, end) if _is_sampler(node)]
        if found:
            return found
    return [node for node in graph.values() if _is_sampler(node)]


def _upstream(graph: Graph, end: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Breadth first, so that what is nearer to the picture comes first."""
    seen = {id(end)}
    queue = [end]
    while queue:
        following = []
        for node in queue:
            yield node
            for value in node["inputs"].values():
                source = _linked(graph, value)
                if source is not None and id(source) not in seen:
                    seen.add(id(source))
                    following.append(source)
        queue = following


def _gathered(graph: Graph, sampler: Mapping[str, Any]) -> dict[str, Any]:
    """A sampler's inputs, with those of the guider, noise, sigmas and sampler nodes it is split
    into by SamplerCustomAdvanced."""
    inputs = dict(sampler["inputs"])
    for part in ("guider", "noise", "sigmas", "sampler"):
        node = _linked(graph, inputs.get(part))
        if node is not None:
            for key, value in node["inputs"].items():
                inputs.setdefault("positive" if key == "conditioning" else key, value)
    return inputs


def _chain(graph: Graph, link: object) -> Iterator[Mapping[str, Any]]:
    """The nodes a model passed through, from the sampler back to its checkpoint."""
    seen: set[int] = set()
    stack = [link]
    while stack and len(seen) < LONGEST_CHAIN:
        node = _linked(graph, stack.pop())
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        inputs = node["inputs"]
        onward = [inputs[key] for key in _MODEL_INPUTS if _linked(graph, inputs.get(key))]
        if not onward:
            onward = [inputs[key] for key in _PIPE_INPUTS if _linked(graph, inputs.get(key))][:1]
        links = [value for value in inputs.values() if _linked(graph, value)]
        if not onward and len(links) == 1:
            onward = links  # a reroute, whatever it calls its input
        stack.extend(reversed(onward))


def _loras(graph: Graph, node: Mapping[str, Any]) -> Iterator[LoraUse]:
    """LoRAs that one node adds."""
    inputs = node["inputs"]
    kind = node["class_type"].lower()
    for value in inputs.values():  # rgthree's Power Lora Loader: one object per row
        if (
            isinstance(value, dict)
            and isinstance(value.get("lora"), str)
            and value.get("on") is not False
        ):
            yield _use(graph, value["lora"], value.get("strength"), value.get("strengthTwo"))
    if "lora" not in kind and "lora_name" not in inputs:
        return
    name = _value(graph, inputs.get("lora_name"))
    if isinstance(name, str):
        model = inputs.get("strength_model", inputs.get("lora_model_strength"))
        clip = inputs.get("strength_clip", inputs.get("lora_clip_strength"))
        yield _use(graph, name, model if model is not None else inputs.get("strength", 1), clip)
    for key in list(inputs)[:1000]:  # stacks: lora_01 + strength_01, lora_name_1 + model_weight_1
        match = re.fullmatch(r"lora_(?:name_)?(\d{1,3})", key)
        if match is None or not isinstance(inputs[key], str):
            continue
        number = match[1]
        if str(inputs.get(f"switch_{number}", "On")).lower() == "off":
            continue
        for other in ("strength_", "model_weight_", "model_str_", "lora_wt_"):
            if other + number in inputs:
                yield _use(graph, inputs[key], inputs[other + number], None)
                break
    text = inputs.get("text")
    if isinstance(text, str) and "<lora:" in text:
        yield from (LoraUse(model_name(u.name), u.strength) for u in split_tags(text)[1])


def _use(graph: Graph, name: str, model: object, clip: object) -> LoraUse:
    strength, text = decimal(_value(graph, model)), decimal(_value(graph, clip))
    if strength is None and model is None:
        strength = Decimal(1)
    return LoraUse(model_name(name), strength, "", text if text != strength else None)


def _value(graph: Graph, value: object) -> object:
    """A plain value; where a link stands, what its node holds (a primitive, a seed node)."""
    for _ in range(16):
        node = _linked(graph, value)
        if node is None:
            return None if isinstance(value, (list, dict)) else value
        inputs = node["inputs"]
        keys = (
            *_NUMBER_INPUTS,
            *_TEXT_INPUTS,
            "sampler_name",
            "scheduler",
            *itertools.islice(inputs, 1),
        )
        value = next((inputs[key] for key in keys if key in inputs), None)
    return None


def _text(graph: Graph, link: object, role: str) -> str:
    """The prompt behind a conditioning link, through ControlNets, guidance nodes and the like.

    `role` is "positive" or "negative": nodes that pass both on name their inputs so.
    """
    if isinstance(link, str):
        return string(link)
    for inputs in _conditioning(graph, link, role):
        if isinstance(inputs.get(role), str):  # Efficient Loader and its kin hold the text
            return string(inputs[role])
        for key in _TEXT_INPUTS:
            value = _value(graph, inputs[key]) if key in inputs else None
            if isinstance(value, str):
                return string(value)
    return ""


def _conditioning(graph: Graph, link: object, role: str) -> Iterator[Mapping[str, Any]]:
    """The inputs of the nodes that a conditioning passed through, from the sampler back."""
    seen: set[int] = set()
    node = _linked(graph, link)
    while node is not None and id(node) not in seen and len(seen) < LONGEST_CHAIN:
        seen.add(id(node))
        if "zeroout" in node["class_type"].lower():
            return  # Flux's empty negative: what it blanks does not matter
        inputs = node["inputs"]
        yield inputs
        keys = (role, *_CONDITIONING_INPUTS)
        node = next((n for key in keys if (n := _linked(graph, inputs.get(key)))), None)


def _guidance(graph: Graph, link: object) -> str:
    """Flux's distilled guidance, where a node sets it."""
    for inputs in _conditioning(graph, link, "positive"):
        if "guidance" in inputs:
            return number_text(_value(graph, inputs["guidance"]))
    return ""


def _size(graph: Graph, link: object) -> str:
    """Width and height of the empty latent that sampling began with."""
    node = _linked(graph, link)
    if node is None:
        return ""
    for found in _upstream(graph, node):
        width = whole(_value(graph, found["inputs"].get("width")))
        height = whole(_value(graph, found["inputs"].get("height")))
        if width and height:
            return f"{width}x{height}"
    return ""
