"""The embedded model's knowledge in models that predict velocities, to try adherence on.

    python benchmarks/train_judges.py v OUT --steps 200 --batch 8
    python benchmarks/train_judges.py flow OUT --steps 120 --batch 8 --rate 1e-3

"v" is the embedded UNet that learns to tell v (Salimans, Ho 2022) on its own schedule; "flow" the
same UNet, which learns flow matching's velocity along flow matching's noise levels (Lipman et al.
2023, Liu et al. 2023). Both begin with the embedded weights, and learn from what the embedded model
tells of noisy pictures of its own: its noise, turned into the velocity at that noise level (so the
truth has little variance, and few pictures suffice).
OUT is a pipeline folder for `--model`. Minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

import sample_data
from generation.cells import Case
from generation.renderers.diffusers.engine import Engine, find_model

sys.path.insert(0, str(sample_data.PATH / "build"))
from pictures import SCENES, SUBJECTS  # noqa: E402

SAYS = {
    "v": {"prediction_type": "v_prediction"},
    "flow": {
        "prediction_type": "flow_prediction", "use_flow_sigmas": True, "use_karras_sigmas": False,
    },
}  # fmt: skip
"""What the schedulers of the two say."""

WITHOUT = 0.1
"""Share of pictures that are shown without their text."""


def engine(folder: Path, steps: int = 8) -> Engine:
    return Engine(
        find_model(str(folder)), steps=steps, guidance_scale=4.0, width=128, height=128,
        batch_size=8,
    )  # fmt: skip


def untrained(kind: str, model: Path, folder: Path) -> None:
    """The embedded model under another scheduler."""
    shutil.copytree(model, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | SAYS[kind], indent=2))


def shown(teacher: Engine, every: int) -> tuple[Tensor, list[str]]:
    """Latents of the model's own pictures (N x 4 x 16 x 16) of every so-manieth pair of subject and
    scene, and their texts."""
    pairs = [(name, scene) for name in SUBJECTS for scene in SCENES][::every]
    texts = [f"a picture of a {name} {scene}" for name, scene in pairs]
    cases = [Case(text, 5001 + k) for k, text in enumerate(texts)]
    parts = [teacher.denoise(cases[k : k + 8]).clone() for k in range(0, len(cases), 8)]
    return torch.cat(parts), texts


def embedded(known: Engine, texts: list[str]) -> list[dict[str, Tensor]]:
    return [{name: t.clone() for name, t in known.texts(text).items()} for text in texts]


def drawn(each: list[dict[str, Tensor]], index: list[int]) -> dict[str, Tensor]:
    return {
        name: torch.cat([each[k][name] for k in index])
        for name in each[0]
        if not name.startswith("negative_")
    }


class Teacher:
    """The embedded model's noise at a level of its own schedule."""

    def __init__(self, model: Path) -> None:
        self.engine = engine(model)
        self.kept = self.engine.pipe.scheduler.alphas_cumprod

    def told(self, clean: Tensor, noise: Tensor, times: Tensor, texts: dict[str, Tensor]) -> Tensor:
        """Of the clean picture and the noise, at (fractional) times, the noise that is told."""
        signal, spread = self.levels(times)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            predict = self.engine.traits.predict
            return predict(self.engine.pipe, signal * clean + spread * noise, times, texts).float()

    def levels(self, times: Tensor) -> tuple[Tensor, Tensor]:
        low = times.long().clamp(max=len(self.kept) - 2)
        kept = torch.lerp(self.kept[low], self.kept[low + 1], times - low)[:, None, None, None]
        return kept.sqrt(), (1 - kept).sqrt()

    def time_of(self, ratio: Tensor) -> Tensor:
        """The time at which noise stands to the picture in this ratio."""
        ratios = ((1 - self.kept) / self.kept).sqrt()
        high = torch.searchsorted(ratios, ratio).clamp(1, len(ratios) - 1)
        part = (ratio - ratios[high - 1]) / (ratios[high] - ratios[high - 1])
        return high - 1 + part.clamp(0, 1)


def lesson(
    kind: str, teacher: Teacher, clean: Tensor, texts: dict[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """(noisy picture, its time of 1000, the velocity that the teacher's noise stands for)."""
    noise = torch.randn_like(clean)
    if kind == "v":
        times = torch.randint(0, 1000, (len(clean),)).float()
        signal, spread = teacher.levels(times)
        noisy = signal * clean + spread * noise
        told = teacher.told(clean, noise, times, texts)
        return noisy, times, (told - spread * noisy) / signal
    share = torch.rand(len(clean))
    times = teacher.time_of(share / (1 - share))
    signal, spread = teacher.levels(times)
    told = teacher.told(clean, noise, times, texts)
    guess = (signal * clean + spread * noise - spread * told) / signal
    share = share[:, None, None, None]
    return (1 - share) * clean + share * noise, 1000 * share.flatten(), told - guess


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["v", "flow"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, default=sample_data.PATH / "model")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--every", type=int, default=2, help="of the 224 pairs to paint")
    options = parser.parse_args()
    torch.manual_seed(0)
    random.seed(0)
    begin = time.time()
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "model"
        untrained(options.kind, options.model, empty)
        student = engine(empty)
    teacher = Teacher(options.model)
    latents, texts = shown(teacher.engine, options.every)
    print(f"{len(texts)} pictures, {time.time() - begin:.0f} s", flush=True)
    theirs, ours = (embedded(one, [*texts, ""]) for one in (teacher.engine, student))
    denoiser = student.denoiser.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(denoiser.parameters(), options.rate, weight_decay=0.01)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)
    mean = 0.0
    for step in range(options.steps):
        index = torch.randint(0, len(texts), (options.batch,)).tolist()
        named = [len(texts) if random.random() < WITHOUT else k for k in index]
        noisy, times, truth = lesson(options.kind, teacher, latents[index], drawn(theirs, named))
        with torch.autocast("cpu", torch.bfloat16):
            told = student.traits.predict(student.pipe, noisy, times, drawn(ours, named))
        loss = (told.float() - truth).square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimiser.step()
        cosine.step()
        mean = loss.item() if step == 0 else 0.97 * mean + 0.03 * loss.item()
        if step % 50 == 49:
            print(f"step {step + 1}, {time.time() - begin:.0f} s, loss {mean:.4f}", flush=True)
    denoiser.eval()
    student.pipe.to(dtype=torch.float16).save_pretrained(options.out, safe_serialization=True)


if __name__ == "__main__":
    main()
