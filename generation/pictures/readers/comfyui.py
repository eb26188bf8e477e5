"""ComfyUI's API graph ("prompt"): from the saved picture upstream to samplers, LoRAs and texts.

Only nodes whose meaning is known are followed (`comfynodes`, `comfyloras`). Where an unknown one
lies between a sampler and its checkpoint, the LoRAs are unknown; where one makes a prompt, the
prompt is. Links are followed with a visited set, so that a loop in a damaged graph ends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from generation.pictures.readers import comfynodes as known
from generation.pictures.readers.comfygraph import (
    LONGEST_CHAIN,
    UNREAD,
    Graph,
    Node,
    chosen,
    constant,
    graph_of,
    is_link,
    linked,
    links,
    named,
    upstream,
)
from generation.pictures.readers.comfyloras import (
    ENCODING,
    LOADERS,
    READERS,
    STACKS,
    NotRead,
    Row,
    rows,
)
from generation.pictures.readers.comfysettings import (
    _MODEL_FILE,
    SAMPLING,
    further_settings,
    gathered,
    guidance_of,
    is_sampler,
    latent_size,
    model_of,
    plain_values,
    size_saved,
)
from generation.pictures.readers.comfyworkflow import graph_of_workflow
from generation.pictures.readers.picture import Facts, LoraUse
from generation.pictures.readers.tags import read_prompt
from generation.pictures.readers.traces import TAG, hints_at_lora
from generation.pictures.readers.values import (
    MOST_LORAS,
    load_json,
    model_name,
    number_text,
    shortened,
    tidy,
    whole,
)

MOST_PASSES = 20
MOST_ENDS = 20


def comfyui(text: str, size: tuple[int, int] | None = None) -> Facts | None:
    """The facts of a ComfyUI picture, None if the text is no graph or saves no sampled picture.

    Of several saved pictures the one counts whose size is `size`. With several passes the first
    one's seed, steps, size and strengths count; LoRAs that only a later pass uses are added, and
    each further pass with its prompt, seed and model stands under "passes".
    """
    return _facts(graph_of(load_json(text)), size)


def comfyui_workflow(text: str, size: tuple[int, int] | None = None) -> Facts | None:
    """As `comfyui`, from the user interface's graph ("workflow"), where no other was stored."""
    return _facts(graph_of_workflow(load_json(text)), size)


def comfyui_data(data: object, size: tuple[int, int] | None = None) -> Facts | None:
    """As `comfyui`, from JSON that has been read."""
    return _facts(graph_of(data), size)


def _facts(graph: Graph, size: tuple[int, int] | None) -> Facts | None:
    if not graph:
        return None
    carried = _carried(graph)
    found: list[tuple[Facts, tuple[int, int] | None]] = []
    for end in ends(graph)[:MOST_ENDS]:
        facts = _Picture(graph, carried, end).facts()
        if facts is not None:
            found.append((facts, size_saved(graph, end)))
    if not found:
        # No saved picture: every sampler counts, and all must agree.
        samplers = [node for node in graph.values() if is_sampler(node)]
        for node in samplers[:MOST_PASSES]:
            facts = _Picture(graph, carried, node).facts()
            found += [(facts, None)] if facts is not None else []
    fitting = [facts for facts, saved in found if size is not None and saved == size]
    fitting = fitting or [facts for facts, saved in found if saved is None or size is None]
    fitting = fitting or [facts for facts, _ in found]
    if not fitting:
        return None
    first = fitting[0]
    if any(facts != first for facts in fitting[1:]):
        return replace(first, unknown=first.unknown or "is one of several pictures of its graph")
    return first


def ends(graph: Graph) -> list[Node]:
    """The nodes that save pictures; those that only show them where none saves."""
    saves = [
        node for node in graph.values() if "save" in node["class_type"].lower() and links(node)
    ]
    return saves or [n for n in graph.values() if "preview" in n["class_type"].lower() and links(n)]


# --- what flows along the links -------------------------------------------------------------------


def _carried(graph: Graph) -> Mapping[int, set[str]]:
    """Which of "model", "clip" and "cond" may come out of each node that is not known, by id."""
    carried: dict[int, set[str]] = {}
    unknown = [node for node in graph.values() if not _is_known(node)]
    for node in unknown:
        texts = [value for value in node["inputs"].values() if isinstance(value, str)]
        loads = any(text.lower().strip().endswith(_MODEL_FILE) for text in texts)
        carried[id(node)] = {"model", "clip"} if loads else set()
    followers: dict[int, list[int]] = defaultdict(list)
    for node in unknown:
        for value in links(node):
            source = linked(graph, value)
            if source is not None and id(source) in carried:
                followers[id(source)].append(id(node))
            elif source is not None:
                carried[id(node)] |= _out(source, value[1], carried)
    queue = [key for key, kinds in carried.items() if kinds]
    while queue:
        key = queue.pop()
        for follower in followers[key]:
            if not carried[key] <= carried[follower]:
                carried[follower] |= carried[key]
                queue.append(follower)
    return carried


def _is_known(node: Node) -> bool:
    return node["class_type"] in known.KNOWN or node["class_type"] in READERS


def _out(node: Node, output: int, carried: Mapping[int, set[str]]) -> set[str]:
    """What may come out of one output of a node."""
    kind = node["class_type"]
    if id(node) in carried:
        return carried[id(node)]
    if kind in known.SOURCES:
        return {"model", "clip"} if output in (0, 1) else set()
    if kind in LOADERS:
        return {"model", "clip", "cond"} if output in (0, 1, 2, 5) else set()
    if kind in READERS:
        encodes = kind in ENCODING and ENCODING[kind][0] == output
        return {"cond"} if encodes else {"model", "clip"} if output in (0, 1, 2) else set()
    if kind in known.MODEL_PASS:
        return {"model"}
    if kind in known.MERGES:
        return {"model", "clip"}
    if kind in known.CLIP_PASS:
        return {"clip"}
    if kind in known.ENCODERS or kind in known.COMBINE or kind in known.CONDITIONING_PASS:
        return {"cond"}
    if kind in known.GUIDERS:
        return {"model", "cond"}
    if kind in known.SAMPLERS and "Efficient" in kind:
        return [{"model"}, {"cond"}, {"cond"}][output] if output in (0, 1, 2) else set()
    return set()


# --- one saved picture ----------------------------------------------------------------------------


@dataclass
class _Pass:
    """What one sampler was given."""

    sampling: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    model: str = ""
    prompt: str = ""
    negative: str = ""
    conditioning: list[str] = field(default_factory=list)
    weights: dict[str, Row] = field(default_factory=dict)
    texts: dict[str, Row] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)


class _Picture:
    """Everything upstream of one end; `problem` is the first reason why its LoRAs are unknown."""

    def __init__(self, graph: Graph, carried: Mapping[int, set[str]], end: Node) -> None:
        self.graph, self.carried, self.end = graph, carried, end
        self.keys = {id(node): key for key, node in graph.items()}
        self.problem = ""

    def facts(self) -> Facts | None:
        nodes = list(upstream(self.graph, self.end))
        samplers = [node for node in nodes if is_sampler(node)]
        self._look_at(nodes)
        if not samplers:
            # An unknown node may be the sampler: what it does is not known.
            return Facts("ComfyUI", unknown=self.problem) if self.problem else None
        if len(samplers) > MOST_PASSES:
            self._doubt(f"is sampled more than {MOST_PASSES} times")
        passes = [self._sampled(node) for node in reversed(samplers[-MOST_PASSES:])]
        return self._joined(passes, samplers[-1])

    def _doubt(self, reason: str) -> None:
        self.problem = self.problem or reason

    def _look_at(self, nodes: Sequence[Node]) -> None:
        """Traces of LoRAs in nodes that are not known, and unknown nodes that a model enters."""
        for node in nodes:
            kind, inputs = node["class_type"], node["inputs"]
            if node["class_type"] in READERS:
                continue
            saving = node is self.end and not is_sampler(node)
            if kind not in known.KNOWN and kind not in known.CHOOSERS and not saving:
                if hints_at_lora(kind) or any(hints_at_lora(key) for key in list(inputs)[:1000]):
                    self._doubt(f"has a LoRA node that is not known: {named(node)}")
                elif self._entering(node) & {"model", "clip"}:
                    self._doubt(f"passes through a node that is not known: {named(node)}")
            elif not saving and any(hints_at_lora(key) for key in list(inputs)[:1000]):
                self._doubt(f"has a LoRA in a node that usually has none: {named(node)}")
            if kind not in known.CONSTANTS and kind not in known.ENCODERS and _holds_tag(inputs):
                self._doubt(f"has a LoRA's tag in a node that does not load it: {named(node)}")

    def _entering(self, node: Node) -> set[str]:
        kinds: set[str] = set()
        for value in links(node):
            source = linked(self.graph, value)
            if source is not None:
                kinds |= _out(source, value[1], self.carried)
        return kinds

    # --- one pass ---

    def _sampled(self, node: Node) -> _Pass:
        graph, found = self.graph, _Pass()
        if node["class_type"] not in known.SAMPLERS:
            self._doubt(f"is sampled by a node that is not known: {named(node)}")
        inputs = gathered(graph, node)
        if "script" in inputs:
            script = linked(graph, inputs["script"])
            if script is None or script["class_type"] not in known.KNOWN:
                self._doubt(f"is changed by a script that is not known: {named(node)}")
            else:
                found.conditioning.append(plain_values(script))
        found.conditioning += further_settings(graph, node)
        if isinstance(inputs.get("wildcard"), str) and inputs["wildcard"].strip():
            self._doubt(f"has a wildcard text that is not read: {named(node)}")
        self._follow("model", inputs.get("model"), found)
        found.prompt = self._texts("positive", inputs, found, "prompt")
        found.negative = self._texts("negative", inputs, found, "negative prompt")
        seed_key = "seed" if "seed" in inputs else "noise_seed"
        seed = constant(graph, inputs.get(seed_key))
        if seed is UNREAD:
            found.unread.append("seed")
        found.seed = whole(seed)
        for key in SAMPLING:
            value = constant(graph, inputs.get(key))
            if value is UNREAD:
                found.unread.append(key.removesuffix("_name"))
            else:
                found.sampling[key] = number_text(value)
        return found

    def _follow(self, want: str, link: object, found: _Pass) -> None:
        """Along the model ("model") or the text encoder ("clip") back to where it was loaded."""
        seen: set[int] = set()
        stack: list[tuple[object, bool]] = [(link, False)]
        loaded = link is None and want == "clip"  # nothing is connected there
        while stack:
            value, mixed = stack.pop()
            node = linked(self.graph, value)
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            if len(seen) > LONGEST_CHAIN:
                break
            following = self._step(want, node, mixed, found)
            loaded = loaded or not following
            stack += following
        if not loaded:
            self._doubt(f"has a {want} link that leads to no checkpoint")

    def _step(self, want: str, node: Node, mixed: bool, found: _Pass) -> list[tuple[object, bool]]:
        kind, inputs = node["class_type"], node["inputs"]
        if kind in known.SOURCES:
            found.model = found.model or (model_of(self.graph, inputs) if want == "model" else "")
            return []
        if node["class_type"] in READERS:
            self._add(want, node, mixed, found)
            for key in STACKS:
                if key in inputs:
                    self._stack(want, inputs[key], mixed, found)
            if kind in LOADERS:
                if want == "model":
                    found.model = found.model or model_of(self.graph, inputs)
                over = inputs.get(f"{want}_override")
                return [(over, mixed)] if over is not None else []
            return [(inputs.get(want, inputs.get(f"opt_{want}")), mixed)]
        if kind in known.MERGES:
            keys = [key for key in inputs if key.startswith(want) and is_link(inputs[key])]
            found.conditioning.append(plain_values(node))
            return [(inputs[key], True) for key in keys]
        if kind in known.CHOOSERS:
            return [(self._through(want, node), mixed)]
        if kind in (known.MODEL_PASS if want == "model" else known.CLIP_PASS):
            found.conditioning.append(plain_values(node))
            return [(inputs.get(want), mixed)]
        if kind in known.SAMPLERS and "Efficient" in kind and want == "model":
            return [(inputs.get("model"), mixed)]
        self._doubt(f"passes through a node that is not known: {named(node)}")
        return []

    def _through(self, want: str, node: Node) -> object:
        """The link that a switch, a reroute or a pipe passes on; None (and a doubt) if unclear."""
        kind, inputs = node["class_type"], node["inputs"]
        if kind in known.PIPES:
            value = inputs.get(want)
            for key in known.BUNDLES:
                value = inputs.get(key) if value is None else value
        else:
            value = chosen(self.graph, node)
        if is_link(value):
            return value
        self._doubt(f"passes through a switch that cannot be read: {named(node)}")
        return None

    def _add(self, want: str, node: Node, mixed: bool, found: _Pass) -> None:
        """The LoRAs of one node to those of the pass."""
        into = found.weights if want == "model" else found.texts
        try:
            listed = rows(self.graph, node) or []
        except NotRead as error:
            self._doubt(f"has a LoRA node that {error}: {named(node)}")
            return
        for row in listed:
            if want == "clip" and row.clip == "none":
                continue
            if row.model is None or row.clip is None or mixed:
                self._doubt(f"has a LoRA whose strength cannot be read: {named(node)}")
                row = replace(row, model=None if mixed else row.model)
            # The clip is followed once for each prompt, the model once.
            if row.name in into and (want == "model" or into[row.name] != row):
                self._doubt(f"loads the LoRA {row.name[:60]!r} twice")
            if len(into) < MOST_LORAS:
                into.setdefault(row.name, row)
            else:
                self._doubt(f"uses more than {MOST_LORAS} LoRAs")

    def _stack(self, want: str, link: object, mixed: bool, found: _Pass) -> None:
        """The LoRAs of a stack, through stackers that are known."""
        seen: set[int] = set()
        while link is not None:
            node = linked(self.graph, link)
            if node is None or id(node) in seen or len(seen) >= LONGEST_CHAIN:
                self._doubt("has a stack of LoRAs that cannot be followed")
                return
            seen.add(id(node))
            if node["class_type"] in READERS and node["class_type"] not in LOADERS:
                self._add(want, node, mixed, found)
                link = next((node["inputs"][k] for k in STACKS if k in node["inputs"]), None)
            elif node["class_type"] in known.CHOOSERS - known.PIPES:
                link = self._through("lora_stack", node)
            else:
                self._doubt(f"has a stack of LoRAs from a node that is not known: {named(node)}")
                return

    # --- prompts ---

    def _texts(self, role: str, inputs: Mapping[str, Any], found: _Pass, called: str) -> str:
        """The prompt behind a conditioning link; two texts are joined by " + "."""
        texts: list[str] = []
        seen: set[tuple[int, str]] = set()
        stack: list[tuple[object, str]] = [(inputs.get(role), role)]
        while stack:
            value, role = stack.pop()
            if value is None:
                continue
            node = linked(self.graph, value)
            if node is None or (id(node), role) in seen or len(seen) >= LONGEST_CHAIN:
                found.unread.append(called)
                continue
            seen.add((id(node), role))
            output = value[1] if isinstance(value, list) else 0
            stack += reversed(self._condition(role, node, output, texts, found, called))
        return " + ".join(dict.fromkeys(text for text in texts if text))

    def _condition(
        self, role: str, node: Node, output: int, texts: list[str], found: _Pass, called: str
    ) -> list[tuple[object, str]]:
        """One node of a conditioning: its texts are noted, what it was made from is returned."""
        kind, inputs = node["class_type"], node["inputs"]

        def note(key: str) -> None:
            text = constant(self.graph, inputs.get(key))
            unnamed = key not in inputs and node.get("unnamed")
            if text is UNREAD or unnamed or not isinstance(text, (str, type(None))):
                found.unread.append(called)
            elif text:
                prompt = read_prompt(text)
                texts.append(prompt.text)
                if prompt.problem or any(not _loads(found, use) for use in prompt.loras):
                    self._doubt(f"has a LoRA's tag in a node that does not load it: {named(node)}")

        if kind in known.ENCODERS:
            for key in known.ENCODERS[kind]:
                note(key)
            found.conditioning += [plain_values(node)] if kind != "CLIPTextEncode" else []
            self._follow("clip", inputs.get("clip"), found)
            return []
        if kind in ENCODING and output == ENCODING[kind][0]:
            note(ENCODING[kind][1])
            self._follow("clip", self._itself(node), found)
            return []
        if kind in LOADERS and output in (0, 1, 2):
            note(role)
            self._follow("clip", self._itself(node), found)
            return []
        if kind in known.COMBINE:
            found.conditioning.append(plain_values(node))
            return [(inputs.get(key), role) for key in known.COMBINE[kind]]
        if kind == "ConditioningZeroOut":
            return []  # Flux's empty negative: what it blanks does not matter
        if kind in known.CONDITIONING_PASS:
            if "positive" in inputs or "negative" in inputs:
                role = ("positive", "negative")[output] if output in (0, 1) else role
                key = role
            else:
                key = "conditioning"
            if kind != "FluxGuidance":  # a setting of its own
                found.conditioning.append(plain_values(node))
            return [(inputs.get(key), role)]
        if kind in known.CHOOSERS:
            if kind in known.PIPES:
                bundled = [inputs.get(key) for key in (role, *known.BUNDLES)]
                return [(next((v for v in bundled if v is not None), ["", 0]), role)]
            value = chosen(self.graph, node)
            return [(value if is_link(value) else ["", 0], role)]
        if kind in known.SAMPLERS and "Efficient" in kind and output in (1, 2):
            role = ("positive", "negative")[output - 1]
            return [(inputs.get(role), role)]
        found.unread.append(called)
        return []

    def _itself(self, node: Node) -> list[Any]:
        return [self.keys[id(node)], 0]

    # --- all passes ---

    def _joined(self, passes: Sequence[_Pass], first_sampler: Node) -> Facts:
        first = passes[0]
        loras: dict[str, LoraUse] = {}
        parts: list[str] = []
        for number, each in enumerate(passes):
            for use, where in self._uses(each):
                known_use = loras.setdefault(use.name, use)
                if known_use != use:
                    self._doubt(f"uses the LoRA {use.name[:60]!r} at two strengths")
                parts += [where] if where and where not in parts else []
            names = sorted({**each.weights, **each.texts})
            if number and names != sorted({**first.weights, **first.texts}):
                parts.append(f"pass {number + 1}: {', '.join(names)}")
        inputs = gathered(self.graph, first_sampler)
        sampling = first.sampling
        settings = {
            "size": latent_size(self.graph, inputs.get("latent_image")),
            "steps": sampling.get("steps", ""),
            "sampler": sampling.get("sampler_name", ""),
            "schedule": sampling.get("scheduler", ""),
            "guidance": sampling.get("cfg", ""),
            "distilled_guidance": guidance_of(self.graph, inputs.get("positive")),
            "denoising": sampling.get("denoise", ""),
            "model": next((each.model for each in passes if each.model), ""),
            "conditioning": " ".join(sorted(set(first.conditioning))),
            "passes": "; ".join(_in_words(each, first) for each in passes[1:]),
            "lora_parts": " ".join(parts),
        }
        unread = [name for each in passes for name in each.unread]
        return Facts(
            source="ComfyUI",
            prompt=tidy(first.prompt),
            negative=tidy(first.negative),
            seed=first.seed,
            loras=tuple(loras.values())[:MOST_LORAS],
            settings={key: shortened(value) for key, value in settings.items() if value},
            unknown=self.problem,
            unread=tuple(dict.fromkeys(unread)),
        )

    def _uses(self, found: _Pass) -> list[tuple[LoraUse, str]]:
        """The LoRAs of a pass, the model's strengths first, and which blocks weigh them."""
        uses = []
        for name, row in {**found.weights, **found.texts, **found.weights}.items():
            in_model = name in found.weights
            text = row.model if row.clip == "same" else row.clip
            text = text if isinstance(text, Decimal) else None
            if not in_model and (text is None or text != 0):
                self._doubt(f"uses the LoRA {name[:60]!r} on the text encoder alone")
            strength = row.model if in_model else Decimal(0)
            parts = f"{name}:{row.parts}" if row.parts else ""
            uses.append((LoraUse(name, strength, "", text if text != strength else None), parts))
        return uses


def _loads(found: _Pass, use: LoraUse) -> bool:
    """Whether a tag in a prompt tells a LoRA that a node has loaded, at the same strength."""
    row = found.weights.get(model_name(use.name))
    return row is not None and row.model in (use.strength, use.text_strength)


def _in_words(found: _Pass, first: _Pass) -> str:
    """A further pass: seed, steps, denoising, and what else it has unlike the first."""
    seed, sampling = found.seed, found.sampling
    words = [
        f"seed {seed}",
        f"{sampling.get('steps', '')} steps",
        f"denoising {sampling.get('denoise', '')}",
    ]
    for key, called in (("cfg", "CFG"), ("sampler_name", "sampler"), ("scheduler", "schedule")):
        if sampling.get(key) != first.sampling.get(key):
            words.append(f"{called} {sampling.get(key, '')}")
    for ours, theirs, called in (
        (found.model, first.model, "model"),
        (found.prompt, first.prompt, "prompt"),
        (found.negative, first.negative, "negative prompt"),
    ):
        if ours != theirs:
            words.append(f"{called} {shortened(ours)}")
    more = sorted(set(found.conditioning) - set(first.conditioning))
    return ", ".join([*words, *more])


def _holds_tag(inputs: Mapping[str, Any]) -> bool:
    return any(isinstance(value, str) and TAG.search(value) for value in inputs.values())
