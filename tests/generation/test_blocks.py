"""Block weights: reading them, where every weight of the real models lies, and real pictures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sample_data
from generation.cells import Case, Cell, Checkpoint, RenderSettings, content_key
from generation.errors import UserError
from generation.families import FAMILIES, flux
from generation.families.unet import stability_names
from generation.loras.blocks import block_names, parse
from generation.renderers.diffusers.models import CONFIGS

COUNTS = {
    "sd1": (17, 26), "sd2": (17, 26), "sdxl": (12, 20), "flux": (58, 61), "sd3": (25, 39),
    "chroma": (58,), "flux2": (57,), "klein": (26, 33), "qwen": (61,), "zimage": (35,),
    "lumina2": (31,), "hidream": (49,),
}  # fmt: skip
LORA = sample_data.PATH / "lora" / "pstr.safetensors"
CASES = [Case("a picture of a cat on green grass, pstr style", 3, name="p00_s3")]


def ones(count: int) -> str:
    return ",".join(["1"] * count)


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", COUNTS)
def test_lists_of_the_usual_lengths_are_read_and_others_refused(family: str) -> None:
    for count in COUNTS[family]:
        weights = parse(" " + ones(count).replace(",", " , "), family)
        assert weights.text == ones(count) and len(weights.entries) == count
    for count in {1, 16, 17, 26, 12, 21, 27, 57} - {*COUNTS[family]}:
        with pytest.raises(UserError, match=r"block_weights: got \d+ numbers?; for .* give"):
            parse(ones(count), family)


def test_the_refusal_of_a_list_says_what_to_give() -> None:
    with pytest.raises(UserError) as caught:
        parse(ones(16), "sdxl")
    assert str(caught.value) == (
        "block_weights: got 16 numbers; for Stable Diffusion XL give 12 or 20: BASE, IN04, "
        "IN05, ... OUT05, or name blocks: OUT05=0."
    )


@pytest.mark.parametrize(
    ("text", "family", "blocks"),
    [
        # Numbers stand in lbw's order, and blocks that a short list leaves out are 0.
        ("9,1,2,4,5,7,8,10,3,4,5,6,7,8,9,1,2", "sd1",
         {"BASE": 9, "IN00": 0, "IN01": 1, "IN04": 4, "IN08": 8, "IN11": 0, "M00": 10,
          "OUT02": 0, "OUT03": 3, "OUT11": 2}),
        (",".join(str(i / 10) for i in range(26)), "sd2",
         {"BASE": 0, "IN00": 0.1, "IN11": 1.2, "M00": 1.3, "OUT00": 1.4, "OUT11": 2.5}),
        ("1,4,5,7,8,10,.1,.2,.3,.4,.5,.6", "sdxl",
         {"BASE": 1, "IN00": 0, "IN04": 4, "IN06": 0, "IN08": 8, "M00": 10, "OUT00": 0.1,
          "OUT05": 0.6, "OUT06": 0}),
        (",".join(str(i / 10) for i in range(20)), "sdxl",
         {"BASE": 0, "IN00": 0.1, "IN08": 0.9, "M00": 1, "OUT00": 1.1, "OUT08": 1.9}),
        (",".join(str(i / 10) for i in range(58)), "flux",
         {"CLIP": 0, "T5": 0, "IN": 0, "OUT": 0, "D00": 0.1, "D18": 1.9, "S00": 2, "S37": 5.7}),
        (",".join(str(i / 10) for i in range(61)), "flux",
         {"CLIP": 0, "T5": 0.1, "IN": 0.2, "D00": 0.3, "D18": 2.1, "S37": 5.9, "OUT": 6}),
        (",".join(str(i / 10) for i in range(25)), "sd3", {"BASE": 0, "J00": 0.1, "J23": 2.4}),
        # Names of lists.
        ("IND", "sd1", {"BASE": 1, "IN02": 0, "IN04": 0, "IN05": 1, "IN08": 1, "M00": 0,
                        "OUT03": 0}),
        ("outs", "sd2", {"BASE": 1, "M00": 0, "OUT06": 0, "OUT07": 1, "OUT11": 1}),
        ("INALL", "sdxl", {"BASE": 1, "IN04": 1, "IN08": 1, "IN01": 0, "M00": 0, "OUT00": 0}),
        ("NONE", "flux", {"CLIP": 0, "D05": 0, "OUT": 0}),
        ("ALL", "sd1", {"BASE": 1, "IN00": 1, "IN03": 1, "OUT11": 1}),
        ("ALL0.5", "sd3", {"BASE": 0.5, "J23": 0.5}),
        # Blocks by name: the last entry that fits counts.
        ("IN4=0,MID=2,OUT=0.5", "sd1",
         {"BASE": 1, "IN04": 0, "IN05": 1, "M00": 2, "OUT00": 0.5, "OUT11": 0.5}),
        ("all=0, in05-out01=1, base=.25", "sdxl",
         {"BASE": 0.25, "IN04": 0, "IN05": 1, "M00": 1, "OUT01": 1, "OUT02": 0}),
        ("OUT=0,OUT07=1", "sd1", {"OUT06": 0, "OUT07": 1}),
        ("BASE=0,double=-1,S36=0.125", "flux",
         {"CLIP": 0, "T5": 0, "IN": 0, "OUT": 0, "D03": -1, "S36": 0.125, "S37": 1}),
        ("IN=0", "flux", {"CLIP": 1, "IN": 0, "OUT": 1}),
        ("J30-J37=0", "sd3", {"J29": 1, "J30": 0, "J37": 0}),
    ],
)  # fmt: skip
def test_blocks_get_their_weight(text: str, family: str, blocks: dict[str, float]) -> None:
    weights = parse(text, family)
    assert {block: float(weights.of_block(block)) for block in blocks} == blocks
    assert parse(weights.text, family) == weights


@pytest.mark.parametrize(
    ("text", "family", "says"),
    [
        ("INS", "sdxl", "'INS' is no named list of Stable Diffusion XL; known are NONE, ALL"),
        ("IN04", "sd1", "a block is named with its weight, such as OUT11=0"),
        ("IN09=0", "sdxl", "no block 'IN09'; its blocks are BASE, IN00 to IN08, M00, OUT00 to"),
        ("D19=0", "flux", "its blocks are CLIP, T5, IN, D00 to D18, S00 to S37, OUT, and BASE"),
        ("IN04-=0", "sd1", "no block 'IN04-'"),
        ("IN-OUT=0", "sd1", "no block 'IN-OUT'"),
        ("IN04=0,1", "sd1", "'1' has no weight"),
        ("IN04=", "sd1", "cannot read '' as a weight; write a number from -10 to 10"),
        ("IN04=nan", "sd1", "cannot read 'NAN'"),
        ("IN04=1e9", "sd1", "cannot read '1E9'"),
        ("R" + ",1" * 16, "sd1", "cannot read 'R' as a weight"),
        (",".join([""] * 17), "sd1", "cannot read '' as a weight"),
        ("", "sd1", "got 1 number; for Stable Diffusion 1.x give 17 or 26"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(text: str, family: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text, family)
    sentence = str(caught.value)
    assert sentence.startswith("block_weights: ") and says in sentence
    assert "\n" not in sentence and sentence.endswith(".")


@given(st.text("INOUTMDSJBALCE0123456789=,.- ", max_size=40), st.sampled_from(list(COUNTS)))
def test_any_text_is_read_or_refused(text: str, family: str) -> None:
    try:
        weights = parse(text, family)
    except UserError:
        return
    assert parse(weights.text, family) == weights


# --- where the weights lie ------------------------------------------------------------------------


def unet_on_meta(family: str) -> Any:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    config = json.loads((CONFIGS / family / "unet" / "config.json").read_text())
    with torch.device("meta"):
        return diffusers.UNet2DConditionModel.from_config(config)


def transformer_on_meta(family: str, **config: Any) -> Any:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    kind = {"sd3": "SD3Transformer2DModel", "flux": "FluxTransformer2DModel"}[family]
    with torch.device("meta"):
        return getattr(diffusers, kind)(**config)


def keys_of(part: str, model: Any) -> list[tuple[str, str]]:
    return [(part, name) for name, _ in model.named_parameters()]


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_unet_blocks_are_stabilitys(family: str) -> None:
    """All parameters of the real UNets: by diffusers' own conversion of Stability's names."""
    unet = unet_on_meta(family)
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    own = dict(unet.named_parameters())
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in own))
    alias = {pieces[0]: theirs for theirs, pieces, _ in stability_names(modules)}
    theirs = {}  # Stability's name -> ours
    for name in own:
        module, _, leaf = name.rpartition(".")
        theirs[f"{alias[module]}.{leaf}"] = name
    stored = {f"model.diffusion_model.{name}": own[ours] for name, ours in theirs.items()}
    config = {**unet.config, "num_class_embeds": None}
    converted = convert_ldm_unet_checkpoint(stored, config)
    assert {id(value): name for name, value in converted.items()} == {
        id(value): name for name, value in own.items()
    }
    found = block_names(keys_of("unet", unet), family)
    kinds = {"input_blocks": "IN", "middle_block": "M", "output_blocks": "OUT"}
    for name, ours in theirs.items():
        kind, number = name.split(".")[:2]
        block = f"{kinds[kind]}{0 if kind == 'middle_block' else int(number):02d}" \
            if kind in kinds else "BASE"  # fmt: skip
        assert found["unet", ours] == block, name
    weights = parse(ones(COUNTS[family][1]), family).of_weights(found)
    assert weights == dict.fromkeys(found, Decimal(1))
    assert len(found) == len(own)
    levels = 9 if family == "sdxl" else 12
    assert {*found.values()} == {
        "BASE", "M00", *(f"{side}{i:02d}" for side in ("IN", "OUT") for i in range(levels))
    }  # fmt: skip


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_short_lists_name_the_blocks_with_attention(family: str) -> None:
    """So a LoRA of the attention layers loses nothing to the zeros of the other blocks."""
    found = block_names(keys_of("unet", unet_on_meta(family)), family)
    attending = {block for (_, name), block in found.items() if ".attentions." in name}
    listed = {name for name, _ in parse(ones(COUNTS[family][0]), family).entries}
    assert listed == attending | {"BASE"}


def test_examples_of_the_mapping() -> None:
    sd1 = block_names(keys_of("unet", unet_on_meta("sd1")), "sd1")
    sdxl = block_names(keys_of("unet", unet_on_meta("sdxl")), "sdxl")
    for found, name, block in [
        (sd1, "conv_in.weight", "IN00"),
        (sd1, "down_blocks.0.downsamplers.0.conv.weight", "IN03"),
        (sd1, "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight", "IN04"),
        (sd1, "down_blocks.3.resnets.1.conv2.bias", "IN11"),
        (sd1, "mid_block.attentions.0.proj_in.weight", "M00"),
        (sd1, "up_blocks.0.upsamplers.0.conv.weight", "OUT02"),
        (sd1, "up_blocks.1.attentions.0.proj_out.weight", "OUT03"),
        (sd1, "up_blocks.3.resnets.2.conv1.weight", "OUT11"),
        (sd1, "time_embedding.linear_1.weight", "BASE"),
        (sd1, "conv_out.weight", "BASE"),
        (sdxl, "down_blocks.1.attentions.0.transformer_blocks.1.ff.net.2.weight", "IN04"),
        (sdxl, "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k.weight", "IN08"),
        (sdxl, "up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_v.weight", "OUT01"),
        (sdxl, "up_blocks.1.upsamplers.0.conv.weight", "OUT05"),
        (sdxl, "add_embedding.linear_2.weight", "BASE"),
    ]:
        assert found["unet", name] == block, name


def test_flux_blocks() -> None:
    model = transformer_on_meta("flux", guidance_embeds=True)  # the defaults are FLUX.1's
    keys = keys_of("transformer", model)
    found = block_names([*keys, ("te", "a.weight"), ("te2", "b.weight")], "flux")
    count = Counter(found.values())
    double = {f"D{i:02d}" for i in range(19)}
    single = {f"S{i:02d}" for i in range(38)}
    assert {*count} == double | single | {"CLIP", "T5", "IN", "OUT"}
    assert {count[block] for block in double} == {32} and {count[b] for b in single} == {14}
    assert found["te", "a.weight"] == "CLIP" and found["te2", "b.weight"] == "T5"
    assert found["transformer", "transformer_blocks.3.ff.net.2.weight"] == "D03"
    assert found["transformer", "single_transformer_blocks.7.proj_out.weight"] == "S07"
    outside = {name: block for (_, name), block in found.items() if block in {"IN", "OUT"}}
    assert {name.split(".")[0] for name, block in outside.items() if block == "OUT"} == {
        "norm_out", "proj_out"
    }  # fmt: skip
    assert {name.split(".")[0] for name, block in outside.items() if block == "IN"} == {
        "x_embedder", "context_embedder", "time_text_embed"
    }  # fmt: skip
    # Black Forest Labs' names, as its LoRAs spell them, number the same blocks.
    modules = list(dict.fromkeys(name.rpartition(".")[0] for _, name in keys))
    for theirs, pieces, _ in flux.bfl_names(modules):
        kind, number = (*theirs.split("."), "")[:2]
        blocks = {b for (_, n), b in found.items() if n.rpartition(".")[0] in pieces}
        if kind in {"double_blocks", "single_blocks"}:
            assert blocks == {f"{kind[0].upper()}{int(number):02d}"}
        else:
            assert blocks == {"OUT" if kind == "final_layer" else "IN"}
    for count_given in COUNTS["flux"]:
        assert {*parse(ones(count_given), "flux").of_weights(found).values()} == {Decimal(1)}


@pytest.mark.parametrize(("layers", "count"), [(24, 25), (38, 39)])
def test_sd3_blocks(layers: int, count: int) -> None:
    model = transformer_on_meta("sd3", num_layers=layers, num_attention_heads=2,
                                attention_head_dim=8, caption_projection_dim=16)  # fmt: skip
    found = block_names([*keys_of("transformer", model), ("te3", "c.weight")], "sd3")
    assert {*found.values()} == {"BASE", *(f"J{i:02d}" for i in range(layers))}
    assert found["te3", "c.weight"] == "BASE"
    base = {name.split(".")[0] for (_, name), block in found.items() if block == "BASE"}
    assert base == {
        "c", "pos_embed", "context_embedder", "time_text_embed", "norm_out", "proj_out"
    }  # fmt: skip
    assert {*parse(ones(count), "sd3").of_weights(found).values()} == {Decimal(1)}
    other = 64 - count
    with pytest.raises(UserError, match=f"whose blocks are J00 to J{layers - 1}"):
        parse(ones(other), "sd3").of_weights(found)


# --- pictures -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_engine(model_folder: Path) -> Callable[[str], Any]:
    pytest.importorskip("diffusers")
    import torch

    from generation.renderers.diffusers.engine import Engine, find_model

    torch.set_num_threads(1)
    model = find_model(str(model_folder))

    def make(text: str) -> Any:
        weights = parse(text, model.family) if text else None
        return Engine(model, steps=2, guidance_scale=4.0, width=64, height=64, batch_size=1,
                      block_weights=weights)  # fmt: skip

    return make


def test_pictures_under_block_weights(open_engine: Callable[[str], Any]) -> None:
    """All ones are no block weights, all zeros the control, both bit for bit; IN is only IN."""
    import numpy as np
    import torch

    checkpoint = Checkpoint(LORA, LORA.stem, tensor_hash="a" * 64)
    strength = Decimal("0.8")

    def state(text: str) -> tuple[Any, Any, int]:
        engine = open_engine(text)
        engine.apply(checkpoint, strength)
        weights = {key: weight.clone() for key, weight in engine._weights.items()}
        return engine.render(CASES)[0], weights, engine.modules_merged

    plain_engine = open_engine("")
    plain_engine.apply(None, Decimal(0))
    base = {key: weight.clone() for key, weight in plain_engine._weights.items()}
    control = plain_engine.render(CASES)[0]
    plain_engine.apply(checkpoint, strength)
    full = {key: weight.clone() for key, weight in plain_engine._weights.items()}
    plain = plain_engine.render(CASES)[0]
    assert not np.array_equal(plain, control)

    picture, weights, merged = state("BASE=1,IN=1,M=1,OUT=1")
    assert merged == plain_engine.modules_merged and np.array_equal(picture, plain)
    picture, weights, merged = state("NONE")
    assert merged == 0 and np.array_equal(picture, control)

    blocks = block_names(base, "sd1")
    picture, weights, _ = state("ALL=0,IN=1")
    changed = {key for key in base if not torch.equal(weights[key], base[key])}
    of_lora = {key for key in base if not torch.equal(full[key], base[key])}
    assert changed == {key for key in of_lora if blocks[key].startswith("IN")}
    assert {blocks[key] for key in changed} == {"IN01", "IN03"}  # those with attention here
    assert all(torch.equal(weights[key], full[key]) for key in changed)
    assert not np.array_equal(picture, plain) and not np.array_equal(picture, control)

    # Half the weight in one block is half the strength there; the text encoder follows BASE.
    _, weights, _ = state("OUT02=0.5,BASE=0")
    plain_engine.apply(checkpoint, strength / 2)
    half = plain_engine._weights
    for key in base:
        wanted = {"OUT02": half, "BASE": base}.get(blocks[key], full)[key]
        assert torch.equal(weights[key], wanted), key
    assert any(key[0] == "te" and not torch.equal(full[key], base[key]) for key in base)


def test_weights_that_do_not_fit_the_loaded_model_are_refused(
    open_engine: Callable[[str], Any],
) -> None:
    """The embedded model has fewer blocks than the family that lists are written for."""
    with pytest.raises(UserError, match="IN09 does not fit this model, whose blocks are IN00 to"):
        open_engine("IN09=0")
    with pytest.raises(UserError, match="its list does not fit"):
        open_engine(ones(26))


def test_the_content_key_knows_block_weights_of_the_lora_only() -> None:
    settings = RenderSettings("m", "0" * 64, 64, 64, 2, 4.0, "euler")
    weighted = replace(settings, block_weights=parse("IN=0", "sd1").text)
    other = replace(settings, block_weights=parse("IN=0.5", "sd1").text)
    cell = Cell(CASES[0], Checkpoint(LORA, LORA.stem, tensor_hash="a" * 64), Decimal(1))
    control = Cell(CASES[0])
    assert len({content_key(cell, s) for s in (settings, weighted, other)}) == 3
    assert len({content_key(control, s) for s in (settings, weighted, other)}) == 1


def test_a_plan_carries_block_weights_to_the_engine(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from rendering import planned

    from generation.prompts import PromptLine

    plan = planned(
        "strength", loras=[LORA], model="demo", out=tmp_path, strengths=[Decimal(1)], seeds=[1],
        prompts=[PromptLine("pstr style")], width=64, height=64, device="cpu", batch_size=1,
        block_weights=" all=0, in01 = .50 ",
    )  # fmt: skip
    assert plan.settings.block_weights == "ALL=0,IN01=0.5"
    engine = plan.renderer.engine
    engine.apply(plan.checkpoints[0], Decimal(1))
    assert 0 < engine.modules_merged < 92
    assert set(FAMILIES) == set(COUNTS)
