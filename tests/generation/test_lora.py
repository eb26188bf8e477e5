"""LoRA files of every kind, whole and broken, built byte by byte."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generation.errors import UserError
from generation.loras import container
from generation.loras import inspection as lora

SAMPLE = Path(__file__).parents[2] / "sample_data" / "lora" / "pstr.safetensors"
ITEM = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8}


def build(tensors: dict[str, tuple[str, tuple[int, ...], bytes]], metadata=None) -> bytes:
    """A safetensors file from {key: (dtype, shape, bytes)}."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for key, (dtype, shape, raw) in tensors.items():
        header[key] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return framed(json.dumps(header).encode(), data)


def framed(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def floats(*shape: int, value: float = 0.5) -> tuple[str, tuple[int, ...], bytes]:
    return "F32", shape, np.full(shape, value, "<f4").tobytes()


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def file_of(tmp_path: Path, shapes: dict[str, tuple[int, ...]], metadata=None) -> Path:
    return put(
        tmp_path / "a.safetensors",
        build({key: floats(*shape) for key, shape in shapes.items()}, metadata),
    )


ATTN2 = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
DOTTED = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


def kohya(
    stem: str = ATTN2, width: int = 768, rank: int = 4, out: int = 640
) -> dict[str, tuple[int, ...]]:
    return {
        f"{stem}.lora_down.weight": (rank, width),
        f"{stem}.lora_up.weight": (out, rank),
        f"{stem}.alpha": (),
    }


# --- the container --------------------------------------------------------------------------------

GOOD = build({"a.lora_down.weight": floats(2, 3), "a.lora_up.weight": floats(4, 2)})


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


BROKEN = {
    "empty": (b"", "is empty"),
    "seven bytes": (b"\0" * 7, "too short"),
    "eight bytes": (b"\2" + b"\0" * 7, "too short"),
    "2^60 bytes of header": (struct.pack("<Q", 1 << 60) + b"{" + b" " * 99, "cut off"),
    "2^64 - 1 bytes of header": (b"\xff" * 8 + b"{}" * 9, "cut off"),
    "header longer than the file": (struct.pack("<Q", 500) + b"{}", "cut off"),
    "cut in the data": (GOOD[:-1], "truncated"),
    "cut in the header": (GOOD[:60], "cut off"),
    "more data than tensors": (GOOD + b"xx", "belong to no tensor"),
    "no JSON": (framed(b"{nonsense}  "), "not readable JSON"),
    "not UTF-8": (framed(b'{"\xff\xfe": 1}  '), "not readable JSON"),
    "a list": (framed(b"[1, 2, 3, 4]"), "no JSON object"),
    "no tensors": (framed(b'{"__metadata__": {"a": "b"}}'), "no tensors"),
    "100,000 deep": (framed(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "not readable"),
    "100,000 deep, unclosed": (framed(b"[" * 100_000), "not readable JSON"),
    "5,000 digits": (framed(b'{"a": ' + b"9" * 5000 + b"}"), "a"),
    "two million lists": (framed(b'{"a": [' + b"[]," * 2_000_000 + b"[]]}"), "not readable JSON"),
    "overlap": (
        framed(json.dumps({"a": entry(), "b": entry(offsets=(4, 12))}).encode(), b"\0" * 12),
        "overlaps",
    ),
    "hole": (
        framed(json.dumps({"a": entry(), "b": entry(offsets=(12, 20))}).encode(), b"\0" * 20),
        "hole",
    ),
    "offsets backwards": (framed(json.dumps({"a": entry(offsets=(8, 0))}).encode()), "no sense"),
    "offsets of floats": (framed(json.dumps({"a": entry(offsets=(0, 8.0))}).encode()), "no sense"),
    "offsets of bools": (framed(json.dumps({"a": entry(offsets=(False, 8))}).encode()), "no sense"),
    "shape and size differ": (framed(json.dumps({"a": entry(shape=(3,))}).encode()), "no sense"),
    "negative shape": (framed(json.dumps({"a": entry(shape=(-2,))}).encode()), "no sense"),
    "shape of 2^62 squared": (
        framed(json.dumps({"a": entry(shape=(1 << 62, 1 << 62))}).encode()),
        "no sense",
    ),
    "nine axes": (framed(json.dumps({"a": entry("F32", [1] * 9, (0, 4))}).encode()), "no sense"),
    "entry of text": (framed(b'{"a": "b", "c": {}}'), "no sense"),
    "line breaks in a key": (framed(b'{"a\\nb\\u001b[31m": 1, "c": 2}'), "no sense"),
    "unknown dtype": (framed(json.dumps({"a": entry(dtype="Q3")}).encode()), "Q3"),
    "a key of 10,000 letters": (framed(json.dumps({"a" * 10_000: entry()}).encode()), "no sense"),
    "zip": (b"PK\x03\x04" + b"\0" * 100, "pickle"),
    "pickle 2": (b"\x80\x02}q\x00(X\x05" + b"\0" * 100, "pickle"),
    "pickle 4": (b"\x80\x04\x95" + b"\0" * 100, "pickle"),
    "web page": (b"<!DOCTYPE html>\n<html><head></head></html>", "web page"),
    "web page, indented": (b"\n  <html lang='en'>" + b" " * 40, "web page"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "git lfs pull"),
    "server error": (b'{"error":"Unauthorized"} ' + b" " * 40, "error message"),
    "gguf": (b"GGUF\x03\0\0\0" + b"\0" * 40, "GGUF"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_files_are_refused_in_one_sentence(tmp_path, name):
    content, words = BROKEN[name]
    path = put(tmp_path / "broken.safetensors", content)
    start = time.perf_counter()
    for read in (lora.read_header, lora.inspect, lora.tensor_hash):
        with pytest.raises(UserError) as caught:
            read(path)
        text = str(caught.value)
        assert words in text and "broken.safetensors" in text and "\n" not in text
        assert len(text) < 500
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin"])
def test_pickles_are_refused_by_any_name(tmp_path, suffix):
    path = put(tmp_path / f"old{suffix}", b"\x00\x01legacy tar or torch format" * 9)
    with pytest.raises(UserError, match="can run code"):
        lora.inspect(path)


def test_missing_file_folder_and_impossible_names(tmp_path):
    for path, words in (
        (tmp_path / "no.safetensors", "does not exist"),
        (tmp_path, "is a folder"),
        ("a\0b", "cannot be read"),
        ("x" * 5000, "cannot be read"),
        ("/dev/null", "not an ordinary file"),
    ):
        with pytest.raises(UserError, match=words):
            lora.read_header(path)
        with pytest.raises(UserError, match=words):
            lora.sha256(path)


def test_a_header_whose_length_looks_like_a_pickle_is_still_read(tmp_path):
    """A header of 0x0280 bytes begins with the bytes 80 02, as a pickle of protocol 2 does."""
    text = json.dumps({"a": entry()}).encode()
    path = put(tmp_path / "a.safetensors", framed(text + b" " * (0x0280 - len(text)), b"\0" * 8))
    assert list(lora.read_header(path).tensors) == ["a"]


def test_header_of_a_good_file(tmp_path):
    path = put(tmp_path / "a.safetensors", GOOD)
    header = lora.read_header(path)
    assert header.tensors["a.lora_up.weight"] == ("F32", (4, 2), (24, 56))
    assert header.metadata == {}
    assert GOOD[header.data_start :] == np.full(14, 0.5, "<f4").tobytes()


def test_digests(tmp_path):
    path = put(tmp_path / "a.safetensors", GOOD)
    start = lora.read_header(path).data_start
    assert lora.sha256(path) == hashlib.sha256(GOOD).hexdigest()
    assert lora.tensor_hash(path) == hashlib.sha256(GOOD[start:]).hexdigest()
    assert lora.tensor_hash(SAMPLE) == lora.read_header(SAMPLE).metadata["sshs_model_hash"]


@pytest.mark.parametrize("dtype", list(ITEM))
def test_stored_number_formats_read_as_torch_reads_them(tmp_path, dtype):
    """All bit patterns of the small formats, samples of the wide ones."""
    torch = pytest.importorskip("torch")
    kinds = {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "I64": torch.int64,
    }
    if ITEM[dtype] == 1:
        raw = bytes(range(256))
    elif ITEM[dtype] == 2:
        raw = np.arange(1 << 16, dtype="<u2").tobytes()
    elif dtype == "I64":
        raw = np.arange(-50, 50, dtype="<i8").tobytes()
    else:
        kind = "<f8" if dtype == "F64" else "<f4"
        raw = np.random.default_rng(0).standard_normal(64).astype(kind).tobytes()
    expected = torch.frombuffer(bytearray(raw), dtype=kinds[dtype]).float().numpy()
    keep = np.isfinite(expected)
    raw = np.frombuffer(raw, f"V{ITEM[dtype]}")[keep].tobytes()
    tensors = {"odd": ("F8_E5M2", (1,), b"\0"), "x": (dtype, (int(keep.sum()),), raw)}
    path = put(tmp_path / "a.safetensors", build(tensors))
    values = lora.read_tensors(path)["x"]
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected[keep])


def test_a_file_is_read_once_as_long_as_it_stays_the_same(tmp_path, monkeypatch):
    path = file_of(tmp_path, kohya())
    reads = []
    real = container.open_file
    monkeypatch.setattr(container, "open_file", lambda p: (reads.append(p), real(p))[1])

    def look():
        return lora.read_header(path), lora.tensor_hash(path), lora.sha256(path), lora.inspect(path)

    look(), look()
    assert len(reads) > 4  # written a moment ago: it may change within one tick of the clock
    later = time.time_ns() + 10**10
    monkeypatch.setattr(container, "time_ns", lambda: later)
    reads.clear()
    first, again = look(), look()
    assert len(reads) == 4 and all(a is b for a, b in zip(first, again, strict=True))
    file_of(tmp_path, kohya(rank=3))
    assert look()[1:3] != first[1:3] and look()[0].tensors != first[0].tensors


def test_more_tensors_than_any_lora_has_are_refused_at_once(tmp_path):
    tensors = {f"lora_unet_x{i}.alpha": floats(1) for i in range(100_000)}
    path = put(tmp_path / "tiny.safetensors", build(tensors))
    begin = time.perf_counter()
    with pytest.raises(UserError, match="more than 20,000 tensors"):
        lora.inspect(path)
    assert time.perf_counter() - begin < 2  # measured: 0.03


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_values_are_refused_by_key(tmp_path, value):
    tensors = {"a.lora_down.weight": floats(2, 3), "a.lora_up.weight": floats(4, 2, value=value)}
    path = put(tmp_path / "a.safetensors", build(tensors))
    with pytest.raises(UserError, match=r"a\.lora_up\.weight"):
        lora.read_tensors(path)
    assert list(lora.read_tensors(path, ["a.lora_down.weight"])) == ["a.lora_down.weight"]


# --- inspection -----------------------------------------------------------------------------------

HADA = {f"hada_w{half}": shape for half, shape in
        {"1_a": (640, 4), "1_b": (4, 768), "2_a": (640, 4), "2_b": (4, 768)}.items()}  # fmt: skip
UNET_A_B = {f"unet.{DOTTED}.lora_A.weight": (4, 768), f"unet.{DOTTED}.lora_B.weight": (640, 4)}
FORMATS = {
    "kohya-lora": (kohya(), {}),
    "kohya-locon": (kohya() | {"lora_unet_conv_in.lora_down.weight": (4, 4, 3, 3),
                               "lora_unet_conv_in.lora_up.weight": (320, 4, 1, 1)}, {}),
    "loha": ({f"{ATTN2}.{k}": shape for k, shape in HADA.items()}, {}),
    "lokr": ({f"{ATTN2}.lokr_w1": (4, 16), f"{ATTN2}.lokr_w2_a": (160, 2),
              f"{ATTN2}.lokr_w2_b": (2, 48), f"{ATTN2}.alpha": ()}, {}),
    "dora": (kohya() | {f"{ATTN2}.dora_scale": (640, 1)}, {}),
    "glora": ({f"{ATTN2}.{k}.weight": (4, 4) for k in ("a1", "a2", "b1", "b2")}, {}),
    "oft": ({f"{ATTN2}.oft_blocks": (4, 4, 4), f"{ATTN2}.alpha": ()}, {}),
    "ia3": ({f"{ATTN2}.weight": (4,), f"{ATTN2}.on_input": ()}, {}),
    "full": ({f"{ATTN2}.diff": (640, 768), f"{ATTN2}.diff_b": (640,)}, {}),
    "norm": ({"lora_unet_down_blocks_0_resnets_0_norm1.w_norm": (8,)}, {}),
    "diffusers": (UNET_A_B, {}),
    "peft": ({f"base_model.model.{DOTTED}.lora_A.weight": (4, 768),
              f"base_model.model.{DOTTED}.lora_B.weight": (640, 4)}, {}),
    "ai-toolkit": (UNET_A_B, {"software": '{"name": "ai-toolkit"}'}),
    "onetrainer": (UNET_A_B, {"ot_branch": "master"}),
    "comfyui": ({f"diffusion_model.{DOTTED}.lora_A.weight": (4, 768),
                 f"diffusion_model.{DOTTED}.lora_B.weight": (640, 4)}, {}),
}  # fmt: skip


@pytest.mark.parametrize("expected", list(FORMATS))
def test_every_format_is_named(tmp_path, expected):
    shapes, metadata = FORMATS[expected]
    info = lora.inspect(file_of(tmp_path, shapes, metadata))
    assert info.format == expected
    assert info.touches == ("unet",)
    assert bool(info.unsupported) == (expected in {"glora", "oft", "ia3"})
    # Names alone leave SD 1.x, 2.x and XL open.
    assert info.family == (None if expected in {"glora", "oft", "ia3", "norm"} else "sd1")
    assert info.summary() and "\n" not in info.summary()


PROJ_OUT = kohya("lora_unet_down_blocks_1_attentions_0_proj_out", 640)  # in SD 2.x and XL
FAMILIES = [
    (kohya(width=768), {}, "sd1"),
    (kohya(width=1024), {}, "sd2"),
    (kohya(width=2048), {}, "sdxl"),
    (kohya("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048), {}, "sdxl"),
    (kohya("lora_unet_double_blocks_0_img_mod_lin", 3072, out=18432), {}, None),
    (kohya("lora_unet_conv_in"), {"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
    (kohya("lora_unet_conv_in"), {"ss_base_model_version": "sd_v2_v"}, "sd2"),
    (kohya("lora_unet_conv_in"), {"ss_v2": "True"}, "sd2"),
    (kohya("lora_unet_conv_in"), {"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd1"),
    (kohya("lora_unet_conv_in"), {"modelspec.architecture": "flux-1-dev"}, "flux"),
    (kohya("lora_unet_conv_in"), {"ss_base_model_version": "sdxl_"}, "sdxl"),
    (kohya("lora_unet_conv_in"), {"ss_base_model_version": "sd_1.5"}, "sd1"),
    (kohya("lora_unet_conv_in"), {"ss_base_model_version": "flux.1"}, "flux"),
    (kohya("lora_unet_conv_in"), {"ss_base_model_version": "sd_3"}, "sd3"),
    (kohya("lora_unet_conv_in"), {}, None),
    (PROJ_OUT, {}, None),
    (PROJ_OUT, {"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
    (PROJ_OUT, {"ss_base_model_version": "flux1"}, None),
    (kohya(width=2048), {"ss_base_model_version": "kolors"}, "kolors"),
    # shapes cannot lie, metadata can
    (kohya(width=768), {"ss_base_model_version": "sdxl_base_v1-0"}, "sd1"),
    ({f"{ATTN2}.lokr_w1": (4, 16), f"{ATTN2}.lokr_w2": (160, 128)}, {}, "sdxl"),
]


@pytest.mark.parametrize(("shapes", "metadata", "family"), FAMILIES)
def test_base_family_by_shapes_then_metadata(tmp_path, shapes, metadata, family):
    assert lora.inspect(file_of(tmp_path, shapes, metadata)).family == family


def test_ranks_alphas_and_scales(tmp_path):
    tensors = {
        "lora_unet_a.lora_down.weight": floats(4, 8),
        "lora_unet_a.lora_up.weight": floats(8, 4),
        "lora_unet_a.alpha": floats(value=2.0),
        "lora_te_b.lora_down.weight": floats(8, 8),
        "lora_te_b.lora_up.weight": floats(8, 8),
        "lora_te_b.alpha": floats(value=0.0),
    }
    info = lora.inspect(put(tmp_path / "a.safetensors", build(tensors)))
    assert info.ranks == (4, 8) and info.alphas == (2.0, 8.0) and info.scales == (0.5, 1.0)
    assert info.rank == 8 and not info.alpha_assumed and info.touches == ("unet", "te")
    assert "rank 4 to 8" in info.summary()
    del tensors["lora_unet_a.alpha"]
    info = lora.inspect(put(tmp_path / "a.safetensors", build(tensors)))
    assert info.alpha_assumed and info.scales == (1.0,)


@pytest.mark.parametrize(("stem", "part", "name"), [
    ("base_model.model.transformer.layers.0.x", "transformer", "layers.0.x"),
    ("transformer.base_model.model.layers.0.x", "transformer", "layers.0.x"),
    ("diffusion_model.diffusion_model.layers.0.x", "unet", "layers.0.x"),
    ("diffusion_model.transformer.layers.0.x", "transformer", "layers.0.x"),
    ("transformer._orig_mod.layers.0.x", "transformer", "layers.0.x"),
    ("lycoris__orig_mod_layers_0_x", "", "layers_0_x"),
    ("module.unet.down_blocks.0.x", "unet", "down_blocks.0.x"),
    ("text_encoder.text_encoder.encoder.x", "te", "encoder.x"),
    ("t5.encoder.block.0.layer.0.x", "te3", "encoder.block.0.layer.0.x"),
    ("llama.model.layers.0.mlp.up_proj", "te4", "model.layers.0.mlp.up_proj"),
    ("lora_te4_model_layers_0_mlp_up_proj", "te4", "model_layers_0_mlp_up_proj"),
    # One part inside another says two things, and is left as it is.
    ("text_encoder.unet.down_blocks.0.x", "te", "unet.down_blocks.0.x"),
])  # fmt: skip
def test_prefixes_that_stand_twice_or_come_from_wrappers(stem, part, name):
    assert lora.split_stem(stem) == (part, name)


def test_alpha_of_two_numbers_is_refused(tmp_path):
    shapes = kohya() | {f"{ATTN2}.alpha": (2,)}
    with pytest.raises(UserError, match="no single number"):
        lora.inspect(file_of(tmp_path, shapes))


NOT_LORAS = {
    "whole model checkpoint": {"model.diffusion_model.input_blocks.0.0.weight": (4, 4)},
    "textual inversion": {"emb_params": (4, 768)},
    "textual inversion ": {"clip_l": (4, 768), "clip_g": (4, 1280)},
    "ControlNet": {"control_model.input_blocks.0.0.weight": (4, 4)},
    "IP-Adapter": {"image_proj.proj.weight": (4, 4)},
    "VAE": {"encoder.down.0.block.0.conv1.weight": (4, 4), "encoder.conv_in.weight": (4, 4)},
    "text encoder": {"text_model.encoder.layers.0.mlp.fc1.weight": (4, 4)},
    "UNet or transformer": {"conv_in.weight": (4, 4), "down_blocks.0.x.weight": (4, 4)},
    "BOFT adapter": {"base_model.model.x.attn.to_q.boft_R": (1, 4, 8, 8)},
    "VeRA adapter": {"base_model.model.x.vera_lambda_b": (4,), "base_model.vera_A": (4, 4)},
    "FourierFT adapter": {"base_model.model.x.fourierft_spectrum": (4,)},
    "unknown kind": {"model.layers.0.weight": (4, 4)},
    "unknown kind ": {"lora_unet_x.alpha": ()},
}


@pytest.mark.parametrize("words", list(NOT_LORAS))
def test_what_is_no_lora_is_called_by_its_name(tmp_path, words):
    with pytest.raises(UserError, match=f"is not a LoRA but .*{words.strip()}"):
        lora.inspect(file_of(tmp_path, NOT_LORAS[words]))


def test_training_metadata_of_kohya(tmp_path):
    metadata = {
        "ss_epoch": "7",
        "ss_steps": "1050",
        "ss_network_module": "networks.lora",
        "ss_resolution": "(768, 1024)",
        "ss_clip_skip": "None",
        "ss_tag_frequency": json.dumps(
            {"10_sks dog": {"sks dog": 15, "outdoors": 20}, "5_b": {"sks dog": 9}}
        ),
        "modelspec.prediction_type": "v",
    }
    info = lora.inspect(file_of(tmp_path, kohya(), metadata))
    assert (info.epoch, info.step, info.trainer) == (7, 1050, "kohya")
    assert info.resolution == (768, 1024)
    assert info.trigger_words == ("sks dog",)
    assert info.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("metadata", "field", "expected"),
    [
        ({"training_info": '{"step": 2000, "epoch": 12}'}, "step", 2000),
        ({"training_info": '{"step": 2000, "epoch": 12}'}, "epoch", 12),
        ({"training_info": '{"step": 2000, "epoch": 12}'}, "trainer", "ai-toolkit"),
        ({"global_step": "500"}, "step", 500),
        ({"ss_steps": "None"}, "step", None),
        ({"ss_steps": "1e999"}, "step", None),
        ({"ss_steps": "nan"}, "step", None),
        ({"ss_epoch": "-3"}, "epoch", None),
        ({"ss_epoch": "7.0"}, "epoch", 7),
        ({"trained_words": "sks dog, photo"}, "trigger_words", ("sks dog", "photo")),
        ({"trained_words": '["sks dog"]'}, "trigger_words", ("sks dog",)),
        ({"modelspec.trigger_phrase": "ohwx"}, "trigger_words", ("ohwx",)),
        ({"ss_tag_frequency": "[" * 100_000}, "trigger_words", ()),
        ({"ss_tag_frequency": '{"a": {"b": "c"}, "d": 5}'}, "trigger_words", ()),
        ({"modelspec.resolution": "1024x1024"}, "resolution", (1024, 1024)),
        ({"ss_resolution": "512"}, "resolution", (512, 512)),
        ({"ss_resolution": "None"}, "resolution", None),
        ({"ss_resolution": "(1, 1)"}, "resolution", None),
        ({"ss_datasets": '[{"resolution": [832, 1216]}]'}, "resolution", (832, 1216)),
        ({"ss_datasets": '[{"tag_frequency": {"a": {"x": 3, "y": 1}}}]'}, "trigger_words", ("x",)),
        ({"ss_base_model_version": "sd_v2_v"}, "prediction_type", "v_prediction"),
        ({"ss_base_model_version": "sd_v1"}, "base_model", "sd_v1"),
        ({"ot_revision": "abc"}, "trainer", "onetrainer"),
        ({}, "trainer", None),
    ],
)
def test_metadata_fields(tmp_path, metadata, field, expected):
    assert getattr(lora.inspect(file_of(tmp_path, kohya(), metadata)), field) == expected


def test_metadata_that_is_no_text_is_kept_as_text(tmp_path):
    metadata = {"ss_epoch": 3, "x": None, "odd\ud800": "\udfff", "list": [1]}
    info = lora.inspect(file_of(tmp_path, kohya(), metadata))
    assert info.epoch == 3
    json.dumps(info.metadata, ensure_ascii=False).encode()


# --- mutations ------------------------------------------------------------------------------------

MUTABLE = build(
    {
        f"{ATTN2}.lora_down.weight": floats(2, 8),
        f"{ATTN2}.lora_up.weight": floats(4, 2),
        f"{ATTN2}.alpha": floats(),
    },
    {"ss_epoch": "3", "ss_tag_frequency": '{"a": {"b": 1}}', "lora_adapter_metadata": "{}"},
)


def outcome(path: Path) -> None:
    """Only results or the project's own error may come out."""
    try:
        lora.inspect(path)
        lora.read_tensors(path)
    except UserError as problem:
        assert "\n" not in str(problem)
        str(problem).encode()


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.integers(0, 2**32), st.integers(1, 8), st.sampled_from(["bytes", "cut", "grow", "text"]))
def test_mutated_files_give_a_result_or_a_user_error(tmp_path, seed, count, how):
    generator = random.Random(seed)
    content = bytearray(MUTABLE)
    if how == "cut":
        del content[generator.randrange(len(content)) :]
    elif how == "grow":
        at = generator.randrange(len(content))
        content[at:at] = generator.randbytes(count)
    elif how == "text":
        length = struct.unpack("<Q", content[:8])[0]
        text = content[8 : 8 + length]
        for _ in range(count):
            text[generator.randrange(length)] = generator.choice(b'{}[]",:0123456789-eE.\\ u')
        content[8 : 8 + length] = text
    else:
        for _ in range(count):
            content[generator.randrange(len(content))] = generator.randrange(256)
    outcome(put(tmp_path / "m.safetensors", bytes(content)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.dictionaries(
        st.sampled_from(
            ["ss_epoch", "ss_steps", "ss_tag_frequency", "ss_datasets", "ss_resolution"]
            + ["training_info", "software", "trained_words", "lora_adapter_metadata"]
        ),
        JSON | JSON.map(lambda value: json.dumps(value)),
        max_size=5,
    )
)
def test_any_metadata_give_a_result_or_a_user_error(tmp_path, metadata):
    tensors = {f"{ATTN2}.lora_down.weight": floats(2, 8), f"{ATTN2}.lora_up.weight": floats(4, 2)}
    outcome(put(tmp_path / "m.safetensors", build(tensors, metadata)))
