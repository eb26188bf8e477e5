"""The record and its JSON."""

import json
import math
import re
from dataclasses import MISSING, fields, is_dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from analysers.ranking import decide, decide_again
from analysers.study import Candidate, Evidence, Noise, RunRecord, Score, Study, from_json, to_json
from generation.cells import strength_text


def finished() -> Study:
    rows = []
    for case in range(7):
        control = f"control/{case}.png"
        rows.append(
            Score(None, f"p{case}", f'"<script>" {case}', case, control, "", {"brisque": 20.0})
        )
        for text in ("-0.50", "0.6", "1.20"):
            candidate = Candidate("a.safetensors", 3, 1200, Decimal(text), 2, "epoch 3")
            values = {"brisque": 20.0 + case + 9 * float(text), "ssim": 0.8}
            rows.append(Score(candidate, f"p{case}", "", case, f"{text}.png", control, values))
    broken = Candidate(strength=Decimal("2"))
    rows.append(Score(broken, "p0", "", 0, "2.png", "", {"brisque": math.nan}, "failed", "missing"))
    summaries, verdict = decide(rows, kind="plane")
    return Study(
        "plane",
        "title \u202e",
        "brisque",
        "lower",
        ("brisque", "ssim"),
        tuple(rows),
        summaries,
        verdict,
        evidence=Evidence(noise=Noise(floor={"ssim": 0.0})),
        run=RunRecord(command=("analyse-strength",)),
    )


def test_a_study_survives_its_json():
    study = finished()
    text = to_json(study)
    again = from_json(text)
    assert to_json(again) == text
    assert again.verdict == study.verdict
    assert [s.candidate for s in again.summaries] == [s.candidate for s in study.summaries]
    assert again.summaries[0] == study.summaries[0]
    assert again.scores[1] == study.scores[1]
    assert again.summaries[0].state == study.summaries[0].state != ""
    assert again.evidence == study.evidence and again.run == study.run


def test_json_is_strict_and_keeps_strengths_in_decimal():
    text = to_json(finished())
    data = json.loads(text, parse_constant=pytest.fail)  # NaN is not JSON
    assert data["scores"][1]["candidate"]["strength"] == "-0.50"
    assert data["summaries"][-1]["diff_best"]["low"] is None


def test_unknown_numbers_come_back_as_nan():
    last = from_json(to_json(finished())).summaries[-1]
    assert last.rank is None and last.reason == "missing"
    assert math.isnan(last.p_best) and math.isnan(last.diff_control.mean)


def test_the_first_format_is_read_with_its_summaries_named_anew():
    data = json.loads(to_json(finished()))
    assert data["format"] == 2
    old = ("rms_contrast", "colourfulness", "laplacian_energy", "clipped", "likeness")
    data["format"] = 1
    data["summaries"][0]["metrics"] |= {
        name: {"mean": 1.0 + i, "low": None, "high": 2.0} for i, name in enumerate(old)
    }
    del data["verdict"]["recommended"], data["verdict"]["level"], data["verdict"]["why"]
    del data["verdict"]["confidence"]
    data["verdict"] |= {"answer": "Use 0.6: breaks at 0.5.", "sentences": ["So."], "warnings": []}
    read = from_json(json.dumps(data))
    assert read.format == 1 and not read.verdict.sentences
    today = decide_again(read)
    assert today.format == 2 and today.verdict.recommended == finished().verdict.recommended
    assert today.verdict.answer == finished().verdict.answer
    assert "earlier version" in today.verdict.warnings[0]
    for name, odd in (("noise", []), ("noise", {"floor": 3}), ("trust", {"trusted": False})):
        with pytest.raises(ValueError, match=rf"^evidence\.{name}"):
            from_json(json.dumps({**data, "evidence": {name: odd}}))
    found = {
        k: v.mean for k, v in read.summaries[0].metrics.items() if k not in ("ssim", "brisque")
    }
    assert found == {
        "rms_contrast_ratio": 1.0,
        "colourfulness_ratio": 2.0,
        "laplacian_energy_ratio": 3.0,
        "clipped_change": 4.0,
        "likeness": 5.0,
    }
    assert to_json(from_json(to_json(read))) == to_json(read)


def test_evidence_is_written_again_as_the_first_release_wrote_it():
    row = {"heading": "0.6", "checkpoint": "x", "epoch": None, "step": None, "strength": "0.60"}
    counts = {"wins": 2, "losses": 0, "ties": 1, "ability": 0.5, "low": -0.1, "high": 1.1}
    ladder = {"name": "blur", "unit": "sigma", "levels": [0.0, 1.0], "means": [20.0, None]}
    evidence = {
        "noise": {"keys": ["ab"], "pairs": [[1.0, 0.0]], "floor": {"ssim": 0.0, "pictures": 1.0}},
        "weights": {"rows": [{"checkpoint": "a", "frobenius": 1.5, "growth": None}]},
        "trust": {"trusted": False, "sentence": "It does not.", "tau": None, "controls": 1,
                  "ladders": [{**ladder, "tau": 0.2, "decides": True}]},
        "votes": {"votes": 3, "rows": [row | counts]},
    }  # fmt: skip
    data = json.loads(to_json(finished())) | {"evidence": evidence}
    again = json.loads(to_json(from_json(json.dumps(data))))["evidence"]
    assert again["votes"]["rows"][0].pop("bad") == 0
    assert json.dumps(again) == json.dumps(evidence)


def test_another_format_is_refused():
    text = to_json(replace(finished(), format=99))
    with pytest.raises(ValueError, match="format 99"):
        from_json(text)
    with pytest.raises(ValueError, match="format null"):
        from_json("[]")


@pytest.mark.parametrize(
    "text, shown",
    [("0.60", "0.6"), ("1", "1.0"), ("0", "0.0"), ("-0.25", "-0.25"), ("10", "10.0")],
)
def test_strengths_read_as_people_write_them(text, shown):
    assert strength_text(Decimal(text)) == shown


def test_headings():
    candidate = Candidate("a.safetensors", 7, None, Decimal("0.60"), 6, "epoch 7")
    assert candidate.heading("strength") == "0.6"
    assert candidate.heading("epochs") == "epoch 7"
    assert candidate.heading("plane") == "epoch 7 at 0.6"
    assert Candidate(place=2).heading("epochs") == "these pictures"


@pytest.mark.parametrize("kind", ["strength", "epochs", "plane"])
def test_a_study_follows_the_documented_schema(tmp_path, kind):
    """docs/study.schema.json against a study decided from rows, failed and undefined ones too."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parents[2] / "docs" / "study.schema.json").read_text())
    rows = []
    for case in ("a", "b", "c"):
        rows.append(Score(None, case, case, 1, "c.png", "", {"brisque": 20.0}))
        for place in range(4):
            who = Candidate(f"{place}.safetensors", place, None, Decimal("0.5"), place)
            value = math.nan if place == 2 else 20.0 + place
            values = {"brisque": value, "ssim": 0.9}
            rows.append(Score(who, case, case, 1, "i.png", "c.png", values))
        lost = Candidate("4.safetensors", 4, None, Decimal("0.5"), 4)
        rows.append(Score(lost, case, case, 1, "", "", {}, "failed", "out of memory"))
    summaries, verdict = decide(rows, kind=kind)
    study = Study(
        kind, "t", "brisque", "lower", ("ssim", "brisque"), tuple(rows), summaries, verdict,
        margin=math.nan,
    )  # fmt: skip
    jsonschema.validate(json.loads(to_json(study)), schema)


OLDER_RUNS = (
    {
        "format": 1,
        "command": ["analyse-strength", "my.safetensors"],
        "seconds": 12.5,
        "rendered": {"pictures": 12, "controls": 2, "kept": 3, "seconds": 9.75},
        "model": {"name": "demo", "sha256": "0" * 64},
        "loras": [{"file": "my.safetensors", "sha256": "1" * 64, "format": "kohya", "family": "sd",
                   "rank": 4, "epoch": None, "step": 600}],
        "settings": {"model": "demo", "width": 64, "guidance_scale": 4.0,
                     "versions": {"torch": "2"},
                     "part_strengths": [["text", "0.5"]], "scheduler": {"_class_name": "Euler"}},
        "cases": [{"prompt": "a fox", "seed": 7, "negative": "", "name": "p00_s7"}],
        "strengths": ["0.20", "1"],
        "versions": {"python": "3.11.7", "lora-analysers": "0.1.0"},
    },
    {"format": 1, "command": [], "pictures": ["/pictures/a.png"], "versions": {"numpy": "2.0"}},
    {"command": ["analyse-strength"]},
    {},
)  # fmt: skip


@pytest.mark.parametrize("run", OLDER_RUNS)
def test_what_a_study_was_made_with_is_written_again_as_the_first_release_wrote_it(run):
    data = json.loads(to_json(finished())) | {"run": run}
    read = from_json(json.dumps(data))
    assert json.loads(to_json(read))["run"] == run == json.loads(read.run.to_json())
    assert from_json(to_json(read)).run == read.run


def classes(kind: Any, found: dict[str, type]) -> dict[str, type]:
    """The dataclass and those that its fields hold, by the name that the schema gives them."""
    if is_dataclass(kind) and isinstance(kind, type) and kind not in found.values():
        found[re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()] = kind
        for hint in get_type_hints(kind).values():
            classes(hint, found)
    for part in get_args(kind):
        classes(part, found)
    return found


def test_the_schema_describes_every_record():
    schema = json.loads((Path(__file__).parents[2] / "docs" / "study.schema.json").read_text())
    found = classes(Study, {})
    assert len(found) > 25
    for name, kind in found.items():
        told = schema if kind is Study else schema["$defs"][name]
        assert set(told["properties"]) == {f.name for f in fields(kind)}, name
        needed = {
            f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING
        }
        assert needed <= set(told.get("required", ())), name
