"""The metrics of piq and CLIP, their checks, and metrics found by name."""

from __future__ import annotations

import importlib
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from analysers.metrics import metric as metric_module
from analysers.metrics.metric import METRICS, Metric, Sample, load_metric, metric_names
from analysers.trust import blurred, noisy
from generation.errors import UserError

DIRECTIONS = {
    "ssim": "higher",
    "brisque": "lower",
    "ms_ssim": "higher",
    "gmsd": "lower",
    "vif": "higher",
    "dists": "lower",
    "lpips": "lower",
    "clip": "higher",
    "adherence": "higher",
    "adherence_margin": None,
    "reference_likeness": "higher",
    "held_out_likeness": "higher",
    "copying": None,
    "copying_hash": None,
    "held_out_copying": None,
    "colour_difference": None,
    "largest_difference": None,
    "dark_share": None,
    "flat_share": None,
    "texture": None,
    "rms_contrast": None,
    "clipped": None,
    "colourfulness": None,
    "laplacian_energy": None,
}


def test_every_metric_has_its_name_and_direction() -> None:
    assert set(METRICS) == set(DIRECTIONS)
    for name in METRICS:
        metric = load_metric(name)
        assert isinstance(metric, Metric)
        assert metric.name == name
        assert metric.better == DIRECTIONS[name]
    assert metric_names()[:2] == ("ssim", "brisque")


def test_ssim_and_brisque_need_nothing() -> None:
    for name in ("ssim", "brisque"):
        load_metric(name).check()


def test_listing_metrics_imports_no_torch() -> None:
    code = (
        "import sys; from analysers.metrics.metric import load_metric, metric_names\n"
        "for name in metric_names(): load_metric(name)\n"
        "assert not {'torch', 'piq', 'transformers'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", ["ms_ssim", "gmsd", "vif"])
def test_piq_functions_see_identity_and_order_blur(name: str) -> None:
    pytest.importorskip("piq")
    metric = load_metric(name)
    metric.check()
    control = data.chelsea()[:200, :220]
    samples = [Sample(blurred(control, sigma), control) for sigma in (0.7, 1.4, 2.8)]
    same, *worse = metric([Sample(control, control), *samples])
    assert same == pytest.approx(1.0 if metric.better == "higher" else 0.0, abs=1e-4)
    ordered = sorted([same, *worse], reverse=metric.better == "higher")
    assert [same, *worse] == ordered
    assert metric([samples[1]])[0] == worse[1]
    assert math.isnan(metric([Sample(control)])[0])


def test_piq_functions_take_grey() -> None:
    pytest.importorskip("piq")
    grey = data.camera()[:200, :200]
    rgb = np.stack([grey] * 3, axis=2)
    metric = load_metric("gmsd")
    first, second = metric(
        [Sample(noisy(grey, 20), grey), Sample(np.stack([noisy(grey, 20)] * 3, 2), rgb)]
    )
    assert first == pytest.approx(second, abs=1e-6)


def test_ms_ssim_says_what_is_too_small() -> None:
    pytest.importorskip("piq")
    small = data.camera()[:64, :64]
    with pytest.raises(ValueError, match="ms_ssim cannot compare pictures of 64 x 64"):
        load_metric("ms_ssim")([Sample(small, small)])


@pytest.mark.parametrize("name", ["dists", "lpips"])
def test_missing_weights_are_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("piq")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match="vgg16-397923af.pth") as caught:
        load_metric(name).check()
    assert f"{name}_weights.pt" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.p*t*"))


@pytest.mark.parametrize("name", ["dists", "lpips"])
def test_networks_with_weights_in_the_cache(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights of the right shapes stand in for the published ones, which are 530 MB."""
    pytest.importorskip("piq")
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    backbone = models.vgg16().features.state_dict()
    # The classifier, nine tenths of the file, is not looked at: leave it out and do not demand it.
    monkeypatch.setattr(models.VGG, "load_state_dict", _without_classifier(models.VGG))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(
        {f"features.{key}": value for key, value in backbone.items()},
        folder / "vgg16-397923af.pth",
    )
    widths = (64, 128, 256, 512, 512)
    if name == "lpips":
        weights = [torch.rand(1, width, 1, 1) for width in widths]
    else:
        # alpha and beta of the six stages, the picture itself being the first
        parts = [torch.rand(1, width, 1, 1) for width in (3, *widths)]
        both = torch.cat(parts, 1)
        weights = {"alpha": both / both.sum() / 2, "beta": both / both.sum() / 2}
    torch.save(weights, folder / f"{name}_weights.pt")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    metric = load_metric(name)
    metric.check()
    control = data.chelsea()[:64, :64]
    same, other = metric([Sample(control, control), Sample(noisy(control, 40), control)])
    assert same == pytest.approx(0.0, abs=1e-4)
    assert other > same

    (folder / f"{name}_weights.pt").write_bytes(b"truncated")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_metric(name).check()


def _without_classifier(vgg: type):
    original = vgg.load_state_dict

    def load(self, state, strict=True, assign=False):
        return original(self, state, strict=False, assign=assign)

    return load


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with random weights and a tokenizer of whole words."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("clip")
    words = {word: i for i, word in enumerate(["<pad>", "<end>", "?", "a", "red", "cat", "dog"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="?"
    ).save_pretrained(folder)
    tower = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={
            **tower,
            "vocab_size": 7,
            "max_position_embeddings": 12,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


def test_clip_from_a_folder(tiny_clip: Path) -> None:
    name = f"clip:{tiny_clip}"
    metric = load_metric(name)
    metric.check()
    assert (metric.name, metric.better, metric.needs_control) == (name, "higher", False)
    cat = Sample(data.chelsea(), prompt="a red cat")
    dog = Sample(data.chelsea(), prompt="dog " * 40)
    grey = Sample(data.camera(), prompt="a red cat")
    values = metric([cat, dog, grey, Sample(data.chelsea())])
    assert all(0.0 <= value <= 100.0 for value in values[:3])
    assert len(set(values[:3])) > 1
    assert math.isnan(values[3])
    assert metric([cat])[0] == values[0]


def test_clip_value_is_the_cosine(tiny_clip: Path) -> None:
    torch = pytest.importorskip("torch")
    metric = load_metric(f"clip:{tiny_clip}")
    model, tokenizer, processor = metric._loaded  # type: ignore[attr-defined]
    for prompt in ("a red cat", "dog", "a dog a cat", "red"):
        image = data.chelsea()
        with torch.no_grad():
            found = model(
                **tokenizer([prompt], return_tensors="pt"),
                pixel_values=processor(images=image, return_tensors="pt")["pixel_values"],
            )
        # logits are the cosine times the temperature that the model learned
        cosine = float(found.logits_per_image[0, 0] / model.logit_scale.detach().exp())
        value = metric([Sample(image, prompt=prompt)])[0]
        assert value == pytest.approx(100 * max(cosine, 0.0), abs=1e-4)


def test_clip_says_what_is_missing(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in ("nobody/has-this-model", str(tmp_path / "nowhere"), "no such: name"):
        with pytest.raises(UserError, match="neither a folder nor in the Hugging Face cache"):
            load_metric(f"clip:{model}").check()
    with pytest.raises(UserError, match="cannot be loaded"):
        load_metric(f"clip:{tmp_path}").check()


@pytest.mark.parametrize("name", ["gmsd", "lpips", "clip"])
def test_missing_packages_are_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysers.metrics.perceptual.find_spec", lambda package: None)
    with pytest.raises(UserError, match=r'pip install "lora-analysers\[(metrics|render)\]"'):
        load_metric(name).check()


def test_unknown_names_are_told_what_is_known() -> None:
    with pytest.raises(UserError, match='no metric "nima"; metrics list tells all of them'):
        load_metric("nima")
    with pytest.raises(UserError, match=r"did you mean brisque\?"):
        load_metric("brisk")
    with pytest.raises(UserError, match="takes nothing after a colon"):
        load_metric("gmsd:3")


class Brightness:
    """A metric as a third party would write it."""

    name = "brightness"
    better = None
    needs_control = False

    def check(self) -> None: ...

    def __call__(self, samples: Sequence[Sample]) -> Sequence[float]:
        return [float(sample.image.mean()) for sample in samples]


class NotAMetric:
    pass


def test_installed_packages_add_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution = tmp_path / "third_party-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1\n")
    (distribution / "entry_points.txt").write_text(
        f"[{metric_module.GROUP}]\n"
        "brightness = third_party_metrics:Brightness\n"
        "broken = no_such_module:Metric\n"
        "wrong = third_party_metrics:NotAMetric\n"
        "ssim = third_party_metrics:Brightness\n"
    )
    module = type(sys)("third_party_metrics")
    module.Brightness, module.NotAMetric = Brightness, NotAMetric  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "third_party_metrics", module)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()

    assert "brightness" in metric_names()
    metric = load_metric("brightness")
    assert metric([Sample(np.full((4, 4), 9, np.uint8))]) == [9.0]
    assert load_metric("ssim").better == "higher"  # a package cannot take over a built-in name
    assert metric_names().count("ssim") == 1
    with pytest.raises(UserError, match="cannot be imported"):
        load_metric("broken")
    with pytest.raises(UserError, match="does not give a metric"):
        load_metric("wrong")


def test_worked_example_of_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (line,) = re.findall(r'^    ("darkness": _lazy\(.*\)),$', page, re.MULTILINE)
    module = type(sys)("analysers.metrics.darkness")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(source, module.__dict__)
    monkeypatch.setitem(
        METRICS, "darkness", eval("{" + line + "}", vars(metric_module))["darkness"]
    )

    metric = load_metric("darkness")
    metric.check()
    image = np.full((4, 4, 3), 200, np.uint8)
    image[0] = 0
    assert metric([Sample(image)]) == [0.25]


def test_documentation_lists_every_metric_with_its_direction() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name, direction in DIRECTIONS.items():
        assert re.search(rf"^\| `{name}`[^|]*\| {direction} \|", page, re.MULTILINE), name
