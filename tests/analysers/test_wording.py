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
    at = Decimal(strength)
    candidate = Candidate(epoch=place + 1, strength=at, place=place, label=f"epoch {place + 1}")
    return Summary(candidate, 1, 12, metrics)


def test_runs_of_strengths_become_ranges():
    walk = [summary(f"0.{k}").candidate for k in range(1, 9)]

    def said(*places):
        return span([walk[p] for p in places], reversed(walk), "strength")

    assert said(4) == "strength 0.5"
    assert said(0, 1, 2) == "strengths 0.1 to 0.3"
    assert said(6, 0, 1) == "strengths 0.1, 0.2 and 0.7"
    assert said(0, 1, 2, 4, 5, 6, 7) == "strengths 0.1 to 0.3 and 0.5 to 0.8"


def test_a_long_list_is_told_as_its_number():
    walk = [summary(f"0.{k:02d}").candidate for k in range(1, 41)]
    assert span(walk[::2], walk, "strength") == "20 settings"
    names = [Candidate(label=f"a run with a very long name, number {k}", place=k) for k in range(9)]
    assert span(names[:2], names, "epochs").count("very long name") == 2  # a pair is named
    assert span(names[::2], names, "epochs") == "5 settings"


@pytest.mark.parametrize(
    "labels, chosen, text",
    [
        (["epoch 1", "epoch 2", "epoch 3", "epoch 4"], (0, 1, 2), "epochs 1 to 3"),
        (["epoch 1", "epoch 2", "epoch 3", "epoch 4"], (0, 3), "epochs 1 and 4"),
        (["epoch 1", "epoch 2", "epoch 3", "final"], (0, 1, 2), "epochs 1 to 3"),
        (["epoch 1", "epoch 2", "epoch 3", "final"], (1, 2, 3), "epoch 2 to final"),
        (["step 500", "step 1000", "step 1500"], (0, 2), "steps 500 and 1500"),
        (["epoch 1", "step 1000"], (0, 1), "epoch 1 and step 1000"),
        (["mine", "yours"], (1,), "yours"),
    ],
)
def test_checkpoints_are_told_under_one_noun(labels, chosen, text):
    def candidate(place, label):
        noun, _, number = label.partition(" ")
        return Candidate(place=place, label=label, **{noun: int(number)} if number else {})

    walk = [candidate(place, label) for place, label in enumerate(labels)]
    assert span([walk[p] for p in chosen], walk, "epochs") == text


def test_the_plane_is_told_by_checkpoint():
    walk = [summary(f"0.{k}", place).candidate for place in range(5) for k in (2, 4, 6, 8)]

    def said(*chosen):
        found = [c for c in walk if (c.place + 1, float(c.strength)) in chosen]
        assert len(found) == len(chosen)
        return span(found, walk, "plane")

    assert said((1, 0.2), (1, 0.4), (1, 0.6), (2, 0.8)) == (
        "epoch 1 at 0.2 to 0.6 and epoch 2 at 0.8"
    )
    assert said((1, 0.2), (1, 0.4), (2, 0.8)) == "epoch 1 at 0.2 and 0.4; epoch 2 at 0.8"
    block = [(e, s) for e in (1, 2, 3) for s in (0.4, 0.6, 0.8)]
    assert said(*block) == "epochs 1 to 3 at 0.4 to 0.8"
    assert said(*block, (5, 0.2)) == "epochs 1 to 3 at 0.4 to 0.8 and epoch 5 at 0.2"
    assert said((1, 0.2), (2, 0.6), (3, 0.2), (4, 0.6), (5, 0.4), (5, 0.8)) == "6 settings"
    loose = Candidate(epoch=6, place=5, label="epoch 6")
    assert span([walk[0], loose], [*walk, loose], "plane") == "epoch 1 at 0.2 and epoch 6"


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
