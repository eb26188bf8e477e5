"""The decision on score rows whose answer is known."""

import math
import random
import re
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysers import scores as tables
from analysers.ranking import decide
from analysers.scores import tabulate
from analysers.study import Candidate, Score


def strength(text: str) -> Candidate:
    return Candidate("lora.safetensors", strength=Decimal(text))


def epoch(number: int, at: str = "0.8") -> Candidate:
    return Candidate(
        f"lora-{number:06d}.safetensors",
        epoch=number,
        strength=Decimal(at),
        place=number - 1,
        label=f"epoch {number}",
    )


def row(candidate, case, score, *, ssim=math.nan, status="ok", reason="", **signs) -> Score:
    values = {"brisque": float(score), "ssim": ssim, **signs}
    name = "control" if candidate is None else f"{candidate.checkpoint}_{candidate.strength}"
    return Score(
        candidate,
        f"p{case:02d}_s1",
        f"prompt {case}",
        1,
        f"{name}/{case}.png",
        f"control/{case}.png" if candidate else "",
        values,
        status,
        reason,
    )


def sweep(curve, cases=12, spread=0.5, control=True, signs=lambda candidate: {}, seed=0):
    """Rows over `cases` prompts: each with its level, `curve` added per candidate."""
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = []
    for case in range(cases):
        level = rng.normal(25, 8)
        if control:
            rows.append(row(None, case, level, **signs(None)))
        for place, (candidate, worse) in enumerate(curve.items()):
            score = level + worse + rng.normal(0, spread)
            ssim = 1 - 0.9 * (1 - math.exp(-0.6 * (place + 1)))
            rows.append(row(candidate, case, score, ssim=ssim, **signs(candidate)))
    return rows


STRENGTHS = {
    strength(s): mu
    for s, mu in zip(
        ("0.2", "0.4", "0.6", "0.8", "1.0", "1.2", "1.4"), (-1, -3, -4, -3, 0, 9, 15), strict=True
    )
}
EPOCHS = {epoch(i): mu for i, mu in zip(range(1, 9), (0, -1, -2, -3, -2, 0, 8, 20), strict=True)}


def by(summaries):
    return {s.candidate: s for s in summaries}


# --- part 1: best and ties


def test_one_case_ranks_by_the_ancestors_rule_and_decides_nothing():
    rows = [row(strength(s), 0, v) for s, v in (("0.2", 30), ("0.4", 21.3), ("0.6", 24))]
    summaries, verdict = decide(rows, kind="strength")
    assert [str(s.candidate.strength) for s in summaries] == ["0.4", "0.6", "0.2"]
    assert [s.rank for s in summaries] == [1, 2, 3]
    assert verdict.best == strength("0.4")
    assert verdict.headline == "One picture cannot decide." and verdict.why == ("one_case",)
    assert "On it strength 0.4 has the lowest BRISQUE (21.3)" in verdict.answer
    assert "At least 6 prompts with 2 seeds each would tell" in verdict.answer
    assert verdict.recommended is None and verdict.confidence == "none" and not verdict.level
    assert math.isnan(summaries[1].diff_best.low) and math.isnan(summaries[0].p_best)
    assert all(s.contender for s in summaries)  # nothing can be ruled out


@pytest.mark.parametrize(
    "scores, winner, tied",
    [
        ((20.0, 20.01, 20.005), "0.2", 3),
        ((20.01, 20.0, 25.0), "0.2", 2),
        ((20.011, 20.0, 25.0), "0.4", 0),
        ((25.0, 20.0, 20.0), "0.4", 2),
    ],
)
def test_ties_within_the_tolerance_go_to_the_lower_strength(scores, winner, tied):
    rows = [row(strength(s), 0, v) for s, v in zip(("0.2", "0.4", "0.6"), scores, strict=True)]
    summaries, verdict = decide(rows, kind="strength")
    assert verdict.best == strength(winner)
    assert sum(s.tied for s in summaries) == tied
    assert ("tie for the lowest" in verdict.answer) == (tied > 0)


def test_two_identical_epochs_the_earlier_wins_and_it_is_said():
    rows = [row(epoch(e), 0, 20.0) for e in (3, 2)] + [row(epoch(1), 0, 22.0)]
    summaries, verdict = decide(rows, kind="epochs")
    assert verdict.best == epoch(2)
    assert "On it epochs 2 and 3 tie for the lowest BRISQUE (20.0)" in verdict.answer


def test_negative_strengths_tie_by_size():
    rows = [row(strength(s), 0, 20.0) for s in ("-0.6", "-0.2", "0.2", "0.6")]
    summaries, _ = decide(rows, kind="strength")
    assert [str(s.candidate.strength) for s in summaries] == ["0.2", "-0.2", "0.6", "-0.6"]


def test_a_higher_is_better_metric_keeps_its_own_direction():
    curve = {c: -mu for c, mu in STRENGTHS.items()}
    summaries, verdict = decide(sweep(curve), kind="strength", better="higher")
    assert verdict.best == strength("0.6")
    assert summaries[1].diff_best.high > summaries[1].diff_best.low
    assert summaries[-1].diff_best.mean == pytest.approx(-19, abs=1)
    assert summaries[-1].diff_control.high < -5
    assert "highest mean BRISQUE" in verdict.answer and verdict.breakdown == strength("1.2")


def test_the_order_of_rows_changes_nothing():
    rows = sweep(STRENGTHS)
    shuffled = rows[:]
    random.Random(4).shuffle(shuffled)
    assert decide(rows, kind="strength") == decide(shuffled, kind="strength")


def test_a_level_added_to_a_prompt_changes_no_difference():
    rows = sweep(STRENGTHS)
    moved = [
        Score(**{**r.__dict__, "values": {**r.values, "brisque": r.values["brisque"] + 64.0}})
        if r.prompt == "prompt 3"
        else r
        for r in rows
    ]
    for before, after in zip(
        decide(rows, kind="strength")[0], decide(moved, kind="strength")[0], strict=True
    ):
        assert before.candidate == after.candidate and before.contender == after.contender
        for name in ("diff_best", "diff_control"):
            x, y = getattr(before, name), getattr(after, name)
            assert (x.mean, x.low, x.high) == pytest.approx((y.mean, y.low, y.high), abs=1e-7)


# --- missing, failed and undefined cells


def test_a_candidate_that_failed_is_listed_last_with_its_reason():
    rows = sweep(STRENGTHS)
    rows += [
        row(strength("0.5"), c, math.nan, status="failed", reason="out of memory")
        for c in range(12)
    ]
    summaries, verdict = decide(rows, kind="strength")
    last = summaries[-1]
    assert (last.candidate, last.rank, last.n) == (strength("0.5"), None, 0)
    assert last.reason == "out of memory" and last.safe is None and not last.contender
    assert "Strength 0.5 could not be ranked: out of memory." in verdict.warnings
    assert verdict.best == strength("0.6")
    assert not any(math.isinf(s.metrics["brisque"].mean) for s in summaries)


def test_missing_the_hard_cases_does_not_help():
    rows = sweep({strength("0.4"): 0.0, strength("0.6"): 1.0, strength("0.8"): 1.5}, spread=0.1)
    level = {r.case: r.values["brisque"] for r in rows if r.candidate is None}
    hard = sorted(level, key=level.get)[-4:]
    rows = [r for r in rows if not (r.candidate == strength("0.6") and r.case in hard)]
    summaries, verdict = decide(rows, kind="strength")
    means = [s.metrics["brisque"].mean for s in summaries]
    assert means[1] < means[0]  # its plain mean is lower, as it missed the hard cases
    assert [str(s.candidate.strength) for s in summaries] == ["0.4", "0.6", "0.8"]
    assert summaries[1].n == 8 and "4 of 12 cases missing" in summaries[1].reason
    assert summaries[1].diff_best.mean == pytest.approx(1.0, abs=0.1)
    assert any("lacks some cases" in w for w in verdict.warnings)


def test_black_pictures_do_not_win():
    rows = sweep({strength("0.4"): 0.0, strength("1.4"): -6.0})
    for i, r in enumerate(rows):
        if r.candidate == strength("1.4") and r.case in ("p00_s1", "p01_s1"):
            rows[i] = row(
                r.candidate, int(r.case[1:3]), math.nan, status="flagged", reason="all black"
            )
    summaries, verdict = decide(rows, kind="strength")
    assert verdict.best == strength("0.4")
    assert summaries[1].state == "broken" and summaries[1].rank == 2 and not summaries[1].contender
    assert summaries[1].reason == "2 of 12 pictures have no score: all black"
    assert verdict.breakdown == strength("1.4")
    # its other pictures score better than the control: that is no reason to call it worse
    assert summaries[1].diff_control.mean < 0
    assert "breakdown_by" not in {s.code for s in verdict.sentences}


def test_a_case_whose_control_is_black_too_counts_against_nobody():
    rows = sweep({strength("0.4"): 0.0, strength("0.8"): -3.0})
    rows = [r for r in rows if r.case != "p00_s1"] + [
        row(c, 0, math.nan, status="flagged", reason="all black")
        for c in (None, strength("0.4"), strength("0.8"))
    ]
    summaries, verdict = decide(rows, kind="strength")
    assert verdict.best == strength("0.8") and summaries[0].n == 11
    assert {s.state for s in summaries} == {"clean"}


def test_nothing_to_rank():
    rows = [row(strength("0.4"), 0, math.nan, status="failed", reason="unreadable picture")]
    summaries, verdict = decide(rows, kind="strength")
    assert verdict.best is None and summaries[0].rank is None
    assert verdict.answer.startswith("Nothing could be ranked")
    assert decide([], kind="epochs")[1].answer.startswith("Nothing could be ranked")


# --- part 2: evidence


def test_what_is_near_the_best_cannot_be_told_from_it():
    summaries, verdict = decide(sweep(STRENGTHS, spread=1.0), kind="strength")
    kept = {str(c.strength) for c in verdict.contenders}
    assert "0.6" in kept and not kept & {"0.2", "1.0", "1.2", "1.4"}
    found = by(summaries)
    assert sum(s.p_best for s in summaries) == pytest.approx(1.0)
    assert found[strength("0.6")].p_best > 0.5
    assert found[strength("1.4")].diff_best.low > 10
    for s in summaries:
        assert s.contender == (s.best or not s.diff_best.low > 0)


@pytest.mark.parametrize(
    "kept, words",
    [
        (
            ("0.4", "0.6", "0.8"),
            "0.8. Strengths 0.4 to 0.8 are clean and tie on quality; of these it has the most",
        ),
        (
            ("0.6", "0.8", "1.0"),
            "1.0. Strengths 0.6 to 1.0 are clean and tie on quality; of these it has the most",
        ),
        (
            ("0.4", "0.6", "0.8", "1.2"),
            "1.2. Strengths 0.4 to 0.8 and 1.2 are clean and tie on quality;",
        ),
        (("0.2", "0.6"), "0.6. Strengths 0.2 and 0.6 are clean and tie on quality; of"),
        (("0.6",), "Use 0.6. It has the lowest mean BRISQUE"),
    ],
)
def test_contenders_in_words(kept, words):
    """0.6 is best by a hair, the kept are level with it, the others are far off."""
    curve = {c: 0.0 if str(c.strength) in kept else 9.0 for c in STRENGTHS}
    curve[strength("0.6")] = -0.3
    assert words in decide(sweep(curve, spread=0.4), kind="strength", margin=20.0)[1].answer


def test_noise_alone_leaves_all_in_the_race():
    flat = dict.fromkeys(STRENGTHS, 0.0)
    _, verdict = decide(sweep(flat, spread=4.0, seed=5), kind="strength")
    assert len(verdict.contenders) == 7 and verdict.confidence in ("low", "moderate")
    assert "BRISQUE does not decide here." in " ".join(verdict.arguments)


def test_no_difference_below_the_noise_floor_is_called_one():
    rows = sweep({strength("0.4"): 0.0, strength("0.6"): 0.8}, spread=0.05)
    assert not by(decide(rows, kind="strength")[0])[strength("0.6")].contender
    summaries, verdict = decide(rows, kind="strength", noise_floor={"brisque": 1.0, "ssim": 0.001})
    assert by(summaries)[strength("0.6")].contender
    assert any("no smaller difference is called one" in s for s in verdict.arguments)


def test_two_cases_say_how_little_they_know():
    _, verdict = decide(sweep(STRENGTHS, cases=2, spread=2.0), kind="strength")
    assert any("Two prompts rule out almost nothing" in w for w in verdict.warnings)


# --- part 3: the safe range


def test_the_strongest_clean_strength_and_the_breakdown():
    summaries, verdict = decide(sweep(STRENGTHS), kind="strength")
    assert verdict.strongest_clean == strength("1.0") and verdict.breakdown == strength("1.2")
    assert verdict.answer.endswith("Strongest clean setting: 1.0. It breaks at 1.2.")
    assert [by(summaries)[c].safe for c in STRENGTHS] == [True] * 5 + [False] * 2


def test_nothing_beyond_a_breakdown_is_safe_even_if_the_metric_recovers():
    curve = {**STRENGTHS, strength("1.6"): -8.0}
    summaries, verdict = decide(sweep(curve), kind="strength")
    last = by(summaries)[strength("1.6")]
    assert last.state == "clean" and last.safe is False
    assert verdict.strongest_clean != strength("1.6") and verdict.breakdown == strength("1.2")
    assert any("lies beyond the breakdown" in s for s in verdict.arguments)


def test_noise_is_not_called_a_breakdown():
    flat = dict.fromkeys(STRENGTHS, 0.0)
    summaries, verdict = decide(sweep(flat, cases=6, spread=12.0, seed=1), kind="strength")
    assert {s.state for s in summaries} <= {"unsure", "clean"} and verdict.breakdown is None
    assert any("neither clean nor broken" in s for s in verdict.arguments)


def test_both_directions_are_walked_from_zero():
    curve = {strength(s): v for s, v in (("-0.8", 12), ("-0.4", 1), ("0.0", 0), ("0.4", -2))}
    summaries, verdict = decide(sweep({**curve, strength("0.8"): -1}), kind="strength")
    assert verdict.best == strength("0.4") and verdict.strongest_clean == strength("0.8")
    assert verdict.breakdown is None  # -0.8 lies on the other side
    assert verdict.answer.endswith("It breaks elsewhere, first at -0.8.")
    found = by(summaries)
    assert found[strength("-0.8")].state == "broken" and found[strength("-0.4")].safe
    assert found[strength("0.0")].safe


def test_of_two_signs_the_positive_one_is_named():
    curve = {strength(s): 20 for s in ("-0.5", "0.5", "1.0")}
    _, verdict = decide(sweep(curve), kind="strength")
    assert verdict.headline == "Use none of these: already strength 0.5 is broken."


def test_best_without_the_lora_is_said_so():
    curve = {strength("0.0"): 0, strength("0.4"): 3, strength("0.8"): 9}
    _, verdict = decide(sweep(curve), kind="strength")
    assert verdict.best == strength("0.0") and verdict.recommended == strength("0.4")
    assert "best_without_lora" in verdict.why
    assert verdict.answer.startswith("Use 0.4. Strength 0.0 has the lowest mean BRISQUE")


def test_without_controls_nothing_is_called_safe():
    summaries, verdict = decide(sweep(STRENGTHS, control=False), kind="strength")
    assert {s.safe for s in summaries} == {None} and verdict.strongest_clean is None
    assert "clean" not in verdict.answer


def test_the_margin_is_obeyed():
    wide = decide(sweep(STRENGTHS), kind="strength", margin=12.0)[1]
    assert (wide.strongest_clean, wide.breakdown) == (strength("1.2"), strength("1.4"))


def test_without_a_margin_only_brisque_has_one():
    rows = [
        Score(**{**r.__dict__, "values": {"clip": r.values["brisque"] / 100}})
        for r in sweep(STRENGTHS)
    ]
    summaries, verdict = decide(rows, kind="strength", rank_by="clip")
    assert {s.state for s in summaries} == {""} and "clean" not in verdict.answer
    own = decide(rows, kind="strength", rank_by="clip", margin=0.05)[1]
    assert own.breakdown == strength("1.2")


def test_each_candidate_may_have_a_control_of_its_own():
    """The ancestors' layout: control_0.2.png beside strength_0.2.png, one case."""
    rows = []
    for name, control, score in (("0.2", 20.0, 21.0), ("0.4", 40.0, 41.0), ("0.6", 20.0, 41.0)):
        base = Score(None, "all", "", None, f"control_{name}.png", "", {"brisque": control})
        mine = Score(
            strength(name), "all", "", None, f"s_{name}.png", base.image, {"brisque": score}
        )
        rows += [base, mine]
    summaries, verdict = decide(rows, kind="strength")
    assert {str(s.candidate.strength): s.diff_control.mean for s in summaries} == {
        "0.2": 1.0,
        "0.4": 1.0,
        "0.6": 21.0,
    }
    assert verdict.breakdown is None and verdict.recommended is None  # one case


# --- part 4: effect, plateau, zone, and the plane


def test_the_goldilocks_zone_runs_from_plateau_to_breakdown():
    summaries, verdict = decide(sweep(EPOCHS), kind="epochs")
    assert verdict.best == epoch(4) and verdict.breakdown == epoch(7)
    # effect 0.9 (1 - exp(-0.6 k)) reaches 90 % of epoch 6's at epoch 4
    assert verdict.plateau == epoch(4)
    assert verdict.zone == (epoch(4), epoch(5), epoch(6))
    assert verdict.strongest_clean == epoch(6)
    text = " ".join(verdict.arguments)
    assert "Goldilocks zone: epochs 4 to 6" in text
    assert "undertrained" in text and "overtrained" in text


def test_an_effect_that_still_grows_is_mentioned():
    rows = [
        Score(**{**r.__dict__, "values": {**r.values, "ssim": 1 - 0.1 * r.candidate.epoch}})
        if r.candidate
        else r
        for r in sweep({epoch(i): -i for i in range(1, 6)})
    ]
    _, verdict = decide(rows, kind="epochs")
    assert verdict.plateau == epoch(5) and "longer training may do more" in " ".join(
        verdict.arguments
    )


def test_on_the_plane_safety_needs_all_that_is_milder():
    damage = lambda e, s: 20.0 if e * float(s) > 4.5 else -1.0 * e * float(s)  # noqa: E731
    curve = {epoch(e, s): damage(e, s) for e in (2, 4, 6, 8) for s in ("0.4", "0.6", "0.8", "1.0")}
    curve[epoch(8, "1.0")] = -9.0  # the wreck that the metric likes
    summaries, verdict = decide(sweep(curve), kind="plane")
    found = by(summaries)
    assert found[epoch(8, "1.0")].safe is False and found[epoch(6, "0.6")].safe
    for a, s in found.items():
        milder = [found[b].state for b in found if b.place <= a.place and b.strength <= a.strength]
        assert s.safe == ("broken" not in milder and s.state == "clean")
    assert any("The clean region: " in s for s in verdict.arguments)


# --- the second opinion


def fried(candidate):
    s = 0.0 if candidate is None else float(candidate.strength)
    return {
        "rms_contrast": 50 * (1.4 if s > 1.1 else 1.0),
        "clipped": 0.01 + (0.02 * s),
        "colourfulness": 40.0,
        "laplacian_energy": 9.0,
    }


def test_the_signs_contradict_a_metric_that_likes_the_wreck():
    curve = {c: -2.0 * float(c.strength) for c in STRENGTHS}
    likeness = {None: 0.30, **{c: 0.31 + 0.3 * (float(c.strength) > 1.1) for c in curve}}
    summaries, verdict = decide(
        sweep(curve, signs=fried), kind="strength", likeness=likeness, warnings=("first",)
    )
    assert verdict.warnings[0] == "first"
    assert verdict.warnings[1].startswith(
        "BRISQUE sees no damage at strength 1.2, but contrast is 1.4 times the control's "
        "and prompts have begun to look alike. Strength 1.4 shows such signs as well."
    )
    worst = by(summaries)[strength("1.4")].metrics
    assert worst["rms_contrast_ratio"].mean == pytest.approx(1.4)
    assert worst["clipped_change"].mean == pytest.approx(0.028)
    assert worst["likeness"].mean == pytest.approx(0.61)


def test_on_the_plane_many_settings_with_signs_are_told_as_their_number():
    strengths = ("-0.4", "0.4", "0.6", "0.8", "1.0", "1.2")
    curve = {epoch(e, s): 0.0 for e in (1, 2, 3) for s in strengths}
    marked = [c for i, c in enumerate(curve) if i % 2 == i // 6 % 2]
    summaries, verdict = decide(
        sweep(curve, signs=lambda c: {"rms_contrast": 60.0 if c in marked else 40.0}), kind="plane"
    )
    [sentence] = [s for s in verdict.sentences if s.code == "second_opinion"]
    assert set(sentence.candidates) == set(marked) and len(marked) == 9
    assert "8 settings show such signs as well." in sentence.text
    agrees(summaries, verdict, "plane")


def test_no_contradiction_where_the_metric_sees_the_damage():
    _, verdict = decide(sweep(STRENGTHS, signs=fried), kind="strength")
    assert verdict.warnings == ()


# --- whatever comes


CLAIMS = {
    "strongest_clean": lambda s, first: s.safe if first else s.state == "unsure",
    "breakdown": lambda s, first: s.state == "broken",
    "breakdown_elsewhere": lambda s, first: s.state == "broken",
    "breakdown_by": lambda s, first: s.state == "broken",
    "all_broken": lambda s, first: s.state == "broken",
    "unsure": lambda s, first: s.state == "unsure" and not s.beyond,
    "recovers": lambda s, first: s.state == "clean" and s.beyond,
    "frontier": lambda s, first: s.safe,
    "zone": lambda s, first: s.state in ("", "clean") and not s.beyond,
    "best_beyond": lambda s, first: s.best and s.beyond if first else s.state == "broken",
    "use": lambda s, first: s.rank is not None and not s.beyond,
    "most_effect": lambda s, first: s.state == "clean" and not s.beyond,
    "lowest_of_level": lambda s, first: not s.beyond,
    "failed": lambda s, first: s.rank is None,
    "unscored": lambda s, first: s.unscored and s.state == "broken",
    "undecided": lambda s, first: not s.beyond,
    "level": lambda s, first: not s.beyond,
    "missing": lambda s, first: s.missing > 0,
}
"""What a sentence of each code says of the candidates it names."""


LIST = r"-?[\d.]*\d(?:(?:, | and | to )-?[\d.]*\d)*"
NAMED = {
    "strength": rf"(?:strengths? |setting: |at |Use )({LIST})",
    "epochs": rf"epochs? ({LIST})",
    "plane": rf"epochs? ({LIST}) (?:at|up to) ({LIST})",
}
"""How a sentence names settings."""


def in_list(text, order):
    """What a list such as "0.2, 0.6 to 1.0 and 1.4" holds of what is in `order`."""
    found = set()
    for part in re.split(", | and ", text):
        first, _, last = part.partition(" to ")
        if first in order and (last or first) in order:
            found |= set(order[order.index(first) : order.index(last or first) + 1])
    return found


def spoken_of(text, candidates, kind):
    """The candidates that a sentence names, read back from its words."""
    strengths = sorted({c.strength for c in candidates})
    strengths = [c.heading("strength") for s in strengths for c in [Candidate(strength=s)]]
    epochs = [str(e) for e in sorted({c.epoch for c in candidates})]
    found = set()
    for match in re.finditer(NAMED[kind], text, re.IGNORECASE):
        ends = in_list(match[1], strengths if kind == "strength" else epochs)
        at = in_list(match[2], strengths) if kind == "plane" else set()
        for c in candidates:
            strength = c.heading("strength")
            if kind == "plane" and "up to" in match[0]:
                inside = str(c.epoch) in ends and strength == match[2]
            elif kind == "plane":
                inside = str(c.epoch) in ends and strength in at
            else:
                inside = (strength if kind == "strength" else str(c.epoch)) in ends
            found |= {c} if inside else set()
    return found


def told_all(sentence, summaries, pick, kind):
    """Whether a sentence names each of its candidates, calls it "it", or tells their number."""
    rest = set(sentence.candidates) - spoken_of(sentence.text, by(summaries), kind)
    if re.search(r"\b(it|all settings)\b", sentence.text, re.IGNORECASE):
        rest -= {pick}
    if not rest or sentence.text.startswith("All settings"):
        return True
    counts = [int(n) for n in re.findall(r"(\d+) (?:settings|such)", sentence.text)]
    whole = len(set(sentence.candidates))
    return sum(counts) in {whole, whole - 1, len(rest)}  # without the first, which is named


def agrees(summaries, verdict, kind):
    """The recommendation and every sentence agree with the states."""
    found = by(summaries)
    for sentence in verdict.sentences:
        for place, candidate in enumerate(sentence.candidates):
            claim = CLAIMS.get(sentence.code, lambda s, first: True)
            assert claim(found[candidate], place == 0), sentence
        assert told_all(sentence, summaries, verdict.pick, kind), sentence
    pick = verdict.recommended
    if pick is None:
        none = {"one_case", "all_broken", "no_lora"}
        assert verdict.best is None or none & set(verdict.why)
        assert verdict.confidence == "none"
        return
    assert pick in verdict.level and pick.strength != 0
    assert not any(found[c].beyond for c in verdict.level)
    assert verdict.breakdown != pick
    if verdict.breakdown:
        assert not tables.before(verdict.breakdown, pick, kind)
    reasons = {"best_beyond", "best_without_lora"}
    assert pick in verdict.contenders or reasons & set(verdict.why)
    assert verdict.confidence != "high" or verdict.level == (pick,)


@st.composite
def any_rows(draw):
    """Up to 20 candidates and four cases with gaps, failures, undefined scores and signs."""
    texts = draw(st.lists(st.sampled_from(["-0.4", "0.0", "0.4", "0.8", "1.2"]), unique=True))
    places = draw(st.integers(1, 4))
    signs = {(t, p): draw(st.sampled_from([0.2, 0.2, 0.3])) for t in texts for p in range(places)}
    rows = []
    for case in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            rows.append(row(None, case, draw(st.floats(-20, 120)), rms_contrast=0.2))
        for text in texts:
            for place in range(places):
                status = draw(st.sampled_from(["ok", "ok", "ok", "flagged", "failed", "absent"]))
                score = draw(st.floats(-20, 120)) if status in ("ok", "flagged") else math.nan
                if status == "flagged" and draw(st.booleans()):
                    score = math.nan
                if status != "absent":
                    candidate = epoch(place + 1, text)
                    sign = signs[text, place]
                    rows.append(
                        row(candidate, case, score, ssim=0.5, status=status, rms_contrast=sign)
                    )
    return rows


@given(any_rows(), st.sampled_from(["strength", "epochs", "plane"]))
@settings(max_examples=40)
def test_one_case_claims_neither_clean_nor_broken_ground(rows, kind):
    rows = [r for r in rows if r.case == "p00_s1"]
    summaries, verdict = decide(rows, kind=kind, resamples=200)
    assert verdict.recommended is verdict.breakdown is verdict.strongest_clean is None
    assert not verdict.zone and verdict.confidence == "none"
    assert not any(s.safe or s.state == "clean" for s in summaries)
    assert all(s.unscored for s in summaries if s.state == "broken")
    if any(s.rank is not None and s.candidate.strength != 0 for s in summaries):
        assert verdict.headline == "One picture cannot decide."
    assert not any("clean" in s.text or "breaks at" in s.text for s in verdict.sentences)


@given(any_rows(), st.sampled_from(["strength", "epochs", "plane"]), st.randoms())
@settings(max_examples=60)
def test_any_study_has_a_sound_verdict(rows, kind, order):
    summaries, verdict = decide(rows, kind=kind, resamples=200)
    ranks = [s.rank for s in summaries if s.rank is not None]
    assert ranks == list(range(1, len(ranks) + 1))
    assert all(s.reason for s in summaries if s.rank is None)
    assert {s.candidate for s in summaries} == {r.candidate for r in rows if r.candidate}
    assert [s.candidate for s in summaries if s.best] == ([verdict.best] if ranks else [])
    if ranks:
        assert verdict.best in verdict.contenders
        share = sum(s.p_best for s in summaries if math.isfinite(s.p_best))
        assert share == pytest.approx(1.0) or share == 0
    for s in summaries:
        assert not (s.safe and s.state != "clean")
        for interval in (s.diff_best, s.diff_control, *s.metrics.values()):
            assert math.isnan(interval.low) or interval.low <= interval.mean <= interval.high
    for text in (s.text for s in verdict.sentences):
        assert text.endswith((".", "?")) and "nan" not in text and "None" not in text
    agrees(summaries, verdict, kind)
    shuffled = list(rows)
    order.shuffle(shuffled)
    assert decide(shuffled, kind=kind, resamples=200)[1] == verdict
    lost = Score(epoch(9, "1.9"), "p00_s1", "prompt 0", 1, "", "", {}, "failed", "out of memory")
    again = decide([*rows, lost], kind=kind, resamples=200)[1]
    if any(r.case == "p00_s1" and r.candidate for r in rows):
        assert replace(again, sentences=()) == replace(verdict, sentences=())


def test_prompts_that_pictures_do_not_tell_are_known_by_the_names_of_the_cases() -> None:
    def scores(names: list[str], prompt: str) -> list[Score]:
        levels = (None, strength("0.5"), strength("1"))
        return [
            replace(row(c, i, 20.0 + i + j), case=name, prompt=prompt)
            for i, name in enumerate(names)
            for j, c in enumerate(levels)
        ]

    seeds = [f"s{i}" for i in range(8)]
    for names, prompt, count in (
        ([f"p0{i}_s1" for i in range(8)], "", 8),
        ([f"p0{i // 4}_s{i % 4}" for i in range(8)], "", 2),
        ([str(i) for i in range(8)], "", 8),
        (seeds, "", 1),
        ([f"p0{i}_s1" for i in range(8)], "a cat", 1),
    ):
        found = scores(names, prompt)
        assert len(set(tabulate(found, "strength").prompts)) == count
        warnings = decide(found, kind="strength")[1].warnings
        assert any("share one prompt" in text for text in warnings) == (count == 1)


def test_what_is_not_known_of_early_epochs_is_not_called_undertrained() -> None:
    curve = {epoch(i): -float(i) for i in range(1, 6)}
    rows = [
        replace(r, values={"brisque": r.values["brisque"], "ssim": 1 - 0.1 * r.candidate.epoch})
        if r.candidate
        else r
        for r in sweep(curve)
    ]

    def zone(failed):
        some = [
            replace(r, values={}, status="failed", reason="out of memory")
            if r.candidate and r.candidate.epoch in failed
            else r
            for r in rows
        ]
        sentences = decide(some, kind="epochs")[1].sentences
        return next(s.text for s in sentences if s.code == "zone")

    assert "before epoch 5 there is less than 90 %" in zone(failed=())
    assert "grows at the last epoch" in zone(failed=()) and "longer training" in zone(failed=(5,))
    rows = [replace(r, values={**r.values, "ssim": 0.5}) if r.candidate else r for r in rows]
    for failed in ((), (1,), (1, 2, 3)):
        assert "undertrained" not in zone(failed), "all that is known has the same effect"


def test_signs_contradict_no_metric_that_has_nothing_to_judge_by() -> None:
    rows = [
        replace(r, values={**r.values, "ssim": 0.9 if r.candidate else math.nan})
        for r in sweep({c: 0.0 for c in STRENGTHS}, signs=fried)
    ]
    for rank_by, margin in (("ssim", None), ("ssim", 0.1), ("clip", None)):
        some = [replace(r, values={**r.values, "clip": 0.3}) for r in rows]
        _, verdict = decide(some, kind="strength", rank_by=rank_by, margin=margin)
        [told] = [s.text for s in verdict.sentences if s.code == "second_opinion"]
        assert told.startswith("Signs of over-cooking at strength 1.2: contrast is 1.4 times")


@pytest.mark.parametrize("seed", range(60))
def test_sentences_name_or_count_what_they_speak_of(seed: int) -> None:
    """Larger studies than hypothesis draws: all codes, gaps, black pictures, a second criterion."""
    rng = np.random.default_rng(seed)
    kind = ("strength", "epochs", "plane")[seed % 3]
    texts = ("-0.8", "-0.4", "0.0", "0.2", "0.4", "0.6", "0.8", "1.0", "1.2", "1.4")
    some = rng.choice(texts, 1 if kind == "epochs" else rng.integers(1, 9), replace=False)
    epochs = range(1, 2 if kind == "strength" else rng.integers(2, 7))
    cells = [epoch(e, str(s)) for e in epochs for s in sorted(some, key=float)]
    power = {
        c: abs(float(c.strength)) * c.epoch / len(epochs) * rng.choice([0.3, 1]) for c in cells
    }
    marked = {c: rng.choice([0.2, 0.3]) for c in cells}
    damage, noise, rows = rng.choice([0, 12, 40]), rng.choice([0.2, 2]), []
    for case in range(rng.integers(1, 13)):
        level = rng.normal(25, 8)
        signs = {"rms_contrast": 0.2, "adherence": 0.5 + rng.normal(0, 0.01)}
        rows.append(row(None, case, level, **signs))
        for c in cells:
            score = level + damage * max(0, power[c] - 0.5) ** 2 + rng.normal(0, noise)
            status = rng.choice(["ok", "flagged", "failed", "absent"], p=[0.94, 0.02, 0.02, 0.02])
            signs = {
                "rms_contrast": marked[c] + rng.normal(0, 0.002),
                "adherence": 0.5 - 0.1 * max(0, power[c] - 0.4) + rng.normal(0, 0.01),
            }
            if status != "absent":
                score = score if status == "ok" else math.nan
                one = row(c, case, score, ssim=1 - 0.5 * power[c], status=status, **signs)
                rows.append(replace(one, reason="" if status == "ok" else "it broke"))
    stopped = {c for c in cells if rng.random() < 0.3} if seed % 5 == 0 else ()
    summaries, verdict = decide(rows, kind=kind, resamples=100, stopped=stopped)
    found = by(summaries)
    for sentence in verdict.sentences:
        claim = CLAIMS.get(sentence.code, lambda s, first: True)
        for place, candidate in enumerate(sentence.candidates):
            assert claim(found[candidate], place == 0), sentence
        assert told_all(sentence, summaries, verdict.pick, kind), sentence
        assert "  " not in sentence.text and sentence.text[0] == sentence.text[0].upper()
