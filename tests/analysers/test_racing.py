from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysers.metrics.metric import declared
from analysers.racing import (
    EARLY,
    UNSEEN_DOUBT,
    Asked,
    _telling,
    _Unfinished,
    foresee,
    looks,
    unseen_that_tell,
)
from analysers.ranking import decide
from analysers.runs.race import Race, in_turn
from analysers.scores import tabulate
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


def stopped(race):
    """The candidates that got no more pictures: after how many cases, and why."""
    return {one.candidate: (one.cases, one.outcome) for one in race.record().stopped}


def run(rows, asked=None):
    race = Race(rows, asked or Asked("strength", resamples=200))
    seen, blocks = {}, []
    while cells := race.ask(seen):
        blocks.append(list(cells))
        seen |= {cell: rows[cell] for cell in cells}
    race.stopped = stopped(race)
    return race, seen, blocks


def verdict(rows, error=ERROR):
    return decide(list(rows.values()), kind="strength", error=error, resamples=200)[1]


def test_looks_come_ever_less_often_and_end_with_the_last_case():
    assert looks(24) == [4, 6, 9, 11, 15, 20, 24]
    assert looks(12) == [3, 5, 7, 10, 12]
    assert looks(8) == [2, 4, 6, 8]
    assert looks(3) == [2, 3]
    assert looks(2) == [2]
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


def test_what_cannot_be_told_takes_nearly_all_pictures():
    # far noisier than the margin: neither clean nor broken can be foreseen
    shares = []
    for seed in range(6):
        rows = rows_of({"0.5": 3.0, "1": 4.0, "1.5": 5.0, "2": 6.0}, 9, 12.0, seed)
        _, seen, _ = run(rows)
        shares.append(len(seen) / len(rows))
    assert np.mean(shares) > 0.75


def test_the_control_of_a_case_comes_with_its_candidates_and_stops_with_the_last():
    rows = rows_of({"0.5": 0.0, "2": 40.0}, 24, spread=0.5)
    _, seen, blocks = run(rows)
    for block in blocks:
        cases = {k for _, k in block}
        assert {("control", k) for k in cases} <= set(seen)
    last = max(k for name, k in seen if name == "0.5")
    assert max(k for name, k in seen if name == "control") == last < 23


def test_strength_0_is_given_what_the_control_is():
    rows = rows_of({"0": 0.0, "0.5": 0.0, "2": 40.0}, 24, spread=0.5)
    _, seen, _ = run(rows)
    assert {k for name, k in seen if name == "0"} == {k for name, k in seen if name == "control"}


def test_it_goes_into_depth_where_the_answer_turns():
    """Which of the level ones is recommended turns on the strongest."""
    given = np.zeros(4)
    for seed in range(12):
        _, seen, _ = run(rows_of(dict.fromkeys(STRENGTHS[1:], 0.0), 24, 4.0, seed))
        given += [sum(name == s for name, _ in seen) for s in STRENGTHS[1:]]
    assert given[3] > 1.3 * given[:3].mean()


def test_so_few_cases_that_one_look_is_left_are_raced_too():
    rows = rows_of({"1": 0.0, "2": 90.0}, 3, spread=0.1)
    race, seen, blocks = run(rows)
    assert len(blocks[0]) == 6
    assert verdict(seen, ERROR - EARLY).recommended == verdict(rows).recommended


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
    assert race.stopped[Candidate("l", strength=Decimal("2"))][1] == "beyond"
    assert race.stopped[Candidate("l", strength=Decimal("2"))][0] < 12


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


@settings(max_examples=15)
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
    assert stopped(again) == race.stopped


def cases_of(rows):
    return {row.case: k for k, row in enumerate(r for (n, _), r in rows.items() if n == "control")}


def test_early_looks_find_next_to_nothing_in_flat_sweeps():
    """All early looks share 1 %, each of the 3 a third: of 300 flat studies with 8 candidates at
    most 6 may be found broken at one look (P < 1e-3 at 0.33 %)."""
    strengths = [str(Decimal(k) / 4) for k in range(1, 9)]
    wrong = 0
    for seed in range(300):
        rows = rows_of(dict.fromkeys(strengths, 0.0), 12, spread=6.0, seed=seed)
        first = [row for (_, k), row in rows.items() if k < 7]
        outlook = foresee(first, Asked("strength", resamples=100), cases_of(rows), 3)
        wrong += "beyond" in outlook.outcomes.values()
    assert wrong <= 6


def test_what_the_last_level_alone_calls_broken_is_seen_on():
    """Nothing is broken by fewer than all its cases, unless at the early looks' share of error."""
    for seed in range(40):
        rows = rows_of({"0.5": 0, "1": 0, "1.5": 9, "2": 12}, 12, spread=5.0, seed=seed)
        race, seen, _ = run(rows)
        end = verdict(seen, ERROR - EARLY).breakdown
        if end in race.stopped:
            early = verdict(seen, EARLY / (len(looks(12)) - 1))
            assert early.breakdown is not None, seed
            assert race.stopped[end][1] == "beyond"


def unfinished(rows, seen):
    """What is foreseen of with rows where so many of the cases are seen, by strength."""
    some = [row for (name, k), row in rows.items() if k < seen.get(name, max(seen.values()))]
    running = [Candidate("l", strength=Decimal(s)) for s in seen]
    counts = {Candidate("l", strength=Decimal(s)): n for s, n in seen.items()}
    return _Unfinished.of(
        tabulate(some, "strength"), Asked("strength", resamples=200), running, counts,
        cases_of(rows),
    )  # fmt: skip


def test_the_rule_on_draws_is_the_rule():
    """Of a study of which nothing is missing, every draw is the study, and the answer that of
    `decide`, but for the shape of the bootstrap intervals."""
    same = ends = 0
    for seed in range(60):
        means = {"0.5": 0, "1": 2.0 * (seed % 3), "1.5": 3, "2": 5.0 * (seed % 4)}
        rows = rows_of(means, 10, 4.0, seed)
        study = unfinished(rows, dict.fromkeys(means, 10))
        final, found = study.final(), verdict(rows)
        assert len(set(final.pick.tolist())) == len(set(final.end.tolist())) == 1
        same += final.pick[0] == study.place(found.recommended)
        ends += final.end[0] == study.place(found.breakdown)
    assert same >= 54 and ends >= 54


def test_what_was_seen_stays_in_every_draw_and_the_rest_goes_along_with_it():
    rng = np.random.Generator(np.random.PCG64(5))
    rows = rows_of({"1": 0.0, "2": 0.0}, 40, 0.5)
    shared = 20 * rng.standard_normal(40)  # what both do to a prompt
    for (name, k), row in rows.items():
        if name != "control":
            values = {**row.values, "brisque": row.values["brisque"] + shared[k]}
            rows[name, k] = replace(row, values=values)
    study = unfinished(rows, {"1": 40, "2": 20})
    drawn = study._completed()
    truth = np.array([[rows[s, k].values["brisque"] - rows["control", k].values["brisque"]
                       for k in range(40)] for s in ("1", "2")])  # fmt: skip
    assert np.allclose(drawn[:, 0], truth[0]) and np.allclose(drawn[:, 1, :20], truth[1, :20])
    missing = drawn[:, 1, 20:].mean(axis=0)
    assert np.corrcoef(missing, truth[1, 20:])[0, 1] > 0.9
    alone = unfinished(rows, {"1": 20, "2": 20})._completed()[:, 1, 20:].mean(axis=0)
    assert abs(np.corrcoef(alone, truth[1, 20:])[0, 1]) < 0.5


def test_how_sure_is_how_often_it_stays():
    """Of the looks that say 80 % or more, most are right; of those that say less, fewer."""
    said, stayed = [], []
    now = None
    for seed in range(40):
        rows = rows_of(dict.fromkeys(STRENGTHS[1:], 0.0), 12, 4.0, seed)
        full = verdict(rows).recommended
        race, seen = Race(rows, Asked("strength", resamples=200)), {}
        while cells := race.ask(seen):
            if seen:
                said.append(race.sure)
                stayed.append(now == full)
            seen |= {cell: rows[cell] for cell in cells}
            now = verdict(seen, ERROR - EARLY).recommended
    said, stayed = np.array(said), np.array(stayed)
    assert stayed[said >= 0.8].mean() > 0.8
    assert stayed[said < 0.5].mean() < 0.6


def test_knowing_what_does_not_matter_tells_nothing():
    rng = np.random.Generator(np.random.PCG64(1))
    answer = rng.integers(0, 3, 4000)
    apart, exact = rng.integers(0, 16, 4000), np.eye(3)
    assert abs(_telling(apart, answer, exact)) < 0.01
    assert _telling(answer, answer, exact) == pytest.approx(2 / 3, abs=0.02)
    assert _telling(answer, answer, np.ones((3, 3))) == 0.0


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


def test_a_race_ends_once_one_is_certain_and_nothing_else_is_open() -> None:
    rows = rows_of({"0.5": 0.0, "1": 40.0, "1.5": 60.0}, 24, spread=0.5)
    race, seen, _ = run(rows)
    assert {outcome for _, outcome in race.stopped.values()} == {"beyond", "settled"}
    assert max(cases for cases, _ in race.stopped.values()) <= 6 and len(seen) < len(rows) / 3


def test_hundreds_of_settings_are_drawn_less_often():
    rows = rows_of({str(k / 100): 0.0 for k in range(1, 101)}, 300)
    study = unfinished(rows, {str(k / 100): 4 for k in range(1, 101)})
    assert study.draws == 666 and study._completed().shape == (666, 100, 300)


def told_of_the_unseen(rows, strengths):
    """What the others tell, and the verdict, where only these strengths were looked at."""
    asked = Asked("strength", resamples=200)
    some = [row for (name, _), row in rows.items() if name in ("control", *strengths)]
    everyone = {row.candidate for row in rows.values()} - {None}
    unseen = everyone - {row.candidate for row in some}
    summaries, found = asked.decide(some)
    return unseen_that_tell(some, summaries, found, asked, cases_of(rows), unseen), found


def test_who_was_not_looked_at_matters_only_where_the_answer_turns_on_it():
    """Between clean ones and a wreck beside them nothing is open; in a gap between, much is."""
    steps = [str(Decimal(k) / 10) for k in range(1, 21)]
    means = {s: 0.0 if float(s) < 1.55 else 40.0 for s in steps}
    rows = rows_of(means, 12, 1.0)
    (sure, more), found = told_of_the_unseen(rows, ("0.5", "1", "1.4", "1.5", "1.6", "2"))
    assert found.recommended == Candidate("l", strength=Decimal("1.5"))
    assert sure > 1 - UNSEEN_DOUBT and not more
    (sure, more), found = told_of_the_unseen(rows, ("0.5", "1", "2"))
    assert sure < 0.5
    assert float(more[0].strength) > float(found.recommended.strength), "what may be clean at more"
    assert {float(one.strength) for one in more}.isdisjoint({0.5, 1.0, 2.0})
    assert told_of_the_unseen(rows, steps)[0] == (1.0, ())


def test_the_chance_that_the_unseen_change_nothing_is_kept():
    """Of flat sweeps of which every fourth strength was looked at: where 90 % or more is said, all
    pictures say the same in nearly all; where less is, in fewer."""
    steps = [str(Decimal(k) / 10) for k in range(1, 21)]
    said, stayed = [], []
    for seed in range(60):
        rows = rows_of(dict.fromkeys(steps, 0.0), 10, 4.0, seed)
        (sure, _), found = told_of_the_unseen(rows, steps[3::4])
        said.append(sure)
        stayed.append(found.recommended == verdict(rows).recommended)
    said, stayed = np.array(said), np.array(stayed)
    assert (said >= 0.8).sum() > 15 and stayed[said >= 0.8].mean() > 0.85
    assert stayed[said < 0.5].mean() < 0.7
