"""What a ComfyUI graph sets beside its prompts: sampler, steps, guidance, model and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from generation.pictures.readers import comfynodes as known
from generation.pictures.readers.comfygraph import (
    LONGEST_CHAIN,
    UNREAD,
    Graph,
    Node,
    chosen,
    constant,
    is_link,
    linked,
    upstream,
)
from generation.pictures.readers.values import (
    model_name,
    number_text,
    shortened,
    whole,
)

SAMPLING = ("steps", "cfg", "sampler_name", "scheduler", "denoise")
_CHECKPOINTS = ("ckpt_name", "unet_name", "model_name", "base_ckpt_name", "model_path", "gguf_name")
_MODEL_FILE = (".safetensors", ".ckpt", ".gguf", ".sft", ".pt", ".pth", ".bin")


def is_sampler(node: Node) -> bool:
    """Known samplers, and unknown nodes that take what samplers take."""
    if node["class_type"] in known.SAMPLERS:
        return True
    inputs = node["inputs"]
    if "sampler" in node["class_type"].lower() and "latent_image" in inputs:
        return True
    return "positive" in inputs and "model" in inputs and ("seed" in inputs or "steps" in inputs)


def gathered(graph: Graph, sampler: Node) -> dict[str, Any]:
    """A sampler's inputs, with those of the guider, noise, sigmas and sampler nodes it is split
    into by SamplerCustomAdvanced, and of a pipe."""
    inputs = dict(sampler["inputs"])
    unnamed = bool(sampler.get("unnamed"))
    for part in ("guider", "noise", "sigmas", "sampler", "basic_pipe"):
        node = _source(graph, inputs.get(part))
        for _ in range(8):
            if node is None or node["class_type"] not in (
                known.GUIDERS | known.SCHEDULES | {"ToBasicPipe", "EditBasicPipe"}
            ):
                if node is not None and part in ("guider", "basic_pipe"):
                    inputs.setdefault("model", sampler["inputs"][part])
                    inputs.setdefault("positive", sampler["inputs"][part])
                break
            unnamed = unnamed or bool(node.get("unnamed"))
            for key, value in node["inputs"].items():
                key = {"conditioning": "positive", "cond1": "positive"}.get(key, key)
                if key == "model" and part not in ("guider", "basic_pipe"):
                    continue  # a schedule reads the model, it does not sample it
                inputs.setdefault(key, value)
            node = _source(graph, node["inputs"].get("sigmas", node["inputs"].get("basic_pipe")))
    unread = {"seed", *SAMPLING} if unnamed else set()
    for part, key in (("noise", "seed"), ("sigmas", "steps"), ("sampler", "sampler_name")):
        node = _source(graph, inputs.get(part))
        if is_link(inputs.get(part)) and (
            node is None or node["class_type"] not in known.SCHEDULES
        ):
            unread.add(key)  # a node that is not known gives it
    if is_link(inputs.get("noise_opt")):  # noise of another node's making: the own seed is stale
        inputs["seed"] = ["", 0]
    if "noise_seed" in inputs:
        unread.discard("seed")
    for key in unread:
        inputs.setdefault(key, ["", 0])
    return inputs


def further_settings(graph: Graph, sampler: Node) -> list[str]:
    """What else decides how a sampler works: steps it begins and ends at, where its noise is drawn,
    and the samplers and schedules that are nodes of their own."""
    inputs = {key: value for key, value in sampler["inputs"].items() if key not in _NOT_FURTHER}
    own = plain_values({"class_type": "", "inputs": inputs})
    found = [own] if own else []
    for part in ("sampler", "sigmas"):
        node = _source(graph, sampler["inputs"].get(part))
        for _ in range(8):
            if node is None or node["class_type"] not in known.SCHEDULES:
                break
            if node["class_type"] not in ("BasicScheduler", "KSamplerSelect"):
                found.append(plain_values(node))
            node = _source(graph, node["inputs"].get("sigmas"))
    return found


_NOT_FURTHER = frozenset(
    (*SAMPLING, "seed", "noise_seed", "control_after_generate", "preview_method", "vae_decode")
) | {"image_output", "save_prefix", "link_id", "wildcard"}


def _source(graph: Graph, link: object) -> Node | None:
    """The node that a link comes from, through reroutes and switches that can be read."""
    node = linked(graph, link)
    for _ in range(32):
        if node is None or node["class_type"] not in known.CHOOSERS - known.PIPES:
            return node
        node = linked(graph, chosen(graph, node))
    return None


def plain_values(node: Node) -> str:
    """A node's class and plain values: two nodes of one text do the same."""
    values = [
        f"{key} {value}"
        for key, value in sorted(node["inputs"].items())
        if not isinstance(value, (list, dict)) and key not in ("text", "text_g", "text_l", "clip_l")
        and not (isinstance(value, str) and len(value) > 100)
    ]  # fmt: skip
    return f"{node['class_type'][:60]} {shortened(' '.join(values))}".strip()


def model_of(graph: Graph, inputs: Mapping[str, Any]) -> str:
    """The file of the checkpoint or denoiser that a loader names, "" where it names none."""
    for key in _CHECKPOINTS:
        value = inputs.get(key)
        if isinstance(value, dict):  # pysssss: {"content": ..., "image": ...}
            value = value.get("content")
        if isinstance(text := constant(graph, value), str):
            return model_name(text)
    return ""


def guidance_of(graph: Graph, link: object) -> str:
    """Flux's distilled guidance, where a node sets it."""
    node, seen = linked(graph, link), set[int]()
    while node is not None and id(node) not in seen and len(seen) < LONGEST_CHAIN:
        seen.add(id(node))
        inputs = node["inputs"]
        if "guidance" in inputs:
            value = constant(graph, inputs["guidance"])
            return "" if value is UNREAD else number_text(value)
        keys = ("conditioning", "positive", "conditioning_to", "conditioning_1", "")
        node = next((n for key in keys if (n := linked(graph, inputs.get(key)))), None)
    return ""


def latent_size(graph: Graph, link: object) -> str:
    """Width and height of the empty latent that sampling began with."""
    node = linked(graph, link)
    if node is None:
        return ""
    for found in upstream(graph, node):
        inputs = found["inputs"]
        for across, down in (("width", "height"), ("empty_latent_width", "empty_latent_height")):
            width = whole(_or_none(constant(graph, inputs.get(across))))
            height = whole(_or_none(constant(graph, inputs.get(down))))
            if width and height:
                return f"{width}x{height}"
    return ""


def _or_none(value: object) -> object:
    return None if value is UNREAD else value


def size_saved(graph: Graph, end: Node) -> tuple[int, int] | None:
    """The size of the picture that an end saves, None where a node changes it in an unknown way."""
    scales: list[tuple[float, bool]] = []
    node: Node | None = end
    seen: set[int] = set()
    while node is not None and id(node) not in seen and len(seen) < LONGEST_CHAIN:
        seen.add(id(node))
        kind, inputs = node["class_type"], node["inputs"]
        if kind in _RESIZES:
            width, height = (
                whole(_or_none(constant(graph, inputs.get(k)))) for k in ("width", "height")
            )
            return _scaled(width, height, scales)
        if kind in _SCALES:
            scale = constant(graph, inputs.get("scale_by"))
            if isinstance(scale, bool) or not isinstance(scale, (int, float)):
                return None
            scales.append((float(scale), kind.startswith("Latent")))
        elif node is not end and kind not in _KEEP_SIZE and not is_sampler(node):
            return None
        keys = ("images", "image", "samples", "latent_image", "pixels", "")
        node = next((n for key in keys if (n := linked(graph, inputs.get(key)))), None)
    return None


_RESIZES = frozenset(
    ("EmptyLatentImage", "EmptySD3LatentImage", "EmptyFlux2LatentImage", "LatentUpscale")
) | {"ImageScale"}
_SCALES = frozenset(("LatentUpscaleBy", "ImageScaleBy"))
_KEEP_SIZE = frozenset(
    ("VAEDecode", "VAEDecodeTiled", "VAEEncode", "VAEEncodeTiled", "ImageSharpen", "ImageBlur")
) | {"Reroute", "SetLatentNoiseMask", "RepeatLatentBatch", "LatentFromBatch"}


def _scaled(
    width: int | None, height: int | None, scales: Sequence[tuple[float, bool]]
) -> tuple[int, int] | None:
    if not width or not height:
        return None
    for scale, latent in reversed(scales):
        if latent:
            width, height = round(width / 8 * scale) * 8, round(height / 8 * scale) * 8
        else:
            width, height = round(width * scale), round(height * scale)
    return width, height
