"""Render the sample pictures from the sample model, and measure the story that README.md tells.

    python make_pictures.py .. --pictures            # ../pictures/strengths and ../pictures/epochs
    python make_pictures.py .. --sweep sweep         # sweep.csv, and one sheet an epoch to look at

A picture is fixed by prompt, seed and settings; the control is the same without the LoRA.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

EPOCHS = range(1, 11)
MIDDLE_EPOCH = 6
SEEDS = (1, 2)
SAMPLE_STRENGTHS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5)
SWEEP_STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6)


def lora_file(epoch: int) -> str:
    return "pstr.safetensors" if epoch == max(EPOCHS) else f"pstr-{epoch:06d}.safetensors"


class Painter:
    """The sample pipeline with its settings; it changes the LoRA only when another is asked for."""

    def __init__(self, folder: Path, model: Path, lora: Path, steps: int | None) -> None:
        self.settings = json.loads((folder / "settings.json").read_text())
        self.prompts = (folder / "prompts.txt").read_text().splitlines()
        self.lora, self.loaded = lora, 0
        self.steps = steps or self.settings["steps"]
        self.pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)

    def use(self, epoch: int, strength: float) -> None:
        if self.loaded and epoch != self.loaded:
            self.pipeline.unload_lora_weights()
        if epoch and epoch != self.loaded:
            name = lora_file(epoch)
            self.pipeline.load_lora_weights(self.lora, weight_name=name, adapter_name="sample")
        if epoch:
            self.pipeline.set_adapters(["sample"], [strength])
        self.loaded = epoch

    def render(self, cases: list[tuple[str, int]]) -> list[np.ndarray]:
        """uint8 RGB pictures of (prompt, seed) cases; the noise depends on the seed alone."""
        images = self.pipeline(
            [prompt for prompt, _ in cases],
            width=self.settings["width"],
            height=self.settings["height"],
            num_inference_steps=self.steps,
            guidance_scale=self.settings["guidance_scale"],
            generator=[torch.Generator().manual_seed(seed) for _, seed in cases],
        ).images
        return [np.asarray(image) for image in images]


def sample_pictures(painter: Painter, out: Path) -> None:
    """One case along the strengths, another along the epochs, each picture beside its control."""
    for name, prompt, seed, settings in (
        ("strengths", painter.prompts[0], 1, [(MIDDLE_EPOCH, s) for s in SAMPLE_STRENGTHS]),
        ("epochs", painter.prompts[1], 1, [(epoch, 1.0) for epoch in EPOCHS]),
    ):
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        painter.use(0, 0.0)
        (control,) = painter.render([(prompt, seed)])
        for number, (epoch, strength) in enumerate(settings, start=1):
            painter.use(epoch, strength)
            (picture,) = painter.render([(prompt, seed)])
            stem = f"strength_{strength:.1f}" if name == "strengths" else f"epoch_{epoch:02d}"
            Image.fromarray(picture).save(folder / f"{stem}.png", optimize=True)
            Image.fromarray(control).save(folder / f"control_{number:02d}.png", optimize=True)


def sweep(painter: Painter, out: Path, epochs: list[int], strengths: list[float]) -> None:
    """Score epochs at strengths over all prompts and two seeds; write a table and sheets."""
    from analysers.metrics.brisque import brisque
    from analysers.metrics.ssim import ssim

    cases = [(prompt, seed) for prompt in painter.prompts for seed in SEEDS]
    painter.use(0, 0.0)
    controls = painter.render(cases)
    scores = [brisque(control) for control in controls]
    print(f"control: BRISQUE {np.mean(scores):.1f}", flush=True)
    rows = []
    for epoch in epochs:
        columns = [np.vstack(controls[:: len(SEEDS)])]
        for strength in strengths:
            painter.use(epoch, strength)
            pictures = painter.render(cases)
            columns.append(np.vstack(pictures[:: len(SEEDS)]))
            scored = [
                (ssim(picture, control), brisque(picture))
                for control, picture in zip(controls, pictures, strict=True)
            ]
            for case, (likeness, score) in zip(cases, scored, strict=True):
                rows.append((epoch, strength, *case, f"{likeness:.4f}", f"{score:.3f}"))
            likeness, score = np.mean(scored, axis=0)
            print(
                f"epoch {epoch:2d} strength {strength:.1f}: SSIM {likeness:.3f} BRISQUE {score:.1f}"
            )
        Image.fromarray(np.hstack(columns)).save(f"{out}_{epoch:02d}.png")
    with Path(f"{out}.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("epoch", "strength", "prompt", "seed", "ssim", "brisque"))
        table.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="sample_data: settings.json, prompts.txt")
    parser.add_argument("--model", type=Path, help="default: FOLDER/model")
    parser.add_argument("--lora", type=Path, help="default: FOLDER/lora")
    parser.add_argument("--steps", type=int, help="instead of the settings'")
    parser.add_argument("--pictures", action="store_true", help="write FOLDER/pictures")
    parser.add_argument("--sweep", type=Path, help="prefix of the table and the sheets")
    parser.add_argument("--epochs", type=int, nargs="*", default=list(EPOCHS))
    parser.add_argument("--strengths", type=float, nargs="*", default=list(SWEEP_STRENGTHS))
    options = parser.parse_args()
    folder = options.folder
    model, lora = options.model or folder / "model", options.lora or folder / "lora"
    painter = Painter(folder, model, lora, options.steps)
    if options.pictures:
        sample_pictures(painter, folder / "pictures")
    if options.sweep:
        sweep(painter, options.sweep, options.epochs, options.strengths)


if __name__ == "__main__":
    main()
