"""What a command imports before it must: counted in modules, as seconds depend on the machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sample_data

LORA = sample_data.PATH / "lora" / "pstr-000006.safetensors"
SMALL = (
    "--model", "demo", "--prompt", "a pstr apple", "--seeds", "1", "--strengths", "0.5,1",
    "--size", "64", "--steps", "2", "--quiet",
)  # fmt: skip
TOLD = """
import json, sys
from analysers.commands.main import analyse_strength
def tell(event, args):
    if event == "os.mkdir" and str(args[0]).endswith("images"):
        sys.stderr.write("at the first picture: " + json.dumps(sorted(sys.modules)) + "\\n")
sys.addaudithook(tell)
try:
    analyse_strength(sys.argv[1:])
finally:
    sys.stderr.write("at the end: " + json.dumps(sorted(sys.modules)) + "\\n")
"""
MODELS = (
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "transformers.models.clip.modeling_clip",
)
"""The classes that the embedded model is made of."""


def run(*arguments: object, code: int = 0) -> tuple[dict[str, list[str]], str]:
    """What a command has imported at several times, and all that it says."""
    command = [sys.executable, "-c", TOLD, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    told = dict(re.findall(r"^(at the [a-z ]+): (\[.*\])$", done.stderr, re.M))
    said = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("at the "))
    assert done.returncode == code, said
    return {when: json.loads(modules) for when, modules in told.items()}, said


def within(modules: list[str], *packages: str) -> set[str]:
    """Those of the packages of which something is among the modules."""
    return {p for p in packages if any(m == p or m.startswith(f"{p}.") for m in modules)}


def test_help_needs_neither_numbers_nor_pictures() -> None:
    loaded, _ = run("--help")
    heavy = ("numpy", "scipy", "PIL", "torch", "jinja2", "pandas", "asyncio")
    own = ("analysers.runs.plan", "analysers.metrics", "generation.loras", "reports", "sample_data")
    assert not within(loaded["at the end"], *heavy, *own)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run folder in which all is done, and what was imported at its first picture."""
    out = tmp_path_factory.mktemp("startup") / "run"
    loaded, _ = run(LORA, *SMALL, "--out", out)
    return out, loaded["at the first picture"]


def test_the_first_picture_waits_for_nothing_that_comes_later(
    finished: tuple[Path, list[str]],
) -> None:
    _, loaded = finished
    assert within(loaded, *MODELS) == {*MODELS}
    heavy = ("matplotlib", "pandas", "skimage", "piq", "uvicorn", "starlette")
    own = (
        "reports", "analysers.serve", "analysers.intake.pairing", "analysers.racing",
        "generation.clusters", "generation.renderers.comfyui", "generation.pictures.readers.facts",
    )  # fmt: skip
    assert not within(loaded, *heavy, *own)


def test_planning_needs_the_base_models_structure_and_nothing_of_measuring(tmp_path: Path) -> None:
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from analysers.runs.plan import plan_study\n"
        "from analysers.runs.request import StudyRequest\n"
        f"plan_study(StudyRequest.of('strength', loras=[{str(LORA)!r}], model='demo',\n"
        f"    prompts=['a pstr apple'], strengths='0.5', out={str(tmp_path / 'run')!r}))\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert not within(loaded, *MODELS[1:2], "reports", "matplotlib", "pandas")
    assert not within(loaded, "analysers.runs.loop", "analysers.measure", "analysers.racing")
    assert not (tmp_path / "run").exists()


def test_a_finished_folder_needs_no_classes_of_models(finished: tuple[Path, list[str]]) -> None:
    out, _ = finished
    before = (out / "scores.csv").read_bytes()
    loaded, _ = run(LORA, *SMALL, "--out", out)
    assert not within(loaded["at the end"], *MODELS, "diffusers.loaders")
    assert (out / "scores.csv").read_bytes() == before


def test_in_a_finished_folder_too_a_lora_that_does_not_fit_is_refused(
    finished: tuple[Path, list[str]], tmp_path: Path
) -> None:
    out, _ = finished
    pictures = {path: path.stat() for path in (out / "images").rglob("*.png")}
    tensors = load_file(LORA)
    name = next(key for key in tensors if key.endswith("lora_up.weight"))
    tensors[name] = np.concatenate([tensors[name]] * 2)
    other = tmp_path / LORA.name  # the same name, and a layer of another shape
    save_file(tensors, other)
    _, fresh = run(other, *SMALL, "--out", tmp_path / "fresh", code=2)
    _, again = run(other, *SMALL, "--out", out, code=2)
    sentence = next(line for line in fresh.splitlines() if line.startswith("Error: "))
    assert sentence in again.splitlines() and LORA.name in sentence
    assert {path: path.stat() for path in (out / "images").rglob("*.png")} == pictures


@pytest.mark.parametrize("told", ["", "[]", "{", '{"loras": 3}', '{"versions": {"python": "2"}}'])
def test_a_run_record_that_says_otherwise_is_not_believed(
    finished: tuple[Path, list[str]], told: str
) -> None:
    from analysers.runs.plan import known_to_fit
    from generation.renderers.diffusers.engine import find_model

    out, _ = finished
    base = find_model(str(sample_data.PATH / "model"))
    assert len(known_to_fit(out, base)) == 1
    record = out / "run.json"
    whole = record.read_text(encoding="utf-8")
    try:
        record.write_text(told, encoding="utf-8")
        assert not known_to_fit(out, base)
        record.write_text(whole.replace(base.digest, "0" * 64), encoding="utf-8")
        assert not known_to_fit(out, base)
        record.write_text(json.dumps({**json.loads(whole), "request": None}), encoding="utf-8")
        assert not known_to_fit(out, base)
    finally:
        record.write_text(whole, encoding="utf-8")
