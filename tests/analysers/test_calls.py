"""The Python calls: what a notebook gets, what docs show, and what stands in the way of both."""

from __future__ import annotations

import ast
import doctest
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysers
import sample_data
from analysers.runs import events
from analysers.runs.limits import CHOICES, REAL, WHOLE
from analysers.runs.request import GROUPS, StudyRequest
from analysers.study import Candidate, Interval, Score, Study, Summary, Verdict

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = sample_data.PATH / "pictures" / "epochs"
LORA = sample_data.PATH / "lora" / "pstr-000006.safetensors"


def python(*words: str, **paths: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, **paths)


def test_what_is_offered_is_small_and_there() -> None:
    assert set(analysers.__all__) == {
        "Candidate", "Result", "Study", "UserError", "epochs", "load", "pictures", "strength",
    }  # fmt: skip
    assert all(getattr(analysers, name).__doc__ for name in analysers.__all__)
    assert set(analysers.__all__) <= set(dir(analysers))
    with pytest.raises(AttributeError, match="no attribute 'strengths'"):
        analysers.strengths  # type: ignore[attr-defined]  # noqa: B018


def test_importing_loads_nothing_of_weight() -> None:
    code = "import analysers, sys; print(*{'torch', 'numpy', 'pandas', 'click'} & {*sys.modules})"
    assert python("-c", code).stdout == "\n"


def test_the_examples_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(str(ROOT / "docs" / "python.md"), module_relative=False)
    assert tried > 8 and not failed


def test_the_notebook_gives_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code runs; words and settings are those that stand in it, figures may round otherwise."""
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs" / "which-strength.ipynb").read_text(encoding="utf-8"))[
        "cells"
    ]
    space: dict[str, Any] = {}
    shown = []
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if cell["outputs"] else None
        exec(compile(tree, "cell", "exec"), space)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), space)
            shown.append((value, cell["outputs"][0]["data"]))
    assert [type(value).__name__ for value, _ in shown] == ["Result", "DataFrame", "tuple", "str"]
    result, data = shown[0]
    old, new = "".join(data["text/html"]), result._repr_html_()
    assert old[: old.index("<table>")].split("BRISQUE")[0] == new.split("BRISQUE")[0]
    assert str(shown[2][0]) == "".join(shown[2][1]["text/plain"])
    assert (result.folder / shown[3][0]).is_file()


def test_found_pictures_to_a_result(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[events.Event] = []
    result = analysers.pictures(
        str(EPOCHS), kind="epochs", out=tmp_path, quiet=True, observers=[told.append]
    )
    assert result.best is not None and result.best.epoch == 1  # as the command says
    assert result.recommended is None and "One picture cannot decide" in result.answer
    assert list(result.table["rank"]) == list(range(1, 11))
    assert len(result.scores) == 20
    assert result.answer in repr(result) and str(tmp_path) in repr(result)
    page = result.report().read_text(encoding="utf-8")
    assert "epoch_01.png" in page, "the page shows pictures of the folder that was named"
    assert {"scores.csv", "summary.csv"} <= {path.name for path in tmp_path.iterdir()}
    assert analysers.load(str(tmp_path)).study.verdict == result.study.verdict
    assert any(isinstance(event, events.Decided) for event in told)
    assert capfd.readouterr() == ("", "")


def test_the_call_and_the_command_leave_the_same_files(tmp_path: Path) -> None:
    called, typed = tmp_path / "called", tmp_path / "typed"
    analysers.pictures(EPOCHS, kind="epochs", out=called, quiet=True).report()
    python(
        "-m", "analysers", "epochs", "--images", str(EPOCHS), "--out", str(typed), "--jobs", "0"
    ).check_returncode()  # fmt: skip
    for name in ("scores.csv", "summary.csv"):
        assert (called / name).read_bytes() == (typed / name).read_bytes()


def test_of_several_studies_one_is_named(tmp_path: Path) -> None:
    for lora, source in (("alpha", "strength_0.5.png"), ("beta", "strength_1.1.png")):
        (tmp_path / lora).mkdir()
        for number, strength in enumerate(("0.5", "1"), 1):
            text = f"a cat <lora:{lora}:{strength}>\nSteps: 4, Seed: 1, Size: 128x128"
            from PIL import Image
            from PIL.PngImagePlugin import PngInfo

            info = PngInfo()
            info.add_text("parameters", text)
            with Image.open(sample_data.PATH / "pictures" / "strengths" / source) as image:
                image.save(tmp_path / lora / f"{number}.png", pnginfo=info)
    out = tmp_path.parent / f"{tmp_path.name}-out"
    with pytest.raises(analysers.UserError, match="2 studies; choose one of 'alpha', 'beta'"):
        analysers.pictures(tmp_path, out=out, quiet=True)
    found = analysers.pictures(tmp_path, out=out, name="bet*", quiet=True)
    assert {row.candidate.checkpoint for row in found.study.scores if row.candidate} == {"beta"}
    assert found.folder.parent == out, "each keeps its place beside the others"
    with pytest.raises(analysers.UserError, match="no study here is called 'gamma'"):
        analysers.pictures(tmp_path, out=out, name="gamma", quiet=True)


def test_a_result_shows_texts_as_texts() -> None:
    candidate = Candidate("<script>alert(1)</script>", label="<b>\u202efive</b>")
    score = Score(candidate, "p", "a & b", 1, "", "", {"brisque": 3.0})
    summary = Summary(candidate, 1, 1, {"brisque": Interval(3.0)}, reason="<i>none</i>")
    study = Study(
        "epochs", "<title>", "brisque", "lower", ("brisque",), (score,), (summary,), Verdict()
    )
    shown = analysers.Result(study, Path("<run>"))._repr_html_()
    assert "<script" not in shown and "<b>\u202e" not in shown and "\u202e" not in shown
    assert "&lt;run&gt;" in shown and "&lt;i&gt;none" in shown


WRONG = {
    "steps": [0, 501, "many", 2.5, True, float("nan"), [1]],
    "guidance_scale": [-1, "x", float("nan"), float("inf"), None.__class__],
    "seeds": [[1.5], "1:", [], -1, {}],
    "strengths": [["a"], [], "0.2:", object()],
    "size": [(1,), "wide", 5, ("a", "b")],
    "dtype": ["float8", 16],
    "prediction_type": ["noise"],
    "batch_size": [-1, 65],
    "workers": [-1, "all"],
    "margin": [-0.1, "wide"],
    "budget": [0],
    "fixed": [[("a",)], [("a", "b")], 5],
    "unet_strength": [11, "x", "nan", True],
    "te_strength": ["x", [99]],
    "prompts": [[], [5], "nowhere.txt", 5],
    "metrics": [5, ["no such metric"]],
    "out": [5],
    "resume": ["no", 1],
    "name": [5],
    "rank_by": ["taste"],
}


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_value_is_one_sentence_that_names_the_argument(field: str) -> None:
    for value in WRONG[field]:
        with pytest.raises(analysers.UserError) as caught:
            analysers.strength(LORA, model="demo", **{field: value})
        where = caught.value.field
        assert where == field or (field == "metrics" and "no such metric" in str(caught.value)) or (
            field == "rank_by" and "taste" in str(caught.value)
        ), (value, str(caught.value))  # fmt: skip
        assert "\n" not in str(caught.value)


def test_values_may_be_typed_or_python_s() -> None:
    def asked(**given: Any) -> StudyRequest:
        return StudyRequest.of("strength", loras=LORA, **given)

    assert asked(strengths=np.array([0.2, 0.6])) == asked(strengths="0.2,0.6")
    assert asked(strengths=[0.1 + 0.2]).subject.strengths[0] != asked(strengths="0.3")
    assert asked(steps=np.int64(20), seeds=range(1, 5)) == asked(steps="20", seeds="1:4")
    assert asked(size=(768, 512)) == asked(size="768x512") == asked(width=768, height=512)
    assert asked(unet_strength=0.5) == asked(unet_strength="0.5")
    assert asked(prompts=["a cat --d 3"]).prompts.prompts[0].seed == 3
    assert asked(model=Path("base")) == asked(model="base")


def test_limits_are_of_fields_that_there_are() -> None:
    known = {name for group in GROUPS.values() for name in group.__dataclass_fields__}
    assert {*WHOLE, *REAL, *CHOICES} <= known


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import analysers, sys\nprint('begun')\n"
        "print(analysers.pictures(sys.argv[1], kind='epochs', quiet=True).best.epoch)\n"
    )
    done = python("mine.py", str(EPOCHS), cwd=tmp_path)
    assert done.stdout.split() == ["begun", "1"], done.stderr


@pytest.mark.parametrize("name", ["generation", "reports", "sample_data"])
@pytest.mark.parametrize("kind", ["package", "module", "loaded"])
def test_a_foreign_package_is_named_in_one_sentence(name: str, kind: str, tmp_path: Path) -> None:
    code = "import analysers"
    if kind == "package":
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    elif kind == "module":
        (tmp_path / f"{name}.py").write_text("")
    else:
        code = f"import sys, types; sys.modules[{name!r}] = types.ModuleType({name!r}); {code}"
    last = python("-c", code, cwd=tmp_path).stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: {name!r} is another package here")
    assert (str(tmp_path) in last or kind == "loaded") and "environment of its own" in last


def test_a_folder_that_is_no_package_hides_nothing_or_is_named(tmp_path: Path) -> None:
    """Python prefers packages to folders, but not to those that are installed as editable."""
    (tmp_path / "reports").mkdir()
    done = python("-c", "import analysers, reports.html", cwd=tmp_path)
    named = f"ImportError: 'reports' is another package here ({tmp_path / 'reports'})"
    assert done.returncode == 0 or named in done.stderr.splitlines()[-1]


def test_python_m_analysers_is_both_commands(tmp_path: Path) -> None:
    shown = python("-m", "analysers").stderr + python("-m", "analysers", "--help").stdout
    assert "python -m analysers strength --demo" in shown
    assert "Which epoch" in python("-m", "analysers", "epochs", "--help").stdout
    done = python(
        "-m", "analysers", "epochs", "--images", str(EPOCHS), "--out", str(tmp_path), "--quiet"
    )
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert run["command"][:4] == ["python", "-m", "analysers", "epochs"]
    wrong = python("-m", "analysers", "strength", "--steps", "0")
    assert wrong.returncode == 2 and "python -m analysers strength" in wrong.stderr
