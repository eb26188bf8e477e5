"""A verdict's sentences for readers: what speaks for the answer, what against it, what is not known
and how it was judged, the most telling first."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from analysers.study import Sentence, Verdict

Side = Literal["for", "against", "unknown", "how"]

SIDES: dict[Side, tuple[str, ...]] = {
    "for": (
        "lowest", "best_level", "best_beyond", "best_without_lora", "against_control", "zone",
        "frontier", "probability", "strongest_clean", "no_breakdown", "effect", "likeness", "range",
        "level",
    ),
    "against": (
        "found", "second_opinion", "worse_than_control", "undecided", "breakdown_by", "leak",
        "breakdown", "breakdown_elsewhere", "recovers",
    ),
    "unknown": (
        "would_decide", "few_prompts", "one_prompt", "failed", "unscored", "missing",
        "unsure", "none_clean", "content", "unseen", "sure", "settled",
    ),
    "how": ("clean", "noise_floor"),
}  # fmt: skip
"""What a sentence of each code does for the answer."""

_SIDE_OF = {code: side for side, codes in SIDES.items() for code in codes}
_PLACE = {code: place for codes in SIDES.values() for place, code in enumerate(codes)}


@dataclass(frozen=True)
class Part:
    """The sentences of one side."""

    side: Side
    sentences: tuple[Sentence, ...]

    @property
    def cautions(self) -> tuple[str, ...]:
        """The words of its cautions."""
        return tuple(s.text for s in self.sentences if s.role == "caution")

    @property
    def others(self) -> tuple[str, ...]:
        """The words of the rest."""
        return tuple(s.text for s in self.sentences if s.role != "caution")


def argument(verdict: Verdict, leave: int = 2) -> list[Part]:
    """The sentences by side, without the first `leave` of the answer; sides without are left out.

    An unknown caution argues against, any other unknown sentence for the answer.
    """
    answer = [s for s in verdict.sentences if s.role == "answer"][leave:]
    rest = [s for s in verdict.sentences if s.role != "answer"]
    found: dict[Side, list[Sentence]] = {side: [] for side in SIDES}
    for sentence in (*answer, *rest):
        other: Side = "against" if sentence.role == "caution" else "for"
        found[_SIDE_OF.get(sentence.code, other)].append(sentence)
    return [
        Part(side, tuple(sorted(said, key=lambda s: _PLACE.get(s.code, 99))))
        for side, said in found.items()
        if said
    ]


def reasons(verdict: Verdict, most: int) -> list[str]:
    """The few most telling sentences beside answer and cautions, one of each side before a
    second."""
    parts = argument(verdict)
    own = [[s for s in part.sentences if s.role in ("why", "how")] for part in parts]
    turns = [s for turn in zip_longest(*own) for s in turn if s is not None]
    turns.sort(key=lambda s: s.role == "how")
    return [s.text for side in own for s in side if s in turns[:most]]
