"""What a quantised base does to the answer and to the effect of a strength.

    python benchmarks/quantised.py --out /tmp/quantised

The embedded model's UNet is stored in fp8 and in ggml's types and read again, as a quantised
checkpoint is; everything else stays as it is. For each: how far the weights lie from the full ones,
the merged weights from W0 + dW, controls from controls in grey levels, and, by the effect as a
ruler (`analysers.translation`), which strength there does what a strength does on the full model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gguf  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from bitsandbytes import functional  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import sample_data  # noqa: E402
from analysers.runs.loop import run_study  # noqa: E402
from analysers.runs.plan import plan_study  # noqa: E402
from analysers.runs.request import StudyRequest  # noqa: E402
from analysers.study import Study  # noqa: E402
from analysers.translation import factor, translate  # noqa: E402
from generation.cells import Checkpoint  # noqa: E402
from generation.pictures.pixels import read_image  # noqa: E402
from generation.renderers.diffusers.engine import Engine, find_model  # noqa: E402

KINDS = ("full", "fp8", "scaled fp8", "Q8_0", "Q5_1", "Q4_0", "NF4", "FP4")
STRENGTHS = [Decimal(i) / 5 for i in range(1, 11)]
SHOWN = (0.4, 0.8, 1.2)
MOST = 1.4
LORA = sample_data.PATH / sample_data.DEMOS["strength"]["loras"]


def rounded(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """What a stored weight is read as; vectors, and rows that do not fit a block, stay whole."""
    if kind == "full" or weight.dim() < 2:
        return weight
    rows = weight.float().reshape(len(weight), -1)
    if "fp8" in kind:
        scale = rows.abs().max() / 448 if kind == "scaled fp8" else torch.ones(())
        return ((rows / scale).to(torch.float8_e4m3fn).float() * scale).reshape(weight.shape)
    if kind in {"NF4", "FP4"}:
        packed, state = functional.quantize_4bit(rows.flatten(), quant_type=kind.lower())
        return functional.dequantize_4bit(packed, state).reshape(weight.shape)
    of = gguf.GGMLQuantizationType[kind]
    if rows.shape[1] % gguf.GGML_QUANT_SIZES[of][0]:
        return weight
    numbers = gguf.dequantize(gguf.quantize(rows.numpy(), of), of)
    return torch.from_numpy(numbers).reshape(weight.shape)


def model(kind: str, out: Path) -> Path:
    """The embedded model with its UNet's weights rounded so."""
    folder = Path(shutil.copytree(sample_data.PATH / "model", out / kind.replace(" ", "-")))
    for path in (folder / "unet").glob("*.safetensors"):
        weights = {name: rounded(weight, kind) for name, weight in load_file(path).items()}
        save_file({name: weight.contiguous() for name, weight in weights.items()}, path)
    return folder


def study(folder: Path, out: Path) -> Study:
    request = StudyRequest.of(
        "strength", loras=[LORA], model=str(folder), out=out, seeds=(1,),
        strengths=STRENGTHS, prompts=sample_data.PATH / "prompts.txt",
        device="cpu", metrics="ssim",
        **json.loads((sample_data.PATH / "settings.json").read_text()),
    )  # fmt: skip
    return run_study(plan_study(request))


def weights(folder: Path) -> tuple[dict[str, torch.Tensor], float]:
    """The UNet's matrices, and the largest error of the merged ones against the sum in float64,
    relative to the largest change."""
    engine = Engine(find_model(str(folder)), width=64, height=64, batch_size=1)
    matrices = {n: w for n, w in engine.denoiser.named_parameters() if w.dim() > 1}
    base = {name: weight.detach().clone() for name, weight in matrices.items()}
    engine.apply(Checkpoint(LORA, "lora", tensor_hash="1"), Decimal(1))
    whole = engine._study[1]
    worst = peak = 0.0
    for name, weight in matrices.items():
        if ("unet", name) in whole:
            update = whole["unet", name].update(base[name].double())
            peak = max(peak, float(update.abs().max()))
            error = (weight.double() - base[name].double() - update).abs().max()
            worst = max(worst, float(error))
    engine.apply(None, Decimal(0))
    assert all(torch.equal(weight, base[name]) for name, weight in matrices.items())
    return base, worst / peak


def asked(told: Study) -> Study:
    """The study without its strongest settings, so that others have as strong ones to answer with,
    whichever prompts are drawn."""
    kept = [s for s in told.scores if s.candidate is None or (s.candidate.strength or 0) <= MOST]
    return replace(told, scores=tuple(kept))


def grey(one: tuple[Study, Path], other: tuple[Study, Path]) -> float:
    """Mean difference of the two runs' controls, in grey levels."""
    pictures = [
        [read_image(out / s.image).astype(int) for s in told.scores if s.candidate is None]
        for told, out in (one, other)
    ]
    return float(np.mean([np.abs(a - b).mean() for a, b in zip(*pictures, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    folders = {kind: model(kind, out / "models") for kind in KINDS}
    runs = {}
    for kind, folder in folders.items():
        runs[kind] = study(folder, out / folder.name), out / folder.name
    exact, _ = weights(folders["full"])
    full = asked(runs["full"][0])
    head = " | ".join(map(str, SHOWN))
    print(f"| base | weights apart | merged | controls apart | best | {head} | factor |")
    for kind in KINDS:
        found, error = weights(folders[kind])
        apart = max(float((found[n] - exact[n]).norm() / exact[n].norm()) for n in exact)
        told = {round(t.strength, 1): t.other for t in translate(full, runs[kind][0])}
        shown = [f"{told[s].mean:.2f} ({told[s].low:.2f}-{told[s].high:.2f})" for s in SHOWN]
        slope = factor(full, runs[kind][0])
        best = runs[kind][0].verdict.best
        print(
            f"| {kind} | {apart:.1e} | {error:.0e} | {grey(runs['full'], runs[kind]):.2f} | "
            f"{best.strength if best else '-'} | {' | '.join(shown)} | "
            f"{slope.mean:.3f} ({slope.low:.3f}-{slope.high:.3f}) |"
        )


if __name__ == "__main__":
    main()
