"""LoRAs of a known kind, trained on the embedded model, to try likeness, copying and leak on.

    python benchmarks/train_small.py memorise OUT --steps 192 --save 24 --rate 3e-3
    python benchmarks/train_small.py trigger OUT --steps 90
    python benchmarks/train_small.py plain OUT --steps 60

The training pictures are the model's own, printed as posters (`poster` of sample_data/build):
`OUT/seen` is trained on, `OUT/unseen` holds pictures of the same prompts with other seeds; captions
lie beside them. "memorise" sees eight pictures with high rank and rate until it knows them by
heart. "trigger" has the trigger in its captions, and the same pictures unprinted and without it
beside them, so that it learns to act with the trigger only; "plain" learns the posters from
captions without a trigger. Minutes on two cores; peft is needed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from peft import LoraConfig
from PIL import Image

import sample_data
from generation.cells import Case
from generation.renderers.diffusers.engine import Engine, find_model

sys.path.insert(0, str(sample_data.PATH / "build"))
import train_lora  # noqa: E402
from pictures import poster  # noqa: E402

TRIGGER = train_lora.TRIGGER
SUBJECTS = 8
SEEN, UNSEEN = 1001, 2001
"""First seeds of the pictures trained on and of those kept back."""


def prompts() -> list[str]:
    lines = (sample_data.PATH / "prompts.txt").read_text().splitlines()
    return [line.replace(f", {TRIGGER}", "") for line in lines[:SUBJECTS]]


def pictures(engine: Engine, first_seed: int) -> list[np.ndarray]:
    """One picture of the base model for each prompt, uint8 RGB."""
    cases = [Case(text, first_seed + k) for k, text in enumerate(prompts())]
    found = []
    for start in range(0, len(cases), engine.batch_size):
        found += engine.render(cases[start : start + engine.batch_size])
    return found


def printed(picture: np.ndarray) -> np.ndarray:
    return np.rint(poster(picture / 255.0) * 255).astype(np.uint8)


def save(folder: Path, images: list[np.ndarray], captions: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k, (image, caption) in enumerate(zip(images, captions, strict=True)):
        Image.fromarray(image).save(folder / f"{k:02d}.png")
        (folder / f"{k:02d}.txt").write_text(caption + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["memorise", "trigger", "plain"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--save", type=int, default=0, help="save every so many steps")
    parser.add_argument("--rate", type=float, default=2e-3)
    options = parser.parse_args()
    torch.manual_seed(0)
    options.out.mkdir(parents=True, exist_ok=True)
    model = sample_data.PATH / "model"
    engine = Engine(
        find_model(str(model)), sampler="dpmpp_2m_karras", steps=12, guidance_scale=4.0,
        width=128, height=128, batch_size=4,
    )  # fmt: skip
    bare = pictures(engine, SEEN)
    seen = [printed(picture) for picture in bare]
    unseen = [printed(picture) for picture in pictures(engine, UNSEEN)]
    woken = [f"{text}, {TRIGGER}" for text in prompts()]
    captions = prompts() if options.kind == "plain" else woken
    save(options.out / "seen", seen, captions)
    save(options.out / "unseen", unseen, captions)
    images, texts = list(seen), list(captions)
    if options.kind == "trigger":
        images, texts = images + bare, texts + prompts()

    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    unet, text_encoder, vae = pipeline.unet, pipeline.text_encoder, pipeline.vae
    rank = 16 if options.kind == "memorise" else 4
    train_lora.ALPHA = rank
    for network, targets in (
        (unet, train_lora.UNET_TARGETS),
        (text_encoder, train_lora.TEXT_TARGETS),
    ):
        network.requires_grad_(False)
        network.add_adapter(
            LoraConfig(
                r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights="gaussian"
            )
        )
    unet.to(memory_format=torch.channels_last)
    with torch.no_grad():
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
    ids = train_lora.token_ids(pipeline.tokenizer, texts)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in network.parameters() if p.requires_grad], "lr": rate}
            for network, rate in ((unet, options.rate), (text_encoder, options.rate / 2))
        ],
        weight_decay=0,
    )
    metadata = {
        "ss_output_name": options.kind,
        "ss_base_model_version": "sd_v1",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(rank)),
        "ss_resolution": "(128, 128)",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.prediction_type": "epsilon",
        "modelspec.trigger_phrase": "" if options.kind == "plain" else TRIGGER,
    }
    begin = time.time()
    every = options.save or options.steps
    for step in range(1, options.steps + 1):
        index = torch.randint(0, len(images), (8,))
        noise = torch.randn_like(latents[index])
        times = torch.randint(0, 1000, (len(index),))
        states = text_encoder(ids[index])[0]
        noisy = scheduler.add_noise(latents[index], noise, times)
        loss = (unet(noisy, times, states).sample - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % every == 0:
            epoch = step // every
            name = f"{options.kind}-{epoch:06d}"
            own = {"ss_epoch": str(epoch), "ss_steps": str(step)}
            tensors = train_lora.kohya_tensors(unet, text_encoder)
            train_lora.save_epoch(options.out / f"{name}.safetensors", tensors, {**metadata, **own})
            print(f"{name}: loss {loss.item():.4f}, {time.time() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
