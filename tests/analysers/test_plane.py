"""Checkpoint by strength by few pictures: what is asked, found, and said of the rest."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import LORA, Toy, toy_plan

from analysers.racing import Asked
from analysers.ranking import decide
from analysers.runs.conclude import load_study
from analysers.runs.conformance import chooser_conforms
from analysers.runs.loop import run_study
from analysers.runs.plane import Plane, coarse_plane, effects, spread
from analysers.runs.refine import Refine
from analysers.runs.request import Judging, StudyRequest
from analysers.study import Candidate, Interval, Score, Summary, Verdict
from generation.cells import Checkpoint
from generation.errors import UserError

Cells = dict[tuple[Candidate | None, str], Score]


def setting(place: int, strength: float | str) -> Candidate:
    return Candidate("l", place + 1, strength=Decimal(str(strength)), place=place)


def plane_of(
    places: int, strengths: int, *, learnt: float, begins: float, overtrained: float, seed: int = 0
) -> Cells:
    """Six cases. A checkpoint's effect grows along training, sooner with more `learnt`; BRISQUE
    rises by 30 points per strength beyond `begins`, which training shifts down by `overtrained`."""
    rng = np.random.Generator(np.random.PCG64(seed))
    rows: Cells = {}
    for c in range(6):
        case, level = f"p{c}_s1", rng.normal(25, 10)
        rows[None, case] = Score(None, case, case, 1, case, "", {"brisque": level, "ssim": 1.0})
        for i in range(places):
            t = (i + 1) / places
            for k in range(1, strengths + 1):
                s = 2 * k / strengths
                effect = 0.8 * (1 - np.exp(-s * (1 - np.exp(-learnt * t))))
                worse = 30 * max(0.0, s - begins + overtrained * t)
                values = {
                    "brisque": level + worse + 0.2 * rng.standard_normal(),
                    "ssim": 1 - effect + 0.001 * rng.standard_normal(),
                }
                one = setting(i, Decimal(2 * k) / strengths)
                rows[one, case] = Score(one, case, case, 1, f"{i}/{k}/{c}", case, values)
    return rows


def few(rows: Cells, *, races: bool = False) -> tuple[Cells, Refine[tuple[Candidate | None, str]]]:
    chooser = Refine(rows, Asked("plane", resamples=100), races)
    seen: Cells = {}
    while cells := chooser.ask(seen):
        seen |= {cell: rows[cell] for cell in cells}
    return seen, chooser


def answer(rows: Mapping[tuple[Candidate | None, str], Score]) -> Verdict:
    return decide(list(rows.values()), kind="plane", resamples=100)[1]


def effect_of(rows: Cells, one: Candidate | None) -> float:
    return float(np.mean([1 - r.values["ssim"] for (who, _), r in rows.items() if who == one]))


def looked_at(rows: Cells) -> set[Candidate]:
    return {one for one, _ in rows if one is not None}


@settings(max_examples=25)
@given(
    st.integers(1, 14),
    st.integers(2, 12),
    st.floats(1, 6),
    st.floats(0.3, 2.5),
    st.floats(0, 1),
    st.booleans(),
)
def test_few_pictures_answer_as_the_whole_plane_does(
    places: int, strengths: int, learnt: float, begins: float, overtrained: float, races: bool
) -> None:
    """As much effect, to what a step of the strength changes; never what is surely damaged."""
    rows = plane_of(places, strengths, learnt=learnt, begins=begins, overtrained=overtrained)
    seen, _ = few(rows, races=races)
    full, less = answer(rows), answer(seen)
    assert (full.recommended is None) == (less.recommended is None)
    if full.recommended is not None:
        step = 0.8 * (1 - np.exp(-2 / strengths))
        assert effect_of(rows, less.recommended) >= effect_of(rows, full.recommended) - step
        state = {s.candidate: s for s in decide([*rows.values()], kind="plane", resamples=100)[0]}
        assert state[less.recommended].state != "broken"


@pytest.mark.parametrize(
    ("begins", "overtrained"), [(1.3, 0.0), (1.6, 0.8), (0.9, 0.2), (9, 0)],
    ids=["a strength", "overtrained", "early", "flat"],
)  # fmt: skip
def test_a_plane_of_eighty_takes_a_third_and_names_the_same(
    begins: float, overtrained: float
) -> None:
    rows = plane_of(10, 8, learnt=3, begins=begins, overtrained=overtrained)
    seen, chooser = few(rows)
    full, less = answer(rows), answer(seen)
    assert len(looked_at(seen)) <= 28
    assert full.recommended and less.recommended
    assert effect_of(rows, less.recommended) >= effect_of(rows, full.recommended) - 0.01
    if less.recommended.place == full.recommended.place:
        assert less.breakdown == full.breakdown
    record = chooser.record()
    assert sum(record.unseen.values()) == 80 - len(looked_at(seen))
    if begins == 9:
        assert set(record.unseen) == {"less"}, "nothing breaks, and the last at 2 has most effect"
    else:
        assert record.unseen["beyond"] and record.unseen["less"]


def test_what_breaks_is_not_looked_beyond() -> None:
    """But for the recommended checkpoint's own breakdown, and what was asked at once."""
    rows = plane_of(12, 12, learnt=3, begins=1.0, overtrained=0.2)
    seen, _ = few(rows)
    less = answer(seen)
    broken = {c for c in looked_at(seen) if c.strength > Decimal("1")}
    first = set(coarse_plane(looked_at(rows)))
    assert less.recommended and len(broken - first) <= 8, sorted(map(str, broken - first))
    assert {c.place for c in broken - first if c.strength > Decimal("1.5")} <= {
        less.recommended.place
    }


def test_lines_of_equal_effect() -> None:
    """Half the strength of the last checkpoint has the effect of the first, which learnt half."""
    ten = [Decimal(k) / 5 for k in range(1, 11)]
    candidates = [setting(i, s) for i in range(3) for s in ten]

    def effect(c: Candidate) -> float:
        return 0.3 * float(c.strength or 0) * (0.5 + 0.25 * c.place)

    def summary(c: Candidate) -> Summary:
        return Summary(c, 1, 6, {"ssim": Interval(1 - effect(c))})

    plane = Plane(candidates)
    known = {c: summary(c) for c in candidates if c.place != 1 and c.strength in (ten[4], ten[9])}
    found = effects(plane, known)
    assert np.allclose(found, [[effect(plane.at[i, k]) for k in range(10)] for i in range(3)])
    # one setting of the middle one, twice what was expected: its curve is that much higher
    middle = setting(1, ten[4])
    known[middle] = Summary(middle, 1, 6, {"ssim": Interval(1 - 2 * effect(middle))})
    twice = effects(plane, known)
    assert np.allclose(twice[1], [2 * effect(plane.at[1, k]) for k in range(10)])
    assert (np.diff(twice, axis=1) >= 0).all()
    assert not effects(plane, {}).any()


@given(st.integers(1, 60), st.integers(1, 9))
def test_some_are_spread_evenly_with_the_last(count: int, about: int) -> None:
    found = spread(count, about)
    assert found[-1] == count - 1 and 1 <= len(found) <= about
    assert len({b - a for a, b in zip(found, found[1:], strict=False)}) <= 1


def test_negative_strengths_are_a_plane_of_their_own() -> None:
    rows = plane_of(8, 4, learnt=3, begins=9, overtrained=0)
    other = {
        (replace(c, strength=-c.strength), case): replace(
            row, candidate=replace(c, strength=-c.strength), image=f"-{row.image}",
            values={**row.values, "brisque": row.values["brisque"] + 40},
        )
        for (c, case), row in rows.items() if c is not None and c.strength
    }  # fmt: skip
    seen, _ = few({**rows, **other})
    assert answer(seen).recommended == answer({**rows, **other}).recommended
    assert any(c.strength < 0 for c in looked_at(seen)), "they are looked at"
    assert len(looked_at(seen)) < 40


def test_a_checkpoint_without_pictures_is_asked_no_more() -> None:
    rows = plane_of(9, 8, learnt=3, begins=1.3, overtrained=0)
    for (one, case), row in rows.items():
        if one is not None and one.place == 8:
            rows[one, case] = replace(row, values={}, status="failed", reason="it is damaged")
    seen, _ = few(rows)
    assert sum(c.place == 8 for c in looked_at(seen)) <= 3
    full, less = answer(rows), answer(seen)
    assert effect_of(rows, less.recommended) >= effect_of(rows, full.recommended) - 0.02


def test_on_a_plane_it_conforms() -> None:
    rows = plane_of(5, 6, learnt=3, begins=1.1, overtrained=0.3)
    for races in (False, True):
        chooser_conforms(
            lambda races=races: Refine(rows, Asked("plane", resamples=100), races),  # type: ignore[misc]
            rows.__getitem__,
            lambda cell: (None, cell[1]),
        )


def checkpoints(count: int) -> list[Checkpoint]:
    return [
        replace(
            LORA, path=Path(f"toy-{n:06d}.safetensors"), name=f"toy-{n:06d}", epoch=n,
            label=f"epoch {n}", tensor_hash=f"{n:x}" * 64,
        )
        for n in range(1, count + 1)
    ]  # fmt: skip


STRENGTHS = ("0.25", "0.5", "0.75", "1", "1.25", "1.5", "1.75", "2")


def test_the_whole_plane_is_continued_from_few_pictures(tmp_path: Path) -> None:
    toys = [Toy() for _ in range(4)]
    plans = [
        toy_plan(tmp_path, STRENGTHS, count=6, renderer=toy, checkpoints=checkpoints(7))
        for toy in toys
    ]
    study = run_study(plans[0], Judging(workers=0, refine=True))
    again = run_study(plans[1], Judging(workers=0, refine=True))
    assert not toys[1].painted and again.scores == study.scores
    race = study.evidence.race
    looked = {score.candidate for score in study.scores} - {None}
    assert race.cells == 7 * 8 * 6 + 6 and race.asked == len(toys[0].painted) < 0.6 * race.cells
    assert sum(race.unseen.values()) == 56 - len(looked)
    (told,) = (s for s in study.verdict.sentences if s.code == "unseen")
    assert told.text.startswith("Not looked at: ") and "beyond what breaks" in told.text
    assert load_study(tmp_path).evidence.race == race
    whole = run_study(plans[2], Judging(workers=0))
    assert len(toys[2].painted) == race.cells - race.asked and len(whole.scores) == race.cells
    assert whole.evidence.race is None
    assert not any(s.code == "unseen" for s in whole.verdict.sentences)


def test_the_disk_is_asked_for_the_pictures_that_come_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for a fine plane of which few are made."""
    plan = toy_plan(tmp_path, STRENGTHS, count=6, checkpoints=checkpoints(7))
    each = 4096 + 1.5 * 64 * 64
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(70 * each)))
    assert run_study(plan, Judging(workers=0, refine=True)).verdict.recommended
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(10 * each)))
    with pytest.raises(UserError, match="make room"):
        run_study(plan, Judging(workers=0))


def test_a_plane_of_automatic_strengths() -> None:
    request = StudyRequest.of("epochs", loras="training", strengths="auto", resolution="0.1")
    assert request.judging.refine and len(request.subject.strengths) == 20
