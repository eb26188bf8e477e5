"""Weight-space numbers against numpy's SVD of the full product."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from analysers import weights
from generation.cells import Checkpoint
from generation.loras.checkpoints import find_checkpoints

TOLERANCE = 1e-5
UNET = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
CONV = "lora_unet_mid_block_resnets_0_conv1"
TEXT = "lora_te_text_model_encoder_layers_3_mlp_fc1"
ALPHA = np.float32(3.0)


def lora(random, stem, out, inside, rank, kernel=()):
    f = {
        "lora_up.weight": random((out, rank, *[1] * len(kernel))),
        "lora_down.weight": random((rank, inside, *kernel)),
        "alpha": ALPHA,
    }
    up, down = (f[f"lora_{name}.weight"].astype(float) for name in ("up", "down"))
    dense = up.reshape(out, rank) @ down.reshape(rank, -1)
    return {f"{stem}.{k}": v for k, v in f.items()}, dense * 3.0 / rank


def tucker(random, stem, out, inside, rank):
    f = {
        "lora_up.weight": random((out, rank, 1, 1)),
        "lora_mid.weight": random((rank, rank, 3, 3)),
        "lora_down.weight": random((rank, inside, 1, 1)),
        "alpha": ALPHA,
    }
    up, mid, down = (f[k].astype(float) for k in list(f)[:3])
    dense = np.zeros((out, inside, 3, 3))
    for i in range(3):
        for j in range(3):
            dense[:, :, i, j] = up[:, :, 0, 0] @ mid[:, :, i, j] @ down[:, :, 0, 0]
    return {f"{stem}.{k}": v for k, v in f.items()}, dense.reshape(out, -1) * 3.0 / rank


def loha(random, stem, out, inside, rank):
    f = {
        "hada_w1_a": random((out, rank)),
        "hada_w1_b": random((rank, inside)),
        "hada_w2_a": random((out, rank)),
        "hada_w2_b": random((rank, inside)),
        "alpha": ALPHA,
    }
    a, b, c, d = (value.astype(float) for value in list(f.values())[:4])
    return {f"{stem}.{k}": v for k, v in f.items()}, (a @ b) * (c @ d) * 3.0 / rank


def lokr(random, stem, w1, w2, rank=None, kernel=()):
    f = {"lokr_w1": random(w1), "alpha": ALPHA}
    first, scale = f["lokr_w1"].astype(float), 1.0
    if rank is None:
        f["lokr_w2"] = random((*w2, *kernel))
        second = f["lokr_w2"].astype(float).reshape(w2[0], -1)
    else:
        f["lokr_w2_a"], f["lokr_w2_b"] = random((w2[0], rank)), random((rank, w2[1]))
        second, scale = f["lokr_w2_a"].astype(float) @ f["lokr_w2_b"].astype(float), 3.0 / rank
    return {f"{stem}.{k}": v for k, v in f.items()}, scale * np.kron(first, second)


KINDS = {
    "lora": lambda r: lora(r, UNET, 30, 20, 4),
    "lora of full rank": lambda r: lora(r, UNET, 6, 5, 8),
    "locon": lambda r: lora(r, CONV, 12, 10, 3, (3, 3)),
    "tucker": lambda r: tucker(r, CONV, 12, 10, 3),
    "loha, small factors": lambda r: loha(r, UNET, 40, 30, 3),
    "loha, large factors": lambda r: loha(r, UNET, 12, 10, 4),
    "lokr, full": lambda r: lokr(r, UNET, (4, 3), (6, 5)),
    "lokr, full, convolution": lambda r: lokr(r, CONV, (4, 3), (6, 5), kernel=(3, 3)),
    "lokr, decomposed": lambda r: lokr(r, UNET, (4, 3), (16, 15), rank=2),
}


def normal(seed):
    generator = np.random.default_rng(seed)
    return lambda shape: generator.standard_normal(shape).astype(np.float32)


def save(path: Path, *parts) -> Checkpoint:
    tensors = {key: np.asarray(v) for part, _ in parts for key, v in part.items()}
    save_file(tensors, str(path))
    return Checkpoint(path, path.stem)


def relative(one, other):
    return abs(one - other) / abs(other)


@pytest.mark.parametrize("kind", list(KINDS))
def test_each_kind_agrees_with_the_svd_of_the_full_product(tmp_path, kind):
    part, dense = KINDS[kind](normal(1))
    report = weights.weight_report([save(tmp_path / "a.safetensors", (part, dense))])
    (module,) = report.checkpoints[0].modules
    values = np.linalg.svd(dense, compute_uv=False)
    p = values / values.sum()
    entropy = -(p[p > 1e-12] * np.log(p[p > 1e-12])).sum()
    worst = max(
        relative(module.frobenius, np.linalg.norm(dense)),
        relative(module.spectral, values[0]),
        relative(module.effective_rank, math.exp(entropy)),
        relative(report.checkpoints[0].frobenius, np.linalg.norm(dense)),
    )
    print(f"\n  {kind}: largest relative error {worst:.1e}", end="")
    assert worst < TOLERANCE


@pytest.mark.parametrize("kind", list(KINDS))
def test_growth_and_angles_agree_with_the_full_products(tmp_path, kind):
    made = [KINDS[kind](normal(seed)) for seed in (1, 2, 3)]
    dense = [item[1] for item in made]
    report = weights.weight_report(
        [save(tmp_path / f"{at}.safetensors", item) for at, item in enumerate(made)]
    )
    first, second, third = report.checkpoints

    def cosine(a, b):
        return float(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))

    norm = np.linalg.norm
    assert math.isnan(first.growth) and math.isnan(first.cosine) and math.isnan(first.turn)
    assert relative(first.moved, norm(dense[0])) < TOLERANCE
    assert relative(third.growth, norm(dense[2]) / norm(dense[1])) < TOLERANCE
    assert relative(third.moved, norm(dense[2] - dense[1])) < TOLERANCE
    assert abs(second.cosine - cosine(dense[1], dense[0])) < TOLERANCE
    assert abs(third.cosine - cosine(dense[2], dense[1])) < TOLERANCE
    assert abs(second.turn - cosine(dense[1] - dense[0], dense[0])) < TOLERANCE
    assert abs(third.turn - cosine(dense[2] - dense[1], dense[1] - dense[0])) < TOLERANCE


def test_shares_split_the_squared_norm(tmp_path):
    random = normal(4)
    parts = [
        lora(random, UNET, 9, 8, 2),
        lora(random, CONV, 6, 5, 2, (3, 3)),
        lora(random, TEXT, 7, 8, 2),
    ]
    (item,) = weights.weight_report([save(tmp_path / "a.safetensors", *parts)]).checkpoints
    squares = [float((dense**2).sum()) for _, dense in parts]
    assert relative(item.frobenius, math.sqrt(sum(squares))) < TOLERANCE
    assert abs(item.text_encoder_share - squares[2] / sum(squares)) < TOLERANCE
    assert list(item.blocks) == ["down 1", "mid"]
    assert abs(item.blocks["mid"] - squares[1] / (squares[0] + squares[1])) < TOLERANCE
    assert abs(sum(item.shares.values()) - 1) < TOLERANCE
    assert {module.stem: module.block for module in item.modules}[TEXT] == "layer 3"


def test_a_doubled_lora_doubles_and_does_not_turn(tmp_path):
    part, _ = lora(normal(5), UNET, 9, 8, 2)
    once = save(tmp_path / "1.safetensors", (part, None))
    up = f"{UNET}.lora_up.weight"
    twice = save(tmp_path / "2.safetensors", (part | {up: 2 * part[up]}, None))
    _, second = weights.weight_report([once, twice]).checkpoints
    assert second.growth == pytest.approx(2) and second.cosine == pytest.approx(1)
    assert second.turn == pytest.approx(1)


def test_an_untrained_lora_has_no_direction(tmp_path):
    part, _ = lora(normal(6), UNET, 9, 8, 2)
    part[f"{UNET}.lora_up.weight"] *= 0
    report = weights.weight_report(
        [save(tmp_path / f"{n}.safetensors", (part, None)) for n in "ab"]
    )
    item = report.checkpoints[1]
    assert item.frobenius == 0 and item.effective_rank == 0 and math.isnan(item.cosine)


def test_report_of_the_sample_lora_as_tables():
    folder = Path(__file__).parents[2] / "sample_data" / "lora"
    seen = []
    report = weights.weight_report(
        find_checkpoints([folder]).checkpoints[:3], progress=lambda done, total: seen.append(done)
    )
    frame = report.to_frame()
    assert list(frame["epoch"]) == [1, 2, 3] and frame["growth"][1:].gt(1).all()
    assert frame["block mid"].between(0, 1).all() and not report.magnitudes_left_out
    assert [len(row.modules) for row in report.checkpoints] == [92] * 3 and seen[-1] == 92
    for row in report.checkpoints:
        assert 1 <= row.effective_rank <= 4
        assert row.spectral <= row.frobenius


@pytest.mark.parametrize(
    ("part", "name", "block"),
    [
        ("unet", "input_blocks_4_1_transformer_blocks_0_attn1_to_q", "down 1"),
        ("unet", "input_blocks.0.0", "other"),
        ("unet", "output_blocks_8_0_in_layers_2", "up 2"),
        ("unet", "middle_block_1_proj_in", "mid"),
        ("unet", "up_blocks.3.resnets.0.conv1", "up 3"),
        ("unet", "conv_in", "other"),
        ("transformer", "single_transformer_blocks.11.proj_out", "single 11"),
        ("transformer", "double_blocks_7_img_attn_qkv", "double 7"),
        ("transformer", "transformer_blocks.7.attn.to_q", "double 7"),
        ("te3", "encoder_block_5_layer_0_SelfAttention_q", "layer 5"),
        ("transformer", "double_stream_blocks.3.block.attn1.to_q", "double 3"),
        ("unet", "single_stream_blocks_31_block_ff_i_experts_0_w1", "single 31"),
        ("transformer", "noise_refiner.1.attn.to_q", "noise refiner 1"),
        ("unet", "context_refiner_0_attention_qkv", "context refiner 0"),
    ],
)
def test_block_names(part, name, block):
    assert weights.block_of(part, name) == block


def test_left_out_magnitudes_are_told(tmp_path):
    from analysers.runs import evidence
    from analysers.study import Evidence
    from reports.html import _evidence

    part, _ = lora(normal(7), UNET, 9, 8, 2)
    dora = part | {f"{UNET}.dora_scale": normal(8)((1, 8))}
    for tensors, told in ((part, False), (dora, True)):
        files = [save(tmp_path / f"{told}{n}.safetensors", (tensors, None)) for n in "ab"]
        found = evidence.weights(files)
        assert len(found.rows) == 2 and bool(found.sentence) == told
        shown = _evidence(Evidence(weights=found))
        assert shown == ([("weights", evidence.MAGNITUDES, {})] if told else [])
