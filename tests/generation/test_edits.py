"""Models that edit a picture: FLUX.1 Kontext and Qwen-Image-Edit, tiny and with random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import sample_data  # noqa: E402
from generation import plan as grid  # noqa: E402
from generation.cells import Case, Cell, InputPicture, RenderSettings, content_key  # noqa: E402
from generation.errors import UserError  # noqa: E402
from generation.pictures.inputs import find_input, read_input  # noqa: E402
from generation.prompts import PromptLine, doubts, parse_prompt, read_prompts  # noqa: E402
from generation.renderers.diffusers.engine import Engine  # noqa: E402
from generation.renderers.diffusers.models import find_model  # noqa: E402

EDITING = [
    ("flux", "FluxKontextPipeline"),
    ("qwen", "QwenImageEditPipeline"),
    ("qwen", "QwenImageEditPlusPipeline"),
]
Tiny = Callable[..., Path]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two pictures of one size and one of another."""
    folder = tmp_path_factory.mktemp("inputs")
    random = np.random.default_rng(0)
    paths = [folder / f"{name}.png" for name in ("one", "two", "wide")]
    for path, (high, wide) in zip(paths, [(48, 48), (48, 48), (32, 96)], strict=True):
        small = random.integers(0, 256, (high // 16, wide // 16, 3), np.uint8)
        Image.fromarray(small).resize((wide, high)).save(path)
    return paths


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipelines scale what they edit to about a megapixel; here to a 256th of it."""
    from diffusers.pipelines.flux import pipeline_flux_kontext
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus

    sizes = [(64, 64), (96, 48)]
    monkeypatch.setattr(pipeline_flux_kontext, "PREFERRED_KONTEXT_RESOLUTIONS", sizes)
    for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus):
        usual = module.calculate_dimensions
        monkeypatch.setattr(
            module, "calculate_dimensions", lambda area, ratio, f=usual: f(area / 256, ratio)
        )


def editing(folder: Path, **options: Any) -> Engine:
    few = {"steps": 1, "width": 64, "height": 64, "batch_size": 2, "guidance_scale": 2.0}
    return Engine(find_model(str(folder)), **{**few, **options})


@pytest.mark.parametrize(("family", "pipeline"), EDITING)
def test_pictures_are_the_pipelines_own(
    family: str, pipeline: str, tiny_model: Tiny, inputs: list[Path]
) -> None:
    """Each alone and in a batch; another picture to edit makes another picture."""
    model = find_model(str(tiny_model(family, pipeline)))
    assert (model.family, model.edits, model.traits.pipeline) == (family, pipeline, pipeline)
    engine = editing(model.path)
    cases = [Case("make it red", 3 + n, picture=find_input(inputs[n])) for n in range(2)]
    both = engine.render(cases)
    assert np.array_equal(both[:1], engine.render(cases[:1]))
    other = engine.render([replace(cases[0], picture=cases[1].picture)])[0]
    assert other is not None and not np.array_equal(both[0], other)
    arguments: dict[str, Any] = {
        "image": Image.open(inputs[0]), "prompt": "make it red", "num_inference_steps": 1,
        "width": 64, "height": 64, "generator": torch.Generator("cpu").manual_seed(3),
    }  # fmt: skip
    if family == "qwen":
        arguments |= {"negative_prompt": " ", "true_cfg_scale": 2.0}
    else:
        arguments |= {"guidance_scale": 2.0, "max_area": 64 * 64}
    theirs = np.asarray(engine.pipe(**arguments).images[0])
    assert both[0] is not None
    # 8-bit rounding aside: ours decodes in float32 too, and batches round otherwise.
    assert np.abs(both[0].astype(int) - theirs.astype(int)).max() <= 1


def test_a_batch_holds_pictures_of_one_size(tiny_model: Tiny, inputs: list[Path]) -> None:
    engine = editing(tiny_model("flux", "FluxKontextPipeline"))
    cells = [Cell(Case("a cat", 1, picture=find_input(path))) for path in inputs]
    engine.prepare(cells)
    assert engine.batch(cells) == cells[:2]


def test_a_single_checkpoint_edits_where_its_configurations_say_so(
    tiny_model: Tiny, tiny_checkpoint: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    file, config = tiny_checkpoint("flux")
    folder = Path(shutil.copytree(config, tmp_path / "kontext"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps({**index, "_class_name": "FluxKontextPipeline"})
    )
    model = find_model(str(file), config=folder)
    assert (model.edits, model.traits.guidance_scale) == ("FluxKontextPipeline", 2.5)
    assert find_model(str(file), config=config).edits == ""


def lora(engine: Engine, path: Path) -> Path:
    tensors = {}
    generator = torch.Generator().manual_seed(1)
    for name, module in engine.denoiser.named_modules():
        if name.endswith(("attn.to_q", "attn.to_out.0")):
            out, inner = module.weight.shape
            tensors[f"transformer.{name}.lora_A.weight"] = torch.randn(2, inner)
            tensors[f"transformer.{name}.lora_B.weight"] = torch.randn(out, 2, generator=generator)
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(("family", "pipeline"), EDITING)
def test_a_study_edits_each_cases_picture(
    family: str, pipeline: str, tiny_model: Tiny, inputs: list[Path], tmp_path: Path
) -> None:
    """The control is the same edit without the LoRA; the report shows what is edited."""
    from rendering import planned

    from analysers.runs.loop import run_study
    from analysers.runs.request import Judging
    from reports.html import write_report

    folder = tiny_model(family, pipeline)
    file = lora(editing(folder), tmp_path / "lora.safetensors")
    (tmp_path / "prompts.txt").write_text(f"make it red --ci {inputs[0]}\nmake it blue\n")
    plan = planned(
        "strength", loras=[file], model=str(folder), out=tmp_path / "run", seeds=[1],
        strengths=[Decimal(1)], prompts=tmp_path / "prompts.txt", input_picture=inputs[1],
        width=64, height=64, steps=1, device="cpu",
    )  # fmt: skip
    edited = [find_input(path) for path in inputs[:2]]
    assert [case.picture for case in plan.cases] == edited
    assert (plan.settings.steps, plan.settings.guidance_scale) == (
        1, {"flux": 2.5, "qwen": 4.0}[family]
    )  # fmt: skip
    study = run_study(plan, Judging(metrics=("ssim",), workers=0))
    scores = [score for score in study.scores if score.candidate is not None]
    assert [score.status for score in scores] == ["ok", "ok"]
    assert all(score.values["ssim"] < 1 for score in scores)
    copies = [case.picture.copy for case in study.run.cases]
    for copy, picture in zip(copies, edited, strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "run" / copy)), read_input(picture))
    page = write_report(study, tmp_path / "run").read_text()
    assert page.count('"edited":') == 2
    again = run_study(plan, Judging(metrics=("ssim",), workers=0))
    assert again.run.rendered.kept == 4  # nothing is painted twice


def test_reports_show_no_file_that_a_study_merely_names(inputs: list[Path], tmp_path: Path) -> None:
    from analysers.study import CaseRecord, InputRecord
    from reports.pictures import edited

    def case(copy: str) -> CaseRecord:
        return CaseRecord("a cat", 1, picture=InputRecord("0" * 64, "/elsewhere.png", copy))

    (tmp_path / "input_0123456789ab.png").symlink_to(inputs[0])
    for copy in (str(inputs[0]), "../one.png", "input_0123456789ab.png", ""):
        assert edited(case(copy), tmp_path) is None
    shutil.copy(inputs[0], tmp_path / "input_000000000000.png")
    found = edited(case("input_000000000000.png"), tmp_path)
    assert found is not None and found.startswith("data:image/")


def test_the_picture_is_in_the_key_and_other_keys_stay(inputs: list[Path], tmp_path: Path) -> None:
    settings = RenderSettings("m", "0", 64, 64, 1, 1.0, "euler")
    one, two = (find_input(path) for path in inputs[:2])

    def key(picture: InputPicture | None) -> str:
        return content_key(Cell(Case("a cat", 1, picture=picture)), settings)

    assert len({key(None), key(one), key(two)}) == 3
    # Computed by the version before pictures were edited.
    assert key(None) == "6f2547fb77690fb059354db6f631066d2e0edfddfab309fb3221fe8395c95027"
    Image.open(inputs[0]).save(tmp_path / "same.webp", lossless=True)
    assert key(find_input(tmp_path / "same.webp")) == key(one)
    shutil.copy(inputs[1], tmp_path / "same.webp")
    with pytest.raises(UserError, match=r"same\.webp has changed since the study began"):
        read_input(replace(one, path=tmp_path / "same.webp"))


def test_prompts_name_pictures_as_trainers_do(tmp_path: Path, inputs: list[Path]) -> None:
    """musubi's flag and key, ai-toolkit's; beside the file of prompts, else where we are."""
    beside = tmp_path / "cat photo.png"
    shutil.copy(inputs[0], beside)
    texts = {
        "p.txt": "make it red --ci cat photo.png --d 3\nmake it blue --ctrl_img other.png\n",
        "p.json": json.dumps([
            {"prompt": "make it red", "seed": 3, "control_image_path": ["cat photo.png"]},
            {"prompt": "make it blue", "ctrl_img": "other.png"},
        ]),
        "p.toml": '[[prompt.subset]]\nprompt = "make it red"\nseed = 3\n'
        'control_image_path = "cat photo.png"\n[[prompt.subset]]\nprompt = "make it blue"\n'
        'input_picture = "other.png"\n',
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert read_prompts(tmp_path / name) == (
            PromptLine("make it red", seed=3, picture=beside),
            PromptLine("make it blue", picture=Path("other.png")),
        ), name
    line = parse_prompt("a cat --ci other.png")
    assert doubts([line]) == ("Not used here: --ci of the prompts.",)
    assert doubts([line], edits=True) == ()
    # For models that edit nothing the picture is no part of the case.
    assert grid.cases([line], [1], "")[0].picture is None
    for bad in ("a cat --ci a.png --ci b.png", "a cat --ci"):
        with pytest.raises(UserError, match=r"one picture is edited; name one file by --ci"):
            parse_prompt(bad)


def test_what_cannot_be_edited_is_refused(
    tiny_model: Tiny, inputs: list[Path], tmp_path: Path
) -> None:
    from rendering import planned

    folder = tiny_model("flux", "FluxKontextPipeline")
    file = lora(editing(folder), tmp_path / "lora.safetensors")
    (tmp_path / "page.png").write_text("<html>")
    common: dict[str, Any] = {
        "loras": [file], "out": tmp_path / "run", "strengths": [Decimal(1)], "width": 64,
        "height": 64,
    }  # fmt: skip
    for more, words in (
        ({"prompts": ["make it red"]}, "input_picture: the model edits pictures, and none is named "
         "for 'make it red'; name one for all prompts, or one in each line of the prompt file"),
        ({"prompts": ["make it red --ci no.png"]}, r"no\.png"),
        ({"prompts": ["make it red"], "input_picture": tmp_path / "page.png"}, r"page\.png"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            planned("strength", model=str(folder), **{**common, **more})
    lines = {"prompts": ["a cat"], "input_picture": inputs[0]}
    with pytest.raises(UserError, match=r"input_picture: FLUX\.1 edits no picture; leave it out"):
        planned("strength", model=str(tiny_model("flux")), **common, **lines)
    pstr = sample_data.PATH / "lora" / "pstr.safetensors"
    with pytest.raises(UserError, match="input_picture: Stable Diffusion 1.x edits no picture"):
        planned("strength", model="demo", **{**common, "loras": [pstr]}, **lines)
