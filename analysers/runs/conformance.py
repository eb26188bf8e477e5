"""What every chooser keeps to, as a test that any of them can be run through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from analysers.runs.chooser import Chooser
from analysers.study import Score

C = TypeVar("C")


def chooser_conforms(
    open_chooser: Callable[[], Chooser[C]],
    scored: Callable[[C], Score],
    control_of: Callable[[C], C],
    *,
    at_most: int = 10_000,
) -> Sequence[C]:
    """The cells that it asks for, in order, when each is answered by `scored`.

    `control_of` a control is itself. Raises AssertionError with the rule that is broken.
    """
    chooser, twin = open_chooser(), open_chooser()
    scores: dict[C, Score] = {}
    while asked := list(chooser.ask(dict(scores))):
        assert list(twin.ask(dict(scores))) == asked, "the same scores, the same question"
        fresh = [cell for cell in asked if cell not in scores]
        assert fresh, "what has a score is not asked again for ever"
        known = {*scores, *asked}
        assert all(control_of(cell) in known for cell in fresh), "no cell without its control"
        scores.update((cell, scored(cell)) for cell in fresh)
        assert len(scores) <= at_most, "it comes to an end"
    whole = open_chooser()
    assert not [c for c in whole.ask(dict(scores)) if c not in scores], "a finished study is over"
    return tuple(scores)
