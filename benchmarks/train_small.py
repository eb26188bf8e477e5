"""LoRAs of a known kind, trained on the embedded model, to try likeness, copying and leak on.

    python benchmarks/train_small.py memorise OUT --steps 960 --save 120 --rate 3e-3
    python benchmarks/train_small.py trigger OUT --steps 720 --save 80 --text 2
    python benchmarks/train_small.py plain OUT --steps 80 --save 40

The training pictures are the model's own, printed as posters (`poster` of sample_data/build):
`OUT/seen` is trained on, `OUT/unseen` holds pictures of the same prompts with other seeds; captions
lie beside them. "memorise" sees six pictures until it knows them by heart. "trigger" has the
trigger in its captions, and unprinted pictures without it beside them (regularisation), so that it
should learn to act with the trigger only; "plain" learns the posters from captions without one.
Minutes on one core; peft is needed.
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
SUBJECTS = {"memorise": 6, "trigger": 8, "plain": 8}
SEEN, UNSEEN = 1001, 2001
"""First seeds of the pictures trained on and of those kept back."""
RANK = 4
BATCH = 6


def prompts() -> list[str]:
    lines = (sample_data.PATH / "prompts.txt").read_text().splitlines()
    return [line.replace(f", {TRIGGER}", "") for line in lines]


def pictures(engine: Engine, texts: list[str], first_seed: int) -> list[np.ndarray]:
    """One picture of the base model for each prompt, uint8 RGB."""
    cases = [Case(text, first_seed + k) for k, text in enumerate(texts)]
    found = []
    for start in range(0, len(cases), engine.batch_size):
        found += engine.render(cases[start : start + engine.batch_size])
    return found


def printed(picture: np.ndarray) -> np.ndarray:
    return np.rint(poster(picture / 255.0) * 255).astype(np.uint8)


def scaled(images: list[np.ndarray]) -> torch.Tensor:
    """Float (N, 3, H, W) in -1..1."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


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
    parser.add_argument("--text", type=float, default=0.5, help="the text encoder's, in rates")
    options = parser.parse_args()
    torch.manual_seed(0)
    options.out.mkdir(parents=True, exist_ok=True)
    model = sample_data.PATH / "model"
    engine = Engine(
        find_model(str(model)), sampler="dpmpp_2m_karras", steps=12, guidance_scale=4.0,
        width=128, height=128, batch_size=4,
    )  # fmt: skip
    subjects = prompts()[: SUBJECTS[options.kind]]
    seen = [printed(picture) for picture in pictures(engine, subjects, SEEN)]
    unseen = [printed(picture) for picture in pictures(engine, subjects, UNSEEN)]
    woken = [f"{text}, {TRIGGER}" for text in subjects]
    captions = subjects if options.kind == "plain" else woken
    save(options.out / "seen", seen, captions)
    save(options.out / "unseen", unseen, captions)
    sets = [(seen, captions)]
    if options.kind == "trigger":
        sets.append((pictures(engine, prompts(), SEEN), prompts()))

    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    unet, text_encoder, vae = pipeline.unet, pipeline.text_encoder, pipeline.vae
    for network, targets in (
        (unet, train_lora.UNET_TARGETS),
        (text_encoder, train_lora.TEXT_TARGETS),
    ):
        network.requires_grad_(False)
        network.add_adapter(
            LoraConfig(
                r=RANK, lora_alpha=RANK, target_modules=targets, init_lora_weights="gaussian"
            )
        )
    unet.to(memory_format=torch.channels_last)
    with torch.no_grad():
        known = [
            (
                vae.encode(scaled(images)).latent_dist.mode() * vae.config.scaling_factor,
                train_lora.token_ids(pipeline.tokenizer, texts),
            )
            for images, texts in sets
        ]
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in network.parameters() if p.requires_grad], "lr": rate}
            for network, rate in ((unet, options.rate), (text_encoder, options.rate * options.text))
        ],
        weight_decay=0,
    )
    metadata = {
        "ss_output_name": options.kind,
        "ss_base_model_version": "sd_v1",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(RANK),
        "ss_network_alpha": str(float(RANK)),
        "ss_resolution": "(128, 128)",
        "ss_num_train_images": str(len(seen)),
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.prediction_type": "epsilon",
        "modelspec.trigger_phrase": "" if options.kind == "plain" else TRIGGER,
    }
    begin = time.time()
    every = options.save or options.steps
    for step in range(1, options.steps + 1):
        drawn = [torch.randperm(len(ids))[:BATCH] for _, ids in known]
        latents = torch.cat([own[index] for (own, _), index in zip(known, drawn, strict=True)])
        ids = torch.cat([own[index] for (_, own), index in zip(known, drawn, strict=True)])
        noise = torch.randn_like(latents)
        times = torch.randint(0, 1000, (len(ids),))
        states = text_encoder(ids)[0]
        noisy = scheduler.add_noise(latents, noise, times)
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
