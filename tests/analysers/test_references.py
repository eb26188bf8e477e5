"""Training pictures: found, likeness between floor and ceiling, copies named, the leak paired."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import sample_data
from analysers import leak, likeness
from analysers.commands.main import analyse_strength
from analysers.intake.cases import without_triggers
from analysers.intake.references import find_both, find_references
from analysers.runs import events
from analysers.runs.chooser import FullGrid
from analysers.runs.likeness import Known, likeness_evidence
from analysers.runs.loop import Run, run_study
from analysers.runs.plan import plan_study
from analysers.runs.rendered import RenderedPictures
from analysers.runs.request import Judging, StudyRequest
from analysers.study import Candidate, Score, to_json
from generation.errors import UserError

LORAS = Path(__file__).parents[1] / "loras"


def rows(values: Callable[[int, int], dict[str, float]], strengths: int = 3) -> list[Score]:
    """Controls (0) and strengths 1, 2, ... of eight cases."""
    return [
        Score(
            Candidate(strength=Decimal(s)) if s else None,
            f"p{case:02d}_s1", f"prompt {case}", 1, f"{s}/{case}.png",
            f"0/{case}.png" if s else "", values(s, case),
        )
        for s in range(strengths + 1)
        for case in range(8)
    ]  # fmt: skip


def test_likeness_is_a_share_of_the_way_from_floor_to_ceiling() -> None:
    scores = rows(lambda s, case: {"reference_likeness": 0.2 + 0.1 * s + 0.01 * case})
    floor, ceiling, found = likeness.resemblance(scores, "strength", [0.635, 0.635])
    assert (floor, ceiling) == pytest.approx((0.235, 0.635))
    assert [r.share.mean for r in found] == pytest.approx([0.25, 0.5, 0.75])
    for row in found:  # every pair differs by the same, so there is nothing to doubt
        assert (row.share.low, row.share.high) == pytest.approx((row.share.mean,) * 2)


def test_the_gap_is_what_held_out_pictures_lack_beyond_the_controls() -> None:
    scores = rows(
        lambda s, case: {
            "copying": 0.25 + 0.1 * s + 0.01 * case,
            "held_out_copying": 0.2 + (0.05 if s > 1 else 0.1) * s + 0.01 * case,
        }
    )
    found = likeness.gaps(scores, "strength")
    assert [gap.mean for _, gap in found] == pytest.approx([0.0, 0.1, 0.15])
    assert likeness.record_gaps(found, "strength").sentence.endswith(
        "Surely so: strengths 2.0 and 3.0."
    )
    assert not likeness.gaps(rows(lambda s, case: {"copying": 0.5}), "strength")


def test_references_no_more_alike_than_controls_say_nothing() -> None:
    scores = rows(lambda s, case: {"reference_likeness": 0.5 + 0.1 * s})
    found = likeness.resemblance(scores, "strength", [0.4])
    assert not found[2]
    assert "says nothing" in likeness.record(found, "strength").sentence


@pytest.mark.parametrize(
    ("among", "control", "limit"), [((0.7, 0.2), 0.3, 0.7), ((0.1,), 0.75, 0.75), ((), 0.1, 0.6)]
)
def test_a_copy_is_nearer_than_references_and_controls_are(
    among: tuple[float, ...], control: float, limit: float
) -> None:
    scores = rows(lambda s, case: {"copying": control if not s else (0.9 if case == s == 2 else 0)})
    found = likeness.copies(scores, {"copying": among})
    assert found[0]["copying"] == limit
    assert [s.image for s in found[1]] == ["2/2.png"]
    none = rows(lambda s, case: {"copying": limit})
    assert not likeness.copies(none, {"copying": among})[1]


@pytest.mark.parametrize(
    ("control", "picture", "copied"),
    [
        ({"copying": 0.546, "copying_hash": 0.875}, {"copying": 0.617, "copying_hash": 0.906}, 0),
        ({"copying": 0.546, "copying_hash": 0.875}, {"copying": 0.617, "copying_hash": 0.97}, 1),
        ({"copying": 0.546, "copying_hash": 0.875}, {"copying": 0.66, "copying_hash": 0.8}, 1),
        ({}, {"copying": 0.617}, 1),
        ({"copying": math.nan}, {"copying": 0.617}, 1),
    ],
)
def test_what_the_base_paints_so_by_itself_is_no_copy(
    control: dict[str, float], picture: dict[str, float], copied: int
) -> None:
    """One bear in one pose, in the style and without it."""
    scores = [
        Score(None, "p06_s1", "", 1, "0/6.png", "", control),
        Score(Candidate(strength=Decimal(1)), "p06_s1", "", 1, "1/6.png", "0/6.png", picture),
    ]
    assert len(likeness.copies(scores, {})[1]) == copied


def test_either_sign_names_a_copy() -> None:
    """SSIM of case 1, the hash of case 2; what references have twice limits neither."""
    scores = rows(
        lambda s, case: {
            "copying": 0.9 if s and case == 1 else 0.3,
            "copying_hash": 1.0 if s and case == 2 else 0.7,
        },
        1,
    )
    among = {"copying": (0.95, 0.2), "copying_hash": (1.0, 0.8)}
    limits, found = likeness.copies(scores, among)
    assert [s.image for s in found] == ["1/1.png", "1/2.png"]
    assert limits == {"copying": 0.6, "copying_hash": 61 / 64}
    limits, found = likeness.copies(scores, {**among, "copying": (0.85, 0.2)})
    assert limits["copying_hash"] == 1.0 and [s.image for s in found] == ["1/1.png"]


def test_pictures_that_are_there_twice_do_not_hide_copies() -> None:
    scores = rows(lambda s, case: {"copying": 0.95 if case == s == 2 else 0.2})
    assert len(likeness.copies(scores, {"copying": [0.99, 0.99, 0.3]})[1]) == 1
    said = likeness.told_twice([0.99, 0.99, 0.3], [0.2, 1.0])
    assert said.startswith("2 training pictures are nearly the same") and "1 of the held" in said
    assert not likeness.told_twice([0.3], [0.5])


def test_held_out_pictures_were_not_trained_on(tmp_path: Path) -> None:
    """The same folder, one inside the other, one file copied under another name."""
    for number, colour in enumerate(("red", "blue", "green")):
        Image.new("RGB", (20, 20), colour).save(tmp_path / f"{number}.png")
    kept = tmp_path / "kept"
    kept.mkdir()
    copy(LORAS / "unseen" / "00.jpg", kept)
    copy(LORAS / "unseen" / "01.jpg", kept)
    with pytest.raises(UserError, match="5 of the pictures"):
        find_both(tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"2 of the pictures.*00.jpg.*not trained on"):
        find_both(tmp_path, kept)
    other = tmp_path.parent / f"{tmp_path.name}-other"
    other.mkdir()
    copy(kept / "00.jpg", other / "a.jpg")
    copy(LORAS / "unseen" / "02.jpg", other)
    with pytest.raises(UserError, match=r"1 of the pictures.*a.jpg"):
        find_both(kept, other)
    assert len(find_both(LORAS / "seen", LORAS / "unseen")[1].pictures) == 6


@pytest.mark.parametrize(
    ("prompt", "bare"),
    [
        ("a photo of (sks:1.3) on a beach", "a photo of on a beach"),
        ("((sks)) woman", "woman"),
        ("[sks], woman", "woman"),
        ("(sks woman:1.2)", "( woman:1.2)"),
        ("SKS, woman", "woman"),
        ("skś woman", "skś woman"),
        ("desks and sks_2", "desks and sks_2"),
        ("() of its own", "() of its own"),
    ],
)
def test_a_trigger_leaves_no_empty_brackets(prompt: str, bare: str) -> None:
    assert without_triggers(prompt, ("sks",)) == bare


def test_a_trigger_of_two_words_is_found_over_any_space() -> None:
    assert without_triggers("a dog, pstr  style", ("pstr style",)) == "a dog"
    assert without_triggers("a dog, pstr\tStyle", (" pstr  style ",)) == "a dog"


def test_a_leak_is_paired_by_case() -> None:
    scores = rows(lambda s, case: {"ssim": 1 - 0.1 * s * (1 + case) / 8})
    bare = [
        Score(
            s.candidate, f"{s.case}_bare", "", 1, "", "", {"ssim": 1 - (1 - s.values["ssim"]) / 4}
        )
        for s in scores
    ]
    apart = [
        Score(s.candidate, f"unrelated{n}_s1_bare", "", 1, "", "", {"ssim": 0.95})
        for s in scores[8::8]
        for n in range(3)
    ]
    found = leak.leaks(scores, [*bare, *apart])
    assert [one.candidate.strength for one in found] == [1, 2, 3]
    for one in found:
        assert one.without.mean == pytest.approx(0.25)
        assert (one.without.low, one.without.high) == pytest.approx((0.25, 0.25))
        assert one.unrelated.mean == pytest.approx(0.05 / one.effect)
    assert not leak.leaks(scores, [])


def test_a_class_word_stands_in_the_triggers_place(tmp_path: Path) -> None:
    """Where the prompt without the trigger names the class already, one picture tells both."""
    lines = ["photo of sks woman, smiling", "photo of SKS at sea", "photo of a tree"]
    asked = {"trigger": "sks", "leak_test": True, "class_word": "woman", "out": tmp_path}
    plan = plan_study(StudyRequest.demo("strength", prompts=lines, strengths="0.5", **asked))
    texts = {c.case.name: c.case.prompt for c in plan.probes if "unrelated" not in c.case.name}
    assert texts == {
        "p00_s1_bare_class": "photo of woman, smiling",
        "p01_s1_bare": "photo of at sea",
        "p01_s1_class": "photo of woman at sea",
    }
    candidate = Candidate(strength=Decimal(1))
    ssims = {"p00_s1": 0.5, "p01_s1": 0.7}
    own = [Score(candidate, name, "", 1, "", "", {"ssim": v}) for name, v in ssims.items()]
    beside = {"p00_s1_bare_class": 0.9, "p01_s1_bare": 0.9, "p01_s1_class": 0.7}
    probes = [Score(candidate, name, "", 1, "", "", {"ssim": v}) for name, v in beside.items()]
    (found,) = leak.leaks(own, probes)
    assert found.without.mean == pytest.approx(0.2 / 0.8)
    assert found.beside.mean == pytest.approx(0.4 / 0.8)
    said = leak.record([found], "strength", "woman").sentence
    assert said.endswith('word: 25 %; with "woman" instead: 50 %.')


def test_a_race_probes_only_what_it_looked_at(tmp_path: Path) -> None:
    """Nothing is rendered beside a picture that was never asked for."""
    asked = {
        "trigger": "sks", "leak_test": True, "prompts": ["a sks dog", "a sks cat"], "steps": 1,
        "strengths": "0.5,1", "out": tmp_path, "references": None, "held_out": None,
        "class_word": "animal",
    }  # fmt: skip
    request = StudyRequest.demo("strength", **asked)
    plan = plan_study(request)
    source = RenderedPictures(plan)
    probes = {cell: source.row(cell) for cell in plan.probes}
    rows = [source.row(cell) for cell in plan.cells]
    assert leak.wanted(rows, probes) == list(plan.probes)
    seen = [row for row in rows if row.candidate is None or row.candidate.strength == 1]
    seen = [row for row in seen if row.candidate is None or row.case == "p01_s1"]
    names = [
        (row.candidate and str(row.candidate.strength), row.case)
        for row in (probes[cell] for cell in leak.wanted(seen, probes))
    ]
    others = [f"unrelated{n}_s1_bare" for n in range(4)]
    cases = ["p01_s1_bare", "p01_s1_class", *others]
    assert sorted(names, key=str) == sorted(
        [(strength, case) for strength in (None, "1") for case in cases], key=str
    )
    assert len(plan.everything) == len(plan.cells) + len(plan.probes)
    told: list[events.Event] = []
    Run(source, request, chooser=FullGrid(plan.cells[:3]), observers=[told.append]).go()
    (beside,) = (e for e in told if isinstance(e, events.Asked) and e.beside)
    assert beside.beside == "leak test" and len(beside.rows) == 2 * 2 + 2 * 4


def test_captions_are_read_as_trainers_write_them(tmp_path: Path) -> None:
    kohya = tmp_path / "10_dog"
    kohya.mkdir()
    for name in ("a.png", "b.jpg", "c.png"):
        Image.new("RGB", (20, 20), "red").save(kohya / name)
    (kohya / "a.txt").write_text("a dog,\n sitting\n")
    (kohya / "b.caption").write_text("another dog")
    line = {"file_name": "10_dog/c.png", "text": "a third"}
    (tmp_path / "metadata.jsonl").write_text(f"{json.dumps(line)}\nno json\n[]\n")
    (kohya / "broken.png").write_bytes(b"no picture")
    found = find_references(tmp_path)
    assert [p.name for p in found.pictures] == ["a.png", "b.jpg", "c.png"]
    assert [found.captions[p] for p in found.pictures] == [
        "a dog, sitting", "another dog", "a third",
    ]  # fmt: skip
    assert "broken.png" in found.warnings[0]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_references_are_one_sentence(tmp_path: Path, count: int) -> None:
    for number in range(count):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{number}.png")
    with pytest.raises(UserError, match="two or more"):
        find_references(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        find_references(tmp_path / "none")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"leak_test": True, "trigger": "sks"}, "none of the prompts"),
        ({"leak_test": True, "class_word": "a PSTR style, woman"}, "holds the trigger word"),
        ({"class_word": "woman"}, "add .*leak.test"),
        ({"references": "none/such"}, "is no folder"),
    ],
)
def test_what_cannot_be_tried_is_said_before_rendering(
    given: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        plan_study(StudyRequest.demo("strength", out=tmp_path, **given))


def test_the_leak_tests_pictures_are_announced(tmp_path: Path) -> None:
    asked = ["--demo", "--dry-run", "--strengths", "1", "--leak-test", "--out", str(tmp_path / "x")]
    told = CliRunner().invoke(analyse_strength, asked).output
    assert "To render: 72 of 72 pictures, 40 of them for the leak test, " in told
    assert not (tmp_path / "x").exists()


def test_held_out_pictures_need_references() -> None:
    with pytest.raises(UserError, match="trained on as well"):
        Judging(held_out=LORAS / "unseen")


def test_a_lora_that_knows_its_pictures_by_heart_is_told(tmp_path: Path) -> None:
    """Six pictures were trained on until any seed paints them; the sample LoRA never saw them."""
    learnt, other = tmp_path / "learnt-000001.safetensors", tmp_path / "learnt-000002.safetensors"
    copy(sample_data.PATH / "lora" / "pstr-000006.safetensors", learnt)
    copy(LORAS / "memorised.safetensors", other)
    lines = (sample_data.PATH / "prompts.txt").read_text().splitlines()[:6]
    request = StudyRequest.demo(
        "epochs", loras=(tmp_path,), prompts=lines, seeds="3", steps=8, out=tmp_path / "run",
        references=LORAS / "seen", held_out=LORAS / "unseen",
    )  # fmt: skip
    study = run_study(plan_study(request), request)
    evidence = study.evidence
    (told,) = (s for s in study.verdict.sentences if s.code == "likeness")
    (pick,) = told.candidates
    assert told.text.endswith("; it knows them by heart.") == (pick.place == 1)
    inside = {one.name: one.inside for one in study.verdict.criteria}
    assert [one.place for one in inside["copying"]] == [0]
    assert study.verdict.recommended in (None, *inside["copying"])
    innocent, by_heart = evidence.by_heart.rows
    assert innocent["low"] < 0.05 < by_heart["low"] < by_heart["gap"] < 0.6
    assert {one.candidate.place for one in evidence.copies.pictures} == {1}
    assert len({one.reference for one in evidence.copies.pictures}) >= 4
    faint, alike = evidence.likeness.rows
    assert faint["likeness"] < 1 < alike["likeness"] < 3  # a copy is beyond "as like as another"


def test_a_lora_with_a_trigger_is_told_from_one_that_acts_always(tmp_path: Path) -> None:
    copy(sample_data.PATH / "lora" / "pstr-000006.safetensors", tmp_path / "a-000001.safetensors")
    copy(LORAS / "triggered.safetensors", tmp_path / "a-000002.safetensors")
    lines = (sample_data.PATH / "prompts.txt").read_text().splitlines()[1:6]
    request = StudyRequest.demo(
        "epochs", loras=(tmp_path,), prompts=lines, steps=8, out=tmp_path / "run",
        leak_test=True, trigger="pstr style",
    )  # fmt: skip
    judging = replace(request.judging, references=None, held_out=None)
    request = replace(request, judging=judging)
    rows = run_study(plan_study(request), request).evidence.leak.rows
    called, always = (
        next(row for row in rows if row["candidate"]["checkpoint"] == f"{name}.safetensors")
        for name in ("a-000002", "a-000001")
    )
    assert called["high"] < always["low"]
    assert called["colours high"] < 0.7 < always["colours low"]


def test_a_study_with_references_and_a_leak_test(tmp_path: Path) -> None:
    """A copy is put into the run folder's pictures' place: the references hold a render."""
    line = (sample_data.PATH / "prompts.txt").read_text().splitlines()[0]
    asked = {"prompts": [line], "strengths": "0.5", "steps": 2, "out": tmp_path / "run"}
    first = run_study(plan_study(StudyRequest.demo("strength", **asked)))
    image = next(s.image for s in first.scores if s.candidate is not None)
    folder = tmp_path / "references"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for number in range(3):
        blot = Image.fromarray(noise.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        blot.resize((200, 150), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    request = StudyRequest.demo("strength", **asked, references=folder, leak_test=True)
    study = run_study(plan_study(request), request)
    assert {"reference_likeness", "copying", "copying_hash"} <= set(study.metrics)
    assert not study.evidence.copies.pictures
    (row,) = study.evidence.leak.rows
    assert 0 < row["effect"] < 1 and math_finite(row["without trigger"], row["unrelated"])
    assert len(study.scores) == 2 and study.run.rendered.kept >= 2
    again = run_study(plan_study(request), request)
    assert again.run.rendered.pictures == again.run.rendered.controls == 0
    to_json(study)

    picture = Image.open(tmp_path / "run" / image)
    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "copied.png")
    (folder / "copied.txt").write_text("an apple")
    scores = [s for s in study.scores if s.candidate is not None]
    near = [Score(**{**vars(s), "values": {**s.values, "copying": 0.99}}) for s in scores]
    found = likeness_evidence(near, "strength", Known(), find_references(folder), tmp_path / "run")[
        "copies"
    ]
    (one,) = found.pictures
    assert (one.reference, one.caption, one.mirrored) == (
        "copied.png",
        "an apple",
        True,
    )
    assert one.value > 0.95 and one.side_by_side.startswith("data:image/jpeg;base64,")
    assert found.sentence == "Strength 0.5 repeats 1 training picture: look at them side by side."
    assert one.bits == 1 and found.hash_limit >= 61 / 64

    dark = Image.open(folder / "copied.png").point(lambda grey: 0.3 * grey)
    dark.save(folder / "copied.png")  # which SSIM does not call a copy
    near = [
        Score(**{**vars(s), "values": {**s.values, "copying": 0.4, "copying_hash": 1.0}})
        for s in scores
    ]
    seen = find_references(folder)
    (one,) = likeness_evidence(near, "strength", Known(), seen, tmp_path / "run")["copies"].pictures
    assert one.reference == "copied.png" and one.value < 0.6 and one.bits > 61 / 64


def math_finite(*values: float) -> bool:
    return bool(np.isfinite(values).all())
