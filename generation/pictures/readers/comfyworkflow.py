"""ComfyUI's graph as its user interface stores it ("workflow"), as the graph that is executed.

Facts from Comfy-Org/ComfyUI_frontend: `mode` 2 mutes a node and 4 bypasses it, which joins each of
its outputs to its first input of the same type; widgets stand in the node's own order without
names. Only the orders below are known: other nodes keep their links alone, and are marked as
`unnamed`, so that a value that is not there counts as unread and not as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from generation.pictures.readers.comfygraph import MOST_NODES, Graph, graph_of

_MUTED, _BYPASSED = 2, 4

_WIDGETS: Mapping[str, str] = {
    "KSampler": "seed control_after_generate steps cfg sampler_name scheduler denoise",
    "KSamplerAdvanced": "add_noise noise_seed control_after_generate steps cfg sampler_name "
    "scheduler start_at_step end_at_step return_with_leftover_noise",
    "LoraLoader": "lora_name strength_model strength_clip",
    "LoraLoaderModelOnly": "lora_name strength_model",
    "CR Load LoRA": "switch lora_name strength_model strength_clip",
    "CheckpointLoaderSimple": "ckpt_name",
    "UNETLoader": "unet_name weight_dtype",
    "UnetLoaderGGUF": "unet_name",
    "CLIPLoader": "clip_name type device",
    "DualCLIPLoader": "clip_name1 clip_name2 type device",
    "VAELoader": "vae_name",
    "CLIPTextEncode": "text",
    "CLIPSetLastLayer": "stop_at_clip_layer",
    "EmptyLatentImage": "width height batch_size",
    "EmptySD3LatentImage": "width height batch_size",
    "LatentUpscale": "upscale_method width height crop",
    "LatentUpscaleBy": "upscale_method scale_by",
    "FluxGuidance": "guidance",
    "BasicScheduler": "scheduler steps denoise",
    "KSamplerSelect": "sampler_name",
    "RandomNoise": "noise_seed control_after_generate",
    "CFGGuider": "cfg",
    "ModelSamplingFlux": "max_shift base_shift width height",
    "ModelSamplingSD3": "shift",
    "PrimitiveFloat": "value",
    "PrimitiveInt": "value control_after_generate",
    "PrimitiveNode": "value control_after_generate",
    "PrimitiveString": "value",
    "PrimitiveStringMultiline": "value",
    "ConditioningAverage": "conditioning_to_strength",
    "SaveImage": "filename_prefix",
}


def graph_of_workflow(data: object) -> Graph:
    """The API graph of a workflow, muted nodes left out and bypassed ones joined through."""
    nodes = data.get("nodes") if isinstance(data, dict) else None
    if not isinstance(nodes, list) or len(nodes) > MOST_NODES:
        return {}
    by_id = {str(n.get("id")): n for n in nodes if isinstance(n, dict) and "type" in n}
    origin = _origins(data.get("links") if isinstance(data, dict) else None)
    graph: dict[str, dict[str, Any]] = {}
    for key, node in by_id.items():
        if node.get("mode") in (_MUTED, _BYPASSED):
            continue
        widgets = _widgets(node)
        inputs = dict(widgets or {})
        for name, source in _inputs(node, origin):
            link = _through(source, by_id, origin)
            if link is not None:
                inputs[name] = link
        graph[key] = {
            "class_type": node["type"],
            "inputs": inputs,
            "_meta": {"title": node.get("title")},
            "unnamed": widgets is None,
        }
    return graph_of(graph)


def _origins(links: object) -> dict[object, tuple[str, int]]:
    """Link number -> (node, output) that it comes from."""
    origins: dict[object, tuple[str, int]] = {}
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict):
            link = [link.get("id"), link.get("origin_id"), link.get("origin_slot")]
        if isinstance(link, list) and len(link) >= 3 and isinstance(link[0], (int, str)):
            origins[link[0]] = (str(link[1]), link[2] if isinstance(link[2], int) else 0)
    return origins


def _inputs(
    node: Mapping[str, Any], origin: Mapping[object, tuple[str, int]]
) -> list[tuple[str, tuple[str, int]]]:
    """The connected inputs of a node with what they come from."""
    entries = node.get("inputs")
    return [
        (str(entry.get("name", "")), origin[entry["link"]])
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict)
        and isinstance(entry.get("link"), (int, str))
        and entry["link"] in origin
    ]


def _through(
    source: tuple[str, int],
    by_id: Mapping[str, Mapping[str, Any]],
    origin: Mapping[object, tuple[str, int]],
) -> list[Any] | None:
    """A link, followed through bypassed nodes; None if nothing arrives there."""
    for _ in range(500):
        node = by_id.get(source[0])
        if node is None or node.get("mode") != _BYPASSED:
            muted = node is not None and node.get("mode") == _MUTED
            return None if muted else [source[0], source[1]]
        outputs = node.get("outputs")
        try:
            wanted = outputs[source[1]]["type"] if isinstance(outputs, list) else None
        except (IndexError, KeyError, TypeError):
            return [source[0], source[1]]
        entries = node.get("inputs")
        following = next(
            (
                origin[entry["link"]]
                for entry in (entries if isinstance(entries, list) else [])
                if isinstance(entry, dict)
                and entry.get("type") == wanted
                and isinstance(entry.get("link"), (int, str))
                and entry["link"] in origin
            ),
            None,
        )
        if following is None:
            return None
        source = following
    return None


def _widgets(node: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values of a node's widgets by name, None where their order is not known."""
    values = node.get("widgets_values")
    if isinstance(values, dict):
        return dict(list(values.items())[:1000])
    names = _WIDGETS.get(str(node["type"]), "").split()
    if not values:
        return None if names else {}
    if not isinstance(values, list) or len(values) > len(names):
        return None
    named = dict(zip(names, values, strict=False))
    control = named.pop("control_after_generate", "fixed")
    if control not in _CONTROLS and not isinstance(control, bool):  # a switch in early versions
        return None
    return {name: value for name, value in named.items() if not isinstance(value, list)}


_CONTROLS = ("fixed", "increment", "decrement", "randomize")
