"""A user's workflow as a template: where the LoRA, the prompts, the seed and the size stand in it.

A workflow is ComfyUI's API format (Workflow > Export (API)): nodes with inputs that are values or
links. What is looked for is found along the links from the saved picture up, by the knowledge of
nodes that reads pictures' metadata (`generation.pictures.readers`). Where several things could be
meant it is refused, and a mark decides: a node titled "@lora", "@prompt", "@negative", "@seed",
"@size" or "@picture", or `--set NODE.INPUT=@prompt` (also @width, @height, @strength,
@strength_clip); NODE is a node's number or title.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from generation.cells import Cell
from generation.errors import UserError, named
from generation.files import read_file
from generation.pictures.readers import comfynodes as known
from generation.pictures.readers.comfygraph import (
    LONGEST_CHAIN,
    Graph,
    Node,
    chosen,
    graph_of,
    is_link,
    linked,
    links,
    upstream,
)
from generation.pictures.readers.comfygraph import named as called
from generation.pictures.readers.comfyloras import LOADERS, READERS, Single
from generation.pictures.readers.comfysettings import gathered, is_sampler
from generation.pictures.readers.comfyui import ends

ROLES = ("lora", "strength", "strength_clip", "prompt", "negative", "seed", "width", "height")
MARKS = ("@lora", "@prompt", "@negative", "@seed", "@size", "@picture")

_POWER = "Power Lora Loader (rgthree)"
_NO_TEXTS = ("system_prompt",)


@dataclass(frozen=True)
class Place:
    """An input of a node."""

    node: str
    key: str


@dataclass(frozen=True)
class LoraPlace:
    """Where the LoRA under study is loaded. `row` is its row in a Power Lora Loader.

    `off` is how it is left out of a control: "bypass" (what used its outputs is joined to its
    inputs), "row" (switched off) or "name" (a loader that is told "None").
    """

    node: str
    name: str
    model: str
    clip: str = ""
    row: str = ""
    off: str = "bypass"


@dataclass(frozen=True)
class Workflow:
    """A graph that paints one picture (by its node `picture`), and where its cell is written.

    `found` says in words where everything stands; `kept` are values of the workflow itself.
    """

    graph: Graph
    picture: str
    lora: LoraPlace
    prompt: tuple[Place, ...]
    negative: tuple[Place, ...] = ()
    seed: tuple[Place, ...] = ()
    sizes: Mapping[str, tuple[Place, ...]] | None = None
    sampling: Mapping[str, Place] | None = None
    found: tuple[str, ...] = ()

    def text(self, places: Sequence[Place]) -> str:
        """What the workflow itself holds there."""
        texts = [self.graph[place.node]["inputs"].get(place.key) for place in places]
        return next((text for text in texts if isinstance(text, str) and text.strip()), "")

    def value(self, places: Sequence[Place]) -> Any:
        return self.graph[places[0].node]["inputs"].get(places[0].key) if places else None

    def painted(
        self, cell: Cell, lora: str, factors: Mapping[str, Decimal] | None = None
    ) -> dict[str, Any]:
        """The graph that paints the cell. `lora` is the file as the server names it, `factors`
        multiply the strength in the "model" and the "clip"."""
        graph: dict[str, Any] = copy.deepcopy(dict(self.graph))
        for places, value in (
            (self.prompt, cell.case.prompt),
            (self.negative, cell.case.negative),
            (self.seed, cell.case.seed),
        ):
            for place in places:
                graph[place.node]["inputs"][place.key] = value
        if cell.is_control:
            return without(graph, self.lora)
        inputs = graph[self.lora.node]["inputs"]
        holder = inputs[self.lora.row] if self.lora.row else inputs
        factors = factors or {}
        holder[self.lora.name] = lora
        if self.lora.row:
            holder["on"] = True
        for part, key in (("model", self.lora.model), ("clip", self.lora.clip)):
            if key:
                holder[key] = float(cell.strength * factors.get(part, Decimal(1)))
        return graph

    def with_values(self, given: Mapping[str, Any]) -> Workflow:
        """With these of width, height, steps, cfg, sampler_name and scheduler written into it.

        Raises UserError for one that the graph has no place for.
        """
        graph: dict[str, Any] = copy.deepcopy(dict(self.graph))
        for name, value in given.items():
            places = (self.sizes or {}).get(name, ())
            if not places and name in (self.sampling or {}):
                places = ((self.sampling or {})[name],)
            if not places:
                raise UserError(
                    f"the workflow has no place for {name} that could be found; set it by "
                    f"{named('sets')} NODE.INPUT={value}, or leave it out.",
                    field="workflow",
                )
            for place in places:
                graph[place.node]["inputs"][place.key] = value
        return replace(self, graph=graph)


def read_workflow(path: Path, sets: Sequence[str] = (), lora: str = "") -> Workflow:
    """The template in a file. `sets` are NODE.INPUT=VALUE, `lora` the study's file name.

    Raises UserError for what is no API graph, and for what is missing or ambiguous in it.
    """
    try:
        data = json.loads(read_file(path))
    except (ValueError, RecursionError):
        raise UserError(f"{path} is no JSON file.", field="workflow") from None
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        raise UserError(
            f"{path} is a workflow of the user interface; save it by Workflow > Export (API).",
            field="workflow",
        )
    graph = graph_of(data)
    if not graph:
        raise UserError(
            f"{path} holds no ComfyUI graph; save one by Workflow > Export (API).", field="workflow"
        )
    return analyse(graph, sets, lora)


def analyse(graph: Graph, sets: Sequence[str] = (), lora: str = "") -> Workflow:
    """The template that a graph is. Raises UserError for what is missing or ambiguous."""
    graph, roles = _with_sets(graph, sets)
    end = _end(graph)
    graph, picture = _alone(graph, end)
    return _Analysis(graph, picture, roles, lora).workflow()


def without(graph: Mapping[str, Any], lora: LoraPlace) -> dict[str, Any]:
    """The graph with the LoRA left out, not merely at strength 0."""
    left: dict[str, Any] = copy.deepcopy(dict(graph))
    inputs = left[lora.node]["inputs"]
    if lora.off == "row":
        inputs[lora.row]["on"] = False
        return left
    if lora.off == "name":
        inputs[lora.name] = "None"
        return left
    node = left.pop(lora.node)
    passes = {0: _incoming(node, "model"), 1: _incoming(node, "clip")}
    for other in left.values():
        for key, value in other["inputs"].items():
            if is_link(value) and str(value[0]) == lora.node:
                other["inputs"][key] = copy.deepcopy(passes.get(value[1]))
    return left


def _incoming(node: Node, want: str) -> Any:
    return node["inputs"].get(want, node["inputs"].get(f"opt_{want}"))


def _refuse(sentence: str) -> UserError:
    return UserError(sentence, field="workflow")


def _listed(graph: Graph, keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {called(graph[key])}" for key in keys[:6])


def _marked(graph: Graph, mark: str) -> list[str]:
    """The nodes with this mark in their title."""
    found = []
    for key, node in graph.items():
        meta = node.get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else ""
        if isinstance(title, str) and mark in title.lower().split():
            found.append(key)
    return found


def _one(graph: Graph, keys: Sequence[str], what: str, mark: str) -> str:
    """The only one of these nodes, or the marked one. Raises UserError."""
    marked = [key for key in _marked(graph, mark) if key in graph]
    if len(marked) == 1:
        return marked[0]
    if len(marked) > 1:
        raise _refuse(f"several nodes are titled {mark}: {_listed(graph, marked)}; leave one.")
    if len(keys) == 1:
        return keys[0]
    if keys:
        raise _refuse(
            f"it has several {what} ({_listed(graph, keys)}); title the one that is meant {mark}."
        )
    raise _refuse(f"it has no {what} that could be found; title the node that is one {mark}.")


def _with_sets(graph: Graph, sets: Sequence[str]) -> tuple[Graph, dict[str, list[Place]]]:
    """The graph with the values of NODE.INPUT=VALUE, and the places whose value is a role."""
    changed: dict[str, Any] = copy.deepcopy(dict(graph))
    roles: dict[str, list[Place]] = {}
    for text in sets:
        where, equals, value = text.partition("=")
        node, dot, key = where.strip().rpartition(".")
        if not equals or not dot or not node or not key:
            raise UserError(
                f"cannot read {text!r}; write NODE.INPUT=VALUE, such as 3.steps=30 or "
                "12.text=@prompt.",
                field="sets",
            )
        place = Place(_node(changed, node, text), key)
        inputs = changed[place.node]["inputs"]
        if key not in inputs:
            raise UserError(
                f"{text!r}: {called(changed[place.node])} has no input {key!r}; it has "
                f"{', '.join(inputs) or 'none'}.",
                field="sets",
            )
        role = value.strip().removeprefix("@")
        if value.strip().startswith("@") and role not in ROLES:
            raise UserError(
                f"{text!r}: there is no {value.strip()}; there are "
                f"{', '.join('@' + one for one in ROLES)}.",
                field="sets",
            )
        if value.strip().startswith("@"):
            roles.setdefault(role, []).append(place)
        else:
            inputs[key] = _typed(value, inputs[key])
    return changed, roles


def _node(graph: Graph, name: str, text: str) -> str:
    if name in graph:
        return name
    titled = [
        key
        for key, node in graph.items()
        if isinstance(meta := node.get("_meta"), dict) and meta.get("title") == name
    ]
    if len(titled) == 1:
        return titled[0]
    why = "several nodes have that title" if titled else "no node has that number or title"
    raise UserError(f"{text!r}: {why}; the nodes are {_listed(graph, list(graph))}.", field="sets")


def _typed(value: str, before: Any) -> Any:
    """A typed value as the input has it: text stays text, all else is read as JSON."""
    if isinstance(before, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _end(graph: Graph) -> str:
    """The node whose picture is the study's."""
    marked = _marked(graph, "@picture")
    if marked:
        return _one(graph, marked, "nodes that save a picture", "@picture")
    keys = {id(node): key for key, node in graph.items()}
    return _one(graph, [keys[id(n)] for n in ends(graph)], "nodes that save a picture", "@picture")


def _alone(graph: Graph, end: str) -> tuple[Graph, str]:
    """What the picture is made of, shown by PreviewImage: the server keeps no file, and nothing
    else of the workflow runs."""
    node = graph[end]
    given = node["inputs"].get("images", node["inputs"].get("image"))
    if not is_link(given):
        fitting = links(node)
        if len(fitting) != 1:
            raise _refuse(f"the node {end} {called(node)} is given no picture under `images`.")
        given = fitting[0]
    keys = {id(node): key for key, node in graph.items()}
    inside = {keys[id(one)] for one in upstream(graph, node)} - {end}
    kept = {key: dict(one) for key, one in graph.items() if key in inside}
    title = {"title": "the picture"}
    kept[end] = {"class_type": "PreviewImage", "inputs": {"images": given}, "_meta": title}
    return kept, end


def place_of(graph: Graph, key: str, name: str) -> Place | None:
    """Where the value of a node's input is written down, behind constants, reroutes and switches;
    None where a node computes it."""
    here = Place(key, name)
    value = graph[key]["inputs"].get(name)
    for _ in range(32):
        if not is_link(value):
            return None if isinstance(value, (dict, list)) else here
        node = linked(graph, value)
        if node is None:
            return None
        kind, inputs = node["class_type"], node["inputs"]
        if kind in known.CONSTANTS:
            held = [one for one in known.CONSTANTS[kind] if one in inputs]
            if len(held) != 1:
                return None
            here = Place(str(value[0]), held[0])
        elif kind in known.TEXT_OUTPUTS and value[1] == known.TEXT_OUTPUTS[kind][0]:
            here = Place(str(value[0]), known.TEXT_OUTPUTS[kind][1])
        elif kind in known.CHOOSERS - known.PIPES:
            value = chosen(graph, node)
            continue
        else:
            return None
        value = graph[here.node]["inputs"].get(here.key)
    return None


class _Analysis:
    """Follows one graph."""

    def __init__(
        self, graph: Graph, picture: str, roles: Mapping[str, Sequence[Place]], lora: str
    ) -> None:
        self.graph, self.picture, self.roles, self.file = graph, picture, roles, lora
        self.keys = {id(node): key for key, node in graph.items()}

    def workflow(self) -> Workflow:
        passes = [n for n in upstream(self.graph, self.graph[self.picture]) if is_sampler(n)]
        if not passes and not {"prompt", "seed", "lora"} <= self.roles.keys():
            raise _refuse(
                "no sampler that is known makes its picture; name the places by "
                f"{named('sets')} NODE.INPUT=@prompt, @seed, @lora and @strength."
            )
        first = passes[-1] if passes else None
        lora = self._lora()
        prompt = self._text("prompt", "positive", first)
        negative = self._text("negative", "negative", first)
        if set(prompt) & set(negative):
            if "negative" in self.roles or _marked(self.graph, "@negative"):
                raise _refuse("its prompt and its negative prompt are one and the same text.")
            negative = ()
        seed = self._seed(passes)
        sizes = {side: self._side(side, first) for side in ("width", "height")}
        sampling = self._sampling(first)
        found = Workflow(self.graph, self.picture, lora, prompt, negative, seed, sizes, sampling)
        return replace(found, found=self._words(found, passes))

    # --- the LoRA ---

    def _lora(self) -> LoraPlace:
        if "lora" in self.roles:
            return self._lora_by_hand()
        marked = _marked(self.graph, "@lora")
        places = [p for key in (marked or self.graph) for p in self._loras(key)]
        if len(places) > 1 and self.file:
            same = [place for place in places if self._file(place) == self.file]
            places = same if len(same) == 1 else places
        if len(places) == 1:
            return places[0]
        nodes = list(dict.fromkeys(place.node for place in places))
        if places:
            raise _refuse(
                f"it loads several LoRAs ({_listed(self.graph, nodes)}) and none of them, or more "
                f"than one, is {self.file or 'the one under study'}; title the node that loads it "
                "@lora."
            )
        others = [key for key, node in self.graph.items() if node["class_type"] in READERS]
        if others:
            raise _refuse(
                f"its LoRAs are loaded by {_listed(self.graph, others)}, which cannot be switched "
                "from outside; load the one under study with a LoraLoader of its own, or name the "
                f"places by {named('sets')} NODE.INPUT=@lora and @strength."
            )
        raise _refuse("it has no node that loads a LoRA; add a LoraLoader where yours belongs.")

    def _loras(self, key: str) -> list[LoraPlace]:
        node = self.graph[key]
        kind, inputs = node["class_type"], node["inputs"]
        reader = READERS.get(kind)
        if isinstance(reader, Single):
            clip = reader.clip if reader.clip in inputs else ""
            return [LoraPlace(key, reader.name, reader.model, clip)]
        if kind == _POWER:
            rows = [
                (name, row)
                for name, row in inputs.items()
                if name.upper().startswith("LORA_") and isinstance(row, dict)
            ]
            return [
                LoraPlace(
                    key,
                    "lora",
                    "strength",
                    "strengthTwo" if row.get("strengthTwo") is not None else "",
                    name,
                    "row",
                )
                for name, row in rows
            ]
        if kind in LOADERS and inputs.get("lora_name") not in (None, "None"):
            return [
                LoraPlace(key, "lora_name", "lora_model_strength", "lora_clip_strength", off="name")
            ]
        return []

    def _file(self, place: LoraPlace) -> str:
        inputs = self.graph[place.node]["inputs"]
        holder = inputs[place.row] if place.row else inputs
        name = holder.get(place.name)
        name = name.get("content") if isinstance(name, dict) else name
        return str(name).replace("\\", "/").rsplit("/", 1)[-1]

    def _lora_by_hand(self) -> LoraPlace:
        name = self.roles["lora"][0]
        strengths = self.roles.get("strength", ())
        if len(self.roles["lora"]) > 1 or len(strengths) != 1:
            raise UserError("give one @lora and one @strength.", field="sets")
        clips = self.roles.get("strength_clip", ())
        places = [name, *strengths, *clips]
        if len({place.node for place in places}) > 1:
            raise UserError("@lora and @strength must be inputs of one node.", field="sets")
        node = self.graph.get(name.node)
        if node is None or not is_link(_incoming(node, "model")):
            raise UserError(
                "the node of @lora has no input `model` that could be joined through in controls; "
                "load the LoRA with a LoraLoader.",
                field="sets",
            )
        return LoraPlace(name.node, name.key, strengths[0].key, clips[0].key if clips else "")

    # --- prompts ---

    def _text(self, role: str, link: str, sampler: Node | None) -> tuple[Place, ...]:
        if role in self.roles:
            return tuple(self.roles[role])
        mark = f"@{role}"
        if marked := _marked(self.graph, mark):
            return self._held(_one(self.graph, marked, "prompts", mark), mark)
        if sampler is None:
            return ()
        encoders = self._encoders(gathered(self.graph, sampler).get(link), link)
        if not encoders and role == "negative":
            return ()
        return self._held(_one(self.graph, encoders, f"{role} texts", mark), mark)

    def _held(self, key: str, mark: str) -> tuple[Place, ...]:
        """Where the text of an encoder, or of a node that holds one, is written down."""
        node = self.graph[key]
        kind, inputs = node["class_type"], node["inputs"]
        names = known.ENCODERS.get(kind) or known.CONSTANTS.get(kind) or ("text", "prompt")
        names = tuple(name for name in names if name in inputs and name not in _NO_TEXTS)
        places = [place_of(self.graph, key, name) for name in names]
        known_places = tuple(dict.fromkeys(place for place in places if place is not None))
        if not known_places or None in places:
            raise _refuse(
                f"the text of {key} {called(node)} comes from a node that is not known; write "
                f"{named('sets')} NODE.INPUT={mark} for where it belongs."
            )
        texts = [self.graph[p.node]["inputs"].get(p.key) for p in known_places]
        filled = [p for p, text in zip(known_places, texts, strict=True) if str(text).strip()]
        if len({str(text).strip() for text in texts if str(text).strip()}) > 1:
            raise _refuse(
                f"{key} {called(node)} holds several texts that differ; write {named('sets')} "
                f"NODE.INPUT={mark} for each that is the prompt."
            )
        return tuple(filled) or known_places

    def _encoders(self, link: object, role: str) -> list[str]:
        """The text encoders behind a conditioning link."""
        found: dict[str, None] = {}
        stack = [(link, role)]
        seen: set[tuple[int, str]] = set()
        while stack and len(seen) < LONGEST_CHAIN:
            value, role = stack.pop()
            node = linked(self.graph, value)
            if node is None or (id(node), role) in seen:
                continue
            seen.add((id(node), role))
            kind, inputs = node["class_type"], node["inputs"]
            if kind in known.ENCODERS:
                found[self.keys[id(node)]] = None
            elif kind == "ConditioningZeroOut":
                continue
            elif kind in known.COMBINE:
                stack += [(inputs.get(key), role) for key in known.COMBINE[kind]]
            elif kind in known.CHOOSERS - known.PIPES:
                stack.append((chosen(self.graph, node), role))
            elif kind in known.CONDITIONING_PASS or kind in known.GUIDERS:
                output = value[1] if isinstance(value, list) else 0
                side = role if {"positive", "negative"} & inputs.keys() else "conditioning"
                if side != "conditioning" and kind in known.CONDITIONING_PASS:
                    side = ("positive", "negative")[output] if output in (0, 1) else role
                stack.append((inputs.get(side, inputs.get("conditioning")), role))
            else:
                raise _refuse(
                    f"its {role} text passes through {self.keys[id(node)]} {called(node)}, which "
                    f"is not known; write {named('sets')} NODE.INPUT=@prompt (or @negative) for "
                    "where it belongs."
                )
        return list(found)

    # --- seed, size, sampling ---

    def _seed(self, passes: Sequence[Node]) -> tuple[Place, ...]:
        if "seed" in self.roles:
            return tuple(self.roles["seed"])
        if marked := _marked(self.graph, "@seed"):
            node = self.graph[_one(self.graph, marked, "seeds", "@seed")]
            passes = [node]
        places = []
        for node in reversed(passes):
            place = self._input(node, ("seed", "noise_seed", *known.CONSTANTS.get(
                node["class_type"], ())))  # fmt: skip
            if place is None:
                raise _refuse(
                    f"the seed of {self.keys[id(node)]} {called(node)} comes from a node that is "
                    f"not known; write {named('sets')} NODE.INPUT=@seed."
                )
            places.append(place)
        return tuple(dict.fromkeys(places))

    def _input(self, node: Node, names: Sequence[str]) -> Place | None:
        """Where one of a sampler's inputs is written down, also in the nodes it is split into."""
        held = gathered(self.graph, node)
        name = next((name for name in names if name in held), None)
        if name is None:
            return None
        owner = self._owner(node, name)
        return place_of(self.graph, owner, name) if owner else None

    def _owner(self, node: Node, name: str) -> str | None:
        """The node that has this input: the sampler, or one of those that feed it."""
        parts = known.GUIDERS | known.SCHEDULES | {"ToBasicPipe", "EditBasicPipe"}
        for one in upstream(self.graph, node):
            if (one is node or one["class_type"] in parts) and name in one["inputs"]:
                return self.keys[id(one)]
        return None

    def _side(self, side: str, sampler: Node | None) -> tuple[Place, ...]:
        if side in self.roles:
            return tuple(self.roles[side])
        start = _marked(self.graph, "@size")
        if start:
            latent: Node | None = self.graph[_one(self.graph, start, "sizes", "@size")]
        elif sampler is None:
            return ()
        else:
            latent = linked(self.graph, gathered(self.graph, sampler).get("latent_image"))
        found: list[Place] = []
        for node in upstream(self.graph, latent) if latent is not None else ():
            for name in (side, f"empty_latent_{side}"):
                if not found and name in node["inputs"]:
                    place = place_of(self.graph, self.keys[id(node)], name)
                    found += [place] if place is not None else []
        return tuple(found)

    def _sampling(self, sampler: Node | None) -> dict[str, Place]:
        if sampler is None:
            return {}
        names = ("steps", "cfg", "sampler_name", "scheduler")
        places = {name: self._input(sampler, (name,)) for name in names}
        return {name: place for name, place in places.items() if place is not None}

    # --- what was found ---

    def _words(self, found: Workflow, passes: Sequence[Node]) -> tuple[str, ...]:
        def at(places: Sequence[Place]) -> str:
            return " and ".join(
                f"{place.node} {called(self.graph[place.node])}, {place.key}" for place in places
            )

        lora = found.lora
        how = {
            "bypass": "controls bypass it",
            "row": "switched off in controls",
            "name": 'controls load "None"',
        }[lora.off]
        where = f"{lora.node} {called(self.graph[lora.node])}"
        lines = [f"LoRA: {where}{', ' + lora.row if lora.row else ''} ({how})"]
        lines += [f"Prompt: {at(found.prompt)}"]
        lines += [f"Negative prompt: {at(found.negative) or 'none'}"]
        lines += [f"Seed: {at(found.seed)}"]
        if found.sizes and found.sizes["width"] and found.sizes["height"]:
            width, height = (found.value(found.sizes[side]) for side in ("width", "height"))
            lines += [f"Size: {width}x{height} at {found.sizes['width'][0].node}"]
        if len(passes) > 1:
            lines += [f"Passes: {len(passes)}, all with the case's seed"]
        return tuple(lines)
