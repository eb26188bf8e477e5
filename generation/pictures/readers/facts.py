"""Which interface wrote a picture's texts, and so what they say."""

from __future__ import annotations

from collections.abc import Mapping

from generation.pictures.readers.comfyui import comfyui
from generation.pictures.readers.metadata import (
    a1111,
    dgenerate,
    invokeai,
    invokeai_graph,
    kohya_gen_img,
    load_json,
    swarmui,
    with_own_cell,
)
from generation.pictures.readers.picture import Facts


def facts_from_texts(texts: Mapping[str, str]) -> Facts | None:
    """The facts in a picture's texts (`images.read_text`), None where no known format is found.

    Tried in this order: SwarmUI, InvokeAI, dgenerate, ComfyUI, A1111 and its kin, kohya gen_img.
    A graph that holds no sampler gives way to an A1111 text beside it. Never raises.
    """
    plain = texts.get("parameters") or texts.get("UserComment") or texts.get("comment") or ""
    facts = None
    if '"sui_image_params"' in plain:
        facts = swarmui(plain)
    if facts is None and "invokeai_metadata" in texts:
        facts = invokeai(texts["invokeai_metadata"])
    if facts is None and "invokeai_graph" in texts:
        facts = invokeai_graph(texts["invokeai_graph"])
    if facts is None and "DgenerateConfig" in texts:
        facts = dgenerate(texts["DgenerateConfig"])
    if facts is None and texts.get("prompt", "").lstrip().startswith("{"):
        facts = comfyui(texts["prompt"])
    # A prompt may begin with a brace as well ("{red|blue} castle"), JSON is JSON to its end.
    is_json = plain.lstrip().startswith("{") and isinstance(load_json(plain), dict)
    if facts is None and plain and not is_json:
        facts = a1111(plain)
        own = load_json(texts.get("lora_analysers", ""))
        if facts is not None and isinstance(own, dict):
            facts = with_own_cell(facts, own)
    if facts is None and "--inference-steps" in plain:  # dgenerate's user comment in JPEG
        facts = dgenerate(plain)
    if facts is None and "prompt" in texts and ("sampler" in texts or "scale" in texts):
        facts = kohya_gen_img(texts)
    return facts
