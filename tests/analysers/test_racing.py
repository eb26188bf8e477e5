from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysers.metrics.metric import declared
from analysers.racing import EARLY, Asked, _picks, _together_below, looks, settled
from analysers.ranking import decide
from analysers.runs.race import Race, in_turn
from analysers.statistics import ERROR
from analysers.study import Candidate, Score

STRENGTHS = ("0", "0.5", "1", "1.5", "2")


def rows_of(
    means: dict[str, float], cases: int, spread: float = 1.0, seed: int = 0, seeds: int = 1
) -> dict[tuple[str, int], Score]:
    """By (strength or "control", case): BRISQUE is the case's level, the mean, and noise."""
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = {}
    for k in range(cases):
        prompt, number = f"prompt {k // seeds}", k % seeds + 1
        case = f"p{k // seeds:02d}_s{number}"
        level = float(rng.normal(25, 10))

        def values(mean: float, ssim: float, level: float = level) -> dict[str, float]:
            return {"brisque": level + mean + spread * float(rng.standard_normal()), "ssim": ssim}

        control = Score(None, case, prompt, number, f"c/{case}", "", values(0.0, 1.0))
        rows["control", k] = control
        for strength, mean in means.items():
            who = Candidate("l", strength=Decimal(strength))
            own = values(mean, 1 - 0.3 * float(strength))
            if strength == "0":
                own = dict(control.values)
            image = f"{strength}/{case}"
            rows[strength, k] = Score(who, case, prompt, number, image, control.image, own)
    return rows


def run(rows, asked=None):
    race = Race(rows, asked or Asked("strength", resamples=200))
    seen, blocks = {}, []
    while cells := race.ask(seen):
        blocks.append(list(cells))
        seen |= {cell: rows[cell] for cell in cells}
    return race, seen, blocks


def verdict(rows, error=ERROR):
    return decide(list(rows.values()), kind="strength", error=error, resamples=200)[1]


def test_looks_come_ever_less_often_and_end_with_the_last_case():
    assert looks(24) == [4, 6, 9, 14, 21, 24]
    assert looks(4) == [4]
    assert looks(3) == [3]
    assert looks(1) == [1]


def test_every_prompt_has_its_turn_before_a_second_seed():
    rows = rows_of({"1": 0.0}, 6, seeds=3)
    assert in_turn(rows.values()) == ["p00_s1", "p01_s1", "p00_s2", "p01_s2", "p00_s3", "p01_s3"]


def test_a_wreck_and_what_lies_beyond_get_no_more_pictures():
    rows = rows_of({"0": 0, "0.5": 0, "1": 0, "1.5": 40, "2": 60}, 24)
    race, seen, _ = run(rows)
    for strength in ("1.5", "2"):
        cases, outcome = race.stopped[Candidate("l", strength=Decimal(strength))]
        assert outcome == "beyond" and cases <= 6
        assert sum(cell[0] == strength for cell in seen) == cases
    assert len(seen) < 0.5 * len(rows)
    full, raced = verdict(rows), verdict(seen, ERROR - EARLY)
    assert raced.recommended == full.recommended == Candidate("l", strength=Decimal("1"))
    assert raced.breakdown == full.breakdown == Candidate("l", strength=Decimal("1.5"))


def test_what_cannot_be_told_runs_to_the_full_grid():
    # far noisier than the margin: neither clean nor broken can be foreseen
    rows = rows_of({"0.5": 3.0, "1": 4.0, "1.5": 5.0, "2": 6.0}, 9, spread=12.0)
    _, seen, _ = run(rows)
    assert seen == rows


def test_the_control_of_a_case_comes_with_its_candidates_and_stops_with_the_last():
    rows = rows_of({"0.5": 0.0, "2": 40.0}, 24, spread=0.5)
    _, seen, blocks = run(rows)
    for block in blocks:
        cases = {k for _, k in block}
        assert {("control", k) for k in cases} <= set(seen)
    last = max(k for name, k in seen if name == "0.5")
    assert max(k for name, k in seen if name == "control") == last < 23


def test_who_others_are_compared_with_runs_as_long_as_they_do():
    for seed in range(12):
        race, seen, _ = run(rows_of({"0.5": 0.0, "1": 0.2, "1.5": 0.4}, 24, 0.5, seed))
        lengths = sorted(sum(name == s for name, _ in seen) for s in ("0.5", "1", "1.5"))
        assert lengths[-1] == lengths[-2], race.stopped


def test_too_few_cases_for_a_look_are_all_rendered():
    rows = rows_of({"1": 0.0, "2": 90.0}, 3)
    _, seen, blocks = run(rows)
    assert len(blocks) == 1 and seen == rows


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_a_metric_that_is_better_when_higher_races_likewise(better):
    sign = 1 if better == "lower" else -1
    rows = {
        cell: Score(
            **{**vars(row), "values": {**row.values, "brisque": sign * row.values["brisque"]}}
        )
        for cell, row in rows_of({"1": 0.0, "2": 40.0}, 12).items()
    }
    race, _, _ = run(rows, Asked("strength", better=better, margin=5.0, resamples=200))
    assert race.stopped[Candidate("l", strength=Decimal("2"))] == (4, "beyond")


def test_signs_of_over_cooking_that_may_still_show_keep_a_candidate_running():
    rows = rows_of({"0.5": 0.0, "1": 0.0}, 24, spread=0.5, seed=2)
    calm, _, _ = run(rows)
    rng = np.random.Generator(np.random.PCG64(1))
    for (name, k), row in rows.items():
        ratio = 1.3 * float(np.exp(0.2 * rng.standard_normal())) if name == "1" else 1.0
        rows[name, k] = Score(**{**vars(row), "values": {**row.values, "rms_contrast": ratio}})
    race, _, _ = run(rows)
    strong = Candidate("l", strength=Decimal("1"))
    assert calm.stopped[strong] == (4, "settled")
    assert strong not in race.stopped or race.stopped[strong][0] > 4


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-5, 60), min_size=2, max_size=5),
    st.integers(4, 14),
    st.floats(0, 8),
    st.integers(0, 2**16),
    st.data(),
)
def test_a_race_cut_off_anywhere_goes_on_where_it_was(means, cases, spread, seed, data):
    rows = rows_of(dict(zip(STRENGTHS, means, strict=False)), cases, spread, seed)
    race, seen, _ = run(rows)
    cut = dict(list(seen.items())[: data.draw(st.integers(0, len(seen)))])
    again = Race(rows, Asked("strength", resamples=200))
    while cells := again.ask(cut):
        cut |= {cell: rows[cell] for cell in cells}
    assert cut == seen
    assert again.stopped == race.stopped


def test_early_looks_find_next_to_nothing_in_flat_sweeps():
    """4 looks share 1 %: of 300 flat studies with 8 candidates at most 10 may be stopped as broken
    (P < 1e-3 at 1 %)."""
    strengths = [str(Decimal(k) / 4) for k in range(1, 9)]
    wrong = 0
    for seed in range(300):
        rows = rows_of(dict.fromkeys(strengths, 0.0), 9, spread=6.0, seed=seed)
        first = [row for (_, k), row in rows.items() if k < 6]
        done = settled(first, Asked("strength", resamples=100), 9, 2)
        wrong += "beyond" in done.values()
    assert wrong <= 10


def with_adherence(rows, drops):
    """The rows, each also with an adherence that a strength lowers by so much."""
    rng = np.random.Generator(np.random.PCG64(7))
    return {
        (strength, k): replace(
            row,
            values={
                **row.values,
                "adherence": 0.5 - drops.get(strength, 0.0) + 0.001 * rng.standard_normal(),
            },
        )
        for (strength, k), row in rows.items()
    }


def test_what_is_asked_decides_what_is_raced():
    """A strength that has lost its prompts is no choice, and the one that has not is raced to the
    end: the answer is that of all pictures, by both criteria."""
    means = {"0.5": 0, "1": 0, "1.5": 0, "2": 0}
    drop = 20 * declared("adherence").margin
    rows = with_adherence(rows_of(means, 24, spread=0.3), {"1.5": drop, "2": drop})
    race, seen, _ = run(rows)
    full, raced = verdict(rows), verdict(seen, ERROR - EARLY)
    assert full.recommended == raced.recommended == Candidate("l", strength=Decimal("1"))
    assert [c.name for c in raced.criteria] == ["brisque", "adherence"]
    out = [Candidate("l", strength=Decimal(s)) for s in ("0.5", "1.5", "2")]
    assert {race.stopped[c][1] for c in out} == {"settled"}
    assert len(seen) < 0.6 * len(rows)
    alone, _, _ = run(rows_of(means, 24, spread=0.3))
    assert alone.stopped[Candidate("l", strength=Decimal("1"))][1] == "settled", "by BRISQUE, 2 is"


def test_an_adherence_near_its_margin_is_raced_on():
    rows = with_adherence(
        rows_of({"0.5": 0, "1": 0, "2": 0}, 24, spread=0.3),
        {"2": declared("adherence").margin - 0.0002},
    )
    race, _, _ = run(rows)
    stopped = race.stopped.get(Candidate("l", strength=Decimal("2")))
    assert stopped is None or stopped[0] > 9


def test_where_references_tell_nothing_is_outdone_by_effect():
    rng = np.random.Generator(np.random.PCG64(3))
    rows = {
        cell: replace(row, values={**row.values, "reference_likeness": rng.uniform(0.4, 0.6)})
        for cell, row in rows_of({"0.5": 0, "1": 0, "2": 0}, 24, spread=0.3).items()
    }
    race, seen, _ = run(rows)
    assert not race.stopped and len(seen) == len(rows)


def test_which_is_recommended_in_each_draw() -> None:
    """The strongest that is clean and level, free of signs where one is; else the lowest."""
    clean = np.array([[True, True, True], [True, True, False], [False, False, False],
                      [True, True, True]])  # fmt: skip
    behind = np.array([[0.0, 1.0, 9.0], [0.0, 1.0, 2.0], [3.0, 0.0, 1.0], [9.0, 0.0, 1.0]])
    weakest_first = np.array([0, 1, 2])

    def picks(calm: list[float], fits: list[float]) -> list[int]:
        found = _picks(
            clean, behind, np.full(3, 3.0), np.array(calm), np.array(fits), weakest_first
        )
        return found.tolist()

    assert picks([1, 1, 1], [1, 1, 1]) == [1, 1, 1, 2]
    assert picks([1, 0, 1], [1, 1, 1]) == [0, 0, 1, 2], "signs stand against the second"
    assert picks([0, 0, 0], [1, 1, 1]) == [1, 1, 1, 2], "or against all"
    assert picks([1, 1, 1], [1, 1, 0]) == [1, 1, 1, 1], "the third lost its prompts"


def test_as_many_go_as_are_seldom_chosen_together() -> None:
    a, b, c, d = (Candidate("l", strength=Decimal(s)) for s in ("1", "2", "3", "4"))
    assert _together_below(0.02, {a: 0.015, b: 0.004, c: 0.0, d: 0.981}) == {a, b, c}
    assert _together_below(0.02, {a: 0.017, b: 0.004, c: 0.0, d: 0.979}) == {b, c}
    unknown = dict.fromkeys((a, b), float("nan"))
    assert _together_below(0.02, unknown) == set(), "few prompts say nothing"


def test_a_race_ends_once_one_is_certain_and_nothing_else_is_open() -> None:
    rows = rows_of({"0.5": 0.0, "1": 40.0, "1.5": 60.0}, 24, spread=0.5)
    race, seen, _ = run(rows)
    assert {outcome for _, outcome in race.stopped.values()} == {"beyond", "settled"}
    assert max(cases for cases, _ in race.stopped.values()) <= 6 and len(seen) < len(rows) / 3
