"""Strengths translated by their effect: known curves, what lies beyond, and refusals."""

import math
from dataclasses import replace
from decimal import Decimal
from xml.etree import ElementTree

import numpy as np
import pytest

from analysers.ranking import decide
from analysers.study import Candidate, Score, Study
from analysers.translation import factor, translate
from generation.errors import UserError
from reports.comparison import draw
from reports.drawing import standalone


def study(factor: float, strengths: str = "0.2 0.4 0.6 0.8 1.0", noise: float = 0.0) -> Study:
    """A sweep whose effect is 0.5 * factor * strength, more of it in some prompts."""
    random = np.random.default_rng(1)
    rows = [
        Score(
            Candidate(strength=Decimal(text)) if text else None,
            f"p{case}_s1", f"prompt {case}", 1, f"{text}/{case}", f"/{case}" if text else "",
            {"brisque": 20.0}
            | (
                {"ssim": 1 - 0.5 * factor * float(text) * (1 + case / 20) - random.normal(0, noise)}
                if text
                else {}
            ),
        )
        for text in ("", *strengths.split())
        for case in range(8)
    ]  # fmt: skip
    summaries, verdict = decide(rows, kind="strength", resamples=50)
    return Study(
        "strength",
        "a run",
        "brisque",
        "lower",
        ("ssim", "brisque"),
        tuple(rows),
        summaries,
        verdict,
    )


@pytest.mark.parametrize("factor", [0.5, 1.0, 0.8])
def test_a_base_that_takes_a_lora_otherwise_is_known(factor: float) -> None:
    found = translate(study(factor), study(1.0))
    for one in found:
        assert one.other.mean == pytest.approx(factor * one.strength)
        assert one.other.low == pytest.approx(one.other.mean, abs=1e-6)
        assert one.other.high == pytest.approx(one.other.mean, abs=1e-6)


def test_what_lies_beyond_the_strongest_is_no_number() -> None:
    found = translate(study(2.0), study(1.0))
    assert [math.isnan(one.other.mean) for one in found] == [False, False, True, True, True]
    drawn = ElementTree.fromstring(standalone(draw(found)))
    assert "same effect here at" in "".join(drawn.itertext())


def test_bounds_hold_the_truth_and_grow_with_noise() -> None:
    found = translate(study(0.8, noise=0.02), study(1.0, noise=0.03))
    widths = [one.other.high - one.other.low for one in found if math.isfinite(one.other.high)]
    assert min(widths) > 0.005
    held = [one.other.low - 0.02 <= 0.8 * one.strength <= one.other.high + 0.02 for one in found]
    assert sum(held) >= 4


def test_other_prompts_and_other_kinds_are_refused() -> None:
    run = study(1.0)
    strange = replace(run, scores=tuple(replace(s, prompt="x" + s.prompt) for s in run.scores))
    with pytest.raises(UserError, match="share fewer than two"):
        translate(run, strange)
    with pytest.raises(UserError, match="no strength sweep"):
        translate(run, replace(run, kind="epochs"))


@pytest.mark.parametrize("applied", [0.0, 0.25, 0.5, 0.8, 1.0, 1.5, 2.0])
def test_how_much_a_run_applies_is_told_by_the_other(applied: float) -> None:
    found = factor(study(applied), study(1.0))
    assert found.mean == pytest.approx(applied)
    assert (found.low, found.high) == pytest.approx((applied, applied))


def test_a_run_applies_as_much_as_itself_even_past_its_strongest_effect() -> None:
    run = study(1.0)
    falls = {Decimal("0.8"): 0.55, Decimal("1.0"): 0.8}
    scores = tuple(
        replace(s, values=s.values | {"ssim": falls[s.candidate.strength]})
        if s.candidate and s.candidate.strength in falls
        else s
        for s in run.scores
    )
    run = replace(run, scores=scores)
    assert factor(run, run).mean == pytest.approx(1)


def test_effects_beyond_all_of_the_other_run_tell_no_factor() -> None:
    assert math.isnan(factor(study(9.0, "0.8 1.0"), study(1.0)).mean)


def test_cases_that_tell_no_prompt_or_share_one_stay_apart() -> None:
    one, other = study(0.8, noise=0.02), study(1.0, noise=0.02)
    told = translate(one, other)

    def changed(run: Study, **fields: object) -> Study:
        return replace(run, scores=tuple(replace(s, **fields) for s in run.scores))

    bare = {"prompt": "", "seed": None}
    assert translate(changed(one, **bare), changed(other, **bare)) == told
    same = {"prompt": "make it snow"}  # eight pictures that are edited by one prompt
    found = translate(changed(one, **same), changed(other, **same))
    assert [t.other.mean for t in found] == [t.other.mean for t in told]
    assert all(t.other.low < t.other.mean for t in found[:3])
