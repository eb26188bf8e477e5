"""The answer, as data and as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from analysers.study.rows import Candidate

Role = Literal["answer", "why", "how", "caution"]
Confidence = Literal["none", "low", "moderate", "good", "high"]


@dataclass(frozen=True)
class Sentence:
    """One thing that is said: in words for people, as data for programs.

    `code` names what is said, of `candidates`, with `values`; nothing reads the words back. The
    role says where it belongs: "answer" (the first is the headline), "why" the answer is that,
    "how" it was judged, "caution".
    """

    role: Role
    code: str
    text: str
    candidates: tuple[Candidate, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Criterion:
    """A metric's range: the candidates that are still as good by it as they have to be."""

    name: str
    inside: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The answer, as data and as sentences.

    `best` has the lowest mean of the ranked metric (or the highest, where that is better);
    `contenders` cannot be told from it. `recommended` is what to use: never beyond a breakdown,
    None where nothing can be recommended. `level` are the candidates it was chosen from, itself
    among them: not beyond a breakdown, and not told apart in quality. `why` holds codes:

    * "alone": no other is level with it; "most_effect": it has the most clean effect of those that
      are; "lowest": it comes first of them, as none is shown to be clean;
    * "signs": a level one with more effect shows signs of over-cooking;
    * "best_beyond", "best_without_lora": why the best itself was no choice;
    * "most_likeness": it has the most likeness to references of those inside all ranges;
      "criteria": it is not what the ranked metric alone would say;
    * "one_case", "all_broken", "no_lora", "ranges_apart": why there is none.

    `criteria` are the ranges of all metrics that have one, where there are several; `front` is the
    trade-off where they do not meet: what no other candidate surpasses in all of them.

    `confidence` is in the recommendation. `sentences` come by role, most important first.
    """

    best: Candidate | None = None
    recommended: Candidate | None = None
    level: tuple[Candidate, ...] = ()
    why: tuple[str, ...] = ()
    confidence: Confidence = "none"
    contenders: tuple[Candidate, ...] = ()
    strongest_clean: Candidate | None = None
    breakdown: Candidate | None = None
    plateau: Candidate | None = None
    zone: tuple[Candidate, ...] = ()
    sentences: tuple[Sentence, ...] = ()
    criteria: tuple[Criterion, ...] = ()
    front: tuple[Candidate, ...] = ()

    @property
    def pick(self) -> Candidate | None:
        """What reports mark: the recommended, or the best where none is."""
        return self.recommended or self.best

    @property
    def headline(self) -> str:
        """The first sentence of the answer."""
        return next(iter(self.texts("answer")), "")

    @property
    def answer(self) -> str:
        """The sentences people came for."""
        return " ".join(self.texts("answer"))

    @property
    def arguments(self) -> tuple[str, ...]:
        """The sentences that argue the answer."""
        return self.texts("why", "how")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the answer less certain, most serious first."""
        return self.texts("caution")

    def texts(self, *roles: Role) -> tuple[str, ...]:
        """The words of all sentences with one of the roles."""
        return tuple(s.text for s in self.sentences if s.role in roles)
