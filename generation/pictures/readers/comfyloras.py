"""ComfyUI's nodes that add LoRAs: which of their fields name the files and hold the strengths.

From the nodes' own sources: ComfyUI nodes.py; jags111/efficiency-nodes-comfyui efficiency_nodes.py;
Suzie1/ComfyUI_Comfyroll_CustomNodes nodes_lora.py; rgthree/rgthree-comfy power_lora_loader.py,
lora_stack.py, power_prompt.py; yolain/ComfyUI-Easy-Use loaders.py, adapter.py;
willmiao/ComfyUI-Lora-Manager nodes; ltdrdata's Impact and Inspire packs; WAS; pysssss;
TinyTerra/ComfyUI_tinyterraNodes; nunchaku; badjeff/comfyui_lora_tag_loader. Any other node that
speaks of LoRAs is not read: nothing is guessed from the look of its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from generation.pictures.readers.comfygraph import UNREAD, Graph, Node, constant, switched_on
from generation.pictures.readers.tags import parse_tags
from generation.pictures.readers.traces import TAG
from generation.pictures.readers.values import MOST_LORAS, decimal, model_name


@dataclass(frozen=True)
class Row:
    """One LoRA of a node: strengths are None where they cannot be read.

    `clip` is "same" where the node gives the text encoder the model's strength, and "none" where it
    leaves the text encoder alone. `parts` says which blocks it is weighed by, if it is.
    """

    name: str
    model: Decimal | None
    clip: Decimal | str | None = "same"
    parts: str = ""


class NotRead(Exception):
    """Why a node's LoRAs cannot be read."""


Reader = Callable[[Graph, Node], Iterator[Row]]


def rows(graph: Graph, node: Node) -> list[Row] | None:
    """The LoRAs that a node adds, switched-off ones and strengths of 0 included as the latter.

    None if the node is not known to add any. Raises NotRead.
    """
    reader = READERS.get(node["class_type"])
    if reader is None:
        return None
    if node.get("unnamed"):
        raise NotRead("has fields in an order that is not known")
    found = []
    for row in reader(graph, node):
        found.append(row)
        if len(found) > MOST_LORAS:
            raise NotRead("holds more LoRAs than are read")
    return found


def _row(
    graph: Graph, name: object, model: object, clip: object = "same", parts: str = ""
) -> Iterator[Row]:
    """One row from raw inputs; none for a name of "None"."""
    if isinstance(name, dict):  # pysssss: {"content": ..., "image": ...}
        name = name.get("content", UNREAD)
    name = constant(graph, name)
    if name is None or name in ("None", "none", "", "[none]"):
        return
    if not isinstance(name, str):
        raise NotRead("does not tell which LoRA it loads")
    if clip not in ("same", "none"):
        clip = decimal(constant(graph, clip))
    yield Row(
        model_name(name),
        decimal(constant(graph, model)),
        clip if isinstance(clip, (str, Decimal)) else None,
        parts,
    )


@dataclass(frozen=True)
class Single:
    """A node with one LoRA: the inputs that hold its name, its strengths ("" where it leaves the
    text encoder alone) and whether it is on ("" where it always is)."""

    model: str = "strength_model"
    clip: str = "strength_clip"
    name: str = "lora_name"
    switch: str = ""

    def __call__(self, graph: Graph, node: Node) -> Iterator[Row]:
        inputs = node["inputs"]
        if self.switch:
            state = switched_on(constant(graph, inputs.get(self.switch, UNREAD)))
            if state is None:
                raise NotRead(f'has a switch "{self.switch}" that cannot be read')
            if not state:
                return
        named, model = inputs.get(self.name, UNREAD), inputs.get(self.model, UNREAD)
        without = not self.clip or "clip" not in inputs
        yield from _row(graph, named, model, "none" if without else inputs.get(self.clip, UNREAD))


def _block_weights(graph: Graph, node: Node) -> Iterator[Row]:
    """Inspire's loader: one strength, weighed by a vector of blocks; seed, A, B fill letters."""
    inputs = node["inputs"]
    state = switched_on(constant(graph, inputs.get("bypass", False)))
    if state is None:
        raise NotRead('has a switch "bypass" that cannot be read')
    if state:
        return
    keys = ("block_vector", "inverse", "A", "B", "seed")
    values = [constant(graph, inputs.get(key)) for key in keys]
    if any(value is UNREAD for value in values):
        raise NotRead("weighs blocks in a way that cannot be read")
    parts = " ".join(str(value) for value in values)
    if "R" in parts.upper().split(" ")[0] or "U" in parts.upper().split(" ")[0]:
        parts += " random"
    of_clip = inputs.get("strength_clip", UNREAD)
    name, model = inputs.get("lora_name", UNREAD), inputs.get("strength_model", UNREAD)
    yield from _row(graph, name, model, of_clip, parts[:200])


def _count(graph: Graph, node: Node, key: str) -> int:
    number = constant(graph, node["inputs"].get(key, UNREAD))
    if isinstance(number, bool) or not isinstance(number, (int, float)) or number != int(number):
        raise NotRead(f'does not tell how many rows count ("{key}")')
    return min(int(number), MOST_LORAS + 1)


def _mode(graph: Graph, node: Node, key: str) -> str:
    mode = constant(graph, node["inputs"].get(key, UNREAD))
    if mode not in ("simple", "advanced"):
        raise NotRead(f'has a mode "{key}" that is neither simple nor advanced')
    return str(mode)


def _efficiency_stacker(graph: Graph, node: Node) -> Iterator[Row]:
    """Rows beyond lora_count are stale; the mode says which strengths count."""
    inputs, mode = node["inputs"], _mode(graph, node, "input_mode")
    for i in range(1, _count(graph, node, "lora_count") + 1):
        name = inputs.get(f"lora_name_{i}", UNREAD)
        if mode == "simple":
            yield from _row(graph, name, inputs.get(f"lora_wt_{i}", UNREAD))
        else:
            model, clip = (inputs.get(f"{part}_str_{i}", UNREAD) for part in ("model", "clip"))
            yield from _row(graph, name, model, clip)


def _easy_stack(graph: Graph, node: Node) -> Iterator[Row]:
    if not _toggled(graph, node):
        return
    inputs, mode = node["inputs"], _mode(graph, node, "mode")
    for i in range(1, _count(graph, node, "num_loras") + 1):
        name = inputs.get(f"lora_{i}_name", "None")
        if mode == "simple":
            yield from _row(graph, name, inputs.get(f"lora_{i}_strength", UNREAD))
        else:
            model, clip = (
                inputs.get(f"lora_{i}_{part}_strength", UNREAD) for part in ("model", "clip")
            )
            yield from _row(graph, name, model, clip)


def _easy_switcher(graph: Graph, node: Node) -> Iterator[Row]:
    if not _toggled(graph, node):
        return
    inputs = node["inputs"]
    name = inputs.get(f"lora_{_count(graph, node, 'select')}_name", "None")
    yield from _row(graph, name, inputs.get("lora_strength", UNREAD))


def _toggled(graph: Graph, node: Node) -> bool:
    state = switched_on(constant(graph, node["inputs"].get("toggle", UNREAD)))
    if state is None:
        raise NotRead('has a switch "toggle" that cannot be read')
    return state


def _comfyroll_stack(graph: Graph, node: Node) -> Iterator[Row]:
    inputs = node["inputs"]
    for i in (1, 2, 3):
        name = inputs.get(f"lora_name_{i}", UNREAD)
        state = switched_on(constant(graph, inputs.get(f"switch_{i}", UNREAD)))
        if state is None and name != "None":
            raise NotRead(f'has a switch "switch_{i}" that cannot be read')
        if state:
            model, clip = (inputs.get(f"{part}_weight_{i}", UNREAD) for part in ("model", "clip"))
            yield from _row(graph, name, model, clip)


def _rgthree_stack(graph: Graph, node: Node) -> Iterator[Row]:
    inputs = node["inputs"]
    if "lora_01" not in inputs:
        raise NotRead("does not tell which LoRA it loads")
    for i in ("01", "02", "03", "04"):
        model = inputs.get(f"strength_{i}", UNREAD)
        yield from _row(graph, inputs.get(f"lora_{i}", "None"), model)


def _power_loader(graph: Graph, node: Node) -> Iterator[Row]:
    """One object a row: {"on", "lora", "strength", "strengthTwo"}."""
    for key, value in list(node["inputs"].items())[:1000]:
        if not key.upper().startswith("LORA_"):
            continue
        if not isinstance(value, dict) or not isinstance(value.get("on"), bool):
            raise NotRead(f'has a row "{key}" that cannot be read')
        if not value["on"]:
            continue
        two = value.get("strengthTwo")
        clip: object = "same" if two is None else two
        if "clip" not in node["inputs"]:
            clip = "none"
        yield from _row(graph, value.get("lora", UNREAD), value.get("strength", UNREAD), clip)


def _manager_list(graph: Graph, node: Node) -> Iterator[Row]:
    """LoRA Manager's list; its text is for the eye only, but never holds a LoRA beside no list."""
    listed = node["inputs"].get("loras", UNREAD)
    if isinstance(listed, dict):
        listed = listed.get("__value__", UNREAD)
    text = node["inputs"].get("text", "")
    if not isinstance(listed, list) or (not listed and isinstance(text, str) and TAG.search(text)):
        raise NotRead("has a list of LoRAs that cannot be read")
    for entry in listed[: MOST_LORAS + 1]:
        if not isinstance(entry, dict) or not isinstance(entry.get("active", False), bool):
            raise NotRead("has a list of LoRAs that cannot be read")
        if not entry.get("active", False):
            continue
        clip = entry.get("clipStrength")
        yield from _row(
            graph,
            entry.get("name", UNREAD),
            entry.get("strength", UNREAD),
            "same" if clip is None else clip,
        )


def _tags(*keys: str) -> Reader:
    """Tags in a text; ComfyUI's packs write the model's strength first, A1111 the other."""

    def read(graph: Graph, node: Node) -> Iterator[Row]:
        if not any(key in node["inputs"] for key in keys):
            raise NotRead("has no text that can be read")
        for key in keys:
            text = node["inputs"].get(key, "")
            text = constant(graph, text)
            if text is None or text == "":
                continue
            if not isinstance(text, str):
                raise NotRead(f'has a text "{key}" that cannot be read')
            for tag in parse_tags(text):
                if tag.problem:
                    raise NotRead(tag.problem)
                clip: Decimal | str = "same" if tag.second is None else tag.second
                yield Row(model_name(tag.name), tag.first, clip, tag.parts)

    return read


def _wildcards(graph: Graph, node: Node) -> Iterator[Row]:
    """Impact's encoder loads the tags of the text that was populated from the wildcards."""
    populated = constant(graph, node["inputs"].get("populated_text", UNREAD))
    written = constant(graph, node["inputs"].get("wildcard_text", ""))
    if not isinstance(populated, str):
        raise NotRead("has a text that cannot be read")
    if isinstance(written, str) and written.strip() and not populated.strip():
        raise NotRead("does not tell its populated text")
    if "__" in populated or ("{" in populated and "|" in populated):
        raise NotRead("has wildcards in its populated text")
    yield from _tags("populated_text")(graph, node)


def _power_prompt(graph: Graph, node: Node) -> Iterator[Row]:
    """rgthree's prompt loads its tags if model and clip are connected, unless it is told not to."""
    inputs = node["inputs"]
    if inputs.get("insert_lora") == "DISABLE LORAS":
        return
    if "opt_model" in inputs and "opt_clip" in inputs:
        yield from _tags("prompt")(graph, node)


def _none(graph: Graph, node: Node) -> Iterator[Row]:
    return iter(())


def _efficient_loader(graph: Graph, node: Node) -> Iterator[Row]:
    inputs = node["inputs"]
    clip = inputs.get("lora_clip_strength", UNREAD)
    model = inputs.get("lora_model_strength", UNREAD)
    yield from _row(graph, inputs.get("lora_name", UNREAD), model, clip)


def _easy_loader(graph: Graph, node: Node) -> Iterator[Row]:
    """Easy-Use's loaders: a LoRA of their own, and tags in both prompts."""
    yield from _efficient_loader(graph, node)
    for key in ("positive", "negative"):
        text = constant(graph, node["inputs"].get(key, ""))
        if isinstance(text, str) and ("__" in text or ("{" in text and "|" in text)):
            raise NotRead(f"has wildcards in its {key} prompt")
    yield from _tags("positive", "negative")(graph, node)


READERS: Mapping[str, Reader] = {
    "LoraLoader": Single(),
    "LoraLoader|pysssss": Single(),
    "Load Lora": Single(),
    "Lora Loader": Single(),
    "LoadLoraByName": Single(),
    "CR Load LoRA": Single(switch="switch"),
    "LoraLoaderModelOnly": Single(clip=""),
    "LoadLoraModelOnlyByName": Single(clip=""),
    "NunchakuFluxLoraLoader": Single("lora_strength", ""),
    "NunchakuQwenImageLoraLoader": Single("lora_strength", ""),
    "FluxLoraLoader": Single(clip=""),
    "LoraLoaderBlockWeight //Inspire": _block_weights,
    "LoRA Stacker": _efficiency_stacker,
    "easy loraStack": _easy_stack,
    "easy loraSwitcher": _easy_switcher,
    "CR LoRA Stack": _comfyroll_stack,
    "Lora Loader Stack (rgthree)": _rgthree_stack,
    "Power Lora Loader (rgthree)": _power_loader,
    "Lora Loader (LoraManager)": _manager_list,
    "Lora Stacker (LoraManager)": _manager_list,
    "LoRA Text Loader (LoraManager)": _tags("lora_syntax"),
    "LoraTagLoader": _tags("text"),
    "LoadLoraTag": _tags("text"),
    "ImpactWildcardEncode": _wildcards,
    "Power Prompt (rgthree)": _power_prompt,
    "CR Apply LoRA Stack": _none,
    "Apply LoRA Stack": _none,
    "easy loraStackApply": _none,
    "Efficient Loader": _efficient_loader,
    "Eff. Loader SDXL": _none,
    "easy fullLoader": _easy_loader,
    "easy a1111Loader": _easy_loader,
    "easy comfyLoader": _easy_loader,
}

STACKS = ("lora_stack", "optional_lora_stack")
"""Inputs at which a stack of further LoRAs arrives."""

LOADERS = frozenset(
    ("Efficient Loader", "Eff. Loader SDXL", "easy fullLoader", "easy a1111Loader")
) | {"easy comfyLoader"}
"""Nodes that load the checkpoint as well, and hold the prompts."""

ENCODING: Mapping[str, tuple[int, str]] = {
    "ImpactWildcardEncode": (2, "populated_text"),
    "Power Prompt (rgthree)": (0, "prompt"),
}
"""Nodes that also encode a prompt: the output it comes out of, and the input that holds it."""
