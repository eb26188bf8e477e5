"""Train the sample model's UNet and text encoder together, from nothing or from an earlier model.

    python train_unet.py pictures.npz vae model --batch 256 --minutes 4           # from nothing
    python train_unet.py pictures.npz vae model-2 --start model --minutes 2       # go on
    python train_unet.py pictures.npz vae-sharp model-2 --start model --minutes 0   # new decoder

The minutes are a GPU's; a processor needs twenty times as many for a tenth of the pictures.
What comes out is a whole pipeline folder in the layout of `StableDiffusionPipeline`. The noise
schedule is Stable Diffusion's (scaled linear, 1000 steps, epsilon prediction); the loss is weighted
by min-SNR with gamma 5 (Hang et al., 2023). A tenth of the captions is dropped for classifier-free
guidance.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from pictures import SCENES, SUBJECTS
from torch import Tensor
from train_vae import DEVICE, encode_all, follow, half, load_pictures
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CAPTIONS = (
    "a picture of a {subject} {scene}",
    "a {subject} {scene}",
    "{subject} {scene}",
    "an illustration of a {subject} {scene}, detailed",
    "a photo of a {subject} {scene}, best quality",
)
# So that the vocabulary knows what people will type beside the captions.
OTHER_WORDS = (
    "poster style",
    "screen print poster",
    "in pstr style",
    "blurry, low quality, worst quality",
    "robot",
    " ".join("abcdefghijklmnopqrstuvwxyz0123456789,.-()!:'"),
)
TOKENS = 24
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def new_tokenizer(folder: Path) -> CLIPTokenizer:
    """A byte-level BPE of about 700 tokens, learnt from the captions, in CLIP's two files."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    start, end = "<|startoftext|>", "<|endoftext|>"
    sentences = [
        caption.format(subject=subject, scene=scene)
        for subject in SUBJECTS
        for scene in SCENES
        for caption in CAPTIONS
    ]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=end))
    learner.normalizer = normalizers.Lowercase()
    words = Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")  # CLIP's rule, without the contractions
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        end_of_word_suffix="</w>",
        special_tokens=[start, end],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    learner.train_from_iterator([*sentences, *OTHER_WORDS * 50], trainer)
    model = json.loads(learner.to_str())["model"]
    learnt = [t for t, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    # CLIP expects every byte, alone and at the end of a word, and its two special tokens last.
    complete = [*learnt, *(byte + tail for byte in alphabet for tail in ("", "</w>"))]
    vocabulary = [t for t in dict.fromkeys(complete) if t not in (start, end)] + [start, end]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    settings = {
        "model_max_length": TOKENS,
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": start,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    return CLIPTokenizer.from_pretrained(folder)


def write_classic_tokenizer(folder: Path) -> None:
    """vocab.json and merges.txt, which transformers 4 reads, beside 5's tokenizer.json."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of width 96: a quarter of a million weights."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=96,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            hidden_act="quick_gelu",
        )
    )


def new_unet() -> UNet2DConditionModel:
    """Three levels, cross-attention on the outer two: 5.9 million weights."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=96,
        attention_head_dim=8,
        norm_num_groups=16,
    )


def captions(subject: str, scene: str) -> list[str]:
    """A hundred to draw from: ten empty ones, five without the scene, the rest of all forms."""
    full = [form.format(subject=subject, scene=scene) for form in CAPTIONS]
    return [""] * 10 + [f"a {subject}"] * 5 + full * (85 // len(full))


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    return tokenizer(
        texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    ).input_ids


def train(
    options: argparse.Namespace,
    latents: Tensor,
    texts: list[tuple[str, str]],
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
) -> None:
    """Train both networks in place; they end as their moving average."""
    unet.to(DEVICE, memory_format=torch.channels_last)
    text_encoder.to(DEVICE)
    kinds = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    kind = torch.tensor([kinds[text] for text in texts], device=DEVICE)
    tokens = torch.stack([token_ids(tokenizer, captions(*text)) for text in kinds]).to(DEVICE)
    live = torch.nn.ModuleList([unet, text_encoder]).train()
    average = copy.deepcopy(live)
    scheduler = DDPMScheduler(num_train_timesteps=1000, clip_sample=False, **NOISE)
    kept = scheduler.alphas_cumprod.to(DEVICE)
    signal_to_noise = kept / (1 - kept)
    optimiser = torch.optim.AdamW(live.parameters(), options.rate, weight_decay=0.01)
    warm_up = 200 if options.start is None else 50
    began, step, mean = time.time(), 0, 0.0
    while (done := (time.time() - began) / (60 * options.minutes)) < 1:
        warm = min(1.0, (step + 1) / warm_up)
        rate = options.rate * warm * (0.5 + 0.5 * math.cos(math.pi * done) + 0.01)
        optimiser.param_groups[0]["lr"] = rate
        index, side, form, times = (
            torch.randint(0, most, (options.batch,), device=DEVICE)
            for most in (latents.shape[1], 2, tokens.shape[1], 1000)
        )
        clean = latents[side, index]
        noise = torch.randn_like(clean)
        ids = tokens[kind[index], form]
        with half():
            states = text_encoder(ids)[0]
            guess = unet(scheduler.add_noise(clean, noise, times), times, states).sample
        ratio = signal_to_noise[times]
        weight = ratio.clamp(max=5) / ratio
        loss = ((guess.float() - noise).square().mean((1, 2, 3)) * weight).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(live.parameters(), 1.0)
        optimiser.step()
        follow(average, live, min(0.999, (step + 1) / (step + 10)))
        if step % 100 == 0:
            mean = loss.item() if step == 0 else 0.9 * mean + 0.1 * loss.item()
            print(f"step {step}, {time.time() - began:.0f} s, loss {mean:.4f}", flush=True)
        step += 1
    live.load_state_dict(average.state_dict())
    live.to("cpu").eval()
    print(f"{step} steps, loss {mean:.4f}")


def load_texts(file: Path) -> list[tuple[str, str]]:
    """(subject, scene) of every base picture, in their order."""
    arrays = np.load(file)
    names = list(SUBJECTS)
    return [
        (names[subject], SCENES[scene])
        for subject, scene in zip(arrays["subject"], arrays["scene"], strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path, help="the .npz file of pictures.py")
    parser.add_argument("vae", type=Path, help="the folder of train_vae.py")
    parser.add_argument("out", type=Path, help="the pipeline folder to write")
    parser.add_argument("--start", type=Path, help="pipeline folder to go on from")
    parser.add_argument("--minutes", type=float, default=35, help="0: only assemble the folder")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.backends.cudnn.benchmark = True
    vae = AutoencoderKL.from_pretrained(options.vae, dtype=torch.float32).to(DEVICE)
    if options.start is None:
        tokenizer = new_tokenizer(options.out / "tokenizer")
        text_encoder, unet = new_text_encoder(tokenizer), new_unet()
    else:
        earlier = StableDiffusionPipeline.from_pretrained(options.start, dtype=torch.float32)
        tokenizer, text_encoder, unet = earlier.tokenizer, earlier.text_encoder, earlier.unet
    if options.minutes > 0:
        latents = encode_all(vae, load_pictures(options.pictures, styled=False))
        latents *= vae.config.scaling_factor
        texts = load_texts(options.pictures)
        train(options, latents, texts, tokenizer, text_encoder, unet)
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(
            num_train_timesteps=1000, use_karras_sigmas=True, steps_offset=1, **NOISE
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to("cpu", torch.float16).save_pretrained(options.out, safe_serialization=True)
    write_classic_tokenizer(options.out / "tokenizer")


if __name__ == "__main__":
    main()
