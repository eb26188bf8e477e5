"""The README's recipes, typed as they stand there, on the embedded model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("httpx")
pytest.importorskip("starlette")
pytest.importorskip("websockets")

import fakes  # noqa: E402
from click.testing import CliRunner, Result  # noqa: E402
from fakes import ComfyServer, Studio  # noqa: E402
from test_docs import COMMANDS, ROOT, typed  # noqa: E402

import sample_data  # noqa: E402
from analysers.runs.conclude import load_study  # noqa: E402
from analysers.study import Study  # noqa: E402
from generation.renderers.comfyui.graphs import built_in  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = typed(README.partition("## Everyday recipes")[2].partition("## What you get")[0])
LINES = [" ".join(words) for words in RECIPES]
SHORT = "analyse-strength my.safetensors --model path/to/base --prompts prompts.txt --seeds 1 "
ADDED = {
    "--with style.safetensors:0.8": "with",
    "--strengths auto": "auto",
    "--budget 200": "budget",
    "--until-decided": "decided",
    "--metrics adherence": "adherence",
    "--references train/": "references",
    "--leak-test": "leak",
    "--dry-run": "dry",
}
"""What the README says to add to a command, and the run's name here."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything is called as in the README; the prompts' own flags keep the pictures small."""
    folder = tmp_path_factory.mktemp("readme")
    loras, pictures = sample_data.PATH / "lora", sample_data.PATH / "pictures"
    shutil.copytree(sample_data.PATH / "model", folder / "path" / "to" / "base")
    shutil.copy(loras / "pstr-000006.safetensors", folder / "my.safetensors")
    shutil.copy(loras / "pstr-000003.safetensors", folder / "style.safetensors")
    for name in ("train_output", "loras", "models", "renders", "samples", "controls", "train"):
        (folder / name).mkdir()
    for name in ("pstr-000004", "pstr-000008", "pstr"):
        shutil.copy(loras / f"{name}.safetensors", folder / "train_output")
    flags = "--w 64 --h 64 --s 2 --l 4"
    lines = [f"a red apple, pstr style {flags}", f"a castle at sunset, pstr style {flags}"]
    (folder / "prompts.txt").write_text("\n".join(lines), encoding="utf-8")
    for path in sorted(pictures.rglob("strength_*.png"))[:3]:
        shutil.copy(path, folder / "renders")
    shutil.copy(min(pictures.rglob("strengths/control_*.png")), folder / "base.png")
    for path in sorted(pictures.rglob("epochs/*.png")):
        shutil.copy(path, folder / ("samples" if path.name.startswith("epoch") else "controls"))
    for path in sorted((sample_data.PATH / "references").glob("*.*"))[:4]:
        shutil.copy(path, folder / "train")
    return folder


def run(words: list[str]) -> Result:
    return CliRunner().invoke(COMMANDS[words[0]], words[1:])


def study_of(result: Result) -> Study:
    """What was written where the terminal says."""
    found = re.search(r"Report.*: (\S+)", result.output)
    assert found, result.output
    assert Path(found[1]).is_file()
    return load_study(Path(found[1]).parent)


@pytest.mark.parametrize("words", RECIPES, ids=LINES)
def test_a_recipe_does_what_it_says(
    words: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    if "--serve" in words:
        serves(words)
        return
    if "--renderer" in words:
        graph = built_in("sd1", "tiny.safetensors", guidance=4.0, sampler="euler_a", width=64,
                         height=64, steps=2)  # fmt: skip
        (place / "my_workflow_api.json").write_text(json.dumps(graph))
        monkeypatch.setattr(fakes, "LORAS", place)  # what the server has
        with ComfyServer(Studio()) as server:
            result = run([*words, "--url", server.url, "--out", "runs/comfy"])
    elif "--report-only" in words:
        pytest.skip("its run is made by test_the_report_once_more")
    else:
        name = re.sub(r"\W+", "-", " ".join(words))[-60:]
        result = run([*words, "--out", f"runs/{name}"])
    assert result.exit_code == 0, result.output
    study = study_of(result)
    assert {score.status for score in study.scores} == {"ok"}
    assert all(summary.rank for summary in study.summaries)
    if "--images" not in words and "--renderer" not in words:
        sizes = study.run.settings
        assert sizes is not None
        assert (sizes["width"], sizes["steps"]) == (64, 2), "the prompts' flags decide"


def serves(words: list[str]) -> None:
    """It prints an address that answers, until it is ended."""
    import httpx

    code = "import sys; from analysers.commands.main import analyse_strength as run; run()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words[1:]], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[1]
            with httpx.Client(follow_redirects=True) as client:
                page = client.get(address)
                base = address.partition("/?")[0]
                found = [entry["name"] for entry in client.get(f"{base}/folder").json()]
            assert page.status_code == 200 and "Which setting is best?" in page.text
            assert [Path(name).name for name in found] == ["loras", "models"]
        finally:
            process.terminate()


@pytest.mark.parametrize("added", ADDED, ids=ADDED.get)
def test_what_may_be_added(added: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"`{added}" in README or f" {added}\n" in README
    monkeypatch.chdir(place)
    strengths = "" if "auto" in added else "--strengths 0.5,1 "
    words = typed(f"    {SHORT}{strengths}{added} --out runs/{ADDED[added]}\n")[0]
    result = run(words)
    assert result.exit_code == 0, result.output
    if added == "--dry-run":
        assert "Nothing was written." in result.output and not Path("runs/dry").exists()
        return
    study = study_of(result)
    if added == "--metrics adherence":
        assert all("adherence" in score.values for score in study.scores)
    if added == "--references train/":
        assert study.evidence.likeness is not None
    if added == "--leak-test":
        assert study.evidence.leak is not None
    if added == "--strengths auto":
        assert len(study.summaries) >= 5


@pytest.fixture(scope="module")
def finished(place: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        words = typed(f"    {SHORT}--strengths 0.5,1 --out runs/my-strength\n")[0]
        assert run(words).exit_code == 0
    yield place / "runs" / "my-strength"


def test_the_same_command_again_renders_nothing(
    finished: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    words = typed(f"    {SHORT}--strengths 0.5,1 --out runs/my-strength\n")[0]
    times = {path: path.stat().st_mtime_ns for path in finished.rglob("*.png")}
    result = run(words)
    assert "Nothing to render: 6 pictures lay there already." in result.output
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.png")} == times


def test_the_report_once_more(finished: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert "`analyse-strength --report-only runs/my-strength`" in README
    (finished / "report.html").unlink()
    result = run(
        ["analyse-strength", "--report-only", "runs/my-strength", "--share", "--single-file"]
    )
    assert result.exit_code == 0, result.output
    names = [line.split()[0] for line in README.splitlines() if line.startswith("    runs/")]
    for name in ("contact_sheet.png", "sweep.webp", "summary.md"):
        assert (finished / name).is_file()
    assert len(names) == 5 and all((place / name).exists() for name in names)
    assert 'src="data:image/webp' in (finished / "report.html").read_text(encoding="utf-8")
