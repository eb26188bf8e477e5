"""A pickle runs code when it is loaded. None is, wherever it lies and whatever it is called."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

import sample_data
from generation.errors import UserError
from generation.loras.container import read_header, read_tensors
from generation.renderers.diffusers.models import check_name, find_model, load_pipeline

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")


class Malice:
    """Unpickled, it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def plant(path: Path, mark: Path, way: str = "torch") -> Path:
    """A malicious file: as `torch.save` writes it, an old-style pickle, or a numpy archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if way == "torch":
        torch.save({"weight": Malice(mark)}, path)
    elif way == "legacy":
        torch.save({"weight": Malice(mark)}, path, _use_new_zipfile_serialization=False)
    elif way == "numpy":
        import numpy as np

        with path.open("wb") as file:
            np.savez(file, weight=np.array([Malice(mark)], dtype=object))
    else:
        path.write_bytes(pickle.dumps(Malice(mark)))
    return path


def test_the_malice_is_real(tmp_path):
    mark = tmp_path / "mark"
    torch.load(plant(tmp_path / "a.bin", mark), weights_only=False)
    assert mark.exists()


@pytest.fixture
def model(tmp_path):
    return Path(shutil.copytree(sample_data.PATH / "model", tmp_path / "model"))


PARTS = (
    ("unet", "diffusion_pytorch_model"),
    ("vae", "diffusion_pytorch_model"),
    ("text_encoder", "pytorch_model"),
)


@pytest.mark.parametrize("way", ["torch", "legacy", "plain"])
@pytest.mark.parametrize("part, stem", PARTS)
def test_a_part_that_is_a_pickle_is_not_loaded(part, stem, way, model, tmp_path):
    for path in (model / part).glob("*.safetensors"):
        path.unlink()
    plant(model / part / f"{stem}.bin", tmp_path / "mark", way)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_pipeline(find_model(str(model)), torch.float32)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("part, stem", PARTS)
def test_a_pickle_beside_the_weights_or_under_their_name_is_not_loaded(part, stem, model, tmp_path):
    plant(model / part / f"{stem}.bin", tmp_path / "mark")
    plant(model / part / f"{stem}.fp16.bin", tmp_path / "mark")
    load_pipeline(find_model(str(model)), torch.float32)
    (weights,) = (model / part).glob("*.safetensors")
    plant(weights, tmp_path / "mark")
    with pytest.raises(UserError):
        load_pipeline(find_model(str(model)), torch.float32)
    assert not (tmp_path / "mark").exists()


def test_the_parts_of_a_single_checkpoints_folder(tiny_checkpoint, tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    file, config = tiny_checkpoint("sd1")
    config = Path(shutil.copytree(config, tmp_path / "config"))
    weights = load_file(file)
    no_vae = {k: v for k, v in weights.items() if not k.startswith("first_stage")}
    save_file(no_vae, tmp_path / "no_vae.safetensors")
    for part, stem in PARTS:
        plant(config / part / f"{stem}.bin", tmp_path / "mark")
    with pytest.raises(UserError, match="model_config FOLDER"):
        lacks_vae = find_model(str(tmp_path / "no_vae.safetensors"), config=config)
        load_pipeline(lacks_vae, torch.float32)
    load_pipeline(find_model(str(file), config=config), torch.float32)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_the_parts_of_a_flow_models_folder(family, tiny_checkpoint, tmp_path):
    file, config = tiny_checkpoint(family)
    config = Path(shutil.copytree(config, tmp_path / "config"))
    for path in (config / "text_encoder").glob("*.safetensors"):
        path.unlink()
    plant(config / "text_encoder" / "pytorch_model.bin", tmp_path / "mark")
    with pytest.raises(UserError, match="model_config FOLDER"):
        load_pipeline(find_model(str(file), config=config), torch.float32)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.safetensors", "model.bin"])
@pytest.mark.parametrize("way", ["torch", "legacy", "plain"])
def test_a_single_checkpoint_that_is_a_pickle(name, way, tmp_path):
    path = plant(tmp_path / name, tmp_path / "mark", way)
    with pytest.raises(UserError):
        find_model(str(path))
    assert not (tmp_path / "mark").exists()


LORAS = ("adapter_model.bin", "a.pt", "a.ckpt", "a.safetensors", "a.npz", "embedding.pt", "a.pkl")


@pytest.mark.parametrize("name", LORAS)
@pytest.mark.parametrize("way", ["torch", "legacy", "plain", "numpy"])
def test_a_lora_that_is_a_pickle(name, way, tmp_path):
    path = plant(tmp_path / name, tmp_path / "mark", way)
    for read in (read_header, read_tensors):
        with pytest.raises(UserError):
            read(path)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("place", ["unet/malice.py", "unet/diffusers.py", "pipeline.py", "x/y.py"])
def test_python_in_a_model_folder_is_refused(place, model, tmp_path):
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w')\nfrom diffusers import UNet2DConditionModel as Malice\n"
    (model / place).parent.mkdir(exist_ok=True)
    (model / place).write_text(code)
    index = json.loads((model / "model_index.json").read_text())
    index["unet"] = [Path(place).stem, "Malice"]
    (model / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="Python code"):
        load_pipeline(find_model(str(model)), torch.float32)
    assert not mark.exists()


def test_every_loading_call_asks_for_safetensors_and_trusts_no_code():
    root = Path(__file__).parents[2]
    for package in ("generation", "analysers", "reports"):
        for path in (root / package).rglob("*.py"):
            text = path.read_text("utf-8")
            assert "trust_remote_code" not in text and "torch.load" not in text, path
            assert "allow_pickle=True" not in text and "pickle.load(" not in text, path


@pytest.mark.parametrize("name", ["../../etc", "a/..", "./x/y", "a/b/c", "/nowhere", "a b/c", "-/-",
                                  "\0", "~nobody/x"])  # fmt: skip
def test_what_is_no_hub_id_is_refused_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # ../../etc may well exist elsewhere
    with pytest.raises(UserError, match="no folder or file"):
        check_name(name)


def test_hub_ids_pass(tmp_path):
    for name in ("stabilityai/sdxl-turbo", "a/b", "black-forest-labs/FLUX.1-dev", str(tmp_path)):
        check_name(name)
