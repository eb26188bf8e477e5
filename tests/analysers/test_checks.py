"""Each check fires on what it is for and is silent on a healthy study."""

import math
from dataclasses import replace
from decimal import Decimal

import pytest

from analysers import checks
from analysers.study import Candidate, Score

STRENGTHS = ("0.2", "0.4", "0.8")


def candidate(text: str) -> Candidate:
    return Candidate("lora.safetensors", strength=Decimal(text))


def row(strength, case, ssim, brisque=20.0, status="ok", reason="") -> Score:
    return Score(
        None if strength is None else candidate(strength),
        f"p{case:02d}",
        f"prompt {case}",
        1,
        f"{strength}/{case}.png",
        "" if strength is None else f"control/{case}.png",
        {"ssim": ssim, "brisque": brisque},
        status,
        reason,
    )


def healthy(cases=6, strengths=STRENGTHS):
    return [row(None, c, math.nan, 20.0 + c) for c in range(cases)] + [
        row(s, c, 1 - 0.5 * abs(float(s)), 20.0 + c + float(s))
        for s in strengths
        for c in range(cases)
    ]


def test_a_healthy_study_gives_no_warning():
    pixels = {r.image: r.image for r in healthy()}
    assert checks.check(healthy(), kind="strength") == ()
    assert checks.check(healthy(), kind="strength", pixels=pixels, unrelated=0.2) == ()
    assert checks.check([], kind="epochs") == ()


def test_the_noise_floor_is_the_largest_difference_seen():
    floor = checks.noise_floor([(0.999, -0.3), (1.0, 0.1), (math.nan, 5.0)])
    assert floor == pytest.approx({"ssim": 0.001, "brisque": 0.3, "pictures": 2})
    assert checks.noise_floor([]) == {}


def test_strength_zero_must_be_the_control():
    rows = [*healthy(), *(row("0.0", c, 0.9999) for c in range(6))]
    assert checks.zero_strength(rows) == ()
    assert len(checks.zero_strength(rows, floor={"ssim": 1e-6})) == 1
    rows[-1] = row("0.0", 5, 0.71)
    (warning,) = checks.zero_strength(rows)
    assert warning.startswith("Strength 0 does not reproduce the control (p05, SSIM down to 0.71)")


def test_a_lora_that_was_not_applied():
    rows = [row(s, c, 1.0, 20.0 + c) for s in STRENGTHS for c in range(6)]
    pixels = {r.image: f"control {r.case}" for r in rows}
    pixels |= {r.control: f"control {r.case}" for r in rows}
    (warning,) = checks.no_effect(rows, kind="strength", pixels=pixels)
    assert warning.startswith("Every picture equals its control, pixel for pixel: the LoRA was not")
    some = {
        image: p if image.startswith(("0.2", "control")) else image for image, p in pixels.items()
    }
    rows = [moved(r, 90.0) for r in rows]
    assert checks.no_effect(rows, kind="strength", pixels=some) == (
        "Strength 0.2 equals the control in every picture, pixel for pixel: there the LoRA does "
        "nothing.",
    )


def moved(row: Score, levels: float, colour: float = 0.0) -> Score:
    values = {**row.values, "largest_difference": levels, "colour_difference": colour}
    return replace(row, values=values)


@pytest.mark.parametrize("levels", [3.0, 40.0, 255.0])
def test_a_lora_that_moves_no_luma_was_applied(levels: float):
    """Drained colours, one changed corner: SSIM rounds to 1, and yet pixels differ."""
    rows = [moved(row(s, c, 1.0), levels) for s in STRENGTHS for c in range(6)]
    pixels = {r.image: r.image for r in rows} | {r.control: r.control for r in rows}
    assert checks.no_effect(rows, kind="strength", pixels=pixels) == ()
    assert checks.no_effect(rows, kind="strength") == ()
    one = [moved(r, 1.0) if i else r for i, r in enumerate(rows)]
    assert not any("0.2" in w for w in checks.no_effect(one, kind="strength"))


def test_rounding_is_told_from_nothing_and_from_an_effect():
    rows = [
        moved(row(s, c, 0.99999), 1.0 if s == "0.2" else 30.0) for s in STRENGTHS for c in range(6)
    ]
    assert checks.no_effect(rows, kind="strength") == (
        "Strength 0.2 differs from the control by at most 2 of 255 grey levels in any pixel, as "
        "rounding does: there the LoRA does nothing that can be seen.",
    )
    unknown = [row(s, c, 1.0) for s in STRENGTHS for c in range(6)]
    assert checks.no_effect(unknown, kind="strength") == (), "SSIM alone claims nothing"


def test_colours_that_ssim_does_not_see_are_told():
    rows = [moved(row(s, c, 0.999), 60.0, 20 * float(s)) for s in STRENGTHS for c in range(6)]
    (warning,) = checks.colour_alone(rows, kind="strength")
    assert warning.startswith("At strengths 0.4 and 0.8 the colours change (CIEDE2000 16.0)")
    assert warning in checks.check(rows, kind="strength")
    content = [moved(row(s, c, 0.8), 60.0, 20.0) for s in STRENGTHS for c in range(6)]
    assert checks.colour_alone(content, kind="strength") == ()


def test_strength_zero_must_have_the_controls_colours():
    rows = [*healthy(), *(moved(row("0.0", c, 1.0), 60.0, 7.3) for c in range(6))]
    (warning,) = checks.zero_strength(rows)
    assert "SSIM down to 1.0, colour difference up to 7.3" in warning
    rows = [*healthy(), *(moved(row("0.0", c, 1.0), 1.0, 0.2) for c in range(6))]
    assert checks.zero_strength(rows) == ()


def test_a_control_of_another_seed():
    rows = [r for r in healthy() if not (r.case == "p03" and r.candidate)]
    rows += [row(s, 3, 0.18) for s in STRENGTHS]
    (warning,) = checks.foreign_controls(rows, kind="strength")
    assert "At strength 0.2 the pictures of p03" in warning and "(SSIM 0.18)" in warning
    everywhere = [row(s, c, 0.15 + c / 100) for s in STRENGTHS for c in range(6)]
    (warning,) = checks.foreign_controls(everywhere, kind="strength")
    assert "every case" in warning and "SSIM 0.15 to 0.2" in warning


def test_a_strong_first_setting_is_not_a_foreign_control():
    """From 0.8 up, or along training, a LoRA may well change the composition."""
    strong = [row(s, c, 0.3) for s in ("0.8", "1.0") for c in range(6)]
    assert checks.foreign_controls(strong, kind="strength") == ()
    outlier = [row("0.8", c, 0.75 if c else 0.2) for c in range(6)]
    assert len(checks.foreign_controls(outlier, kind="strength")) == 1


def test_duplicates_by_pixels():
    rows = healthy()
    pixels = {r.image: r.image for r in rows}
    for c in range(6):
        pixels[f"0.4/{c}.png"] = pixels[f"0.8/{c}.png"]
    (warning,) = checks.duplicates(rows, kind="strength", pixels=pixels)
    assert warning.startswith("Strengths 0.4 and 0.8 have the same pictures")
    assert checks.duplicates(rows, kind="strength") == ()  # measurements differ


def test_without_the_lora_all_checkpoints_paint_the_same():
    cells = [Candidate(f"{i}", i, None, Decimal(s), i) for i in (1, 2) for s in ("0", "1")]
    rows = [
        replace(row("1", k, 0.8), candidate=c, image=f"{c.checkpoint}/{c.strength}/{k}.png")
        for c in cells
        for k in range(3)
    ]
    pixels = {r.image: f"{r.candidate.strength} {r.case}" for r in rows}
    own = {**pixels, **{r.image: r.image for r in rows if r.candidate.strength == 1}}
    assert checks.duplicates(rows, kind="plane", pixels=own) == ()
    (warning,) = checks.duplicates(rows, kind="plane", pixels=pixels)
    assert warning.startswith("All 2 settings have the same pictures")


def test_a_picture_without_control_is_none_without_a_score():
    alone = replace(row("0.4", 0, math.nan, status="flagged", reason="no control"), control="")
    assert checks.undefined_pictures([alone]) == ()
    black = replace(alone, values={"ssim": math.nan, "brisque": math.nan}, reason="black")
    assert checks.undefined_pictures([alone, black]) == ("1 of 2 pictures has no score: black.",)


def test_a_sweep_whose_pictures_are_all_alike():
    rows = [row(s, c, 0.8, 20.0 + c) for s in STRENGTHS for c in range(6)]
    (warning,) = checks.duplicates(rows, kind="strength")
    assert warning.startswith("All 3 settings have the same pictures")


def test_one_picture_for_two_cases():
    rows = healthy()
    pixels = {r.image: r.image for r in rows}
    pixels["0.4/1.png"] = pixels["0.4/2.png"]
    pixels["None/4.png"] = pixels["None/5.png"]
    found = checks.duplicates(rows, kind="strength", pixels=pixels)
    assert found[0].startswith("p01 and p02 have the same picture at 1 setting")
    assert found[1] == "The controls of p04 and p05 are the same picture."


def test_pictures_without_a_score_are_counted_by_reason():
    rows = healthy() + [
        row("1.4", c, 0.01, math.nan, "flagged", "brisque is undefined: all black")
        for c in range(3)
    ]
    assert checks.undefined_pictures(rows) == (
        "3 of 21 pictures have no score: brisque is undefined: all black.",
    )
