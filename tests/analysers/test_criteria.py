"""Several criteria: inside all ranges, or the trade-off; one metric decides as it always did."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from analysers.criteria import from_control
from analysers.ranking import decide
from analysers.scores import tabulate
from analysers.study import Candidate, Score, Verdict

STRENGTHS = ("0.2", "0.4", "0.6", "0.8", "1.0")
CASES = 12


def scored(levels: Mapping[str, tuple[float, ...]], spread: float = 0.01) -> list[Score]:
    """Rows whose metrics have these means: the control's first, then one a strength."""
    noise = np.random.default_rng(1).normal(0, spread, (len(STRENGTHS) + 1, CASES, len(levels)))
    return [
        Score(
            Candidate(strength=Decimal(STRENGTHS[s - 1])) if s else None,
            f"p{c:02d}_s1", f"prompt {c}", 1, f"{s}/{c}", f"0/{c}" if s else "",
            {
                name: means[s] + float(noise[s, c, k])
                for k, (name, means) in enumerate(levels.items())
                if s or name != "ssim"
            },
        )
        for s in range(len(STRENGTHS) + 1)
        for c in range(CASES)
    ]  # fmt: skip


def answer(**levels: tuple[float, ...]) -> Verdict:
    ssim = (1, 0.95, 0.9, 0.8, 0.7, 0.6)
    return decide(scored({"brisque": (25,) * 6, "ssim": ssim, **levels}), kind="strength")[1]


def strength(verdict: Verdict) -> str | None:
    return None if verdict.recommended is None else str(verdict.recommended.strength)


def inside(verdict: Verdict, name: str) -> list[str]:
    (found,) = (one for one in verdict.criteria if one.name == name)
    return [str(c.strength) for c in found.inside]


def test_one_metric_decides_as_it_did() -> None:
    alone = answer()
    assert strength(alone) == "1.0" and not alone.criteria and not alone.front
    described = answer(texture=(1, 2, 3, 4, 5, 6))  # which has no range
    assert replace(described, sentences=()) == replace(alone, sentences=())


def test_content_lost_bounds_the_strength() -> None:
    found = answer(adherence=(0.97, 0.97, 0.97, 0.96, 0.6, 0.4))
    assert strength(found) == "0.6" and found.why == ("most_effect", "criteria")
    assert inside(found, "adherence") == ["0.2", "0.4", "0.6"]
    assert inside(found, "brisque") == list(STRENGTHS)
    assert "in range in BRISQUE and adherence" in found.answer


def test_where_no_picture_can_be_compared_there_is_no_range() -> None:
    """The base model shows none of the prompts: adherence is undefined everywhere."""
    nothing = answer(adherence=(np.nan,) * 6)
    assert strength(nothing) == "1.0" and not nothing.criteria
    assert not from_control(tabulate(scored({"adherence": (np.nan,) * 6}), "strength"), "brisque")


def test_the_most_likeness_wins_where_references_are_known() -> None:
    like = (0.2, 0.3, 0.4, 0.6, 0.5, 0.3)
    found = answer(adherence=(0.97,) * 6, reference_likeness=like)
    assert strength(found) == "0.6" and found.why == ("most_likeness", "criteria")
    assert inside(found, "reference_likeness") == ["0.6"]


@pytest.mark.parametrize("lost", [(0.6, 0.55), (0.6, 0.4), (0.4, 0.0)])
@pytest.mark.parametrize("like", [(0.5, 0.5, 0.5), (0.5, 0.7, 0.9), (0.5, 0.9, 0.6), (0.1, 0.2, 1)])
def test_likeness_never_recommends_a_wreck(
    lost: tuple[float, ...], like: tuple[float, ...]
) -> None:
    """However like it is: what lost its content is out of adherence's range."""
    kept = (0.97, 0.97, 0.96, 0.95, *lost)
    found = answer(adherence=kept, reference_likeness=(0.1, 0.2, 0.3, *like))
    assert strength(found) in (None, "0.2", "0.4", "0.6")
    assert "1.0" not in inside(found, "adherence")
    alone = answer(reference_likeness=(0.1, 0.2, 0.3, *like))
    assert like[2] < 0.9 or strength(alone) == "1.0"  # as it would without


def test_what_is_known_by_heart_is_out_of_range() -> None:
    """Held-out pictures come no nearer at 0.8 and 1.0, training pictures do."""
    near = {"copying": (0.4, 0.4, 0.42, 0.42, 0.5, 0.7), "held_out_copying": (0.4,) * 6}
    found = answer(reference_likeness=(0.2, 0.3, 0.4, 0.45, 0.6, 0.9), **near)
    assert inside(found, "copying") == ["0.2", "0.4", "0.6"]
    assert inside(found, "reference_likeness") == ["0.6", "0.8", "1.0"]
    assert strength(found) == "0.6" and found.why == ("most_likeness", "criteria")
    assert "copying" not in {one.name for one in answer(copying=near["copying"]).criteria}


def test_where_ranges_do_not_meet_the_trade_off_is_shown() -> None:
    found = answer(
        adherence=(0.97, 0.97, 0.9, 0.6, 0.5, 0.1),
        reference_likeness=(0.2, 0.2, 0.3, 0.4, 0.7, 0.6),
    )
    assert found.recommended is None and found.why == ("ranges_apart",)
    assert Decimal("1.0") not in {c.strength for c in found.front} or len(found.front) > 1
    assert {Decimal("0.2"), Decimal("0.8")} <= {c.strength for c in found.front}
    assert found.headline.startswith("No setting is in range in everything")


@pytest.mark.parametrize("direction", [1, -1])
def test_ranges_do_not_depend_on_the_order_of_rows(direction: int) -> None:
    levels = {"brisque": (25.0,) * 6, "adherence": (0.97, 0.97, 0.97, 0.9, 0.6, 0.4)}
    rows = scored(levels, 0.05)
    assert decide(rows[::direction], kind="strength")[1] == decide(rows, kind="strength")[1]


def test_what_is_worse_by_more_than_the_margin_is_rarely_in_range() -> None:
    """Adherence of 0.65 in truth beside the control's 1, with the spread that pictures have."""
    random = np.random.default_rng(0)
    within = 0
    for _ in range(40):
        rows = [
            replace(r, values={"brisque": 25.0, "adherence": random.beta(2.6, 1.4)})
            if r.candidate
            else replace(r, values={"brisque": 25.0, "adherence": 1.0})
            for r in scored({"brisque": (25.0,) * 6})
        ]
        within += len(inside(decide(rows, kind="strength", resamples=300)[1], "adherence"))
    assert within <= 0.08 * 40 * len(STRENGTHS)
