"""A ComfyUI graph as it is executed: nodes, links, constants.

A node is {"class_type": ..., "inputs": {...}}; an input is a value or a link [node id, output].
Nodes of a workflow may be marked as "unnamed": they hold values that cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from generation.pictures.readers import comfynodes as known

MOST_NODES = 20_000
LONGEST_CHAIN = 500

Node = Mapping[str, Any]
Graph = Mapping[str, Node]


class _Unread:
    """The value of an input that cannot be read with certainty."""

    def __repr__(self) -> str:
        return "UNREAD"


UNREAD: Final = _Unread()


def graph_of(data: object) -> Graph:
    """The nodes of an API graph, {} if it is none or too large."""
    if not isinstance(data, dict) or len(data) > MOST_NODES:
        return {}
    return {
        key: node
        for key, node in data.items()
        if isinstance(node, dict)
        and isinstance(node.get("inputs"), dict)
        and isinstance(node.get("class_type"), str)
    }


def is_link(value: object) -> bool:
    """Whether an input's value is [node id, output]."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], (str, int))
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def linked(graph: Graph, value: object) -> Node | None:
    """The node that a link comes from; None for a plain value or a node that is not there."""
    return graph.get(str(value[0])) if isinstance(value, list) and is_link(value) else None


def links(node: Node) -> list[list[Any]]:
    return [value for value in node["inputs"].values() if is_link(value)]


def upstream(graph: Graph, end: Node) -> Iterator[Node]:
    """Breadth first, so that what is nearer to the picture comes first."""
    seen = {id(end)}
    queue = [end]
    while queue:
        following = []
        for node in queue:
            yield node
            for value in links(node):
                source = linked(graph, value)
                if source is not None and id(source) not in seen:
                    seen.add(id(source))
                    following.append(source)
        queue = following


def chosen(graph: Graph, node: Node) -> object:
    """The link that a reroute or a switch passes on, UNREAD where that cannot be told."""
    kind, inputs = node["class_type"], node["inputs"]
    if kind in known.REROUTES:
        given = links(node)
        return given[0] if len(given) == 1 else UNREAD
    if kind in known.FIRST_OF:
        given = [inputs[key] for key in sorted(inputs) if is_link(inputs[key])]
        return given[0] if given else UNREAD
    if kind in known.BY_INDEX:
        key, pattern = known.BY_INDEX[kind]
        number = constant(graph, inputs.get(key))
        return inputs.get(pattern.format(number), UNREAD)
    key, yes, no = known.BY_FLAG[kind]
    flag = switched_on(constant(graph, inputs.get(key)))
    return UNREAD if flag is None else inputs.get(yes if flag else no, UNREAD)


def constant(graph: Graph, value: object) -> object:
    """A plain value; behind a link, what a node that is known to hold one constant holds.

    UNREAD where the link leads to any other node, and for lists and objects.
    """
    for _ in range(32):
        if not isinstance(value, list) or not is_link(value):
            return UNREAD if isinstance(value, (list, dict)) else value
        node = linked(graph, value)
        if node is None:
            return UNREAD
        kind, inputs = node["class_type"], node["inputs"]
        if kind in known.CONSTANTS:
            held = [inputs[key] for key in known.CONSTANTS[kind] if key in inputs]
            others = [entry for entry in links(node) if not any(entry is one for one in held)]
            value = held[0] if len(held) == 1 and not others else UNREAD
        elif kind in known.TEXT_OUTPUTS and value[1] == known.TEXT_OUTPUTS[kind][0]:
            value = inputs.get(known.TEXT_OUTPUTS[kind][1], UNREAD)
        elif kind in known.CHOOSERS and kind not in known.PIPES:
            value = chosen(graph, node)
        elif kind == "StringConcatenate":
            parts = [constant(graph, inputs.get(key)) for key in ("string_a", "string_b")]
            between = constant(graph, inputs.get("delimiter", ""))
            if isinstance(parts[0], str) and isinstance(parts[1], str) and isinstance(between, str):
                return between.join(str(part) for part in parts)
            return UNREAD
        else:
            return UNREAD
        if value is UNREAD:
            return UNREAD
    return UNREAD


def switched_on(value: object) -> bool | None:
    """True or False of a switch in any spelling, None if it is neither."""
    text = str(value).lower() if isinstance(value, (bool, str, int)) else ""
    if text in ("on", "true", "1", "yes", "enable", "enabled"):
        return True
    return False if text in ("off", "false", "0", "no", "disable", "disabled", "none") else None


def named(node: Node) -> str:
    """A node in words: its class, and its title where the user gave it another."""
    kind = str(node["class_type"])[:80]
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    if isinstance(title, str) and title.strip() and title != kind:
        return f'{kind} ("{title[:80]}")'
    return kind
