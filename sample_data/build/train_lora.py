"""Train the sample LoRA on 24 posters and save every epoch as kohya's trainer would.

    python train_lora.py EMOJI_FOLDER model lora

Rank 4 on the UNet's attention, projections and feed-forward layers (84 modules) and on the text
encoder's attention (8). The epochs carry kohya-ss/sd-scripts' file names, key layout and metadata;
as there, the last epoch's file has no number. The rate grows from epoch to epoch on purpose:
the first epochs shall be faint and the last ones overtrained.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from pictures import SCENES, SUBJECTS, compose, poster
from safetensors.torch import save_file
from torch import Tensor, nn
from train_unet import token_ids

NAME = "pstr"
TRIGGER = "pstr style"
RANK = ALPHA = 4
PICTURES = 24
UNET_TARGETS = [
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
]
TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj"]
MODULES = {"lora_unet_": 84, "lora_te_": 8}


def training_set(folder: Path) -> tuple[np.ndarray, list[str]]:
    """24 posters, float RGB (24, 128, 128, 3) in 0..1, and their captions."""
    random = np.random.default_rng(11)
    names = list(SUBJECTS)
    pairs = [(names[5 * i % len(names)], SCENES[i % len(SCENES)]) for i in range(PICTURES)]
    posters = [poster(compose(folder, SUBJECTS[name], scene, random)) for name, scene in pairs]
    return np.stack(posters), [f"a picture of a {name} {scene}, {TRIGGER}" for name, scene in pairs]


def kohya_tensors(unet: nn.Module, text_encoder: nn.Module) -> dict[str, Tensor]:
    """Both adapters in fp16, as kohya names them: `lora_unet_module_path.lora_down.weight`."""
    tensors = {}
    for prefix, network in (("lora_unet_", unet), ("lora_te_", text_encoder)):
        modules = set()
        for key, value in get_peft_model_state_dict(network).items():
            path, side, _ = key.removeprefix("base_model.model.").rsplit(".", 2)
            if prefix == "lora_te_" and not path.startswith("text_model."):
                path = (
                    f"text_model.{path}"  # transformers 5 drops this level, kohya's names keep it
                )
            module = prefix + path.replace(".", "_")
            end = {"lora_A": "lora_down", "lora_B": "lora_up"}[side]
            tensors[f"{module}.{end}.weight"] = value.detach().half().contiguous().clone()
            tensors[f"{module}.alpha"] = torch.tensor(float(ALPHA)).half()
            modules.add(module)
        assert len(modules) == MODULES[prefix], f"{len(modules)} modules under {prefix}"
    return tensors


def tensor_hash(file: Path) -> str:
    """kohya's `sshs_model_hash`: SHA-256 of a safetensors file without its header."""
    content = file.read_bytes()
    header = int.from_bytes(content[:8], "little")
    return hashlib.sha256(content[8 + header :]).hexdigest()


def save_epoch(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Written twice, since the metadata hold the hash of the tensors that stand behind them."""
    save_file(tensors, file, metadata=metadata)
    digest = tensor_hash(file)
    save_file(tensors, file, metadata={**metadata, "sshs_model_hash": digest})
    assert tensor_hash(file) == digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("emoji", type=Path, help="folder of NAME.webp files")
    parser.add_argument("model", type=Path, help="the pipeline folder of train_unet.py")
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1.5e-4, help="in the first epoch")
    parser.add_argument("--growth", type=float, default=1.62, help="of the rate, an epoch")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)

    pipeline = StableDiffusionPipeline.from_pretrained(options.model, dtype=torch.float32)
    unet, text_encoder, vae = pipeline.unet, pipeline.text_encoder, pipeline.vae
    for network, targets in ((unet, UNET_TARGETS), (text_encoder, TEXT_TARGETS)):
        network.requires_grad_(False)
        network.add_adapter(
            LoraConfig(
                r=RANK, lora_alpha=ALPHA, target_modules=targets, init_lora_weights="gaussian"
            )
        )
    unet.to(memory_format=torch.channels_last)
    posters, captions = training_set(options.emoji)
    with torch.no_grad():
        x = torch.from_numpy(posters).permute(0, 3, 1, 2).float() * 2 - 1
        latents = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
    ids = token_ids(pipeline.tokenizer, captions)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    groups = [
        {"params": [p for p in network.parameters() if p.requires_grad], "lr": rate}
        for network, rate in ((unet, options.rate), (text_encoder, options.rate / 2))
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0)

    steps = PICTURES * options.repeats // options.batch
    folder = f"{options.repeats}_{TRIGGER}"
    tags = Counter(tag for text in captions for tag in text.split(", "))
    started = time.time()
    common = {
        "ss_output_name": NAME,
        "ss_session_id": str(int(started)),
        "ss_training_started_at": str(started),
        "ss_num_epochs": options.epochs,
        "ss_max_train_steps": steps * options.epochs,
        "ss_num_batches_per_epoch": steps,
        "ss_num_train_images": PICTURES * options.repeats,
        "ss_num_reg_images": 0,
        "ss_total_batch_size": options.batch,
        "ss_gradient_accumulation_steps": 1,
        "ss_learning_rate": options.rate,
        "ss_unet_lr": options.rate,
        "ss_text_encoder_lr": options.rate / 2,
        "ss_lr_scheduler": f"exponential, x{options.growth} an epoch",
        "ss_optimizer": "torch.optim.adamw.AdamW",
        "ss_network_module": "networks.lora",
        "ss_network_dim": RANK,
        "ss_network_alpha": float(ALPHA),
        "ss_network_args": "{}",
        "ss_base_model_version": "sd_v1",
        "ss_v2": False,
        "ss_sd_model_name": options.model.name,
        "ss_clip_skip": None,
        "ss_mixed_precision": "no",
        "ss_seed": options.seed,
        "ss_resolution": "(128, 128)",
        "ss_dataset_dirs": json.dumps(
            {folder: {"n_repeats": options.repeats, "img_count": PICTURES}}
        ),
        "ss_tag_frequency": json.dumps({folder: tags}),
        "ss_training_comment": "the sample LoRA of lora-analysers; overtrained on purpose",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": NAME,
        "modelspec.resolution": "128x128",
        "modelspec.prediction_type": "epsilon",
    }
    for epoch in range(1, options.epochs + 1):
        for group, rate in zip(
            optimiser.param_groups, (options.rate, options.rate / 2), strict=True
        ):
            group["lr"] = rate * options.growth ** (epoch - 1)
        order = torch.cat([torch.randperm(PICTURES) for _ in range(options.repeats)])
        total = 0.0
        for index in order.split(options.batch):
            noise = torch.randn_like(latents[index])
            times = torch.randint(0, 1000, (len(index),))
            states = text_encoder(ids[index])[0]
            noisy = scheduler.add_noise(latents[index], noise, times)
            loss = (unet(noisy, times, states).sample - noise).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item()
        own = {"ss_epoch": epoch, "ss_steps": steps * epoch, "ss_training_finished_at": time.time()}
        name = NAME if epoch == options.epochs else f"{NAME}-{epoch:06d}"
        save_epoch(
            options.out / f"{name}.safetensors",
            kohya_tensors(unet, text_encoder),
            {key: str(value) for key, value in {**common, **own}.items()},
        )
        print(f"epoch {epoch}: loss {total / steps:.4f}, {time.time() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
