"""Numbers and lists as the sentences show them."""

from decimal import Decimal

import pytest

from analysers.phrases import listed, number, span
from analysers.study import Candidate, Interval, Summary
from analysers.wording import signs_seen


@pytest.mark.parametrize(
    "value, text",
    [
        (23.04, "23.0"),
        (-7.0, "-7.0"),
        (0.8712, "0.871"),
        (114.2, "114"),
        (-0.05, "-0.05"),
        (0.00001, "0"),
        (0.00041, "0.00041"),
        (0.0, "0"),
        (float("nan"), "unknown"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


def test_lists():
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"


def summary(strength: str, place: int = 0, **metrics: Interval) -> Summary:
    candidate = Candidate(strength=Decimal(strength), place=place, label=f"epoch {place + 1}")
    return Summary(candidate, 1, 12, metrics)


def test_runs_of_strengths_become_ranges():
    walk = [summary(f"0.{k}") for k in range(1, 9)]

    def chosen(*places):
        return [walk[p].candidate for p in places]

    assert span(chosen(0, 1, 2), walk, "strength") == "0.1 to 0.3"
    assert span(chosen(6, 0, 1), walk, "strength") == "0.1, 0.2 and 0.7"
    assert span(chosen(0, 1, 2, 4, 5, 6, 7), walk, "strength") == "0.1 to 0.3 and 0.5 to 0.8"


def test_the_plane_is_told_by_checkpoint():
    walk = [summary(f"0.{k}", place) for place in (0, 1) for k in (2, 4, 6, 8)]

    def chosen(*places):
        return [walk[p].candidate for p in places]

    assert span(chosen(0, 1, 2, 7), walk, "plane") == "epoch 1 at 0.2 to 0.6 and epoch 2 at 0.8"
    assert span(chosen(0, 1, 7), walk, "plane") == "epoch 1 at 0.2 and 0.4; epoch 2 at 0.8"


def test_a_sign_must_be_large_and_sure():
    sure = summary(
        "1.4", rms_contrast_ratio=Interval(1.4, 1.2, 1.6), clipped_change=Interval(0.08, 0.02, 0.1)
    )
    assert signs_seen(sure, 0.2) == [
        "contrast is 1.4 times the control's",
        "another 8 % of the pixels are clipped",
    ]
    unsure = summary(
        "1.4", rms_contrast_ratio=Interval(1.4, 0.9, 2.0), clipped_change=Interval(0.03, 0.02, 0.1)
    )
    assert signs_seen(unsure, 0.2) == []
    alike = summary("1.4", likeness=Interval(0.31))
    assert signs_seen(alike, 0.2) == ["prompts have begun to look alike"]
    assert signs_seen(alike, float("nan")) == []
