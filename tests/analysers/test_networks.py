"""Likeness by a network of the user's own: transformers folders and ONNX files, by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage import data

from analysers.metrics.metric import Sample, load_metric
from generation.errors import UserError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOWER = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
PICTURES = [data.chelsea(), data.coffee(), data.camera()]
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32},
    "crop_size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.25, 0.2],
}  # fmt: skip


def values(folder: Path, name: str = "reference_likeness") -> list[float]:
    """Of each picture beside the two others."""
    metric = load_metric(f"{name}:{folder}")
    metric.check()
    held = {"reference_likeness": "references", "held_out_likeness": "held_out"}[name]
    return [
        *metric(
            [
                Sample(picture, **{held: tuple(p for p in PICTURES if p is not picture)})
                for picture in PICTURES
            ]
        )
    ]


def by_hand(vectors: list[np.ndarray]) -> list[float]:
    units = [vector / np.linalg.norm(vector) for vector in vectors]
    return [
        float(np.mean([unit @ other for other in units if other is not unit])) for unit in units
    ]


def pixels(folder: Path, picture: np.ndarray) -> Any:
    image = picture if picture.ndim == 3 else np.stack([picture] * 3, axis=2)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return processor(images=image, return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("kind", ["dinov2", "clip", "clip_vision"])
def test_a_folder_of_transformers(kind: str, tmp_path: Path) -> None:
    """DINOv2's class token; CLIP's embedding, of a whole CLIP and of its vision part alone."""
    torch.manual_seed(0)
    if kind == "dinov2":
        config = transformers.Dinov2Config(**{**TOWER, "mlp_ratio": 2})
        model = transformers.Dinov2Model(config)
    elif kind == "clip":
        config = transformers.CLIPConfig(vision_config=TOWER, projection_dim=8)
        config.text_config.update({"num_hidden_layers": 1, "hidden_size": 16, "vocab_size": 9})
        config.text_config.update({"intermediate_size": 16, "num_attention_heads": 2})
        model = transformers.CLIPModel(config)
    else:
        config = transformers.CLIPVisionConfig(**TOWER, projection_dim=8)
        model = transformers.CLIPVisionModelWithProjection(config)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    vectors = []
    for picture in PICTURES:
        with torch.no_grad():
            asked = {"pixel_values": pixels(tmp_path, picture)}
            if kind == "dinov2":
                told = model.eval()(**asked).last_hidden_state[0, 0]
            elif kind == "clip":
                told = model.eval().get_image_features(**asked)
                told = getattr(told, "pooler_output", told)[0]
            else:
                told = model.eval()(**asked).image_embeds[0]
        vectors.append(told.numpy())
    assert values(tmp_path) == pytest.approx(by_hand(vectors), abs=1e-5)
    assert values(tmp_path, "held_out_likeness") == pytest.approx(by_hand(vectors), abs=1e-5)


def test_weights_that_are_not_there_are_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    transformers.Dinov2Model(transformers.Dinov2Config(**TOWER)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    del weights["encoder.layer.0.mlp.fc1.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"its weights lack encoder.layer.0.mlp.fc1.weight"):
        load_metric(f"reference_likeness:{tmp_path}").check()


def exported(path: Path, outputs: dict[str, int], inputs: int = 1) -> None:
    """Mean colours, (1, 3) or as the first of (1, 2, 3) tokens, by output."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("GlobalAveragePool", ["pixel_values"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["colours"]),
        helper.make_node("Neg", ["colours"], ["other"]),
        helper.make_node("Unsqueeze", ["colours", "one"], ["first"]),
        helper.make_node("Unsqueeze", ["other", "one"], ["second"]),
        helper.make_node("Concat", ["first", "second"], ["tokens"], axis=1),
    ]
    for name, dimensions in outputs.items():
        own = "tokens" if dimensions == 3 else "other" if name == "other_output" else "colours"
        nodes.append(helper.make_node("Identity", [own], [name]))
    shape = [None, 3, None, None]
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name in ("pixel_values", "input_ids")[:inputs]
    ]
    told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "colours", given, told, initializer=[one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    (path.parent / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))


@pytest.mark.parametrize(
    "outputs",
    [
        {"embedding": 2},
        {"other_output": 2, "image_embeds": 2},
        {"other_output": 2, "last_hidden_state": 3},
        {"last_hidden_state": 3, "image_embeds": 2},
    ],
)
def test_an_onnx_file(outputs: dict[str, int], tmp_path: Path) -> None:
    exported(tmp_path / "network.onnx", outputs)
    colours = [pixels(tmp_path, p)[0].mean(dim=(1, 2)).numpy() for p in PICTURES]
    assert values(tmp_path) == pytest.approx(by_hand(colours), abs=1e-5)


def test_what_is_no_network_is_one_sentence(tmp_path: Path) -> None:
    def said(folder: Path) -> str:
        with pytest.raises(UserError) as caught:
            load_metric(f"reference_likeness:{folder}").check()
        return str(caught.value)

    assert "is no folder" in said(tmp_path / "none")
    assert "cannot be loaded" in said(tmp_path)
    exported(tmp_path / "a.onnx", {"embedding": 2}, inputs=2)
    assert "asks for pixel_values, input_ids, not for a picture alone" in said(tmp_path)
    exported(tmp_path / "b.onnx", {"embedding": 2})
    assert "holds 2 ONNX files, such as b.onnx" in said(tmp_path)
    (tmp_path / "a.onnx").unlink()
    (tmp_path / "b.onnx").write_bytes(b"no network")
    assert "cannot be loaded" in said(tmp_path)


def test_a_missing_onnxruntime_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "network.onnx").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install .lora-analysers\[render,onnx\]"):
        load_metric(f"reference_likeness:{tmp_path}").check()
