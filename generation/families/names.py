"""All spellings of a model's modules, and the parameters that each of them means."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from generation.families.family import Aliases

Rows = tuple[tuple[int, int], ...]
"""Ranges of output rows, in order."""

Piece = tuple[str, Sequence[int], Rows | None]
"""(parameter name, its shape, rows of the update that belong to it or None for all)."""


@dataclass(frozen=True)
class Names:
    """All spellings of one part's modules: flat name -> modules, several where fused."""

    parameters: Mapping[str, Sequence[int]]
    modules: Mapping[str, tuple[str, ...]]
    swapped: frozenset[str]

    @classmethod
    def of(
        cls,
        parameters: Mapping[str, Sequence[int]],
        aliases: Sequence[Callable[[Sequence[str]], Aliases]] = (),
    ) -> Names:
        """Of a model's parameters {name: shape} in diffusers' names, with further names of them."""
        names = list(dict.fromkeys(name.rpartition(".")[0] for name in parameters))
        modules: dict[str, tuple[str, ...]] = {}
        swapped: set[str] = set()
        for name in names:
            modules[flat(name)] = (name,)
        for name in names:
            for wrapper in _WRAPPERS:
                if name.startswith(wrapper):
                    modules.setdefault(flat(name[len(wrapper) :]), (name,))
        for further in aliases:
            for alias, pieces, swap in further(names):
                if flat(alias) not in modules and swap:
                    swapped.add(flat(alias))
                modules.setdefault(flat(alias), pieces)
        return cls(parameters, modules, frozenset(swapped))

    def find(self, name: str, parameter: str = "weight") -> list[Piece]:
        """The parameters that a module's name means, in any spelling; none if it is unknown."""
        for spelling in _spellings(flat(name)):
            if spelling not in self.modules:
                continue
            full = [f"{module}.{parameter}" for module in self.modules[spelling]]
            if any(item not in self.parameters for item in full):
                continue
            shapes = [self.parameters[item] for item in full]
            if spelling in self.swapped:
                half = shapes[0][0] // 2
                return [(full[0], shapes[0], ((half, 2 * half), (0, half)))]
            if len(full) == 1:
                return [(full[0], shapes[0], None)]
            pieces: list[Piece] = []
            at = 0
            for item, shape in zip(full, shapes, strict=True):
                pieces.append((item, shape, ((at, at + shape[0]),)))
                at += shape[0]
            return pieces
        return []


_WRAPPERS = ("text_model.", "model.", "language_model.", "model.language_model.")
"""What text encoders' layers lie in, or not, by the class that they were loaded with."""


def flat(name: str) -> str:
    """kohya's spelling, in which dots are underscores."""
    return name.replace(".", "_")


def _spellings(name: str) -> Iterator[str]:
    """The name, then what old diffusers called it (attention processors, to_out without 0)."""
    name = name.replace("_processor_to_", "_to_")
    yield name
    for wrapper in map(flat, _WRAPPERS):
        if name.startswith(wrapper):
            yield name[len(wrapper) :]
    if name.endswith("_to_out"):
        yield name + "_0"
    old = re.fullmatch(r"(?:text_model_)?(.+_self_attn)_to_(q|k|v|out)", name)
    if old:
        yield f"{old.group(1)}_{old.group(2)}_proj"
