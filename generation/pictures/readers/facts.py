"""Which interfaces wrote a picture's texts, what they say, and whether they agree."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from generation.pictures.readers.a1111 import a1111, with_own_cell
from generation.pictures.readers.comfyui import comfyui, comfyui_data, comfyui_workflow
from generation.pictures.readers.metadata import (
    dgenerate,
    invokeai,
    invokeai_graph,
    kohya_gen_img,
    swarmui,
)
from generation.pictures.readers.others import (
    easy_diffusion,
    from_json,
    json_in_xmp,
    novelai,
    unread_tool,
)
from generation.pictures.readers.picture import Facts
from generation.pictures.readers.traces import hints_at_lora, speaks_of_lora
from generation.pictures.readers.values import load_json

_ORDER = ("SwarmUI", "InvokeAI", "dgenerate", "ComfyUI")
"""Whose word counts first; the others follow in the order of `_PLAIN`."""

_PLAIN = ("parameters", "UserComment", "comment", "Comment", "Description", "ImageDescription")
"""Texts that any interface may have written, in the order in which they are believed."""

_XMP = ("XML:com.adobe.xmp", "xmp", "XMP")
_OURS = ("lora_analysers", "cut_from")

_QUOTED = re.compile(r'"([^"\s]{1,80})"')

Size = tuple[int, int]


def facts_from_texts(texts: Mapping[str, str], size: Size | None = None) -> Facts | None:
    """The facts in a picture's texts (`pixels.read_text`), None where no known format is found.

    All texts are read. The first in the order SwarmUI, InvokeAI, dgenerate, ComfyUI, other JSON,
    A1111, kohya gen_img tells the facts; where another contradicts it, or a text that is not
    understood speaks of a LoRA, `unknown` says so. `size` is the picture's, in pixels.
    """
    found, read = _all_facts(texts, size)
    if not found:
        tool = unread_tool(texts)
        if tool:
            return Facts(tool, unknown=f"was made by {tool}, whose text is not read")
        trace = _trace(texts, read)
        return Facts("text", unknown=trace) if trace else None
    facts = found[0]
    problem = facts.unknown
    for other in found[1:]:
        problem = problem or other.unknown or _contradiction(facts, other)
    vague = next((use.name for use in facts.loras if use.strength is None), None)
    if vague is not None:
        problem = problem or f"does not tell the strength of {vague[:60]!r}"
    if not problem and not (facts.loras and facts.source != "ComfyUI"):
        problem = _trace(texts, read)
    own = load_json(texts.get("lora_analysers", ""))
    if isinstance(own, dict) and facts.source == "A1111":
        facts = with_own_cell(facts, own)
    return replace(facts, unknown=problem)


def _all_facts(texts: Mapping[str, str], size: Size | None) -> tuple[list[Facts], set[str]]:
    """The facts of every text that is understood, most believed first, and the texts' names."""
    found: list[tuple[str, Facts | None]] = []
    if "NovelAI" in texts.get("Software", "") or texts.get("Title") == "NovelAI generated image":
        data = load_json(texts.get("Comment", ""))
        about = (texts.get("Description", ""), texts.get("Source", "")[:200])
        facts = novelai(data, *about) if isinstance(data, dict) else None
        facts = facts or Facts("NovelAI", unknown="was made by NovelAI, and its text is damaged")
        return [facts], {"Comment", "Description", "Source", "Title", "Software"}
    for key in _PLAIN:
        if texts.get(key):
            found.append((key, _plain(texts[key], size)))
    for key in _XMP:
        data = json_in_xmp(texts.get(key, ""))
        if data is not None:
            found.append((key, from_json(data)))
    if "invokeai_metadata" in texts:
        found.append(("invokeai_metadata", invokeai(texts["invokeai_metadata"])))
    if "invokeai_graph" in texts:
        drawn = invokeai_graph(texts["invokeai_graph"])
        if drawn is not None and _told(found, "invokeai_metadata"):
            drawn = replace(drawn, seed=None)  # the metadata tell it; of LoRAs both must agree
        found.append(("invokeai_graph", drawn))
    if "DgenerateConfig" in texts:
        found.append(("DgenerateConfig", dgenerate(texts["DgenerateConfig"])))
    if texts.get("prompt", "").lstrip().startswith("{"):
        found.append(("prompt", comfyui(texts["prompt"], size)))
    if "workflow" in texts and not _told(found, "prompt"):
        found.append(("workflow", comfyui_workflow(texts["workflow"], size)))
    if "num_inference_steps" in texts and "prompt" in texts:
        found.append(("prompt", easy_diffusion(texts)))
        found += [(key, None) for key in ("use_lora_model", "lora_alpha")]
    elif "prompt" in texts and not _told(found, "prompt") and {"sampler", "scale"} & set(texts):
        found.append(("prompt", kohya_gen_img(texts)))
    told = [facts for _, facts in found if facts is not None]
    order = {source: number for number, source in enumerate(_ORDER)}
    told.sort(key=lambda facts: order.get(facts.source, len(order)))
    read = {key for key, facts in found if facts is not None}
    if "prompt" in read:
        read |= {"workflow", "use_lora_model", "lora_alpha"}
    if "invokeai_metadata" in read:
        read |= {"invokeai_graph", "invokeai_workflow"}
    return told, read


def _told(found: list[tuple[str, Facts | None]], key: str) -> bool:
    return any(name == key and facts is not None for name, facts in found)


def _plain(text: str, size: Size | None) -> Facts | None:
    """The facts of a text that may be JSON, A1111's or dgenerate's."""
    # A prompt may begin with a brace as well ("{red|blue} castle"), JSON is JSON to its end.
    data = load_json(text) if text.lstrip().startswith("{") else None
    if isinstance(data, dict):
        if "sui_image_params" in data:
            return swarmui(text)
        graph = data.get("prompt")
        graph = load_json(graph) if isinstance(graph, str) and graph[:1] == "{" else graph
        for candidate in (data, graph):
            if isinstance(candidate, dict) and (facts := comfyui_data(candidate, size)) is not None:
                return facts
        if isinstance(data.get("workflow"), dict):
            facts = comfyui_workflow(text, size)
            if facts is not None:
                return facts
        if "positive_prompt" in data and "loras" in data:
            return invokeai(text)
        return from_json(data)
    facts = a1111(text)
    if facts is None and "--inference-steps" in text:
        return dgenerate(text)
    return facts


def _contradiction(facts: Facts, other: Facts) -> str:
    """In what another text of the same picture contradicts, "" if it does not."""
    if facts.seed is not None and other.seed is not None and facts.seed != other.seed:
        passes = facts.settings.get("passes", "") + other.settings.get("passes", "")
        if not re.search(rf"seed (?:{facts.seed}|{other.seed})\b", passes):
            return f"tells two seeds, {facts.seed} ({facts.source}) and {other.seed}"
    if not other.loras:
        return ""
    told = {use.name.lower(): use for use in facts.loras}
    for use in other.loras:
        ours = told.get(use.name.lower())
        alike = next((one for one in facts.loras if one.hash and one.hash == use.hash), None)
        ours = ours or alike
        if ours is None:
            return f"has a LoRA {use.name[:60]!r} in its {other.source} text alone"
        if use.strength is not None and use.strength not in (ours.strength, ours.text_strength):
            return f"tells two strengths of {use.name[:60]!r}"
    if len(other.loras) < len(facts.loras):
        return f"has more LoRAs in its {facts.source} text than in another"
    return ""


def _trace(texts: Mapping[str, str], read: set[str]) -> str:
    """A text that speaks of a LoRA and that nothing here understands."""
    for key, text in texts.items():
        if key in read or key in _OURS:
            continue
        text = text[: 1 << 20]
        named = text[:1] in "{[" and any(hints_at_lora(word) for word in _QUOTED.findall(text))
        if named or hints_at_lora(key) or speaks_of_lora(text):
            return f"has a text {key[:60]!r} that speaks of a LoRA and is not understood"
    return ""
